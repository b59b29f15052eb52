"""Where an export lies: files, globs, folders, buckets, SFTP servers. What is elsewhere is copied to be read."""

import fnmatch
import glob
import re
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

from idsync.errors import ConfigError, UsageError
from idsync.settings import Settings, SftpDestination
from reconcile import inputs
from reconcile.delivery.byname import joined
from reconcile.delivery.sftp import SftpDelivery
from reconcile.errors import InputUnavailable
from reconcile.inputs.bucket import Bucket
from reconcile.inputs.remote import SCHEME
from reconcile.progress import Meter
from reconcile.segments import names
from reconcile.segments.reading import Part

SFTP = "sftp://"
CHUNK = 1 << 20
_READ_AHEAD = 64  # requests under way
_SFTP_URL = re.compile(r"sftp://(?:[^@/]*@)?(\[[^\]]+\]|[^/:]+)(?::([0-9]{1,5}))?(/.*)?")


class Place(NamedTuple):
    """A pattern of a bucket, as a feed has them; who asks and where comes from the AWS tools' own settings."""

    inputs: str
    inputs_endpoint_url: str | None = None
    inputs_region: str | None = None


def gather(settings: Settings, given: Sequence[str], copies: Path, meter: Meter) -> list[Part]:
    """Data and control files, each once, those of other machines as copies in `copies`.

    Raises UsageError for what is not there, or two files of one name, ConfigError, and InputUnavailable for what may
    pass.
    """
    found: dict[Path, Part] = {}
    for number, text in enumerate(given):
        folder = copies / str(number)
        for part in _of(settings, text, folder, meter):
            found.setdefault(part.path.resolve(), part)
    by_name: dict[str, Part] = {}
    for part in found.values():
        if (other := by_name.setdefault(part.name, part)) is not part:
            raise UsageError(f"{other.where} and {part.where} have one name", mend="name one of them")
    return list(by_name.values())


def _of(settings: Settings, text: str, folder: Path, meter: Meter) -> Iterator[Part]:
    path = Path(text).expanduser()
    if text.startswith(SCHEME):
        yield from _bucket(text, folder, meter)
    elif text.startswith(SFTP):
        yield from _server(*_destination(settings, text), folder, meter)
    elif path.is_dir():
        yield from (Part(each, str(each)) for each in sorted(path.iterdir()) if each.is_file() and _wanted(each.name))
    elif path.exists():
        yield Part(path, text)
        yield from _controls_beside(path)
    elif glob.has_magic(text):
        matches = [Path(name) for name in sorted(glob.glob(str(path), recursive=True))]
        files = [each for each in matches if each.is_file() and not inputs.is_unfinished(each.name)]
        if not files:
            raise UsageError(f"{text}: no file matches", mend="name the files of an export")
        for each in files:
            yield Part(each, str(each))
            yield from _controls_beside(each)
    elif isinstance(destination := settings.destination(text), SftpDestination):
        yield from _server(destination, joined(destination.folder or ".", "*"), folder, meter)
    else:
        raise UsageError(
            f"{text}: there is no such file, and no SFTP destination of that name",
            mend="name files, folders, s3://bucket/prefix*, sftp://host/folder/*, or a destination",
        )


def _wanted(name: str) -> bool:
    return (names.is_outbound(name) or names.is_control(name)) and not inputs.is_unfinished(name)


def _controls_beside(path: Path) -> Iterator[Part]:
    if not names.is_control(path.name):
        for name in names.control_names(path.name):
            if (control := path.with_name(name)).is_file():
                yield Part(control, str(control))


# --- elsewhere -------------------------------------------------------------------------------------------------------


def _bucket(pattern: str, folder: Path, meter: Meter) -> Iterator[Part]:
    _, _, key = pattern.removeprefix(SCHEME).partition("/")
    named = names.is_outbound(key) or names.is_control(key)
    bucket = Bucket(Place(pattern if glob.has_magic(pattern) or named else f"{pattern.rstrip('/')}/*"))
    try:
        wanted = [entry for entry in bucket.objects() if _wanted(entry.key.rpartition("/")[2])]
        if not wanted:
            raise UsageError(f"{pattern}: no outbound file is there", mend="name the objects of an export")
        step = meter.step("fetching", len(wanted))
        for number, entry in enumerate(wanted):
            path = folder / str(number) / entry.key.rpartition("/")[2]
            path.parent.mkdir(parents=True)
            bucket.copy(entry, path)
            step.advance(1)
            yield Part(path, entry.url)
    except ConfigError as error:
        raise ConfigError(pattern, error.faults) from None


def _destination(settings: Settings, url: str) -> tuple[SftpDestination, str]:
    """Who may log in there, and the server's key, stand in the configuration: the destination of this name or host."""
    match = _SFTP_URL.fullmatch(url)
    host, port, pattern = match.groups() if match else ("", None, None)
    for destination in settings.destinations:
        if isinstance(destination, SftpDestination):
            hosts = {destination.name, SftpDelivery(destination).host}
            if host.strip("[]") in hosts and port in {None, str(destination.port)}:
                path = pattern or joined(destination.folder or ".", "*")
                return destination, path if glob.has_magic(path) or _wanted(path.rpartition("/")[2]) else f"{path}/*"
    raise UsageError(
        f"{url}: no destination of kind sftp has this host",
        mend="user, key and host key are taken from a [[destinations]] table: add one; its name may stand for the host",
    )


def _server(destination: SftpDestination, pattern: str, folder: Path, meter: Meter) -> Iterator[Part]:
    directory, _, wildcard = pattern.rpartition("/")
    directory, delivery = directory or "/", SftpDelivery(destination)
    with delivery.session() as client:
        listed = client.listdir_attr(directory)
        wanted = sorted(
            entry.filename
            for entry in listed
            if _wanted(entry.filename) and fnmatch.fnmatchcase(entry.filename, wildcard)
        )
        if not wanted:
            raise UsageError(
                f"{delivery.where}/{pattern.lstrip('/')}: no outbound file is there", mend="name the files of an export"
            )
        step = meter.step("fetching", len(wanted))
        folder.mkdir(parents=True)
        for name in wanted:
            where = f"{delivery.where}/{joined(directory, name).lstrip('/')}"
            with client.open(joined(directory, name), "rb") as file, (folder / name).open("wb") as copy:
                size = file.stat().st_size
                file.prefetch(size, max_concurrent_requests=_READ_AHEAD)
                while piece := file.read(CHUNK):
                    copy.write(piece)
                if size is not None and copy.tell() != size:
                    raise InputUnavailable(f"{where}: {copy.tell():,} of {size:,} bytes came", mend="run again later")
            step.advance(1)
            yield Part(folder / name, where)
