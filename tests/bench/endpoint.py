"""Sync calls a second and their p99, beside a plain Flask app and beside gunicorn's own ceiling, in one session.

    python -m tests.bench.endpoint [--seconds 10] [--rounds 2] [--only redis plain …] [--folder DIR]

Needs wrk, taskset's system calls (Linux) and two cores. One server worker has core 0 for itself; wrk and redis-server
share core 1. 32 kept connections; each call names a customer that no other call names and carries a cookie with a UUID,
as most calls of a website do; all from one seed. Three seconds of warm-up, then `--seconds`. The contenders take turns,
`--rounds` times; the best run of each counts. Redis runs with deploy/redis.conf (appendonly, everysec).

After each run of ours `python -m idsync stats` must show as many mappings as calls were answered as stored. wrk drops
the calls that are under way when its time is up, at most one a connection, and these may or may not have been stored:
answered <= mappings <= asked, where "asked" is counted by wrk's own script, and the two differ by at most 33 a run of
wrk (32 connections, and one call that wrk makes up beforehand to look at).

At 70 % of the highest rate that the same server reached in this session, calls come from `tests.load.paced`: at random
times, each timed from when it was due. wrk calls again only when it was answered, so that a slow moment would hide the
very calls that it delays. The column "late" says how much of the p99 is for want of a free connection or of the client.

Four workers against one: no core is left for wrk and Redis then, so all share both cores, in both runs, and where one
worker with its load already fills the machine, four can't be faster. What they would do with two cores of their own is
reckoned from the processor time that the workers took for a call: 2 x (one's) / (four's).
"""

import argparse
import json
import os
import shutil
import subprocess
import sys
import tempfile
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from typing import NamedTuple

from tests import load
from tests.crash import workers as workers_of
from tests.endpoint import Connection, Endpoint, run_idsync
from tests.servers import free_port, redis_server, wait_until

SEED = 7
CONNECTIONS = 32
WARM_UP_SECONDS = 3
SHARE_OF_HIGHEST = 0.7
SERVER_CORE, LOAD_CORE = 0, 1
ROOT = Path(__file__).parent.parent.parent

CONTENDERS = ("plain", "constant", "constant on uvloop", "redis", "mixed", "sqlite", "p99", "workers")
# what, its name, whom it is measured against, target
ROWS = (
    ("peer: plain Flask, redis-py, gthread with 8 threads", "plain", "", ""),
    ("peer: a constant from gunicorn's ASGI worker", "constant", "", ""),
    ("peer: the same on uvloop, as ours is", "constant on uvloop", "", ""),
    ("ours, Redis, against the plain app", "redis", "plain", ">= 5"),
    ("ours, Redis, against the constant", "redis", "constant", ">= 0.6"),
    ("ours, Redis, against the constant on uvloop", "redis", "constant on uvloop", ""),
    ("ours, SQLite, against the plain app", "sqlite", "plain", ">= 5"),
    ("ours, Redis, 1 in 5 calls odd, against all clean", "mixed", "redis", ">= 0.9"),
    ("ours, Redis, one worker, nothing pinned", "1 workers", "", ""),
    ("ours, Redis, four workers, nothing pinned, against one", "4 workers", "1 workers", ">= 1.6"),
)

CONFIG = """
[store]
url = "{url}"
[endpoint]
redirect_hosts = ["dpm.demdex.net"]
[privacy]
gdpr_default = "does-not-apply"
[[data_sources]]
name = "crm"
dpid = 12345
"""

