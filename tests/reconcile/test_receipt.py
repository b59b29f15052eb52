"""Audience Manager's receipts: read whatever a mail program makes of them, and held against the ledger."""

import json
import sqlite3
import subprocess
import sys
from email.message import EmailMessage
from pathlib import Path
from typing import Any

import pytest

from idsync.errors import UsageError
from reconcile.errors import InputRefused
from reconcile.ledger import Ledger
from reconcile.receipt import account, job, message, terms
from reconcile.receipt.account import Account, SentFile
from reconcile.receipt.terms import ERRORS, NO_MATCH, NO_TRAIT, PROCESSED, RECEIVED, STORED, Receipt
from tests.reconcile.samples import NOW, World, uuid

SAMPLES = Path(__file__).parents[1] / "data" / "receipts"
DAY = 86_400_000
FIGURES = {
    RECEIVED: 40_669_900,
    terms.FORMAT: 0,
    terms.INVALID: 0,
    terms.NO_MATCH: 1200,
    terms.NO_TRAIT: 26_730_823,
    PROCESSED: 40_669_900,
    STORED: 13_937_877,
}
PLAIN = "Records received: 3\nRecords processed: 3\nStored Records: 3\n"


def parsed(content: bytes | str) -> Receipt:
    return terms.parse(message.readings(content.encode() if isinstance(content, str) else content))


def seven(receipt: Receipt) -> dict[str, int]:
    return {term: receipt.figures[term] for term in FIGURES}


# --- reading ---------------------------------------------------------------------------------------------------------


def test_a_plain_message() -> None:
    receipt = parsed((SAMPLES / "batch.eml").read_bytes())
    assert seven(receipt) == FIGURES
    assert receipt.files == ("ftp_dpm_12345_1790000000.sync.1.gz", "ftp_dpm_12345_1790000000.sync.2.gz")
    assert receipt.ended is not None
    assert receipt.started is not None
    assert receipt.ended - receipt.started == 2_233_000
    assert set(receipt.figures) == set(terms.TERMS) - {terms.INVALID_DEVICE}


def test_a_table_within_a_layout_of_html() -> None:
    receipt = parsed((SAMPLES / "table.eml").read_bytes())
    assert receipt.figures == FIGURES
    assert receipt.files == ("ftp_dpm_12345_1790000000.sync.1", "ftp_dpm_12345_1790000000.sync.2")


def test_the_documented_message_does_not_add_up() -> None:
    """Audience Manager's own sample: 40,669,900 - 112 - 26,730,823 is 13,938,965."""
    receipt = parsed((SAMPLES / "documented.txt").read_bytes())
    assert len(receipt.files) == 7
    assert receipt.figures[STORED] == 13_938_958
    found = account.compare(receipt, [])
    assert row(found, STORED) == (13_938_965, 13_938_958)
    assert verdicts(found)[STORED] == "contradiction"


@pytest.mark.parametrize(
    "number",
    [
        "40669900",
        "40,669,900",
        "40.669.900",
        "40 669 900",
        "40\u00a0669\u00a0900",
        "40\u202f669\u202f900",
        "40'669'900",
    ],
)
def test_numbers_in_every_spelling(number: str) -> None:
    assert parsed(f"Records received: {number}\n").figures[RECEIVED] == 40_669_900


@pytest.mark.parametrize(
    "number", ["", "-3", "4.5", "1,23", "1,234.567", "3 of 4", "٣", "1e5", "0x10", "9" * 19, "NaN"]
)
def test_what_is_no_number_is_told(number: str) -> None:
    with pytest.raises(ValueError, match="Records received"):
        parsed(f"Records received: {number}\nStored Records: 1\n")


@pytest.mark.parametrize(
    "line",
    [
        "> > Records received: 3",
        "* RECORDS  RECEIVED :\t3 *",
        "**Records received**: **3**",
        "| Records received | = 3".replace(" | =", "="),
        "<p><b>Records received: 3</b></p>",
        "<table><tr><th>Records received</th><td>3</td></tr></table>",
        "<td><p>Records&nbsp;received: 3<p>Stored Records: 3</td>",
    ],
)
def test_lines_as_mail_programs_leave_them(line: str) -> None:
    assert parsed(f"Dear Adobe Partner: (ID:7)\r\n{line}\r\n").figures[RECEIVED] == 3


