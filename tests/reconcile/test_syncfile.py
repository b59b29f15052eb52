"""ID-sync files: what the store holds becomes exact lines, each mapping once, under names that never repeat."""

import gzip
import json
import os
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from pyarrow import parquet

from idsync import config, ids
from idsync.errors import StoreUnavailable, UsageError
from idsync.settings import Settings
from idsync.store import DAY, open_store
from idsync.store.base import Sync
from reconcile import erasure, files, mappings, names, retention, shipment, syncfile
from reconcile.check.content import Column, id_sync_line
from reconcile.delivery.directory import DirectoryDelivery
from reconcile.errors import DestinationUnavailable, RunLocked
from reconcile.ledger import Ledger
from reconcile.lock import exclusive
from reconcile.progress import Meter
from reconcile.shipment import Shipment
from reconcile.state import FeedState
from reconcile.syncfile import SyncSummary, feed_name
from tests.reconcile.samples import NOW_SECONDS, World, content, uuid

DPIDS = {"crm": 12345, "loyalty": 777, "shop": 9}
SOURCES = '[[data_sources]]\nname = "loyalty"\ndpid = 777\n[[data_sources]]\nname = "shop"\ndpid = 9\n'


@dataclass
class Scene(World):
    """With two more data sources. The clock moves on with each file."""

    extra: str = ""
    rules: dict[str, str] = field(default_factory=dict)

    @property
    def settings(self) -> Settings:
        made = super().settings
        more = config.parse(self.text(), environ={}, base=self.folder)
        return made.model_copy(update={"data_sources": more.data_sources, "destinations": more.destinations})

    def text(self) -> str:
        path = self.write_config()
        return path.read_text() + SOURCES + self.extra

    def send(self, *sources: str, **options: Any) -> SyncSummary:
        made = syncfile.sync_file(
            self.settings,
            sources or ("crm",),
            **{"destination": "local", "meter": Meter(), "now": lambda: self.now, **options},
        )
        check_lines(self.delivered)
        return made

    def sent(self) -> dict[str, list[str]]:
        """The lines of each delivered file, sorted."""
        return {path.name: sorted(content(path).splitlines()) for path in sorted(self.delivered.glob("*"))}


def check_lines(folder: Path) -> None:
    """Every line against the rules by which anybody's files are checked."""
    for path in folder.glob("*"):
        name = names.parse_id_sync(path.name)
        columns: list[Column] = ["uuid", *(ids.DEFAULT_RULES for _ in name.dpids[1:])]
        data = content(path).encode()
        assert data.endswith(b"\n")
        for line in data[:-1].split(b"\n"):
            assert list(id_sync_line(line, columns)) == []


@pytest.fixture
def scene(tmp_path: Path) -> Scene:
    return Scene(tmp_path)


def line(device: int, *customers: str) -> str:
    return "\t".join([uuid(device), *customers])


def test_every_mapping_is_a_line(scene: Scene) -> None:
    scene.sync(("c1", uuid(1)), ("007", uuid(2)), ("c1", uuid(3)), ("Zoë b", uuid(2)))
    scene.sync(("other", uuid(1)), dpid=777)
    summary = scene.send()
    assert scene.sent() == {
        f"adobe_id_0_12345_{NOW_SECONDS}.sync.gz": [line(1, "c1"), line(2, "007"), line(2, "Zoë b"), line(3, "c1")]
    }
    assert (summary.status, summary.mappings, summary.new, summary.known, summary.lines) == ("delivered", 4, 4, 0, 4)
    assert (summary.feed, summary.dpids) == ("id-sync@12345@local", [12345])


def test_the_file_may_be_plain(scene: Scene) -> None:
    scene.sync(("c1", uuid(1)))
    scene.send(compression="none")
    (path,) = scene.delivered.iterdir()
    assert path.name == f"adobe_id_0_12345_{NOW_SECONDS}.sync"
    assert path.read_bytes() == f"{uuid(1)}\tc1\n".encode()


def test_a_folder_that_is_called_like_a_column(tmp_path: Path) -> None:
    scene = Scene(tmp_path / "dpid=1")
    scene.sync(("c1", uuid(1)))
    scene.send()
    assert scene.send().status == "nothing-to-do"


