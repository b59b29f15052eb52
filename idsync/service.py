"""What one process of the endpoint works with, and the steps that both fronts share.

raw target, headers ─► admit ─► (recorder) ─► answer ─► reply
"""

import os
import threading
import time
from collections.abc import Callable

from idsync import call, config, decision, ids, optout, reply, signature
from idsync.clients import RateLimit, TrustedProxies, client_address
from idsync.decision import Admitted, Decided
from idsync.defects import log_defect
from idsync.denylist import Denial, DenyList
from idsync.errors import IdsyncError
from idsync.metrics import Metrics
from idsync.outcomes import Fault, Outcome
from idsync.recorder import Recorded, Recorder
from idsync.reply import Reply
from idsync.settings import Settings
from idsync.signals import Signals
from idsync.store import DAY, open_store
from idsync.store.base import MappingStore
from idsync.store.spool import Spool, Waiting
from idsync.watch import Watch

METHODS = ("GET", "HEAD")
NOTHING_TO_RECORD = Recorded(Outcome.UUID_TOLD)
_KEY_BYTES = 32
_ALLOW = ", ".join([*METHODS, "OPTIONS"])


def milliseconds_now() -> int:
    return time.time_ns() // 1_000_000


class SystemEntropy:
    """Random bytes of the operating system, fetched for many calls at once: a system call for each would cost a call a
    quarter of its time. Made after the fork, as two processes must not draw the same bytes.
    """

    _FETCHED_BYTES = 6_144

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._bytes, self._used = b"", 0

    def __call__(self, size: int) -> bytes:
        with self._lock:
            if self._used + size > len(self._bytes):
                self._bytes, self._used = os.urandom(max(size, self._FETCHED_BYTES)), 0
            self._used += size
            return self._bytes[self._used - size : self._used]


