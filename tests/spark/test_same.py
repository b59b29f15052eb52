"""The same feeds on both engines: the same lines, and the same figures, to the last one."""

import gzip
import json
import random
from collections.abc import Callable
from hashlib import sha256
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
from pyarrow import parquet

from idsync.errors import IdsyncError
from reconcile.errors import InputRefused, RunRefused
from reconcile.progress import Meter
from reconcile.run import Engine, run
from tests.reconcile.samples import HEADER, SIGNALS, World, uuid
from tests.servers import RedisServer

pytestmark = pytest.mark.usefixtures("spark")

DAY = 86_400_000
CUSTOMERS = [f"c{number}" for number in range(120)]
VALUES = ("female", "male", "x", "", "b\u00e4r", 'quo"te', "ta\tb")
TRAITS = ("24", "24,26", "24|27", "", "31:0", "26:-1", "ic=abc", "no trait")


@pytest.fixture(autouse=True)
def small_shares(monkeypatch: pytest.MonkeyPatch) -> None:
    """Several shares even of little, and all of the store read in parts."""
    monkeypatch.setattr("reconcile.spark.join.SHARE_BYTES", 9_000)
    monkeypatch.setattr("reconcile.join.LARGE_INPUT_BYTES", 1_000)


class Pair:
    """Two worlds alike, one for each engine."""

    def __init__(self, folder: Path, feed: str, **settings: Any) -> None:
        self.worlds: dict[Engine, World] = {
            engine: World(folder / engine, feed=feed, **settings) for engine in ("duckdb", "spark")
        }

    def each(self, do: Callable[[World], object]) -> None:
        for world in self.worlds.values():
            do(world)

    def run(self, *, dry_run: bool = False) -> dict[str, Any]:
        """Run both, compare all; the figures."""
        told = [self._told(engine, world, dry_run=dry_run) for engine, world in self.worlds.items()]
        assert differing(*told) == {}
        return told[0]

    def _told(self, engine: Engine, world: World, *, dry_run: bool) -> dict[str, Any]:
        found: dict[str, Any] = {}
        try:
            world.last = run(
                world.settings, "daily", dry_run=dry_run, meter=Meter(), now=lambda: world.now, engine=engine
            )
            found = world.last.as_dict()
        except IdsyncError as error:
            found["error"] = (type(error), str(error))
        found.pop("steps", None)
        files = found.pop("files", [])
        found |= {"raw bytes": sum(file["raw_bytes"] for file in files)}
        found["all lines"] = sorted(world.lines())
        held = world.state / "held" / "daily.parquet"
        # the order of what is held is nobody's promise
        left_out = [row | {"line": ""} if row["input"] == str(held) else row for row in world.rejects()]
        found["left out"] = sorted(tuple(row.values()) for row in left_out)
        for kept in (held, world.state / "sent" / "daily.parquet"):
            rows = parquet.read_table(kept).to_pylist() if kept.exists() else []
            found[f"rows {kept.parent.name}"] = sorted(map(str, rows))
        for run_id in [path.name for path in (world.state / "runs").glob("*")]:
            assert not list((world.state / "runs" / run_id).glob("scratch*")), "of the run nothing is left behind"
        plain: dict[str, Any] = json.loads(json.dumps(found, default=str).replace(str(world.folder), ""))
        return plain


def differing(one: dict[str, Any], other: dict[str, Any]) -> dict[str, Any]:
    """By figure, what each has that the other has not."""
    found: dict[str, Any] = {}
    for name in one.keys() | other.keys():
        a, b = one.get(name), other.get(name)
        if isinstance(a, list) and isinstance(b, list) and a != b:
            found[name] = ([row for row in a if row not in b], [row for row in b if row not in a])
        elif a != b:
            found[name] = (a, b)
    return found


def rows(seed: int, count: int = 300) -> list[tuple[str, ...]]:
    """Records of customers known and unknown, several of one, with all kinds of faults."""
    dice = random.Random(seed)
    ids = [*CUSTOMERS, *(f"nobody{number}" for number in range(40)), "a@b.example", "", "spa ce", "u%3A1", "10:2"]
    return [(dice.choice(ids), dice.choice(VALUES), dice.choice(VALUES), dice.choice(TRAITS)) for _ in range(count)]


def fill(world: World, seed: int) -> None:
    """Inputs of three formats, and mappings in which devices are shared."""
    dice = random.Random(seed)
    devices = [uuid(10**36 * number + number) for number in range(1, 90)]
    world.sync(*((customer, dice.choice(devices)) for customer in CUSTOMERS[:100] for _ in range(dice.randrange(1, 4))))
    world.put("1.csv", rows(seed))
    lines = [json.dumps(dict(zip(HEADER, row, strict=True))) for row in rows(seed + 1)]
    lines[7:7] = ["not json", '["a"]']
    (world.inbox / "2.jsonl.gz").write_bytes(gzip.compress("\n".join(lines).encode(), mtime=0))
    columns = zip(*rows(seed + 2), strict=True)
    parquet.write_table(pa.table(dict(zip(HEADER, map(list, columns), strict=True))), world.inbox / "3.parquet")
    world.opt_out(*CUSTOMERS[3:9], "nobody5", devices=devices[:4])


