"""One Spark for all tests: a master and two workers, each with an executor, on hosts of their own as far as Spark can
tell: it does a task twice only on two hosts.
"""

import os
import subprocess
import sys
import warnings
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import pyspark
import pytest
from pyspark.sql import SparkSession

from tests.servers import free_port
from tests.spark.twins import Twins, TwinsOf

HOME = Path(pyspark.__file__).parent
WORKERS = ("127.0.0.2", "127.0.0.3")
QUICK_TO_START = "-XX:TieredStopAtLevel=1 -XX:+UseSerialGC"  # what Java translates thoroughly pays later than we end
KEY_OF_EXECUTORS = "key-that-only-executors-have"


@contextmanager
def daemon(folder: Path, host: str, kind: str, *arguments: str) -> Iterator[None]:
    """A part of a standalone cluster, until the end."""
    command = [str(HOME / "bin" / "spark-class"), f"org.apache.spark.deploy.{kind}"]
    environ = os.environ | {
        "SPARK_LOCAL_IP": host,
        "SPARK_DAEMON_MEMORY": "256m",
        "SPARK_DAEMON_JAVA_OPTS": QUICK_TO_START,
    }
    with (folder / f"{host}.log").open("wb") as log:
        process = subprocess.Popen(
            [*command, "--host", host, "--webui-port", "0", *arguments], env=environ, stdout=log, stderr=log
        )
        try:
            yield
        finally:
            process.terminate()
            process.wait()


@pytest.fixture(scope="session")
def spark(tmp_path_factory: pytest.TempPathFactory) -> Iterator[SparkSession]:
    folder = tmp_path_factory.mktemp("spark")
    os.environ["SPARK_HOME"] = str(HOME)
    os.environ["SPARK_LOCAL_IP"] = "127.0.0.1"
    os.environ["PYSPARK_PYTHON"] = sys.executable
    port = str(free_port())
    master = f"spark://127.0.0.1:{port}"
    settings = {
        "spark.driver.host": "127.0.0.1",
        "spark.driver.bindAddress": "127.0.0.1",
        "spark.driver.memory": "512m",
        "spark.executor.memory": "512m",
        "spark.driver.extraJavaOptions": QUICK_TO_START,
        "spark.executor.extraJavaOptions": QUICK_TO_START,
        "spark.scheduler.minRegisteredResourcesRatio": "1",
        "spark.ui.enabled": "false",
        "spark.locality.wait": "0",  # nothing is far away
        "spark.local.dir": str(folder / "local"),
        "spark.sql.warehouse.dir": str(folder / "warehouse"),
        "spark.ui.showConsoleProgress": "false",
        "spark.shuffle.sort.bypassMergeThreshold": "1",
        "spark.shuffle.io.retryWait": "500ms",  # before an executor that died is given up
        # a task that takes five times as long as the others, and two seconds, is done once more beside; one that is
        # alone after three
        "spark.speculation": "true",
        "spark.speculation.interval": "100ms",
        "spark.speculation.quantile": "0.5",
        "spark.speculation.multiplier": "5",
        "spark.speculation.minTaskRuntime": "2s",
        "spark.speculation.task.duration.threshold": "3s",
        "spark.executorEnv.AWS_ACCESS_KEY_ID": KEY_OF_EXECUTORS,
        "spark.executorEnv.AWS_SECRET_ACCESS_KEY": "secret",
    }
    builder = SparkSession.builder.master(master).appName("tests")
    for name, value in settings.items():
        builder = builder.config(name, value)
    with ExitStack() as stack:
        stack.enter_context(daemon(folder, "127.0.0.1", "master.Master", "--port", port))
        resources = ("--cores", "1", "--memory", "512M", "--work-dir", str(folder / "work"))
        for host in WORKERS:
            stack.enter_context(daemon(folder, host, "worker.Worker", *resources, master))
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            session = builder.getOrCreate()
        session.sparkContext.setLogLevel("ERROR")
        yield session
        session.stop()


def pytest_pycollect_makeitem(collector: pytest.Module, name: str, obj: object) -> TwinsOf | None:
    """The twins of a module of tests, where one stands."""
    if not isinstance(obj, Twins):
        return None
    return TwinsOf.from_parent(collector, name=name, path=collector.path, nodeid=f"{collector.nodeid}::{name}", of=obj)
