"""Feeds that send only what changed since the last delivered run."""

from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
from pyarrow import parquet

from idsync import config
from idsync.errors import ConfigError
from idsync.settings import Feed
from idsync.store import open_store
from idsync.store.base import Pair
from reconcile import changes, erasure, lines, retention
from reconcile.engine import queries
from reconcile.engine.changes import ChangesEngine
from reconcile.errors import DestinationRefused, RunRefused
from reconcile.feed import Plan
from reconcile.ledger import Ledger
from tests.reconcile.samples import SIGNALS, TEMPLATE, World, content, figures, uuid
from tests.reconcile.test_erase import sought

DAY = 86_400_000
RULE = 'rules = [{ column = "tier", equals = "gold", trait = 7, otherwise = "remove" }]\n'
FULL = {"vanished": "remove"}


def world(folder: Path, feed: str = SIGNALS, **settings: Any) -> World:
    made = World(folder, feed, changes=settings)
    made.sync(("c1", uuid(1)), ("c2", uuid(2)), ("c3", uuid(3)), ("shared", uuid(3)), seen=made.now + 300 * DAY)
    return made


def send(world: World, *rows: tuple[str, ...]) -> list[str]:
    """Run with another file in the inbox; the lines of this run, in order of users."""
    world.now += 60_000
    world.put(f"{world.now}.csv", [*rows, ("nobody", "", "", f"{world.now}"[:9])])
    return run(world)


def run(world: World) -> list[str]:
    before = set(world.delivered.glob("*"))
    world.run()
    new = sorted(set(world.delivered.glob("*")) - before)
    return sorted(line for path in new for line in content(path).splitlines())


def kept(world: World) -> dict[tuple[str, int], str]:
    """The traits of each customer and device (its number)."""
    (path,) = world.state.glob("sent/*.parquet")
    return {(row["customer_id"], row["low"]): row["traits"] for row in parquet.read_table(path).to_pylist()}


def test_only_what_changed_is_sent(tmp_path: Path) -> None:
    feed = world(tmp_path)
    first = send(feed, ("c1", "f", "gold", "24,26"), ("c2", "m", "", ""), ("c3", "", "", ""))
    assert first == [f'{uuid(1)}\t"gender"="f","tier"="gold",d_sid=24,d_sid=26', f'{uuid(2)}\t"gender"="m"']
    assert send(feed, ("c1", "f", "gold", "24,26"), ("c2", "m", "", ""), ("c3", "", "", "")) == []
    names = ("status", "read", "matched", "unchanged", "silent", "unmatched", "lines", "files")
    assert figures(feed.last, *names) == ("delivered", 4, 3, 2, 1, 1, 0, [])
    # a lost trait is taken away; a lost signal can't be
    assert send(feed, ("c1", "", "gold", "24"), ("c2", "m", "", "5")) == [
        f'{uuid(1)}\t"tier"="gold",d_sid=24,d_unsid=26',
        f'{uuid(2)}\t"gender"="m",d_sid=5',
    ]
    assert send(feed, ("c1", "", "", ""), ("c2", "m", "", "5")) == [f"{uuid(1)}\td_unsid=24"]
    assert kept(feed) == {("c2", 2): "5"}
    assert send(feed, ("c1", "", "", "")) == []


def test_the_first_run_sends_what_a_plain_one_does(tmp_path: Path) -> None:
    rows = [("c1", "f", "gold", "24"), ("c2", "x,y", "", ""), ("c1", "f", "", "26|24"), ("c3", "", "gold", "")]
    plain = World(tmp_path / "plain", SIGNALS)
    plain.sync(("c1", uuid(1)), ("c2", uuid(2)), ("c3", uuid(3)))
    plain.put("a.csv", rows)
    assert send(world(tmp_path / "changes"), *rows) == run(plain)


def test_rules_that_remove(tmp_path: Path) -> None:
    feed = world(tmp_path, SIGNALS + RULE)
    assert send(feed, ("c1", "", "gold", ""), ("c2", "", "x", "")) == [
        f'{uuid(1)}\t"tier"="gold",d_sid=7',
        f'{uuid(2)}\t"tier"="x",d_unsid=7',
    ]
    assert send(feed, ("c1", "", "x", ""), ("c2", "", "x", "")) == [f'{uuid(1)}\t"tier"="x",d_unsid=7']


