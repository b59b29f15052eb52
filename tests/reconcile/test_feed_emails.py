"""Feeds of e-mail hashes: what goes into the file, what is rejected, and that no address is left anywhere."""

import gzip
import hashlib
from collections import defaultdict
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from idsync.errors import ConfigError
from reconcile import erasure, lines
from reconcile.check.job import Options, check
from reconcile.errors import RunRefused
from tests.reconcile.samples import NOW_SECONDS, World, figures

EMAILS = """kind = "email-hashes"
email_column = "email"
email_data_source = "emails"
{}
[[data_sources]]
name = "emails"
dpid = 777
format = "hashed-email"
"""
HEADER = ("id", "email")
Row = tuple[str, str]


def world(folder: Path, options: str = "max_rejected = 1") -> World:
    return World(folder, EMAILS.format(options))


def sha(address: str) -> str:
    return hashlib.sha256(address.encode()).hexdigest()


def assert_valid(made: World) -> None:
    assert check(sorted(made.delivered.glob("*")), Options(now=made.now)).findings == []


def test_customers_and_hashes(tmp_path: Path) -> None:
    made = world(tmp_path)
    made.put(
        "1.csv", [("b", " Jane@Example.com\t"), ("a", "jörg@example.de"), ("b", "JANE@example.com"), ("c", " ")], HEADER
    )
    summary = made.run()
    assert figures(summary, "read", "matched", "silent", "unmatched", "rejected", "lines", "dpid") == (
        4,
        4,
        1,
        0,
        0,
        2,
        12345,
    )
    assert [path.name for path in made.delivered.iterdir()] == [f"c2c_id_12345_777_{NOW_SECONDS}.sync.gz"]
    assert made.lines() == [f"b\t{sha('jane@example.com')}\n", f"a\t{sha('jörg@example.de')}\n"]
    assert_valid(made)
    assert made.run().status == "nothing-to-do"


def test_plain_and_from_other_formats(tmp_path: Path) -> None:
    made = world(tmp_path, 'compression = "none"\ncolumns = { id = "ID", email = "E-Mail" }')
    made.put("1.csv", [("a", "a@b.co")], ("E-Mail", "ID")[::-1])
    (made.inbox / "2.csv").write_text("x;E-Mail;ID\n1;c@d.co;c\n")
    (made.inbox / "3.jsonl").write_text('{"ID": "e", "E-Mail": "e@f.co"}\n')
    made.run()
    assert [path.name for path in made.delivered.iterdir()] == [f"c2c_id_12345_777_{NOW_SECONDS}.sync"]
    assert made.lines() == [
        f"{name}\t{sha(mail)}\n" for name, mail in (("a", "a@b.co"), ("c", "c@d.co"), ("e", "e@f.co"))
    ]
    assert_valid(made)


def test_what_can_not_be_sent_is_rejected(tmp_path: Path) -> None:
    made = world(tmp_path)
    several = [("many", f"m{number}@example.com") for number in [*range(10), 3, 10, 11, 0, 10]]
    bad = [
        ("a", "no address"),
        ("b", "x@y"),
        ("c ", "c@example.com"),
        ("null", "n@example.com"),
        ("d:e", "d@example.com"),
    ]
    made.put("1.csv", several + bad, HEADER)
    with (made.inbox / "1.csv").open("a") as file:
        file.write("f@example.com,g,h\n")  # columns mixed up, and one too many
        file.write("secret@example.com,x\n")
    summary = made.run()
    assert figures(summary, "read", "matched", "rejected", "lines") == (22, 12, 10, 10)
    assert summary.reasons == {
        "too-many-emails": 3,
        "email-invalid": 2,
        "too-many-columns": 1,
        "id-ends-in-space": 1,
        "id-sentinel": 1,
        "id-colon": 1,
        "id-email": 1,
    }
    assert [line.split("\t")[1].strip() for line in made.lines()] == [
        sha(f"m{number}@example.com") for number in range(10)
    ]
    places = [(row["line"], row["customer_id"]) for row in made.rejects()]
    assert places == [
        ("13", "many"),
        ("14", "many"),
        ("16", "many"),
        ("17", "a"),
        ("18", "b"),
        ("19", "c "),
        ("20", "null"),
        ("21", "d:e"),
        ("22", ""),
        ("23", ""),
    ]
    assert_valid(made)


def test_addresses_that_could_match_nobody_are_rejected_not_mended(tmp_path: Path) -> None:
    made = world(tmp_path)
    bad = ["a@b.de\u200b", "\u200ba@b.de", "a\u00adb@c.de", "\u200b", "<a@b.de>", "a@b.de;", "a b@c.de"]
    made.put("1.csv", [("c", address) for address in [*bad, "a+b@c.de", "o'neil@c.de"]], HEADER)
    summary = made.run()
    assert (summary.matched, summary.reasons) == (2, {"email-invalid": len(bad)})
    assert made.lines() == [f"c\t{sha(address)}\n" for address in ("a+b@c.de", "o'neil@c.de")]


