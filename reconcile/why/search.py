"""The look into the store: which rule explains which unmatched record. Nothing is changed, nothing is matched.

What it costs is bounded. On the side of the records: of more than SAMPLE_IDS different customer IDs only those with the
lowest MD5 are looked at, in whatever order they come. On the side of the store: all customers are compared where a run
has read them anyway, where there are few, or where somebody asks for it; otherwise the store is asked for the first
SPELLED_IDS of these IDs in their usual spellings. See `customers`.
"""

from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path
from typing import NamedTuple

import duckdb
import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from idsync.settings import DataSource, Settings
from idsync.store import DAY
from idsync.store.base import MappingStore
from reconcile.engine import sql
from reconcile.errors import Undiagnosed
from reconcile.why import affixes
from reconcile.why.affixes import Affix
from reconcile.why.customers import Compared, Customers, Spelled, loaded
from reconcile.why.diagnosis import (
    AFFIX,
    EXPIRED,
    MATCHED_BEFORE,
    ORDER,
    OTHER_SOURCE,
    SYNCED_SINCE,
    Diagnosis,
    Finding,
    Pair,
    shares,
)
from reconcile.why.forms import RULES

SAMPLE_IDS = 100_000
SPELLED_IDS = 10_000
FEW_CUSTOMERS = 200_000  # so many are read for this alone
_AFFIX_RECORDS, _AFFIX_MAPPINGS = 1_000, 10_000  # IDs among which affixes are looked for
_CHUNK = 200_000


def diagnose(
    unmatched: Iterable[pa.RecordBatch],
    store: MappingStore,
    settings: Settings,
    source: DataSource,
    now: int,
    *,
    scratch: Path,
    memory_limit: str,
    at_hand: Compared | None = None,
    thorough: bool = False,
    matched_before: Path | None = None,
    samples: int = 5,
    sample_ids: int | None = None,
    total: int | None = None,
) -> Diagnosis:
    """Explain the records whose customer IDs are the first column of `unmatched`: strings without nulls, one a record,
    or as many records as a column `records` says. `total` records are there in all, if these are a sample already.

    `now` in milliseconds. `at_hand` are all customers of the data source; without them, `thorough` reads them all from
    the store, and else it is asked for spellings where they are many. `matched_before` is a Parquet file whose column
    `customer_id` has the IDs that earlier runs matched, in any order, repeats allowed. `scratch` must exist and be
    private to the run: what goes beyond `memory_limit` is spilled there. Of each finding `samples` pairs of IDs are
    kept. Raises StoreUnavailable and its kin, and Undiagnosed.
    """
    if sample_ids is None:
        sample_ids = SAMPLE_IDS if at_hand or thorough else SPELLED_IDS
    with (
        duckdb.connect(config={"memory_limit": memory_limit, "temp_directory": str(scratch)}) as con,
        _spill_errors(),
    ):
        given, drawn = _draw(con, unmatched, sample_ids)
        total = given if total is None else total
        search = _Search(store, drawn, samples)
        search.look_up(source.dpid, now - settings.store.mapping_ttl_days * DAY)
        if matched_before:
            search.look_among(matched_before, con)
        search.look_elsewhere([other for other in settings.data_sources if other.dpid != source.dpid], now)
        if search.is_done:
            return search.diagnosis(source.name, total)
        customers = at_hand or _customers(con, store, source.dpid, now, thorough=thorough)
        search.compare(customers)
        return search.diagnosis(source.name, total, customers)


def _customers(
    con: duckdb.DuckDBPyConnection, store: MappingStore, dpid: int, now: int, *, thorough: bool
) -> Customers:
    exported = store.export(dpid, now, latest_only=True)
    if (found := loaded(con, exported, None if thorough else FEW_CUSTOMERS)) is not None:
        return found
    return Spelled(store, dpid, now)


class _Key(NamedTuple):
    """What findings are told apart by."""

    rule: str
    affix: Affix | None = None
    data_source: str | None = None


@dataclass(slots=True)
class _Tally:
    records: int = 0
    ids: int = 0
    ambiguous: int = 0
    pairs: list[Pair] = field(default_factory=list)


