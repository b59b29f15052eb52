"""Lines of ID-sync files and of e-mail hashes, and the parts of their names."""

import pytest

from idsync import ids
from reconcile import lines, names
from reconcile.check.content import id_sync_line
from tests.reconcile.samples import uuid


def test_a_line_has_an_id_for_each_column() -> None:
    assert lines.render_id_sync([uuid(1), "c1", " Zoë b"]) == f"{uuid(1)}\tc1\t Zoë b\n"


@pytest.mark.parametrize(
    "members", [[], ["a"], ["a", ""], ["", "b"], ["a", "b "], ["a ", "b"], ["a", "b\tc"], ["a", "b\n"], ["a\x7f", "b"]]
)
def test_what_would_be_dropped_is_no_line(members: list[str]) -> None:
    with pytest.raises(ValueError, match="two IDs or more"):
        lines.render_id_sync(members)


# As Audience Manager's documentation gives it, in "Workflow B - Personalization based on offline-only data".
PUBLISHED = "55e79200c1635b37ad31a378c39feb12f120f116625093a19bc32fff15041149"


@pytest.mark.parametrize("address", ["johndoe@example.com", " JohnDoe@Example.com\t", "JOHNDOE@EXAMPLE.COM\r\n"])
def test_addresses_are_trimmed_and_lowered_before_they_are_hashed(address: str) -> None:
    assert lines.email_hash(address) == PUBLISHED


@pytest.mark.parametrize("address", ["", "  ", "johndoe", "a@b", "a@b@c.de", "a b@c.de", "a@c..de", "@c.de", PUBLISHED])
def test_what_is_no_address_is_not_hashed(address: str) -> None:
    with pytest.raises(ValueError, match=r"^not an e-mail address$"):
        lines.email_hash(address)


def test_a_customer_has_a_line_for_each_address() -> None:
    made = lines.render_email_hashes("c1", ["johndoe@example.com", "b@example.com", "JohnDoe@example.com "])
    assert made == [f"c1\t{PUBLISHED}\n", f"c1\t{lines.email_hash('b@example.com')}\n"]
    for each in made:
        assert list(id_sync_line(each.rstrip("\n").encode(), [ids.DEFAULT_RULES, "hash"])) == []
    assert lines.render_email_hashes("c1", []) == []


def test_a_customer_has_ten_addresses_at_most() -> None:
    ten = [f"{number}@example.com" for number in range(10)]
    assert len(lines.render_email_hashes("c1", [*ten, ten[0].upper()])) == 10
    with pytest.raises(ValueError, match="more than 10 e-mail addresses of one customer"):
        lines.render_email_hashes("c1", [*ten, "more@example.com"])
    with pytest.raises(ValueError, match="two IDs or more"):
        lines.render_email_hashes("c1\t", ten)


def test_a_name_has_parts() -> None:
    name = names.IdSyncName("c2c_id", (999999, 987654), 1560431657)
    assert name.render() == "c2c_id_999999_987654_1560431657.sync"
    assert name.part(3).render() == "c2c_id_999999_987654_1560431657.sync.3"
    assert names.parse_id_sync(name.part(3).render()) == name.part(3)
