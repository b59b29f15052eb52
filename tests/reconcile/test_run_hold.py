"""Runs that wait for somebody's word, files that go out once more, and files that wait for the IDs they rest on."""

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from idsync.errors import UsageError
from reconcile import erasure, redeliver, syncfile
from reconcile.delivery.directory import DirectoryDelivery
from reconcile.errors import DestinationUnavailable, RunHeldBack, RunLocked, RunRefused
from reconcile.ledger import Ledger
from reconcile.lock import exclusive
from reconcile.progress import Meter
from reconcile.redeliver import Redelivery
from reconcile.shipment import Account
from reconcile.state import FeedState
from tests.reconcile.samples import DPID, NOW_SECONDS, SIGNALS, World, uuid

RUN = f"{NOW_SECONDS}-daily"
SECOND = '[[destinations]]\nname = "second"\nkind = "directory"\npath = "second"\n'


@pytest.fixture
def world(tmp_path: Path) -> World:
    world = World(tmp_path, SIGNALS + "diagnose = false\n" + SECOND)
    world.sync(("c1", uuid(1)), ("c2", uuid(2)))
    world.put("a.csv", [("c1", "f", "", ""), ("c2", "m", "", ""), ("nobody", "m", "", "")])
    return world


def release(world: World, run: str = RUN) -> Account:
    return redeliver.release(world.settings, run, meter=Meter(), now=lambda: world.now)


def again(world: World, run: str = RUN, to: str | None = None, *, despite: bool = False) -> Redelivery:
    return redeliver.redeliver(
        world.settings, run, to=to, despite_opt_outs=despite, meter=Meter(), now=lambda: world.now
    )


def states(world: World) -> list[str]:
    return [row["state"] for row in Ledger(world.state / "ledger.db").history()]


def sent(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir()} if folder.exists() else {}


def frozen(world: World, run: str = RUN) -> dict[str, bytes]:
    return sent(world.state / "runs" / run / "files")


# --- on hold ---------------------------------------------------------------------------------------------------------


def test_a_run_on_hold_is_delivered_by_a_release(world: World) -> None:
    summary = world.run(hold=True)
    assert (summary.status, summary.run, states(world)) == ("on-hold", RUN, ["on-hold"])
    assert not world.delivered.exists()
    assert (world.state / "runs" / RUN / "ON_HOLD").exists()
    assert not (world.state / "held" / "daily.parquet").exists()  # what waits is not known before the delivery
    files = frozen(world)
    world.now += 1000
    released = release(world)
    assert (released.status, states(world)) == ("delivered", ["delivered"])
    assert sent(world.delivered) == files
    assert (world.state / "held" / "daily.parquet").exists()
    assert not (world.state / "runs" / RUN / "ON_HOLD").exists()
    assert world.run().status == "nothing-to-do"


def test_no_other_run_overtakes_it_or_delivers_it(world: World) -> None:
    world.run(hold=True)
    world.put("b.csv", [("c1", "x", "", "")])
    for hold in (False, True):
        with pytest.raises(RunHeldBack, match=f"run {RUN} is on hold") as caught:
            world.run(hold=hold)
        assert caught.value.exit_status == 75
        assert f"release {RUN}" in str(caught.value)
    assert not world.delivered.exists()
    assert states(world) == ["on-hold"]
    release(world)
    assert world.run().status == "delivered"
    assert len(sent(world.delivered)) == 2


def test_other_feeds_go_on(world: World) -> None:
    world.run(hold=True)
    assert send_mappings(world).status == "delivered"


def test_an_opt_out_withdraws_it_and_its_successor_is_on_hold(world: World) -> None:
    world.run(hold=True)
    world.opt_out("c1")
    world.now += 1000
    summary = world.run()
    assert (summary.status, summary.withdrawn) == ("on-hold", [RUN])
    assert not world.delivered.exists()
    release(world, summary.run)
    assert world.lines() == [f'{uuid(2)}\t"gender"="m"\n']
    world.put("b.csv", [("c2", "x", "", "")])
    assert world.run().status == "delivered"


def test_a_release_after_an_opt_out_withdraws_it_too(world: World) -> None:
    world.run(hold=True)
    world.opt_out("c1")
    with pytest.raises(RunHeldBack, match="was withdrawn"):
        release(world)
    assert not world.delivered.exists()
    world.now += 1000
    assert world.run().status == "on-hold"


def test_an_erasure_withdraws_it_too(world: World) -> None:
    world.run(hold=True)
    sought = erasure.Sought({DPID: frozenset({"c1"})}, frozenset({uuid(1)}))
    assert erasure.erase(world.settings, sought, 0).withdrawn == [RUN]
    world.now += 1000
    assert world.run().status == "on-hold"
    assert not world.delivered.exists()


