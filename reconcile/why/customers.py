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
    """The customers in a column of a table, each once in the rows that fulfil `condition`."""

    spelled = 0

    def __init__(self, con: duckdb.DuckDBPyConnection, table: str, column: str, condition: str = "true") -> None:
        self._con = con
        self._rows = f"(SELECT {column} AS id FROM {table} WHERE {condition})"
        ((self.compared,),) = con.sql(f"SELECT count(*) FROM {self._rows}").fetchall()
        odd = con.sql(f"SELECT id FROM {self._rows} WHERE NOT {IS_SIMPLE_SQL}").to_arrow_table()["id"].combine_chunks()
        self._odd = pa.table({"id": odd, "form": loosest_of(odd)})

    def some(self, most: int) -> list[str]:
        """At even distances in the order of the table."""
        numbered = f"SELECT id, row_number() OVER () AS place FROM {self._rows}"
        query = f"SELECT id FROM ({numbered}) WHERE place % ? = 0 ORDER BY place"
        return [row[0] for row in self._con.execute(query, [-(-self.compared // most) or 1]).fetchall()]

    def like(self, texts: Sequence[str]) -> Iterator[list[str]]:
        forms = loosest_of(pa.array(texts, pa.string()))
        self._con.register("forms", pa.table({"form": forms.unique()}))
        self._con.register("wanted", self._con.sql("SELECT hash(form) AS form FROM forms").to_arrow_table())
        # by their hashes first: to compare the texts of all takes twice as long, and so do two conditions
        likely = f"CASE WHEN {IS_SIMPLE_SQL} THEN hash({FORM_SQL}) END IN (FROM wanted)"
        simple = self._con.sql(f"SELECT id FROM {self._rows} WHERE {likely}").to_arrow_table()["id"].combine_chunks()
        for name in ("forms", "wanted"):
            self._con.unregister(name)
        found: defaultdict[str, list[str]] = defaultdict(list)
        known = pa.concat_tables([pa.table({"id": simple, "form": loosest_of(simple)}), self._odd])
        known = known.filter(pc.is_in(known["form"], forms)).sort_by("id")
        for customer_id, form in zip(known["id"].to_pylist(), known["form"].to_pylist(), strict=True):
            if len(alike := found[form]) < _ALIKE:
                alike.append(customer_id)
        return (found.get(form, []) for form in forms.to_pylist())


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