def test_terms_of_older_receipts() -> None:
    text = "Records received: 9\nInvalid lines: 1\nInvalid UUIDs: 2\nFailed UUID lookup: 3\nRecords without traits: 1\n"
    figures = parsed(text + "Records processed: 9\nSucceeded: 2\n").figures
    assert [figures.get(term) for term in (*ERRORS, STORED)] == [1, 2, None, 3, 1, 2]


@pytest.mark.parametrize("charset", ["utf-8", "utf-16", "iso-8859-15", "us-ascii", "no-such-charset", "utf-7"])
@pytest.mark.parametrize("encoding", ["7bit", "8bit", "base64", "quoted-printable", "x-unknown"])
def test_declared_encodings_right_or_wrong(charset: str, encoding: str) -> None:
    """Whatever is declared; what no decoder takes is read as it stands."""
    head = (
        f"From: a@example.com\nContent-Type: text/plain; charset={charset}\nContent-Transfer-Encoding: {encoding}\n\n"
    )
    assert parsed(head + PLAIN).figures[STORED] == 3


@pytest.mark.parametrize("charset", ["utf-8", "utf-16", "iso-8859-15", "koi8-r"])
def test_messages_that_python_makes(charset: str) -> None:
    mail = EmailMessage()
    mail["From"] = "aam-noreply@adobe.com"
    mail.set_content(PLAIN, charset=charset)
    mail.add_alternative(f"<pre>{PLAIN}</pre>", subtype="html")
    outer = EmailMessage()
    outer["Subject"] = "Fwd: the receipt"
    outer.set_content("see below")
    outer.add_attachment(mail)
    for made in (mail, outer):
        assert parsed(made.as_bytes()).figures[STORED] == 3
    assert parsed(PLAIN.encode("utf-16")).figures[STORED] == 3


@pytest.mark.parametrize(
    "broken",
    [
        "Content-Type: multipart/mixed\n\n",  # no boundary
        'Content-Type: multipart/mixed; boundary="b"\n\n--b\n\n',  # never closed
        'Content-Type: multipart/mixed; boundary="b"\n\n',  # never opened
        "Content-Type: text/html; charset=\n\n<table><tr><td>",
        "Content-Type: ///\nMIME-Version: nine\n\n",
        "Content-Type: image/png\n\n",
        "\xff\xfe\x00: \n\n",
    ],
)
def test_broken_messages_are_still_read(broken: str) -> None:
    assert parsed("From: a@example.com\n" + broken + PLAIN).figures[STORED] == 3


@pytest.mark.parametrize(
    "text", ["", "\x00" * 1000, "Hello\n", "Total devices: 3\n", "Records received 3\n", "<" * 5000]
)
def test_no_receipt(text: str) -> None:
    with pytest.raises(ValueError, match="Records received"):
        parsed(text)


def test_two_receipts_in_one_message_are_refused() -> None:
    with pytest.raises(ValueError, match="stands twice, with 3 and 4"):
        parsed(PLAIN + PLAIN.replace("3", "4"))
    assert parsed(PLAIN * 3).figures[STORED] == 3  # quoted again by a mail program


@pytest.mark.parametrize("time", ["yesterday", "2018-05-17", "2018-13-17 18:07:49", "17.05.2018 18:07:49"])
def test_a_time_that_is_none(time: str) -> None:
    with pytest.raises(ValueError, match="job start time"):
        parsed(f"{PLAIN}Job start time: {time}\n")


def test_a_hostile_message_takes_no_time() -> None:
    """Each grows with the square of its size under careless patterns."""
    for text in ("Records received" * 60_000, ">" * 1_000_000, " \t" * 500_000, "ftp_dpm_" * 125_000, "<td>" * 250_000):
        with pytest.raises(ValueError, match="no line"):
            parsed(text)


