"""deploy/cluster: what runs in the pods: nginx by front.sh, leave.py beside an endpoint; and the way there."""

import json
import os
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path

from idsync.service import milliseconds_now
from idsync.settings import Store
from idsync.store import open_store
from idsync.store.base import Sync
from tests.deploy.test_cluster import FOLDER, ROOT, container
from tests.deploy.test_nginx import Front, listens
from tests.endpoint import PATIENCE_SECONDS, Endpoint, run_idsync, serving
from tests.idsync.samples import configuration
from tests.servers import RedisServer, free_port, redis_server, wait_until


@contextmanager
def fronting(folder: Path, endpoint_port: int) -> Iterator[Front]:
    """nginx by front.sh, as its pod starts it."""
    (folder / "tls").mkdir(parents=True)
    front = Front(folder, free_port(), free_port(), free_port())
    openssl = "openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -days 1 -subj /CN=sync.example.com"
    files = ["-keyout", str(folder / "tls" / "tls.key"), "-out", str(folder / "tls" / "tls.crt")]
    command = [*openssl.split(), "-addext", "subjectAltName=DNS:sync.example.com", *files]
    subprocess.run(command, check=True, capture_output=True)
    (folder / "fullchain.pem").write_bytes((folder / "tls" / "tls.crt").read_bytes())
    environment = {
        "CONF": str(ROOT / "deploy" / "nginx" / "idsync.conf"),
        "ENDPOINT": f"127.0.0.1:{endpoint_port}",
        "CERTIFICATES": str(folder / "tls"),
        "FOLDER": str(folder),
        "TLS_PORT": f"127.0.0.1:{front.tls}",
        "PLAIN_PORT": f"127.0.0.1:{front.plain}",
        "OPERATORS_PORT": str(front.operators),
    }
    with (folder / "log").open("wb") as log:
        process = subprocess.Popen(
            ["sh", FOLDER / "front.sh"],
            env={**os.environ, **environment},
            stdout=log,
            stderr=log,
            start_new_session=True,
        )
    try:
        wait_until(lambda: listens(front.tls), "nginx' start")
        yield front
    finally:
        os.killpg(process.pid, signal.SIGTERM)  # nginx and what waits beside it
        process.wait(PATIENCE_SECONDS)


def test_the_front_hands_calls_on_and_logs_no_id(tmp_path: Path) -> None:
    (tmp_path / "idsync.toml").write_text(configuration())
    with serving(tmp_path / "idsync.toml") as endpoint, fronting(tmp_path / "front", endpoint.port) as front:
        assert front.get("/ibs:dpid=12345&dpuuid=a%26b").status == 200
        assert json.loads(run_idsync("lookup", "--config", tmp_path / "idsync.toml", "crm", "a&b").stdout)["devices"]
        assert front.get("/metrics").status == 404
        assert front.get_plainly(front.plain, "/ibs:dpid=12345&dpuuid=marked-4711").status == 403
        assert front.get("/ibs:dpid=12345&dpuuid=marked-4711").status == 200
    log = (tmp_path / "front" / "log").read_text()
    assert " 200 ibs " in log
    assert "marked-4711" not in log
    assert container("front")["command"] == ["sh", "/etc/idsync/front.sh"]


def test_a_call_whose_pod_dies_is_made_once_more(tmp_path: Path) -> None:
    """A Service hands the second connection to another pod."""
    listener = socket.create_server(("127.0.0.1", 0))
    came: list[bytes] = []

    def answer() -> None:
        for number in range(2):
            connection, _ = listener.accept()
            with connection:
                came.append(connection.recv(65_536))
                if number:
                    connection.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok")

    thread = threading.Thread(target=answer, daemon=True)
    thread.start()
    with closing(listener), fronting(tmp_path / "front", listener.getsockname()[1]) as front:
        assert front.get("/sync?dpid=12345&dpuuid=c1").body == b"ok"
    thread.join(PATIENCE_SECONDS)
    assert len(came) == 2
    assert came[0] == came[1]


def leaving(endpoint: Endpoint, seconds: int) -> int:
    assert container("idsync")["lifecycle"]["preStop"]["exec"]["command"] == ["python", "/etc/idsync/leave.py"]
    return subprocess.run(
        [sys.executable, FOLDER / "leave.py", str(seconds)],
        env={**os.environ, "IDSYNC_ADDRESS": f"http://127.0.0.1:{endpoint.port}"},
        timeout=PATIENCE_SECONDS,
        check=False,
    ).returncode


def test_a_pod_leaves_when_its_spool_is_empty(tmp_path: Path) -> None:
    with redis_server(tmp_path / "redis") as server:
        (tmp_path / "idsync.toml").write_text(configuration().replace("sqlite:///idsync.db", server.url))
        with serving(tmp_path / "idsync.toml") as endpoint:
            server.stop()
            assert endpoint.get("/sync?dpid=12345&dpuuid=c1").status == 200
            assert leaving(endpoint, 1) == 1
            back = threading.Timer(0.5, server.start)
            back.start()
            assert leaving(endpoint, 20) == 0
            back.join()
            assert mappings(server) == 1


def mappings(server: RedisServer) -> int:
    with server.client() as client:
        return sum(int(client.hlen(key)) for key in client.scan_iter("ids:12345:*"))


def test_a_pod_whose_store_is_away_stays_ready_for_calls(tmp_path: Path) -> None:
    """And says by /readyz that it is: on that its own path depends, the one that alerts watch."""
    (tmp_path / "idsync.toml").write_text(configuration().replace("sqlite:///idsync.db", "redis://127.0.0.1:1/0"))
    with serving(tmp_path / "idsync.toml") as endpoint:
        assert endpoint.get(container("idsync")["readinessProbe"]["httpGet"]["path"]).status == 200
        assert endpoint.get("/readyz").status == 503
        assert endpoint.get("/metrics").status == 200
        assert endpoint.get("/sync?dpid=12345&dpuuid=c1&d_rtbd=json").status == 200


def test_the_scripts_are_those_of_any_shell() -> None:
    for path in FOLDER.glob("*.sh"):
        subprocess.run(["sh", "-n", path], check=True)
        assert path.read_text().startswith("#!/bin/sh\n")


def test_the_move_from_one_redis_to_a_cluster_with_more_buckets(
    tmp_path: Path, shared_redis: RedisServer, shared_cluster: list[RedisServer]
) -> None:
    """Each store with the settings that it was made with."""
    for server in (shared_redis, *shared_cluster):
        with server.client() as client:
            client.flushall()
    cluster = f"redis+cluster://127.0.0.1:{shared_cluster[0].port}"
    paths = {}
    for name, url, buckets in (("old", shared_redis.url, 64), ("new", cluster, 256)):
        paths[name] = tmp_path / f"{name}.toml"
        store = f'"{url}"\nbuckets = {buckets}'
        paths[name].write_text(configuration().replace('"sqlite:///idsync.db"', store))
    with closing(open_store(Store(url=shared_redis.url, buckets=64))) as old:
        old.record([Sync(12345, f"c{number}", f"{number:038d}", "", milliseconds_now()) for number in range(100)])
    move = ("migrate", "--config", paths["new"], shared_redis.url, cluster)
    assert "was made with 64 buckets" in run_idsync(*move).stderr
    told = run_idsync(*move, "--from-config", paths["old"])
    assert told.returncode == 0, told.stderr
    assert json.loads(told.stdout)["data_sources"][0]["mappings"] == 100