def test_lost_traits_are_told_once_each_in_order(tmp_path: Path) -> None:
    feed = world(tmp_path)
    send(feed, ("c1", "f", "", "30,9,26,9,100"))
    assert send(feed, ("c1", "m", "", "26")) == [f'{uuid(1)}\t"gender"="m",d_sid=26,d_unsid=9,d_unsid=30,d_unsid=100']


def test_a_trait_spelled_in_another_way_is_the_same_trait(tmp_path: Path) -> None:
    feed = world(tmp_path)
    assert send(feed, ("c1", "", "", "024,26")) == [f"{uuid(1)}\td_sid=024,d_sid=26"]
    assert send(feed, ("c1", "", "", "24;  026")) == [f"{uuid(1)}\td_sid=24,d_sid=026"]


def test_customers_of_one_device_each_have_a_say(tmp_path: Path) -> None:
    feed = world(tmp_path, SIGNALS + RULE)
    assert send(feed, ("c3", "", "gold", "24"), ("shared", "", "x", "24,25")) == [
        f'{uuid(3)}\t"tier"="gold",d_sid=24,d_sid=7,"tier"="x",d_sid=25'
    ]
    assert send(feed, ("c3", "", "gold", "26")) == [f'{uuid(3)}\t"tier"="gold",d_sid=26,d_sid=7']  # 24 is the other's
    assert send(feed, ("shared", "", "x", "25")) == [f'{uuid(3)}\t"tier"="x",d_sid=25,d_unsid=24']  # now nobody's
    assert send(feed, ("c3", "", "", "26"), ("shared", "", "x", "25")) == [f"{uuid(3)}\td_sid=26,d_unsid=7"]


def test_a_customer_who_joins_a_device_takes_nothing_from_the_other(tmp_path: Path) -> None:
    feed = world(tmp_path, SIGNALS + RULE)
    send(feed, ("c3", "", "gold", ""))
    assert send(feed, ("shared", "", "x", "")) == [f'{uuid(3)}\t"tier"="x"']


def test_records_of_one_customer_in_one_file_are_merged(tmp_path: Path) -> None:
    feed = world(tmp_path)
    rows = [("c1", "f", "", "24"), ("c2", "", "", "1"), ("c1", "", "", "25")]
    assert send(feed, *rows) == [f'{uuid(1)}\t"gender"="f",d_sid=24,d_sid=25', f"{uuid(2)}\td_sid=1"]
    assert send(feed, *rows) == []
    assert feed.last.unchanged == 3
    other = ("c1", "m", "", "24")
    assert send(feed, other, *rows[1:]) == [f'{uuid(1)}\t"gender"="m",d_sid=24,d_sid=25']
    assert send(feed, *rows[:2]) == [f'{uuid(1)}\t"gender"="f",d_sid=24,d_unsid=25']
    assert send(feed, ("c1", "", "", ""), ("c1", "", "", "")) == [f"{uuid(1)}\td_unsid=24"]
    assert send(feed, ("c1", "", "", ""), ("c1", "", "", "")) == []
    assert feed.last.silent == 2


def test_of_several_files_the_last_counts(tmp_path: Path) -> None:
    feed = world(tmp_path)
    feed.put("1.csv", [("c1", "f", "", "24"), ("c2", "", "", "1")])
    feed.put("0.csv", [("c1", "m", "", "23"), ("c2", "", "", "0")])
    assert send(feed, ("c1", "x", "", "25")) == [f'{uuid(1)}\t"gender"="x",d_sid=25', f"{uuid(2)}\td_sid=1"]
    names = ("read", "matched", "unchanged", "unmatched")
    assert figures(feed.last, *names) == (6, 5, 3, 1)


