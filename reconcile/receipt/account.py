"""What a receipt says beside what was delivered, term by term, and what to make of each difference. Pure.

A finding is `agrees`, `explained` (a difference that happens, and why) or `contradiction` (a difference that should not
be: somebody has to look). Only the last makes a receipt fail.
"""

import hashlib
import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass
from typing import Any, Literal, NamedTuple

from reconcile import names
from reconcile.names import FileName
from reconcile.receipt import terms
from reconcile.receipt.terms import Receipt

Verdict = Literal["agrees", "explained", "contradiction"]

DAY = 86_400_000  # milliseconds
SHOWN = 5  # file names in a message
# Stored traits can be used two days after the upload at the latest.
LATE_DAYS = 2


class SentFile(NamedTuple):
    """A file of one of our runs, as the ledger has it."""

    name: str
    run: str
    feed: str
    state: str
    lines: int
    planned_at: int


class Row(NamedTuple):
    """One term. `expected` None: nothing is known beforehand; `reported` None: the receipt does not tell it."""

    term: str
    expected: int | None
    reported: int | None


@dataclass(frozen=True, slots=True)
class Finding:
    verdict: Verdict
    about: str
    message: str


@dataclass(frozen=True, slots=True)
class Account:
    """`runs` of ours that the receipt is about; `files`: its names beside ours, None where we have none."""

    rows: tuple[Row, ...]
    findings: tuple[Finding, ...]
    runs: tuple[str, ...]
    files: Mapping[str, str | None]
    started: int | None
    ended: int | None

    @property
    def holds(self) -> bool:
        return all(finding.verdict != "contradiction" for finding in self.findings)

    def as_dict(self) -> dict[str, Any]:
        return {
            "holds": self.holds,
            "runs": list(self.runs),
            "started": self.started,
            "ended": self.ended,
            "terms": [row._asdict() for row in self.rows],
            "findings": [asdict(finding) for finding in self.findings],
            "files": [{"reported": name, "delivered": ours} for name, ours in self.files.items()],
        }


def timestamps(receipt: Receipt) -> list[int]:
    """By which to ask the ledger for the runs."""
    parsed = [parts for name in receipt.files if (parts := _parse(name))]
    return sorted({parts.timestamp for parts in parsed})


def digest(receipt: Receipt) -> str:
    """The same for the same receipt, in whatever form it was saved."""
    said = [sorted(receipt.figures.items()), sorted(receipt.files), receipt.started, receipt.ended]
    return hashlib.sha256(json.dumps(said).encode()).hexdigest()


def kept(receipt: Receipt, account: Account) -> dict[str, Any]:
    """What the ledger remembers: figures, no more than our own names."""
    return {
        "runs": list(account.runs),
        "files": sorted({ours for ours in account.files.values() if ours}),
        "figures": dict(receipt.figures),
        "started": receipt.started,
        "ended": receipt.ended,
        "holds": account.holds,
    }


def sent_files(runs: Iterable[Mapping[str, Any]]) -> list[SentFile]:
    """Out of the ledger's summaries."""
    return [
        SentFile(file["name"], run["run"], run["feed"], run["state"], int(file["lines"]), int(run.get("planned_at", 0)))
        for run in runs
        for file in run.get("files", ())
    ]


def compare(
    receipt: Receipt,
    sent: Sequence[SentFile],
    earlier: Iterable[Mapping[str, Any]] = (),
    predicted: Mapping[str, Mapping[str, int]] | None = None,
) -> Account:
    """`sent`: all files of the runs with these `timestamps`. `earlier`: receipts that were read before, as `kept`.
    `predicted`: by run, what its report predicts, by term.
    """
    found = _Found(receipt, sent)
    forecast = _forecast(found, predicted or {})
    findings = [
        *found.findings(),
        *_received(receipt, found),
        *_processing(receipt, forecast.get(terms.STORED)),
        *_errors(receipt),
        *_times(receipt, found),
        *_repeats(receipt, found, earlier),
    ]
    expected: dict[str, int | None] = dict.fromkeys(terms.TERMS)
    if found.expected is not None and not found.strangers:
        expected |= {terms.RECEIVED: found.expected, terms.PROCESSED: found.expected}
        expected |= dict.fromkeys((terms.FORMAT, terms.INVALID, terms.INVALID_DEVICE), 0)
        expected |= {terms.FAILED_TRAITS: 0, terms.FAILED_USERS: 0}
    expected[terms.STORED] = _reckoned(receipt.figures)
    expected |= forecast
    told = receipt.figures
    rows = tuple(Row(term, expected[term], told.get(term)) for term in terms.TERMS if term in told or expected[term])
    return Account(rows, tuple(findings), found.runs, found.named, receipt.started, receipt.ended)


