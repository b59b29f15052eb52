"""The opt-outs that a run honours."""

import hashlib
from collections.abc import Iterable, Mapping

from idsync.ids import UUID_DIGITS
from idsync.store import optouts
from reconcile.engine.duckdb import Reject

REASON = "opted-out"
_OF_DEVICES = optouts.device_token("0" * UUID_DIGITS).name.partition(":")[0] + ":"


class OptOuts:
    """What `MappingStore.opt_outs` told, seen from one data source.

    `tokens` are those of its customers, `devices` those of devices. `digest` stands for all opt-outs, those of other
    data sources included: it is another one as soon as anybody opts out or in.
    """

    def __init__(self, dpid: int, known: Mapping[str, int]) -> None:
        self.dpid = dpid
        self.tokens = frozenset(token for token in known if token.startswith(f"{dpid}:"))
        self.devices = frozenset(token for token in known if token.startswith(_OF_DEVICES))
        self.digest = hashlib.sha256("\n".join(sorted(known)).encode()).hexdigest()

    def holds(self, customer_id: str) -> bool:
        return optouts.customer_token(self.dpid, customer_id).name in self.tokens

    def hide(self, rejects: Iterable[Reject]) -> list[Reject]:
        """The same, with neither the ID nor the fault of those who opted out: nothing of theirs is kept."""
        if not self.tokens:
            return list(rejects)
        return [Reject(reject.seq, "", REASON) if self.holds(reject.customer_id) else reject for reject in rejects]
