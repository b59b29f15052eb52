"""Every privacy signal, alone, beside others and against the default: what is not plainly allowed is refused."""

from collections.abc import Callable, Iterator
from datetime import date
from typing import Any, Literal, get_args

import pytest
from hypothesis import given
from hypothesis import strategies as st

from idsync.call import SyncCall, parse
from idsync.consent import DENIALS, Verdict, Word, signals, verdict
from idsync.consent.signals import Grant
from idsync.consent.tcf import MAX_LENGTH
from idsync.settings import Privacy
from tests.idsync.consent_strings import GPC_ON, NEW, OLD, PURPOSES, VENDOR, Tc, gpp, us, us_values

TC = Tc().text()
REFUSING_TC = Tc(vendors=(12,)).text()
CUT_OFF = "CPXxRfAPXxRfAAfKABENB"
US = us(7, us_values(7))
REFUSING_US = us(7, us_values(7, SaleOptOut=1))
Default = Literal["applies", "does-not-apply"]
WORDS = {*get_args(Grant), *DENIALS}


def privacy(gdpr_default: Default = "does-not-apply", vendor_id: int = VENDOR) -> Privacy:
    return Privacy(gdpr_default=gdpr_default, vendor_id=vendor_id, purposes=PURPOSES)


def with_gpp(sections: dict[int, str], sid: str, **others: Any) -> SyncCall:
    return SyncCall(gpp=gpp(sections), gpp_sid=sid, **others)


