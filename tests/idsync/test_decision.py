"""Every row of the table of replies: outcome, status, X-Error, shape, Location, cookie, and what the store is asked."""

import json
from dataclasses import dataclass
from typing import Any

import pytest

from idsync import decision, ids
from idsync.call import parse
from idsync.decision import Admitted, Decided
from idsync.outcomes import Outcome
from idsync.reply import PIXEL
from idsync.signals import Signals
from idsync.store.base import Check, Sync
from tests.idsync.samples import ENTROPY, NOW, OTHER_UUID, UUID, settings

FRESH = ids.uuid_from_bytes(ENTROPY)


def entropy(size: int) -> bytes:
    return ENTROPY[:size]


GOOD = "/ibs:dpid=12345&dpuuid=user-1"
REDIR = "&redir=https%3A%2F%2Fa.partner.example%2Fcb%3Fu%3D%24%7BDD_UUID%7D%26v%3D1"
EVIL = "&redir=https%3A%2F%2Fevil.example%2F%24%7BDD_UUID%7D"
COOKIE = Signals(cookie=f"__Host-idsync={OTHER_UUID}")


@dataclass(frozen=True)
class Seen:
    """One call, taken through both halves of the decision with a store that knows nobody."""

    outcome: Outcome
    status: int
    headers: dict[str, str]
    body: bytes
    syncs: tuple[Sync, ...]

    @property
    def sync(self) -> Sync | None:
        assert len(self.syncs) <= 1
        return self.syncs[0] if self.syncs else None

    @property
    def json(self) -> Any:
        assert self.headers["Content-Type"] == "application/json"
        return json.loads(self.body)

    @property
    def codes(self) -> list[int]:
        return [error["code"] for error in self.json["errors"]]


def take(target: str, signals: Signals = Signals(), **options: str) -> Seen:  # noqa: B008  an immutable tuple
    chosen = settings(**options)  # type: ignore[arg-type]  # names of settings
    decided = decision.admit(parse(target), signals, chosen, {}, now=NOW, entropy=entropy)
    syncs: tuple[Sync, ...] = ()
    if isinstance(decided, Admitted):
        work = decided.work()
        syncs = () if work is None or isinstance(work, Check) else work
        decided = decision.answer(decided, Outcome.STORED, decided.uuid or decided.fresh, chosen)
    assert isinstance(decided, Decided)
    outcome, reply = decided.outcome, decided.reply
    headers = dict(reply.headers)
    assert len(headers) == len(reply.headers)
    assert headers["Cache-Control"] == "no-store"
    assert headers["X-Content-Type-Options"] == "nosniff"
    assert headers["Referrer-Policy"] == "no-referrer"
    assert headers["Content-Length"] == str(len(reply.body))
    assert (reply.status == 302) is ("Location" in headers)
    return Seen(outcome, reply.status, headers, reply.body, syncs)


# --- stored ----------------------------------------------------------------------------------------------------------


def test_pixel() -> None:
    seen = take(GOOD)
    assert (seen.outcome, seen.status, seen.body) == (Outcome.STORED, 200, PIXEL)
    assert seen.headers["Content-Type"] == "image/gif"
    assert "X-Error" not in seen.headers
    assert seen.sync == Sync(12345, "user-1", None, FRESH, NOW)


def test_the_pixel_is_43_bytes_of_gif() -> None:
    assert len(PIXEL) == 43
    assert PIXEL.startswith(b"GIF89a\x01\0\x01\0")
    assert b"!\xf9\x04\x01" in PIXEL  # transparent
    assert PIXEL.endswith(b";")


def test_redirect() -> None:
    seen = take(GOOD + REDIR)
    assert (seen.outcome, seen.status, seen.body) == (Outcome.STORED, 302, b"")
    assert seen.headers["Location"] == f"https://a.partner.example/cb?u={FRESH}&v=1"
    assert "Content-Type" not in seen.headers


def test_json() -> None:
    seen = take(GOOD + "&d_rtbd=json")
    assert (seen.outcome, seen.status) == (Outcome.STORED, 200)
    assert seen.json == {"uuid": FRESH, "stored": 1, "errors": []}


def test_redirect_goes_before_json() -> None:
    assert take(GOOD + REDIR + "&d_rtbd=json").status == 302


def test_any_other_d_rtbd_is_a_pixel() -> None:
    assert take(GOOD + "&d_rtbd=JSON").body == PIXEL


# --- several IDs -----------------------------------------------------------------------------------------------------

SEVERAL = "/ibs:d_cid=12345%01a&d_cid_ic=acme%20sh%C3%B6p%01b%011&dpid=12345&dpuuid=c"


