"""Outbound exports, led back to customers: names, lines, the join."""

from collections.abc import Mapping, Sequence
from pathlib import Path

import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from idsync.store import open_store
from idsync.store.base import EXPORT_SCHEMA
from idsync.store.optouts import OptOut
from reconcile.errors import InputRefused
from reconcile.segments import engine, lines, names, reading
from reconcile.segments.names import OutboundName
from tests.reconcile.exports import ITER, STAMP, Row, joined, people, put
from tests.reconcile.samples import NOW, World, uuid


@pytest.fixture
def world(tmp_path: Path) -> World:
    return people(tmp_path)


# --- names -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "parsed"),
    [
        (f"{ITER}.sync.gz", OutboundName(STAMP, ITER, 0, "iter")),
        (f"{ITER}001.sync.gz", OutboundName(STAMP, ITER, 1, "iter")),
        (f"{ITER}1234.sync", OutboundName(STAMP, ITER, 1234, "iter")),
        (f"{ITER}-1.sync", OutboundName(STAMP, ITER, 1, "iter")),
        (f"S3_1_20914_XYZ_full_{STAMP}-12.sync.gz", OutboundName(STAMP, f"S3_1_20914_XYZ_full_{STAMP}", 12, "full")),
        (f"S3_1_2_full_alias_iter_{STAMP}.sync", OutboundName(STAMP, f"S3_1_2_full_alias_iter_{STAMP}", 0, "iter")),
        ("S3_1_2_full.sync", OutboundName(0, "S3_1_2_full", 0, "full")),
        ("S3_1_2_full-2.sync", OutboundName(0, "S3_1_2_full", 2, "full")),
        ("ftp_fuller_1.sync", OutboundName(0, "ftp_fuller_1", 0, None)),
        (f"{STAMP}.sync", OutboundName(STAMP, str(STAMP), 0, None)),
        ("full.sync", OutboundName(0, "full", 0, "full")),
        (".sync", OutboundName(0, "", 0, None)),
        ("export.txt", OutboundName(0, "export.txt", 0, None)),
    ],
)
def test_names(name: str, parsed: OutboundName) -> None:
    assert names.parse(name) == parsed


def test_files_are_read_in_the_order_of_their_time() -> None:
    later = f"a_iter_{STAMP + 1}.sync"
    shuffled = [later, f"{ITER}010.sync", f"{ITER}002.sync", f"{ITER}.sync"]
    assert sorted(shuffled, key=names.parse) == shuffled[::-1]


def test_the_control_file_of_a_full_export_may_be_called_iter() -> None:
    assert names.control_names("ftp_1_2_full_1500727351632-1.sync.gz") == [
        "ftp_1_2_full_1500727351632.info",
        "ftp_1_2_iter_1500727351632.info",
    ]


# --- lines -----------------------------------------------------------------------------------------------------------

U = uuid(1)


@pytest.mark.parametrize(
    ("line", "reason"),
    [
        *(("", "blank"), ("   ", "blank"), (f"{U[1:]} 24", "not-a-uuid"), (f"{U}0 24", "not-a-uuid")),
        *((f" {U} 24", "not-a-uuid"), ("userid segments", "not-a-uuid"), (f"{U}\t24", "not-a-uuid")),
        *((U, "no-segments"), (f"{U} ", "no-segments"), (f"{U}  ", "no-segments")),
        *((f"{U} 24,", "bad-segments"), (f"{U} ,24", "bad-segments"), (f"{U} 24,,25", "bad-segments")),
        *((f"{U} 24;25", "bad-segments"), (f"{U} 24 x", "bad-segments"), (f"{U} 24\t25", "bad-segments")),
        *((f"{U}  24", "two-spaces"), (f"{U}  24 ", "two-spaces"), (f"{U} 1 2 3", "too-many-lists")),
        *((f"{U} 1  2", "too-many-lists"), (f"{U} 24\r25", "bad-segments"), (f"{U} 24 \x00", "bad-segments")),
        *((f"{U} ٢٤", "bad-segments"), (f"{U} 24\u00a0", "bad-segments"), (f"\ufeff{U} 24", "not-a-uuid")),
    ],
)
def test_lines_that_are_refused_with_their_reason(world: World, line: str, reason: str) -> None:
    path = put(world, f"{ITER}.sync", f"{uuid(3)} 7", line, f"{uuid(1)} 8")
    rows, summary = joined(world, path)
    assert rows == [("a", "8", "add"), ("c", "7", "add")]
    assert (summary.read, summary.matched, summary.reasons) == (3, 2, {reason: 1})
    assert summary.samples == [f"{path}, line 2: {reason}"]
    assert reason in lines.EXPLANATIONS


