"""The grammar: what is a sync call, how its parameters are split and decoded, what drops it whole."""

from urllib.parse import quote

import pytest
from hypothesis import given
from hypothesis import strategies as st

from idsync.call import Malformed, SyncCall, is_sync_call, parse


@pytest.mark.parametrize(
    ("target", "expected"),
    [
        ("/ibs:", True),
        ("/ibs:dpid=1&dpuuid=2", True),
        ("/ibs:dpid=1&redir=https://host/a//b", True),
        ("http://host.example/ibs:dpid=1", True),
        ("https://user@host.example:8443/sync?dpid=1", True),
        ("/sync", True),
        ("/sync?", True),
        ("/sync?dpid=1", True),
        ("/id", True),
        ("/id?d_uuid=1", True),
        ("/event?d_cid=1", True),
        ("/ids?d_uuid=1", False),
        ("/id/", False),
        ("/sync/", False),
        ("/synchronise?dpid=1", False),
        ("/%69bs:dpid=1", False),
        ("/ibs%3Adpid=1", False),
        ("/IBS:dpid=1", False),
        ("//ibs:dpid=1", False),
        ("/", False),
        ("", False),
        ("/healthz?x=/ibs:", False),
        ("/go?to=http://host/ibs:dpid=1", False),
        ("http://host.example", False),
    ],
)
def test_routes(target: str, expected: bool) -> None:
    assert is_sync_call(target) is expected


BOTH_FORMS = pytest.mark.parametrize("form", ["/ibs:", "/sync?", "http://h.example/ibs:", "http://h.example:80/sync?"])


@BOTH_FORMS
@pytest.mark.parametrize(
    ("raw", "expected"),
    [
        ("", SyncCall()),
        ("&&", SyncCall()),
        ("dpid=1&dpuuid=2", SyncCall(dpid="1", dpuuid="2")),
        ("d_dpid=1&d_dpuuid=2", SyncCall(dpid="1", dpuuid="2")),
        ("dpid=1&d_dpuuid=2", SyncCall(dpid="1", dpuuid="2")),
        ("dpid=007&dpuuid=1e5", SyncCall(dpid="007", dpuuid="1e5")),
        ("dpuuid=a%26b", SyncCall(dpuuid="a&b")),
        ("dpuuid=a%26b%3Dc&dpid=1", SyncCall(dpid="1", dpuuid="a&b=c")),
        ("dpuuid=a%2526b", SyncCall(dpuuid="a%26b")),
        ("dpuuid=a+b", SyncCall(dpuuid="a+b")),
        ("dpuuid=a%20b%2Bc", SyncCall(dpuuid="a b+c")),
        ("dpuuid=a=b==", SyncCall(dpuuid="a=b==")),
        ("dpuuid=a;b", SyncCall(dpuuid="a;b")),
        ("dpuuid=%C3%A9", SyncCall(dpuuid="é")),
        ("dpuuid=e%CC%81", SyncCall(dpuuid="e\u0301")),
        ("dpuuid=%00%0A", SyncCall(dpuuid="\0\n")),
        ("dpuuid", SyncCall(dpuuid="")),
        ("dpuuid=", SyncCall(dpuuid="")),
        ("=x", SyncCall()),
        ("%64puuid=x", SyncCall(dpuuid="x")),
        ("DPUUID=x", SyncCall()),
        ("dpuuid=x&dpuuid=x", SyncCall(dpuuid="x")),
        ("dpuuid=x&d_dpuuid=%78", SyncCall(dpuuid="x")),
        ("cb=1&cb=2&dpuuid=x", SyncCall(dpuuid="x")),
        ("d_cid=1%012", SyncCall(cids=(("d_cid", "1\x012"),))),
        (
            "d_cid_ic=a%01b%011&d_cid=1%012&d_cid=1%012&d_cid=1%013&d_sig=x&d_sig=y&d_sig=x",
            SyncCall(cids=(("d_cid_ic", "a\x01b\x011"), ("d_cid", "1\x012"), ("d_cid", "1\x013")), d_sig=("x", "y")),
        ),
        ("d_cid=1%01a%26b%2501c", SyncCall(cids=(("d_cid", "1\x01a&b%01c"),))),
        ("cids=1&asks_id=1", SyncCall()),
        ("d_mid=5&d_cb=f.g", SyncCall(d_mid="5", d_cb="f.g")),
        (
            "gdpr=0&gdpr_consent=C&gpp=G&gpp_sid=7&us_privacy=1---&d_rtbd=json&d_uuid=3&idsync_return=1",
            SyncCall(
                gdpr="0",
                gdpr_consent="C",
                gpp="G",
                gpp_sid="7",
                us_privacy="1---",
                d_rtbd="json",
                d_uuid="3",
                idsync_return="1",
            ),
        ),
        (
            "redir=https%3A%2F%2Fh.example%2F%3Fa%3D1%26u%3D%24%7BDD_UUID%7D",
            SyncCall(redir="https://h.example/?a=1&u=${DD_UUID}"),
        ),
        ("redir=https://h.example/ibs:u=${DD_UUID}", SyncCall(redir="https://h.example/ibs:u=${DD_UUID}")),
    ],
)
def test_parameters(form: str, raw: str, expected: SyncCall) -> None:
    assert parse(form + raw) == expected


