"""From the website's calls to the object in Audience Manager's bucket: every part as it is run, byte for byte."""

import fcntl
import gzip
import json
import os
import re
import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import Any

import boto3
import pyarrow as pa
import pytest
from pyarrow import parquet

from idsync.service import milliseconds_now
from tests.endpoint import PATIENCE_SECONDS, Endpoint, serving
from tests.reconcile.samples import SIGNALS, World, uuid
from tests.s3 import StrictS3, moto_s3, strict_s3
from tests.servers import RedisServer, free_port, redis_server, wait_until

FEED = (
    SIGNALS
    + """
target = 21
max_rejected = 0.2
rules = [{ column = "tier", equals = "gold", trait = 24, otherwise = "remove" }]
"""
)
DIGITS = "90071992547409930000000000000000000001"  # 38 of them; as a number it would lose the last ones

# dpuuid as it stands on the call, customer ID, d_uuid; in the order of the calls
CALLS = (
    ("007", "007", uuid(7)),
    ("1e5", "1e5", uuid(0)),
    ("a%26b", "a&b", uuid(3)),
    ("caf%C3%A9", "café", uuid(4)),
    (DIGITS, DIGITS, DIGITS),
    ("two-devices", "two-devices", uuid(61)),
    ("back-again", "back-again", uuid(71)),
    ("two-devices", "two-devices", uuid(60)),
    ("back-again", "back-again", uuid(72)),
    ("back-again", "back-again", uuid(71)),
)

CSV = """id,name,gender,tier,traits
007,Bond,f,gold,"24,26"
7,Seven,m,gold,24
1e5,,,silver,
a&b,,"x, y","gold ",
shop:1,,f,gold,1
"a&b",,"a ""quoted"" word",gold,
Café,,f,gold,
"""
JSONL = (
    f'{{"id": {DIGITS}, "gender": "m", "tier": "gold", "traits": [26, 310]}}\n'
    '{"id": 100000, "gender": "m"}\n'
    '{"id": "caf\\u00e9", "tier": "gold", "gender": null}\n'
    '{"id": "cafe\\u0301", "tier": "gold"}\n'
)
TSV = "tier\ttraits\tgender\tid\ngold\t7|8\tf\tminted\ngold\t8|9\t\tsister\n"


@dataclass
class Way:
    """A world with its store and its destination. `held` gives what lies there by key; keys begin with `prefix`."""

    world: World
    environ: dict[str, str] = field(default_factory=dict)
    held: Callable[[], Mapping[str, bytes]] = dict
    prefix: str = ""
    scheme: str = ""

    def __post_init__(self) -> None:
        self.config = self.world.write_config()

    def start(self, *arguments: str) -> subprocess.Popen[str]:
        """`python -m reconcile …`, under way."""
        return subprocess.Popen(
            [sys.executable, "-m", "reconcile", *arguments, "--config", self.config],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            env={**os.environ, **self.environ},
        )

    def run(self, feed: str = "daily") -> "Ended":
        return self.reconcile("run", feed)

    def reconcile(self, *arguments: str) -> "Ended":
        with self.start(*arguments) as process:
            try:
                stdout, stderr = process.communicate(timeout=PATIENCE_SECONDS)
            finally:
                process.kill()
        assert "Traceback" not in stderr
        return Ended(process.returncode, stdout, stderr)

    def history(self) -> list[dict[str, Any]]:
        rows: list[dict[str, Any]] = json.loads(self.reconcile("history", "--json").stdout)
        return rows

    def frozen(self) -> dict[str, bytes]:
        """The files of all runs by name."""
        return {path.name: path.read_bytes() for path in self.world.state.glob("runs/*/files/*")}


@dataclass
class Ended:
    status: int
    stdout: str
    stderr: str

    @property
    def figures(self) -> dict[str, Any]:
        figures: dict[str, Any] = json.loads(self.stdout)
        return figures


@pytest.fixture(autouse=True)
def credentials(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "id")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "key")


@pytest.fixture
def redis(tmp_path: Path) -> Iterator[RedisServer]:
    with redis_server(tmp_path / "redis") as server:
        yield server


@pytest.fixture
def strict() -> Iterator[StrictS3]:
    with strict_s3() as server:
        yield server


@pytest.fixture(scope="module")
def moto() -> Iterator[str]:
    with moto_s3() as url:
        yield url


def to_bucket(url: str) -> dict[str, str]:
    return {"IDSYNC_FEEDS__DAILY__DESTINATION": "bucket", "IDSYNC_DESTINATIONS__BUCKET__ENDPOINT_URL": url}


@pytest.fixture
def local(tmp_path: Path) -> Way:
    """SQLite and a directory."""
    world = World(tmp_path / "world", FEED)
    return Way(world, held=lambda: {path.name: path.read_bytes() for path in world.delivered.glob("*")})


