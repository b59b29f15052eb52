"""Who opted out is left out of every run, and nothing of theirs is kept; files not offered yet are withdrawn."""

from collections.abc import Callable
from contextlib import closing
from pathlib import Path

import pyarrow as pa
import pytest
from hypothesis import HealthCheck, given, settings

from idsync.errors import StoreUnavailable
from idsync.store import open_store
from idsync.store.optouts import customer_token
from reconcile import durable
from reconcile.engine.duckdb import DuckEngine
from reconcile.errors import DestinationRefused, RunRefused
from reconcile.ledger import Ledger
from reconcile.optouts import OptOuts
from reconcile.progress import Meter
from reconcile.run import Job
from tests.idsync.ids_of_all_kinds import any_id
from tests.reconcile.samples import SIGNALS, World, figures, uuid
from tests.reconcile.test_engine import plan

COUNTS = ("read", "matched", "unmatched", "rejected", "lines")
ROWS = [("c1", "f", "gold", "24"), ("gone", "m", "", ""), ("late-1", "f", "", "")]


@pytest.fixture
def world(tmp_path: Path) -> World:
    world = World(tmp_path)
    world.sync(("c1", uuid(1)), ("gone", uuid(2)))
    return world


def leave(world: World, text: bytes) -> list[str]:
    """The files of the state folder that hold this."""
    return sorted({str(path.relative_to(world.state)) for path, data in world.everything() if text in data})


@pytest.mark.parametrize("matched_before", [True, False])
def test_an_opted_out_customer_is_left_out_and_nothing_is_kept(world: World, *, matched_before: bool) -> None:
    world.opt_out("gone" if matched_before else "late-1")
    path = world.put("a.csv", ROWS)
    summary = world.run()
    assert figures(summary, *COUNTS) == ((3, 1, 1, 1, 1) if matched_before else (3, 2, 0, 1, 2))
    assert summary.reasons == {"opted-out": 1}
    (row,) = world.rejects()
    line = "3" if matched_before else "4"
    assert (row["input"], row["line"], row["customer_id"], row["reason"]) == (str(path), line, "", "opted-out")
    assert row["explanation"]
    assert leave(world, b"gone" if matched_before else b"late-1") == []


def test_opt_outs_do_not_count_for_max_rejected(tmp_path: Path) -> None:
    world = World(tmp_path, SIGNALS + "max_rejected = 0\n")
    world.opt_out("gone")
    world.put("a.csv", ROWS)
    assert figures(world.run(), *COUNTS) == (3, 0, 2, 1, 0)
    world.put("b.csv", [*ROWS, ("", "f", "", "")])
    with pytest.raises(RunRefused, match=r"25\.00% of the records were rejected"):
        world.run()


@pytest.mark.parametrize("unmatched", ["hold", "drop", "emit"])
@pytest.mark.parametrize("user_id", ["uuid", "customer-id"])
def test_whatever_the_feed_does_with_the_unmatched(tmp_path: Path, user_id: str, unmatched: str) -> None:
    if (user_id, unmatched) == ("uuid", "emit"):
        unmatched = "hold"
    world = World(tmp_path, SIGNALS + f'user_id = "{user_id}"\nunmatched = "{unmatched}"\n')
    world.sync(("c1", uuid(1)), ("gone", uuid(2)))
    world.opt_out("gone", "late-1")
    world.put("a.csv", ROWS)
    assert figures(world.run(dry_run=True), *COUNTS) == (3, 1, 0, 2, 1)
    summary = world.run()
    assert figures(summary, *COUNTS, "held") == (3, 1, 0, 2, 1, 0)
    user = uuid(1) if user_id == "uuid" else "c1"
    assert world.lines() == [f'{user}\t"gender"="f","tier"="gold",d_sid=24\n']
    assert leave(world, b"gone") == leave(world, b"late-1") == []


def test_a_held_record_goes_once_its_customer_opts_out(world: World) -> None:
    world.put("a.csv", ROWS)
    world.opt_out("gone")
    assert world.run().held == 1
    world.opt_out("late-1")
    summary = world.run()
    assert figures(summary, *COUNTS, "from_hold", "held") == (1, 0, 0, 1, 0, 1, 0)
    assert summary.status == "delivered"
    assert world.rejects()[-1]["customer_id"] == ""
    assert leave(world, b"late-1") == []
    assert world.run().status == "nothing-to-do"


