"""The look into the store: which rule explains which unmatched record. Nothing is changed, nothing is matched.

What it costs is bounded on the side of the records: of more than SAMPLE_IDS different customer IDs only those with the
lowest MD5 are looked at, always the same ones, in whatever order they come. On the side of the store it takes one look
at every customer of the data source, as a large run does, and none where every record is explained without.
"""

from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path
from typing import NamedTuple, Protocol

import duckdb
import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from idsync.settings import DataSource, Settings
from idsync.store import DAY
from reconcile.errors import Undiagnosed
from reconcile.why import affixes
from reconcile.why.affixes import Affix
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
from reconcile.why.forms import RULES, loosest_of

SAMPLE_IDS = 100_000
_ALIKE = 10  # customers with one loosest form that are looked at; more would only be more doubt
_AFFIX_RECORDS, _AFFIX_MAPPINGS = 1_000, 20_000  # IDs among which affixes are looked for
_CHUNK = 200_000


class Exporter(Protocol):
    """What is needed of a `MappingStore`."""

    def export(
        self, dpid: int, now: int, *, customer_ids: Sequence[str] | None = None, latest_only: bool = False
    ) -> Iterator[pa.RecordBatch]: ...


def diagnose(
    unmatched: Iterable[pa.RecordBatch],
    store: Exporter,
    settings: Settings,
    source: DataSource,
    now: int,
    *,
    scratch: Path,
    memory_limit: str,
    matched_before: Iterable[pa.RecordBatch] = (),
    samples: int = 5,
    sample_ids: int = SAMPLE_IDS,
    total: int | None = None,
) -> Diagnosis:
    """Explain the records whose customer IDs are the first column of `unmatched`: strings without nulls, one a record,
    or as many records as a column `records` says. `total` records are there in all, if these are a sample already.

    `now` in milliseconds. `matched_before` has in its first column the customer IDs that earlier runs matched, in any
    order, repeats allowed. `scratch` must exist and be private to the run: what goes beyond `memory_limit` is spilled
    there. Of each finding `samples` pairs of IDs are kept. Raises StoreUnavailable and its kin, and Undiagnosed.
    """
    with _Tables(scratch, memory_limit) as tables, _spill_errors():
        given, drawn = tables.draw(unmatched, sample_ids)
        total = given if total is None else total
        search = _Search(store, drawn, samples)
        search.look_up(source.dpid, now - settings.store.mapping_ttl_days * DAY)
        search.look_among(matched_before)
        search.look_elsewhere([other for other in settings.data_sources if other.dpid != source.dpid], now)
        compared = search.compare(tables, source.dpid, now)
        return search.diagnosis(source.name, total, compared)


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

    def __init__(self, store: Exporter, drawn: Mapping[str, int], samples: int) -> None:
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

    def look_among(self, batches: Iterable[pa.RecordBatch]) -> None:
        """The very IDs among those of earlier runs."""
        known: set[str] = set()
        wanted = pa.array(self._left, pa.string())
        for batch in batches if self._left else ():
            column = batch.column(0).cast(pa.string())
            known.update(column.filter(pc.is_in(column, wanted)).to_pylist())
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

    def compare(self, tables: "_Tables", dpid: int, now: int) -> int:
        """The IDs of all customers of the data source; how many there were."""
        if not self._left:
            return 0
        compared = tables.load(self._store.export(dpid, now, latest_only=True))
        names = list(self._left)
        for customer_id, alike in zip(names, _alike(tables, names), strict=True):
            self._judge(customer_id, customer_id, alike, None)
        self._compare_affixes(tables)
        return compared

    def diagnosis(self, data_source: str, total: int, compared: int) -> Diagnosis:
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
        return Diagnosis(data_source, total, examined, len(self._drawn), compared, findings, unexplained)

    # --- within ----------------------------------------------------------------------------------------------------

    def _exported(self, dpid: int, now: int) -> Iterator[tuple[str, int]]:
        for batch in self._store.export(dpid, now, customer_ids=list(self._left), latest_only=True):
            yield from zip(batch.column(0).to_pylist(), batch.column(2).to_pylist(), strict=True)

    def _compare_affixes(self, tables: "_Tables") -> None:
        tried = list(self._left)[:_AFFIX_RECORDS]
        possible = affixes.candidates(tried, tables.some(_AFFIX_MAPPINGS))
        hits: defaultdict[Affix, set[str]] = defaultdict(set)
        for affix, customer_id, _, _ in _affixed(tables, tried, possible):
            hits[affix].add(customer_id)
        chosen = affixes.choose(hits, tried)
        for affix in chosen:
            for _, customer_id, text, alike in _affixed(tables, list(self._left), [affix]):
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