def test_several_ids_are_stored_under_one_uuid() -> None:
    seen = take(f"{SEVERAL}&d_rtbd=json", COOKIE)
    assert seen.syncs == tuple(
        Sync(dpid, name, OTHER_UUID, "", NOW) for dpid, name in ((12345, "c"), (12345, "a"), (777, "b"))
    )
    assert seen.json == {"uuid": OTHER_UUID, "stored": 3, "errors": []}


def test_a_bad_id_among_good_ones_costs_only_itself() -> None:
    for shape, status in (("", 200), ("&d_rtbd=json", 200), (REDIR, 302)):
        seen = take(f"{SEVERAL}&d_cid=999%01d&d_cid=12345%01secret%3A{shape}")
        assert (seen.outcome, seen.status, len(seen.syncs)) == (Outcome.STORED, status, 3)
        assert seen.headers["X-Error"] == "302,300"
        assert "Set-Cookie" in seen.headers
        if "json" in shape:
            assert (seen.json["uuid"], seen.json["stored"], seen.codes) == (FRESH, 3, [302, 300])
            assert b"secret" not in seen.body


def test_audience_manager_is_asked_with_the_good_ids() -> None:
    seen = take(f"{SEVERAL}&d_cid=999%01d", identity="audience-manager")
    assert seen.headers["Location"].startswith(
        "https://dpm.demdex.net/ibs:dpid=12345&dpuuid=c&d_cid=12345%01a&d_cid=777%01b&redir="
    )
    assert seen.headers["X-Error"] == "302"


# --- ECID ------------------------------------------------------------------------------------------------------------


def test_an_ecid_leads_to_the_device_and_is_no_uuid() -> None:
    seen = take(f"{GOOD}&d_mid={OTHER_UUID}&d_rtbd=json")
    assert seen.syncs == (
        Sync(12345, "user-1", None, FRESH, NOW),
        Sync(decision.MID_DPID, OTHER_UUID, None, FRESH, NOW),
    )
    assert seen.json == {"uuid": FRESH, "stored": 1, "errors": []}


@pytest.mark.parametrize("value", ["", "1", f"{UUID}0", "x" * 38])
def test_an_ecid_is_38_digits(value: str) -> None:
    seen = take(f"{GOOD}&d_mid={value}")
    assert (seen.outcome, seen.status, seen.headers["X-Error"]) == (Outcome.ECID_INVALID, 400, "101")


# --- the UUID as JSON ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("target", "signals", "uuid", "cookie"),
    [
        ("/id", Signals(), FRESH, True),
        ("/id?", COOKIE, OTHER_UUID, True),
        (f"/id?d_uuid={UUID}", COOKIE, UUID, False),
    ],
)
def test_id_tells_the_device(target: str, signals: Signals, uuid: str, cookie: bool) -> None:
    seen = take(target, signals)
    assert (seen.outcome, seen.status, seen.syncs) == (Outcome.UUID_TOLD, 200, ())
    assert seen.json == {"uuid": uuid, "stored": 0, "errors": []}
    assert ("Set-Cookie" in seen.headers) is cookie


def test_id_with_customer_ids_is_a_sync_call_answered_with_json() -> None:
    seen = take("/id?dpid=12345&dpuuid=user-1", COOKIE)
    assert seen.sync == Sync(12345, "user-1", OTHER_UUID, "", NOW)
    assert seen.json == {"uuid": OTHER_UUID, "stored": 1, "errors": []}


def test_id_with_bad_customer_ids_alone_is_refused() -> None:
    assert take("/id?dpid=999&dpuuid=user-1", COOKIE).status == 400


def test_id_never_asks_audience_manager() -> None:
    """It is asked by scripts and servers: they get the customer's UUID, or none."""
    seen = take("/id?dpid=12345&dpuuid=user-1", COOKIE, identity="audience-manager")
    assert seen.sync == Sync(12345, "user-1", None, "", NOW)
    assert seen.json == {"uuid": "", "stored": 0, "errors": []}
    assert "Set-Cookie" not in seen.headers
    seen = take(f"/id?d_uuid={UUID}", COOKIE, identity="audience-manager")
    assert (seen.status, seen.json["uuid"]) == (200, UUID)
    assert take("/id", COOKIE, identity="audience-manager").headers["X-Error"] == "104"


