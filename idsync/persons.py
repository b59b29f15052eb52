"""Whom a command is about: a customer, a device, or all that a CSV file names."""

import csv
import sys
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import NamedTuple, TextIO

from idsync import ids
from idsync.errors import UsageError
from idsync.settings import DataSource, Settings

COLUMNS = ("data_source", "customer_id", "uuid")
_FAULTS_SHOWN = 20
_NOT_UTF8 = "the customer ID is not valid UTF-8"


class Person(NamedTuple):
    """A customer of a data source, or (`source` is None) a device."""

    source: DataSource | None
    customer_id: str
    uuid: str

    @property
    def customers(self) -> tuple[tuple[int, str], ...]:
        return ((self.source.dpid, self.customer_id),) if self.source else ()

    @property
    def uuids(self) -> tuple[str, ...]:
        return () if self.source else (self.uuid,)

    def as_dict(self) -> dict[str, object]:
        if self.source is None:
            return {"uuid": self.uuid}
        return {"data_source": self.source.name, "dpid": self.source.dpid, "customer_id": self.customer_id}


def data_source(settings: Settings, text: str) -> DataSource:
    """By name, DPID or integration code. Raises UsageError."""
    dpid = ids.parse_dpid(text)
    for source in settings.data_sources:
        if text in {source.name, source.integration_code} or dpid == source.dpid:
            return source
    known = ", ".join(f"{source.name} ({source.dpid})" for source in settings.data_sources)
    raise UsageError(f'there is no data source "{text}"', mend=f"known here: {known}")


def source_of(settings: Settings, named: str, customer_id: str) -> DataSource:
    """The data source of a customer. Raises UsageError, also for an ID that the endpoint refuses."""
    source = data_source(settings, named)
    if reason := _fault(source, customer_id):
        raise UsageError(reason, mend="the endpoint refuses such an ID, so none is stored")
    return source


def customer(settings: Settings, named: str, customer_id: str, *, storable: bool) -> Person:
    """`storable`: only with an ID that the endpoint takes. Others are not in the store, but may stand among rejects."""
    if storable:
        return Person(source_of(settings, named, customer_id), customer_id, "")
    source = data_source(settings, named)
    if not (customer_id and _is_utf8(customer_id)):
        raise UsageError(_NOT_UTF8 if customer_id else "the customer ID is empty", mend="give it as it was received")
    return Person(source, customer_id, "")


def _fault(source: DataSource, customer_id: str) -> str:
    """Why this can be no customer ID of a data source; "" if it can."""
    if not _is_utf8(customer_id):
        return _NOT_UTF8
    reason = ids.customer_id_fault(customer_id, source.id_rules)
    return ids.EXPLANATIONS[reason] if reason else ""


def _is_utf8(text: str) -> bool:
    """Bytes of a command line that are not come as lone surrogates."""
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True


def device(uuid: str) -> Person:
    if not ids.is_uuid(uuid):
        raise UsageError(f"--uuid must be {ids.UUID_DIGITS} decimal digits", mend="copy it whole, leading zeros too")
    return Person(None, "", uuid)


def read_csv(settings: Settings, path: Path, *, storable: bool) -> list[Person]:
    """Of a file with a header, in UTF-8, `-` for standard input: data_source and customer_id on a row, or uuid.

    Raises UsageError with every fault by its line; no ID is quoted. `storable`: see `customer`.
    """
    try:
        with _opened(path) as file:
            return _people(settings, file, "standard input" if str(path) == "-" else str(path), storable=storable)
    except OSError as error:
        raise UsageError(f"{path}: {error.strerror}", mend="name a CSV file that this user may read") from None
    except UnicodeDecodeError:
        raise UsageError(f"{path}: not UTF-8", mend="save it as UTF-8") from None


def _opened(path: Path) -> TextIO:
    if str(path) == "-":
        return open(sys.stdin.fileno(), encoding="utf-8-sig", newline="", closefd=False)
    return path.open(encoding="utf-8-sig", newline="")


def _people(settings: Settings, file: TextIO, name: str, *, storable: bool) -> list[Person]:
    """Strictly read: what two readers of CSV understand differently could name somebody else."""
    rows = csv.DictReader(file, strict=True)
    people: dict[Person, None] = {}
    faults = []
    try:
        header = list(rows.fieldnames or ())
        if not header or not set(header) <= set(COLUMNS) or len(set(header)) < len(header):
            raise UsageError(
                f"{name}: the first line must name columns of {', '.join(COLUMNS)}, each once, and no others",
                mend="data_source and customer_id, or uuid, or all three",
            )
        for row in rows:
            try:
                people[_person(settings, row, storable=storable)] = None
            except UsageError as error:
                faults.append(f"line {rows.line_num}: {error.problem}")
    except csv.Error:
        faults.append(f"line {rows.reader.line_num}: its quotes do not match, or a value is too long")
    if faults:
        raise UsageError(f"{name}: {_listed(faults)}", mend="mend these lines; nothing was done")
    return list(people)


def _person(settings: Settings, row: dict[str | None, str | None], *, storable: bool) -> Person:
    if None in row:
        raise UsageError("there are more values than columns; quote those that hold a comma", mend="")
    named, customer_id, uuid = (row.get(name) or "" for name in COLUMNS)
    if uuid and not named and not customer_id:
        return device(uuid)
    if uuid or not (named and customer_id):
        raise UsageError("give data_source and customer_id, or uuid alone", mend="")
    return customer(settings, named, customer_id, storable=storable)


def _listed(faults: Sequence[str]) -> str:
    more = len(faults) - _FAULTS_SHOWN
    return "; ".join([*faults[:_FAULTS_SHOWN], *([f"and {more:,} more"] if more > 0 else [])])


def all_customers(people: Iterable[Person]) -> tuple[tuple[int, str], ...]:
    return tuple(customer for person in people for customer in person.customers)


def all_uuids(people: Iterable[Person]) -> tuple[str, ...]:
    return tuple(uuid for person in people for uuid in person.uuids)