# arguments: seed, name of the run, "mixed" or "clean". In a mixed run every fifth call is one of five odd ones in turn;
# only the first of these is stored.
CALLS = """
asked, storable = 0, 0
local thread
local fixed = " HTTP/1.1\\r\\nHost: sync.example.com\\r\\nAccept: image/avif,image/webp,*/*\\r\\n" ..
  "User-Agent: Mozilla/5.0 (X11; Linux x86_64; rv:128.0) Gecko/20100101 Firefox/128.0\\r\\n" ..
  "Referer: https://www.example.com/\\r\\nCookie: __Host-idsync="
local odd = {
  "/ibs:dpid=12345&us_privacy=1YNN&dpuuid=",
  "/ibs:dpid=12345&gdpr=1&gdpr_consent=CPXxRfAPXxRfAAfKABENB-CgAAAAAAAAAAYgAAAAAAAA&dpuuid=",
  "/ibs:dpid=54321&dpuuid=",
  "/ibs:dpid=12345&dpuuid=a:b",
  "/ibs:dpid=12345&redir=https%3A%2F%2Felsewhere.example%2F&dpuuid=",
}
function setup(made) thread = made end
function init(arguments)
  math.randomseed(tonumber(arguments[1]))
  run, mixed = arguments[2], arguments[3] == "mixed"
end
function request()
  asked = asked + 1
  local target, kind = "/ibs:dpid=12345&dpuuid=", 1
  if mixed and asked % 5 == 0 then
    kind = asked / 5 % #odd + 1
    target = odd[kind]
  end
  if kind == 1 then storable = storable + 1 end
  local uuid = string.format("%013.0f%013.0f%012.0f",
    math.random(0, 9999999999999), math.random(0, 9999999999999), math.random(0, 999999999999))
  return "GET " .. target .. run .. string.format("%012.0f", asked) .. fixed .. uuid .. "\\r\\n\\r\\n"
end
function done(summary, latency)
  local errors = summary.errors
  io.write(string.format('\\n{"asked": %d, "storable": %d, "answered": %d, "seconds": %f, "p99": %f, "refused": %d, "broken": %d, "stalled": %d}\\n',
    thread:get("asked"), thread:get("storable"), summary.requests, summary.duration / 1e6, latency:percentile(99) / 1e6,
    errors.status, errors.connect + errors.read + errors.write, errors.timeout))
end
"""  # noqa: E501


class Run(NamedTuple):
    """What wrk saw. `storable`: those asked that are to be stored; `refused`: those answered neither 2xx nor 3xx.

    `spent`: processor seconds of our workers for a call.
    """

    asked: int
    storable: int
    answered: int
    refused: int
    rate: float
    p99: float
    spent: float = 0.0


class Server(NamedTuple):
    """A server that runs. Of ours: `mappings` counts what the store holds, `spent` the workers' processor seconds."""

    port: int
    mappings: Callable[[], int] | None = None
    spent: Callable[[], float] = lambda: 0.0


def wrk(port: int, script: Path, name: str, seconds: int, kind: str) -> Run:
    # 1 thread: its script counts, and the customers of two would have to be kept apart
    command: list[str | Path] = [
        "wrk",
        "-t1",
        f"-c{CONNECTIONS}",
        f"-d{seconds}",
        "-s",
        script,
        f"http://127.0.0.1:{port}",
        "--",
    ]
    done = subprocess.run([*command, str(SEED), name, kind], capture_output=True, text=True, check=True, timeout=600)
    told = json.loads(done.stdout.splitlines()[-1])
    if told["broken"]:
        sys.exit(f"wrk met {told['broken']} broken connections:\n{done.stdout}")
    if told["stalled"]:
        print(
            f"{told['stalled']} calls waited for more than 2 seconds, so the disk stalled: measure again",
            file=sys.stderr,
        )
    rate = told["answered"] / told["seconds"]
    return Run(told["asked"], told["storable"], told["answered"], told["refused"], rate, told["p99"])


@contextmanager
def on_cores(*cores: int) -> Iterator[None]:
    """For this process and all that it starts meanwhile."""
    before = os.sched_getaffinity(0)
    os.sched_setaffinity(0, cores)
    try:
        yield
    finally:
        os.sched_setaffinity(0, before)


