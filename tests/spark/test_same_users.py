"""What tests/reconcile/test_user_ids.py says of IDs of another data source, on both engines."""

# ruff: noqa: F401  pytest finds here what is imported

from tests.reconcile.test_user_ids import (
    test_a_record_waits_for_the_other_id,
    test_all_devices_and_a_record_counts_once,
    test_ids_of_the_wrong_shape_are_never_written,
    test_the_latest_id_of_the_latest_device,
    test_who_opted_out_of_either_data_source_is_left_out,
)
from tests.spark.twins import on_both_engines