class _Found:
    """The files of the receipt beside ours.

    Audience Manager may list a file unpacked, without `.gz`, and a large one in parts that it has made itself. So what
    counts is everything of a name but split number and ending: a timestamp is never used twice here.
    """

    def __init__(self, receipt: Receipt, sent: Sequence[SentFile]) -> None:
        exact = {file.name: file for file in sent}
        unpacked = {_unpacked(file.name): file for file in sent}
        whole = {_stem(file.name): file for file in sent if _split(file.name) is None}
        self.named: dict[str, str | None] = {}
        matched: dict[str, SentFile] = {}
        for name in receipt.files:
            ours = exact.get(name) or unpacked.get(_unpacked(name)) or whole.get(_stem(name))
            self.named[name] = ours.name if ours else None
            if ours:
                matched[ours.name] = ours
        self.matched = list(matched.values())
        self.strangers = [name for name, ours in self.named.items() if ours is None]
        self.runs = tuple(sorted({file.run for file in self.matched}))
        self.missing = [file for file in sent if file.run in self.runs and file.name not in matched]
        self.unrecorded = sorted({file.run for file in self.matched if file.state != "delivered"})
        self.expected = sum(file.lines for file in self.matched) if self.matched else None

    def findings(self) -> Iterable[Finding]:
        if not self.named:
            yield Finding("contradiction", "files", "the receipt names no file, so nothing tells which run it is about")
        elif not self.matched:
            yield Finding(
                "contradiction",
                "files",
                f"no run of this ledger has delivered {_listed(self.strangers)}: the receipt is of somebody else's"
                " files, or the ledger is not the one of that time",
            )
        elif self.strangers:
            yield Finding(
                "explained",
                "files",
                f"{_listed(self.strangers)} not delivered from here: another sender's, processed in the same batch;"
                " their records are in the figures, too",
            )
        if self.missing:
            lines = sum(file.lines for file in self.missing)
            yield Finding(
                "explained",
                "files",
                f"of the same run, but not in this receipt: {_listed([file.name for file in self.missing])} with"
                f" {lines:,} records; they come in another batch, so expect another receipt",
            )
        if self.unrecorded:
            yield Finding(
                "explained",
                "files",
                f"the ledger does not have {', '.join(self.unrecorded)} as delivered yet, but it has arrived: the next"
                " run of the feed records it",
            )


def _forecast(found: _Found, predicted: Mapping[str, Mapping[str, int]]) -> dict[str, int]:
    """The terms that the reports of all these runs predict, summed; nothing where the batch is not all theirs."""
    runs = [predicted.get(run, {}) for run in found.runs]
    if not runs or found.strangers or found.missing:
        return {}
    known = [term for term in (terms.NO_MATCH, terms.NO_TRAIT, terms.STORED) if all(term in each for each in runs)]
    return {term: sum(each[term] for each in runs) for term in known}


def _received(receipt: Receipt, found: _Found) -> Iterable[Finding]:
    received, expected = receipt.figures.get(terms.RECEIVED), found.expected
    if received is None or expected is None:
        return
    lines = f"the files named have {expected:,} lines"
    if received == expected:
        yield Finding("agrees", terms.RECEIVED, f"{lines}, and so many were received")
    elif received < expected:
        yield Finding(
            "contradiction",
            terms.RECEIVED,
            f"{lines}, {expected - received:,} more than were received: a file arrived cut off, or a part of it was"
            " not processed; compare its size there, and ask Audience Manager",
        )
    elif found.strangers:
        yield Finding("explained", terms.RECEIVED, f"{received - expected:,} are of files not delivered from here")
    else:
        yield Finding(
            "contradiction",
            terms.RECEIVED,
            f"{lines}, {received - expected:,} fewer than were received: another file was processed under this name",
        )