def test_every_device_of_a_customer(tmp_path: Path) -> None:
    feed = world(tmp_path, SIGNALS + 'devices = "all"\n')
    assert send(feed, ("c1", "", "", "24")) == [f"{uuid(1)}\td_sid=24"]
    feed.sync(("c1", uuid(11)))
    assert send(feed, ("c1", "", "", "24")) == [f"{uuid(11)}\td_sid=24"]
    assert feed.last.unchanged == 0
    assert send(feed, ("c1", "", "", "25")) == [f"{uuid(number)}\td_sid=25,d_unsid=24" for number in (1, 11)]
    feed.sync(("c1", uuid(21)))
    assert send(feed, ("c1", "", "", "")) == [f"{uuid(number)}\td_unsid=25" for number in (1, 11)]
    assert figures(feed.last, "matched", "unchanged", "silent") == (1, 0, 0)


def test_a_device_that_a_customer_left_is_left_as_it_is(tmp_path: Path) -> None:
    feed = world(tmp_path, SIGNALS, **FULL)
    send(feed, ("c1", "", "", "24"), ("c2", "", "", "1"))
    feed.sync(("c1", uuid(11)), seen=feed.now + 301 * DAY)
    assert send(feed, ("c1", "", "", "24,25"), ("c2", "", "", "1")) == [f"{uuid(11)}\td_sid=24,d_sid=25"]
    assert send(feed, ("c2", "", "", "1")) == [f"{uuid(1)}\td_unsid=24", f"{uuid(11)}\td_unsid=24,d_unsid=25"]


def test_files_of_customer_ids(tmp_path: Path) -> None:
    feed = world(tmp_path, SIGNALS + 'user_id = "customer-id"\nunmatched = "emit"\n', **FULL)
    assert send(feed, ("c1", "", "", "24"), ("new", "", "", "25"))[:2] == ["c1\td_sid=24", "new\td_sid=25"]
    assert send(feed, ("c1", "", "", "24"), ("new", "", "", "26"))[:1] == ["new\td_sid=26,d_unsid=25"]
    assert feed.last.unchanged == 1
    assert send(feed, ("c1", "", "", "24"))[:1] == ["new\td_unsid=26"]


def test_held_records_are_compared_when_their_customer_comes(tmp_path: Path) -> None:
    feed = world(tmp_path)
    send(feed, ("late", "", "", "24"))
    feed.sync(("late", uuid(9)))
    assert run(feed) == [f"{uuid(9)}\td_sid=24"]
    assert send(feed, ("late", "", "", "25")) == [f"{uuid(9)}\td_sid=25,d_unsid=24"]


def test_nothing_new_is_nothing_to_do(tmp_path: Path) -> None:
    feed = world(tmp_path, SIGNALS + 'unmatched = "drop"\n')
    send(feed, ("c1", "", "", "24"))
    runs = len(list(feed.state.glob("runs/*")))
    assert run(feed) == []
    assert feed.last.status == "nothing-to-do"
    assert len(list(feed.state.glob("runs/*"))) == runs


def test_a_dry_run_tells_the_same_and_writes_nothing(tmp_path: Path) -> None:
    feed = world(tmp_path, **FULL, optout_removals=True)
    send(feed, ("c1", "", "", "24"), ("c2", "", "", "24"), ("c3", "", "", "1"))
    feed.opt_out("c3")
    feed.put("x.csv", [("c1", "", "", "24"), ("late", "", "", "24")])
    before = feed.traces()
    told = feed.run(dry_run=True)
    assert feed.traces() == before
    real = feed.run()
    names = ("read", "matched", "unchanged", "unmatched", "vanished", "forgotten", "lines", "held")
    assert figures(told, *names) == figures(real, *names) == (3, 1, 1, 1, 1, 1, 2, 1)
    assert real.reasons == {"vanished": 1}  # of the one that was held


def test_what_is_frozen_is_not_yet_sent(tmp_path: Path) -> None:
    """The state goes with the delivery, and with nothing before it."""
    feed = world(tmp_path)
    send(feed, ("c1", "", "", "24"))
    away = feed.delivered.rename(feed.folder / "away")
    feed.delivered.write_text("a file where the folder should be")
    with pytest.raises(DestinationRefused):
        send(feed, ("c1", "", "", "25"))
    assert kept(feed) == {("c1", 1): "24"}
    feed.delivered.unlink()
    away.rename(feed.delivered)
    assert run(feed) == [f"{uuid(1)}\td_sid=25,d_unsid=24"]
    assert kept(feed) == {("c1", 1): "25"}