# --- JSONP -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("shape", ["", "&d_rtbd=json"])
@pytest.mark.parametrize("callback", ["f", "_f$1", "a.b.c", "$", "x" * 128])
def test_callback(callback: str, shape: str) -> None:
    seen = take(f"{GOOD}&d_cb={callback}{shape}")
    assert seen.headers["Content-Type"] == "text/javascript; charset=utf-8"
    start, end = f"/**/{callback}(", ");\n"
    body = seen.body.decode()
    assert body.startswith(start)
    assert body.endswith(end)
    assert json.loads(body.removeprefix(start).removesuffix(end)) == {"uuid": FRESH, "stored": 1, "errors": []}
    assert seen.headers["Cross-Origin-Resource-Policy"] == "cross-origin"


@pytest.mark.parametrize(
    "callback", ["", "1a", "a.", ".a", "a..b", "a%20b", "a(", "alert%281%29", "%C3%A9", "a-b", "a%0A", "x" * 129]
)
def test_callback_that_is_no_name(callback: str) -> None:
    seen = take(f"{GOOD}&d_cb={callback}&d_rtbd=json")
    assert (seen.outcome, seen.status, seen.syncs) == (Outcome.CALLBACK_INVALID, 400, ())
    assert seen.headers["Content-Type"] == "application/json"


# --- whose UUID ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("extra", "signals", "uuid", "cookie"),
    [
        ("", Signals(), None, FRESH),
        ("", COOKIE, OTHER_UUID, OTHER_UUID),
        ("", Signals(cookie=f"__Host-idsync={OTHER_UUID}; __Host-idsync={UUID}"), None, FRESH),
        ("", Signals(cookie="__Host-idsync=1"), None, FRESH),
        ("", Signals(cookie=f"idsync={OTHER_UUID}"), None, FRESH),
        (f"&d_uuid={UUID}", Signals(), UUID, None),
        (f"&d_uuid={UUID}", COOKIE, UUID, None),
    ],
)
def test_mint(extra: str, signals: Signals, uuid: str | None, cookie: str | None) -> None:
    """An explicit UUID wins over the cookie, and never becomes one: a page could plant it."""
    seen = take(GOOD + extra, signals)
    assert seen.sync == Sync(12345, "user-1", uuid, "" if uuid else FRESH, NOW)
    attributes = "Path=/; Max-Age=10368000; Secure; HttpOnly; SameSite=None"
    assert seen.headers.get("Set-Cookie") == (cookie and f"__Host-idsync={cookie}; {attributes}")


@pytest.mark.parametrize("signals", [Signals(), COOKIE])
def test_audience_manager_is_asked_for_the_uuid(signals: Signals) -> None:
    seen = take(GOOD + REDIR, signals, identity="audience-manager")
    assert (seen.outcome, seen.status, seen.sync) == (Outcome.UUID_ASKED, 302, None)
    assert seen.headers["Location"].startswith(
        "https://dpm.demdex.net/ibs:dpid=12345&dpuuid=user-1&redir=https%3A%2F%2F"
    )
    assert "Set-Cookie" not in seen.headers


@pytest.mark.parametrize("signals", [Signals(), COOKIE])
def test_audience_manager_gave_the_uuid(signals: Signals) -> None:
    seen = take(f"{GOOD}{REDIR}&d_uuid={UUID}&idsync_return=1", signals, identity="audience-manager")
    assert seen.sync == Sync(12345, "user-1", UUID, "", NOW)
    assert seen.headers["Location"] == f"https://a.partner.example/cb?u={UUID}&v=1"
    assert "Set-Cookie" not in seen.headers


@pytest.mark.parametrize("given", ["&idsync_return=1", "&d_uuid=&idsync_return=1", "&d_uuid=${DD_UUID}", "&d_uuid="])
def test_audience_manager_gave_none(given: str) -> None:
    """Asked once, never again: no loop."""
    seen = take(GOOD + REDIR + given, COOKIE, identity="audience-manager")
    assert (seen.outcome, seen.status, seen.sync) == (Outcome.UUID_INVALID, 400, None)
    assert seen.headers["X-Error"] == "102"