def test_a_fault_of_the_record_does_not_bring_the_id_among_the_rejects(tmp_path: Path) -> None:
    world = World(tmp_path, SIGNALS + "max_rejected = 0\nheld_days = 1\n")
    world.put("a.csv", [("waited", "f", "", "")])
    world.run()
    world.now += 2 * 86_400_000
    world.opt_out("quoted", "trait", "short", "long", "latin", "a@example.com", "waited")
    records = b'quoted,"say ""hi""",,\ntrait,f,,x\nshort,f\nlong,f,,,,\nlatin,\xff,,\na@example.com,f,,'
    (world.inbox / "b.csv").write_bytes(b"id,gender,tier,traits\n" + records)
    summary = world.run()
    assert summary.reasons == {"opted-out": 7}
    assert {row["customer_id"] for row in world.rejects()} == {""}
    assert [int(row["line"]) for row in world.rejects()] == [1, 2, 3, 4, 5, 6, 7]
    for name in (b"quoted", b"trait,", b"short", b"long", b"latin", b"example", b"waited"):
        assert leave(world, name) == []


def test_opt_outs_of_another_data_source_or_device_say_nothing_of_a_customer(world: World) -> None:
    world.opt_out("c1", dpid=999)
    world.opt_out(devices=[uuid(2)])
    world.put("a.csv", ROWS)
    assert figures(world.run(), *COUNTS) == (3, 1, 2, 0, 1)


def test_who_opts_in_again_is_matched_again(world: World) -> None:
    world.opt_out("gone")
    with closing(open_store(world.settings.store)) as store:
        assert store.opt_in([(12345, "gone")], []) == 1
    world.sync(("gone", uuid(2)))
    world.put("a.csv", ROWS)
    assert figures(world.run(), *COUNTS) == (3, 2, 1, 0, 2)


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(customer_id=any_id)
def test_the_engine_and_the_store_make_the_same_tokens(tmp_path: Path, customer_id: str) -> None:
    tokens = [customer_token(12345, customer_id).name]
    with DuckEngine(plan(), tmp_path, "500MB") as engine:
        columns = [pa.array([customer_id, f"{customer_id}x"], pa.string())] + [pa.array(["", ""])] * 2
        engine.stage(iter([pa.RecordBatch.from_arrays([pa.array([0, 1], pa.int64()), *columns], schema=engine.schema)]))
        assert engine.take_opted_out(12345, tokens).tolist() == [0]
        assert engine.count() == 1
    assert OptOuts(12345, {tokens[0]: 1}).holds(customer_id)
    assert not OptOuts(1234, {tokens[0]: 1}).tokens
    assert not OptOuts(1234, {tokens[0]: 1}).holds(customer_id)


# --- files that are frozen already -----------------------------------------------------------------------------------


def frozen_but_not_offered(world: World) -> str:
    """The destination is away at the first look; the run's name."""
    world.put("a.csv", ROWS)
    world.delivered.write_text("a file where the folder should be")
    with pytest.raises(DestinationRefused):
        world.run()
    world.delivered.unlink()
    (path,) = world.state.glob("runs/*")
    return path.name


def frozen_and_offered(world: World, monkeypatch: pytest.MonkeyPatch) -> str:
    """The process dies right before the first byte goes out, for all that it knows after it."""
    world.put("a.csv", ROWS)
    with monkeypatch.context() as patch:
        patch.setattr("reconcile.delivery.directory.DirectoryDelivery.deliver", die)
        with pytest.raises(Killed):
            world.run()
    (path,) = world.state.glob("runs/*")
    return path.name


class Killed(Exception):
    """Stands for kill -9: nothing of ours catches it."""


def die(*_: object) -> str:
    raise Killed


def test_a_run_that_was_never_offered_is_withdrawn_after_an_opt_out(world: World) -> None:
    earlier = frozen_but_not_offered(world)
    world.now += 5_000
    world.opt_out("gone")
    summary = world.run()
    assert (summary.withdrawn, summary.settled) == ([earlier], [])
    assert figures(summary, *COUNTS) == (3, 1, 1, 1, 1)
    assert summary.run != earlier
    assert [line.partition("\t")[0] for line in world.lines()] == [uuid(1)]
    states = {row["run"]: (row["state"], row["problem"]) for row in Ledger(world.state / "ledger.db").history()}
    assert states[earlier][0] == "withdrawn"
    assert "inputs are new again" in states[earlier][1]
    assert leave(world, b"gone") == []


