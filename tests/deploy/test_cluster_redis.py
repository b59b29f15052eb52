"""deploy/cluster's scripts for Redis: six real nodes, each on an address of its own, as pods are."""

import os
import re
import signal
import subprocess
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, closing, suppress
from dataclasses import dataclass, field
from pathlib import Path

import pytest
import redis
from redis.backoff import NoBackoff
from redis.retry import Retry

from idsync.service import milliseconds_now
from idsync.settings import Store
from idsync.store import open_store
from idsync.store.base import MappingStore, Sync
from tests.endpoint import PATIENCE_SECONDS
from tests.servers import free_port, wait_until

ROOT = Path(__file__).parents[2]
FOLDER = ROOT / "deploy" / "cluster"
CONF = (FOLDER / "redis-cluster.conf").read_text()
PASSWORD, OTHER = "not-for-everybody", "another-for-nobody-else"
DPID = 12345
PRIMARIES = 3
NODE_TIMEOUT = ("cluster-node-timeout 5000", "cluster-node-timeout 1000")  # a test's patience


@dataclass
class Node:
    """redis-node.sh in a folder of its own. A process group, which ends as a container does: all of it at once."""

    folder: Path
    address: str
    environment: dict[str, str]
    _process: "subprocess.Popen[bytes] | None" = field(default=None)

    def start(self) -> None:
        (self.folder / "data").mkdir(parents=True, exist_ok=True)
        given = {"ADDRESS": self.address, "BIND": self.address, "DATA": str(self.folder / "data")}
        with (self.folder / "log").open("ab") as log:
            self._process = subprocess.Popen(
                ["sh", FOLDER / "redis-node.sh"],
                env={**os.environ, **self.environment, **given},
                stdout=log,
                stderr=log,
                start_new_session=True,
            )

    def kill(self) -> None:
        """kill -9"""
        if self._process is not None:
            with suppress(ProcessLookupError):
                os.killpg(self._process.pid, signal.SIGKILL)
            self._process.wait(PATIENCE_SECONDS)
            self._process = None

    @property
    def port(self) -> int:
        return int(self.environment["PORT"])

    def command_line(self) -> bytes:
        assert self._process is not None
        return Path(f"/proc/{self._process.pid}/cmdline").read_bytes()

    def client(self, password: str | None = "") -> "redis.Redis":
        """With the node's own password, or another or none."""
        own = Path(self.environment["PASSWORD_FILE"]).read_text().strip()
        given = own if password == "" else password
        return redis.Redis(self.address, self.port, password=given, retry=Retry(NoBackoff(), 0))

    def told(self, section: str) -> dict[str, object]:
        with self.client() as client:
            try:
                return dict(client.cluster("INFO") if section == "cluster" else client.info(section))
            except redis.exceptions.ConnectionError:
                return {}


def settled(nodes: Sequence[Node]) -> bool:
    """Whether all see the cluster as whole, and each primary has its replica in step."""
    told = [node.told("replication") for node in nodes]
    return (
        all(node.told("cluster").get("cluster_state") == "ok" for node in nodes)
        and [each.get("connected_slaves") for each in told if each.get("role") == "master"] == [1] * PRIMARIES
        and [each.get("master_link_status") for each in told if each.get("role") == "slave"] == ["up"] * PRIMARIES
    )


def create(nodes: Sequence[Node]) -> "subprocess.CompletedProcess[str]":
    return subprocess.run(
        ["sh", FOLDER / "redis-create.sh"],
        env={**os.environ, **nodes[0].environment, "NODES": str(2 * PRIMARIES)},
        capture_output=True,
        text=True,
        timeout=PATIENCE_SECONDS,
        check=False,
    )


@pytest.fixture(scope="module")
def nodes(tmp_path_factory: pytest.TempPathFactory) -> Iterator[list[Node]]:
    """Not a cluster yet."""
    folder = tmp_path_factory.mktemp("cluster")
    (folder / "password").write_text(PASSWORD + "\n")
    conf = CONF.replace("include /etc/redis/redis.conf", f"include {ROOT}/deploy/redis.conf").replace(*NODE_TIMEOUT)
    assert str(ROOT) in conf
    assert NODE_TIMEOUT[1] in conf
    (folder / "redis-cluster.conf").write_text(conf)
    addresses = [f"127.0.7.{number}" for number in range(1, 2 * PRIMARIES + 1)]
    environment = {
        "PASSWORD_FILE": str(folder / "password"),
        "CONF": str(folder / "redis-cluster.conf"),
        "PORT": str(free_port()),
        "PEERS": " ".join(addresses),
        "MAXMEMORY": "100mb",
        "MEET_SECONDS": "1",
    }
    with ExitStack() as stack:
        made = [Node(folder / address, address, dict(environment)) for address in addresses]
        for node in made:
            stack.callback(node.kill)
            node.start()
        wait_until(lambda: all(node.told("server") for node in made), "the nodes' start")
        yield made