def test_only_what_is_new_is_sent(scene: Scene) -> None:
    scene.sync(("c1", uuid(1)))
    scene.send()
    scene.sync(("c1", uuid(1)), ("c2", uuid(2)), seen=scene.now)  # the first was seen again: nothing new
    scene.now += 1000
    summary = scene.send()
    assert (summary.mappings, summary.new, summary.known) == (2, 1, 1)
    assert list(scene.sent().values()) == [[line(1, "c1")], [line(2, "c2")]]
    scene.now += 1000
    summary = scene.send()
    assert (summary.status, summary.run, summary.files, summary.known) == ("nothing-to-do", "", [], 2)
    assert len(list(scene.delivered.iterdir())) == 2
    assert [row["state"] for row in Ledger(scene.state / "ledger.db").history()] == ["delivered", "delivered"]
    summary = scene.send(everything=True)
    assert (summary.new, summary.known) == (2, 0)
    assert list(scene.sent().values())[-1] == [line(1, "c1"), line(2, "c2")]
    assert scene.send().status == "nothing-to-do"


def test_without_mappings_there_is_no_file_and_no_trace(scene: Scene) -> None:
    assert scene.send().status == "nothing-to-do"
    assert not scene.delivered.exists()
    assert list((scene.state / "runs").iterdir()) == []
    assert Ledger(scene.state / "ledger.db").history() == []


def test_timestamps_never_repeat(scene: Scene) -> None:
    scene.sync(("c1", uuid(1)))
    scene.put("a.csv", [("c1", "f", "gold", "24")])
    scene.run()
    summary = syncfile.sync_file(scene.settings, ["crm"], destination="local", meter=Meter(), now=lambda: scene.now)
    (file,) = summary.files
    assert names.parse_id_sync(file["name"]).timestamp == NOW_SECONDS + 1


def test_a_mapping_that_went_and_came_back_is_sent_again(scene: Scene) -> None:
    scene.sync(("c1", uuid(1)), ("c2", uuid(2)))
    scene.send()
    scene.now += 130 * DAY
    scene.sync(("c2", uuid(2)))
    assert scene.send().status == "nothing-to-do"  # c1 is past its lifetime
    scene.now += 1000
    scene.sync(("c1", uuid(1)))
    assert scene.send().new == 1
    assert list(scene.sent().values())[-1] == [line(1, "c1")]


def test_who_opted_out_is_left_out(scene: Scene) -> None:
    scene.sync(("c1", uuid(1)), ("c2", uuid(2)), ("c3", uuid(3)))
    scene.opt_out("c1", devices=[uuid(2)])
    assert scene.send().mappings == 1
    assert list(scene.sent().values()) == [[line(3, "c3")]]


def test_ids_that_may_not_be_sent_are_left_out_and_told(scene: Scene) -> None:
    """What was stored before the rules were what they are."""
    scene.sync(("c1", uuid(1)), ("john@example.com", uuid(2)), ("c ", uuid(3)), ("a:b", uuid(4)), ("null", uuid(5)))
    summary = scene.send()
    assert list(scene.sent().values()) == [[line(1, "c1")]]
    assert (summary.mappings, summary.new, summary.left_out) == (5, 1, 4)
    assert summary.reasons == {"id-email": 1, "id-ends-in-space": 1, "id-colon": 1, "id-sentinel": 1}
    assert set(summary.reasons) <= set(syncfile.EXPLANATIONS)
    assert scene.send().status == "nothing-to-do"


# --- several data sources --------------------------------------------------------------------------------------------


def test_columns_stand_in_the_order_of_the_name_and_none_is_empty(scene: Scene) -> None:
    scene.sync(("c1", uuid(1)), ("c2", uuid(2)), ("c4", uuid(4)))
    scene.sync(("l1", uuid(1)), ("l3", uuid(3)), ("l4", uuid(4)), dpid=777)
    scene.sync(("s4", uuid(4)), ("s3", uuid(3)), dpid=9)
    summary = scene.send("loyalty", "crm", "shop")
    assert scene.sent() == {
        f"adobe_id_0_12345_{NOW_SECONDS}.sync.gz": [line(2, "c2")],
        f"adobe_id_0_777_12345_{NOW_SECONDS}.sync.gz": [line(1, "l1", "c1")],
        f"adobe_id_0_777_12345_9_{NOW_SECONDS}.sync.gz": [line(4, "l4", "c4", "s4")],
        f"adobe_id_0_777_9_{NOW_SECONDS}.sync.gz": [line(3, "l3", "s3")],
    }
    assert (summary.mappings, summary.new, summary.lines) == (8, 8, 4)


