"""Files keyed by the IDs of another data source, reached through the devices that both know."""

from collections import defaultdict
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from idsync.errors import ConfigError
from idsync.ids import id_rules
from idsync.store.base import EXPORT_SCHEMA
from reconcile import erasure
from reconcile.check.job import Options, check
from reconcile.engine.changes import ChangesEngine
from reconcile.engine.duckdb import DuckEngine
from reconcile.feed import OtherIds, Plan, SignalItem
from reconcile.report import prediction
from tests.reconcile.samples import NOW, NOW_SECONDS, World, figures, uuid
from tests.reconcile.test_engine import Kept

IDFA = 20915
OTHERS = """user_id = "idfa"
target = 21
signals = ["gender"]
trait_columns = ["traits"]
{}
[[data_sources]]
name = "idfa"
dpid = 20915
"""


def idfa(number: int) -> str:
    return f"{number:08X}-0000-4000-8000-00000000000A"


def world(folder: Path, options: str = "", **changes: Any) -> World:
    made = World(folder, OTHERS.format(options), changes=changes or None)
    made.sync(("a", uuid(1)), ("a", uuid(2)), ("b", uuid(3)), ("c", uuid(4)), ("d", uuid(2)))
    made.sync((idfa(1), uuid(1)), (idfa(22), uuid(2)), (idfa(2), uuid(2)), (idfa(3), uuid(3)), dpid=IDFA)
    return made


def records(made: World, name: str = "1.csv") -> None:
    made.put(name, [(key, f"g-{key}", "", "24") for key in "abcd"] + [("e", "g-e", "", "")])


def assert_valid(made: World) -> None:
    assert check(sorted(made.delivered.glob("*")), Options(now=made.now)).findings == []


def test_the_latest_id_of_the_latest_device(tmp_path: Path) -> None:
    made = world(tmp_path)
    records(made)
    summary = made.run()
    # c's device has no such ID, e has no device; a and d share one
    assert figures(summary, "read", "matched", "unmatched", "held", "lines", "dpid") == (5, 3, 2, 2, 2, IDFA)
    assert made.lines() == [
        f'{idfa(3)}\t"gender"="g-b",d_sid=24\n',
        f'{idfa(2)}\t"gender"="g-a",d_sid=24,"gender"="g-d"\n',
    ]
    assert [path.name for path in made.delivered.iterdir()] == [f"ftp_dpm_{IDFA}_21_{NOW_SECONDS}.sync.gz"]
    assert_valid(made)


def test_all_devices_and_a_record_counts_once(tmp_path: Path) -> None:
    made = world(tmp_path, 'devices = "all"\nunmatched = "drop"\n')
    made.sync((idfa(3), uuid(1)), dpid=IDFA)  # two devices of one such ID: a is sent for it once
    records(made)
    summary = made.run()
    assert figures(summary, "read", "matched", "unmatched", "held", "lines") == (5, 3, 2, 0, 2)
    assert sorted(made.lines()) == [
        f'{idfa(2)}\t"gender"="g-a",d_sid=24,"gender"="g-d"\n',
        f'{idfa(3)}\t"gender"="g-a",d_sid=24,"gender"="g-b"\n',
    ]
    assert_valid(made)


def test_a_record_waits_for_the_other_id(tmp_path: Path) -> None:
    made = world(tmp_path)
    records(made)
    made.run()
    made.now += 60_000
    made.sync((idfa(4), uuid(4)), dpid=IDFA)
    summary = made.run()
    assert figures(summary, "read", "from_hold", "matched", "held", "lines") == (2, 2, 1, 1, 1)
    assert made.lines()[-1] == f'{idfa(4)}\t"gender"="g-c",d_sid=24\n'