# --- vanished customers ----------------------------------------------------------------------------------------------


def test_who_vanished_from_a_full_export_loses_its_traits(tmp_path: Path) -> None:
    feed = world(tmp_path, SIGNALS, **FULL)
    send(feed, ("c1", "f", "", "24"), ("c2", "", "", "25"), ("c3", "", "", "26"), ("shared", "", "", "26,27"))
    assert send(feed, ("c1", "f", "", "24"), ("c3", "", "", "26")) == [
        f"{uuid(2)}\td_unsid=25",
        f"{uuid(3)}\td_unsid=27",
    ]
    assert feed.last.vanished == 2
    assert kept(feed) == {("c1", 1): "24", ("c3", 3): "26"}


def test_unless_the_feed_keeps_them(tmp_path: Path) -> None:
    feed = world(tmp_path)
    send(feed, ("c1", "f", "", "24"), ("c2", "", "", "25"))
    assert send(feed, ("c1", "f", "", "24")) == []
    assert kept(feed) == {("c1", 1): "24", ("c2", 2): "25"}


def test_of_several_full_exports_the_last_by_name_says_it_all(tmp_path: Path) -> None:
    feed = world(tmp_path, SIGNALS, **FULL)
    send(feed, ("c1", "", "", "24"), ("c2", "", "", "25"))
    feed.put("0.csv", [("c1", "", "", "24"), ("c2", "", "", "30"), ("late", "", "", "5")])
    assert send(feed, ("c1", "", "", "24")) == [f"{uuid(2)}\td_unsid=25"]
    assert [entry["records"] for entry in feed.last.inputs] == [0, 2]
    feed.sync(("late", uuid(9)))
    assert run(feed) == []  # and the other is never read


def test_a_held_record_vanishes_as_well(tmp_path: Path) -> None:
    feed = world(tmp_path, SIGNALS + "max_rejected = 0\n", **FULL)
    send(feed, ("late", "", "", "24"))
    assert send(feed, ("c1", "", "", "24")) == [f"{uuid(1)}\td_sid=24"]
    assert feed.last.reasons == {"vanished": 1}
    feed.sync(("late", uuid(9)))
    assert run(feed) == []


@pytest.mark.parametrize(
    ("record", "gone"), [("c2,f,,x", False), ("c2", False), ("someone,f", False), ("c3,f,,x", True)]
)
def test_a_faulty_record_is_no_sign_that_its_customer_vanished(tmp_path: Path, record: str, *, gone: bool) -> None:
    """One that can't be read may be anybody's."""
    feed = world(tmp_path, SIGNALS + "max_rejected = 1\n", **FULL)
    send(feed, ("c1", "", "", "24"), ("c2", "", "", "25"))
    (feed.inbox / "x.csv").write_text(f"id,gender,tier,traits\nc1,,,24\n{record}\n")
    assert run(feed) == [f"{uuid(2)}\td_unsid=25"] * gone


def test_a_held_record_does_not_keep_a_customer_from_vanishing(tmp_path: Path) -> None:
    feed = world(tmp_path, SIGNALS, **FULL)
    send(feed, ("c1", "", "", "24"), ("c2", "", "", "25"))
    with closing(open_store(feed.settings.store)) as store:
        store.remove([Pair(12345, "c2", uuid(2))])
    assert send(feed, ("c1", "", "", "24"), ("c2", "", "", "26")) == []
    assert send(feed, ("c1", "", "", "24")) == [f"{uuid(2)}\td_unsid=25"]


