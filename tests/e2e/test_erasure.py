"""A person erased from everything: store, spool, held records, rejects, reports, frozen files, what was sent, runs on
hold; looked for in every byte.
"""

import gzip
import hashlib
import json
import re
import subprocess
import sys
from collections.abc import Sequence
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
from pyarrow import parquet

from idsync import config
from idsync.service import milliseconds_now, open_spool
from idsync.store import codec, open_store
from idsync.store.base import Sync
from tests.endpoint import run_idsync, serving
from tests.servers import RedisServer

PERSON, LATER = "person-4711-wanted", "person-4712-wanted"
DEVICE = "31415926535897932384626433832795028841"
SHOPPER = "shopper-4711-wanted"
REFUSED = "wanted:4711"  # no ID, so it is among the rejects alone
EMAIL = "wanted-4711@example.com"
README = Path(__file__).parent.parent.parent / "README.md"
MARKS = {"locks", "hold"}  # empty files
FEEDS = """
[[feeds]]
name = "by-customer"
data_source = "crm"
inputs = "inbox/a.csv"
id_column = "id"
user_id = "customer-id"
unmatched = "emit"
signals = ["tier"]
trait_columns = ["traits"]
compression = "none"
destination = "out"
max_rejected = 1

[[feeds]]
name = "by-device"
data_source = "crm"
inputs = "inbox/b.csv"
id_column = "id"
signals = ["tier"]
destination = "out"

[[feeds]]
name = "changes-of-shoppers"
data_source = "crm"
inputs = "inbox/b.csv"
id_column = "id"
user_id = "shop"
rules = [ { column = "tier", equals = "gold", trait = 24 } ]
changes_only = true
destination = "out"

[[feeds]]
name = "emails"
kind = "email-hashes"
data_source = "crm"
email_data_source = "emails"
email_column = "email"
inputs = "inbox/c.csv"
id_column = "id"
destination = "out"

[[feeds]]
name = "on-hold"
data_source = "crm"
inputs = "inbox/b.csv"
id_column = "id"
signals = ["tier"]
destination = "out"

[[data_sources]]
name = "shop"
dpid = 777

[[data_sources]]
name = "emails"
dpid = 778
format = "hashed-email"

[reconcile]
mask_ids = false

[[destinations]]
name = "out"
kind = "directory"
path = "var/delivered"
"""


@pytest.fixture(params=["sqlite", "redis"])
def site(request: pytest.FixtureRequest, tmp_path: Path) -> tuple[Path, RedisServer | None]:
    url, server = "sqlite:///var/idsync.db", None
    if request.param == "redis":
        server = request.getfixturevalue("shared_redis")
        with server.client() as client:
            client.flushall()
        url = server.url
    path = tmp_path / "idsync.toml"
    path.write_text(
        f'[store]\nurl = "{url}"\n[privacy]\ngdpr_default = "does-not-apply"\n'
        f'[[data_sources]]\nname = "crm"\ndpid = 12345\n{FEEDS}'
    )
    (tmp_path / "inbox").mkdir()
    return path, server


def reconcile(*arguments: str | Path) -> Any:
    command = [sys.executable, "-m", "reconcile", *arguments]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


def all_bytes(folder: Path, server: RedisServer | None) -> dict[str, bytes]:
    """Every file, what is packed unpacked beside it, and every key of Redis with its value."""
    found: dict[str, bytes] = {}
    for path in sorted(path for path in folder.rglob("*") if path.is_file()):
        found[str(path)] = path.read_bytes()
        if path.suffix == ".gz":
            found[f"{path} unpacked"] = gzip.decompress(path.read_bytes())
        if path.suffix == ".parquet":
            found[f"{path} unpacked"] = json.dumps(parquet.read_table(path).to_pylist()).encode()
    if server:
        with server.client() as client:
            for key in client.scan_iter():
                value = client.hgetall(key) if client.type(key) == b"hash" else {}
                found[str(key)] = b"\n".join(part for pair in value.items() for part in pair)
    return found


def traces(folder: Path, server: RedisServer | None, sought: Sequence[bytes]) -> list[str]:
    return [place for place, content in all_bytes(folder, server).items() if any(each in content for each in sought)]


def kept_places() -> set[str]:
    """What of the job's folder the README tells of, but for what this test has no feeds for."""
    table = README.read_text().split("## What is stored where", 1)[1].split("\n\n## ", 1)[0]
    others = {"copies", "objects", "health.json", ".dry-run-"}
    return set(re.findall(r"`state_dir/([\w.-]+)", table)) - others