@pytest.mark.parametrize(
    ("line", "rows"),
    [
        (f"{U} 24", [("24", "add")]),
        (f"{U} 24,26", [("24", "add"), ("26", "add")]),
        (f"{U} 24,26 25,28", [("24", "add"), ("26", "add"), ("25", "remove"), ("28", "remove")]),
        (f"{U}  24,26  25", [("24", "add"), ("26", "add"), ("25", "remove")]),  # the documentation's own sample
        (f"{U} 007,1e5".replace("1e5", "38"), [("007", "add"), ("38", "add")]),
        (f"{U} 24 ", [("24", "add")]),
        (f"{U} 24\r", [("24", "add")]),
    ],
)
def test_lines_that_are_taken(world: World, line: str, rows: list[tuple[str, str]]) -> None:
    found, _ = joined(world, put(world, f"{ITER}.sync", line))
    assert found == [("a", *row) for row in rows]


def test_invalid_bytes_and_a_missing_last_newline(world: World) -> None:
    path = world.folder / "x.sync"
    path.write_bytes(f"{U} 1\n".encode() + b"\xff\xfe \x80\n" + f"{uuid(3)} 2".encode())
    rows, summary = joined(world, path)
    assert rows == [("a", "1", "add"), ("c", "2", "add")]
    assert (summary.read, summary.reasons) == (3, {"not-a-uuid": 1})


def test_a_file_of_something_else_is_refused(world: World) -> None:
    path = put(world, "S3_1_20914_iter_1486140844000.sync", "38400000-8cf0-11bd-b23e-10b96e40000d 24")
    with pytest.raises(InputRefused, match="none of the 1 lines"):
        joined(world, path)