@pytest.fixture
def bucket(tmp_path: Path, strict: StrictS3) -> Way:
    """SQLite and a bucket; one customer is synced and waits in the inbox."""
    way = Way(World(tmp_path / "world", FEED), to_bucket(strict.url), lambda: strict.objects, "/inbound/acme/")
    way.world.sync(("c1", uuid(1)), seen=milliseconds_now())
    way.world.put("a.csv", [("c1", "f", "gold", "26")])
    return way


C1_LINE = f'{uuid(1)}\t"gender"="f","tier"="gold",d_sid=26,d_sid=24\n'


@pytest.fixture(params=["Redis to moto", "Redis to strict S3", "SQLite to a directory"])
def way(request: pytest.FixtureRequest, tmp_path: Path) -> Way:
    if request.param == "SQLite to a directory":
        local: Way = request.getfixturevalue("local")
        local.scheme = f"{local.world.delivered}/"
        return local
    redis: RedisServer = request.getfixturevalue("redis")
    world = World(tmp_path / "world", FEED, redis.url)
    if request.param == "Redis to strict S3":
        server: StrictS3 = request.getfixturevalue("strict")
        return Way(world, to_bucket(server.url), lambda: server.objects, "/inbound/acme/", "s3:/")
    url: str = request.getfixturevalue("moto")
    client = boto3.client("s3", endpoint_url=url, region_name="us-east-1")
    client.create_bucket(Bucket="inbound")

    def held() -> dict[str, bytes]:
        keys = [entry["Key"] for entry in client.list_objects_v2(Bucket="inbound").get("Contents", [])]
        return {f"/inbound/{key}": client.get_object(Bucket="inbound", Key=key)["Body"].read() for key in keys}

    return Way(world, to_bucket(url), held, "/inbound/acme/", "s3:/")


def _is_past(moment: int) -> bool:
    return milliseconds_now() > moment


def browse(endpoint: Endpoint) -> str:
    """A day on the website; the UUID that was made for the device without one."""
    for encoded, _, device in CALLS:
        assert endpoint.get(f"/ibs:dpid=12345&dpuuid={encoded}&d_uuid={device}").status == 200
        # of two calls in one millisecond neither is the later
        wait_until(partial(_is_past, milliseconds_now()), "a millisecond")
    answer = endpoint.get("/sync?dpid=12345&dpuuid=minted&d_rtbd=json")
    minted = str(json.loads(answer.body)["uuid"])
    cookie = str(answer.header("Set-Cookie")).partition(";")[0]
    assert cookie == f"__Host-idsync={minted}"
    assert endpoint.get("/ibs:dpid=12345&dpuuid=sister", f"Cookie: {cookie}").status == 200
    denied = endpoint.get("/ibs:dpid=12345&dpuuid=denied", "Sec-GPC: 1")
    assert (denied.status, denied.header("X-Error")) == (200, "315")
    assert endpoint.get("/ibs:dpid=12345&dpuuid=shop%3A1").status == 400
    return minted


def put_feeds(inbox: Path) -> None:
    (inbox / "1-shop.csv").write_text(CSV, encoding="utf-8")
    (inbox / "2-app.jsonl").write_text(JSONL, encoding="utf-8")
    table = pa.table(
        {
            "id": pa.array(["two-devices", "back-again", "denied"]),
            "gender": pa.array(["f", "m", "f"]).dictionary_encode(),
            "tier": pa.array([None, "basic", "gold"], pa.string()),
            "traits": pa.array([[1, 22], [], None], pa.list_(pa.int64())),
        }
    )
    parquet.write_table(table, inbox / "3-crm.parquet")
    (inbox / "4-family.tsv.gz").write_bytes(gzip.compress(TSV.encode()))


def expected(minted: str) -> str:
    return (
        f'{uuid(7)}\t"gender"="f","tier"="gold",d_sid=24,d_sid=26\n'
        f'{uuid(0)}\t"tier"="silver",d_unsid=24\n'
        f'{uuid(3)}\t"gender"="x, y","tier"="gold ",d_unsid=24\n'
        f'{DIGITS}\t"gender"="m","tier"="gold",d_sid=26,d_sid=310,d_sid=24\n'
        f'{uuid(4)}\t"tier"="gold",d_sid=24\n'
        f'{uuid(60)}\t"gender"="f",d_sid=1,d_sid=22,d_unsid=24\n'
        f'{uuid(71)}\t"gender"="m","tier"="basic",d_unsid=24\n'
        f'{minted}\t"gender"="f","tier"="gold",d_sid=7,d_sid=8,d_sid=24,d_sid=9\n'
    )


