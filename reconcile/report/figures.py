"""The report of a run as figures: `report.json`, and what the page and the terminal are made from.

    {"version": 1, "made_at": …, "masked": …, "run": …, "feed": …, "summary": {…}, "prediction": [{term, kept_back,
     reported, note}], "errors": [{reason, term, records, explanation, samples: [{input, line, customer_id}]}],
     "why": {…, "sentences": […]}, "days": [{day, runs, read, matched, unmatched, rejected, lines}]}

Times are milliseconds since the epoch, days UTC. IDs stand under `customer_id`, `record` and `mapping` alone.
"""

from collections.abc import Callable, Iterable, Iterator, Mapping
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

from reconcile import rejects
from reconcile.report import prediction
from reconcile.why import Diagnosis, explain, mask

VERSION = 1
HISTORY_RUNS = 500
DAYS = 30
TOP = 10
_MAX_SHOWN = 256
ID_KEYS = ("customer_id", "record", "mapping")
# Of what is a person's name to others no report has more than the place, masked or not.
NEVER_SHOWN = ("email", "phone", "card", "national")

Hidden = Callable[[str], bool]


def compose(
    summary: Mapping[str, Any],
    rejects_file: Path | None,
    history: Iterable[Mapping[str, Any]],
    *,
    made_at: int,
    hidden: Hidden | None,
    found: Diagnosis | None = None,
) -> dict[str, Any]:
    """`history`: the runs of the same feed, see `Ledger.history`; `found`: why records did not match, where it is known
    better than the summary tells. `hidden` tells whose ID may not be shown; None masks them all.
    """
    why = dict(summary.get("why") or {})
    if found and hidden:
        why = {**found.as_dict(reveal=True), "sentences": explain(found, reveal=True)}
    return {
        "version": VERSION,
        "made_at": made_at,
        "masked": hidden is None,
        "run": summary.get("run", ""),
        "feed": summary.get("feed", ""),
        "summary": {key: value for key, value in summary.items() if key != "why"},
        "prediction": [row._asdict() for row in prediction.expected(summary)],
        "errors": list(_errors(summary, rejects_file, hidden)),
        "why": why,
        "days": days(history, summary.get("planned_at", 0)),
    }


def days(history: Iterable[Mapping[str, Any]], until: int) -> list[dict[str, Any]]:
    """The delivered runs of each of the last DAYS days up to `until`, oldest first, from the first day that has one."""
    last = _day(until)
    first = last - timedelta(days=DAYS - 1)
    found: dict[Any, dict[str, Any]] = {}
    names = ("read", "matched", "unmatched", "rejected", "lines")
    for row in history:
        day = _day(row.get("planned_at", 0))
        if row.get("state") == "delivered" and first <= day <= last:
            told = found.setdefault(day, {"runs": 0, **dict.fromkeys(names, 0)})
            told["runs"] += 1
            for name in names:
                told[name] += row.get(name, 0)
    if not found:
        return []
    span = (last - min(found)).days + 1
    nothing = {"runs": 0, **dict.fromkeys(names, 0)}
    shown = [min(found) + timedelta(days=at) for at in range(span)]
    return [{"day": day.isoformat(), **found.get(day, nothing)} for day in shown]


def ids_in(figures: Any) -> Iterator[str]:
    """Every ID that a report's figures have, masked ones as they stand."""
    if isinstance(figures, dict):
        for key, value in figures.items():
            if key in ID_KEYS and isinstance(value, str):
                yield value
            else:
                yield from ids_in(value)
    elif isinstance(figures, list):
        for value in figures:
            yield from ids_in(value)


def _errors(summary: Mapping[str, Any], rejects_file: Path | None, hidden: Hidden | None) -> Iterator[dict[str, Any]]:
    reasons: Mapping[str, int] = summary.get("reasons", {})
    there = rejects_file is not None and rejects_file.exists()
    samples = rejects.samples(rejects_file, reasons, TOP) if there and rejects_file else {}
    for reason, count in reasons.items():
        yield {
            "reason": reason,
            "term": prediction.term(reason),
            "records": count,
            "explanation": rejects.EXPLANATIONS.get(reason, ""),
            "samples": [
                {"input": name, "line": line, "customer_id": _shown(customer_id, reason, hidden)}
                for name, line, customer_id in samples.get(reason, ())
            ],
        }


def _shown(customer_id: str, reason: str, hidden: Hidden | None) -> str:
    if any(word in reason for word in NEVER_SHOWN) or (hidden and hidden(customer_id)):
        return ""
    return customer_id if hidden and len(customer_id) <= _MAX_SHOWN else mask(customer_id)


def _day(milliseconds: int) -> Any:
    return datetime.fromtimestamp(milliseconds / 1000, UTC).date()