def _processing(receipt: Receipt, forecast: int | None) -> Iterable[Finding]:
    told = receipt.figures
    received, processed, stored = (told.get(term) for term in (terms.RECEIVED, terms.PROCESSED, terms.STORED))
    if received is not None and processed is not None and received != processed:
        yield Finding(
            "contradiction",
            terms.PROCESSED,
            f"{received:,} were received and {processed:,} processed: the receipt does not say what became of the"
            " rest; ask Audience Manager",
        )
    reckoned = _reckoned(told)
    if stored is None or reckoned is None:
        return
    if stored == reckoned:
        yield Finding("agrees", terms.STORED, "processed less the errors")
        if forecast is not None and stored != forecast:
            more = "more" if stored > forecast else "fewer"
            message = f"{abs(stored - forecast):,} {more} than the run's report predicted, by the errors that it tells"
            yield Finding("explained", terms.STORED, message)
    else:
        yield Finding(
            "contradiction",
            terms.STORED,
            f"processed less the errors makes {reckoned:,}, not {stored:,}: the receipt does not add up",
        )


def _reckoned(told: Mapping[str, int]) -> int | None:
    """Stored Records as they are defined; None where a part is not told. Receipts have no Invalid Device ID."""
    needed = [told.get(term) for term in terms.ERRORS if term != terms.INVALID_DEVICE or term in told]
    processed = told.get(terms.PROCESSED)
    if processed is None or None in needed:
        return None
    return processed - sum(count for count in needed if count)


def _errors(receipt: Receipt) -> Iterable[Finding]:
    told = receipt.figures
    share = _share(told)
    for term, message in (
        (terms.FORMAT, "every line was checked before it was delivered: run `check` on the copy in the run's folder"),
        (terms.INVALID, "every UUID that is delivered has 38 digits: run `check` on the copy in the run's folder"),
    ):
        if told.get(term):
            yield Finding("contradiction", term, message)
    for term, message in (
        (
            terms.INVALID_DEVICE,
            "IDs of a global device data source in the wrong form: see the feed's user_id and DPID",
        ),
        (
            terms.NO_MATCH,
            "IDs that Audience Manager does not know: not synced on its side, or not seen there for 120 days; deliver"
            " an ID-sync file before the data",
        ),
        (terms.NO_TRAIT, "no rule or trait there takes what these records say: compare signals and traits with it"),
        (
            terms.FAILED_USERS,
            "traits that do not belong to the data source in the file's name: compare target and trait IDs",
        ),
    ):
        if count := told.get(term):
            yield Finding("explained", term, f"{share(count)}{message}")


def _share(told: Mapping[str, int]) -> Callable[[int], str]:
    whole = told.get(terms.PROCESSED) or told.get(terms.RECEIVED) or 0
    return lambda count: f"{count / whole:.1%} of the records: " if whole else ""


def _times(receipt: Receipt, found: _Found) -> Iterable[Finding]:
    started, ended = receipt.started, receipt.ended
    if started is not None and ended is not None and ended < started:
        yield Finding("contradiction", "Job end time", "the job ended before it started")
    planned = [file.planned_at for file in found.matched if file.planned_at]
    if started is None or not planned:
        return
    # the message names no time zone
    if started < max(planned) - DAY:
        yield Finding("contradiction", "Job start time", "the job started before the files were made")
    elif started > min(planned) + (LATE_DAYS + 1) * DAY:
        yield Finding(
            "explained",
            "Job start time",
            f"{(started - min(planned)) // DAY} days after the files were made: they lay waiting, or were late",
        )


def _repeats(receipt: Receipt, found: _Found, earlier: Iterable[Mapping[str, Any]]) -> Iterable[Finding]:
    own, ours = digest(receipt), {file.name for file in found.matched}
    for other in earlier:
        if other["digest"] == own:
            yield Finding("explained", "receipt", "this receipt was read before; it counts once")
        elif shared := sorted(ours & set(other["files"])):
            yield Finding(
                "contradiction",
                "receipt",
                f"another receipt, with other figures, is about {_listed(shared)} too: a name is processed once",
            )


# --- names -----------------------------------------------------------------------------------------------------------


def _parse(name: str) -> FileName | None:
    readers: tuple[Callable[[str], FileName], ...] = (names.parse_id_sync, names.parse)
    for read in readers:
        with suppress(ValueError):
            return read(name)
    return None


def _split(name: str) -> int | None:
    parts = _parse(name)
    return parts.split if parts else None


def _unpacked(name: str) -> str:
    for suffix in (".gz", ".gpg", ".pgp"):
        name = name.removesuffix(suffix)
    return name


def _stem(name: str) -> str:
    parts = _parse(name)
    try:
        return _unpacked(parts.part(None).render()) if parts else name
    except ValueError:  # nine digits of time, which are none of ours
        return name


def _listed(found: Sequence[str]) -> str:
    more = len(found) - SHOWN
    return ", ".join(found[:SHOWN]) + (f" and {more:,} more" if more > 0 else "")
