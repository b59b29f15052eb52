"""What tests/reconcile/test_changes.py says of feeds that send only changes, on both engines."""

# ruff: noqa: F401  pytest finds here what is imported

from tests.reconcile.test_changes import (
    test_a_dry_run_tells_the_same_and_writes_nothing,
    test_of_several_files_the_last_counts,
    test_too_many_vanished_refuse_the_run,
    test_who_opts_out_and_vanishes_is_not_sent_for_without_leave,
)
from tests.reconcile.test_user_ids import test_changes_only
from tests.spark.twins import on_both_engines
