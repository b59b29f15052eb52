"""From the files of an export to rows of customers and segments, from top to bottom.

Gather, see that the export is whole, join, hold what was read against the control file, put the result in its place. A
fault on the way leaves nothing behind: no row is shown before all of them are known to be right. Exports follow each
other in the order of their time; the rows of one export come in no order.
"""

import csv
import io
import shutil
import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, ExitStack, closing, contextmanager
from dataclasses import asdict, dataclass, field
from itertools import groupby
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple, cast

import duckdb
import pyarrow as pa
from isal import igzip

from idsync.errors import UsageError
from idsync.settings import DataSource, Settings
from idsync.store import open_store
from idsync.store.optouts import OptedOutDevices
from reconcile import durable
from reconcile.engine import sql
from reconcile.errors import InputRefused, InputUnavailable, RunRefused
from reconcile.progress import Meter
from reconcile.segments import control, engine, lines, names, places
from reconcile.segments.control import Control, Measured
from reconcile.segments.engine import Fates, SegmentEngine
from reconcile.segments.reading import Lines, Part

HEADER = b"customer_id,segment_id,action\n"
FORMATS = (".csv", ".csv.gz", ".parquet")
SAMPLES = 10
_GZIP_LEVEL = 1


@dataclass(slots=True)
class SegmentSummary:
    """Counts are of lines, but for `rows` and `mappings`. `read` = `matched` + `unmatched` + `opted_out` + `rejected`.

    Opted-out lines are those of devices that did; the store keeps no mapping of a customer who opted out, so lines of
    his other devices are unmatched. `samples`: where the first rejected lines stand. `controls`: the control files that
    were held against what was read; `notes`: how they differed, where that was to be passed over.
    """

    data_source: str
    dpid: int
    output: str = ""
    files: list[dict[str, Any]] = field(default_factory=list)
    controls: list[str] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    read: int = 0
    matched: int = 0
    unmatched: int = 0
    opted_out: int = 0
    rejected: int = 0
    reasons: dict[str, int] = field(default_factory=dict)
    samples: list[str] = field(default_factory=list)
    rejects_file: str = ""
    mappings: int = 0
    rows: int = 0

    def as_dict(self) -> dict[str, Any]:
        return asdict(self)


class Request(NamedTuple):
    """`output`: CSV or Parquet by its name; None: CSV to standard output. `rejects`: a CSV of the lines left out.

    `unverified`: go on where a control file says that the export is not whole.
    """

    files: Sequence[str]
    output: Path | None = None
    rejects: Path | None = None
    unverified: bool = False


def join(
    settings: Settings, source: DataSource, request: Request, stdout: Callable[[], BinaryIO], *, meter: Meter, now: int
) -> SegmentSummary:
    """Lead an export back to the customers of a data source; `now` in milliseconds. Raises IdsyncError."""
    output = request.output
    summary = SegmentSummary(source.name, source.dpid, str(output or ""))
    for path in filter(None, (output, request.rejects)):
        _check_place(path)
    with tempfile.TemporaryDirectory(prefix="segments-") as folder:
        scratch = Path(folder)
        parts = places.gather(settings, request.files, scratch / "copies", meter)
        data, controls = _sorted_out(parts)
        _check_arrived(data, controls, summary, unverified=request.unverified)
        listed = {entry.name for each in controls.values() for entry in each.files}
        reading, fates = Lines(meter.step("joining lines"), listed), Fates()
        with _written(output, scratch, stdout) as sink:
            counted = _Counted(sink)
            counted.write(memoryview(HEADER))
            with SegmentEngine(scratch / "spill", settings.reconcile.memory_limit) as joining:
                devices = _load(settings, source, joining, summary, meter=meter, now=now)
                # one export after the other, the older first: who applies the rows in order ends with the latest state
                for export, of_export in groupby(data, key=lambda part: names.parse(part.name)._replace(split=0)):
                    joining.render(reading.batches(of_export), export.mode, devices, counted, fates)
            summary.rows = counted.rows - 1
            _settle(reading, fates, summary)
            _check_whole(reading.measured, controls, summary, unverified=request.unverified)
            summary.files = [{"file": part.where, **reading.measured[part.name]._asdict()} for part in data]
            _write_rejects(request.rejects, reading, fates, summary)
    return summary