@BOTH_FORMS
@pytest.mark.parametrize(
    ("raw", "named"),
    [
        ("dpuuid=%", "dpuuid is not valid"),
        ("dpuuid=a%2", "dpuuid is not valid"),
        ("dpuuid=%zz", "dpuuid is not valid"),
        ("dpuuid=%u0041", "dpuuid is not valid"),
        ("dpuuid=%FF", "dpuuid is not valid"),
        ("dpuuid=%C3", "dpuuid is not valid"),
        ("dpuuid=%C0%80", "dpuuid is not valid"),
        ("dpuuid=%ED%A0%80", "dpuuid is not valid"),
        ("d_dpuuid=%FF", "dpuuid is not valid"),
        ("dpid=1&dpuuid=2&unknown=%F", "a parameter is not valid"),
        ("secret-id%FF=1", "the name of a parameter"),
        ("dpuuid=a b", "not percent-encoded"),
        ("dpuuid=é", "not percent-encoded"),
        ("dpuuid=a\tb", "not percent-encoded"),
        ("dpuuid=a#b", "%23"),
        ("dpuuid=x&dpuuid=y", "dpuuid is given more than once"),
        ("dpuuid=x&d_dpuuid=y", "dpuuid is given more than once"),
        ("dpid=1&dpid=01", "dpid is given more than once"),
        ("redir=a&redir=b", "redir is given more than once"),
        ("dpuuid=&dpuuid=x", "dpuuid is given more than once"),
    ],
)
def test_dropped_whole(form: str, raw: str, named: str) -> None:
    call = parse(form + raw)
    assert isinstance(call, Malformed)
    assert named in call.reason
    assert "secret" not in call.reason


def test_question_mark_ends_nothing() -> None:
    """In the path it would cut a redir short, so the call is dropped; in a query it is an ordinary character."""
    raw = "dpid=1&dpuuid=2&redir=https://h.example/?u=1"
    assert isinstance(parse(f"/ibs:{raw}"), Malformed)
    assert parse(f"/sync?{raw}") == SyncCall(dpid="1", dpuuid="2", redir="https://h.example/?u=1")


@BOTH_FORMS
@pytest.mark.parametrize("name", ["gdpr", "gdpr_consent", "gpp", "gpp_sid", "us_privacy"])
@pytest.mark.parametrize("second", ["0", "1", "", "%30"])
def test_a_privacy_signal_that_stands_twice_drops_no_call(form: str, name: str, second: str) -> None:
    """It is told, with one value as with two: `consent` refuses it, and an opt-out goes on."""
    call = parse(f"{form}dpid=1&{name}=0&dpuuid=2&{name}={second}")
    assert isinstance(call, SyncCall)
    assert call.repeats_signal
    once = parse(f"{form}dpid=1&dpid=1&dpuuid=2&{name}=0")
    assert once == call._replace(repeats_signal=False)


def test_id_is_a_route_of_its_own() -> None:
    assert parse("/id?d_uuid=1") == SyncCall(d_uuid="1", asks_id=True)
    assert parse("/event?d_uuid=1") == SyncCall(d_uuid="1")


def test_parameters_stand_as_they_came() -> None:
    call = parse("/sync?dpid=1&dpuuid=2&d_cid_ic=a%01b&d_cid=3%014&d_sig=s&gdpr=0&unknown=1")
    assert isinstance(call, SyncCall)
    assert call.parameters() == [
        *(("dpid", "1"), ("dpuuid", "2"), ("gdpr", "0")),
        *(("d_cid_ic", "a\x01b"), ("d_cid", "3\x014"), ("d_sig", "s")),
    ]


@given(value=st.text(), form=st.sampled_from(["/ibs:", "/sync?"]))
def test_every_text_survives_encoding(value: str, form: str) -> None:
    assert parse(f"{form}dpid=1&dpuuid={quote(value, safe='')}&x=%26") == SyncCall(dpid="1", dpuuid=value)


@given(st.text(alphabet=st.characters(max_codepoint=255)), st.sampled_from(["/ibs:", "/sync?", ""]))
def test_no_target_breaks_the_parser(raw: str, form: str) -> None:
    assert is_sync_call(form + raw) or not form
    assert isinstance(parse(form + raw), SyncCall | Malformed)