@pytest.mark.parametrize("devices", ["latest", "all"])
def test_who_opted_out_of_either_data_source_is_left_out(tmp_path: Path, devices: str) -> None:
    made = world(tmp_path, f'devices = "{devices}"\n')
    made.sync((idfa(7), uuid(7)), (idfa(8), uuid(8)), dpid=IDFA)
    made.sync(("x", uuid(7)), ("y", uuid(8)))
    made.opt_out("b")
    made.opt_out(idfa(7), dpid=IDFA)
    made.opt_out(devices=[uuid(8)])
    made.put("1.csv", [(name, "f", "", "") for name in "abxy"])
    summary = made.run()
    assert figures(summary, "matched", "unmatched", "rejected", "reasons") == (1, 2, 1, {"opted-out": 1})
    text = "".join(made.lines())
    assert text
    assert not any(id_ in text for id_ in (idfa(3), idfa(7), idfa(8)))


def test_ids_of_the_wrong_shape_are_never_written(tmp_path: Path) -> None:
    made = world(tmp_path)
    made.sync((idfa(2).lower(), uuid(2)), ("nonsense", uuid(3)), dpid=IDFA, seen=made.now)
    records(made)
    summary = made.run()
    assert summary.ids_left_out == {"device-id-shape": 2}
    assert [line.partition("\t")[0] for line in made.lines()] == [idfa(3), idfa(2)]  # the latest that can be sent
    assert_valid(made)


@pytest.mark.parametrize("user_id", ["customer-id", "shop"])
def test_nor_are_they_where_the_name_alone_names_a_global_data_source(tmp_path: Path, user_id: str) -> None:
    options = f'user_id = "{user_id}"\ndpid = {IDFA}\ntarget = 21\nsignals = ["gender"]\nmax_rejected = 1\n'
    made = World(tmp_path, options + '[[data_sources]]\nname = "shop"\ndpid = 777\n')
    for number, name in enumerate(("a", idfa(1), "b")):
        made.sync((name, uuid(number)))
        made.sync((name, uuid(number)), dpid=777)
    made.put("1.csv", [("a", "f", "", ""), (idfa(1), "m", "", "")])
    summary = made.run()
    assert made.lines() == [f'{idfa(1)}\t"gender"="m"\n']
    if user_id == "shop":
        assert (summary.unmatched, summary.ids_left_out) == (1, {"device-id-shape": 2})
    else:
        assert summary.reasons == {"device-id-shape": 1}


@pytest.mark.parametrize("form", ["customer-id", "shop", "c2c"])
def test_an_id_that_would_begin_a_file_with_a_byte_order_mark_is_not_sent(tmp_path: Path, form: str) -> None:
    feed = f'user_id = "{form}"\nsignals = ["gender"]\n'
    if form == "c2c":
        feed = 'kind = "email-hashes"\nemail_column = "gender"\nemail_data_source = "shop"\n'
    made = World(tmp_path, feed + 'max_rejected = 1.0\n[[data_sources]]\nname = "shop"\ndpid = 9\n')
    made.feed += 'format = "hashed-email"\n' * (form == "c2c")
    made.sync(("\ufeffx", uuid(1)), ("y", uuid(2)), ("z", uuid(3)))
    if form == "shop":
        made.sync(("\ufeffo", uuid(2)), ("o", uuid(3)), dpid=9)
    made.put("a.csv", [(key, "z@acme.com", "", "") for key in ("\ufeffx", "y", "z")])
    summary = made.run()
    if form == "shop":
        assert (summary.matched, summary.ids_left_out) == (1, {"id-byte-order-mark": 1})
    else:
        assert summary.reasons == {"id-byte-order-mark": 1}
        assert prediction.term("id-byte-order-mark") == prediction.FORMAT  # as it would have made of the whole file
    assert {line.partition("\t")[0] for line in made.lines()} == ({"o"} if form == "shop" else {"y", "z"})
    assert_valid(made)