# --- comparing -------------------------------------------------------------------------------------------------------


def sent(*lines: int, run: str = "1790000000-daily", ending: str = ".gz", state: str = "delivered") -> list[SentFile]:
    stem = f"ftp_dpm_12345_{run.partition('-')[0]}.sync"
    names = [f"{stem}.{number}{ending}" for number in range(1, len(lines) + 1)] if len(lines) > 1 else [stem + ending]
    return [SentFile(name, run, "daily", state, count, NOW) for name, count in zip(names, lines, strict=True)]


def told(files: list[str], received: int, processed: int | None = None, **others: int) -> Receipt:
    processed = received if processed is None else processed
    errors = dict.fromkeys((term for term in ERRORS if term != terms.INVALID_DEVICE), 0)
    errors |= {term.replace("_", " "): count for term, count in others.items()}
    figures = {RECEIVED: received, PROCESSED: processed, STORED: processed - sum(errors.values()), **errors}
    return Receipt(figures, tuple(files), NOW + DAY, NOW + DAY + 1000)


def verdicts(found: Account) -> dict[str, str]:
    return {finding.about: finding.verdict for finding in found.findings}


def row(found: Account, term: str) -> tuple[int | None, int | None]:
    return next((each.expected, each.reported) for each in found.rows if each.term == term)


def test_all_agrees() -> None:
    found = account.compare(told([file.name for file in sent(3, 4)], 7), sent(3, 4))
    assert found.holds
    assert verdicts(found) == {RECEIVED: "agrees", STORED: "agrees"}
    assert (found.runs, row(found, RECEIVED), row(found, STORED)) == (("1790000000-daily",), (7, 7), (7, 7))


@pytest.mark.parametrize(
    "name",
    [
        *("ftp_dpm_12345_1790000000.sync", "ftp_dpm_12345_1790000000.sync.gz"),  # unpacked, as it was
        *("ftp_dpm_12345_1790000000.sync.1", "ftp_dpm_12345_1790000000.sync.17.gz"),  # cut in parts there
    ],
)
def test_a_file_is_known_under_what_becomes_of_its_name(name: str) -> None:
    found = account.compare(told([name], 7), sent(7))
    assert (found.holds, found.files) == (True, {name: "ftp_dpm_12345_1790000000.sync.gz"})


@pytest.mark.parametrize(
    "name",
    [
        *("ftp_dpm_12345_1790000001.sync.gz", "ftp_dpm_12345_1790000000.overwrite.gz", "ftp_dpm_1_1790000000.sync.gz"),
        *("ftp_dpm_12345_21_1790000000.sync.gz", "ftp_dpm_12345_1790000000.sync.bz2", "ftp_dpm_nonsense"),
    ],
)
def test_a_file_that_was_never_delivered(name: str) -> None:
    found = account.compare(told([name], 7), sent(7))
    assert (found.holds, verdicts(found)["files"], found.runs) == (False, "contradiction", ())
    both = account.compare(told([name, sent(7)[0].name], 9), sent(7))
    assert (both.holds, verdicts(both)) == (
        True,
        {"files": "explained", RECEIVED: "explained", STORED: "agrees"},
    )
    fewer = account.compare(told([name, sent(7)[0].name], 6), sent(7))
    assert verdicts(fewer)[RECEIVED] == "contradiction"


def test_parts_that_come_in_another_batch() -> None:
    found = account.compare(told([sent(3, 4)[1].name], 4), sent(3, 4))
    assert found.holds
    assert "with 3 records" in found.findings[0].message


def test_records_that_got_lost_or_came_from_nowhere() -> None:
    for received in (6, 8):
        found = account.compare(told([sent(7)[0].name], received), sent(7))
        assert (found.holds, verdicts(found)[RECEIVED]) == (False, "contradiction")
    assert verdicts(account.compare(told([sent(7)[0].name], 7, 6), sent(7)))[PROCESSED] == "contradiction"


