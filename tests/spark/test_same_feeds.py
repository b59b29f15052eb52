"""What tests/reconcile says of feeds, on both engines: of every test that runs one, but for the few in `ALONE`."""

from tests.spark.feeds import MODULES, feed_tests
from tests.spark.twins import Twins

_PATCHED = "alters a part of this process, which executors do not have"
_BEFORE = "is about which files are read, which is settled before an engine begins"
_CUT = "cuts the first of two runs short"
_MIDST = "opts somebody out in the midst of the first of two runs"
_LATER = "is about what is done with a run's files afterwards, whichever engine has made them"
_MANY = "makes many feeds by chance; test_same.py does for Spark"
# Modules and tests whose feeds run on DuckDB alone, and why.
ALONE = {
    "test_check": _LATER,
    "test_command_line": "is about a command's output",
    "test_durable": _PATCHED,
    "test_erase": _LATER,
    "test_health": _LATER,
    "test_known": _BEFORE,
    "test_lock": "is about processes that fight for a feed",
    "test_looks": _LATER,
    "test_manifest": _LATER,
    "test_receipt": _LATER,
    "test_report": "is about how a run's figures are told, and twins compare the figures",
    "test_retention": _LATER,
    "test_room": "is about the room for DuckDB's scratch files",
    "test_run_encrypted": "its lines can be compared once decrypted: see test_same_encrypted.py",
    "test_run_inputs": _BEFORE,
    "test_run_time": "is about names, which are given before an engine begins",
    "test_syncfile": "makes ID sync files, for which there is no other engine",
    "test_no_input_is_nothing_to_do_and_no_folder_is_a_fault": "has no inbox, which the copy of a world makes again",
    "test_only_one_run_of_a_feed_at_a_time": "holds the lock of the world itself, not of its copy",
    "test_sums_that_do_not_agree_refuse_the_run": _PATCHED,
    "test_profiles_end_as_the_crm_says": _MANY,
    "test_a_name_taken_by_other_bytes_is_never_overwritten": "has a delivered file that holds no lines",
    "test_a_run_without_files_that_was_recorded_is_not_withdrawn": _CUT,
    "test_a_withdrawal_that_was_cut_short_is_finished": _CUT,
    "test_an_opt_out_is_read_before_the_join": _MIDST,
    "test_an_unknown_feed_is_wrong_usage": "begins no feed",
    "test_by_the_definition": _MANY,
    "test_an_input_that_changes_while_it_is_read_stops_the_run": _PATCHED,
    "test_id_sync_files_go_out_once_more": "runs no feed",
    "test_two_feeds_may_run_side_by_side": "runs a feed of another name",
    "test_a_row_that_gets_lost_refuses_the_run": _PATCHED,
    "test_a_run_that_has_read_all_mappings_asks_the_store_for_none": _PATCHED,
    "test_a_user_with_too_many_lines_stays_as_it_was": _PATCHED,
    "test_lost_traits_may_be_what_a_line_has_no_room_for": _PATCHED,
    "test_of_very_many_a_sample_is_looked_at_and_the_figures_say_so": _PATCHED,
    "test_the_ids_kept_of_a_run_that_waits_are_erased": _PATCHED,
    "test_who_opted_out_since_the_run_looked_is_in_no_report": _MIDST,
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
    """By itself, through others, by a parameter, by a fixture; not what only makes a world."""
    assert "test_a_feed_becomes_the_exact_file" in feed_tests("tests.reconcile.test_run")
    assert "test_only_what_changed_is_sent" in feed_tests("tests.reconcile.test_changes")
    assert "test_a_run_beyond_the_limits_ends_before_it_offers_anything" in feed_tests("tests.reconcile.test_manifest")
    assert "test_profiles_end_as_the_crm_says" in feed_tests("tests.reconcile.test_changes_model")
    assert feed_tests("tests.reconcile.test_files") == ()