@pytest.fixture(scope="module")
def cluster(nodes: list[Node]) -> list[Node]:
    made = create(nodes)
    assert made.returncode == 0, made.stdout + made.stderr
    wait_until(lambda: settled(nodes), "the cluster's agreement", 40)
    return nodes


def opened(nodes: Sequence[Node]) -> MappingStore:
    node = nodes[0]
    url = f"redis+cluster://{node.address}:{node.port}"
    return open_store(Store(url=url, password_file=Path(node.environment["PASSWORD_FILE"]), buckets=64, replicas=1))


def customers(store: MappingStore) -> set[str]:
    return {name for batch in store.export(DPID, milliseconds_now()) for name in batch.column(0).to_pylist()}


def record(store: MappingStore, prefix: str) -> set[str]:
    made = [Sync(DPID, f"{prefix}-{number}", f"{number:038d}", "", milliseconds_now()) for number in range(300)]
    store.record(made)
    return {each.customer_id for each in made}


# --- in this order, on one cluster -----------------------------------------------------------------------------------


def test_it_is_not_made_before_all_nodes_are_there(nodes: list[Node]) -> None:
    told = subprocess.run(
        ["sh", FOLDER / "redis-create.sh"],
        env={**os.environ, **nodes[0].environment, "NODES": "7"},
        capture_output=True,
        text=True,
        timeout=PATIENCE_SECONDS,
        check=False,
    )
    assert told.returncode == 75
    assert "6 of 7 nodes answer" in told.stderr


def test_it_is_made_once_and_takes_what_the_endpoint_demands(cluster: list[Node]) -> None:
    again = create(cluster)
    assert (again.returncode, again.stderr) == (0, "redis-create.sh: the cluster is there\n")
    with closing(opened(cluster)) as store:
        store.check()  # appendonly, noeviction, and a replica that acknowledges, on every primary
        assert record(store, "first") <= customers(store)
    for node in cluster:
        assert PASSWORD.encode() not in node.command_line()
        with node.client() as client:
            assert client.config_get("slowlog-log-slower-than") == {"slowlog-log-slower-than": "-1"}
            assert client.config_get("maxmemory") == {"maxmemory": str(100 << 20)}
        with node.client(password=None) as stranger, pytest.raises(redis.exceptions.AuthenticationError):
            stranger.ping()


def test_a_primary_that_was_killed_does_not_come_back_before_its_replica_has_taken_over(cluster: list[Node]) -> None:
    """Its log lacks the end, as when it dies while the disk is busy. Its replica has all; back at once as the primary,
    it would have the replica copy the gap.
    """
    with closing(opened(cluster)) as store:
        before = customers(store)
        primary = next(node for node in cluster if node.told("replication")["role"] == "master")
        log = next((primary.folder / "data" / "appendonlydir").glob("*.incr.aof"))
        whole = log.stat().st_size
        wanted = before | record(store, "second")
        primary.kill()
        os.truncate(log, whole)
        primary.start()
        wait_until(lambda: settled(cluster), "the return of the killed node", 40)
        assert not (lost := wanted - customers(store)), f"{len(lost)} of {len(wanted)} were lost"
        assert primary.told("replication")["role"] == "slave"


def test_nodes_that_all_come_back_elsewhere_find_each_other(cluster: list[Node]) -> None:
    with closing(opened(cluster)) as store:
        wanted = customers(store) | record(store, "third")
    for node in cluster:
        node.kill()
    peers = [node.address.replace("127.0.7.", "127.0.8.") for node in cluster]
    for node, address in zip(cluster, peers, strict=True):
        node.address = address
        node.environment |= {"PEERS": " ".join(peers), "RETURN_SECONDS": "2"}  # nobody takes over
        node.start()
    wait_until(lambda: settled(cluster), "the cluster's agreement", 60)
    with closing(opened(cluster)) as store:
        assert customers(store) == wanted


def test_another_password_is_brought_in_node_by_node(cluster: list[Node], tmp_path: Path) -> None:
    """By the command that README.md gives; the node that was restarted knows the new one alone."""
    [script] = re.findall(r"sh -c '([^']+)' < secrets/redis-password", (FOLDER / "README.md").read_text())
    for node in cluster:
        here = script.replace("redis-cli ", f"redis-cli -h {node.address} -p {node.port} ")
        subprocess.run(
            ["sh", "-c", here],
            input=f"{OTHER}\n",
            env={**os.environ, **node.environment},
            text=True,
            check=True,
            capture_output=True,
            timeout=PATIENCE_SECONDS,
        )
    restarted = next(node for node in cluster if node.told("replication")["role"] == "slave")
    restarted.kill()
    (tmp_path / "password").write_text(f"{OTHER}\n")
    restarted.environment["PASSWORD_FILE"] = str(tmp_path / "password")
    restarted.start()
    wait_until(lambda: bool(restarted.told("server")), "the node's start", 40)
    wait_until(lambda: settled(cluster), "the cluster's agreement", 40)
    with restarted.client(PASSWORD) as old, pytest.raises(redis.exceptions.AuthenticationError):
        old.ping()