def test_calls_and_feeds_become_the_exact_object(way: Way) -> None:
    with serving(way.config, "--workers", "2") as endpoint:
        minted = browse(endpoint)
    put_feeds(way.world.inbox)
    before = milliseconds_now()
    done = way.run()
    assert (done.status, "Traceback" in done.stderr) == (0, False)
    figures = done.figures
    assert before <= figures["planned_at"] <= milliseconds_now()

    ((key, data),) = way.held().items()
    moment = figures["planned_at"] // 1000
    day = datetime.fromtimestamp(moment, UTC).strftime("date=%Y-%m-%d/")
    assert key == f"{way.prefix}{day if way.prefix else ''}ftp_dpm_12345_21_{moment}.sync.gz"
    assert gzip.decompress(data).decode() == expected(minted)

    counts = {name: figures[name] for name in ("status", "read", "matched", "unmatched", "held", "rejected", "lines")}
    assert counts == {
        "status": "delivered",
        "read": 16,
        "matched": 9,
        "unmatched": 5,
        "held": 5,
        "rejected": 2,
        "lines": 8,
    }
    assert figures["reasons"] == {"id-colon": 1, "value-unsendable": 1}
    assert [file["location"] for file in figures["files"]] == [way.scheme + key]
    rejects = [(Path(row["input"]).name, row["line"], row["customer_id"]) for row in way.world.rejects()]
    assert rejects == [("1-shop.csv", "6", "shop:1"), ("1-shop.csv", "7", "a&b")]
    for line in (r"read +16 +100\.0%", r"matched +9 +56\.2%", r"unmatched +5 +31\.2%", r"rejected +2 +12\.5%"):
        assert re.search(line, done.stderr), done.stderr
    assert way.scheme + key in done.stderr

    again = way.run()
    assert again.status == 0
    assert "nothing to do" in again.stderr
    assert "waiting for their sync: 5 held records" in again.stderr
    assert again.figures["status"] == "nothing-to-do"
    assert way.held() == {key: data}
    assert way.history() == [{**figures, "state": "delivered"}]


def test_a_held_record_goes_out_once_its_customer_comes(local: Way) -> None:
    local.world.put("a.csv", [("late", "f", "gold", "26")])
    assert local.run().figures["held"] == 1
    assert local.held() == {}
    with serving(local.config, "--workers", "1") as endpoint:
        device = json.loads(endpoint.get("/sync?dpid=12345&dpuuid=late&d_rtbd=json").body)["uuid"]
    figures = local.run().figures
    assert (figures["from_hold"], figures["matched"], figures["held"]) == (1, 1, 0)
    ((_, data),) = local.held().items()
    assert gzip.decompress(data).decode() == f'{device}\t"gender"="f","tier"="gold",d_sid=26,d_sid=24\n'


# --- exit statuses ---------------------------------------------------------------------------------------------------


def test_every_fault_of_the_configuration_is_told(local: Way) -> None:
    text = local.config.read_text().replace("partner", "partnr").replace("dpid = 12345", 'dpid = "0"')
    local.config.write_text(text.replace('inputs = "inbox/*"', 'destinatoin = "x"') + 'mode = "append"\n')
    done = local.run()
    assert (done.status, done.stdout) == (2, "")
    for fault in (
        'partnr = "acme": unknown key; did you mean "partner"?',
        "partner: missing",
        'data_sources[0].dpid = "0"',
        "feeds[0].inputs: missing",
        'feeds[0].destinatoin = "x": unknown key; did you mean "destination"?',
        'feeds[0].mode = "append"',
    ):
        assert fault in done.stderr
    assert "6 faults" in done.stderr


def test_an_unknown_feed(local: Way) -> None:
    done = local.run("dayly")
    assert (done.status, done.stdout) == (2, "")
    assert 'no feed is called "dayly"' in done.stderr
    assert "daily" in done.stderr.partition("\n")[2]


def test_a_redis_that_is_down_means_later(tmp_path: Path, redis: RedisServer) -> None:
    world = World(tmp_path / "world", FEED, redis.url)
    way = Way(world)
    world.sync(("c1", uuid(1)), seen=milliseconds_now())
    world.put("a.csv", [("c1", "f", "gold", "26")])
    redis.kill()
    done = way.run()
    assert (done.status, done.stdout) == (75, "")
    assert f"127.0.0.1:{redis.port}" in done.stderr
    assert not world.delivered.exists()
    redis.start()
    assert way.run().status == 0
    assert world.lines() == [C1_LINE]