@pytest.mark.parametrize(
    ("term", "verdict"),
    [
        (terms.FORMAT, "contradiction"),
        (terms.INVALID, "contradiction"),
        (terms.INVALID_DEVICE, "explained"),
        (terms.NO_MATCH, "explained"),
        (terms.NO_TRAIT, "explained"),
    ],
)
def test_errors(term: str, verdict: str) -> None:
    found = account.compare(told([sent(7)[0].name], 7, **{term.replace(" ", "_"): 2}), sent(7))
    assert verdicts(found)[term] == verdict
    assert verdicts(found)[STORED] == "agrees"
    assert found.holds is (verdict == "explained")


def test_what_the_reports_of_the_runs_predicted() -> None:
    """A run that sends unmatched customers expects some not to be known; two runs of one batch are summed."""
    other = [SentFile("ftp_dpm_12345_1790000009.sync.gz", "1790000009-daily", "daily", "delivered", 5, NOW)]
    predicted = {
        "1790000000-daily": {NO_MATCH: 2, STORED: 5},
        "1790000009-daily": {NO_MATCH: 1, STORED: 4, NO_TRAIT: 0},
    }
    both = [*sent(7), *other]
    names = [file.name for file in both]
    found = account.compare(told(names, 12, No_Matching_AAM_ID=3), both, predicted=predicted)
    assert (row(found, NO_MATCH), row(found, STORED), row(found, NO_TRAIT)) == ((3, 3), (9, 9), (None, 0))
    assert verdicts(found)[STORED] == "agrees"
    fewer = account.compare(told(names, 12, No_Matching_AAM_ID=5), both, predicted=predicted)
    assert (fewer.holds, row(fewer, STORED)) == (True, (9, 7))
    assert "2 fewer than the run's report predicted" in fewer.findings[-2].message
    more = account.compare(told(names, 12), both, predicted=predicted)
    assert "3 more than" in next(each.message for each in more.findings if each.verdict == "explained")


def test_of_a_part_of_a_run_nothing_is_predicted() -> None:
    predicted = {"1790000000-daily": {NO_MATCH: 2, STORED: 5}}
    found = account.compare(told([sent(3, 4)[1].name], 4), sent(3, 4), predicted=predicted)
    assert (row(found, NO_MATCH), row(found, STORED)) == ((None, 0), (4, 4))


def test_a_receipt_that_leaves_terms_out_is_not_reckoned() -> None:
    found = account.compare(Receipt({RECEIVED: 7, STORED: 1}, (sent(7)[0].name,)), sent(7))
    assert verdicts(found) == {RECEIVED: "agrees"}
    assert (row(found, PROCESSED), row(found, STORED)) == ((7, None), (None, 1))