def _sorted_out(parts: Sequence[Part]) -> tuple[list[Part], dict[str, Control]]:
    """Data files in their order of time, and the control files that say something of them, or were named."""
    data = sorted((part for part in parts if not names.is_control(part.name)), key=lambda part: names.parse(part.name))
    controls = {}
    for part in parts:
        if names.is_control(part.name):
            try:
                with part.path.open("rb") as file:
                    controls[part.where] = control.parse(file.read(control.MAX_BYTES + 1))
            except (ValueError, OSError) as error:
                raise InputRefused(
                    f"{part.where}: no control file: {error}",
                    mend="fetch it again; moved away, the export is taken without it",
                ) from None
    return data, controls


def _check_arrived(
    data: Sequence[Part], controls: dict[str, Control], summary: SegmentSummary, *, unverified: bool
) -> None:
    """Raise InputUnavailable while the control file is ahead of its files: it may be sent before them."""
    try:
        sizes = {part.name: part.path.stat().st_size for part in data}
    except OSError as error:
        raise InputRefused(f"{error.filename}: {error.strerror}", mend="make the file readable and run again") from None
    problems = [f"{where}: {fault}" for where, each in controls.items() for fault in control.awaited(each, sizes)]
    summary.notes += problems
    if problems and not unverified:
        raise InputUnavailable(
            "the export is not complete: " + "; ".join(problems[:SAMPLES]),
            mend="the rest may be on its way: run again later; --unverified takes what is there",
        )
    if not data:
        raise UsageError("no file of an export is there", mend="name its files, not only the control file")
    summary.controls = list(controls)