def _alike(tables: "_Tables", texts: Sequence[str]) -> Iterator[list[str]]:
    """For each text the customers with the same loosest form."""
    forms = loosest_of(pa.array(texts, pa.string())).to_pylist()
    found = tables.alike(forms)
    return (found.get(form, []) for form in forms)


def _affixed(
    tables: "_Tables", customer_ids: Sequence[str], tried: Sequence[Affix]
) -> Iterator[tuple[Affix, str, str, list[str]]]:
    """Each affix and ID that together come to the loosest form of some customers: what they come to, and these."""
    fitting = ((affix, name, affix.applied(name)) for name in customer_ids for affix in tried if affix.fits(name))
    while chunk := list(islice(fitting, _CHUNK)):
        for (affix, name, text), alike in zip(chunk, _alike(tables, [text for *_, text in chunk]), strict=True):
            if alike:
                yield affix, name, text, alike


class _Tables:
    """What does not fit into Python: customers of the store, by loosest form."""

    def __init__(self, scratch: Path, memory_limit: str) -> None:
        self._con = duckdb.connect(config={"memory_limit": memory_limit, "temp_directory": str(scratch)})
        self._con.execute("CREATE TABLE drawn (id VARCHAR, place UBIGINT, records BIGINT)")
        self._con.execute("CREATE TABLE known (id VARCHAR, form VARCHAR)")  # NULL where it is the ID itself

    def __enter__(self) -> "_Tables":
        return self

    def __exit__(self, *_: object) -> None:
        self._con.close()

    def draw(self, batches: Iterable[pa.RecordBatch], most: int) -> tuple[int, dict[str, int]]:
        """The number of records, and the `most` IDs of lowest MD5, lowest first, with all of their records.

        An ID that was ever left out has `most` others below it: so those kept were counted from their first record on.
        """
        total = rows = 0
        limit = 2**64 - 1
        for batch in batches:
            counted = "records" in batch.schema.names
            records = batch.column("records") if counted else pa.array(np.ones(len(batch), np.int64))
            total += int(pc.sum(records).as_py() or 0)
            self._con.register("batch", pa.table({"id": batch.column(0), "records": records}))
            self._con.execute(
                "INSERT INTO drawn SELECT id, md5_number_lower(id) AS place, sum(records)::BIGINT FROM batch"
                " WHERE place <= ? GROUP BY ALL",
                [limit],
            )
            self._con.unregister("batch")
            rows += len(batch)
            if rows > 2 * most + len(batch):
                limit, rows = self._thin(most), most
        self._thin(most)
        found = self._con.sql("SELECT id, records FROM drawn ORDER BY place, id").fetchall()
        return total, dict(found)

    def load(self, exported: Iterable[pa.RecordBatch]) -> int:
        count = 0
        for batch in exported:
            names = batch.column(0)
            forms = loosest_of(names)
            forms = pc.if_else(pc.equal(forms, names), pa.scalar(None, pa.string()), forms)
            self._con.register("batch", pa.table({"id": names, "form": forms}))
            self._con.execute("INSERT INTO known SELECT * FROM batch")
            self._con.unregister("batch")
            count += len(batch)
        return count

    def some(self, most: int) -> list[str]:
        """Customers at even distances in the order of the export, `most` or fewer."""
        (count,) = self._con.sql("SELECT count(*) FROM known").fetchall()[0]
        query = "SELECT id FROM known WHERE rowid % ? = 0 ORDER BY rowid"
        return [row[0] for row in self._con.execute(query, [-(-count // most) or 1]).fetchall()]

    def alike(self, forms: Iterable[str]) -> dict[str, list[str]]:
        """The customers of each loosest form, the first few in order."""
        self._con.register("wanted", pa.table({"form": pa.array(set(forms), pa.string())}))
        found: defaultdict[str, list[str]] = defaultdict(list)
        query = (
            "SELECT wanted.form, known.id FROM known JOIN wanted ON coalesce(known.form, known.id) = wanted.form"
            " QUALIFY row_number() OVER (PARTITION BY wanted.form ORDER BY known.id) <= ? ORDER BY ALL"
        )
        for form, customer_id in self._con.execute(query, [_ALIKE]).fetchall():
            found[form].append(customer_id)
        self._con.unregister("wanted")
        return found

    def _thin(self, most: int) -> int:
        """Keep `most` IDs; the highest place among them if there are so many."""
        self._con.execute(
            "CREATE OR REPLACE TABLE drawn AS SELECT id, place, sum(records)::BIGINT AS records FROM drawn"
            " GROUP BY id, place ORDER BY place, id LIMIT ?",
            [most],
        )
        count, highest = self._con.sql("SELECT count(*), max(place) FROM drawn").fetchall()[0]
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
