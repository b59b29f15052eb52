"""Three endpoints behind nginx on a Redis Cluster of six nodes, two of which die: the account is exact all the same.

Redis replicates behind its answers, so a primary that dies takes along what no replica has received. Here that is made
certain, not likely: the replica of the primary that will die is cut off first. Without `store.replicas` the calls of
that time are answered as stored, and lost.
"""

import http.client
import json
import re
import subprocess
from collections.abc import Iterator
from contextlib import ExitStack, closing, contextmanager
from itertools import count
from pathlib import Path

from idsync import config
from idsync.service import milliseconds_now, open_spool
from idsync.store import open_store
from tests.deploy.test_nginx import CONF, FRAME, PATIENCE_SECONDS, listens, user
from tests.endpoint import Endpoint, run_idsync
from tests.idsync.samples import configuration
from tests.load import DPID, Tally, cookie_calls, load
from tests.servers import RedisServer, free_port, redis_cluster, settled, wait_until

HOSTS = 3
MORE_CALLS = 200
AT_ONCE = ("--repl-diskless-sync-delay", "0")
REGULARS = [f"regular-{number}" for number in range(5)]
# plain HTTP, since TLS is another test's; as many calls a second as there are; and the other hosts
CHANGES = {
    r"listen 443 ssl http2 default_server;": "listen 127.0.0.1:{port} default_server;",
    r"\n *ssl_[^;]*;": "",
    r"listen 80 default_server;": "listen 127.0.0.1:{plain} default_server;",
    r"listen 127.0.0.1:8081;": "listen 127.0.0.1:{operators};",
    r"\n *listen \[::\]:[^;]*;": "",
    r"/var/log/nginx/": "{folder}/",
    r"rate=50r/s;": "rate=100000r/s;",
    r"server 127.0.0.1:8000;": "{hosts}",
}


class Host:
    """An endpoint with a spool of its own, on a port that it keeps over restarts."""

    def __init__(self, folder: Path, store: RedisServer) -> None:
        folder.mkdir()
        self.config = folder / "idsync.toml"
        # each learns the cluster from another node
        url = f'"redis+cluster://127.0.0.1:{store.port}"\nreplicas = 1\nbuckets = 64'
        self.config.write_text(configuration().replace('"sqlite:///idsync.db"', url))
        self.port = free_port()
        self.start()

    def start(self) -> None:
        self.endpoint = Endpoint(self.config, ("--bind", f"127.0.0.1:{self.port}", "--workers", "1"))

    def close(self) -> None:
        if self.endpoint.process.poll() is None:
            self.endpoint.kill()

    def waiting(self) -> int:
        """Mappings in the spool, by its file."""
        with closing(open_spool(config.load(self.config))) as spool:
            return spool.waiting(milliseconds_now()).mappings

    def is_settled(self) -> bool:
        told = json.loads(self.endpoint.get("/readyz").body)
        return bool(told["ready"] and not told["spool"]["mappings"])


@contextmanager
def balancing(folder: Path, hosts: list[Host]) -> Iterator[int]:
    """The port of an nginx with deploy's configuration, which shares the calls out among the hosts."""
    folder.mkdir()
    port, text = free_port(), CONF.read_text()
    servers = " ".join(f"server 127.0.0.1:{host.port};" for host in hosts)
    for pattern, other in CHANGES.items():
        ports = {"port": port, "plain": free_port(), "operators": free_port()}
        text, changed = re.subn(pattern, other.format(folder=folder, hosts=servers, **ports), text)
        assert changed, pattern
    (folder / "idsync.conf").write_text(text)
    (folder / "nginx.conf").write_text(FRAME.format(folder=folder, user=user()))
    command = ["nginx", "-c", str(folder / "nginx.conf"), "-e", str(folder / "start.log")]
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        wait_until(lambda: listens(port), "nginx' start")
        yield port
    finally:
        process.terminate()
        process.wait(PATIENCE_SECONDS)


