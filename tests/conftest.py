"""Servers that a whole run shares, and what holds for all tests: none is skipped, files of the job are valid."""

from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import settings
from xdist.remote import Producer  # type: ignore[import-untyped]
from xdist.scheduler import LoadScopeScheduling  # type: ignore[import-untyped]

from reconcile.check import job as checking
from reconcile.state import RunFolder
from tests.servers import RedisServer, redis_cluster, redis_server
from tests.spark.twins import EVERY_CASE

settings.register_profile("untimed", deadline=None)  # how long an example takes is the machine's affair
settings.load_profile("untimed")


@pytest.fixture(scope="session")
def shared_redis(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RedisServer]:
    with redis_server(tmp_path_factory.mktemp("redis")) as server:
        yield server


@pytest.fixture(scope="session")
def shared_cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[list[RedisServer]]:
    with redis_cluster(tmp_path_factory.mktemp("cluster")) as nodes:
        yield nodes


@pytest.fixture(autouse=True)
def valid_output(request: pytest.FixtureRequest) -> Iterator[None]:
    """The job's own files pass `check`, after every test that has made any."""
    yield
    folder = request.node.funcargs.get("tmp_path")
    manifests = Path(folder).rglob("runs/*/manifest.json") if folder else ()
    for path in manifests:
        found = checking.check(RunFolder(path.parent).frozen_files(), checking.Options(_LATE))
        assert found.valid, [(finding.rule, finding.message) for finding in found.findings]


_LATE = 4_000_000_000_000  # milliseconds; no test sets its clock later


_SPARK = "tests/spark/"
_SPARKS_OF_ITS_OWN = f"{_SPARK}test_submit.py"


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption(
        EVERY_CASE,
        action="store_true",
        help="run on Spark every case of every test that runs a feed, not just each test's first",
    )


class _Scheduling(LoadScopeScheduling):  # type: ignore[misc]
    """Where tests run side by side: those of a file stay together, and those that share the one Spark, which take the
    longest of all.
    """

    def _split_scope(self, nodeid: str) -> str:
        file = nodeid.partition("::")[0]
        return _SPARK if file.startswith(_SPARK) and file != _SPARKS_OF_ITS_OWN else file


def pytest_xdist_make_scheduler(config: pytest.Config, log: Producer) -> LoadScopeScheduling:
    config.option.loadscopereorder = False
    return _Scheduling(config, log)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """First what takes longest. No two may have one name: side by side only one of them would be run."""
    counts = Counter(item.nodeid for item in items)
    if repeated := [name for name, count in counts.items() if count > 1]:
        raise pytest.UsageError(f"several tests are called {', '.join(repeated)}")
    items.sort(key=lambda item: not item.nodeid.startswith(_SPARK))


def pytest_sessionfinish(session: pytest.Session) -> None:
    """A skipped test is one that was not run: a missing server must make the run fail."""
    reporter = session.config.pluginmanager.get_plugin("terminalreporter")
    if reporter is not None and reporter.stats.get("skipped"):
        session.exitstatus = pytest.ExitCode.TESTS_FAILED