def test_changes_only(tmp_path: Path) -> None:
    made = world(tmp_path, 'devices = "all"\n', vanished="remove", optout_removals=True)
    made.put("1.csv", [("a", "f", "", "24,25"), ("b", "m", "", "24"), ("d", "", "", "26")])
    made.run()
    assert sorted(made.lines()) == [
        f'{idfa(1)}\t"gender"="f",d_sid=24,d_sid=25\n',
        f'{idfa(2)}\t"gender"="f",d_sid=24,d_sid=25,d_sid=26\n',
        f'{idfa(3)}\t"gender"="m",d_sid=24\n',
    ]
    made.now += 60_000
    made.put("2.csv", [("a", "f", "", "24,25"), ("b", "m", "", "24"), ("d", "", "", "26"), ("d", "", "", "26")])
    assert figures(made.run(), "unchanged", "lines") == (2, 1)  # d says it twice now: another mark
    made.now += 60_000
    made.put("3.csv", [("a", "f", "", "24"), ("b", "m", "", "24")])
    summary = made.run()
    assert figures(summary, "vanished", "unchanged", "lines") == (1, 1, 2)
    assert sorted(made.lines()[-2:]) == [
        f'{idfa(1)}\t"gender"="f",d_sid=24,d_unsid=25\n',
        f'{idfa(2)}\t"gender"="f",d_sid=24,d_unsid=25,d_unsid=26\n',
    ]
    made.now += 60_000
    made.opt_out(idfa(1), dpid=IDFA)
    made.put("4.csv", [("a", "f", "", "24"), ("b", "m", "", "24"), ("e", "", "", "")])
    summary = made.run()
    assert figures(summary, "forgotten", "unchanged", "lines") == (1, 2, 1)
    assert made.lines()[-1] == f"{idfa(1)}\td_unsid=24\n"
    assert_valid(made)


def test_erasure_finds_the_other_id_in_what_was_sent(tmp_path: Path) -> None:
    made = world(tmp_path, vanished="keep")
    made.put("1.csv", [("a", "f", "", ""), ("b", "m", "", "")])
    made.run()
    sought = erasure.Sought({IDFA: frozenset([idfa(3)])}, frozenset())
    assert erasure.find(made.settings, sought).as_dict()["sent"]["users"] == 1
    assert erasure.erase(made.settings, sought, 0).as_dict()["frozen"]["lines"] == 1
    assert erasure.find(made.settings, sought).as_dict()["sent"]["users"] == 0
    assert made.state.joinpath("sent").exists()


@pytest.mark.parametrize(
    ("options", "fault"),
    [
        ('user_id = "idfaa"', 'feeds[0].user_id = "idfaa": no such data source; did you mean "idfa"?'),
        ('user_id = "crm"', 'feeds[0].user_id = "crm": the feed\'s own data source'),
        ('user_id = "idfa"', "feeds[0].target: missing; 20915 in the file's name"),
        ('user_id = "customer-id"\ndpid = 20914', "feeds[0].target: missing; 20914 in the file's name"),
        ("dpid = 20914\ntarget = 21", 'feeds[0].user_id = "uuid": 20914 in the file'),
        ('user_id = "idfa"\ntarget = 21\nunmatched = "emit"', 'feeds[0].unmatched = "emit": unmatched records have no'),
    ],
)
def test_faults_are_told(tmp_path: Path, options: str, fault: str) -> None:
    text = f'signals = ["gender"]\n{options}\n[[data_sources]]\nname = "idfa"\ndpid = 20915\n'
    with pytest.raises(ConfigError) as raised:
        _ = World(tmp_path, text).settings
    assert fault in str(raised.value)


def test_a_name_of_ones_own_needs_no_target(tmp_path: Path) -> None:
    made = World(tmp_path, 'signals = ["gender"]\nuser_id = "shop"\n[[data_sources]]\nname = "shop"\ndpid = 777\n')
    made.sync(("a", uuid(1)))
    made.sync(("s1", uuid(1)), dpid=777)
    made.put("1.csv", [("a", "f", "", "")])
    made.run()
    assert [path.name for path in made.delivered.iterdir()] == [f"ftp_dpm_777_{NOW_SECONDS}.sync.gz"]
    assert made.lines() == ['s1\t"gender"="f"\n']


# --- by the definition -----------------------------------------------------------------------------------------------

Fact = tuple[str, str, int]
names = st.sampled_from("abc")
devices = st.sampled_from([uuid(number) for number in range(4)])
facts = st.lists(st.tuples(names, devices, st.integers(1, 4)), max_size=8)
others = st.lists(st.tuples(st.sampled_from(["x", "X", "07", "y:"]), devices, st.integers(1, 4)), max_size=8)


