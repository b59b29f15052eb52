"""A run on an existing Spark cluster: `python -m reconcile run FEED --engine spark`. Nothing outside imports pyspark.

Spark moves parcels and starts again what dies; all rules are those of one machine. A parcel is a row that holds many
records, or mappings, as an Arrow stream: a shuffle costs by the parcel, and not by the record.

    inputs    a task for each file reads its records, numbers them, parcels them by customer
    mappings  a task for each part of the store exports it, and parcels it by customer; kept, so that a task that is
              done again sees what it saw before
    sent      of feeds that send only changes: a task for each part of what was sent before, by customer
    devices   where users have IDs of another data source, a task for each share of the devices says which: of its
              mappings and ours become pairs of customer and user, and mappings from here on
    customers a task for each share of the customers judges their records (held and newer, opted out, faulty), joins
              them with their mappings, and parcels the result by user, so that all of a user is in one place;
              where customers are the users, nothing more has to be brought together, and it renders their lines
    users     a task for each share of the users renders their lines in a DuckDB of its own, and freezes them

Files are written below the run's scratch folder, by each attempt of a task into a folder of its own. The driver takes
those of the attempt that Spark counts, gives them the names of the run, and writes manifest and ledger, as always. Then
they are delivered, each by a task that has the frozen file and its name from the driver, see `deliver`.

`state_dir` and the inputs have to lie in a file system that driver and executors share.
"""

from importlib import import_module
from typing import TYPE_CHECKING

from idsync.errors import UsageError

if TYPE_CHECKING:
    from reconcile.delivery import Opener
    from reconcile.join import Join
    from reconcile.lock import Tenure


def join_class() -> "type[Join]":
    """What joins on Spark. Raises UsageError where pyspark is not installed: most have no use for it."""
    try:
        import_module("pyspark")
    except ModuleNotFoundError:
        raise UsageError(
            "--engine spark: pyspark is not installed",
            mend="pip install -r deploy/cluster/requirements-spark.txt, and a Java that it runs on (17 or 21)",
        ) from None
    found: type[Join] = import_module("reconcile.spark.join").SparkJoin
    return found


def opener(tenure: "Tenure | None") -> "Opener":
    """How executors reach a destination. `join_class` comes first: it says what may be missing."""
    found: Opener = import_module("reconcile.spark.deliver").opener(tenure)
    return found