class _Search:
    """`left` are the IDs that nothing has explained so far, with their records; every step takes some away."""

    def __init__(self, store: MappingStore, drawn: Mapping[str, int], samples: int) -> None:
        self._store, self._samples = store, samples
        self._drawn = drawn
        self._left = dict(drawn)
        self._found: defaultdict[_Key, _Tally] = defaultdict(_Tally)

    def look_up(self, dpid: int, horizon: int) -> None:
        """The very IDs: an export as of the epoch has what is past its lifetime, too, where it is not yet swept.

        What is visible now was not when the run read the store.
        """
        seen = dict(self._exported(dpid, now=0)) if self._left else {}
        for customer_id in [customer_id for customer_id in self._left if customer_id in seen]:
            rule = SYNCED_SINCE if seen[customer_id] > horizon else EXPIRED
            self._settle(_Key(rule), customer_id, [customer_id])

    def look_among(self, file: Path, con: duckdb.DuckDBPyConnection) -> None:
        """The very IDs among those of earlier runs."""
        con.register("wanted", pa.table({"id": pa.array(self._left, pa.string())}))
        query = f"SELECT id FROM wanted WHERE id IN (SELECT customer_id FROM {sql.reader('read_parquet', [str(file)])})"  # noqa: S608
        known = {customer_id for (customer_id,) in con.execute(query).fetchall()}
        con.unregister("wanted")
        for customer_id in [customer_id for customer_id in self._left if customer_id in known]:
            self._settle(_Key(MATCHED_BEFORE), customer_id, [customer_id])

    def look_elsewhere(self, others: Sequence[DataSource], now: int) -> None:
        """The very IDs under other data sources; doubtful where there are several."""
        where: defaultdict[str, list[str]] = defaultdict(list)
        for other in others if self._left else ():
            for customer_id, _ in self._exported(other.dpid, now):
                where[customer_id].append(other.name)
        for customer_id in [customer_id for customer_id in self._left if customer_id in where]:
            names = where[customer_id]
            self._settle(_Key(OTHER_SOURCE, data_source=names[0]), customer_id, [customer_id], doubtful=len(names) > 1)

    @property
    def is_done(self) -> bool:
        return not self._left

    def compare(self, customers: Customers) -> None:
        names = list(self._left)
        for customer_id, alike in zip(names, customers.like(names), strict=True):
            if alike:
                self._judge(customer_id, customer_id, alike, None)
        self._compare_affixes(customers)

    def diagnosis(self, data_source: str, total: int, customers: Customers | None = None) -> Diagnosis:
        keys = sorted(
            self._found, key=lambda key: (ORDER.index(key.rule), -self._found[key].records, key[1] or (), key[2] or "")
        )
        tallies = [self._found[key] for key in keys]
        *records, unexplained = shares(total, [*(tally.records for tally in tallies), sum(self._left.values())])
        findings = tuple(
            Finding(
                key.rule,
                number,
                tally.records,
                tally.ids,
                tally.ambiguous,
                tuple(tally.pairs),
                affix=key.affix,
                data_source=key.data_source,
            )
            for key, tally, number in zip(keys, tallies, records, strict=True)
        )
        examined = sum(self._drawn.values())
        compared, spelled = (customers.compared, customers.spelled) if customers else (0, 0)
        return Diagnosis(data_source, total, examined, len(self._drawn), compared, findings, unexplained, spelled)

    # --- within ----------------------------------------------------------------------------------------------------

    def _exported(self, dpid: int, now: int) -> Iterator[tuple[str, int]]:
        for batch in self._store.export(dpid, now, customer_ids=list(self._left), latest_only=True):
            yield from zip(batch.column(0).to_pylist(), batch.column(2).to_pylist(), strict=True)

    def _compare_affixes(self, customers: Customers) -> None:
        tried = list(self._left)[:_AFFIX_RECORDS]
        known = customers.some(_AFFIX_MAPPINGS) if tried else []
        possible = list(dict.fromkeys([*affixes.candidates(tried, known), *affixes.telling(tried, known)]))
        hits: defaultdict[Affix, set[str]] = defaultdict(set)
        for affix, customer_id, _, _ in _affixed(customers, tried, possible):
            hits[affix].add(customer_id)
        chosen = affixes.choose(hits, tried)
        for affix in chosen:
            for _, customer_id, text, alike in _affixed(customers, list(self._left), [affix]):
                self._judge(customer_id, text, alike, affix)

    def _judge(self, customer_id: str, text: str, alike: Sequence[str], affix: Affix | None) -> None:
        """Settle the ID if `text`, which is it or made out of it, is by some rule the same as one of `alike`."""
        if affix is None and customer_id in alike:  # recorded between two looks at the store
            self._settle(_Key(SYNCED_SINCE), customer_id, [customer_id])
            return
        if affix is not None and text in alike:
            self._settle(_Key(AFFIX, affix), customer_id, [text])
            return
        for rule in RULES:
            if same := [other for other in alike if other != customer_id and rule.same(text, other)]:
                name = f"{AFFIX}+{rule.name}" if affix else rule.name
                self._settle(_Key(name, affix), customer_id, same)
                return

    def _settle(self, key: _Key, customer_id: str, mappings: Sequence[str], *, doubtful: bool = False) -> None:
        records = self._left.pop(customer_id)
        tally = self._found[key]
        tally.records += records
        tally.ids += 1
        tally.ambiguous += records if doubtful or len(mappings) > 1 else 0
        if len(tally.pairs) < self._samples:
            tally.pairs.append(Pair(customer_id, mappings[0]))