# Allowed whatever the default: they speak of the GDPR.
OF_THE_GDPR: list[tuple[SyncCall, str, Word]] = [
    (SyncCall(gdpr="0"), "", "not-applicable"),
    (SyncCall(gdpr="0", gdpr_consent=CUT_OFF), "", "not-applicable"),
    (SyncCall(gdpr="0", us_privacy="1YNN"), "0", "not-applicable"),
    (SyncCall(gdpr="1", gdpr_consent=TC), "", "granted"),
    (SyncCall(gdpr="1", gdpr_consent=TC, us_privacy="1---"), "", "granted"),
    (with_gpp({2: TC}, "2"), "", "granted"),
    (with_gpp({2: TC, 7: US}, "2,7"), "", "granted"),
    (with_gpp({2: TC, 7: REFUSING_US}, "2"), "", "granted"),
    (with_gpp({2: TC}, "2", gdpr="1", gdpr_consent=TC), "", "granted"),
    (with_gpp({7: US}, "7", gdpr="0"), "", "not-applicable"),
    (with_gpp({}, "-1", gdpr="1", gdpr_consent=TC), "", "granted"),
]
# Allowed where the GDPR does not apply by default.
OF_NO_GDPR: list[tuple[SyncCall, str, Word]] = [
    (SyncCall(), "", "no-signal"),
    (SyncCall(), "0", "no-signal"),
    (SyncCall(), " ", "no-signal"),
    (SyncCall(gdpr="", gdpr_consent="", gpp="", gpp_sid="", us_privacy=""), "", "no-signal"),
    (SyncCall(gdpr_consent=CUT_OFF), "", "no-signal"),
    (SyncCall(gdpr_consent=TC), "", "no-signal"),
    (SyncCall(us_privacy="1---"), "", "granted"),
    (SyncCall(us_privacy="1YNN"), "", "granted"),
    (SyncCall(us_privacy="1NN-"), "", "granted"),
    (with_gpp({7: US}, "7"), "", "granted"),
    (with_gpp({6: "1YNN"}, "6", us_privacy="1YNN"), "", "granted"),
    (with_gpp({7: US, 8: us(8, us_values(8))}, "8,7"), "", "granted"),
    (with_gpp({2: REFUSING_TC, 7: US}, "7"), "", "granted"),
    (with_gpp({7: REFUSING_US}, "-1"), "", "not-applicable"),
    (with_gpp({}, "-1"), "", "not-applicable"),
]
REFUSED: list[tuple[SyncCall, str, Word]] = [
    # Global Privacy Control
    (SyncCall(), "1", "gpc"),
    (SyncCall(), "1,1", "gpc"),
    (SyncCall(), "true", "gpc"),
    (SyncCall(gdpr="0"), "1", "gpc"),
    (with_gpp({2: TC}, "2", gdpr="1", gdpr_consent=TC, us_privacy="1YNN"), "1", "gpc"),
    # gdpr and gdpr_consent
    (SyncCall(gdpr="1"), "", "tcf"),
    (SyncCall(gdpr="1", gdpr_consent=""), "", "tcf"),
    (SyncCall(gdpr="1", gdpr_consent=REFUSING_TC), "", "tcf"),
    (SyncCall(gdpr="1", gdpr_consent=Tc(purposes=(1, 2)).text()), "", "tcf"),
    (SyncCall(gdpr="1", gdpr_consent=CUT_OFF), "", "unreadable"),
    (SyncCall(gdpr="1", gdpr_consent="CA"), "", "unreadable"),
    (SyncCall(gdpr="1", gdpr_consent=TC + "\n"), "", "unreadable"),
    (SyncCall(gdpr="1", gdpr_consent=TC + "=="), "", "unreadable"),
    (SyncCall(gdpr="2", gdpr_consent=TC), "", "unreadable"),
    (SyncCall(gdpr="00"), "", "unreadable"),
    (SyncCall(gdpr="01", gdpr_consent=TC), "", "unreadable"),
    (SyncCall(gdpr="false"), "", "unreadable"),
    (SyncCall(gdpr="\u0661", gdpr_consent=TC), "", "unreadable"),
    (SyncCall(gdpr=" 0"), "", "unreadable"),
    # gpp and gpp_sid
    (SyncCall(gpp=gpp({7: US})), "", "contradictory"),
    (SyncCall(gpp=gpp({7: US}), gpp_sid=""), "", "contradictory"),
    (SyncCall(gpp_sid="7"), "", "contradictory"),
    (SyncCall(gpp_sid="-1"), "", "contradictory"),
    (SyncCall(gpp="", gpp_sid="7"), "", "contradictory"),
    (with_gpp({7: US}, "8"), "", "unreadable"),
    (with_gpp({7: US}, "7,8"), "", "unreadable"),
    (with_gpp({7: US}, "0"), "", "unreadable"),
    (with_gpp({7: US}, "7,-1"), "", "unreadable"),
    (with_gpp({7: US}, "7,7"), "", "unreadable"),
    (with_gpp({7: US}, "7_8"), "", "unreadable"),
    (with_gpp({7: US}, "07"), "", "unreadable"),
    (with_gpp({7: US}, " 7"), "", "unreadable"),
    (with_gpp({7: US}, "7,"), "", "unreadable"),
    (with_gpp({7: US}, "\u0667"), "", "unreadable"),
    (with_gpp({7: REFUSING_US}, "7"), "", "gpp"),
    (with_gpp({7: us(7, us_values(7), after=GPC_ON)}, "7"), "", "gpp"),
    (with_gpp({7: us(7, us_values(7), after="")}, "7"), "", "unreadable"),
    (with_gpp({7: us(7, us_values(7), after="")}, "7", gdpr="0"), "", "unreadable"),
    (with_gpp({7: us(7, us_values(7), after="")}, "-1"), "", "unreadable"),
    (with_gpp({2: TC, 25: us(25, us_values(25), after="")}, "2"), "", "unreadable"),
    (with_gpp({2: REFUSING_TC}, "2"), "", "gpp"),
    (with_gpp({6: "1YYN"}, "6"), "", "gpp"),
    (with_gpp({5: CUT_OFF, 7: US}, "5"), "", "gpp"),
    (with_gpp({2: CUT_OFF}, "2"), "", "unreadable"),
    (SyncCall(gdpr="0", gpp="DBACNYA~CPXxRfAPXxRfAAfKABENB", gpp_sid="2"), "", "unreadable"),
    # us_privacy
    (SyncCall(gdpr="0", us_privacy="1YYN"), "", "us-privacy"),
    (SyncCall(us_privacy="1NY-"), "", "us-privacy"),
    (SyncCall(us_privacy="1YN"), "", "unreadable"),
    (SyncCall(us_privacy="2YNN"), "", "unreadable"),
    (SyncCall(us_privacy="1YNNN"), "", "unreadable"),
    (SyncCall(us_privacy="1ynn"), "", "unreadable"),
    (SyncCall(us_privacy="1YNN\n"), "", "unreadable"),
    # one says yes and another no, in any order
    (with_gpp({7: REFUSING_US}, "7", gdpr="1", gdpr_consent=TC), "", "gpp"),
    (with_gpp({7: US}, "7", gdpr="1", gdpr_consent=REFUSING_TC), "", "tcf"),
    (with_gpp({7: US}, "7", us_privacy="1YYN"), "", "us-privacy"),
    (with_gpp({2: TC}, "2", gdpr="1", gdpr_consent=REFUSING_TC), "", "tcf"),
    (with_gpp({2: REFUSING_TC}, "2", gdpr="1", gdpr_consent=TC), "", "gpp"),
    (with_gpp({2: TC}, "2", gdpr="1"), "", "tcf"),
    (with_gpp({2: TC}, "2", gdpr="0"), "", "contradictory"),
    (with_gpp({2: TC, 7: REFUSING_US}, "2,7"), "", "gpp"),
    (with_gpp({2: TC, 7: REFUSING_US}, "7,2"), "", "gpp"),
    (SyncCall(gdpr="1", gdpr_consent=TC, us_privacy="1YYN"), "", "us-privacy"),
]
MACROS = ["${GDPR}", "${GDPR_CONSENT_565}", "{{gdpr}}", "%%GDPR%%", "[GDPR_CONSENT]", "$%7BGDPR%7D", "__GDPR__"]
GRANTING: dict[str, Any] = {"gdpr": "1", "gdpr_consent": TC, "gpp": gpp({7: US}), "gpp_sid": "7", "us_privacy": "1YNN"}


