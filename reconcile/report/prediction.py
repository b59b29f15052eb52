"""A run in the words of Audience Manager's Onboarding Status Report: what will become of every record. Pure.

Audience Manager counts the lines of files, and finds faults in them; here faults are found before, and kept back. So
each term has two figures: the records of the inputs that stayed here for it, and the lines that it is expected to
report.
"""

from collections.abc import Mapping
from typing import Any, NamedTuple

FORMAT, DEVICE = "Format Errors", "Invalid Device ID"
RECEIVED, AAM_ID, NO_MATCH = "Records received", "Invalid AAM ID", "No Matching AAM ID"
OTHER = "Kept back for other reasons"
NO_TRAIT, FAILED = "No Trait Realized", "Users with traits which failed validation"
STORED, SUCCESS = "Stored Records", "Percent Success"
_FORMAT_REASONS = frozenset(
    {
        *("value-unsendable", "trait-not-a-number", "line-too-long", "too-many-lines", "too-few-columns"),
        *("too-many-columns", "not-utf-8", "not-a-json-object", "nested-value", "id-control-character", "id-empty"),
        *("id-colon", "id-too-long", "id-byte-order-mark"),
    }
)
_DEVICE_REASONS = frozenset({"device-id-shape"})


class Expected(NamedTuple):
    """`kept_back` records of the inputs; `reported` lines, or a share for Percent Success. None: can't be told.

    Those received are those kept back under each term, and those of STORED, which is what is left.
    """

    term: str
    kept_back: float | None
    reported: float | None
    note: str = ""


def term(reason: str) -> str:
    """Under which of Audience Manager's terms a record would have counted, "" where it has none for it."""
    return FORMAT if reason in _FORMAT_REASONS else DEVICE if reason in _DEVICE_REASONS else ""


def expected(summary: Mapping[str, Any]) -> list[Expected]:
    """Of the figures of a run. Lines are expected to be whole and of this program's making."""
    reasons: Mapping[str, int] = summary.get("reasons", {})
    read, matched, lines = summary.get("read", 0), summary.get("matched", 0), summary.get("lines", 0)
    unmatched, traits = summary.get("unmatched", 0), summary.get("traits") or {}
    emits = summary.get("unmatched_policy") == "emit"
    bad_format = sum(count for reason, count in reasons.items() if term(reason) == FORMAT)
    bad_device = sum(count for reason, count in reasons.items() if term(reason) == DEVICE)
    no_match = min(unmatched, lines) if emits else 0
    unrealized = traits.get("unrealized")
    silent, unchanged = summary.get("silent", 0), summary.get("unchanged", 0)
    stored = max(lines - no_match - (unrealized or 0), 0)
    said = matched - silent - unchanged + (unmatched if emits else 0)
    others = read - bad_format - bad_device - (0 if emits else unmatched) - silent - said
    other = Expected(OTHER, others, None, _of_others(others, reasons, unchanged))
    failing = Expected(FAILED, 0, traits.get("failing"), "lines that name a trait which is not on the list")
    return [
        Expected(RECEIVED, read, lines, "a record here is one of the inputs, there a line of the files"),
        Expected(FORMAT, bad_format, 0, "each line was checked as it was made"),
        Expected(AAM_ID, 0, 0, "each UUID has its 38 digits"),
        Expected(DEVICE, bad_device, 0, "IDs of another shape than their data source asks for stay here"),
        Expected(NO_MATCH, 0 if emits else unmatched, no_match, _of_no_match(summary, emits=emits)),
        Expected(NO_TRAIT, silent, unrealized, _of_no_trait(traits)),
        *([failing] if traits else []),
        *([other] if others > 0 else []),
        Expected(STORED, said, stored, "what is left of the above"),
        Expected(SUCCESS, _share(said, read), _share(stored, lines), "stored of received"),
    ]


def _share(part: int, whole: int) -> float | None:
    return part / whole if whole else None


def _of_others(others: int, reasons: Mapping[str, int], unchanged: int) -> str:
    counts = {reason: count for reason, count in reasons.items() if not term(reason)} | {"unchanged": unchanged}
    counts["not joined, as the run was given up before"] = others - sum(counts.values())
    told = ", ".join(f"{name} {count:,}" for name, count in counts.items() if count)
    return f"Audience Manager has no term for them: {told}"


def _of_no_match(summary: Mapping[str, Any], *, emits: bool) -> str:
    if emits:
        return "sent without a known sync; a cross-device data source keeps them until it comes"
    if summary.get("unmatched"):
        return "they stay here, held or dropped as the feed says"
    return ""


def _of_no_trait(traits: Mapping[str, Any]) -> str:
    if not traits:
        return "kept back: nothing to send; for a figure of the lines give the feed a known_traits_file"
    return f"lines with neither a signal nor one of {traits['known']:,} known traits"
