"""What tests/reconcile/test_optouts.py says of who is left out, on both engines."""

# ruff: noqa: F401  pytest finds here what is imported

from tests.reconcile.test_optouts import (
    test_a_fault_of_the_record_does_not_bring_the_id_among_the_rejects,
    test_a_held_record_goes_once_its_customer_opts_out,
    test_an_opted_out_customer_is_left_out_and_nothing_is_kept,
    test_opt_outs_do_not_count_for_max_rejected,
    test_opt_outs_of_another_data_source_or_device_say_nothing_of_a_customer,
    test_whatever_the_feed_does_with_the_unmatched,
    test_who_opts_in_again_is_matched_again,
    world,
)
from tests.spark.twins import on_both_engines
