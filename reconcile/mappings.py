"""Mappings of some data sources in DuckDB, compared with those that were sent before, as the lines of ID-sync files."""

# ruff: noqa: S608  queries are built of DPIDs and quoted literals only

from collections.abc import Iterator, Sequence
from pathlib import Path

import duckdb
import pyarrow as pa

from idsync.settings import DataSource
from reconcile.engine import halves, sql
from reconcile.engine.duckdb import Guard
from reconcile.errors import RunRefused

BATCH_ROWS = 100_000


class Mappings:
    """The mappings of some data sources in DuckDB; what exceeds the memory limit spills into `scratch`.

    `new` are the devices and mappings to send, filled in by `compare`.
    """

    def __init__(self, sources: Sequence[DataSource], scratch: Path, memory_limit: str) -> None:
        self._dpids = [source.dpid for source in sources]
        self._con = duckdb.connect(config={"memory_limit": memory_limit, "temp_directory": str(scratch)})
        self._con.execute(
            "CREATE TABLE facts (customer_id VARCHAR, high UBIGINT, low UBIGINT, dpid BIGINT, last_seen BIGINT)"
        )
        self.rendered = 0

    def __enter__(self) -> "Mappings":
        return self

    def __exit__(self, *_: object) -> None:
        self._con.close()

    def load(self, dpid: int, batches: Iterator[pa.RecordBatch]) -> None:
        """Take in batches of a store's export."""
        source = Guard(halves.halved(batches))
        self._con.register("export", pa.RecordBatchReader.from_batches(halves.SCHEMA, source))
        try:
            self._con.execute(f"INSERT INTO facts SELECT customer_id, high, low, {dpid}, last_seen FROM export")
        except duckdb.Error as error:
            if source.error is not None:
                raise source.error from None
            raise _too_large(error) from None
        finally:
            self._con.unregister("export")

    def count(self) -> int:
        return self._value("SELECT count(*) FROM facts")

    def compare(self, sent: Sequence[Path], *, everything: bool) -> None:
        """Tell new mappings from those that were sent, which the tables `sent` hold."""
        if not sent or everything:
            self._execute("CREATE VIEW fresh AS FROM facts")
            return
        known = sql.reader("read_parquet", map(str, sent))
        self._execute(
            f"CREATE TABLE fresh AS FROM facts ANTI JOIN {known} AS known USING (customer_id, high, low, dpid)"
        )

    def count_new(self) -> int:
        return self._value("SELECT count(*) FROM fresh")

    def lines(self) -> Iterator[tuple[list[int], Iterator[pa.RecordBatch]]]:
        """For each combination of DPIDs that has any: batches of lines."""
        uuid = sql.UUID.replace("m.", "")
        if len(self._dpids) == 1:
            self.rendered = self.count_new()
            if self.rendered:
                yield self._dpids, self._stream(f"SELECT {uuid} || chr(9) || customer_id || chr(10) AS line FROM fresh")
            return
        places = range(len(self._dpids))
        self._execute(
            "CREATE TABLE ranked AS SELECT customer_id, high, low, dpid, row_number() OVER "
            "(PARTITION BY high, low, dpid ORDER BY last_seen DESC, customer_id) AS rank "
            "FROM facts SEMI JOIN fresh USING (high, low)"
        )
        columns = [f"max(customer_id) FILTER (dpid = {dpid}) AS c{place}" for place, dpid in enumerate(self._dpids)]
        filled = [
            f"coalesce(c{at}, first_value(c{at}) OVER (PARTITION BY high, low ORDER BY rank)) AS c{at}" for at in places
        ]
        has = " + ".join(f"CASE WHEN c{at} IS NULL THEN 0 ELSE {1 << at} END" for at in places)
        self._execute(
            f"CREATE TABLE rows AS SELECT *, {has} AS has FROM (SELECT high, low, {', '.join(filled)} FROM "
            f"(SELECT high, low, rank, {', '.join(columns)} FROM ranked GROUP BY high, low, rank))"
        )
        self.rendered = self._value("SELECT count(*) FROM rows")
        for (has_these,) in self._execute("SELECT DISTINCT has FROM rows ORDER BY has DESC").fetchall():
            line = f"concat_ws(chr(9), {uuid}, {', '.join(f'c{at}' for at in places)}) || chr(10) AS line"
            there = [dpid for place, dpid in enumerate(self._dpids) if has_these >> place & 1]
            yield there, self._stream(f"SELECT {line} FROM rows WHERE has = {has_these}")

    def write_sent(self, path: Path, now: int) -> None:
        """All mappings of now as a Parquet file of (customer_id, high, low, dpid, seen): what erasure and retention
        know of what a feed has sent, and the data source.
        """
        self._execute(
            f"COPY (SELECT customer_id, high, low, dpid, {now}::BIGINT AS seen FROM facts) "
            f"TO {sql.literal(str(path))} (FORMAT parquet, COMPRESSION zstd)"
        )

    def _stream(self, query: str) -> Iterator[pa.RecordBatch]:
        try:
            yield from self._con.sql(query).to_arrow_reader(BATCH_ROWS)
        except duckdb.Error as error:
            raise _too_large(error) from None

    def _execute(self, query: str) -> duckdb.DuckDBPyConnection:
        try:
            return self._con.execute(query)
        except duckdb.Error as error:
            raise _too_large(error) from None

    def _value(self, query: str) -> int:
        return int(self._execute(query).fetchall()[0][0])


def _too_large(error: duckdb.Error) -> Exception:
    """What can be mended by more room, told so; any other error as it is."""
    if not isinstance(error, duckdb.OutOfMemoryException):
        return error
    return RunRefused(
        f"sorting the mappings ran out of memory or of room to spill: {str(error).splitlines()[0]}",
        mend="raise reconcile.memory_limit, or free disk under reconcile.state_dir, and run again",
    )
