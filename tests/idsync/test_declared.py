"""Which customer IDs of a call count, and why the others do not."""

import pytest

from idsync.call import SyncCall, parse
from idsync.declared import declared
from idsync.signals import Signals
from tests.idsync.samples import NOW, settings

CRM, SHOP = 12345, 777
DEVICE = "aaaaaaaa-aaaa-4aaa-8aaa-aaaaaaaaaaaa"


def judge(query: str, signals: Signals = Signals()) -> tuple[list[tuple[int, str]], list[int | None], list[str]]:  # noqa: B008
    """The IDs that count; codes and messages of the faults."""
    call = parse(f"/sync?{query}")
    assert isinstance(call, SyncCall)
    good, faults = declared(call, signals, settings(), {}, now=NOW)
    messages = [fault.message for fault in faults]
    return [(each.source.dpid, each.customer_id) for each in good], [fault.outcome.code for fault in faults], messages


@pytest.mark.parametrize(
    ("query", "expected"),
    [
        ("dpid=12345&dpuuid=a", [(CRM, "a")]),
        ("d_dpid=12345&d_dpuuid=a", [(CRM, "a")]),
        ("d_cid=12345%01a", [(CRM, "a")]),
        ("d_cid=12345%01a%01", [(CRM, "a")]),
        ("d_cid=12345%01a%010", [(CRM, "a")]),
        ("d_cid=12345%01a%011", [(CRM, "a")]),
        ("d_cid=12345%01a%012", [(CRM, "a")]),
        ("d_cid_ic=acme-crm%01a", [(CRM, "a")]),
        ("d_cid_ic=acme%20sh%C3%B6p%01a%011", [(SHOP, "a")]),
        ("d_cid=12345%01a%26b%3D%20c", [(CRM, "a&b= c")]),
        (f"d_cid_ic=DSID_20914%01{DEVICE}", [(20914, DEVICE)]),
        (f"d_cid_ic=DSID_20915%01{DEVICE.upper()}", [(20915, DEVICE.upper())]),
        ("d_cid=12345%01a&d_cid=777%01b", [(CRM, "a"), (SHOP, "b")]),
        ("d_cid_ic=acme-crm%01a&d_cid=777%01b&dpid=12345&dpuuid=c", [(CRM, "c"), (CRM, "a"), (SHOP, "b")]),
        ("d_cid=12345%01a&d_cid=12345%01a%011&d_cid_ic=acme-crm%01a&dpid=12345&dpuuid=a", [(CRM, "a")]),
        ("d_cid=12345%01a&d_cid=12345%01A", [(CRM, "a"), (CRM, "A")]),
    ],
)
def test_ids_that_count(query: str, expected: list[tuple[int, str]]) -> None:
    assert judge(query) == (expected, [], [])


@pytest.mark.parametrize(
    ("query", "code", "message"),
    [
        ("d_cid=12345", 300, "d_cid must be"),
        ("d_cid=", 300, "d_cid must be"),
        ("d_cid_ic=acme-crm", 300, "d_cid_ic must be"),
        ("d_cid=12345%01", 300, "d_cid: "),
        ("d_cid=12345%01secret%3Ax", 300, "d_cid: "),
        ("d_cid=12345%01secret%013", 300, "authentication state"),
        ("d_cid=12345%01secret%011%01", 300, "authentication state"),
        ("d_cid=12345%01secret%01authenticated", 300, "authentication state"),
        ("d_cid=999%01secret", 302, "d_cid is no data source"),
        ("d_cid=acme-crm%01secret", 302, "d_cid"),
        ("d_cid=%01secret", 302, "d_cid"),
        ("d_cid_ic=12345%01secret", 302, "integration code"),
        ("d_cid_ic=ACME-CRM%01secret", 302, "integration code"),
        ("d_cid_ic=DSID_121963%01secret", 302, "integration code"),
        (f"d_cid_ic=DSID_20915%01{DEVICE}", 312, "device ID"),
        ("d_cid_ic=%01secret", 302, "integration code"),
        ("dpuuid=secret", 302, "dpuuid is given without dpid"),
        ("dpid=12345", 300, "dpid is given without dpuuid"),
        ("d_cid=888%01secret", 304, "takes no sync calls"),
    ],
)
def test_a_bad_id(query: str, code: int, message: str) -> None:
    """Alone it has its own code; among good ones it is all that is lost."""
    good, codes, messages = judge(query)
    assert (good, codes) == ([], [code])
    assert message in messages[0]
    assert "secret" not in messages[0]
    good, codes, _ = judge(f"d_cid=777%01before&{query}&d_cid=777%01after")
    assert good == [(SHOP, "before"), (SHOP, "after")]
    assert codes == [code]


def test_several_bad_ids_are_told_one_by_one() -> None:
    good, codes, messages = judge("d_cid=999%01a&d_cid=12345%01b%3A&dpid=1&dpuuid=c")
    assert (good, codes) == ([], [302, 302, 300, 104])
    assert [message.partition(" is")[0].partition(":")[0] for message in messages[:3]] == ["dpid", "d_cid 1", "d_cid 2"]


def cids(count: int, dpid: int = CRM, start: int = 0) -> str:
    return "&".join(f"d_cid={dpid}%01id-{number}" for number in range(start, start + count))


def test_three_ids_of_one_data_source() -> None:
    good, codes, messages = judge(f"{cids(3)}&{cids(3, SHOP)}")
    assert (len(good), codes) == (6, [])
    good, codes, messages = judge(f"{cids(5)}&{cids(2, SHOP)}")
    assert good == [(CRM, "id-0"), (CRM, "id-1"), (CRM, "id-2"), (SHOP, "id-0"), (SHOP, "id-1")]
    assert codes == [310, 309, 309]
    assert messages[1:] == ["d_cid 4 is dropped for the limit", "d_cid 5 is dropped for the limit"]


def test_ids_that_are_not_taken_leave_room() -> None:
    good, codes, _ = judge(f"d_cid=12345%01bad%3A&d_cid=12345%01id-0&{cids(3)}")
    assert (len(good), codes) == (3, [300])


def test_ten_ids() -> None:
    sources = [CRM, SHOP, 20914, 20915]
    device = "d_cid=20914%01aaaaaaaa-aaaa-4aaa-8aaa-aaaaaaaaaaa{}"
    query = "&".join([cids(3), cids(3, SHOP), *(device.format(at) for at in range(3)), "d_cid_ic=acme-crm%01id-0"])
    good, codes, messages = judge(f"{query}&d_cid=20915%01AAAAAAAA-AAAA-4AAA-8AAA-AAAAAAAAAAA0")
    assert [dpid for dpid, _ in good] == [dpid for dpid in sources[:3] for _ in range(3)]
    assert codes == [301, 309]
    assert messages[1] == "d_cid 11 is dropped for the limit"


def test_no_number_of_ids_is_too_much() -> None:
    good, codes, _ = judge(cids(400))
    assert (len(good), codes) == (3, [301, 310, *[309] * 397])
