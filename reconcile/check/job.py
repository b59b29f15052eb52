"""Checking files: read once, block by block, in bounded memory."""

import io
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import BinaryIO, NamedTuple, cast

import numpy as np
from isal import igzip, isal_zlib

from idsync.errors import UsageError
from idsync.ids import DEVICE_ID_SHAPES, IdRules, id_rules
from reconcile.check import content, naming
from reconcile.check.block import BLOCK_BYTES, Block, Blocks, Mask
from reconcile.check.content import RulesOf
from reconcile.check.findings import Fault, FileReport, Report
from reconcile.check.kinds import IdKinds
from reconcile.check.naming import NameParts
from reconcile.check.screen import DataScreen, IdSyncScreen
from reconcile.check.users import Users
from reconcile.progress import Meter, Step

FINDINGS_SHOWN = 10
FINDINGS_IN_JSON = 1_000

_GZIP, _UTF8_BOM, _UTF16_BOMS = b"\x1f\x8b", b"\xef\xbb\xbf", (b"\xff\xfe", b"\xfe\xff")
_PGP_PACKET, _PGP_ARMOUR = 0x80, b"-----BEGIN PGP MESSAGE-----"
_HELD_BYTES = 30_000_000  # glibc heeds no more than 32 MB
_DAMAGED = (EOFError, igzip.BadGzipFile, cast(type[Exception], isal_zlib.error))


class Limits(NamedTuple):
    """Sizes in bytes. For .gz the documentation says 1 GB on one page and 3 GB on another."""

    raw: int = 5_000_000_000
    gzipped: int = 1_000_000_000
    advised_raw: int = 1_073_741_824
    advised_gzipped: int = 300_000_000


class Options(NamedTuple):
    """`now` is in milliseconds since the epoch. `screened=False` asks every line every rule, the slow way."""

    now: int
    rules_of: RulesOf = id_rules
    limit: int = FINDINGS_SHOWN
    limits: Limits = Limits()
    screened: bool = True
    block: int = BLOCK_BYTES


Suspects = Callable[[Block], Mask]
LineFaults = Callable[[bytes], Iterator[Fault]]