# --- refused ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("identity", ["mint", "audience-manager"])
@pytest.mark.parametrize("shape", ["", "&d_rtbd=json", REDIR])
@pytest.mark.parametrize(
    ("target", "outcome", "x_error"),
    [
        ("/ibs:", Outcome.NO_CUSTOMER_ID, "104"),
        ("/sync", Outcome.NO_CUSTOMER_ID, "104"),
        ("/ibs:unknown=1", Outcome.NO_CUSTOMER_ID, "104"),
        ("/ibs:dpid=12345", Outcome.CUSTOMER_ID_INVALID, "300"),
        ("/ibs:dpid=12345&dpuuid=", Outcome.CUSTOMER_ID_INVALID, "300"),
        ("/ibs:dpid=12345&dpuuid=%20%20", Outcome.CUSTOMER_ID_INVALID, "300"),
        ("/ibs:dpid=12345&dpuuid=secret:1", Outcome.CUSTOMER_ID_INVALID, "300"),
        ("/ibs:dpid=12345&dpuuid=secret%253A1", Outcome.CUSTOMER_ID_INVALID, "300"),
        ("/ibs:dpid=12345&dpuuid=secret%09", Outcome.CUSTOMER_ID_INVALID, "300"),
        ("/ibs:dpid=12345&dpuuid=secret%0A", Outcome.CUSTOMER_ID_INVALID, "300"),
        (f"/ibs:dpid=12345&dpuuid={'s' * 513}", Outcome.CUSTOMER_ID_INVALID, "300"),
        ("/ibs:dpid=999&dpuuid=secret", Outcome.DATA_SOURCE_UNKNOWN, "302"),
        ("/ibs:dpid=012345&dpuuid=secret", Outcome.DATA_SOURCE_UNKNOWN, "302"),
        ("/ibs:dpid=+12345&dpuuid=secret", Outcome.DATA_SOURCE_UNKNOWN, "302"),
        ("/ibs:dpid=12345%20&dpuuid=secret", Outcome.DATA_SOURCE_UNKNOWN, "302"),
        ("/ibs:dpid=%D9%A1&dpuuid=secret", Outcome.DATA_SOURCE_UNKNOWN, "302"),
        ("/ibs:dpid=crm&dpuuid=secret", Outcome.DATA_SOURCE_UNKNOWN, "302"),
        ("/ibs:dpid=&dpuuid=secret", Outcome.DATA_SOURCE_UNKNOWN, "302"),
        ("/ibs:dpuuid=secret", Outcome.DATA_SOURCE_UNKNOWN, "302"),
        ("/ibs:dpid=secret", Outcome.CUSTOMER_ID_INVALID, "300,302"),
        ("/ibs:dpid=12345&dpuuid=secret&d_uuid=1", Outcome.UUID_INVALID, "102"),
        (f"/ibs:dpid=12345&dpuuid=secret&d_uuid={UUID}0", Outcome.UUID_INVALID, "102"),
        ("/ibs:dpid=999&dpuuid=secret:1&d_uuid=x", Outcome.UUID_INVALID, "102,300,302"),
        ("/ibs:dpid=12345&dpuuid=secret%F", Outcome.WRONGLY_ENCODED, "311"),
        ("/ibs:dpid=12345&dpuuid=secret%FF", Outcome.WRONGLY_ENCODED, "311"),
        ("/ibs:dpid=12345&dpuuid=secret&dpuuid=other", Outcome.WRONGLY_ENCODED, "311"),
        ("/ibs:dpid=12345&dpuuid=secret?cb=1", Outcome.WRONGLY_ENCODED, "311"),
    ],
)
def test_refused(target: str, outcome: Outcome, x_error: str, shape: str, identity: str) -> None:
    separator = "" if target.endswith(":") else "?" if target == "/sync" else "&"
    seen = take(target + separator + shape.removeprefix("&"), COOKIE, identity=identity)
    assert (seen.outcome, seen.status, seen.sync) == (outcome, 400, None)
    assert seen.headers["X-Error"] == x_error
    assert seen.codes == [int(code) for code in x_error.split(",")]
    assert (seen.json["uuid"], seen.json["stored"]) == ("", 0)
    assert "Set-Cookie" not in seen.headers
    assert b"secret" not in seen.body


@pytest.mark.parametrize("identity", ["mint", "audience-manager"])
@pytest.mark.parametrize("redir", [EVIL, "&redir=", "&redir=/here", "&redir=http%3A%2F%2Fdpm.demdex.net%2F"])
@pytest.mark.parametrize("signals", [Signals(), Signals(sec_gpc="1")])
def test_redir_not_allowed(redir: str, signals: Signals, identity: str) -> None:
    """Nothing is stored, though the rest of the call is good. No X-Error: Audience Manager has no code for it."""
    seen = take(GOOD + redir, signals, identity=identity)
    assert (seen.outcome, seen.status, seen.sync) == (Outcome.REDIRECT_REFUSED, 400, None)
    assert "X-Error" not in seen.headers
    assert seen.codes == [0]


def test_all_faults_are_told_at_once() -> None:
    seen = take("/ibs:dpid=1&dpuuid=&d_uuid=1" + EVIL)
    assert seen.headers["X-Error"] == "102,300,302"
    assert seen.codes == [0, 102, 300, 302]


# --- consent ---------------------------------------------------------------------------------------------------------

