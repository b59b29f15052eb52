"""Offline records, read as text: every value exactly as the file spells it.

Each format yields chunks of records; a record that can't be read is told apart, with its place, and loses nothing
around it. Numbers never pass through a numeric type: 38 digits, `007` and `1e5` stay what they are.
"""

import glob
import hashlib
import os
import re
import shutil
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import closing, contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO, NamedTuple, TypeVar, cast

from isal import igzip, isal_zlib

from idsync.errors import ConfigError
from idsync.settings import Feed
from reconcile.errors import InputChanging, InputRefused
from reconcile.feed import Plan
from reconcile.inputs import delimited, jsonl, parquet, text
from reconcile.inputs.chunk import Chunk
from reconcile.inputs.delimited import Dialect
from reconcile.inputs.layout import Layout, layout_of
from reconcile.inputs.remote import SCHEME, Memory, RemoteObject
from reconcile.progress import Meter, Step

if TYPE_CHECKING:
    from reconcile.inputs.bucket import Bucket

_DELIMITERS = {"csv": ",", "tsv": "\t"}
_FORMATS = ("csv", "tsv", "jsonl", "parquet")
_GZIP = ".gz"
_T = TypeVar("_T")

# What copiers, browsers and editors call a file that is not complete, or is no data: hidden files of any kind (on a Mac
# "._name" stands beside each file), and the mark that Hadoop leaves beside its output.
_UNFINISHED = re.compile(r"\..*|_SUCCESS|.*(~|\.(tmp|temp|part|partial|filepart|crdownload|swp))", re.IGNORECASE)

_MAY_READ = "make the file readable for the user that runs the job"
_ESCAPED = re.compile(r"\[([*?[])\]")  # as glob.escape writes them


@dataclass(frozen=True, slots=True)
class Input:
    """One file as it was when the run was planned. `state` changes whenever somebody writes to it.

    `path` is where it can be read, `url` where it came from if that is elsewhere. `place` is its name in the folder in
    which its feed looks, which may move.
    """

    path: Path
    sha256: str
    state: tuple[int, int, int]
    layout: Layout = field(default_factory=Layout)
    url: str = ""
    place: str = ""

    @property
    def name(self) -> str:
        """What people call it by."""
        return self.url or str(self.path)


class Position:
    """How far a file was read: bytes of it as it lies on disk. Of Parquet nothing is known until the end."""

    def __init__(self) -> None:
        self._file: BinaryIO | None = None

    def follow(self, file: BinaryIO) -> None:
        self._file = file

    def bytes(self) -> int:
        return 0 if self._file is None or self._file.closed else self._file.tell()


@dataclass(frozen=True, slots=True)
class Gathered:
    """What a feed's pattern names at one moment. Passed over: `unfinished` files by their name, `unsettled` ones
    because they were written to less than `settle_seconds` ago, `older` ones on request.
    """

    sources: list[Input]
    unfinished: int = 0
    unsettled: int = 0
    older: int = 0


@contextmanager
def gather(
    feed: Feed,
    copies: Path,
    now: int,
    meter: Meter,
    *,
    known: Callable[[Mapping[str, str]], Collection[str]],
    memory: Path | None = None,
    since: int = 0,
) -> Iterator[Gathered]:
    """The inputs of a feed, sorted by name, in `now` (milliseconds). Those last written to before `since` are passed
    over.

    `copies` is a folder of the run's own for what is brought from elsewhere; it goes at the end, and what a killed
    process left there goes first. `known` tells which objects, given by place with their SHA-256, need no copy, and
    `memory` is a file that keeps the SHA-256 of objects from run to run; None: nothing is kept.
    """
    _clear(copies)
    try:
        if feed.inputs.startswith(SCHEME):
            yield _from_bucket(feed, copies, meter, known=known, memory=Memory(memory), since=since)
        else:
            yield _from_folder(feed, now, meter, since)
    finally:
        _clear(copies)


def _from_folder(feed: Feed, now: int, meter: Meter, since: int) -> Gathered:
    matches = _matches(feed.inputs)
    finished = [path for path in matches if not is_unfinished(path.name)]
    settled = [path for path in finished if _is_settled(path, feed.settle_seconds, now)]
    wanted = [path for path in settled if not since or path.stat().st_mtime_ns >= since * 1_000_000]
    step = meter.step("looking at inputs", len(wanted))
    folder, layout = _folder(feed.inputs), layout_of(feed)
    sources = [
        replace(source, layout=layout, place=source.path.relative_to(folder).as_posix())
        for source in _counted(map(fingerprint, wanted), step)
    ]
    passed_over = (len(matches) - len(finished), len(finished) - len(settled), len(settled) - len(wanted))
    return Gathered(sources, *passed_over)