def fill_both(world: World, seed: int) -> None:
    """As `fill`, and another data source's IDs of some of the devices, of which not all can be sent."""
    fill(world, seed)
    dice = random.Random(seed)
    ids = [*(f"s{number}" for number in range(60)), "a@b.example", "10:2"]
    numbers = [dice.randrange(1, 90) for _ in range(150)]
    world.sync(*((dice.choice(ids), uuid(10**36 * number + number)) for number in numbers), dpid=777)


def fill_emails(world: World, seed: int) -> None:
    """Addresses, of which some customers have many, others have bad ones or have opted out."""
    dice = random.Random(seed)
    for name in ("1.csv", "2.csv", "3.csv"):
        found = [
            (dice.choice([*CUSTOMERS[:12], "e@f.example"]), f"p{dice.randrange(40)}@example.com") for _ in range(150)
        ]
        world.put(name, [*found, ("c1", ""), ("c2", "none")], ("id", "email"))
    world.opt_out(CUSTOMERS[3])
    world.opt_out(sha256(b"p5@example.com").hexdigest(), dpid=777)


EMAILS = """kind = "email-hashes"
email_column = "email"
email_data_source = "emails"
max_rejected = 1
[[data_sources]]
name = "emails"
dpid = 777
format = "hashed-email"
"""
BY_UUID = SIGNALS + 'max_rejected = 1.0\nunmatched = "hold"\nheld_days = 20\n'


def test_a_feed_that_holds_over_several_runs(tmp_path: Path) -> None:
    (tmp_path / "traits.txt").write_text("24\n27\n")
    pair = Pair(tmp_path, BY_UUID + f'known_traits_file = "{tmp_path}/traits.txt"\n')
    pair.each(lambda world: fill(world, 1))
    dry = pair.run(dry_run=True)
    first = pair.run()
    assert {name: dry[name] for name in ("read", "matched", "held", "rejected", "lines", "traits", "why")} == {
        name: first[name] for name in ("read", "matched", "held", "rejected", "lines", "traits", "why")
    }
    assert min(first[name] for name in ("matched", "held", "rejected", "silent", "lines")) > 0
    assert first["reasons"]["opted-out"] > 0
    assert len(pair.worlds["spark"].last.files) > 1

    def later(world: World) -> None:
        world.now += 10 * DAY
        world.sync(("nobody1", uuid(5)), ("nobody2", uuid(10**36 + 1)), (CUSTOMERS[110], uuid(6)))
        world.opt_out("nobody3")
        world.put("4.csv", rows(9, 80))

    pair.each(later)
    second = pair.run()
    assert min(second[name] for name in ("superseded", "from_hold", "matched", "held")) > 0
    pair.each(lambda world: setattr(world, "now", world.now + 15 * DAY))
    third = pair.run()
    assert third["reasons"] == {"held-too-long": third["rejected"]}
    assert pair.run()["status"] == "nothing-to-do"


def test_a_feed_for_all_devices(tmp_path: Path, shared_redis: RedisServer) -> None:
    """Records with several users, some of whom have other records too; mappings in Redis, by ranges of buckets."""
    feed = SIGNALS + 'max_rejected = 1.0\nunmatched = "drop"\ndevices = "all"\n'
    feed += 'unsendable = "item"\nconflicts = "last"\n'
    pair = Pair(tmp_path, feed)
    for world, database in zip(pair.worlds.values(), (11, 12), strict=True):
        world.url = f"{shared_redis.url.rpartition('/')[0]}/{database}"
    pair.each(lambda world: fill(world, 2))
    told = pair.run()
    assert min(told[name] for name in ("matched", "unmatched", "rejected", "silent", "conflicts")) > 0
    assert told["items_left_out"]


@pytest.mark.parametrize("devices", ["latest", "all"])
def test_a_feed_of_ids_of_another_data_source(tmp_path: Path, devices: str) -> None:
    feed = SIGNALS + f'max_rejected = 1.0\nunmatched = "hold"\nuser_id = "shop"\ndevices = "{devices}"\n'
    pair = Pair(tmp_path, feed + '[[data_sources]]\nname = "shop"\ndpid = 777\n')
    pair.each(lambda world: fill_both(world, 6))
    told = pair.run()
    assert min(told[name] for name in ("matched", "held", "rejected", "silent", "lines", "mappings")) > 0
    assert len(told["ids_left_out"]) == 2


