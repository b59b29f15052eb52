"""What tests/reconcile/test_changes.py says of feeds that send only changes, on both engines."""

# ruff: noqa: F401  pytest finds here what is imported

from tests.reconcile.test_changes import (
    test_a_dry_run_tells_the_same_and_writes_nothing,
    test_a_faulty_record_is_no_sign_that_its_customer_vanished,
    test_of_several_files_the_last_counts,
    test_too_many_vanished_refuse_the_run,
    test_who_opts_out_is_forgotten,
)
from tests.reconcile.test_user_ids import test_changes_only
from tests.spark.twins import on_both_engines