def _affixed(
    customers: Customers, customer_ids: Sequence[str], tried: Sequence[Affix]
) -> Iterator[tuple[Affix, str, str, list[str]]]:
    """Each affix and ID that together come to what some customers are like: what they come to, and these."""
    fitting = ((affix, name, affix.applied(name)) for name in customer_ids for affix in tried if affix.fits(name))
    while chunk := list(islice(fitting, _CHUNK)):
        for (affix, name, text), alike in zip(chunk, customers.like([text for *_, text in chunk]), strict=True):
            if alike:
                yield affix, name, text, alike


def _draw(con: duckdb.DuckDBPyConnection, batches: Iterable[pa.RecordBatch], most: int) -> tuple[int, dict[str, int]]:
    """The number of records, and the `most` IDs of lowest MD5, lowest first, with all of their records.

    An ID that was ever left out has `most` others below it: so those kept were counted from their first record on.
    """
    con.execute("CREATE TABLE drawn (id VARCHAR, place UBIGINT, records BIGINT)")
    total = rows = 0
    limit = 2**64 - 1
    for batch in batches:
        counted = "records" in batch.schema.names
        records = batch.column("records") if counted else pa.array(np.ones(len(batch), np.int64))
        total += int(pc.sum(records).as_py() or 0)
        con.register("batch", pa.table({"id": batch.column(0), "records": records}))
        con.execute(
            "INSERT INTO drawn SELECT id, md5_number_lower(id) AS place, sum(records)::BIGINT FROM batch"
            " WHERE place <= ? GROUP BY ALL",
            [limit],
        )
        con.unregister("batch")
        rows += len(batch)
        if rows > 2 * most + len(batch):
            limit, rows = _thin(con, most), most
    kept = "SELECT id, sum(records)::BIGINT FROM drawn GROUP BY id, place ORDER BY place, id LIMIT ?"
    return total, dict(con.execute(kept, [most]).fetchall())


def _thin(con: duckdb.DuckDBPyConnection, most: int) -> int:
    """Keep `most` IDs; the highest place among them if there are so many."""
    con.execute(
        "CREATE OR REPLACE TABLE drawn AS SELECT id, place, sum(records)::BIGINT AS records FROM drawn"
        " GROUP BY id, place ORDER BY place, id LIMIT ?",
        [most],
    )
    count, highest = con.sql("SELECT count(*), max(place) FROM drawn").fetchall()[0]
    return int(highest) if count == most else 2**64 - 1


@contextmanager
def _spill_errors() -> Iterator[None]:
    try:
        yield
    except (duckdb.OutOfMemoryException, duckdb.IOException) as error:
        raise Undiagnosed(
            f"the look at unmatched records ran out of memory or of room to spill: {str(error).splitlines()[0]}",
            mend="raise reconcile.memory_limit, or free disk under reconcile.state_dir; the run is not concerned",
        ) from None
