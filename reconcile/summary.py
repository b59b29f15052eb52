"""What a run did: the figures that the terminal, the ledger and the manifest show."""

from dataclasses import asdict, dataclass, field
from typing import Any


@dataclass(slots=True)
class Summary:
    """Counts are of records unless they say otherwise. `read` = `matched` + `unmatched` + `rejected`, always.

    `status`: delivered; nothing-to-do; dry-run; on-hold (until a release); frozen (files wait for the destination);
    withdrawn; refused; failed.
    `from_hold` of the records read had waited from earlier runs; `superseded` ones were replaced by a newer record of
    the same customer and are not counted as read. The unmatched are held, dropped or emitted as the feed says.
    `silent` records matched but had nothing to send. `items_left_out`, of records that are not rejected for it, since
    they can't be sent: column, reason, how many items, and where the first such records stand. `conflicts`: how many
    items of lines were dropped for others that contradict them; `conflict_samples`: where the first records of such
    users stand. `ids_left_out`: of feeds that send IDs of another data source, how many of those can't be sent, by
    reason.
    Of feeds that send only changes: for `unchanged` records all was
    sent before; `vanished` users and `forgotten` ones, who opted out, were sent something once and go. `settled` are
    earlier runs whose files this one delivered first; `withdrawn` ones it took back, since somebody had opted out
    before they were offered to anybody. `known_inputs` were delivered before, or are copies; `unfinished_inputs` are
    still being written; `older_inputs` were asked to be passed over. `limit`: a dry run read no more than so many
    records. `unmatched_policy`: what the feed asks for them; `why` they did not match, with masked samples, see
    `reconcile.why`. `traits`: see `reconcile.traits`. `steps`: how long each took, and how much went through.
    `report`: where it is, or why there is none. Times are milliseconds since the epoch.
    """

    feed: str
    data_source: str
    dpid: int
    run: str = ""
    status: str = "planned"
    destination: str = ""
    planned_at: int = 0
    frozen_at: int = 0
    finished_at: int = 0
    read: int = 0
    from_hold: int = 0
    superseded: int = 0
    matched: int = 0
    silent: int = 0
    unchanged: int = 0
    vanished: int = 0
    forgotten: int = 0
    unmatched: int = 0
    held: int = 0
    rejected: int = 0
    reasons: dict[str, int] = field(default_factory=dict)
    rejects_file: str = ""
    items_left_out: list[dict[str, Any]] = field(default_factory=list)
    conflicts: int = 0
    conflict_samples: list[str] = field(default_factory=list)
    ids_left_out: dict[str, int] = field(default_factory=dict)
    mappings: int = 0
    lines: int = 0
    inputs: list[dict[str, Any]] = field(default_factory=list)
    known_inputs: int = 0
    unfinished_inputs: int = 0
    settled: list[str] = field(default_factory=list)
    withdrawn: list[str] = field(default_factory=list)
    files: list[dict[str, Any]] = field(default_factory=list)
    problem: str = ""
    unmatched_policy: str = ""
    older_inputs: int = 0
    limit: int = 0
    why: dict[str, Any] = field(default_factory=dict)
    traits: dict[str, Any] = field(default_factory=dict)
    steps: list[dict[str, Any]] = field(default_factory=list)
    report: str = ""

    def as_dict(self) -> dict[str, Any]:
        return asdict(self)