def test_times() -> None:
    receipt = told([sent(7)[0].name], 7)
    for started, ended, about, verdict in (
        (NOW + 5, NOW, "Job end time", "contradiction"),
        (NOW - 2 * DAY, NOW, "Job start time", "contradiction"),
        (NOW + 9 * DAY, NOW + 9 * DAY, "Job start time", "explained"),
    ):
        found = account.compare(receipt._replace(started=started, ended=ended), sent(7))
        assert verdicts(found)[about] == verdict
    assert account.compare(receipt._replace(started=NOW - DAY // 2), sent(7)).holds  # the message names no zone


def test_a_receipt_counts_once_and_a_name_is_processed_once() -> None:
    receipt = told([sent(7)[0].name], 7)
    first = account.compare(receipt, sent(7))
    earlier = [{**account.kept(receipt, first), "digest": account.digest(receipt)}]
    again = account.compare(receipt, sent(7), earlier)
    assert (again.holds, verdicts(again)["receipt"]) == (True, "explained")
    other = account.compare(receipt._replace(started=NOW + DAY + 1), sent(7), earlier)
    assert (other.holds, verdicts(other)["receipt"]) == (False, "contradiction")


def test_a_run_that_is_not_recorded_yet() -> None:
    found = account.compare(told([sent(7)[0].name], 7), sent(7, state="frozen"))
    assert (found.holds, verdicts(found)["files"]) == (True, "explained")


# --- the command -----------------------------------------------------------------------------------------------------


@pytest.fixture
def world(tmp_path: Path) -> World:
    """A run that has delivered three lines."""
    world = World(tmp_path)
    world.sync(*((f"c{number}", uuid(number)) for number in range(3)))
    world.put("a.csv", [(f"c{number}", "f", "gold", "24") for number in range(3)])
    world.run()
    world.write_config()
    return world


def written(world: World, receipt: Receipt, name: str = "mail.txt") -> Path:
    path = world.folder / name
    lines = [f"s3n://bucket/{file}" for file in receipt.files]
    path.write_text("\n".join(lines + [f"{term}: {count:,}" for term, count in receipt.figures.items()]))
    return path


def reconcile(world: World, *arguments: str | Path, stdin: bytes = b"") -> "subprocess.CompletedProcess[str]":
    command = [sys.executable, "-m", "reconcile", *map(str, arguments), "--config", str(world.folder / "idsync.toml")]
    done = subprocess.run(command, input=stdin, capture_output=True, check=False, timeout=60)
    return subprocess.CompletedProcess(command, done.returncode, done.stdout.decode(), done.stderr.decode())


def delivered(world: World) -> list[str]:
    return [str(file["name"]) for file in world.last.files]


def test_the_command(world: World) -> None:
    path = written(world, told(delivered(world), 3, No_Matching_AAM_ID=1))
    done = reconcile(world, "receipt", path, "--json")
    assert (done.returncode, done.stderr) == (0, "")
    shown: dict[str, Any] = json.loads(done.stdout)
    assert (shown["holds"], shown["runs"]) == (True, [world.last.run])
    assert shown["files"] == [{"reported": name, "delivered": name} for name in delivered(world)]
    assert {"term": STORED, "expected": 3, "reported": 2} in shown["terms"]
    assert {"term": NO_MATCH, "expected": 0, "reported": 1} in shown["terms"]
    [kept] = Ledger(world.state / "ledger.db").receipts()
    assert (kept["runs"], kept["figures"][STORED], kept["holds"]) == ([world.last.run], 2, True)
    piped = reconcile(world, "receipt", "-", stdin=path.read_bytes())
    assert piped.returncode == 0
    assert "was read before" in piped.stdout
    assert len(Ledger(world.state / "ledger.db").receipts()) == 1


def test_the_command_ends_with_1_for_a_contradiction(world: World) -> None:
    done = reconcile(world, "receipt", written(world, told(delivered(world), 2)))
    assert done.returncode == 1
    assert "contradiction: Records received: the files named have 3 lines, 1 more than were received" in done.stdout
    assert "Traceback" not in done.stderr


def test_files_that_are_no_receipt(world: World) -> None:
    huge = world.folder / "huge.eml"
    huge.write_bytes(b"Records received: 3\n" * 200_001)
    for path, error, words in (
        (world.folder / "none.eml", UsageError, "No such file"),
        (world.folder, UsageError, "Is a directory"),
        (world.folder / "idsync.toml", InputRefused, "no receipt"),
        (huge, InputRefused, "larger than 4,000,000 bytes"),
    ):
        with pytest.raises(error, match=words):
            job.read(world.settings, path, NOW)


def test_a_receipt_of_others_is_not_kept(world: World) -> None:
    found = job.read(world.settings, SAMPLES / "documented.txt", NOW)
    assert (found.holds, found.runs) == (False, ())
    assert Ledger(world.state / "ledger.db").receipts() == []


def test_a_ledger_from_before_there_were_receipts(world: World) -> None:
    """The table is added to what is there."""
    with sqlite3.connect(world.state / "ledger.db") as db:
        db.executescript("DROP TABLE receipts; PRAGMA user_version = 1")
    db.close()
    found = job.read(world.settings, written(world, told(delivered(world), 3)), NOW)
    assert found.holds
    assert len(Ledger(world.state / "ledger.db").receipts()) == 1
