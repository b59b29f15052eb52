"""deploy/sizes: each file is a configuration that loads, and its arithmetic is right, and is that of its settings."""

import math
import re
from collections.abc import Callable
from pathlib import Path

import pytest

from idsync import config
from idsync.settings import Settings
from tests.deploy.documents import README

ROOT = Path(__file__).parents[2]
FILES = sorted((ROOT / "deploy" / "sizes").glob("*.toml"))
BENCH = (ROOT / "tests" / "bench" / "README.md").read_text()


def power_of_two(least: float) -> int:
    return 1 << math.ceil(math.log2(least))


# what follows from what stands above it
RULES: dict[str, Callable[[dict[str, int]], float]] = {
    "workers": lambda of: max(2, math.ceil(of["calls_a_second"] / of["hosts"] / 2000)),
    "endpoint_memory": lambda of: 100 + 100 * of["workers"],
    "spool": lambda of: 168 * of["calls_a_second"] / of["hosts"] * 3600 * of["hours"] / 1e6,
    "buckets": lambda of: power_of_two(of["mappings_largest"] / 100),
    "maxmemory": lambda of: 1.5 * of["store"],
    "redis_memory": lambda of: of["maxmemory"] * 4 / 3,
    "redis_disk": lambda of: 3 * of["store"],
    "disk": lambda of: 3 * of["store"] + of["spool"],
}
BYTES = {"sqlite": 82, "redis": 53}


def figures(path: Path) -> dict[str, int]:
    rows = re.findall(r"^#   (\w+)  +\S.*?  +([\d,]+)(?: |$)", path.read_text(), re.MULTILINE)
    return {name: int(value.replace(",", "")) for name, value in rows}


def loaded(path: Path) -> Settings:
    return config.load(path, environ={})


def kind(settings: Settings) -> str:
    return "sqlite" if settings.store.url.startswith("sqlite") else "redis"


def test_there_are_three() -> None:
    assert [path.stem for path in FILES] == ["large", "medium", "small"]


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.stem))
def test_the_arithmetic_is_right(path: Path) -> None:
    given = figures(path)
    rules = RULES | {
        "store": lambda of: BYTES[kind(loaded(path))] * of["mappings"] / of.get("primaries", 1) / 1e6,
    }
    reckoned = given.keys() & rules.keys()
    assert {"workers", "spool", "store"} <= reckoned
    for name in reckoned:
        assert given[name] == math.ceil(round(rules[name](given), 6)), name


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.stem))
def test_the_settings_are_those_reckoned(path: Path) -> None:
    settings, given = loaded(path), figures(path)
    assert settings.endpoint.workers == given["workers"]
    assert settings.abuse.trusted_proxies
    if kind(settings) == "redis":
        assert settings.store.buckets == given["buckets"]
        assert given["mappings_largest"] / settings.store.buckets <= 100
    for place in (settings.endpoint.spool, settings.reconcile.state_dir):
        assert Path("/var/lib/idsync") in place.parents


def test_bytes_and_calls_are_those_measured() -> None:
    assert "Redis: memory | 53 bytes/mapping" in BENCH
    assert "SQLite: file | 82 bytes/mapping" in BENCH


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.stem))
def test_the_table_of_the_readme_says_the_same(path: Path) -> None:
    [row] = re.findall(rf"^\| \[{path.stem}\].*$", README.read_text(), re.MULTILINE)
    given = figures(path)
    assert f"| {given['mappings'] // 1_000_000} million |" in row
    assert f"| {given['calls_a_second']:,} |" in row
    assert f"{given['workers']} workers" in row
    memory = f"{given['redis_memory'] / 1000:.1f} GB" if "redis_memory" in given else f"{given['store']} MB"
    assert memory in row
