"""What tests/reconcile says of feeds, on both engines: of every test that runs one, but for the few in `ALONE`."""

from tests.spark.feeds import MODULES, feed_tests
from tests.spark.twins import Twins

_PATCHED = "alters a part of this process, which executors do not have"
_MIDST = "opts somebody out in the midst of the first of two runs"
_FROZEN = "is about what becomes of frozen runs, on which no engine has a say"
_NONE = "runs no feed: what it is given would"
# Modules and tests whose feeds run on DuckDB alone, and why.
ALONE = {
    "test_lock": "is about processes that fight for a feed",
    "test_run_encrypted": "its lines can be compared once decrypted: see test_same_encrypted.py",
    "test_a_record_that_gets_lost_refuses_the_run": _PATCHED,
    "test_a_row_that_gets_lost_refuses_the_run": _PATCHED,
    "test_a_run_that_has_read_all_mappings_asks_the_store_for_none": _PATCHED,
    "test_a_user_with_too_many_lines_stays_as_it_was": _PATCHED,
    "test_all_that_a_run_builds_on_lasts_before_anything_is_offered": _PATCHED,
    "test_an_input_that_changes_while_it_is_read_stops_the_run": _PATCHED,
    "test_lost_traits_may_be_what_a_line_has_no_room_for": _PATCHED,
    "test_of_very_many_a_sample_is_looked_at_and_the_figures_say_so": _PATCHED,
    "test_profiles_end_as_the_crm_says": "makes many feeds by chance; test_same.py does for Spark",
    "test_sums_that_do_not_agree_refuse_the_run": _PATCHED,
    "test_the_ids_kept_of_a_run_that_waits_are_erased": _PATCHED,
    "test_what_keeps_a_feed_is_told": _PATCHED,
    "test_an_opt_out_is_read_before_the_join": _MIDST,
    "test_who_opted_out_since_the_run_looked_is_in_no_report": _MIDST,
    "test_a_damaged_run_may_still_be_withdrawn": _FROZEN,
    "test_a_frozen_file_that_is_gone_is_no_matter_of_rights": _FROZEN,
    "test_a_manifest_is_named_and_the_run_can_be_given_up": _FROZEN,
    "test_the_commands_go_on_and_name_the_file": _FROZEN,
    "test_what_is_recorded_is_not_new_again": _FROZEN,
    "test_what_was_offered_and_given_up_may_arrive_again": _FROZEN,
    "test_an_unknown_feed_is_wrong_usage": _NONE,
    "test_id_sync_files_go_out_once_more": _NONE,
    "test_only_what_is_new_is_sent": _NONE,
    "test_only_one_run_of_a_feed_at_a_time": "holds the lock of the world itself, not of its copy",
    "test_the_day_of_a_key_is_that_of_the_plan": "delivers to a bucket, which the other run would find filled",
    "test_two_feeds_may_run_side_by_side": "is about threads that run at the same time",
}


def _of(module: str) -> Twins:
    name = module.rpartition(".")[2]
    return Twins(module, frozenset() if name in ALONE else frozenset(feed_tests(module)) - ALONE.keys())


for _twins in map(_of, MODULES):
    if _twins.names:
        globals()[_twins.module.rpartition(".test_")[2]] = _twins


def test_who_runs_alone_is_there() -> None:
    """And runs a feed: else it needs no reason."""
    found = {module.rpartition(".")[2]: feed_tests(module) for module in MODULES}
    known = {name for name, tests in found.items() if tests} | {test for tests in found.values() for test in tests}
    assert ALONE.keys() <= known


def test_what_runs_a_feed_is_found() -> None:
    """By itself, through others, by a fixture; not what only makes a world."""
    assert "test_a_feed_becomes_the_exact_file" in feed_tests("tests.reconcile.test_run")
    assert "test_only_what_changed_is_sent" in feed_tests("tests.reconcile.test_changes")
    assert "test_a_run_beyond_the_limits_ends_before_it_offers_anything" in feed_tests("tests.reconcile.test_manifest")
    assert "test_profiles_end_as_the_crm_says" in feed_tests("tests.reconcile.test_changes_model")
    assert feed_tests("tests.reconcile.test_files") == ()
