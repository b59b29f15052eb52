"""The Spark session, and the few things that are asked of it."""

import atexit
import os
import re
import sys
import zipfile
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, TypeVar
from uuid import uuid4

import pyarrow as pa
from py4j.protocol import Py4JError  # type: ignore[import-untyped]
from pyspark import TaskContext
from pyspark.errors import PySparkException
from pyspark.sql import DataFrame, SparkSession
from pyspark.sql.datasource import DataSource, DataSourceReader, InputPartition

import idsync
import reconcile
from idsync.errors import IdsyncError
from reconcile.spark import parcels, process
from reconcile.spark.parcels import Parcel

Source = Callable[[int], Iterator[Parcel]]
Task = Callable[[Iterator[Parcel], int], Iterator[Parcel]]
T = TypeVar("T")

# A parcel can have some megabytes: few at a time go to a task.
_PARCELS_IN_BATCH = "8"
# A task that is done once more has the same rows for each share, but may cut and order its parcels otherwise. Spark may
# take that for other data, and give the job up where an executor was lost.
_SETTINGS = {
    # rows are few, and how many tasks there are is settled: to look for better plans costs more than it can bring
    "spark.sql.adaptive.enabled": "false",
    "spark.sql.codegen.wholeStage": "false",
    "spark.sql.execution.arrow.maxRecordsPerBatch": _PARCELS_IN_BATCH,
    "spark.sql.shuffle.orderIndependentChecksum.enabled": "false",
    "spark.sql.shuffle.orderIndependentChecksum.enableFullRetryOnMismatch": "false",
}
_FROM_THE_INPUTS = "nothing was delivered, and the next run starts from the inputs again"
_FROM_THE_FILES = "the frozen files wait; run again"
_NOISE = re.compile(r"\s*(\[[A-Z_.]+\])?\s*(.{0,200})")
_shipped: dict[str, TemporaryDirectory[str]] = {}


class ClusterFailed(IdsyncError):
    """Spark gave the job up. Before the freeze its inputs stay new, after it the frozen files wait."""

    exit_status = 75


class Cluster:
    """A session in use. `scratch` is a folder that all machines share, and that goes after the run."""

    def __init__(self, spark: SparkSession, scratch: Path) -> None:
        self._spark = spark
        spark.sparkContext.setCheckpointDir((scratch / "kept").as_uri())
        for name, value in _SETTINGS.items():
            spark.conf.set(name, value)

    @property
    def tasks(self) -> int:
        """How many run side by side, as far as Spark can tell."""
        return self._spark.sparkContext.defaultParallelism

    def source(self, name: str, count: int, source: Source) -> DataFrame:
        """What `source` gives for each number below `count`, each in a task of its own."""
        with _errors():
            self._spark.dataSource.register(_source(f"reconcile_{name}", count, source))
            return self._spark.read.format(f"reconcile_{name}").load()

    def kept(self, frame: DataFrame) -> DataFrame:
        """The same, worked out once and for all."""
        with _errors():
            return frame.checkpoint()

    def parted(self, frames: Sequence[DataFrame], shares: int, task: Task) -> DataFrame:
        """What a task makes of all parcels of a share, in order of kind and place; a task for each share."""

        def run(batches: Iterable[pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
            context = TaskContext.get()
            return parcels.packed(task(parcels.unpacked(batches), context.cpus() if context else 1))

        whole = frames[0]
        for frame in frames[1:]:
            whole = whole.union(frame)
        ordered = whole.repartitionById(shares, "share").sortWithinPartitions("kind", "place")
        return ordered.mapInArrow(run, parcels.TYPES)

    def collected(self, frame: DataFrame) -> list[Parcel]:
        """What the tasks have to tell, of exactly one attempt of each."""
        with _errors():
            return [Parcel(row.share, row.kind, row.place, bytes(row.body)) for row in frame.collect()]


class Hands:
    """A session in use for tasks that share nothing, each a job of its own. Several threads may ask for one."""

    def __init__(self) -> None:
        self._context = _session(_FROM_THE_FILES).sparkContext
        self._tag = f"reconcile-{uuid4()}"

    def do(self, task: Callable[[], T]) -> T:
        """What `task` returns, somewhere else. By then it may have been done more than once, even at the same time."""
        self._context.addJobTag(self._tag)  # of this thread's jobs
        try:
            with _errors(_FROM_THE_FILES):
                found: T = self._context.parallelize([0], 1).map(lambda _: task()).collect()[0]
                return found
        finally:
            self._context.removeJobTag(self._tag)

    def drop(self) -> None:
        """All tasks under way. Who waits for one gets ClusterFailed."""
        self._context.cancelJobsWithTag(self._tag)


def cluster(scratch: Path) -> Cluster:
    return Cluster(_session(), scratch)


def _session(mend: str = _FROM_THE_INPUTS) -> SparkSession:
    """The one that there is, or one made as `spark-submit` says, or else on this machine: it stays as long as this
    process, since a run that joins delivers, too."""
    with _errors(mend):
        spark = SparkSession.getActiveSession()
        if spark is None:
            spark = _opened()
            atexit.register(spark.stop)
        _ship(spark)
    return spark


def _opened() -> SparkSession:
    builder = SparkSession.builder.appName("reconcile")
    submitted = "PYSPARK_GATEWAY_PORT" in os.environ or "--master" in os.environ.get("PYSPARK_SUBMIT_ARGS", "")
    if not submitted:
        os.environ.setdefault("PYSPARK_PYTHON", sys.executable)
        builder = builder.master("local[*]").config("spark.ui.enabled", "false")
    return builder.getOrCreate()


def _ship(spark: SparkSession) -> None:
    """The executors run the code of the driver, whatever they have of their own. One that takes the place of another
    asks for it later: it stays as long as this process."""
    application = str(spark.sparkContext.applicationId)
    if application in _shipped:
        return
    folder = TemporaryDirectory(prefix="reconcile-code-")
    path = Path(folder.name) / "reconcile-code.zip"
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for package in (idsync, reconcile):
            root = Path(str(package.__file__)).parent
            for file in sorted(root.rglob("*.py")):
                archive.write(file, file.relative_to(root.parent))
    spark.sparkContext.addPyFile(str(path))
    _shipped[application] = folder


def _source(called: str, count: int, source: Source) -> type[DataSource]:
    """A class that is sent as it is, with what it holds: options would be shown in Spark's plans and its log."""

    class Reader(DataSourceReader):
        def partitions(self) -> list[InputPartition]:
            process.settle_in()
            return [InputPartition(at) for at in range(count)]

        def read(self, partition: InputPartition) -> Iterator[pa.RecordBatch]:
            return parcels.packed(source(partition.value))

    class Source(DataSource):
        @classmethod
        def name(cls) -> str:
            return called

        def schema(self) -> str:
            process.settle_in()
            return parcels.TYPES

        def reader(self, schema: Any) -> DataSourceReader:
            return Reader()

    return Source


@contextmanager
def _errors(then: str = _FROM_THE_INPUTS) -> Iterator[None]:
    try:
        yield
    except (PySparkException, Py4JError) as error:
        # what follows is a stack, and may quote data
        told = _NOISE.match(str(error))
        raise ClusterFailed(
            f"Spark gave up: {type(error).__name__} {told[1] or '' if told else ''}".rstrip(),
            mend=f"Spark's own log has the reason; {then}",
        ) from error
