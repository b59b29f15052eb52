"""DuckDB over a share of a run: all rules are those of `DuckEngine`, only what a share lacks is told here."""

# ruff: noqa: S608  as in reconcile.engine

from collections.abc import Iterator
from pathlib import Path

import pyarrow as pa

from reconcile.emails import EmailEngine
from reconcile.engine import queries, sql
from reconcile.engine.duckdb import DuckEngine
from reconcile.feed import Plan
from reconcile.spark import parcels
from reconcile.spark.parcels import COLLECTED_ROWS, Shares

_REACHED_SCHEMA = pa.schema([("customer_id", pa.string()), ("other_id", pa.string())])


class ShareEngine(DuckEngine):
    """Of the customers, or, if it `is_routed`, of the users.

    A customer's devices may fall into several shares of the users: each has the customer's records, and one of them,
    that of the latest device, counts them.
    """

    is_routed = False

    def __init__(self, plan: Plan, scratch: Path, memory_limit: str, threads: int) -> None:
        super().__init__(plan, scratch, memory_limit)
        self._con.execute(f"SET threads = {threads}")
        self.suspects: list[tuple[int, int]] = []
        self.mappings = 0

    def stage_suspects(self, batches: Iterator[pa.RecordBatch]) -> None:
        """Take in records among which some may break a rule."""
        self.stage(self._noted(batches))

    def _noted(self, batches: Iterator[pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
        for batch in batches:
            if len(batch):
                self.suspects.append((batch["seq"][0].as_py(), batch["seq"][-1].as_py()))
            yield batch

    def load_mappings(self, batches: Iterator[pa.RecordBatch]) -> int:
        self.mappings = super().load_mappings(batches)
        return self.mappings

    def load_reached(self, batches: Iterator[pa.RecordBatch]) -> None:
        """Take in, in place of mappings, what `reached` gives of several shares of the devices."""
        self._insert(f"CREATE TABLE mappings AS {queries.reached(self._plan, 'source')}", _REACHED_SCHEMA, batches)

    def load_routed(self, batches: Iterator[pa.RecordBatch]) -> None:
        """Take in, in place of mappings, what `routed_mappings` gives; this is a share of the users from now on."""
        self._insert("CREATE TABLE mappings AS FROM source", _routed_schema(self._plan), batches)
        self.is_routed = True

    def count(self) -> int:
        """How many records are counted here."""
        if not (self.is_routed and self._plan.every_device):
            return super().count()
        elsewhere = "SELECT customer_id FROM mappings GROUP BY customer_id HAVING NOT bool_or(latest)"
        return int(self._value(f"SELECT count(*) FROM records WHERE id NOT IN ({elsewhere})"))

    def reached(self) -> Iterator[pa.Table]:
        """After `load_others`: the customers with IDs of the other data source that devices of this share have."""
        query = f"SELECT {', '.join(_REACHED_SCHEMA.names)} FROM mappings"
        for batch in self._con.sql(query).to_arrow_reader(COLLECTED_ROWS):
            yield pa.Table.from_batches([batch])

    def routed_mappings(self, shares: int) -> Iterator[tuple[pa.Table, Shares]]:
        """The mappings of the customers that have records, each with its share of the users."""
        columns = ", ".join(_routed_schema(self._plan).names)
        return self._routed(
            f"SELECT {columns}, {self._user_share(shares)} FROM mappings SEMI JOIN records ON id = customer_id"
        )

    def routed_records(self, shares: int) -> Iterator[tuple[pa.Table, Shares]]:
        """Every record for each share that has a user of it; those without a user go by their customer."""
        alone, of_user = parcels.customer_share("id", shares), self._user_share(shares)
        share = f"CASE WHEN customer_id IS NULL THEN {alone} ELSE {of_user} END"
        once = "DISTINCT" if self._plan.every_device else ""
        columns = ", ".join(sql.record_columns(self._plan))
        return self._routed(f"SELECT {once} {columns}, {share} FROM records LEFT JOIN mappings ON id = customer_id")

    def _user_share(self, shares: int) -> str:
        if self._plan.by_uuid:
            return parcels.uuid_share(shares)
        return parcels.customer_share(queries.user_columns(self._plan), shares)

    def _routed(self, query: str) -> Iterator[tuple[pa.Table, Shares]]:
        """Rows whose last column is the share."""
        for batch in self._con.sql(query).to_arrow_reader(COLLECTED_ROWS):
            rows = pa.Table.from_batches([batch])
            last = rows.num_columns - 1
            yield rows.remove_column(last), rows[last].to_numpy()


class EmailShare(ShareEngine, EmailEngine):
    """Of the customers. Their records come with hashes: addresses do not leave the task that reads them."""

    def stage(self, batches: Iterator[pa.RecordBatch]) -> int:
        return DuckEngine.stage(self, batches)


def _routed_schema(plan: Plan) -> pa.Schema:
    user = [(name, pa.uint64() if plan.by_uuid else pa.string()) for name in queries.user_columns(plan).split(", ")]
    return pa.schema([("customer_id", pa.string()), *user, *[("latest", pa.bool_())] * plan.every_device])
