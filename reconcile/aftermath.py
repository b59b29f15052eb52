"""What is told of a run: why records did not match, and the report.

Why records did not match is looked into while the mappings that the run has read are at hand, before the freeze; it
takes a small part of the run, and what goes wrong is said and changes nothing. All else comes after the ledger knows of
the run: it can neither delay nor endanger a delivery. IDs that reach the ledger are masked; a report may have them in
clear, see `reconcile.mask_ids`.
"""

import json
from collections.abc import Callable, Mapping
from contextlib import closing
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import duckdb
import pyarrow as pa

from idsync import ids
from idsync.errors import IdsyncError
from idsync.settings import DataSource, Feed, Settings
from idsync.store import open_store
from reconcile import report
from reconcile.engine.duckdb import DuckEngine
from reconcile.join import Fates
from reconcile.ledger import Ledger
from reconcile.optouts import OptOuts
from reconcile.progress import Meter
from reconcile.state import FeedState, RunFolder
from reconcile.summary import Summary
from reconcile.why import SAMPLE_IDS, Diagnosis, diagnose, explain, readings

MEMORY_LIMIT = "120MB"

Why = dict[str, Any]


class Aftermath:
    """Of the runs of one feed; `now` in milliseconds since the epoch."""

    def __init__(
        self,
        settings: Settings,
        feed: Feed,
        source: DataSource,
        *,
        state: FeedState,
        ledger: Ledger,
        meter: Meter,
        now: Callable[[], int],
    ) -> None:
        self._settings, self._feed, self._source = settings, feed, source
        self._state, self._ledger, self._meter, self._now = state, ledger, meter, now

    def conclude(self, folder: RunFolder, summary: Summary) -> None:
        """For a run that has ended. Can be repeated."""
        try:
            found = self.tell(json.loads(folder.why.read_bytes()), summary) if folder.why.exists() else None
            folder.why.unlink(missing_ok=True)
            summary.report = str(folder.page)
            self._ledger.close(summary.run, summary.status, summary.as_dict())
            told = summary.as_dict()
            figures = report_on(self._settings, told, folder, self._ledger, now=self._now(), found=found)
            report.write(figures, folder.report, folder.page)
        except (IdsyncError, OSError) as error:
            summary.report = f"could not be written: {error}"

    def look(self, engine: DuckEngine, fates: Fates, scratch: Path, *, thorough: bool = False) -> Why:
        """Why records did not match: a Diagnosis with IDs in clear, for JSON, or a `problem`; empty where nobody asks.

        `thorough` compares them with all customers, however many there are.
        """
        # records that are sent as IDs of another data source may lack nothing but these: that is no matter of spelling
        if not self._feed.diagnose or not len(fates.unmatched) or self._feed.user_id not in {"uuid", "customer-id"}:
            return {}
        step = self._meter.step("looking why records did not match", len(fates.unmatched))
        try:
            with TemporaryDirectory(dir=scratch) as aside, closing(open_store(self._settings.store)) as store:
                unmatched = engine.ids_of(fates.unmatched, SAMPLE_IDS)
                if fates.among_all:
                    engine.let_records_go()
                found = diagnose(
                    unmatched.combine_chunks().to_batches(),
                    store,
                    self._settings,
                    self._source,
                    self._now(),
                    scratch=Path(aside),
                    memory_limit=MEMORY_LIMIT,
                    at_hand=engine.customers() if fates.among_all else None,
                    thorough=thorough,
                    # where the feed remembers to whom it sent something
                    matched_before=self._state.sent if self._state.sent.exists() else None,
                    total=len(fates.unmatched),
                )
        except IdsyncError as error:
            return {"problem": f"not looked into: {error.problem}"}
        except OSError as error:
            return {"problem": f"not looked into: {error}"}
        except (pa.ArrowException, duckdb.Error) as error:  # whose texts quote values
            return {"problem": f"not looked into: {type(error).__name__}"}
        step.advance(len(fates.unmatched))
        return found.as_dict(reveal=True)

    def tell(self, why: Why, summary: Summary) -> Diagnosis | None:
        """What `look` has found, into the summary, masked, and as it is."""
        if not why or "problem" in why:
            summary.why = why
            return None
        try:
            found = self._showable(Diagnosis.from_dict(why))
        except IdsyncError as error:  # nobody may be shown
            summary.why = {"problem": f"not told: {error.problem}"}
            return None
        summary.why = {**found.as_dict(), "sentences": explain(found)}
        return found

    def _showable(self, found: Diagnosis) -> Diagnosis:
        """Who may not be shown, or opted out since the run looked, is in no sample."""
        with closing(open_store(self._settings.store)) as store:
            known = store.opt_outs()
        by_name = {source.name: _unshown(source, known) for source in self._settings.data_sources}
        of_records = by_name[self._source.name]
        return found.keeping(
            lambda pair, other: (
                not of_records(pair.record) and not by_name.get(other or self._source.name, of_records)(pair.mapping)
            )
        )


def report_on(
    settings: Settings,
    summary: Mapping[str, Any],
    folder: RunFolder,
    ledger: Ledger,
    *,
    now: int,
    found: Diagnosis | None = None,
) -> dict[str, Any]:
    """The report of a run, as `reconcile.report` composes it, from what is left of the run. `now` in milliseconds."""
    history = ledger.history(summary["feed"], limit=report.HISTORY_RUNS)
    hidden = _hidden(settings, summary)
    return report.compose(summary, folder.rejects, history, made_at=now, hidden=hidden, found=found)


def _hidden(settings: Settings, summary: Mapping[str, Any]) -> Callable[[str], bool] | None:
    """Whose ID may not be shown. None, which is everybody, where it is not known who opted out."""
    source = settings.data_source(summary.get("data_source", ""))
    if settings.reconcile.mask_ids or source is None:
        return None
    try:
        with closing(open_store(settings.store)) as store:
            return _unshown(source, store.opt_outs())
    except IdsyncError:
        return None


def _unshown(source: DataSource, opt_outs: Mapping[str, int]) -> Callable[[str], bool]:
    """Which customer IDs no report shows: of who opted out, and what may be a person's name to others, in whatever
    spelling, also where the data source takes such IDs: its numbers need not be cards, but some may.
    """
    opted_out = OptOuts(source.dpid, opt_outs).holds
    every = ids.id_rules(source.dpid, national_ids=source.national_ids).checks
    checks = [is_personal for reason, is_personal in every if any(word in reason for word in report.NEVER_SHOWN)]

    def is_unshown(customer_id: str) -> bool:
        return opted_out(customer_id) or any(check(text) for text in readings(customer_id) for check in checks)

    return is_unshown