@pytest.mark.parametrize(("call", "sec_gpc", "word"), [*OF_THE_GDPR, *OF_NO_GDPR])
def test_allowed_where_gdpr_does_not_apply_by_default(call: SyncCall, sec_gpc: str, word: Word) -> None:
    decided = verdict(call, sec_gpc, privacy())
    assert (decided.allowed, decided.word) == (True, word)


@pytest.mark.parametrize(("call", "sec_gpc", "word"), OF_THE_GDPR)
def test_what_speaks_of_the_gdpr_needs_no_default(call: SyncCall, sec_gpc: str, word: Word) -> None:
    decided = verdict(call, sec_gpc, privacy("applies"))
    assert (decided.allowed, decided.word) == (True, word)


@pytest.mark.parametrize(("call", "sec_gpc", "word"), OF_NO_GDPR)
def test_where_gdpr_applies_by_default_what_does_not_speak_of_it_is_refused(
    call: SyncCall, sec_gpc: str, word: Word
) -> None:
    decided = verdict(call, sec_gpc, privacy("applies"))
    assert (decided.allowed, decided.word) == (False, "default")


@pytest.mark.parametrize("gdpr_default", ["applies", "does-not-apply"])
@pytest.mark.parametrize(("call", "sec_gpc", "word"), REFUSED)
def test_refused(call: SyncCall, sec_gpc: str, word: Word, gdpr_default: Default) -> None:
    decided = verdict(call, sec_gpc, privacy(gdpr_default))
    assert (decided.allowed, decided.word) == (False, word)


