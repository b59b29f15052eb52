"""Parcels: rows of (share, kind, place, body), whose body is an Arrow stream of many rows, or an account.

Which share a customer or a user falls into is told by its ID alone, in the same way on every machine.
"""

# ruff: noqa: S608  queries are made of numbers and of columns named here

import pickle
from collections.abc import Iterable, Iterator
from functools import cache
from itertools import groupby
from operator import itemgetter
from typing import Any, NamedTuple

import duckdb
import numpy as np
import pyarrow as pa

# In the order in which a task meets them. Others are mappings of another data source, suspects are records, too.
ACCOUNT, MAPPINGS, OTHERS, SENT, RECORDS, SUSPECTS = range(6)
SCHEMA = pa.schema(
    [
        pa.field("share", pa.int32(), nullable=False),
        pa.field("kind", pa.int32(), nullable=False),
        pa.field("place", pa.int64(), nullable=False),
        pa.field("body", pa.binary(), nullable=False),
    ]
)
TYPES = "share int not null, kind int not null, place bigint not null, body binary not null"
COLLECTED_ROWS = 250_000  # parted at a time: the more, the larger the parcels

Shares = np.ndarray[tuple[int], np.dtype[np.int32]]


class Parcel(NamedTuple):
    """`place`: parcels of a kind are taken in this order."""

    share: int
    kind: int
    place: int
    body: bytes


def packed(parcels: Iterable[Parcel]) -> Iterator[pa.RecordBatch]:
    """A batch for each, as Spark takes them."""
    for parcel in parcels:
        yield pa.RecordBatch.from_pylist([parcel._asdict()], schema=SCHEMA)


def unpacked(batches: Iterable[pa.RecordBatch]) -> Iterator[Parcel]:
    for batch in batches:
        for at in range(len(batch)):
            yield Parcel(*(column[at].as_py() for column in batch.columns))


def by_kind(parcels: Iterable[Parcel]) -> Iterator[tuple[int, Iterator[Parcel]]]:
    return groupby(parcels, key=itemgetter(1))


def account(told: object) -> Parcel:
    """On its way to the driver."""
    return Parcel(0, ACCOUNT, 0, pickle.dumps(told))


def told(parcel: Parcel) -> Any:
    """What an account tells. It was written by a task of the same run."""
    return pickle.loads(parcel.body)  # noqa: S301


def body(rows: pa.Table) -> bytes:
    sink = pa.BufferOutputStream()
    with pa.ipc.new_stream(sink, rows.schema) as stream:
        stream.write_table(rows)
    return bytes(sink.getvalue())


def batches(parcels: Iterable[Parcel]) -> Iterator[pa.RecordBatch]:
    for parcel in parcels:
        with pa.ipc.open_stream(parcel.body) as stream:
            yield from stream


def customer_share(column: str, shares: int) -> str:
    return f"(md5_number_lower({column}) % {shares})::INT"


def uuid_share(shares: int) -> str:
    """Of the columns `high` and `low`; each fits 64 bits, their sum might not."""
    return f"((high % {shares} + low % {shares}) % {shares})::INT"


def shares_of(column: pa.ChunkedArray, shares: int) -> Shares:
    """The share of each customer, or device."""
    if shares == 1:
        return np.zeros(len(column), np.int32)
    con = _reckoner()
    con.register("incoming", pa.table({"id": column}))
    query = f"SELECT {customer_share('id', shares)} AS share FROM incoming"
    found: Shares = con.sql(query).fetchnumpy()["share"]
    con.unregister("incoming")
    return found


@cache
def _reckoner() -> duckdb.DuckDBPyConnection:
    """One for all tasks of a process: to open it takes longer than a small share."""
    return duckdb.connect(config={"threads": 1})


def parted(rows: pa.Table, shares: Shares, kind: int, place: int) -> Iterator[Parcel]:
    """A parcel for each share that has any of the rows, which keep their order; there may be none."""
    if not len(rows):
        return
    order = np.argsort(shares, kind="stable")
    ordered = rows.take(pa.array(order))
    found, starts = np.unique(shares[order], return_index=True)
    for share, start, end in zip(found, starts, [*starts[1:], len(order)], strict=True):
        yield Parcel(int(share), kind, place, body(ordered.slice(start, end - start)))


def collected(batches: Iterable[pa.RecordBatch]) -> Iterator[pa.Table]:
    """Several at a time."""
    kept: list[pa.RecordBatch] = []
    for batch in batches:
        kept.append(batch)
        if sum(map(len, kept)) >= COLLECTED_ROWS:
            yield pa.Table.from_batches(kept)
            kept = []
    if kept:
        yield pa.Table.from_batches(kept)
