"""What tests/reconcile/test_run_hold.py says of runs that wait, on both engines."""

# ruff: noqa: F401  pytest finds here what is imported

from tests.reconcile.test_run_hold import (
    test_a_file_of_several_data_sources_counts_and_one_of_another_does_not,
    test_a_release_after_an_opt_out_withdraws_it_too,
    test_a_release_to_a_destination_that_is_away_is_finished_by_the_next_run,
    test_a_run_on_hold_is_delivered_by_a_release,
    test_a_run_without_files_waits_for_nothing,
    test_an_erasure_withdraws_it_too,
    test_an_opt_out_meanwhile_withdraws_what_waits,
    test_an_opt_out_withdraws_it_and_its_successor_is_on_hold,
    test_files_wait_for_the_id_sync_file,
    test_no_other_run_overtakes_it_or_delivers_it,
    test_other_feeds_go_on,
    test_what_came_after_the_freeze_does_not_count,
    test_what_has_nothing_to_do_is_not_on_hold,
    test_where_everything_was_sent_nothing_waits,
    waiting,
    world,
)
from tests.spark.twins import on_both_engines
