"""What tests/reconcile/test_run.py and its neighbours say of feeds, on both engines."""

# ruff: noqa: F401  pytest finds here what is imported

from tests.reconcile.test_conflicts import (
    test_a_user_with_more_than_fits_is_rejected_and_others_are_packed,
    test_constants_that_contradict_each_other,
    test_in_every_kind_of_feed,
)
from tests.reconcile.test_rules import test_items_left_out_are_counted_and_their_records_named
from tests.reconcile.test_run import (
    test_a_feed_becomes_the_exact_file,
    test_a_record_with_too_much_for_every_device_is_rejected_once,
    test_a_user_whose_items_fill_a_line_gets_several,
    test_all_formats_say_the_same,
    test_bad_records_are_rejected_with_their_place_and_reason,
    test_customer_id_files_can_emit_the_unmatched,
    test_customer_id_files_without_emit_hold_only_the_matched,
    test_dropped_records_do_not_wait,
    test_expired_mappings_do_not_match,
    test_gzip_files_have_one_member_without_time_or_name,
    test_held_records_past_their_age_are_rejected,
    test_held_records_survive_a_change_of_columns,
    test_ids_are_compared_byte_for_byte,
    test_ids_that_should_not_be_there_are_left_out_each_with_its_reason,
    test_mappings_of_another_data_source_do_not_match,
    test_records_are_held_against_the_rules_of_their_data_source,
    test_records_of_one_user_are_merged_in_order,
    test_rules_add_and_remove_traits,
    test_the_latest_device_is_sent_or_all_of_them,
    test_too_many_rejects_refuse_the_run_and_leave_the_input_new,
    test_unmatched_records_wait_and_go_out_after_their_sync,
    test_what_fits_no_line_or_too_many_is_rejected_not_cut,
    world,
)
from tests.spark.twins import on_both_engines