class Service:
    """Starts threads, so it is made after the fork. `clock` gives milliseconds, `entropy(n)` n random bytes."""

    def __init__(
        self,
        settings: Settings,
        store: MappingStore,
        spool: Spool,
        *,
        clock: Callable[[], int] = milliseconds_now,
        entropy: Callable[[int], bytes] | None = None,
    ) -> None:
        self.settings = settings
        self.metrics = Metrics(settings.data_sources)
        self.recorder = Recorder(store, spool, self.metrics)
        self.draining = False
        self._store, self._spool = store, spool
        self._keys = signature.read_all(settings.data_sources)
        self._proxies = TrustedProxies(settings.abuse.trusted_proxies)
        self._deny_list = DenyList(settings.abuse, os.urandom(_KEY_BYTES))
        self._rate_limit = RateLimit(settings.abuse.calls_per_minute, settings.abuse.tracked, os.urandom(_KEY_BYTES))
        self._clock, self._entropy = clock, entropy or SystemEntropy()
        self.status_page: Watch | None = None
        if settings.endpoint.status != "off":
            self.status_page = Watch(settings, self._proxies, clock, self._not_ready, self.spooled)

    def admit(self, target: str, signals: Signals) -> Admitted | Decided:
        """The decision on a sync call, as far as it goes without the store."""
        try:
            now = self._clock()
            client = client_address(signals.peer, signals.forwarded_for, self._proxies)
            # Behind a proxy that nobody declared all visitors have one address.
            if self._proxies and (seconds := self._rate_limit.take(client, now)):
                return decision.too_many(seconds)
            parsed = call.parse(target)
            admitted = decision.admit(parsed, signals, self.settings, self._keys, now=now, entropy=self._entropy)
            # A call that goes to Audience Manager first is watched when it comes back.
            if isinstance(admitted, Decided) or admitted.location:
                return admitted
            return self._watch(admitted, client, now)
        except Exception as error:  # noqa: BLE001  a server would log its text
            log_defect(error)
            return decision.not_kept(Outcome.FAILED)

    def answer(self, admitted: Admitted, recorded: Recorded) -> Decided:
        try:
            uuid = recorded.uuid if recorded.outcome is not Outcome.UUID_TOLD else admitted.uuid or admitted.fresh
            return decision.answer(admitted, recorded.outcome, uuid, self.settings)
        except Exception as error:  # noqa: BLE001  likewise
            log_defect(error)
            return decision.not_kept(Outcome.FAILED)

    def opt_out(self, target: str, signals: Signals) -> Decided:
        """An opt-out, from a thread: the reply leaves when it is kept."""
        try:
            asked = optout.ask(call.parse(target), signals, self.settings, now=self._clock())
            if isinstance(asked, Decided):
                return asked
            decided = optout.answer(asked)
            return self.keep(decided._replace(opt_out=asked.opt_out))
        except Exception as error:  # noqa: BLE001  likewise
            log_defect(error)
            return decision.not_kept(Outcome.FAILED)

    def keep(self, decided: Decided) -> Decided:
        """From a thread: keep the opt-out that a decision comes with, if any."""
        if decided.opt_out and self.recorder.opt_out(decided.opt_out).outcome is Outcome.STORE_UNAVAILABLE:
            return decision.not_kept(Outcome.STORE_UNAVAILABLE, decided.dpid)
        return decided

    def leave(self, decided: Decided, signals: Signals, seconds: float) -> Reply:
        """Count a decision, which took so long, and give the reply as this asker gets it."""
        self.metrics.called(decided.outcome, decided.dpid, seconds, decided.reasons, decided.denial)
        origins = self.settings.endpoint.cors_origins
        return reply.with_cors(decided.reply, signals.origin, origins) if origins else decided.reply

    def no_call(self, method: str, signals: Signals) -> Reply:
        """The reply to another method than METHODS: what may be asked, by OPTIONS also with whose leave."""
        if method == "OPTIONS":
            return reply.options(_ALLOW, signals.origin, self.settings.endpoint.cors_origins)
        return reply.text(405, "sync calls are GET\n", [("Allow", _ALLOW)])

    def readiness(self) -> Reply:
        """Whether calls reach the store durably. What the spool takes meanwhile is safe, but nobody sees it."""
        reason = self._not_ready()
        state: dict[str, object] = {"ready": not reason}
        if reason:
            state["reason"] = reason
        try:
            state["spool"] = self.spooled()._asdict()
        except IdsyncError as error:
            state["spool"] = {"reason": config.mask(error.problem)}
        return reply.document(503 if reason else 200, state)

    def spooled(self) -> Waiting:
        return self._spool.waiting(self._clock())

    def close(self) -> None:
        """Write what waits, then let go of store and spool."""
        if self.status_page:
            self.status_page.close()
        self.recorder.close()
        self._spool.close()
        self._store.close()

    def _watch(self, admitted: Admitted, client: str, now: int) -> Admitted | Decided:
        """Count what arrives with which, and leave out what is denied. What the site has signed is beyond doubt."""
        faults = []
        for each in admitted.declared:
            signed = admitted.call.d_sig and each.source.dpid in self._keys
            dpid, customer_id = each.source.dpid, each.customer_id
            denial = None if signed else self._deny_list.seen(dpid, customer_id, admitted.uuid, client, now)
            faults.append(_denied(denial, dpid) if denial else None)
        return decision.deny(admitted, faults) if any(faults) else admitted

    def _not_ready(self) -> str:
        """Why the store takes no durable write now; "" if it does."""
        if self.draining:
            return "shutting down"
        try:
            self._store.check()
        except IdsyncError as error:
            return config.mask(error.problem)
        return ""


def open_spool(settings: Settings) -> Spool:
    """Mappings wait there as long as they live: what is past its lifetime is of no use to the store either."""
    store = settings.store
    return Spool(str(settings.endpoint.spool), store.mapping_ttl_days * DAY, store.devices_per_customer)


def open_service(settings: Settings) -> Service:
    return Service(settings, open_store(settings.store, patient=False), open_spool(settings))


def _denied(denial: Denial, dpid: int) -> Fault:
    if denial is Denial.UUID:
        return Fault(Outcome.DEVICE_DENIED, "the device of this call arrives with too many customer IDs to be one")
    if dpid in ids.DEVICE_ID_SHAPES:
        return Fault(Outcome.DEVICE_DENIED, "the device ID arrives from too many visitors to be one")
    mend = "see that the tag sends one ID a person"
    return Fault(Outcome.CUSTOMER_ID_DENIED, f"the customer ID arrives from too many visitors to be one; {mend}")