def test_a_device_of_several_customers_has_several_lines(scene: Scene) -> None:
    scene.sync(("c1", uuid(1)), ("c2", uuid(1)), ("c3", uuid(1)))  # c3 is the latest
    scene.sync(("l1", uuid(1)), ("l2", uuid(1)), dpid=777)
    scene.send("crm", "loyalty")
    assert list(scene.sent().values()) == [sorted([line(1, "c3", "l2"), line(1, "c2", "l1"), line(1, "c1", "l2")])]


def test_a_device_is_sent_whole_when_something_of_it_is_new(scene: Scene) -> None:
    scene.sync(("c1", uuid(1)), ("c2", uuid(2)))
    scene.sync(("l2", uuid(2)), dpid=777)
    scene.send("crm", "loyalty")
    scene.now += 1000
    scene.sync(("l1", uuid(1)), dpid=777)
    summary = scene.send("loyalty", "crm")  # in another order it is the same set
    assert (summary.new, summary.known, summary.lines) == (1, 3, 1)
    assert scene.sent()[f"adobe_id_0_777_12345_{scene.now // 1000}.sync.gz"] == [line(1, "l1", "c1")]
    scene.now += 1000
    assert scene.send("crm").new == 2  # alone it is another set


facts = st.lists(st.tuples(st.sampled_from(list(DPIDS)), st.integers(1, 4), st.sampled_from("abc")), max_size=12)


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=15, deadline=None)
@given(rounds=st.lists(facts, min_size=1, max_size=3))
def test_every_mapping_reaches_audience_manager_and_nothing_else(
    tmp_path_factory: pytest.TempPathFactory, rounds: list[list[tuple[str, int, str]]]
) -> None:
    """Whoever reads all files knows what the store knows, each line full."""
    scene = Scene(tmp_path_factory.mktemp("scene"))
    stored: set[tuple[int, str, str]] = set()
    for synced in rounds:
        for source, device, customer in synced:
            scene.sync((source + customer, uuid(device)), dpid=DPIDS[source], seen=scene.now - 1)
            stored.add((DPIDS[source], uuid(device), source + customer))
        scene.send(*DPIDS)
        scene.now += 1000
        told = set()
        for name, content_lines in scene.sent().items():
            dpids = names.parse_id_sync(name).dpids
            for text in content_lines:
                device_id, *customers = text.split("\t")
                told |= {(dpid, device_id, customer) for dpid, customer in zip(dpids[1:], customers, strict=True)}
        assert told == stored


# --- guarantees ------------------------------------------------------------------------------------------------------


class Killed(BaseException):
    pass


def kill(*_: object, **__: object) -> None:
    raise Killed


def test_a_job_killed_before_the_freeze_starts_again(scene: Scene, monkeypatch: pytest.MonkeyPatch) -> None:
    scene.sync(("c1", uuid(1)))
    with monkeypatch.context() as patch:
        patch.setattr(files.FileWriter, "finish", kill)
        with pytest.raises(Killed):
            scene.send()
    summary = scene.send()
    assert summary.settled == []
    assert list(scene.sent()) == [f"adobe_id_0_12345_{NOW_SECONDS + 1}.sync.gz"]
    assert [row["state"] for row in Ledger(scene.state / "ledger.db").history()] == ["delivered", "failed"]
    assert scene.send().status == "nothing-to-do"


@pytest.mark.parametrize(
    "place", ["DirectoryDelivery.reach", "DirectoryDelivery.deliver", "Ledger.close", "Shipment._take_over"]
)
def test_a_frozen_file_is_delivered_once_under_its_name(
    scene: Scene, monkeypatch: pytest.MonkeyPatch, place: str
) -> None:
    scene.sync(("c1", uuid(1)))
    kind, _, method = place.partition(".")
    owner: Any = {"DirectoryDelivery": DirectoryDelivery, "Ledger": Ledger, "Shipment": Shipment}[kind]
    with monkeypatch.context() as patch:
        patch.setattr(owner, method, kill)
        with pytest.raises(Killed):
            scene.send()
    frozen = {path.name: path.read_bytes() for path in scene.state.glob("runs/*/files/*")}
    scene.sync(("c2", uuid(2)))
    scene.now += 1000
    summary = scene.send()
    assert summary.settled == [f"{NOW_SECONDS}-id-sync@12345@local"]
    delivered = {path.name: path.read_bytes() for path in scene.delivered.iterdir()}
    assert delivered.items() >= frozen.items()
    assert list(scene.sent().values()) == [[line(1, "c1")], [line(2, "c2")]]