def _from_bucket(
    feed: Feed,
    copies: Path,
    meter: Meter,
    *,
    known: Callable[[Mapping[str, str]], Collection[str]],
    memory: Memory,
    since: int,
) -> Gathered:
    bucket, layout = _bucket(feed), layout_of(feed)
    listed = bucket.objects()
    finished = [entry for entry in listed if not is_unfinished(entry.key.rpartition("/")[2])]
    remembered = {entry: sha256 for entry in finished if (sha256 := memory.sha256(entry))}
    needless = known({bucket.place(entry): sha256 for entry, sha256 in remembered.items()})
    wanted = [entry for entry in finished if not since or entry.modified_ms >= since]
    step = meter.step("fetching inputs", len(wanted))
    sources: dict[RemoteObject, Input] = {}
    for number, entry in enumerate(_counted(wanted, step)):
        # under its own name, which tells the format
        path, place = copies / str(number) / entry.key.rpartition("/")[2], bucket.place(entry)
        if place in needless:
            sources[entry] = Input(path, remembered[entry], (0, 0, 0), layout, entry.url, place)
            continue
        path.parent.mkdir(parents=True)
        sha256 = bucket.copy(entry, path)
        sources[entry] = Input(path, sha256, _state(path.stat()), layout, entry.url, place)
    memory.keep(remembered | {entry: source.sha256 for entry, source in sources.items()})
    return Gathered(list(sources.values()), len(listed) - len(finished), older=len(finished) - len(wanted))


def _bucket(feed: Feed) -> "Bucket":
    from reconcile.inputs.bucket import Bucket  # noqa: PLC0415 - boto3 loads in a fifth of a second

    return Bucket(feed)


class Listed(NamedTuple):
    """A file or object as a listing tells of it: when it was last written to, in milliseconds, and its bytes."""

    name: str
    modified_at: int
    size: int