def exported(found: Sequence[Fact], *, latest_only: bool = False) -> Iterator[pa.RecordBatch]:
    """As a store gives them: each pair once, of a customer the latest device first."""
    seen: dict[tuple[str, str], int] = {}
    for name, device, at in found:
        seen[name, device] = max(at, seen.get((name, device), 0))
    rows = sorted(((name, device, at) for (name, device), at in seen.items()), key=lambda row: row[1:], reverse=True)
    rows = sorted(rows, key=lambda row: row[2:0:-1], reverse=True)
    told: set[str] = set()
    for name, device, at in rows:
        if not latest_only or name not in told:
            told.add(name)
            arrays = [pa.array([value]) for value in (name, device, at)]
            yield pa.RecordBatch.from_arrays(arrays, schema=EXPORT_SCHEMA)


def expected(found: Sequence[Fact], theirs: Sequence[Fact], customer: str, *, every: bool) -> set[str]:
    """The users that a customer's records are sent for."""
    times: dict[str, int] = defaultdict(int)
    for name, device, at in found:
        if name == customer:
            times[device] = max(times[device], at)
    latest_first = sorted(times, key=lambda device: (times[device], device), reverse=True)
    users = set()
    for device in latest_first if every else latest_first[:1]:
        of_device = [(at, name) for name, of, at in theirs if of == device and ":" not in name]
        users |= {name for _, name in sorted(of_device)[-1:]}
    return users


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None, max_examples=100)
@given(
    st.lists(st.tuples(names, st.sampled_from(["", "f", "m"])), max_size=6), facts, others, st.booleans(), st.booleans()
)
@example([("a", "f")], [("a", uuid(1), 1), ("a", uuid(2), 2)], [("x", uuid(1), 1)], False, False)
@example(  # who says nothing has a user alone, and one with another customer
    [("a", "")],
    [("a", uuid(1), 1), ("a", uuid(2), 2), ("b", uuid(2), 1)],
    [("07", uuid(1), 1), ("x", uuid(2), 1)],
    True,
    False,
)
@example([("a", "f")], [("a", uuid(1), 1), ("a", uuid(2), 2)], [("x", uuid(1), 1), ("x", uuid(2), 3)], True, False)
def test_lines_and_figures_are_those_of_the_definition(
    tmp_path: Path,
    rows: list[tuple[str, str]],
    found: list[Fact],
    theirs: list[Fact],
    every: bool,
    changes: bool,
) -> None:
    other = OtherIds(777, id_rules(777))
    plan = Plan("id", ("gender",), (SignalItem(0, "gender"),), False, every, False, other=other)
    sink = Kept()
    with (ChangesEngine if changes else DuckEngine)(plan, tmp_path, "500MB") as engine:
        columns = [pa.array([row[at] for row in rows], pa.string()) for at in range(2)]
        engine.stage(
            iter([pa.RecordBatch.from_arrays([pa.array(range(len(rows)), pa.int64()), *columns], schema=engine.schema)])
        )
        if isinstance(engine, ChangesEngine):
            engine.load_sent(None, NOW, oldest=0, marked=True)
        engine.load_mappings(exported(found, latest_only=not every))
        engine.load_others(exported(theirs))
        outcome = engine.render(sink)
    users = {customer: expected(found, theirs, customer, every=every) for customer in "abc"}
    said: dict[str, dict[str, None]] = defaultdict(dict)
    for customer, gender in rows:
        for user in users[customer] if gender else ():
            said[user][f'"gender"="{gender}"'] = None
    assert sorted(sink.text.decode().splitlines()) == sorted(
        f"{user}\t{','.join(items)}" for user, items in said.items()
    )
    matched = [bool(users[customer]) for customer, _ in rows]
    assert (outcome.records, outcome.matched) == (len(rows), sum(matched))
    assert sorted(np.concatenate([*outcome.unmatched, []]).tolist()) == [
        at for at, is_ in enumerate(matched) if not is_
    ]
    if not changes:  # there a customer's records count together
        assert outcome.silent == sum(bool(users[customer]) and not gender for customer, gender in rows)
