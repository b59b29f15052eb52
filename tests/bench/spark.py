"""A run on Spark against a join and gzip of the same data written by hand in Spark SQL, in one session.

    python -m tests.bench.spark [--records 1000000,5000000] [--folder DIR] [--once | --prepare]

Prints a Markdown table. Master, driver and two executors of one core and 1 GB are processes of this machine; each
contender is submitted by `spark-submit`, and timed from its start to its end, so that the start of Spark is in it; a
submission that does nothing says how much that is. Needs 250 bytes of disk a record.
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import pyspark

from idsync.settings import Store
from tests.bench import data
from tests.bench.reconcile import CONFIG, fill_sqlite

ROOT = Path(__file__).parents[2]
HOME = Path(pyspark.__file__).parent
INPUTS = 8  # files of a feed: one is read by one task

SQL = """
import sys
from pyspark.sql import SparkSession
feed, mappings, out = sys.argv[1:]
spark = SparkSession.builder.getOrCreate()
spark.read.csv(feed, header=True).createOrReplaceTempView("feed")
spark.read.parquet(mappings).createOrReplaceTempView("mappings")
spark.sql('''
    SELECT concat(uuid, '\\t', concat_ws(',',
        CASE WHEN gender <> '' THEN concat('"gender"="', gender, '"') END,
        CASE WHEN tier <> '' THEN concat('"tier"="', tier, '"') END,
        CASE WHEN city <> '' THEN concat('"city"="', city, '"') END,
        CASE WHEN traits <> '' THEN concat('d_sid=', traits) END)) AS value
    FROM feed JOIN mappings USING (customer_id)
''').write.text(out, compression="gzip")
"""

NOTHING = """
from pyspark.sql import SparkSession
SparkSession.builder.getOrCreate().range(2).count()
"""


def submit(folder: Path, script: Path, *arguments: str) -> tuple[float, str]:
    """Seconds, and what was told on stdout."""
    environ = os.environ | {
        "SPARK_HOME": str(HOME),
        "SPARK_LOCAL_IP": "127.0.0.1",
        "SPARK_LOCAL_DIRS": str(folder / "local"),
        "SPARK_WORKER_DIR": str(folder / "work"),
        "PYSPARK_PYTHON": sys.executable,
    }
    options = ["--master", "local-cluster[2,1,1024]", "--driver-memory", "1g"]
    options += ["--conf", "spark.executor.memory=1g", "--conf", "spark.ui.enabled=false"]
    command = [str(HOME / "bin" / "spark-submit"), *options, str(script), *arguments]
    start = time.monotonic()
    done = subprocess.run(command, cwd=folder, env=environ, capture_output=True, text=True, check=False)
    if done.returncode:
        raise SystemExit(done.stderr[-3000:])
    return time.monotonic() - start, done.stdout


def split(feed: Path, folder: Path) -> str:
    """The feed in several files, each with its header; the glob that finds them."""
    folder.mkdir(parents=True, exist_ok=True)
    if not any(folder.iterdir()):
        with feed.open("rb") as file:
            header = file.readline()
            share = (feed.stat().st_size - len(header)) // INPUTS + 1
            for number in range(INPUTS):
                part = file.read(share) + file.readline()
                (folder / f"{number}.csv").write_bytes(header + part)
    return f"{folder}/*.csv"


def prepare(folder: Path, records: int) -> tuple[str, Path, str]:
    """The glob of the inputs, the mappings as Parquet, and the URL of a store of the same."""
    feed, mappings = data.make(folder, records)
    inputs = split(feed, folder / f"inputs-{records}")
    url = f"sqlite:///{folder}/store-{records}.db"
    if not (folder / f"store-{records}.db").exists():
        fill_sqlite(Store(url=url), f"FROM '{mappings}'", in_order=True)
    return inputs, mappings, url


def measure(folder: Path, records: int) -> dict[str, float]:
    """Seconds of each contender."""
    inputs, mappings, url = prepare(folder, records)
    name = f"spark-{records}-{time.time_ns()}"
    config = folder / f"{name}.toml"
    config.write_text(CONFIG.format(url=url, feed=inputs, name=name, unmatched="drop"))
    scripts = {"sql": SQL, "nothing": NOTHING}
    for script, text in scripts.items():
        (folder / f"{script}.py").write_text(text)
    found = {"nothing": submit(folder, folder / "nothing.py")[0]}
    found["sql"], _ = submit(folder, folder / "sql.py", inputs, str(mappings), str(folder / f"sql-{name}"))
    ours = ("run", "bench", "--engine", "spark", "--config", str(config))
    found["ours"], told = submit(folder, ROOT / "deploy" / "cluster" / "submit.py", *ours)
    figures = json.JSONDecoder().raw_decode(told[told.index("\n{") + 1 :])[0]  # the table for people stands before it
    lines = sum(_lines(path) for path in (folder / f"sql-{name}").glob("*.gz"))
    # ours are merged: one of each user, as by hand where no customer has two records
    assert figures["lines"] == lines, f"{figures['lines']} lines, by hand {lines}"
    return found


def _lines(path: Path) -> int:
    done = subprocess.run(f"gzip -dc '{path}' | wc -l", shell=True, capture_output=True, text=True, check=True)  # noqa: S602
    return int(done.stdout)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--records", default="1000000,5000000")
    parser.add_argument("--folder", type=Path)
    parser.add_argument("--once", action="store_true", help="else the better of two")
    parser.add_argument("--prepare", action="store_true", help="make the data in --folder, and measure nothing")
    chosen = parser.parse_args()
    if chosen.prepare:
        if chosen.folder is None:
            parser.error("--prepare needs --folder")
        chosen.folder.mkdir(parents=True, exist_ok=True)
        for records in map(int, chosen.records.split(",")):
            prepare(chosen.folder, records)
        return
    print("| records | Spark alone, s | by hand, s | ours, s | ours / by hand | without Spark's start |")
    print("|---|---|---|---|---|---|")
    with tempfile.TemporaryDirectory() as scratch:
        folder = chosen.folder or Path(scratch)
        folder.mkdir(parents=True, exist_ok=True)
        for records in map(int, chosen.records.split(",")):
            rounds = [measure(folder, records) for _ in range(1 if chosen.once else 2)]
            best = {name: min(each[name] for each in rounds) for name in rounds[0]}
            net = (best["ours"] - best["nothing"]) / max(best["sql"] - best["nothing"], 0.1)
            cells = [f"{best[name]:.1f}" for name in ("nothing", "sql", "ours")]
            ratio = best["ours"] / best["sql"]
            print(f"| {records:,} | {' | '.join(cells)} | {ratio:.2f} | {net:.2f} |", flush=True)


if __name__ == "__main__":
    main()