def test_a_destination_that_is_away_gets_the_file_later(scene: Scene, monkeypatch: pytest.MonkeyPatch) -> None:
    scene.sync(("c1", uuid(1)))

    def away(*_: object) -> None:
        raise DestinationUnavailable("away", mend="later")

    with monkeypatch.context() as patch:
        patch.setattr(DirectoryDelivery, "deliver", away)
        with pytest.raises(DestinationUnavailable):
            scene.send()
    assert Ledger(scene.state / "ledger.db").history()[0]["state"] == "frozen"
    summary = scene.send()
    assert (summary.status, len(summary.settled)) == ("nothing-to-do", 1)
    assert list(scene.sent().values()) == [[line(1, "c1")]]


def test_what_was_frozen_for_a_destination_goes_there(scene: Scene, monkeypatch: pytest.MonkeyPatch) -> None:
    scene.extra = '[[destinations]]\nname = "second"\nkind = "directory"\npath = "second"\n'
    scene.sync(("c1", uuid(1)))
    with monkeypatch.context() as patch:
        patch.setattr(DirectoryDelivery, "deliver", kill)
        with pytest.raises(Killed):
            scene.send()
    scene.send(destination="second")
    assert not list(scene.delivered.glob("*"))
    assert scene.send().settled == [f"{NOW_SECONDS}-id-sync@12345@local"]
    for folder in (scene.delivered, scene.folder / "second"):
        assert [content(path) for path in folder.iterdir()] == [line(1, "c1") + "\n"]


def test_each_destination_is_told_what_is_new_to_it(scene: Scene) -> None:
    scene.extra = '[[destinations]]\nname = "second"\nkind = "directory"\npath = "second"\n'
    scene.sync(("c1", uuid(1)))
    assert scene.send(destination="second").new == 1
    assert scene.send().new == 1
    assert [scene.send(destination=name).status for name in ("second", "local")] == ["nothing-to-do"] * 2


def test_an_opt_out_before_the_offer_withdraws_the_file(scene: Scene, monkeypatch: pytest.MonkeyPatch) -> None:
    scene.sync(("c1", uuid(1)), ("c2", uuid(2)))
    with monkeypatch.context() as patch:
        patch.setattr(DirectoryDelivery, "reach", kill)
        with pytest.raises(Killed):
            scene.send()
    scene.opt_out("c1")
    summary = scene.send()
    assert summary.withdrawn == [f"{NOW_SECONDS}-id-sync@12345@local"]
    assert list(scene.sent().values()) == [[line(2, "c2")]]


def test_an_opt_out_after_the_offer_changes_no_byte(scene: Scene, monkeypatch: pytest.MonkeyPatch) -> None:
    """The destination may hold part of the file: a name stands for one byte sequence."""
    scene.sync(("c1", uuid(1)), ("c2", uuid(2)))
    with monkeypatch.context() as patch:
        patch.setattr(DirectoryDelivery, "deliver", kill)
        with pytest.raises(Killed):
            scene.send()
    scene.opt_out("c1")
    summary = scene.send()
    assert (summary.withdrawn, len(summary.settled)) == ([], 1)
    assert list(scene.sent().values()) == [[line(1, "c1"), line(2, "c2")]]


def test_a_store_that_is_away_leaves_nothing_behind(scene: Scene, monkeypatch: pytest.MonkeyPatch) -> None:
    scene.sync(("c1", uuid(1)))
    scene.folder.joinpath("idsync.db").rename(scene.folder / "away.db")
    scene.folder.joinpath("idsync.db").mkdir()
    with pytest.raises(StoreUnavailable):
        scene.send()
    assert list((scene.state / "runs").iterdir()) == []


def test_one_job_at_a_time(scene: Scene) -> None:
    state = FeedState(scene.state, feed_name([12345], "local"))
    with exclusive(state.lock, "sync"), pytest.raises(RunLocked):
        scene.send()


