"""The quickstart in a copy of the checkout, twice: what it prints, what it leaves, what it does not."""

import gzip
import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent.parent
LIMIT_SECONDS = 120


@pytest.fixture(scope="module")
def checkout(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Every file that belongs to the project, and this run's own packages in place of a download."""
    copy = tmp_path_factory.mktemp("quickstart") / "idsync"
    listed = subprocess.run(
        ["git", "ls-files", "--cached", "--others", "--exclude-standard"],
        cwd=ROOT,
        check=True,
        capture_output=True,
        text=True,
    )
    for name in listed.stdout.splitlines():
        if (ROOT / name).exists():
            (copy / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(ROOT / name, copy / name)
    (copy / ".venv").symlink_to(Path(sys.prefix))
    return copy


def files(folder: Path) -> set[str]:
    kept = {
        path.relative_to(folder) for path in folder.rglob("*") if path.is_file() and "__pycache__" not in path.parts
    }
    return {str(path) for path in kept if path.parts[0] != ".venv"}


def quickstart(checkout: Path) -> str:
    """What it prints. The environment must not lead it to somebody's real store."""
    environ = {**os.environ, "IDSYNC_STORE__URL": "redis://127.0.0.1:1/0", "IDSYNC_CONFIG": "/nowhere.toml"}
    ended = subprocess.run(
        ["sh", "deploy/quickstart.sh"],
        cwd=checkout,
        env=environ,
        check=False,
        capture_output=True,
        text=True,
        timeout=LIMIT_SECONDS,
    )
    assert ended.returncode == 0, ended.stdout + ended.stderr
    return ended.stdout


@pytest.mark.parametrize("time", ["first", "second"])
def test_the_quickstart_runs_and_can_be_run_again(checkout: Path, time: str) -> None:
    before = files(checkout)
    text = quickstart(checkout)
    assert {name for name in files(checkout) - before if not name.startswith("var/quickstart/")} == set()

    work = checkout / "var" / "quickstart"
    first, second, third = (json.loads((work / f"{name}.json").read_text()) for name in ("first", "second", "third"))
    assert first["read"] == 300
    assert first["read"] == first["matched"] + first["unmatched"] + first["rejected"]
    assert 0.6 < first["matched"] / first["read"] < 0.8
    assert first["rejected"] > 0
    assert (second["status"], third["status"]) == ("nothing-to-do", "delivered")
    assert (third["from_hold"], third["matched"]) == (first["held"], 1)

    delivered = sorted((work / "var" / "delivered").iterdir())
    assert len(delivered) == 2
    lines = [gzip.decompress(path.read_bytes()).decode().splitlines() for path in delivered]
    assert [len(content) for content in lines] == [first["lines"], 1]
    assert all(re.fullmatch(r"[0-9]{38}\t\S.*\S", line) for content in lines for line in content)
    assert lines[0][0] in text
    assert lines[1][0] in text

    address = re.search(r"http://127\.0\.0\.1:(\d+)", text)
    assert address
    for promised in ("X-Error 300", "nothing to do", "from hold", "rejected records:", "What next"):
        assert promised in text
    alive = subprocess.run(["pgrep", "-f", str(work)], check=False, capture_output=True, text=True)
    assert alive.stdout == ""
    assert "Shutting down" in (work / "endpoint.log").read_text()