def test_an_opt_out_that_comes_late_from_a_spool_counts_as_well(world: World) -> None:
    """Its time lies before the freeze, but the store knew nothing of it then."""
    earlier = frozen_but_not_offered(world)
    world.now -= 3_600_000
    world.opt_out("gone")
    world.now += 3_605_000
    assert world.run().withdrawn == [earlier]


def test_without_a_new_opt_out_it_goes_out_as_it_is(world: World) -> None:
    world.opt_out("late-1")
    earlier = frozen_but_not_offered(world)
    summary = world.run()
    assert (summary.withdrawn, summary.settled) == ([], [earlier])
    assert len(world.lines()) == 2


def test_what_may_have_been_offered_goes_out_as_it_is(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    earlier = frozen_and_offered(world, monkeypatch)
    (path,) = world.state.glob("runs/*/files/*")
    data = path.read_bytes()
    world.opt_out("gone")
    summary = world.run()
    assert (summary.withdrawn, summary.settled) == ([], [earlier])
    assert [path.read_bytes() for path in world.delivered.iterdir()] == [data]


def test_a_run_without_files_that_was_recorded_is_not_withdrawn(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its inputs are known by now, and will not be read again: what it holds would be lost."""
    world.put("a.csv", [("late-1", "f", "", "")])
    with monkeypatch.context() as patch:
        patch.setattr("reconcile.durable.move", killed_at_held(durable.move))
        with pytest.raises(Killed):
            world.run()
    world.opt_out("gone")
    assert len(world.run().settled) == 1
    world.sync(("late-1", uuid(3)))
    assert world.run().matched == 1


def killed_at_held(move: Callable[[Path, Path], None]) -> Callable[[Path, Path], None]:
    """The process dies right before held records take their place."""

    def call(source: Path, target: Path) -> None:
        if target.parent.name == "held":
            raise Killed
        move(source, target)

    return call


def test_a_withdrawal_that_was_cut_short_is_finished(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    earlier = frozen_but_not_offered(world)
    world.opt_out("gone")
    with monkeypatch.context() as patch:
        patch.setattr("shutil.rmtree", die)
        with pytest.raises(Killed):
            world.run()
    summary = world.run()
    assert (summary.withdrawn, summary.settled) == ([], [])
    assert figures(summary, *COUNTS) == (3, 1, 1, 1, 1)
    assert not [path for path in world.state.rglob("*") if earlier in path.name]


def test_a_run_waits_while_the_store_cannot_tell_of_opt_outs(world: World) -> None:
    earlier = frozen_but_not_offered(world)
    url, world.url = world.url, "redis://127.0.0.1:1/0"
    with pytest.raises(StoreUnavailable):
        world.run()
    assert not world.delivered.exists()
    world.url = url
    assert world.run().settled == [earlier]


def test_an_opt_out_is_read_before_the_join(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    """One that is answered while the inputs are read is honoured by this run."""
    world.put("a.csv", ROWS)
    stage = DuckEngine.stage

    def slow_stage(*arguments):  # type: ignore[no-untyped-def]
        count = stage(*arguments)
        world.opt_out("gone")
        return count

    monkeypatch.setattr(DuckEngine, "stage", slow_stage)
    assert figures(world.run(), *COUNTS) == (3, 1, 1, 1, 1)


def test_a_refused_run_keeps_nothing_but_its_rejects_and_report(world: World) -> None:
    world.put("a.csv", [("c1", "f", "", ""), ("", "f", "", "")])
    with pytest.raises(RunRefused):
        world.run()
    (folder,) = world.state.glob("runs/*")
    assert sorted(path.name for path in folder.iterdir()) == [
        "REFUSED",
        "opt-outs.sha256",
        "plan.json",
        "rejects.csv.gz",
        "report.html",
        "report.json",
    ]


def test_settling_needs_no_opt_outs_where_nothing_waits(world: World) -> None:
    world.url = "redis://127.0.0.1:1/0"
    assert Job(world.settings, "daily", Meter(), lambda: world.now).settle() == ([], [])