@pytest.mark.parametrize("macro", MACROS)
@pytest.mark.parametrize("name", GRANTING)
def test_a_macro_that_nobody_expanded(name: str, macro: str) -> None:
    assert verdict(SyncCall(**GRANTING), "", privacy()).allowed
    for beside in (GRANTING, {"gdpr": "0", "gpp": GRANTING["gpp"], "gpp_sid": "7"}, {}):
        decided = verdict(SyncCall(**{**beside, name: macro}), "", privacy())
        assert not decided.allowed
        if beside:
            assert decided.word == "unreadable"


@pytest.mark.parametrize(
    "query",
    [
        "gdpr=0&gdpr=1",
        "gdpr=0&gdpr=0",
        "gdpr=0&gdpr=",
        "gdpr=&gdpr=",
        f"gdpr=1&gdpr_consent={TC}&gdpr_consent={REFUSING_TC}",
        f"gdpr=1&gdpr_consent={TC}&gdpr=1&gdpr_consent={TC}",
        f"gpp={gpp({7: US})}&gpp_sid=7&gpp={gpp({7: REFUSING_US})}",
        f"gpp={gpp({7: US})}&gpp_sid=7&gpp_sid=8",
        f"gpp={gpp({7: US})}&gpp_sid=7&gpp_sid=7",
        "us_privacy=1YNN&us_privacy=1YYN",
        "us_privacy=1YNN&us_privacy=1YNN",
    ],
)
@pytest.mark.parametrize("form", ["/sync?", "/ibs:", "/id?"])
def test_a_signal_that_stands_twice(form: str, query: str) -> None:
    call = parse(form + query)
    assert isinstance(call, SyncCall)
    decided = verdict(call, "", privacy())
    assert (decided.allowed, decided.word) == (False, "contradictory")


def test_two_sections_in_force_are_one_signal() -> None:
    call = parse(f"/sync?gpp={gpp({7: US, 8: us(8, us_values(8))})}&gpp_sid=7%2C8")
    assert isinstance(call, SyncCall)
    assert verdict(call, "", privacy()).word == "granted"


def test_the_vendor_and_the_purposes_of_the_settings_are_asked_for() -> None:
    call = SyncCall(gdpr="1", gdpr_consent=REFUSING_TC)
    assert not verdict(call, "", privacy()).allowed
    assert not verdict(call, "", privacy(vendor_id=12)).allowed  # the disclosed vendors
    call = SyncCall(gdpr="1", gdpr_consent=Tc(vendors=(12,), disclosed=(12,), purposes=(1,)).text())
    assert not verdict(call, "", privacy(vendor_id=12)).allowed
    assert verdict(call, "", Privacy(gdpr_default="applies", vendor_id=12, purposes=(1,))).allowed


@pytest.mark.parametrize("day", [OLD, NEW])
def test_both_ways_to_send_a_tc_string_read_it_alike(day: date) -> None:
    for tc in (Tc(created=day), Tc(created=day, disclosed=None), Tc(created=day, purposes=())):
        alone = verdict(SyncCall(gdpr="1", gdpr_consent=tc.text()), "", privacy())
        assert alone.allowed is verdict(with_gpp({2: tc.text()}, "2"), "", privacy()).allowed


VALUES = st.none() | st.sampled_from(
    ["", "0", "1", "-1", "2", "7", "2,7", TC, REFUSING_TC, US, "1YNN", "1YYN", gpp({2: TC, 7: US}), *MACROS]
)


@given(st.builds(SyncCall, gdpr=VALUES, gdpr_consent=VALUES, gpp=VALUES, gpp_sid=VALUES, us_privacy=VALUES))
def test_a_signal_more_never_turns_a_no_into_a_yes(call: SyncCall) -> None:
    """But `gdpr` with its string: without it the default stands for it, and without the string gdpr=1 is a no."""
    if not verdict(call, "", privacy()).allowed:
        return
    assert not verdict(call, "1", privacy()).allowed
    assert verdict(call._replace(gdpr=None), "", privacy()).allowed
    assert verdict(call._replace(us_privacy=None), "", privacy()).allowed
    assert verdict(call._replace(gpp=None, gpp_sid=None), "", privacy()).allowed
    assert verdict(call._replace(gdpr=None, gdpr_consent=None), "", privacy()).allowed


