"""File names: what is rendered parses back, what is not in the grammar is refused."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from reconcile.names import InboundName, parse, s3_key

dpids = st.integers(1, 9_999_999_999)
names = st.builds(
    InboundName,
    dpid=dpids,
    timestamp=st.integers(1_000_000_000, 9_999_999_999),
    mode=st.sampled_from(["sync", "overwrite"]),
    target=st.none() | dpids,
    split=st.none() | st.integers(1, 999_999_999),
    suffix=st.sampled_from(["", "gz", "gpg", "pgp"]),
)


@given(names)
def test_what_is_rendered_parses_back(name: InboundName) -> None:
    assert parse(name.render()) == name
    assert name.warnings == []


@given(names, st.data())
def test_one_changed_character_never_gives_the_same_name(name: InboundName, data: st.DataObject) -> None:
    text = name.render()
    position = data.draw(st.integers(0, len(text) - 1))
    other = data.draw(st.characters().filter(lambda character: character != text[position]))
    try:
        changed = parse(text[:position] + other + text[position + 1 :])
    except ValueError:
        return
    assert changed != name


@pytest.mark.parametrize(
    ("text", "name"),
    [
        ("ftp_dpm_478_1366545717.sync", InboundName(478, 1366545717, "sync")),
        ("ftp_dpm_478_1366545717.sync.gz", InboundName(478, 1366545717, "sync", suffix="gz")),
        ("ftp_dpm_20914_21_1366545717.overwrite.3.gz", InboundName(20914, 1366545717, "overwrite", 21, 3, "gz")),
        ("ftp_dpm_478_1366545717.sync.2", InboundName(478, 1366545717, "sync", split=2)),
        ("ftp_dpm_478_1366545717.sync.gpg", InboundName(478, 1366545717, "sync", suffix="gpg")),
    ],
)
def test_documented_names(text: str, name: InboundName) -> None:
    assert parse(text) == name
    assert name.render() == text


@pytest.mark.parametrize(
    "text",
    [
        "",
        "ftp_dpm_478_1366545717",
        "ftp_dpm_478_1366545717.SYNC",
        "ftp_dpm_478_1366545717.sync.gz.2",
        "ftp_dpm_478_1366545717.sync.gpg.gz",
        "ftp_dpm_478_1366545717.sync.gz\n",
        "ftp_dpm_478_13665457170.sync",
        "ftp_dpm_478_13665457.sync",
        "ftp_dpm_0478_1366545717.sync",
        "ftp_dpm_478_0366545717.sync",
        "ftp_dpm_478_1366545717.sync.0",
        "ftp_dpm_478_21_7_1366545717.sync",
        "ftp_dpm_\uff14\uff17\uff18_1366545717.sync",
        " ftp_dpm_478_1366545717.sync",
        "s3_dpm_478_1366545717.sync",
    ],
)
def test_other_names_are_refused(text: str) -> None:
    with pytest.raises(ValueError, match=r"ftp_dpm|starts with 0"):
        parse(text)


def test_nine_digits_of_time_are_read_with_a_warning_and_never_written() -> None:
    name = parse("ftp_dpm_478_999999999.sync")
    assert "nine digits" in name.warnings[0]
    with pytest.raises(ValueError, match="ten digits"):
        name.render()


def test_the_key_has_the_utc_day_of_the_plan() -> None:
    just_before_midnight_utc = 1_790_207_999_999
    assert s3_key("acme", "", just_before_midnight_utc, "x") == "acme/date=2026-09-23/x"
    assert s3_key("acme", "in/", just_before_midnight_utc + 1, "x") == "in/acme/date=2026-09-24/x"