def sync_regulars(port: int, device: int) -> None:
    """Customers who come back, each time with another device."""
    with closing(http.client.HTTPConnection("127.0.0.1", port, timeout=PATIENCE_SECONDS)) as connection:
        for customer in REGULARS:
            target = f"/sync?dpid={DPID}&dpuuid={customer}&d_uuid={device:038d}&d_rtbd=json"
            connection.request("GET", target, headers={"Host": "sync.example.com"})
            assert json.loads(connection.getresponse().read())["stored"] == 1


def replica_of(nodes: list[RedisServer], primary: RedisServer) -> RedisServer:
    return next(node for node in nodes if node.replication().get("master_port") == primary.port)


def account(host: Host, tally: Tally) -> None:
    """Each call that was answered as stored is in the cluster, once, and no other."""
    with closing(open_store(config.load(host.config).store)) as store:
        found = [row for batch in store.export(DPID, milliseconds_now()) for row in batch.to_pylist()]
    pairs = [(row["customer_id"], row["uuid"]) for row in found]
    wanted = {*tally.stored.items(), *((name, f"{device:038d}") for name in REGULARS for device in (1, 2, 3))}
    assert len(pairs) == len(set(pairs)), "a mapping twice"
    assert not (lost := wanted - set(pairs)), f"{len(lost)} of {len(wanted)} were lost"
    assert not (more := set(pairs) - wanted), f"{len(more)} found that no call was answered for"


def test_hosts_and_primaries_may_die_and_no_answered_call_is_lost(tmp_path: Path) -> None:
    with ExitStack() as stack:
        nodes = stack.enter_context(redis_cluster(tmp_path / "redis", replicas=1, extra=AT_ONCE))
        hosts = []
        for number in range(HOSTS):
            hosts.append(Host(tmp_path / str(number), nodes[number]))
            stack.callback(hosts[-1].close)
        port = stack.enter_context(balancing(tmp_path / "nginx", hosts))
        primary = nodes[0]
        replica = replica_of(nodes, primary)
        key = next(f"k{number}" for number in count() if primary.serves(f"k{number}"))

        running = stack.enter_context(load(port, cookie_calls("cluster")))
        sync_regulars(port, 1)
        running.wait_for(MORE_CALLS, "stored")

        # Cut off, so that the primary alone has what comes now.
        replica.freeze()
        with primary.client() as client:
            client.execute_command("CLIENT KILL TYPE replica")
        sync_regulars(port, 2)
        running.wait_for(MORE_CALLS, "stored")
        hosts[0].endpoint.kill()
        left_behind = hosts[0].waiting()
        primary.kill()
        running.wait_for(MORE_CALLS, "stored")
        replica.thaw()
        wait_until(lambda: replica.serves(key), "the failover")
        running.wait_for(MORE_CALLS, "stored")
        sync_regulars(port, 3)

        primary.start()
        hosts[0].start()
        running.wait_for(MORE_CALLS, "stored")
        tally = running.finish()

        wait_until(lambda: settled(nodes, 3, 1), "the return of the killed node", 40)
        wait_until(lambda: all(host.is_settled() for host in hosts), "emptying the spools", 40)
        assert not tally.refused
        assert not tally.unanswered
        assert not tally.failed
        assert not any(host.waiting() for host in hosts)
        account(hosts[1], tally)
        assert left_behind, "the host that was killed had nothing in its spool"
        told = json.loads(run_idsync("lookup", "--config", hosts[2].config, "crm", REGULARS[0]).stdout)
        assert [int(device["uuid"]) for device in told["devices"]] == [3, 2, 1]
        calls = [host.endpoint.get("/metrics").body.decode() for host in hosts]
        assert all(re.search(r'idsync_calls_total\{.*outcome="stored"\} [1-9]', text) for text in calls[1:])
        opted_out = f"dpid={DPID}&dpuuid={REGULARS[1]}"
        assert hosts[0].endpoint.get(f"/demoptout.jpg?{opted_out}").status == 200
        assert all(host.endpoint.get(f"/sync?{opted_out}").header("x-error") == "171" for host in hosts)
        assert replica.replication()["role"] == "master"
        assert primary.replication()["role"] == "slave"