def test_no_address_is_left_anywhere(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    made = world(tmp_path)
    rows = [(f"c{number}", f"person{number}@example.com") for number in range(50)]
    rows += [("person7@example.com", "x"), ("d", "person8@example"), ("e", "person9 @example.com")]
    made.put("1.csv", rows, HEADER)
    made.run(dry_run=True)
    made.run()
    kept = list(made.everything())
    assert kept
    for path, data in [*kept, *((path, gzip.decompress(path.read_bytes())) for path in made.delivered.iterdir())]:
        assert b"person" not in data, path
    told = capfd.readouterr()
    assert "person" not in told.out + told.err + repr(made.last)


def test_a_refused_run_tells_no_address(tmp_path: Path) -> None:
    made = world(tmp_path, "max_rejected = 0")
    made.put("1.csv", [("person1@example.com", "a"), ("b", "person2")], HEADER)
    with pytest.raises(RunRefused) as raised:
        made.run()
    assert "person" not in str(raised.value)
    assert not any(b"person" in data for _, data in made.everything())


def test_opt_outs_are_respected(tmp_path: Path) -> None:
    made = world(tmp_path)
    made.opt_out("a")
    made.opt_out(sha("b@example.com"), dpid=777)
    made.put(
        "1.csv", [(name, f"{name}@example.com") for name in ("a", "b", "c", "d")] + [("d", "b@example.com")], HEADER
    )
    summary = made.run()
    assert (summary.matched, summary.reasons) == (2, {"opted-out": 3})
    assert made.lines() == [f"{name}\t{sha(f'{name}@example.com')}\n" for name in "cd"]
    assert {row["customer_id"] for row in made.rejects()} == {""}


@pytest.mark.parametrize("sought", [{12345: "a"}, {777: sha("a@example.com")}])
def test_erasure_finds_both_columns(tmp_path: Path, sought: dict[int, str]) -> None:
    made = world(tmp_path)
    made.put("1.csv", [("a", "a@example.com")], HEADER)
    made.run()
    asked = erasure.Sought({dpid: frozenset([name]) for dpid, name in sought.items()}, frozenset())
    assert erasure.find(made.settings, asked).as_dict()["frozen"]["lines"] == 1


@pytest.mark.parametrize(
    ("old", "new", "faults"),
    [
        ('email_column = "email"\n', "", ["feeds[0].email_column: missing"]),
        ('email_data_source = "emails"\n', "", ["feeds[0].email_data_source: missing"]),
        ('"emails"\n\n', '"email"\n\n', ['email_data_source = "email": no such data source; did you mean "emails"?']),
        ('"emails"\n\n', '"crm"\n\n', ['email_data_source = "crm": the feed\'s own']),
        ('"email"', '"id"', ['feeds[0].email_column = "id": the same as id_column']),
        (
            'email_column = "email"\n',
            'email_column = "email"\nsignals = ["x"]\nchanges_only = true\ncompression = "pgp"\n',
            ["feeds[0].signals", "feeds[0].changes_only = true: says nothing", 'feeds[0].compression = "pgp": ID-sync'],
        ),
        ('kind = "email-hashes"\n', 'signals = ["x"]\n', ['email_column: needs kind = "email-hashes"']),
    ],
)
def test_faults_are_told(tmp_path: Path, old: str, new: str, faults: list[str]) -> None:
    text = EMAILS.format("")
    assert text.count(old) == 1
    with pytest.raises(ConfigError) as raised:
        _ = World(tmp_path, text.replace(old, new)).settings
    for fault in faults:
        assert fault in str(raised.value)


addresses = st.sampled_from([*(f"{letter}@x.io" for letter in "abcdefghijkl"), " A@X.io", "", "x", "é@x.io", "É@x.io"])


def expected(rows: list[Row]) -> tuple[list[str], list[str]]:
    """The lines, and the reasons of those rejected."""
    known: dict[str, list[str]] = defaultdict(list)
    sent, reasons = [], list[str]()
    for customer, address in rows:
        plain = address.strip().lower()
        if plain and "@" not in plain:
            reasons.append("email-invalid")
        elif plain and plain not in known[customer]:
            if len(known[customer]) == lines.MAX_HASHES_PER_CUSTOMER:
                reasons.append("too-many-emails")
                continue
            known[customer].append(plain)
            sent.append(f"{customer}\t{sha(plain)}\n")
    return sent, reasons


@settings(deadline=None, max_examples=25)
@given(st.lists(st.tuples(st.sampled_from(["a", "A"]), addresses), min_size=1, max_size=40))
def test_by_the_definition(tmp_path_factory: Any, rows: list[Row]) -> None:
    made = world(tmp_path_factory.mktemp("world"))
    made.put("1.csv", rows, HEADER)
    summary = made.run(dry_run=False)
    sent, reasons = expected(rows)
    assert made.lines() == sent
    assert sorted(row["reason"] for row in made.rejects()) == sorted(reasons)
    assert figures(summary, "read", "matched", "rejected") == (len(rows), len(rows) - len(reasons), len(reasons))