class Bench:
    def __init__(self, folder: Path, seconds: int) -> None:
        self._folder, self._seconds = folder, seconds
        self._script = folder / "calls.lua"
        self._script.write_text(CALLS)
        self._runs = 0

    # --- servers ---------------------------------------------------------------------------------------------------

    @contextmanager
    def ours(self, store: str, workers: int, cores: Sequence[int]) -> Iterator[Server]:
        folder = self._fresh()
        config = folder / "idsync.toml"
        with self._store(store, folder) as url:
            config.write_text(CONFIG.format(url=url))
            with on_cores(*cores):
                endpoint = Endpoint(config, ("--workers", str(workers)))
            try:
                yield Server(endpoint.port, lambda: mappings_of(config), lambda: spent_by(workers_of(endpoint)))
            finally:
                status, output = endpoint.stop()
        if status or "ERROR" in output:
            sys.exit(f"ours ended with {status}:\n{output}")

    @contextmanager
    def plain(self) -> Iterator[Server]:
        with self._store("redis", self._fresh()) as url:
            options = ("-k", "gthread", "--threads", "8")
            with self._peer("tests.bench.peers.plain:app", *options, REDIS_URL=url) as port:
                yield Server(port)

    @contextmanager
    def constant(self, loop: str) -> Iterator[Server]:
        options = ("-k", "asgi", "--http-parser", "fast", "--limit-request-line", "8190", "--keep-alive", "65")
        with self._peer("tests.bench.peers.constant:app", *options, "--asgi-loop", loop) as port:
            yield Server(port)

    @contextmanager
    def _store(self, kind: str, folder: Path) -> Iterator[str]:
        if kind == "sqlite":
            yield "sqlite:///idsync.db"
        else:
            with redis_server(folder / "redis") as server:
                yield server.url

    @contextmanager
    def _peer(self, app: str, *options: str, **environment: str) -> Iterator[int]:
        port = free_port()
        command = [sys.executable, "-m", "gunicorn", "-w", "1", "-b", f"127.0.0.1:{port}", "--no-control-socket"]
        with (self._fresh() / "log").open("wb") as log, on_cores(SERVER_CORE):
            process = subprocess.Popen(
                [*command, *options, app], cwd=ROOT, env={**os.environ, **environment}, stdout=log, stderr=log
            )
        try:
            wait_until(lambda: answers(port), f"the start of {app}")
            yield port
        finally:
            process.terminate()
            process.wait(60)

    def _fresh(self) -> Path:
        self._runs += 1
        folder = self._folder / str(self._runs)
        folder.mkdir()
        return folder

    # --- measures --------------------------------------------------------------------------------------------------

    def highest(self, server: Server, kind: str = "clean") -> Run:
        warm = wrk(server.port, self._script, "warm", WARM_UP_SECONDS, kind)
        before = server.spent()
        run = wrk(server.port, self._script, "run", self._seconds, kind)
        run = run._replace(spent=(server.spent() - before) / run.answered)
        odd = run.asked - run.storable if server.mappings is not None else 0
        # consent denied is answered 200, the other three odd calls of five are not
        if kind == "clean" and run.refused:
            sys.exit(f"{run.refused} of {run.answered} calls were refused")
        if kind == "mixed" and not odd * 3 // 4 - CONNECTIONS - 5 <= run.refused <= odd * 3 // 4 + 5:
            sys.exit(f"{run.refused} calls were refused, of {odd} that carry something odd")
        if server.mappings is not None:
            check(server.mappings(), warm, run)
        return run

    def paced(self, server: Server, highest: float) -> load.Paced:
        told = load.paced(server.port, highest * SHARE_OF_HIGHEST, self._seconds, load.cookie_calls("paced"), SEED)
        tally = told.tally
        if len(tally.stored) != tally.answered or tally.unanswered:
            sys.exit(f"paced calls that were not stored: {tally.failed}, {len(tally.unanswered)} unanswered")
        if server.mappings is not None and (found := server.mappings()) != len(tally.stored):
            sys.exit(f"{len(tally.stored)} calls were answered as stored, {found} mappings found")
        return told


def mappings_of(config: Path) -> int:
    done = run_idsync("stats", "--config", config)
    told = json.loads(done.stdout)
    if told["spool"]["mappings"]:
        sys.exit(f"{told['spool']['mappings']} mappings are in the spool: the store was away")
    return int(told["mappings"])


def check(found: int, *runs: Run) -> None:
    """Exact but for the calls that wrk dropped when its time was up."""
    asked = sum(run.storable for run in runs)
    dropped = sum(run.asked - run.answered for run in runs)
    if dropped > len(runs) * (CONNECTIONS + 1) or not asked - dropped <= found <= asked:
        sys.exit(f"{asked} calls were to be stored, {dropped} of all not answered, but {found} mappings found")
    print(f"{asked:,} calls to be stored, {dropped} of all dropped by wrk, {found:,} mappings found", file=sys.stderr)