def test_large_files_are_split_and_together_hold_all(scene: Scene, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(mappings, "BATCH_ROWS", 2048)
    writer = files.FileWriter.__init__

    def small(*asked: Any) -> None:
        writer(*asked, split_raw=200_000)

    monkeypatch.setattr(files.FileWriter, "__init__", small)
    store = open_store(scene.settings.store)
    store.record([Sync(12345, f"c{number}", uuid(number), "", scene.now - 1) for number in range(1, 10_001)])
    store.close()
    summary = scene.send()
    assert len(summary.files) > 2
    found = scene.sent()
    assert list(found) == sorted(f"adobe_id_0_12345_{NOW_SECONDS}.sync.{n + 1}.gz" for n in range(len(summary.files)))
    everything = [text for each in found.values() for text in each]
    assert sorted(everything) == sorted(line(number, f"c{number}") for number in range(1, 10_001))


# --- what is kept ----------------------------------------------------------------------------------------------------


def test_erasing_somebody_reaches_what_is_kept_of_id_sync_files(scene: Scene) -> None:
    scene.sync(("c1", uuid(1)), ("c2", uuid(2)))
    scene.send()
    sought = erasure.parse([b'{"dpid": 12345, "customer_id": "c1"}', f'{{"uuid": "{uuid(1)}"}}'.encode()])
    erasure.erase(scene.settings, sought, 0)
    for path, data in scene.everything():
        assert uuid(1).encode() not in data, path
    kept = parquet.read_table(FeedState(scene.state, feed_name([12345], "local")).sent)
    assert kept.column("customer_id").to_pylist() == ["c2"]


def test_what_was_sent_is_kept_for_a_time(scene: Scene) -> None:
    scene.sync(("c1", uuid(1)))
    scene.send()
    state = FeedState(scene.state, feed_name([12345], "local"))
    kept = parquet.read_schema(state.sent)
    assert kept.names == ["customer_id", "high", "low", "dpid", "seen"]
    assert kept.types == [pa.string(), pa.uint64(), pa.uint64(), pa.int64(), pa.int64()]
    retention.sweep(scene.settings, scene.now + 364 * DAY)
    assert state.sent.exists()
    purged, _ = retention.sweep(scene.settings, scene.now + 366 * DAY)
    assert (purged["id-sync@12345@local"].sent, state.sent.exists()) == (1, False)


def test_names_of_what_is_kept() -> None:
    name = "id-sync@777_12345@a.b-c"
    assert feed_name([777, 12345], "a.b-c") == feed_name([12345, 777], "a.b-c") == name
    assert (set(syncfile.dpids_of(name)), syncfile.destination_of(name)) == ({777, 12345}, "a.b-c")
    assert syncfile.dpids_of("crm-daily") == frozenset()


# --- the command -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("ask", "problem"),
    [
        (lambda scene: scene.send("nobody"), 'no data source is called "nobody"'),
        (lambda scene: scene.send("crm", "crm"), "named twice"),
        (lambda scene: scene.send(destination="nowhere"), 'no destination is called "nowhere"'),
        (lambda scene: scene.send(destination=None), "no destination is named"),
    ],
)
def test_wrong_names_are_told(scene: Scene, ask: Callable[[Scene], object], problem: str) -> None:
    with pytest.raises(UsageError, match=problem) as caught:
        ask(scene)
    assert (
        "crm, loyalty, shop" in caught.value.mend or "local, bucket" in caught.value.mend or "once" in caught.value.mend
    )


def test_the_only_destination_needs_no_name(scene: Scene) -> None:
    (local, _) = scene.settings.destinations
    alone = scene.settings.model_copy(update={"destinations": (local,)})
    assert shipment.resolve_destination(alone, None) == local


def test_the_command_delivers_and_tells(scene: Scene) -> None:
    scene.sync(("c1", uuid(1)), seen=10**12 * 4)
    config_path = scene.folder / "sync.toml"
    config_path.write_text(scene.text())
    command = [sys.executable, "-m", "reconcile", "sync-file", "crm", "loyalty", "--config", str(config_path)]

    def call(*more: str) -> subprocess.CompletedProcess[str]:
        root = Path(__file__).parent.parent.parent
        return subprocess.run([*command, *more], capture_output=True, text=True, check=False, cwd=root, env=os.environ)

    refused = call()
    assert (refused.returncode, "local, bucket" in refused.stderr) == (2, True)
    done = call("--destination", "local")
    assert done.returncode == 0, done.stderr
    told = json.loads(done.stdout)
    assert (told["status"], told["new"], told["lines"]) == ("delivered", 1, 1)
    (path,) = scene.delivered.iterdir()
    assert gzip.decompress(path.read_bytes()).decode() == f"{uuid(1)}\tc1\n"
    assert path.name in done.stderr
    again = call("--destination", "local")
    assert (again.returncode, json.loads(again.stdout)["status"]) == (0, "nothing-to-do")
    assert "nothing to send" in again.stderr
