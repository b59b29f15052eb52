"""`spark-submit`, as on a cluster: a driver, a master and two executors, in processes of their own."""

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pyspark

from tests.reconcile.samples import SIGNALS, World, uuid
from tests.spark.conftest import QUICK_TO_START
from tests.spark.test_same import BY_UUID, fill

ROOT = Path(__file__).parents[2]
HOME = Path(pyspark.__file__).parent


def submit(folder: Path, *arguments: str) -> "subprocess.CompletedProcess[str]":
    environ = os.environ | {
        "SPARK_HOME": str(HOME),
        "SPARK_LOCAL_IP": "127.0.0.1",
        "SPARK_WORKER_DIR": str(folder / "work"),
        "SPARK_LOCAL_DIRS": str(folder / "local"),
        "PYSPARK_PYTHON": sys.executable,
    }
    memory = ("--driver-memory", "512m", "--conf", "spark.executor.memory=512m", "--conf", "spark.ui.enabled=false")
    command = (str(HOME / "bin" / "spark-submit"), "--master", "local-cluster[2,1,512]", *memory)
    quick = [f"--conf=spark.{where}.extraJavaOptions={QUICK_TO_START}" for where in ("driver", "executor")]
    script = str(ROOT / "deploy" / "cluster" / "submit.py")
    return subprocess.run(
        [*command, *quick, script, *arguments],
        cwd=folder,
        env=environ,
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )


def test_a_feed_by_spark_submit_and_what_it_says_of_faults(tmp_path: Path) -> None:
    told = []
    for name in ("here", "there"):
        world = World(tmp_path / name, feed=BY_UUID)
        fill(world, 1)
        config = str(world.write_config())
        if name == "here":
            command = [sys.executable, "-m", "reconcile", "run", "daily", "--config", config]
            done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True)
        else:
            done = submit(tmp_path, "run", "daily", "--engine", "spark", "--config", config)
            assert done.returncode == 0, done.stderr
        # spark-submit joins what a driver tells to people and to machines
        found = re.search(r"^\{", done.stdout, re.MULTILINE)
        assert found, done.stdout
        figures = json.JSONDecoder().raw_decode(done.stdout[found.start() :])[0]
        assert figures["status"] == "delivered"
        told.append(
            ({key: figures[key] for key in ("read", "matched", "held", "rejected", "lines")}, sorted(world.lines()))
        )
    assert told[0] == told[1]
    assert told[0][1]
    wrong = submit(tmp_path, "run", "nothing", "--engine", "spark", "--config", config)
    assert wrong.returncode == 2
    assert 'no feed is called "nothing"' in wrong.stdout


def test_a_trial_on_this_machine_needs_no_settings_of_spark(tmp_path: Path) -> None:
    world = World(tmp_path / "world", SIGNALS)
    world.sync(("c1", uuid(1)))
    world.put("a.csv", [("c1", "f", "", "")])
    command = [sys.executable, "-m", "reconcile", "run", "daily", "--engine", "spark"]
    environ = {name: value for name, value in os.environ.items() if "SPARK" not in name}
    environ["JDK_JAVA_OPTIONS"] = QUICK_TO_START
    done = subprocess.run(
        [*command, "--config", str(world.write_config())], cwd=ROOT, env=environ, capture_output=True, check=False
    )
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["status"] == "delivered"
    assert world.lines() == [f'{uuid(1)}\t"gender"="f"\n']