def test_nothing_of_a_person_is_left(site: tuple[Path, RedisServer | None]) -> None:
    path, server = site
    var = path.parent / "var"
    inbox = path.parent / "inbox"
    with serving(path, "--workers", "1") as endpoint:
        for number in range(50):
            endpoint.get(f"/ibs:dpid=12345&dpuuid=other-{number}&d_uuid={number:038}")
        for customer in (PERSON, "neighbour"):
            assert endpoint.get(f"/ibs:dpid=12345&dpuuid={customer}&d_uuid={DEVICE}").status == 200
        assert endpoint.get(f"/ibs:dpid=777&dpuuid={SHOPPER}&d_uuid={DEVICE}").status == 200
        # sent by customer ID, rejected, held
        (inbox / "a.csv").write_text(
            f"id,tier,traits\n{PERSON},gold,24\nother-1,gold,24\n{PERSON},gold,x\n{REFUSED},,\n"
        )
        (inbox / "b.csv").write_text(f"id,tier\n{PERSON},gold\nother-1,gold\n{LATER},gold\n")
        assert reconcile("run", "by-customer", "--config", path)["rejected"] == 2
        assert (told := reconcile("run", "by-device", "--config", path))["held"] == 1, told
        (inbox / "c.csv").write_text(f"id,email\n{PERSON},{EMAIL}\nother-1,other@example.com\n")
        assert reconcile("run", "changes-of-shoppers", "--config", path)["matched"] == 1
        assert reconcile("run", "emails", "--config", path)["matched"] == 2
        assert reconcile("run", "on-hold", "--hold", "--config", path)["status"] == "on-hold"
        reconcile("sync-file", "crm", "shop", "--config", path)
        with closing(open_spool(config.load(path))) as spool:
            spool.record([Sync(12345, LATER, DEVICE, "", milliseconds_now())])
            hashed = hashlib.sha256(EMAIL.encode()).hexdigest()
            texts = [PERSON, LATER, DEVICE, SHOPPER, REFUSED, EMAIL, hashed]
            sought = [*(text.encode() for text in texts), codec.pack_uuid(DEVICE)]
            before = traces(var, server, sought)
            for place in ("report.json", "report.html", "rejects.csv.gz", "/held/", "/sent/", "on-hold/files/"):
                assert any(place in found for found in before), (place, before)

            requests = path.parent / "requests.csv"
            people = f"crm,{PERSON},\ncrm,{LATER},\n,,{DEVICE}\nshop,{SHOPPER},\ncrm,{REFUSED},\n"
            requests.write_text(f"data_source,customer_id,uuid\n{people}")
            found = json.loads(run_idsync("lookup", "--csv", requests, "--config", path).stdout)
            assert found["job"]["held"]["records"] == 3
            assert found["job"]["rejects"]["records"] == 2
            done = run_idsync("erase", "--csv", requests, "--config", path)
            assert (done.returncode, done.stderr) == (0, "")
            told = json.loads(done.stdout)
            removed = [person["mappings_removed"] + person["spooled_removed"] for person in told["people"]]
            # what waited in the spool may be in the store by now, or was let go by the endpoint since the opt-out
            assert removed in ([1, 1, 2, 0, 0], [1, 0, 2, 0, 0])
            assert told["job"]["held"]["records"] == 3
            assert told["job"]["withdrawn"]
            assert any("changes-of-shoppers" in file for file in told["job"]["sent"]["files"])
            assert told["job"]["rejects"]["records"] == 2
            assert {Path(file).suffix for file in told["job"]["directories"]["files"]} == {".sync", ".gz"}
            assert traces(var, server, sought) == []
        answer = endpoint.get(f"/ibs:dpid=12345&dpuuid={PERSON}&d_uuid={1:038}")
        assert answer.header("X-Error") == "171"
    assert traces(var, server, sought) == []
    assert {path.name for path in (var / "reconcile").iterdir()} - MARKS == kept_places()
    (inbox / "b.csv").write_text(f"id,tier\n{PERSON},silver\nother-1,silver\n{LATER},silver\n")
    told = reconcile("run", "by-device", "--config", path)
    assert (told["matched"], told["held"], told["reasons"]) == (1, 0, {"opted-out": 2})
    assert traces(var, server, sought) == []
    with closing(open_store(config.load(path).store)) as store:
        assert len(store.devices(12345, "other-1", milliseconds_now())) == 1