@given(
    st.builds(
        SyncCall, **dict.fromkeys(("gdpr", "gdpr_consent", "gpp", "gpp_sid", "us_privacy"), st.none() | st.text())
    )
)
def test_whatever_is_sent_the_reason_quotes_nothing_of_it(call: SyncCall) -> None:
    decided = verdict(call, "", privacy())
    assert decided.word in WORDS
    assert decided.reason in REASONS or all(
        value not in decided.reason for _, value in call.parameters() if len(value) > 2
    )
    assert len(decided.reason) < 100


REASONS = {verdict(call, sec_gpc, privacy()).reason for call, sec_gpc, _ in [*OF_THE_GDPR, *OF_NO_GDPR, *REFUSED]}


def test_every_word_is_told_for_some_call() -> None:
    told = {verdict(call, sec_gpc, privacy()).word for call, sec_gpc, _ in [*OF_THE_GDPR, *OF_NO_GDPR, *REFUSED]}
    assert told | {verdict(SyncCall(), "", privacy("applies")).word} == WORDS


# --- the cache -------------------------------------------------------------------------------------------------------

Cached = Callable[[], tuple[int, int]]


@pytest.fixture
def cached() -> Iterator[Cached]:
    """How many verdicts are in the caches, and how often one was found there."""
    caches = (signals._tcf_read, signals._gpp_read, signals._holds_macro)
    for cache in caches:
        cache.cache_clear()

    def count() -> tuple[int, int]:
        infos = [cache.cache_info() for cache in caches]
        return sum(info.currsize for info in infos), sum(info.hits for info in infos)

    yield count
    for cache in caches:
        cache.cache_clear()


@pytest.mark.parametrize(
    "call",
    [
        SyncCall(gdpr="1", gdpr_consent=TC),
        SyncCall(gdpr="1", gdpr_consent=CUT_OFF),
        SyncCall(gdpr="0", gdpr_consent=TC),
        with_gpp({7: US}, "7"),
        with_gpp({7: CUT_OFF}, "7"),
    ],
)
def test_each_string_is_read_once(cached: Cached, call: SyncCall) -> None:
    first = verdict(call, "", privacy())
    assert cached() == (1, 0)
    assert verdict(call, "", privacy()) == first
    assert cached() == (1, 1)


def test_the_verdict_on_a_string_is_kept_for_one_vendor_and_one_list_of_purposes(cached: Cached) -> None:
    call = SyncCall(gdpr="1", gdpr_consent=TC)
    assert verdict(call, "", privacy()).allowed
    assert not verdict(call, "", privacy(vendor_id=12)).allowed
    assert not verdict(call, "", Privacy(gdpr_default="applies", purposes=(1, 2))).allowed
    call = with_gpp({7: US, 8: us(8, us_values(8, SaleOptOut=1))}, "7")
    assert verdict(call, "", privacy()).allowed
    assert not verdict(call._replace(gpp_sid="8"), "", privacy()).allowed


TOO_LONG = "C" * (MAX_LENGTH + 1)


@pytest.mark.parametrize(
    "call",
    [
        *(SyncCall(gdpr=gdpr, gdpr_consent=TOO_LONG) for gdpr in ("0", "1", None)),
        SyncCall(gpp=TOO_LONG, gpp_sid="7"),
        SyncCall(gpp="DBAA", gpp_sid=TOO_LONG),
    ],
)
def test_what_is_too_long_is_refused_unread(cached: Cached, call: SyncCall) -> None:
    assert verdict(call, "", privacy()).word == "unreadable"
    assert cached() == (0, 0)


def test_the_caches_are_bounded() -> None:
    for cache in (signals._tcf_read, signals._gpp_read, signals._holds_macro):
        assert cache.cache_info().maxsize == 4096


def test_a_verdict_is_one_value() -> None:
    assert Verdict._fields == ("allowed", "word", "reason")