def check(paths: Iterable[Path], options: Options, meter: Meter | None = None) -> Report:
    """What is wrong with these files; those whose names say that they are parts of one split file are taken together.

    Raises UsageError for a file that can't be read.
    """
    meter = meter or Meter()
    _hold_memory()
    sets: dict[object, list[_Member]] = {}
    reports: list[FileReport] = []
    for path in dict.fromkeys(paths):
        parts = naming.read(path.name, options.now // 1000)
        report = FileReport(str(path), options.limit, kind=parts.kind or "")
        for fault in (*parts.faults, *naming.folder_faults(path.absolute().parent.name, parts.timestamp)):
            report.add(fault)
        key: object = parts.set_of_parts or path
        if any(path.name == other.path.name for other in sets.get(key, ())):
            report.add(Fault(None, "name-twice", "another of these files has the same name"))
            key = path
        sets.setdefault(key, []).append(_Member(path, parts, report))
        reports.append(report)
    for members in sets.values():
        with Users(pairs=members[0].parts.kind == "c2c_id") as users:
            for member in members:
                _check_file(member, users, options, meter)
            users.settle()
    return Report(tuple(reports))


class _Member(NamedTuple):
    """A file of a set."""

    path: Path
    parts: NameParts
    report: FileReport


def _check_file(member: _Member, users: Users, options: Options, meter: Meter) -> None:
    try:
        with member.path.open("rb") as file:
            step = meter.step(member.path.name, member.path.stat().st_size)
            _FileCheck(file, member, users, options, step).run()
    except OSError as error:
        problem = f"{member.path} can't be checked: {error.strerror or error}"
        raise UsageError(problem, mend="name files that you may read; $TMPDIR needs 8 bytes a line") from None


class _FileCheck:
    def __init__(self, file: BinaryIO, member: _Member, users: Users, options: Options, step: Step) -> None:
        self._file, self._parts, self._report = file, member.parts, member.report
        self._users = None if member.parts.kind == "adobe_id" else users
        self._options, self._step = options, step
        self._size = file.seek(0, io.SEEK_END)
        file.seek(0)
        self._seen = 0

    def run(self) -> None:
        head = self._file.read(64)
        self._file.seek(0)
        if not head:
            self._fault("empty-file", "the file is empty")
            return
        packed = head.startswith(_GZIP)
        self._check_size(packed=packed and not self._parts.encrypted)
        if self._parts.encrypted:
            self._check_encrypted(head, packed=packed)
            return
        if packed != (self._parts.suffix == "gz"):
            rule, told = ("gzip-unnamed", "is gzipped") if packed else ("not-gzip", "is not")
            self._fault(rule, f"the name {'says nothing of gzip' if packed else 'ends in .gz'}, but the content {told}")
        if self._parts.kind in {"adobe_id", "c2c_id"} and not self._parts.dpids:
            return  # the name does not tell what the columns are
        self._report.checked = "content"
        try:
            self._check_content(cast(BinaryIO, igzip.open(self._file, "rb")) if packed else self._file)  # type: ignore[no-untyped-call]
        except _DAMAGED as error:
            self._fault(
                "gzip-damaged", f"the gzip data are broken or cut off after line {self._report.lines:,} ({error})"
            )
        self._advance()

    def _check_size(self, *, packed: bool) -> None:
        limits = self._options.limits
        limit, advised = (limits.gzipped, limits.advised_gzipped) if packed else (limits.raw, limits.advised_raw)
        if self._size > limit:
            self._fault("file-too-large", f"{self._size:,} bytes; the limit is {limit:,}")
        elif self._size > advised:
            self._fault("split-advised", f"{self._size:,} bytes in one file")

    def _check_encrypted(self, head: bytes, *, packed: bool) -> None:
        if packed:
            self._fault("gzip-unnamed", "the name says encrypted, but the content is gzipped")
        elif not head[0] & _PGP_PACKET and not head.startswith(_PGP_ARMOUR):
            self._fault("not-encrypted", "the name says encrypted, but the content is no OpenPGP message")

    def _check_content(self, stream: BinaryIO) -> None:
        size = self._options.block
        first = stream.read(size)
        if first.startswith(_UTF16_BOMS):
            self._fault("encoding", "the content is UTF-16")
            return
        if first.startswith(_UTF8_BOM):
            self._fault("bom", "the content begins with a byte order mark")
            first = first[len(_UTF8_BOM) :]
        suspects, line_faults = self._rules()
        kinds = IdKinds(self._report) if self._has_either_id() else None
        if self._users:
            self._users.begin(self._report)
        blocks = Blocks(stream, first, size)
        for block in blocks:
            for index in np.flatnonzero(suspects(block)).tolist():
                for fault in line_faults(block.line(index)):
                    self._report.add(fault, self._report.lines + index + 1)
            if kinds:
                kinds.look(block, self._report.lines)
            if self._users:
                self._users.add(block)
            self._report.lines += len(block)
            self._report.raw_bytes = blocks.taken
            self._advance()
        if kinds:
            kinds.settle()
        if not self._report.lines:
            self._fault("empty-file", "the file is empty")
        elif not blocks.terminated:
            self._report.add(Fault(None, "no-final-newline", "the last line has no newline"), self._report.lines)
        limit = self._options.limits.raw
        if self._report.raw_bytes > limit >= self._size:
            self._fault("file-too-large", f"{self._report.raw_bytes:,} bytes unpacked; the limit is {limit:,}")

    def _rules(self) -> tuple[Suspects, LineFaults]:
        """What clears lines in bulk, and what looks at one."""
        parts, screened = self._parts, self._options.screened
        if parts.kind in {"adobe_id", "c2c_id"}:
            columns = content.id_sync_columns(parts, self._options.rules_of)
            suspects = IdSyncScreen(columns).suspects if screened else _all
            return suspects, lambda line: content.id_sync_line(line, columns)
        rules, overwrite = self._data_rules(), parts.mode == "overwrite"
        suspects = DataScreen(rules, overwrite=overwrite).suspects if screened else _all
        return suspects, lambda line: content.data_line(line, rules, overwrite=overwrite)

    def _data_rules(self) -> IdRules:
        return self._options.rules_of(self._parts.dpids[0] if self._parts.dpids else 0)

    def _has_either_id(self) -> bool:
        """Whether the user IDs may be UUIDs or customer IDs."""
        return self._parts.kind not in {"adobe_id", "c2c_id"} and not DEVICE_ID_SHAPES.keys() & set(self._parts.dpids)

    def _fault(self, rule: str, message: str) -> None:
        self._report.add(Fault(None, rule, message))

    def _advance(self) -> None:
        position = self._file.tell()
        self._step.advance(position - self._seen)
        self._seen = position


def _hold_memory() -> None:
    """Have the C library keep what is freed, as glibc does once so large a piece was: else the pages of each block's
    arrays go back to the system and are asked for again, which took a quarter of the time. Elsewhere it does nothing.
    """
    np.empty(_HELD_BYTES, np.uint8)  # never touched, so it takes no memory


def _all(block: Block) -> Mask:
    return np.ones(len(block), np.bool_)


def rules_by_dpid(sources: Sequence[tuple[int, IdRules]]) -> RulesOf:
    """The rules of configured data sources; the usual ones for other DPIDs."""
    known = dict(sources)
    return lambda dpid: known.get(dpid) or id_rules(dpid)