DENIED = pytest.mark.parametrize(
    ("extra", "signals", "options"),
    [
        ("", Signals(cookie=f"__Host-idsync={UUID}", sec_gpc="1"), {}),
        ("&gdpr=1&gdpr_consent=CPXxRfAPXxRfAAfKABENB", COOKIE, {}),
        (f"&gdpr=1&d_uuid={UUID}", COOKIE, {}),
        ("&us_privacy=1YYN", COOKIE, {}),
        ("&gpp=DBAA", COOKIE, {}),
        ("", COOKIE, {"gdpr_default": "applies"}),
        ("&gdpr=1", COOKIE, {"identity": "audience-manager"}),
        ("&gdpr=0&gdpr=0", COOKIE, {}),
        ("&us_privacy=1YNN&us_privacy=1YYN", COOKIE, {}),
    ],
)


@DENIED
def test_consent_denied(extra: str, signals: Signals, options: dict[str, str]) -> None:
    """Answered as asked, with nothing stored, no UUID told, no cookie, and Audience Manager not asked."""
    for shape, status in (("", 200), ("&d_rtbd=json", 200), (REDIR, 302)):
        seen = take(GOOD + extra + shape, signals, **options)
        assert (seen.outcome, seen.status, seen.sync) == (Outcome.CONSENT_DENIED, status, None)
        assert seen.headers["X-Error"] == "315"
        assert "Set-Cookie" not in seen.headers
        if shape == REDIR:
            assert seen.headers["Location"] == "https://a.partner.example/cb?u=&v=1"
        elif shape:
            assert (seen.json["uuid"], seen.json["stored"], seen.codes) == ("", 0, [315])
        else:
            assert seen.body == PIXEL


@DENIED
def test_consent_denied_leaves_every_macro_empty(extra: str, signals: Signals, options: dict[str, str]) -> None:
    redir = "https%3A%2F%2Fdpm.demdex.net%2F%3Fu%3D%24%7BDD_UUID%7D%26g%3D%24%7BGDPR%7D%26c%3D%24%7BGDPR_CONSENT_565%7D"
    seen = take(f"{GOOD}{extra}&redir={redir}", signals, **options)
    assert seen.headers["Location"] == "https://dpm.demdex.net/?u=&g=&c="


# --- store -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("outcome", [Outcome.STORE_UNAVAILABLE, Outcome.OVERLOADED, Outcome.FAILED])
@pytest.mark.parametrize("shape", ["", "&d_rtbd=json", "&redir=https%3A%2F%2Fdpm.demdex.net%2F"])
def test_not_kept(outcome: Outcome, shape: str) -> None:
    admitted = decision.admit(
        parse(f"/ibs:dpid=12345&dpuuid=a{shape}"), Signals(), settings(), {}, now=NOW, entropy=entropy
    )
    assert isinstance(admitted, Admitted)
    decided = decision.answer(admitted, outcome, "", settings())
    assert decided == decision.not_kept(outcome, 12345)
    reply = decided.reply
    headers = dict(reply.headers)
    assert (decided.outcome, reply.status) == (outcome, outcome.status)
    assert reply.status >= 500
    assert not {"Set-Cookie", "Location"} & set(headers)
    assert int(headers["Retry-After"]) > 0
    assert "X-Error" not in headers
    assert json.loads(reply.body)["stored"] == 0


def test_a_spooled_call_is_answered_as_a_stored_one() -> None:
    admitted = decision.admit(parse("/ibs:dpid=12345&dpuuid=a"), Signals(), settings(), {}, now=NOW, entropy=entropy)
    assert isinstance(admitted, Admitted)
    stored = decision.answer(admitted, Outcome.STORED, UUID, settings())
    spooled = decision.answer(admitted, Outcome.SPOOLED, UUID, settings())
    assert (spooled.outcome, spooled.reply) == (Outcome.SPOOLED, stored.reply)


@pytest.mark.parametrize(
    ("target", "dpid"),
    [
        ("/ibs:dpid=12345&dpuuid=a:b", 12345),
        ("/ibs:dpid=999&dpuuid=a", 999),
        ("/ibs:dpid=x&dpuuid=a", None),
        ("/ibs:", None),
    ],
)
def test_a_decision_names_its_data_source(target: str, dpid: int | None) -> None:
    decided = decision.admit(parse(target), Signals(), settings(), {}, now=NOW, entropy=entropy)
    assert isinstance(decided, Decided)
    assert decided.dpid == dpid


def test_labels_are_distinct() -> None:
    """Two members of an Enum with equal values would be one member under two names."""
    assert len({outcome.label for outcome in Outcome}) == len(Outcome.__members__) == len(list(Outcome))