def _load(
    settings: Settings, source: DataSource, joining: SegmentEngine, summary: SegmentSummary, *, meter: Meter, now: int
) -> OptedOutDevices:
    """Take the mappings in; the devices that opted out."""
    step = meter.step("reading mappings")

    def counted(batches: Iterator[pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
        for batch in batches:
            step.advance(len(batch))
            yield batch

    with closing(open_store(settings.store)) as store:
        summary.mappings = joining.load_mappings(counted(store.export(source.dpid, now)))
        return OptedOutDevices(token for token in store.tokens() if token.tail)


def _settle(reading: Lines, fates: Fates, summary: SegmentSummary) -> None:
    """The account of all lines."""
    summary.read = reading.read
    summary.matched, summary.unmatched = fates.count(engine.MATCHED), fates.count(engine.UNMATCHED)
    summary.opted_out = fates.count(engine.OPTED_OUT)
    counts = {reason: fates.count(engine.REJECTED + code) for code, reason in enumerate(lines.REASONS)}
    summary.reasons = {reason: count for reason, count in counts.items() if count}
    summary.rejected = sum(summary.reasons.values())
    accounted = summary.matched + summary.unmatched + summary.opted_out + summary.rejected
    if summary.read != accounted:
        raise RunRefused(
            f"{summary.read} lines read, but {summary.matched} matched + {summary.unmatched} unmatched + "
            f"{summary.opted_out} opted out + {summary.rejected} rejected",
            mend="this is a fault of the program; nothing was written; please report it",
        )
    summary.samples = [
        f"{place[0]}, line {place[1]:,}: {reason}" for place, reason in _rejected(reading, fates, limit=SAMPLES)
    ]
    if summary.read and summary.rejected == summary.read:
        raise InputRefused(
            f"none of the {summary.read:,} lines is one of an outbound file: {'; '.join(summary.samples[:3])}",
            mend="name files that hold Audience Manager's UUIDs: <UUID> <segments>[ <removed segments>]",
        )


def _rejected(reading: Lines, fates: Fates, limit: int | None = None) -> list[tuple[tuple[str, int], str]]:
    """Place and reason, in the order of the lines."""
    found = [
        (seq, reason)
        for code, reason in enumerate(lines.REASONS)
        for seq in fates.seqs(engine.REJECTED + code)[: limit or None]
    ]
    return [(reading.place(seq), reason) for seq, reason in sorted(found)[: limit or None]]


def _check_whole(
    measured: dict[str, Measured], controls: dict[str, Control], summary: SegmentSummary, *, unverified: bool
) -> None:
    problems = [
        f"{where}: {fault}"
        for where, each in controls.items()
        for fault in [*control.sums(each), *control.faults(each, measured)]
    ]
    summary.notes += [problem for problem in problems if problem not in summary.notes]
    if problems and not unverified:
        raise InputRefused(
            "the export is not what its control file says: " + "; ".join(problems[:SAMPLES]),
            mend="fetch the files again; --unverified takes them as they are; nothing was written",
        )


def _write_rejects(path: Path | None, reading: Lines, fates: Fates, summary: SegmentSummary) -> None:
    """Where each stands and why; not the line itself, which is about somebody."""
    if path is None:
        return
    text = io.StringIO(newline="")
    table = csv.writer(text, lineterminator="\n")
    table.writerow(("input", "line", "reason", "explanation"))
    for place, reason in _rejected(reading, fates):
        table.writerow((*place, reason, lines.EXPLANATIONS[cast(lines.Reason, reason)]))
    durable.write(path, text.getvalue().encode(errors="replace"))
    summary.rejects_file = str(path)


# --- where the rows go -----------------------------------------------------------------------------------------------


class _Counted:
    """Counts rows as they pass."""

    def __init__(self, sink: BinaryIO) -> None:
        self._sink = sink
        self.rows = 0

    def write(self, text: memoryview, /) -> None:
        self._sink.write(text)
        self.rows += bytes(text).count(b"\n")


def _check_place(path: Path) -> None:
    """Before anything is read."""
    if not path.parent.is_dir():
        raise UsageError(f"{path}: the folder {path.parent} does not exist", mend="create it, or mend the path")


def format_of(path: Path) -> str:
    """The ending that tells the format. Raises UsageError."""
    for ending in FORMATS:
        if path.name.lower().endswith(ending):
            return ending
    raise UsageError(f"{path}: can't tell the format from the name", mend=f"let it end in {', '.join(FORMATS)}")


def _written(output: Path | None, scratch: Path, stdout: Callable[[], BinaryIO]) -> AbstractContextManager[BinaryIO]:
    return _to_stdout(stdout) if output is None else _to_file(output, scratch)


@contextmanager
def _to_stdout(stdout: Callable[[], BinaryIO]) -> Iterator[BinaryIO]:
    """Kept back, in a file without a name, until nothing can go wrong any more."""
    with tempfile.TemporaryFile() as kept:
        yield cast(BinaryIO, kept)
        kept.seek(0)
        shutil.copyfileobj(kept, stdout(), 1 << 20)
        stdout().flush()


@contextmanager
def _to_file(path: Path, scratch: Path) -> Iterator[BinaryIO]:
    """Found whole or not at all."""
    ending = format_of(path)
    with ExitStack() as undone, durable.replacing(path) as half:
        undone.callback(half.unlink, missing_ok=True)
        rows = scratch / "rows.csv" if ending == ".parquet" else half
        with rows.open("wb") as file:
            if ending == ".csv.gz":
                with igzip.GzipFile("", "wb", _GZIP_LEVEL, file, mtime=0) as packed:  # type: ignore[no-untyped-call]
                    yield cast(BinaryIO, packed)
            else:
                yield file
        if ending == ".parquet":
            _as_parquet(rows, half)


def _as_parquet(rows: Path, target: Path) -> None:
    columns = ", ".join(f"{sql.literal(name)}: 'VARCHAR'" for name in HEADER.decode().strip().split(","))
    options = (
        f"columns = {{{columns}}}",
        "header = true, auto_detect = false",
        "delim = ',', quote = '\"', escape = '\"'",
    )
    source = sql.reader("read_csv", [str(rows)], *options)
    with duckdb.connect() as con:
        con.execute(f"COPY (SELECT * FROM {source}) TO {sql.literal(str(target))} (FORMAT parquet, COMPRESSION zstd)")  # noqa: S608