def test_too_many_vanished_refuse_the_run(tmp_path: Path) -> None:
    feed = world(tmp_path, SIGNALS, vanished="remove", max_vanished=0.5)
    send(feed, ("c1", "", "", "24"), ("c2", "", "", "25"), ("c3", "", "", "26"))
    with pytest.raises(RunRefused, match=r"2 of 3 users vanished from the export, max_vanished is 50.00%"):
        send(feed, ("c1", "", "", "24"))
    refused = Ledger(feed.state / "ledger.db").history()[0]
    assert (refused["state"], refused["read"], refused["vanished"]) == ("refused", 3, 2)  # of "nobody" two
    assert len(kept(feed)) == 3
    feed.changes = {**FULL, "max_vanished": 0.7}
    assert len(run(feed)) == 2


# --- opt-outs, erasure, retention ------------------------------------------------------------------------------------


@pytest.mark.parametrize("removals", [True, False])
@pytest.mark.parametrize("who", ["customer", "device"])
def test_who_opts_out_is_forgotten(tmp_path: Path, who: str, *, removals: bool) -> None:
    feed = world(tmp_path, SIGNALS + 'unmatched = "drop"\n', optout_removals=removals)
    send(feed, ("c1", "", "", "24"), ("c2", "", "", "25"), ("c3", "", "", "26"), ("shared", "", "", "26,27"))
    feed.opt_out(*["shared", "c2"] * (who == "customer"), devices=[uuid(3), uuid(2)] * (who == "device"))
    removed = [f"{uuid(2)}\td_unsid=25", f"{uuid(3)}\td_unsid={27 if who == 'customer' else '26,d_unsid=27'}"]
    assert run(feed) == removed * removals  # without any new input
    assert feed.last.forgotten == (2 if who == "customer" else 3)
    left = {("c1", 1): "24"} | ({("c3", 3): "26"} if who == "customer" else {})
    assert kept(feed) == left
    assert run(feed) == []
    assert feed.last.status == "nothing-to-do"


def test_who_opts_out_and_vanishes_is_not_sent_for_without_leave(tmp_path: Path) -> None:
    feed = world(tmp_path, SIGNALS, **FULL)
    send(feed, ("c1", "", "", "24"), ("c2", "", "", "25"))
    feed.opt_out("c2")
    assert send(feed, ("c1", "", "", "24")) == []
    assert kept(feed) == {("c1", 1): "24"}


@pytest.mark.parametrize("line", [{"dpid": 12345, "customer_id": "c2"}, {"uuid": uuid(2)}])
@pytest.mark.parametrize("user_id", ["uuid", "customer-id"])
def test_erasure_reaches_what_was_sent(tmp_path: Path, line: dict[str, Any], user_id: str) -> None:
    feed = world(tmp_path, SIGNALS + f'user_id = "{user_id}"\n')
    send(feed, ("c1", "", "", "24"), ("c2", "", "", "25"), ("c22", "", "", "25"))
    by_uuid = user_id == "uuid" or "uuid" not in line
    account = erasure.erase(feed.settings, sought(line), 0).as_dict()
    assert account["sent"]["users"] == by_uuid
    assert ("c2" in {name for name, _ in kept(feed)}) == (not by_uuid)
    assert erasure.find(feed.settings, sought(line)).as_dict()["sent"]["users"] == 0
    # the file still says to whom it was sent, and by what it was marked
    assert send(feed, ("c1", "", "", "24")) == []


