"""What tests/reconcile/test_run.py says of feeds, on both engines."""

from tests.reconcile.test_run import (
    test_a_feed_becomes_the_exact_file,
    test_a_record_with_too_much_for_every_device_is_rejected_once,
    test_a_user_whose_items_fill_a_line_gets_several,
    test_bad_records_are_rejected_with_their_place_and_reason,
    test_customer_id_files_can_emit_the_unmatched,
    test_customer_id_files_without_emit_hold_only_the_matched,
    test_gzip_files_have_one_member_without_time_or_name,
    test_ids_are_compared_byte_for_byte,
    test_ids_that_should_not_be_there_are_left_out_each_with_its_reason,
    test_records_are_held_against_the_rules_of_their_data_source,
    test_records_of_one_user_are_merged_in_order,
    test_rules_add_and_remove_traits,
    test_the_latest_device_is_sent_or_all_of_them,
    test_unmatched_records_wait_and_go_out_after_their_sync,
    test_what_fits_no_line_or_too_many_is_rejected_not_cut,
    world,
)
from tests.spark.twins import on_both_engines

__all__ = [
    "on_both_engines",
    "test_a_feed_becomes_the_exact_file",
    "test_a_record_with_too_much_for_every_device_is_rejected_once",
    "test_a_user_whose_items_fill_a_line_gets_several",
    "test_bad_records_are_rejected_with_their_place_and_reason",
    "test_customer_id_files_can_emit_the_unmatched",
    "test_customer_id_files_without_emit_hold_only_the_matched",
    "test_gzip_files_have_one_member_without_time_or_name",
    "test_ids_are_compared_byte_for_byte",
    "test_ids_that_should_not_be_there_are_left_out_each_with_its_reason",
    "test_records_are_held_against_the_rules_of_their_data_source",
    "test_records_of_one_user_are_merged_in_order",
    "test_rules_add_and_remove_traits",
    "test_the_latest_device_is_sent_or_all_of_them",
    "test_unmatched_records_wait_and_go_out_after_their_sync",
    "test_what_fits_no_line_or_too_many_is_rejected_not_cut",
    "world",
]
