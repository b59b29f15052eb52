"""Files that tie customers to hashes of their e-mail addresses: from an address nothing but its hash goes any further.

    c2c_id_<DPID>_<DPID of the hashes>_<time>.sync[.<split>][.gz]      <customer ID><TAB><SHA-256>

Addresses become hashes as they are read. No device is asked for, so no record is unmatched: one is matched, or rejected
for what it says, and of a customer with too many addresses those records that bring one more.
"""

# ruff: noqa: S608  queries of constants only

from collections.abc import Collection, Iterable, Iterator, Sequence

import numpy as np
import pyarrow as pa

from reconcile import lines
from reconcile.engine.duckdb import DuckEngine
from reconcile.engine.outcome import Ints, Outcome, Reject, Sink, write_lines

_NO_ADDRESS = "?"  # no hash

_RANKED = """
    CREATE TABLE ranked AS SELECT *, row_number() OVER (PARTITION BY id ORDER BY first) AS place
    FROM (SELECT id, v0, min(seq) AS first FROM records WHERE v0 <> '' GROUP BY id, v0)
"""


class EmailEngine(DuckEngine):
    """See `DuckEngine`. The one column of values holds addresses, of which the table `records` has the hashes."""

    def stage(self, batches: Iterator[pa.RecordBatch]) -> int:
        return super().stage(map(hashed, batches))

    def take_faults(self, suspects: Sequence[tuple[int, int]]) -> list[Reject]:
        found = super().take_faults(suspects)
        faulty = f"CASE WHEN v0 = '{_NO_ADDRESS}' THEN 'email-invalid' WHEN id[-1] = ' ' THEN 'id-ends-in-space' END"
        values = self._rows(f"SELECT seq, id, {faulty} AS reason FROM records WHERE reason IS NOT NULL")
        self.drop(np.array([row[0] for row in values], dtype=np.int64))
        return sorted(found + [Reject(*row) for row in values], key=lambda reject: reject.seq)

    def take_opted_out_hashes(self, dpid: int, tokens: Collection[str]) -> Ints:
        """As `take_opted_out`, by the hashes as IDs of their data source."""
        return self._take_opted_out(dpid, tokens, "v0")

    def render(self, sink: Sink) -> Outcome:
        staged = self.count()
        outcome = Outcome(records=staged, matched=staged)
        outcome.silent = int(self._value("SELECT count(*) FROM records WHERE v0 = ''"))
        self._rows(_RANKED)
        most = lines.MAX_HASHES_PER_CUSTOMER
        surplus = f"SELECT seq, id FROM records SEMI JOIN (FROM ranked WHERE place > {most}) USING (id, v0)"
        outcome.rejects = [Reject(seq, id_, "too-many-emails") for seq, id_ in self._rows(surplus)]
        line = "concat(id, chr(9), v0, chr(10)) AS line"
        for batch in self._stream(f"SELECT {line} FROM ranked WHERE place <= {most} ORDER BY first"):
            outcome.lines += write_lines(batch, sink)
        return outcome


def without_addresses(rejects: Iterable[Reject]) -> list[Reject]:
    """The same; what may be an address in place of a customer ID, as in a file with its columns mixed up, is gone."""
    return [
        Reject(reject.seq, "", reject.reason) if "@" in reject.customer_id or "%40" in reject.customer_id else reject
        for reject in rejects
    ]


def hashed(batch: pa.RecordBatch) -> pa.RecordBatch:
    """Records with hashes in place of addresses."""
    seqs, ids, addresses = batch.columns
    hashes = pa.array(map(_hash, addresses.to_pylist()), pa.string(), size=len(batch))
    return pa.RecordBatch.from_arrays([seqs, ids, hashes], schema=batch.schema)


def _hash(address: str) -> str:
    if not address.strip():
        return ""
    try:
        return lines.email_hash(address)
    except ValueError:
        return _NO_ADDRESS
