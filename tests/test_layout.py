"""The house rules that a reader relies on: who may import whom, and which modules are pure."""

import ast
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
PURE = [
    *("idsync/ids.py", "idsync/call.py", "idsync/redirect.py", "idsync/decision.py"),
    *("idsync/consent/bits.py", "idsync/consent/gpp.py", "idsync/consent/signals.py", "idsync/consent/tcf.py"),
    "idsync/consent/us.py",
    *("idsync/identity.py", "idsync/outcomes.py", "idsync/reply.py", "idsync/store/codec.py", "idsync/signature.py"),
    *("idsync/declared.py", "idsync/signals.py", "idsync/visitors.py", "idsync/personal.py", "idsync/placeholders.py"),
    "idsync/tag.py",
    *(
        "reconcile/feed.py",
        "reconcile/changes.py",
        "reconcile/inputs/layout.py",
        *(f"reconcile/check/{name}.py" for name in ("block", "content", "findings", "kinds", "naming", "screen")),
        *("reconcile/why/forms.py", "reconcile/why/affixes.py", "reconcile/why/diagnosis.py"),
        *("reconcile/report/prediction.py", "reconcile/report/page.py", "reconcile/words.py"),
        "reconcile/lines.py",
        "reconcile/names.py",
        "reconcile/engine/sql.py",
        "reconcile/screen.py",
    ),
]
IMPURE_MODULES = {
    *("flask", "werkzeug", "gunicorn", "redis", "socket", "sqlite3", "duckdb", "boto3", "os", "sys", "time", "random"),
    *("secrets", "subprocess", "pathlib", "threading", "logging"),
}
# What the job takes from the endpoint's package: the store, the settings, what an ID is, how a command line behaves.
SHARED = {
    *("idsync.store", "idsync.ids", "idsync.config", "idsync.settings", "idsync.errors", "idsync.cli"),
    "idsync.completion",
    "idsync.charts",  # one look for the pages of both
}


def imports(path: Path) -> set[str]:
    """The full names of the modules that a file imports, `from package import module` included."""
    found = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            found |= {node.module} | {f"{node.module}.{alias.name}" for alias in node.names}
    return found


def test_the_endpoint_knows_nothing_of_the_job() -> None:
    for path in (ROOT / "idsync").rglob("*.py"):
        assert not {name for name in imports(path) if name.partition(".")[0] in {"reconcile", "tests"}}, path


def test_the_job_uses_only_what_is_shared() -> None:
    for path in (ROOT / "reconcile").rglob("*.py"):
        for name in imports(path):
            if name.startswith("idsync."):
                assert any(name == shared or name.startswith(f"{shared}.") for shared in SHARED), (path, name)


@pytest.mark.parametrize("path", PURE)
def test_pure_modules_import_nothing_that_acts(path: str) -> None:
    assert not {name.partition(".")[0] for name in imports(ROOT / path)} & IMPURE_MODULES


def test_the_top_level_is_as_it_should_be() -> None:
    known = {"requirements.txt", "README.md", "pyproject.toml", "idsync", "reconcile", "deploy", "tests", "var"}
    extra = {path.name for path in ROOT.iterdir() if not path.name.startswith(".")} - known
    assert extra <= {"idsync.toml"}


def test_what_is_installed_is_all_that_there_is() -> None:
    told = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["setuptools"]
    folders = {name: ROOT / name.replace(".", "/") for name in told["packages"]}
    inits = [path for top in ("idsync", "reconcile") for path in (ROOT / top).rglob("__init__.py")]
    assert set(folders.values()) == {path.parent for path in inits}
    data = {
        path
        for name, patterns in told["package-data"].items()
        for each in patterns
        for path in folders[name].glob(each)
    }
    there = {path for top in ("idsync", "reconcile") for path in (ROOT / top).rglob("*") if path.is_file()}
    other = {path for path in there if path.suffix not in {".py", ".pyc"}}
    assert other == {path for path in data if path.is_file()}


def test_check_waits_for_nothing_that_it_does_not_need() -> None:
    """Its files are many, and some small."""
    told = "import sys; from reconcile.__main__ import cli; cli(['check', '-h'], standalone_mode=False)"
    told = f"{told}; print(*sys.modules, sep=chr(10))"
    done = subprocess.run([sys.executable, "-c", told], capture_output=True, text=True, check=True, cwd=ROOT)
    assert not {"duckdb", "boto3", "paramiko", "redis", "flask", "gunicorn"} & set(done.stdout.split())