def test_blocks_of_any_size_give_the_same(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    rows = [f"{uuid(1 + number % 3)} {number},{number + 1}" for number in range(200)]
    path = put(world, f"{ITER}.sync.gz", *rows)
    whole = sorted(joined(world, path)[0])
    assert len(whole) == 400
    for size in (1, 7, 45, 4096):
        monkeypatch.setattr(reading, "BLOCK_BYTES", size)
        assert sorted(joined(world, path)[0]) == whole


# --- the join --------------------------------------------------------------------------------------------------------


def test_removals_of_a_full_export_say_nothing(world: World) -> None:
    line = f"{uuid(1)} 24 25"
    assert joined(world, put(world, f"x_iter_{STAMP}.sync", line))[0] == [("a", "24", "add"), ("a", "25", "remove")]
    assert joined(world, put(world, f"x_full_{STAMP}.sync", line))[0] == [("a", "24", "add")]
    assert joined(world, put(world, "x.sync", line))[0] == [("a", "24", "add"), ("a", "25", "remove")]


def test_customer_ids_are_quoted_where_they_must(world: World) -> None:
    assert joined(world, put(world, f"{ITER}.sync", f"{uuid(2)} 1,2"))[0] == [
        ('b,"b"', "1", "add"),
        ('b,"b"', "2", "add"),
    ]


def test_all_customers_of_a_device(world: World) -> None:
    rows, summary = joined(world, put(world, f"{ITER}.sync", f"{uuid(6)} 1"))
    assert rows == [("e", "1", "add"), ("f", "1", "add")]
    assert (summary.read, summary.matched) == (1, 1)


def test_what_the_devices_of_a_customer_say_is_put_together(world: World) -> None:
    """In a segment with one of the devices is in the segment."""
    path = put(world, f"{ITER}.sync", f"{uuid(4)} 1,2 3", f"{uuid(5)} 2,3 1,4")
    assert joined(world, path)[0] == [("d", "1", "add"), ("d", "2", "add"), ("d", "3", "add"), ("d", "4", "remove")]


def test_exports_keep_their_order(world: World) -> None:
    """Also for customers with several devices: the rows of the later one come last, however the files are named."""
    first = put(world, f"z_iter_{STAMP}.sync", f"{uuid(4)} 1", f"{uuid(1)} 1")
    second = put(world, f"a_iter_{STAMP + 1}.sync", f"{uuid(5)} 2 1", f"{uuid(1)} 2 1")
    rows, _ = joined(world, second, first)
    assert [row for row in rows if row[0] == "a"] == [("a", "1", "add"), ("a", "2", "add"), ("a", "1", "remove")]
    assert [row for row in rows if row[0] == "d"] == [("d", "1", "add"), ("d", "1", "remove"), ("d", "2", "add")]


def test_splits_of_one_export(world: World) -> None:
    for form in ("{}.sync.gz", "{}001.sync.gz", "{}002.sync.gz"):
        put(world, form.format(ITER), f"{uuid(4)} {len(form)}")
    rows, summary = joined(world, world.folder / "out")
    assert rows == [("d", str(len("{}.sync.gz")), "add"), ("d", str(len("{}001.sync.gz")), "add")]  # each once
    assert summary.read == 3


def test_opted_out_people(world: World) -> None:
    """A device that opted out, a customer with the device last linked to him, a customer alone."""
    path = put(world, f"{ITER}.sync", *(f"{uuid(number)} 1" for number in range(1, 8)))
    with_store = open_store(world.settings.store)
    with_store.opt_out(OptOut((), (uuid(1),), NOW, takes_devices=False))
    with_store.opt_out(OptOut(((12345, "c"),), (), NOW, takes_devices=True))
    with_store.opt_out(OptOut(((12345, "e"),), (), NOW, takes_devices=False))
    with_store.close()
    rows, summary = joined(world, path)
    assert rows == [('b,"b"', "1", "add"), ("d", "1", "add"), ("f", "1", "add")]
    assert (summary.matched, summary.opted_out, summary.unmatched) == (4, 2, 1)


def test_expired_devices_are_unmatched(world: World) -> None:
    world.now += 121 * 86_400_000
    rows, summary = joined(world, put(world, f"{ITER}.sync", f"{uuid(1)} 1"))
    assert (rows, summary.unmatched) == ([], 1)


IDS = st.sampled_from(["a", "b", "c,1", 'd"', "é", " x", "007"])
LINES = st.one_of(
    st.builds(
        lambda device, added, removed: f"{uuid(device)} {','.join(added)} {','.join(removed)}".rstrip(" "),
        st.integers(0, 9),
        st.lists(st.sampled_from("12345"), min_size=1, unique=True),
        st.lists(st.sampled_from("678"), unique=True),
    ),
    st.sampled_from(["", "nonsense", f"{uuid(1)}", f"{uuid(1)} x", f"{uuid(2)}  4"]),
)


@settings(max_examples=25, deadline=None)
@given(
    pairs=st.lists(st.tuples(IDS, st.integers(0, 9)), max_size=12),
    opted_out=st.lists(st.integers(0, 9), max_size=2),
    files=st.lists(st.tuples(st.sampled_from(["iter", "full"]), st.lists(LINES, max_size=8)), min_size=1, max_size=3),
)
def test_rows_are_what_the_definition_says(
    tmp_path_factory: pytest.TempPathFactory,
    pairs: list[tuple[str, int]],
    opted_out: list[int],
    files: list[tuple[str, list[str]]],
) -> None:
    world = World(tmp_path_factory.mktemp("world"))
    world.sync(*((customer, uuid(device)) for customer, device in pairs))
    world.opt_out(devices=[uuid(device) for device in opted_out])
    paths = [
        put(world, f"x_{mode}_{STAMP + at}.sync", *of_file) for at, (mode, of_file) in enumerate(files) if any(of_file)
    ]
    good = [line for _, of_file in files for line in of_file if lines.reason(line) == "too-many-lists"]
    if not paths or not good:
        return
    rows, summary = joined(world, *paths)
    assert rows_in_sets(rows) == rows_in_sets(defined(pairs, opted_out, files))
    assert summary.rejected == sum(len(of_file) for _, of_file in files if any(of_file)) - len(good)
    assert summary.opted_out == sum(line.split()[0] in {uuid(device) for device in opted_out} for line in good)


def rows_in_sets(rows: Sequence[Row]) -> Mapping[Row, int]:
    return {row: rows.count(row) for row in rows}


def defined(pairs: list[tuple[str, int]], opted_out: list[int], files: list[tuple[str, list[str]]]) -> list[Row]:
    """In plain Python: who has one device says what each line says, who has several what the export says in all."""
    known = {(customer, device) for customer, device in pairs if device not in opted_out}
    rows: list[Row] = []
    for mode, of_file in files:
        together: dict[tuple[str, str], str] = {}
        for line in of_file:
            if not any(of_file) or lines.reason(line) != "too-many-lists":
                continue
            device, added, removed = [*line.split(" "), ""][:3]
            said = [(segment, "add") for segment in added.split(",")]
            said += [(segment, "remove") for segment in removed.split(",") if segment and mode == "iter"]
            for customer, number in known:
                if uuid(number) != device:
                    continue
                several = sum(other == customer for other, _ in known) > 1
                for segment, action in said:
                    if several:
                        before = together.get((customer, segment))
                        together[customer, segment] = "add" if "add" in {before, action} else "remove"
                    else:
                        rows.append((customer, segment, action))
        rows += [(*key, action) for key, action in together.items()]
    return rows


def test_several_devices_are_seen_across_batches() -> None:
    ids = list("abbccccdefff")
    table = pa.table([ids, [uuid(at) for at in range(len(ids))], list(range(len(ids)))], schema=EXPORT_SCHEMA)
    expected = [ids.count(each) > 1 for each in ids]
    for size in range(1, len(ids) + 1):
        marked = engine._marked(iter(table.to_batches(max_chunksize=size)))
        assert [flag for batch in marked for flag in batch.column("several").to_pylist()] == expected