def spent_by(pids: set[int]) -> float:
    """Processor seconds of these processes since their start."""
    fields = [Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split() for pid in pids]
    return sum(int(user) + int(system) for user, system in (each[11:13] for each in fields)) / os.sysconf("SC_CLK_TCK")


def answers(port: int) -> bool:
    try:
        with Connection(port):
            return True
    except OSError:
        return False


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seconds", type=int, default=10)
    parser.add_argument("--rounds", type=int, default=2)
    parser.add_argument("--only", nargs="+", choices=CONTENDERS, default=CONTENDERS)
    parser.add_argument("--folder", type=Path, help="where the stores' files go; default: a temporary folder")
    options = parser.parse_args()
    if shutil.which("wrk") is None:
        sys.exit("tests.bench.endpoint: wrk is missing: apt-get install wrk")
    if not {SERVER_CORE, LOAD_CORE} <= os.sched_getaffinity(0):
        sys.exit(f"tests.bench.endpoint: needs cores {SERVER_CORE} and {LOAD_CORE}")
    chosen = set(options.only)
    if "p99" in chosen:
        chosen |= {"redis", "plain"}
    with tempfile.TemporaryDirectory(prefix="bench-", dir=options.folder) as name, on_cores(LOAD_CORE):
        measure(Bench(Path(name), options.seconds), options.rounds, chosen)


def measure(bench: Bench, rounds: int, chosen: set[str]) -> None:
    one = (SERVER_CORE,)
    both = (SERVER_CORE, LOAD_CORE)
    pinned: dict[str, tuple[Callable[[], AbstractContextManager[Server]], str]] = {
        "plain": (bench.plain, "clean"),
        "constant": (lambda: bench.constant("asyncio"), "clean"),
        "constant on uvloop": (lambda: bench.constant("uvloop"), "clean"),
        "redis": (lambda: bench.ours("redis", 1, one), "clean"),
        "mixed": (lambda: bench.ours("redis", 1, one), "mixed"),
        "sqlite": (lambda: bench.ours("sqlite", 1, one), "clean"),
    }
    runs: defaultdict[str, list[Run]] = defaultdict(list)
    slow: dict[str, load.Paced] = {}
    for _ in range(rounds):
        for name, (serve, kind) in pinned.items():
            if name in chosen:
                with serve() as server:
                    runs[name].append(bench.highest(server, kind))
        if "workers" in chosen:
            for workers in (1, 4):
                with on_cores(*both), bench.ours("redis", workers, both) as server:
                    runs[f"{workers} workers"].append(bench.highest(server))
    best = {name: max(each, key=lambda run: run.rate) for name, each in runs.items()}
    if "p99" in chosen:
        for name in ("plain", "redis") * rounds:
            with pinned[name][0]() as server:
                told = bench.paced(server, best[name].rate)
            slow[name] = min(slow.get(name, told), told, key=lambda paced: paced.p99)
    tell(best, slow)


def tell(best: Mapping[str, Run], slow: Mapping[str, load.Paced]) -> None:
    print("| what | calls/s | p99 | ratio | target |\n|---|---|---|---|---|")
    for what, name, peer, target in ROWS:
        if name in best:
            ratio = f"{best[name].rate / best[peer].rate:.2f}" if peer in best else ""
            print(f"| {what} | {best[name].rate:,.0f} | {best[name].p99 * 1000:.1f} ms | {ratio} | {target} |")
    if "4 workers" in best:
        one, four = (best[f"{workers} workers"].spent for workers in (1, 4))
        print(
            f"| ours, four workers with two cores of their own, reckoned | {2 / four:,.0f} | | {2 * one / four:.2f} | |"
        )
    if slow:
        print("\n| at 70 % of the highest load | calls/s | p50 | p99 | late | p99 ratio | target |")
        print("|---|---|---|---|---|---|---|")
        for what, name in (("plain Flask, redis-py, gthread", "plain"), ("ours, Redis", "redis")):
            told = slow[name]
            ratio = f"{told.p99 / slow['plain'].p99:.2f} | <= 0.33" if name == "redis" else " | "
            figures = " | ".join(f"{seconds * 1000:.1f} ms" for seconds in (told.p50, told.p99, told.late))
            print(f"| {what} | {told.rate:,.0f} | {figures} | {ratio} |")


if __name__ == "__main__":
    main()
