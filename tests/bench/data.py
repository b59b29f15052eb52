"""Seeded data for the benchmarks: a CSV of records, and mappings for seven tenths of them as Parquet."""

from pathlib import Path

import duckdb

DPID = 12345
SEEN = 1_790_000_000_000
SIGNALS = ("gender", "tier", "city")
TRAITS = "traits"

# One to one over all numbers used here, in no order: 18 characters, as customer IDs often are.
_CUSTOMER = "'C' || lpad(((i::HUGEINT * 61680670010987651) % 100000000000000000)::VARCHAR, 17, '0')"
_UUID = " || ".join(f"lpad((hash(i, {salt}) % 10000000000000000000)::VARCHAR, 19, '0')" for salt in (7, 8))


def _one_of(salt: int, *values: str) -> str:
    cases = " ".join(f"WHEN {number} THEN '{value}'" for number, value in enumerate(values))
    return f"CASE hash(i, {salt}) % {len(values)} {cases} END"


def records(numbers: str, *, repeats: int = 1) -> str:
    """A query for records of about 43 bytes, `repeats` a customer; `numbers` is a table function of one column."""
    customer = _CUSTOMER.replace("i::", f"(i // {repeats})::")
    return (
        f"SELECT {customer} AS customer_id, {_one_of(1, 'female', 'male', 'x')} AS gender,"
        f" {_one_of(2, 'gold', 'silver', 'bronze', '')} AS tier,"
        f" {_one_of(5, 'Berlin', 'Hamburg', 'Köln', 'München', 'Bern')} AS city,"
        f" (100000 + hash(i, 3) % 1000)::VARCHAR AS {TRAITS} FROM {numbers} t(i)"
    )


def mappings(numbers: str) -> str:
    """A query for the mapping of each customer in `numbers`."""
    return f"SELECT {_CUSTOMER} AS customer_id, {_UUID} AS uuid FROM {numbers} t(i)"


def make(folder: Path, count: int, *, repeats: int = 1) -> tuple[Path, Path]:
    """feed.csv with `count` records, and mappings.parquet for seven tenths of their customers."""
    feed, known = folder / f"feed-{count}-{repeats}.csv", folder / f"mappings-{count // repeats}.parquet"
    with duckdb.connect() as con:
        if not feed.exists():
            con.execute(f"COPY ({records(f'range({count})', repeats=repeats)}) TO '{feed}' (HEADER)")
        if not known.exists():
            query = f"{mappings(f'range({count // repeats})')} WHERE hash(i, 9) % 10 < 7"
            con.execute(f"COPY ({query}) TO '{known}'")
    return feed, known
