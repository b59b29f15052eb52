"""Where customers are looked for whose IDs are like those of unmatched records: two ways, by what is at hand.

Compared  all customers of the data source, in a table: the engine's of a run that has read all mappings, or one
          that is loaded for this alone
Spelled   the store, asked for each ID in the spellings that are usual: what it costs does not depend on its size
"""

# ruff: noqa: S608  queries are built of our own names and patterns only

from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence
from typing import Protocol

import duckdb
import pyarrow as pa
import pyarrow.compute as pc

from idsync.store.base import MappingStore
from reconcile.why.forms import FORM_SQL, IS_SIMPLE_SQL, common_lengths, loosest_of, spellings

_ALIKE = 10  # customers with one loosest form that are looked at; more would only be more doubt
_ASKED = 100_000  # spellings at a time
_SAMPLE = 10_000  # of a store, to see what IDs look like


class Customers(Protocol):
    """Those of a data source. `compared` of them were looked at, one by one; or `spelled` IDs were asked for."""

    compared: int
    spelled: int

    def some(self, most: int) -> list[str]:
        """`most` or fewer, from all over."""

    def like(self, texts: Sequence[str]) -> Iterator[list[str]]:
        """For each text the customers that may be the same by some rule, the first few in order."""


class Compared:
    """The customers in a column of a table, each once in the rows that fulfil `condition`; no row may come or go.

    The loosest form of each is hashed once: to compare hashes, and the texts of the few that are left, takes a fraction
    of the time.
    """

    spelled = 0

    def __init__(self, con: duckdb.DuckDBPyConnection, table: str, column: str, condition: str = "true") -> None:
        self._con = con
        self._customers = f"SELECT id FROM (SELECT {column} AS id, rowid AS place FROM {table})"
        form = f"CASE WHEN {IS_SIMPLE_SQL} THEN hash({FORM_SQL}) END"
        rows = f"SELECT {column} AS id, rowid AS place FROM {table} WHERE {condition}"
        con.execute(f"CREATE OR REPLACE TEMP TABLE forms AS SELECT place, {form} AS form FROM ({rows})")
        ((self.compared,),) = con.sql("SELECT count(*) FROM forms").fetchall()
        odd = self._texts("form IS NULL")
        self._odd = pa.table({"id": odd, "form": loosest_of(odd)})

    def some(self, most: int) -> list[str]:
        step = -(-self.compared // most) or 1
        found: list[str] = self._texts(f"rowid % {step} = 0").to_pylist()
        return found

    def like(self, texts: Sequence[str]) -> Iterator[list[str]]:
        forms = loosest_of(pa.array(texts, pa.string()))
        self._con.register("wanted", pa.table({"text": forms.unique()}))
        simple = self._texts("form IN (SELECT hash(text) FROM wanted)")
        self._con.unregister("wanted")
        found: defaultdict[str, list[str]] = defaultdict(list)
        known = pa.concat_tables([pa.table({"id": simple, "form": loosest_of(simple)}), self._odd])
        known = known.filter(pc.is_in(known["form"], forms)).sort_by("id")
        for customer_id, form in zip(known["id"].to_pylist(), known["form"].to_pylist(), strict=True):
            if len(alike := found[form]) < _ALIKE:
                alike.append(customer_id)
        return (found.get(form, []) for form in forms.to_pylist())

    def _texts(self, condition: str) -> pa.StringArray:
        """The customers of the rows of `forms` that fulfil it."""
        chosen = f"{self._customers} WHERE place IN (SELECT place FROM forms WHERE {condition})"
        return self._con.sql(chosen).to_arrow_table()["id"].combine_chunks()


def loaded(con: duckdb.DuckDBPyConnection, exported: Iterable[pa.RecordBatch], most: int | None) -> Compared | None:
    """All customers of an export with one row each; None where there are more than `most`."""
    con.execute("CREATE TABLE known (id VARCHAR)")
    count = 0
    for batch in exported:
        count += len(batch)
        if most is not None and count > most:
            con.execute("DROP TABLE known")
            return None
        con.register("batch", pa.table({"id": batch.column(0)}))
        con.execute("INSERT INTO known SELECT * FROM batch")
        con.unregister("batch")
    return Compared(con, "known", "id")


class Spelled:
    """See above. What is spelled otherwise is not found: an ID in mixed case, say, whose record is in upper case."""

    compared = 0

    def __init__(self, store: MappingStore, dpid: int, now: int) -> None:
        self._store, self._dpid, self._now = store, dpid, now
        self._sample = store.sample(dpid, now, _SAMPLE)
        self._lengths = common_lengths(self._sample)
        self.spelled = 0

    def some(self, most: int) -> list[str]:
        return self._sample[:: -(-len(self._sample) // most) or 1]

    def like(self, texts: Sequence[str]) -> Iterator[list[str]]:
        spelled = [spellings(text, self._lengths) for text in texts]
        asked = list(dict.fromkeys(spelling for each in spelled for spelling in each))
        self.spelled += len(asked)
        known: set[str] = set()
        for start in range(0, len(asked), _ASKED):
            wanted = asked[start : start + _ASKED]
            for batch in self._store.export(self._dpid, self._now, customer_ids=wanted, latest_only=True):
                known.update(batch.column(0).to_pylist())
        return (sorted(known.intersection(each))[:_ALIKE] for each in spelled)