def test_erasure_reaches_what_waits_for_the_delivery(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    feed = world(tmp_path)
    send(feed, ("c1", "", "", "24"))
    with monkeypatch.context() as patch:
        patch.setattr("reconcile.delivery.directory.DirectoryDelivery.deliver", lambda *_: 1 / 0)
        with pytest.raises(ZeroDivisionError):
            send(feed, ("c1", "", "", "25"))
    account = erasure.erase(feed.settings, sought({"dpid": 12345, "customer_id": "c1"}), 0).as_dict()
    assert account["sent"]["users"] == 2
    assert account["waiting"]["lines"] == 0  # by customer ID: the file has the device's
    run(feed)
    assert list(feed.state.glob("sent/*")) == []


@pytest.mark.parametrize("records", [1, 2])
@pytest.mark.parametrize("others", [["c2"], ["c2", "c3"]])
def test_users_not_seen_for_long_are_forgotten(tmp_path: Path, records: int, others: list[str]) -> None:
    """Whether most of them were said again, or few."""
    feed = world(tmp_path, SIGNALS + "[reconcile]\nkeep_state_days = 10\n")
    send(feed, *[("c1", "", "", "24")] * records, *[(name, "", "", "25") for name in others])
    feed.now += 9 * DAY
    assert send(feed, *[("c1", "", "", "24")] * records) == []
    feed.now += 2 * DAY
    rehearsed = feed.run(dry_run=True)
    assert rehearsed.lines == 0
    assert retention.sweep(feed.settings, feed.now)[0]["daily"].sent == len(others)
    assert kept(feed) == {("c1", 1): "24"}
    assert send(feed, ("c1", "", "", "25"), ("c2", "", "", "26")) == [
        f"{uuid(1)}\td_sid=25,d_unsid=24",
        f"{uuid(2)}\td_sid=26",  # what it lost is not known any more
    ]


def test_a_run_forgets_them_as_well(tmp_path: Path) -> None:
    feed = world(tmp_path, SIGNALS + "[reconcile]\nkeep_state_days = 10\n")
    send(feed, ("c1", "", "", "24"))
    feed.now += 11 * DAY
    assert send(feed, ("c1", "", "", "25")) == [f"{uuid(1)}\td_sid=25"]


# --- other states ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("setting", ["target = 21\n", "dpid = 777\n", 'user_id = "customer-id"\n'])
def test_what_was_sent_to_others_says_nothing(tmp_path: Path, setting: str) -> None:
    feed = world(tmp_path)
    send(feed, ("c1", "", "", "24"))
    feed.feed += setting
    (line,) = send(feed, ("c1", "", "", "25"))
    assert line.partition("\t")[2] == "d_sid=25"


def test_what_went_to_another_destination_says_nothing(tmp_path: Path) -> None:
    feed = world(tmp_path)
    send(feed, ("c1", "", "", "24"), ("c2", "", "", "26"))
    feed.feed += '[[destinations]]\nname = "other"\nkind = "directory"\npath = "delivered"\n'
    feed.environ = {"IDSYNC_FEEDS__0__DESTINATION": "other"}
    assert send(feed, ("c1", "", "", "25"), ("c2", "", "", "26")) == [f"{uuid(1)}\td_sid=25", f"{uuid(2)}\td_sid=26"]


def test_another_version_of_the_engine_sends_all_once_more(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    feed = world(tmp_path)
    monkeypatch.setattr("reconcile.sent.VERSION", "of old")
    send(feed, ("c1", "", "", "24,25"), ("c2", "", "", "26"), ("c3", "", "", "1"))
    monkeypatch.undo()
    assert send(feed, ("c1", "", "", "24"), ("c2", "", "", "26")) == [
        f"{uuid(1)}\td_sid=24,d_unsid=25",
        f"{uuid(2)}\td_sid=26",
    ]
    assert send(feed, ("c1", "", "", "24"), ("c2", "", "", "26"), ("c3", "", "", "1")) == [f"{uuid(3)}\td_sid=1"]


def test_a_feed_that_sends_all_forgets_what_it_sent(tmp_path: Path) -> None:
    feed = world(tmp_path)
    send(feed, ("c1", "", "", "24"))
    feed.changes = None
    send(feed, ("c1", "", "", "25"))
    assert list(feed.state.glob("sent/*")) == []


def test_a_user_with_too_many_lines_stays_as_it_was(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lines, "MAX_LINES_PER_USER", 2)
    feed = world(tmp_path, 'signals = ["gender"]\ntrait_columns = ["traits"]\nmax_rejected = 1\n')
    send(feed, ("c1", "", "", "24"), ("c2", "", "", "25"))
    many = [("c1", letter * 90_000, "", "") for letter in "abc"]
    assert send(feed, *many, ("c2", "", "", "26")) == [f"{uuid(2)}\td_sid=26,d_unsid=25"]
    assert feed.last.reasons == {"too-many-lines": 3}
    assert kept(feed) == {("c1", 1): "24", ("c2", 2): "26"}
    assert send(feed, ("c1", "", "", "25")) == [f"{uuid(1)}\td_sid=25,d_unsid=24"]


def test_lost_traits_may_be_what_a_line_has_no_room_for(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lines, "MAX_LINES_PER_USER", 1)
    feed = world(tmp_path, 'signals = ["gender"]\ntrait_columns = ["traits"]\nmax_rejected = 1\n')
    send(feed, ("c1", "", "", "24"))
    value = "f" * (lines.MAX_LINE_BYTES - len(f'{uuid(1)}\t"gender"=""\n'))
    assert send(feed, ("c1", value, "", "")) == []
    assert feed.last.reasons == {"too-many-lines": 1}
    assert kept(feed) == {("c1", 1): "24"}


def test_a_row_that_gets_lost_refuses_the_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    feed = world(tmp_path)
    send(feed, ("c1", "", "", "24"))
    value = ChangesEngine._value

    def lossy(engine: ChangesEngine, query: str) -> Any:
        return 1 if query.startswith("COPY") and "sent.parquet" in query else value(engine, query)

    monkeypatch.setattr(ChangesEngine, "_value", lossy)
    with pytest.raises(RunRefused, match="1 rows of what was sent were written, not 2"):
        send(feed, ("c2", "", "", "25"))


def test_a_record_that_gets_lost_refuses_the_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A fault of the engine: a record of which it is not known whether it is single."""
    feed = world(tmp_path)
    said = queries.said

    def lossy(plan: Plan, *, repeats: bool) -> str:
        return f"SELECT * REPLACE (CASE WHEN seq > 0 THEN single END AS single) FROM ({said(plan, repeats=repeats)})"

    monkeypatch.setattr(queries, "said", lossy)
    with pytest.raises(RunRefused, match="of 2 records that say something new, 1 were kept"):
        send(feed, ("c1", "", "", "24"), ("c2", "", "", "25"))
    assert not feed.delivered.exists()


def test_a_folder_that_is_called_like_a_column(tmp_path: Path) -> None:
    feed = world(tmp_path / "traits=9")
    send(feed, ("c1", "", "", "24"))
    assert send(feed, ("c1", "", "", "25")) == [f"{uuid(1)}\td_sid=25,d_unsid=24"]


def test_a_long_line_is_split(tmp_path: Path) -> None:
    feed = world(tmp_path)
    send(feed, ("c1", "", "", "24"))
    sent = send(feed, ("c1", "f" * 60_000, "g" * 60_000, "25"))
    assert [len(line) > 60_000 for line in sent] == [True, True]
    assert sent[-1].endswith("d_sid=25,d_unsid=24")


def test_news_of_one_user() -> None:
    user = changes.User(
        [("a", ["d_sid=1", "d_unsid=2", "d_unsid=3"]), ("b", ["d_sid=2", "d_sid=01", "d_sid=1"])],
        {1, 3, 4},
        {5},
        {5, 6},
    )
    items, traits, dropped = changes.news(user)
    assert dropped == 1
    assert items == ["d_sid=1", "d_unsid=3", "d_sid=2", "d_sid=01", "d_unsid=4", "d_unsid=6"]
    assert traits == {"a": "1", "b": "2,1"}


@pytest.mark.parametrize(
    ("setting", "fault"),
    [
        ('mode = "overwrite"\nchanges_only = true\n', 'changes_only = true: needs mode = "sync"'),
        ('vanished = "remove"\n', 'vanished = "remove": needs changes_only = true'),
        ("optout_removals = true\n", "optout_removals = true: needs changes_only = true"),
    ],
)
def test_settings_that_do_not_go_together(tmp_path: Path, setting: str, fault: str) -> None:
    text = TEMPLATE.format(url="sqlite:///idsync.db") + SIGNALS + setting
    with pytest.raises(ConfigError, match=fault):
        config.parse(text, environ={}, base=tmp_path)
    known = {"name": "a", "data_source": "b", "inputs": "c", "id_column": "d", "destination": "e"}
    good = Feed(**known, changes_only=True, vanished="remove", optout_removals=True)  # type: ignore[arg-type]
    assert good.changes_only