@pytest.mark.parametrize(
    ("user_id", "vanished", "unmatched"),
    [("uuid", "keep", "hold"), ("shop", "remove", "hold"), ("customer-id", "remove", "drop")],
)
def test_a_feed_that_sends_only_changes(tmp_path: Path, user_id: str, vanished: str, unmatched: str) -> None:
    """Of several devices and customers, over several runs."""
    feed = SIGNALS + f'max_rejected = 1.0\nunmatched = "{unmatched}"\nuser_id = "{user_id}"\ndevices = "all"\n'
    changes = {"vanished": vanished, "optout_removals": True}
    pair = Pair(tmp_path, feed + '[[data_sources]]\nname = "shop"\ndpid = 777\n', changes=changes)
    pair.each(lambda world: fill_both(world, 8))
    first = pair.run()
    assert min(first[name] for name in ("matched", "unmatched", "rejected", "lines")) > 0

    def later(world: World) -> None:
        world.now += DAY
        world.sync(("nobody1", uuid(5)), ("nobody2", uuid(10**36 + 1)), (CUSTOMERS[80], uuid(10**36 * 7 + 7)))
        world.sync(("quiet", uuid(3)), ("quiet", uuid(4)))
        world.sync(("s8", uuid(3)), ("s9", uuid(4)), dpid=777)
        world.opt_out(CUSTOMERS[20], devices=[uuid(10**36 * 20 + 20)])
        world.opt_out("s7", dpid=777)
        still_there = [row for row in rows(10) if row[0] not in CUSTOMERS[30:40]]
        still_there = [row if row[0] in CUSTOMERS[:60] else (*row[:3], "77") for row in still_there]
        world.put("4.csv", [*still_there, ("quiet", "", "", "")])

    pair.each(later)
    second = pair.run()
    assert (second["vanished"] > 0) == (vanished == "remove")
    assert min(second["forgotten"], second["silent"]) > 0

    def unreadable(world: World) -> None:
        """A record, so that nobody vanishes."""
        with world.put("5.csv", [row for row in rows(10) if row[0] not in CUSTOMERS[50:]]).open("a") as file:
            file.write("too,many,columns,for,this\n")

    pair.each(unreadable)
    pair.worlds = {
        "duckdb": pair.worlds["spark"],
        "spark": pair.worlds["duckdb"],
    }  # each goes on from what the other left
    third = pair.run()
    assert min(third[name] for name in ("unchanged", "lines")) > 0
    assert third["vanished"] == 0
    pair.each(lambda world: world.opt_out(*CUSTOMERS[:20]))
    assert pair.run()["forgotten"] > 0, "without any input"


def test_a_feed_of_customer_ids(tmp_path: Path) -> None:
    rules = 'rules = [ { column = "tier", equals = "male", trait = 99, otherwise = "remove" } ]\n'
    feed = SIGNALS + 'max_rejected = 1.0\nunmatched = "emit"\nuser_id = "customer-id"\ncompression = "none"\n' + rules
    pair = Pair(tmp_path, feed)
    pair.each(lambda world: fill(world, 3))
    assert pair.run()["unmatched"] > 0


@pytest.mark.parametrize("seed", [7, 8, 9])
def test_a_feed_of_email_hashes(tmp_path: Path, seed: int) -> None:
    """Many addresses of one customer, in several files."""
    pair = Pair(tmp_path, EMAILS)
    pair.each(lambda world: fill_emails(world, seed))
    told = pair.run()
    assert min(told[name] for name in ("matched", "rejected", "silent", "lines")) > 0
    assert set(told["reasons"]) == {"too-many-emails", "opted-out", "email-invalid", "id-email"}


def test_a_run_refused_for_its_data(tmp_path: Path) -> None:
    pair = Pair(tmp_path, SIGNALS + "max_rejected = 0.01\n")
    pair.each(lambda world: world.put("1.csv", rows(4)))
    told = pair.run()
    assert told["error"][0] == str(RunRefused)
    assert told["left out"]


def test_an_input_that_no_executor_can_read(tmp_path: Path) -> None:
    pair = Pair(tmp_path, SIGNALS)
    pair.each(lambda world: world.put("1.csv", rows(4)) and world.put("2.csv", [("a",)], header=("strange",)))
    assert pair.run()["error"][0] == str(InputRefused)


def test_few_customers_are_asked_for_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("reconcile.join.LARGE_INPUT_BYTES", 32_000_000)
    pair = Pair(tmp_path, BY_UUID)
    pair.each(lambda world: fill(world, 5))
    pair.each(lambda world: world.sync(("in no input", uuid(1))))
    assert pair.run()["mappings"] <= len(CUSTOMERS)
