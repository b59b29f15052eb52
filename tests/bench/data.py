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


def make(folder: Path, records: int, *, repeats: int = 1) -> tuple[Path, Path]:
    """feed.csv with `records` records (`repeats` a customer), about 43 bytes each, and mappings.parquet."""
    feed, mappings = folder / f"feed-{records}-{repeats}.csv", folder / f"mappings-{records // repeats}.parquet"
    customer = _CUSTOMER.replace("i::", f"(i // {repeats})::")
    with duckdb.connect() as con:
        if not feed.exists():
            con.execute(
                f"COPY (SELECT {customer} AS customer_id, {_one_of(1, 'female', 'male', 'x')} AS gender,"
                f" {_one_of(2, 'gold', 'silver', 'bronze', '')} AS tier,"
                f" {_one_of(5, 'Berlin', 'Hamburg', 'Köln', 'München', 'Bern')} AS city,"
                f" (100000 + hash(i, 3) % 1000)::VARCHAR AS {TRAITS} FROM range({records}) t(i)) TO '{feed}' (HEADER)"
            )
        if not mappings.exists():
            con.execute(
                f"COPY (SELECT {_CUSTOMER} AS customer_id, {_UUID} AS uuid FROM range({records // repeats}) t(i)"
                f" WHERE hash(i, 9) % 10 < 7) TO '{mappings}'"
            )
    return feed, mappings