def test_a_release_to_a_destination_that_is_away_is_finished_by_the_next_run(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    def away(*_: object) -> None:
        raise DestinationUnavailable("away", mend="later")

    world.run(hold=True)
    with monkeypatch.context() as patch:
        patch.setattr(DirectoryDelivery, "reach", away)
        with pytest.raises(DestinationUnavailable):
            release(world)
    assert states(world) == ["frozen"]
    assert world.run().settled == [RUN]
    assert states(world) == ["delivered"]


def test_what_has_nothing_to_do_is_not_on_hold(world: World) -> None:
    world.run()
    assert world.run(hold=True).status == "nothing-to-do"
    world.put("b.csv", [("c1", "x", "", "")])
    assert world.run().status == "delivered"


@pytest.mark.parametrize("run", ["1-daily", "nonsense", RUN])
@pytest.mark.parametrize("act", [release, again])
def test_runs_that_are_not_there_are_told(world: World, run: str, act: Callable[[World, str], object]) -> None:
    with pytest.raises(UsageError, match=f"run {run} is not known"):
        act(world, run)


def test_a_delivered_run_cannot_be_released(world: World) -> None:
    world.run()
    with pytest.raises(UsageError, match="is not on hold"):
        release(world)


def test_one_at_a_time(world: World) -> None:
    world.run(hold=True)
    with exclusive(world.state / "locks" / "daily.lock", "daily"):
        for act in (release, again):
            with pytest.raises(RunLocked):
                act(world)


# --- once more -------------------------------------------------------------------------------------------------------


def test_files_go_out_once_more_unchanged(world: World) -> None:
    world.run()
    files = sent(world.delivered)
    for path in world.delivered.iterdir():
        path.unlink()
    world.now += 1000
    told = again(world)
    assert sent(world.delivered) == files
    assert (told.destination, [file["location"] for file in told.files]) == (
        "local",
        [str(world.delivered / name) for name in files],
    )
    assert again(world).files == told.files  # they are there: seen to be the same
    assert states(world) == ["delivered"]
    (row,) = Ledger(world.state / "ledger.db").history()
    assert [entry["destination"] for entry in row["redelivered"]] == ["local", "local"]


def test_files_go_to_another_destination(world: World) -> None:
    world.run()
    told = again(world, to="second")
    assert sent(world.folder / "second") == sent(world.delivered)
    assert told.destination == "second"
    places = {entry.location for entry in Ledger(world.state / "ledger.db").deliveries()}
    assert places == {str(world.folder / place / name) for place in ("second", "delivered") for name in frozen(world)}
    sought = erasure.Sought({DPID: frozenset()}, frozenset({uuid(1)}))
    assert set(erasure.find(world.settings, sought).directories) == places


def test_id_sync_files_go_out_once_more(world: World) -> None:
    summary = send_mappings(world)
    again(world, summary.run, to="second")
    assert sent(world.folder / "second") == sent(world.delivered)


def test_what_is_gone_or_changed_is_not_offered(world: World) -> None:
    world.run()
    (path,) = (world.state / "runs" / RUN / "files").iterdir()
    path.write_bytes(b"something else")
    with pytest.raises(RunRefused, match="is not what was frozen"):
        again(world, to="second")
    path.unlink()
    with pytest.raises(RunRefused, match="is kept no more"):
        again(world, to="second")
    assert not (world.folder / "second").exists()


def test_a_run_folder_past_its_time_is_told(world: World) -> None:
    world.run()
    (world.state / "runs" / RUN).rename(world.folder / "gone")
    with pytest.raises(UsageError, match="keep_runs_days are over"):
        again(world)


def test_who_opted_out_since_is_not_sent_again_unasked(world: World) -> None:
    world.run()
    world.opt_out("c1")
    with pytest.raises(RunRefused, match="somebody has opted out"):
        again(world, to="second")
    assert not (world.folder / "second").exists()
    again(world, to="second", despite=True)
    assert sent(world.folder / "second") == sent(world.delivered)


def test_only_delivered_runs_go_out_again_and_only_to_what_is_there(world: World) -> None:
    world.run(hold=True)
    with pytest.raises(UsageError, match="was not delivered yet"):
        again(world)
    release(world)
    with pytest.raises(UsageError, match='no destination is called "nowhere"'):
        again(world, to="nowhere")


# --- after the ID-sync file ------------------------------------------------------------------------------------------


def send_mappings(world: World) -> syncfile.SyncSummary:
    return syncfile.sync_file(world.settings, ["crm"], destination="local", meter=Meter(), now=lambda: world.now)


@pytest.fixture
def waiting(world: World) -> World:
    world.feed = world.feed.replace("diagnose", "after_sync_file = true\ndiagnose", 1)
    return world


def test_files_wait_for_the_id_sync_file(waiting: World) -> None:
    with pytest.raises(RunHeldBack, match="waits for an ID-sync file: 2 mappings of crm") as caught:
        waiting.run()
    assert caught.value.exit_status == 75
    assert "sync-file crm --destination local, then" in str(caught.value)
    assert states(waiting) == ["frozen"]
    assert not waiting.delivered.exists()
    files = frozen(waiting)
    waiting.now += 1000
    with pytest.raises(RunHeldBack):
        waiting.run()
    send_mappings(waiting)
    assert waiting.run().settled == [RUN]
    assert files.items() <= sent(waiting.delivered).items()
    assert set(states(waiting)) == {"delivered"}


def test_where_everything_was_sent_nothing_waits(waiting: World) -> None:
    send_mappings(waiting)
    waiting.now += 1000
    assert waiting.run().status == "delivered"
    waiting.sync(("c3", uuid(3)))
    waiting.put("b.csv", [("c3", "f", "", "")])
    with pytest.raises(RunHeldBack, match="1 mapping of crm was in none"):
        waiting.run()


def test_what_came_after_the_freeze_does_not_count(waiting: World) -> None:
    """Once a job has read the mappings after the freeze, later ones are for later files."""
    with pytest.raises(RunHeldBack):
        waiting.run()
    waiting.now += 1000
    send_mappings(waiting)
    waiting.sync(("c9", uuid(9)))
    assert waiting.run().settled == [RUN]


def test_a_file_of_several_data_sources_counts_and_one_of_another_does_not(waiting: World) -> None:
    waiting.feed += '[[data_sources]]\nname = "shop"\ndpid = 9\n'
    waiting.sync(("s1", uuid(1)), dpid=9)
    now: Callable[[], int] = lambda: waiting.now  # noqa: E731
    syncfile.sync_file(waiting.settings, ["shop"], destination="local", meter=Meter(), now=now)
    with pytest.raises(RunHeldBack):
        waiting.run()
    syncfile.sync_file(waiting.settings, ["shop", "crm"], destination="local", meter=Meter(), now=now)
    waiting.now += 1000
    assert len(waiting.run().settled) == 1


def test_files_wait_for_the_ids_that_stand_in_them(waiting: World) -> None:
    """Customers are known by the IDs of another data source there."""
    waiting.feed = waiting.feed.replace("diagnose", 'user_id = "shop"\ndiagnose', 1)
    waiting.feed += '[[data_sources]]\nname = "shop"\ndpid = 9\n'
    waiting.sync(("s1", uuid(1)), dpid=9)
    send_mappings(waiting)
    with pytest.raises(RunHeldBack, match="1 mapping of shop was in none"):
        waiting.run()
    waiting.now += 1000
    now: Callable[[], int] = lambda: waiting.now  # noqa: E731
    syncfile.sync_file(waiting.settings, ["shop"], destination="local", meter=Meter(), now=now)
    assert len(waiting.run().settled) == 1


def test_what_the_beta_environment_was_told_does_not_count(waiting: World) -> None:
    """ID-sync files may go another way than the data, but not to others."""
    for name, more in (("trial", 'environment = "beta"\n'), ("other", "")):
        waiting.feed += f'[[destinations]]\nname = "{name}"\nkind = "s3"\nbucket = "inbound"\n{more}'
    send_mappings(waiting)
    waiting.now += 1000

    def told(name: str) -> Path:
        return FeedState(waiting.state, syncfile.feed_name([DPID], name)).sent

    told("local").rename(told("trial"))
    with pytest.raises(RunHeldBack, match="2 mappings of crm were in none"):
        waiting.run()
    told("trial").rename(told("other"))
    assert waiting.run().settled == [f"{NOW_SECONDS + 1}-daily"]


def test_an_opt_out_meanwhile_withdraws_what_waits(waiting: World) -> None:
    with pytest.raises(RunHeldBack):
        waiting.run()
    waiting.opt_out("c1")
    waiting.now += 1000
    send_mappings(waiting)
    assert waiting.run().withdrawn == [RUN]
    assert waiting.lines()[-1] == f'{uuid(2)}\t"gender"="m"\n'


def test_a_run_without_files_waits_for_nothing(waiting: World) -> None:
    for path in waiting.inbox.iterdir():
        path.unlink()
    waiting.put("b.csv", [("nobody", "m", "", "")])
    assert waiting.run().status == "delivered"


# --- the commands ----------------------------------------------------------------------------------------------------


def test_the_commands(world: World) -> None:
    config = world.write_config()

    def call(*arguments: str) -> "subprocess.CompletedProcess[str]":
        command = [sys.executable, "-m", "reconcile", *arguments, "--config", str(config)]
        return subprocess.run(command, env=os.environ, capture_output=True, text=True, check=False)

    held = call("run", "daily", "--hold")
    run = json.loads(held.stdout)["run"]
    assert (held.returncode, json.loads(held.stdout)["status"]) == (0, "on-hold"), held.stderr
    assert f"release {run}" in held.stderr
    later = call("run", "daily")
    assert (later.returncode, later.stdout) == (75, "")
    released = call("release", run)
    assert (released.returncode, json.loads(released.stdout)["status"]) == (0, "delivered"), released.stderr
    once_more = call("redeliver", run, "--to", "second")
    assert json.loads(once_more.stdout)["destination"] == "second"
    assert sent(world.folder / "second") == sent(world.delivered)
    assert call("release", run).returncode == 2
    assert call("run", "daily", "--hold", "--dry-run").returncode == 2