def test_a_lock_that_is_held_means_later(local: Way) -> None:
    lock = local.world.state / "locks" / "daily.lock"
    lock.parent.mkdir(parents=True)
    with lock.open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        done = local.run()
        assert (done.status, done.stdout) == (75, "")
        assert 'another run of feed "daily" is under way' in done.stderr
    assert local.run().status == 0


def test_too_many_rejects_refuse_the_run(local: Way) -> None:
    local.world.sync(("c1", uuid(1)), seen=milliseconds_now())
    path = local.world.put("a.csv", [("c1", "f", "gold", "26"), ("c:2", "f", "gold", "26")])
    done = local.run()
    assert (done.status, done.stdout) == (1, "")
    assert "50.00% of the records were rejected, max_rejected is 20.00%: id-colon 1" in done.stderr
    (named,) = re.findall(r"see (\S+rejects\.csv\.gz);", done.stderr)
    assert "c:2" in gzip.decompress(Path(named).read_bytes()).decode()
    assert local.held() == {}
    path.unlink()
    local.world.put("a.csv", [("c1", "f", "gold", "26")])
    assert local.run().status == 0
    assert local.world.lines() == [C1_LINE]


def test_a_bucket_that_refuses_gets_the_same_bytes_once_it_does_not(bucket: Way, strict: StrictS3) -> None:
    strict.faults = ["AccessDenied"]
    done = bucket.run()
    assert (done.status, done.stdout) == (2, "")
    assert "AccessDenied" in done.stderr
    assert "s3:PutObject" in done.stderr
    _delivered_as_frozen(bucket)


def test_an_endpoint_that_is_away_gets_the_same_bytes_once_it_is_back(bucket: Way, strict: StrictS3) -> None:
    bucket.environ = to_bucket(f"http://127.0.0.1:{free_port()}") | {"IDSYNC_DESTINATIONS__BUCKET__RETRY_SECONDS": "1"}
    done = bucket.run()
    assert (done.status, done.stdout) == (75, "")
    assert bucket.environ["IDSYNC_DESTINATIONS__BUCKET__ENDPOINT_URL"] in done.stderr
    bucket.environ = to_bucket(strict.url)
    _delivered_as_frozen(bucket)


@pytest.mark.parametrize("fault", ["hang", "hang after storing"])
def test_a_run_that_is_killed_while_it_delivers_delivers_once(bucket: Way, strict: StrictS3, fault: str) -> None:
    """The PUT never arrived; or it did, and nobody was left to hear of it."""
    strict.faults = [fault]
    with bucket.start("run", "daily") as process:
        try:
            assert strict.hanging.wait(PATIENCE_SECONDS)
        finally:
            process.kill()
    assert process.returncode == -9
    assert len(strict.objects) == (fault == "hang after storing")
    _delivered_as_frozen(bucket)


def test_what_nobody_was_offered_is_made_again_without_who_opted_out(local: Way) -> None:
    world = local.world
    world.sync(("c1", uuid(1)), ("gone", uuid(2)), seen=milliseconds_now())
    world.put("a.csv", [("c1", "f", "gold", "26"), ("gone", "m", "", "")])
    world.delivered.write_text("a file where the folder should be")
    assert local.run().status == 2
    [earlier] = [path.name for path in (world.state / "runs").iterdir()]
    command = [sys.executable, "-m", "idsync", "opt-out", "crm", "gone", "--config", str(local.config)]
    subprocess.run(command, check=True, capture_output=True)
    world.delivered.unlink()
    done = local.run()
    assert (done.status, done.figures["withdrawn"], done.figures["settled"]) == (0, [earlier], [])
    assert f"run {earlier} was withdrawn" in done.stderr
    assert re.search(r"opted-out +1 +50\.0%", done.stderr), done.stderr
    assert world.lines() == [C1_LINE]
    assert [row["state"] for row in local.history()] == ["delivered", "withdrawn"]


def _delivered_as_frozen(bucket: Way) -> None:
    """The next run delivers what an earlier one froze: once, under its name, with its bytes, and says so."""
    ((name, data),) = bucket.frozen().items()
    assert gzip.decompress(data).decode() == C1_LINE
    [earlier] = [path.name for path in (bucket.world.state / "runs").iterdir()]
    done = bucket.run()
    assert done.status == 0
    assert f"run {earlier} had not been delivered: its frozen files went first" in done.stderr
    assert (done.figures["status"], done.figures["settled"]) == ("nothing-to-do", [earlier])
    ((key, stored),) = bucket.held().items()
    assert re.fullmatch(rf"/inbound/acme/date=\d{{4}}-\d\d-\d\d/{name}", key)
    assert stored == data
    assert [(row["run"], row["state"], row["lines"]) for row in bucket.history()] == [(earlier, "delivered", 1)]
    assert bucket.run().figures["settled"] == []
    assert bucket.held() == {key: stored}