def listed(feed: Feed) -> list[Listed]:
    """What a feed's pattern names, unfinished files left out; nothing is read. Raises what `gather` raises."""
    if feed.inputs.startswith(SCHEME):
        entries = [Listed(entry.url, entry.modified_ms, entry.size) for entry in _bucket(feed).objects()]
    else:
        found = [(path, path.stat()) for path in _matches(feed.inputs)]
        entries = [Listed(str(path), state.st_mtime_ns // 1_000_000, state.st_size) for path, state in found]
    return [entry for entry in entries if not is_unfinished(entry.name.rpartition("/")[2])]


def is_unfinished(name: str) -> bool:
    """Whether a file's name says that it is still being written, or hidden."""
    return _UNFINISHED.fullmatch(name) is not None


def discover(pattern: str) -> list[Path]:
    """The files that match a glob, sorted by name, unfinished ones left out.

    Raises ConfigError if the folder to look in does not exist.
    """
    return [path for path in _matches(pattern) if not is_unfinished(path.name)]


def _matches(pattern: str) -> list[Path]:
    found = sorted(Path(name) for name in glob.glob(pattern, recursive=True))
    files = [path for path in found if _is_file(path)]
    if not files and (fault := _why_none(pattern)):
        raise ConfigError("feeds.inputs", [f'"{pattern}": {fault}'])
    return files


def _is_file(path: Path) -> bool:
    """Raises InputRefused for what can't be told, and for a link that names a file which is not there."""
    try:
        if path.is_symlink() and not path.exists() and not is_unfinished(path.name):
            raise InputRefused(f"{path}: a link to what is not there", mend="bring back what it names, or remove it")
        return path.is_file()
    except OSError as error:
        raise InputRefused(f"{path}: {error.strerror}", mend=_MAY_READ) from None


def _why_none(pattern: str) -> str:
    """What is wrong where no file matches, if anything is: a glob finds nothing where it may not look."""
    path, folder = _literal(pattern), _folder(pattern)
    try:
        if path is not None and path.is_dir():
            return f"is a folder; for the files in it say {path.name}/*"
        os.scandir(folder).close()
    except (FileNotFoundError, NotADirectoryError):
        return f"the folder {folder} does not exist; create it or mend the path"
    except OSError as error:
        return f"the folder {folder}: {error.strerror}; let the user that runs the job list it"
    return ""


def _folder(pattern: str) -> Path:
    """In which all lies that it names."""
    return next(folder for parent in Path(pattern).parents if (folder := _literal(str(parent))))


def _literal(pattern: str) -> Path | None:
    """The one path that it names, in which what is escaped is no pattern; None where it may name several."""
    return None if glob.has_magic(_ESCAPED.sub("", pattern)) else Path(_ESCAPED.sub(r"\1", pattern))


def _is_settled(path: Path, seconds: int, now: int) -> bool:
    """A file that went away meanwhile is not."""
    try:
        return not seconds or now - path.stat().st_mtime_ns // 1_000_000 >= seconds * 1000
    except FileNotFoundError:
        return False


def fingerprint(path: Path) -> Input:
    """Hash the file's bytes: the same content under another name is the same input.

    The name has to be UTF-8, as it goes into the ledger and into reports.
    """
    name = os.fsencode(path).decode(errors="backslashreplace")
    if name != str(path):
        raise InputRefused(f"{name}: the name is not UTF-8", mend="rename the file")
    try:
        with path.open("rb") as file:
            state = _state(os.fstat(file.fileno()))
            digest = hashlib.file_digest(file, "sha256").hexdigest()
    except OSError as error:
        raise InputRefused(f"{path}: {error.strerror}", mend=_MAY_READ) from None
    return Input(path, digest, state)


def check_unchanged(source: Input) -> None:
    """Raise InputChanging if the file was written to, replaced or removed since its fingerprint was taken."""
    try:
        state = _state(source.path.stat())
    except FileNotFoundError:
        state = None
    if state != source.state:
        raise InputChanging(
            f"{source.path}: was written to while it was read",
            mend="run again when the file is complete; best write it under another name and rename it into place",
        )


def _state(stat: os.stat_result) -> tuple[int, int, int]:
    return stat.st_ino, stat.st_size, stat.st_mtime_ns


def read(source: Input, plan: Plan, position: Position | None = None) -> Iterator[Chunk]:
    """The records of a file in order; columns are those of the plan, the ID first. `position` tells how far it is.

    Raises InputRefused for a file that can't be used as a whole.
    """
    columns, layout = (plan.id_column, *plan.columns), source.layout
    kind, opener = _format(source), _opener(source, position)
    try:
        if kind == "parquet":
            yield from parquet.read(source.path, layout, columns)
        elif kind == "jsonl":
            with closing(opener()) as stream:
                yield from jsonl.read(stream, layout.alternatives(columns))
        else:
            yield from delimited.read(opener, _dialect(source), layout, columns)
    except ValueError as error:
        raise InputRefused(
            f"{source.name}: {error}", mend="mend the file, or the feed's columns, and run again"
        ) from None
    except (EOFError, igzip.BadGzipFile, cast(type[Exception], isal_zlib.error)) as error:
        raise InputRefused(
            f"{source.name}: the gzip data are broken or cut off ({error})", mend="send the file again, complete"
        ) from None
    except OSError as error:
        raise InputRefused(f"{source.name}: {error}", mend="make the file readable and run again") from None


def line_numbers(source: Input, ordinals: Sequence[int]) -> dict[int, int]:
    """The line (Parquet: row) on which each of these records starts, counted from 1."""
    if _format(source) not in _DELIMITERS:
        return {ordinal: ordinal + 1 for ordinal in ordinals}
    return delimited.line_numbers(_opener(source), _dialect(source), ordinals)


def _dialect(source: Input) -> Dialect:
    return delimited.dialect_of(_opener(source), _DELIMITERS[_format(source)], source.layout)


def _format(source: Input) -> str:
    name = source.path.name.lower()
    kind = name.removesuffix(_GZIP).rpartition(".")[2]
    if kind not in _FORMATS or (kind == "parquet" and name.endswith(_GZIP)):
        raise InputRefused(
            f"{source.name}: can't tell the format from the name",
            mend="name it .csv, .tsv, .jsonl (each also with .gz) or .parquet, or narrow the feed's inputs",
        )
    return kind


def _opener(source: Input, position: Position | None = None) -> Callable[[], BinaryIO]:
    """Opens the file as plain text in UTF-8, whatever it is packed in and written in."""

    def opened() -> BinaryIO:
        packed = source.path.name.lower().endswith(_GZIP)
        file = igzip.IGzipFile(source.path, "rb") if packed else source.path.open("rb")  # type: ignore[no-untyped-call]
        if position:
            position.follow(cast(BinaryIO, file.fileobj if isinstance(file, igzip.IGzipFile) else file))
        return text.as_utf8(cast(BinaryIO, file), source.layout.encoding)

    return opened


def _counted(things: Iterable[_T], step: Step) -> Iterator[_T]:
    for thing in things:
        yield thing
        step.advance(1)


def _clear(folder: Path) -> None:
    if folder.exists():
        shutil.rmtree(folder)
