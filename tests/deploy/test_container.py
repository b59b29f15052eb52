"""deploy/container: no image is built here, but what would go into one is run, and so is what compose would start."""

import json
import os
import re
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import suppress
from fnmatch import fnmatch
from pathlib import Path
from typing import Any

import pytest
import redis
import yaml

from idsync import config
from tests.deploy import commands
from tests.endpoint import PATIENCE_SECONDS, Endpoint, Gunicorn, serving, stopping
from tests.idsync.samples import configuration
from tests.servers import free_port, wait_until

ROOT = Path(__file__).parents[2]
FOLDER = ROOT / "deploy" / "container"
CONTAINERFILE = re.sub(r"\\\n\s*", "", (FOLDER / "Containerfile").read_text())
COMPOSE: dict[str, Any] = yaml.safe_load((FOLDER / "compose.yaml").read_text())
SERVICES: dict[str, dict[str, Any]] = COMPOSE["services"]
OURS = ["endpoint", "scheduler"]


def instructions(name: str) -> list[str]:
    return re.findall(rf"^{name} (.*)$", CONTAINERFILE, re.MULTILINE)


def copied() -> list[tuple[str, str]]:
    """What of the repository goes where."""
    pairs = [line.split() for line in instructions("COPY") if not line.startswith("--from")]
    return [(source, target) for source, target in pairs]


# --- the image -------------------------------------------------------------------------------------------------------


def test_the_builder_gets_what_is_copied_and_no_more() -> None:
    ignored = (FOLDER / "Containerfile.dockerignore").read_text().splitlines()
    allowed = {line[1:] for line in ignored if line.startswith("!")}
    assert "*" in ignored
    assert allowed == {source for source, _ in copied()}
    assert all((ROOT / source).exists() for source in allowed)


def test_it_runs_as_nobody_of_the_host() -> None:
    assert re.fullmatch(r"[1-9]\d{3,}:[1-9]\d{3,}", instructions("USER")[-1])
    [user] = set(instructions("USER"))
    assert {SERVICES[name]["user"] for name in OURS} == {user}
    assert f"useradd --uid {user.partition(':')[0]} " in CONTAINERFILE
    assert f"groupadd --gid {user.partition(':')[2]} " in CONTAINERFILE


def test_its_command_exists() -> None:
    assert json.loads(instructions("ENTRYPOINT")[0]) == ["python", "-m"]
    program, *arguments = json.loads(instructions("CMD")[-1])
    commands.check(program, arguments)
    assert SERVICES["endpoint"]["command"] == [program, *arguments]


@pytest.fixture
def image(tmp_path: Path) -> Path:
    """/opt/idsync as it would be, with what the tests run on in place of its own packages."""
    top = tmp_path / "image"
    for source, target in copied():
        if not target.startswith("/opt/idsync/"):
            continue
        goal = top / target.removeprefix("/opt/idsync/")
        goal.parent.mkdir(parents=True, exist_ok=True)
        if (ROOT / source).is_dir():
            shutil.copytree(ROOT / source, goal, ignore=shutil.ignore_patterns("__pycache__"))
        else:
            shutil.copy(ROOT / source, goal)
    return top


def files(folder: Path) -> set[Path]:
    return set(folder.rglob("*"))


def test_what_is_in_it_serves_and_reconciles_and_writes_nothing_there(
    image: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The configuration of compose.yaml, but for the store and the folders, which are those of this test."""
    for path in ("/srv/inbox", "/srv/delivered", "/var/lib/idsync"):
        (tmp_path / path[1:]).mkdir(parents=True)
    text = (FOLDER / "idsync.toml").read_text()
    for old, new in {
        "redis://redis:6379/0": f"sqlite:///{tmp_path}/idsync.db",
        'password_file = "/run/secrets/redis-password"': "",
        '"/srv/': f'"{tmp_path}/srv/',
        '"/var/lib/': f'"{tmp_path}/var/lib/',
    }.items():
        assert old in text
        text = text.replace(old, new)
    (tmp_path / "idsync.toml").write_text(text)
    shutil.copy(ROOT / "deploy" / "sample" / "crm.csv", tmp_path / "srv" / "inbox" / "crm-monday.csv")
    environment = dict(part.split("=", 1) for part in instructions("ENV")[0].split())
    environment |= {"IDSYNC_CONFIG": str(tmp_path / "idsync.toml")}
    environment["PATH"] = f"{Path(sys.executable).parent}:{os.environ['PATH']}"
    before = files(image)
    program, *arguments = SERVICES["endpoint"]["command"]
    arguments[arguments.index("0.0.0.0:8000")] = "127.0.0.1:0"
    monkeypatch.chdir(image)
    server = Gunicorn([sys.executable, "-m", program, *arguments], environment)
    with stopping(server):
        assert server.get("/sync?dpid=12345&dpuuid=crm-000001").status == 200
        assert server.get("/readyz").status == 200
        assert server.stop()[0] == 0
    entrypoint = [sys.executable if part == "python" else part for part in SERVICES["scheduler"]["entrypoint"]]
    ended = subprocess.run(
        [*entrypoint, FOLDER / "crontab", "--at", "2026-11-24T03:15"],
        env={**os.environ, **environment},
        capture_output=True,
        text=True,
        timeout=PATIENCE_SECONDS,
        check=False,
    )
    assert ended.returncode == 0, ended.stderr
    assert json.loads(ended.stdout)["matched"] == 1
    assert [path.name for path in (tmp_path / "srv" / "delivered").rglob("*.sync.gz")]
    assert files(image) == before


def healthchecks() -> Iterator[list[str]]:
    yield json.loads(instructions("HEALTHCHECK")[0].partition("CMD ")[2])
    yield SERVICES["endpoint"]["healthcheck"]["test"][1:]


@pytest.mark.parametrize("command", list(healthchecks()))
def test_the_health_check_tells_who_serves_from_who_does_not(command: list[str], tmp_path: Path) -> None:
    assert SERVICES["endpoint"]["healthcheck"]["test"][0] == "CMD"
    (tmp_path / "idsync.toml").write_text(configuration())

    def healthy(endpoint: Endpoint) -> bool:
        asked = [sys.executable, *(part.replace(":8000", f":{endpoint.port}") for part in command[1:])]
        return subprocess.run(asked, capture_output=True, timeout=PATIENCE_SECONDS, check=False).returncode == 0

    with serving(tmp_path / "idsync.toml") as endpoint:
        assert healthy(endpoint)
        endpoint.stop()
        assert not healthy(endpoint)


# --- compose ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", SERVICES)
def test_every_service_is_fenced_in(name: str) -> None:
    service = SERVICES[name]
    assert service["read_only"] is True
    assert service["cap_drop"] == ["ALL"]
    assert service["security_opt"] == ["no-new-privileges:true"]
    assert not service["user"].startswith("0")
    assert "privileged" not in service
    assert service["restart"] == "unless-stopped"
    for port in service.get("ports", []):
        assert port.startswith("127.0.0.1:")


def test_compose_names_what_is_there() -> None:
    """Or what its first lines tell to make."""
    text = (FOLDER / "compose.yaml").read_text()
    made = {"inbox", "delivered", "secrets/redis-password"}
    assert all(re.search(rf"^#.*(mkdir|openssl).*\b{name}\b", text, re.MULTILINE) for name in made)
    bound = [volume.split(":") for service in SERVICES.values() for volume in service.get("volumes", [])]
    for source, *_ in bound:
        if source.startswith("."):
            assert source.removeprefix("./") in made or (FOLDER / source).exists(), source
        else:
            assert source in COMPOSE["volumes"]
    for service in SERVICES.values():
        assert {*service["secrets"]} <= {*COMPOSE["secrets"]}
        assert {*service["networks"]} <= {*COMPOSE["networks"]}
        assert {*service.get("depends_on", [])} <= {*SERVICES}
    build = SERVICES["endpoint"]["build"]
    assert (FOLDER / build["context"]).resolve() == ROOT
    assert (ROOT / build["dockerfile"]).exists()
    assert COMPOSE["networks"]["store"] == {"internal": True}
    for path in SERVICES["scheduler"]["entrypoint"][1:]:
        assert any(fnmatch(path, source) for source, _ in copied())


def test_the_configuration_is_that_of_the_containers() -> None:
    settings = config.load(FOLDER / "idsync.toml", environ={})
    [gateway] = [part["gateway"] for part in COMPOSE["networks"]["front"]["ipam"]["config"]]
    assert settings.abuse.trusted_proxies == (gateway,)
    assert settings.store.url == "redis://redis:6379/0"
    assert str(settings.store.password_file) == "/run/secrets/redis-password"
    mounted = {volume.split(":")[1] for volume in SERVICES["scheduler"]["volumes"]}
    paths = [settings.endpoint.spool, settings.reconcile.state_dir, Path(settings.feeds[0].inputs)]
    assert all({str(parent) for parent in path.parents} & mounted for path in paths)
    crontab = (FOLDER / "crontab").read_text()
    assert [feed.name for feed in settings.feeds] == re.findall(r"reconcile run (\S+)", crontab)


@pytest.mark.parametrize("service", OURS)
def test_who_is_stopped_has_the_time_that_it_needs(service: str) -> None:
    grace = SERVICES[service]["stop_grace_period"]
    seconds = int(grace[:-1]) * {"s": 1, "m": 60}[grace[-1]]
    limits = (ROOT / "deploy" / "gunicorn.conf.py").read_text()
    assert seconds > int(re.findall(r"^graceful_timeout = (\d+)", limits, re.MULTILINE)[0])


def test_redis_starts_as_compose_starts_it(tmp_path: Path) -> None:
    """With the password, which is on no command line; stopped by the signal that a container gets."""
    port = free_port()
    (tmp_path / "password").write_text("not-for-everybody\n")
    (tmp_path / "data").mkdir()
    shell, option, script = SERVICES["redis"]["command"]
    script = script.replace("$$", "$").replace("/run/secrets/redis-password", str(tmp_path / "password"))
    script = script.replace("/etc/redis/redis.conf", str(ROOT / "deploy" / "redis.conf"))
    script = script.replace("--dir /data", f"--dir {tmp_path}/data --port {port}").replace(
        "--bind '*'", "--bind 127.0.0.1"
    )
    process = subprocess.Popen([shell, option, script], stdout=subprocess.DEVNULL, start_new_session=True)
    try:
        with redis.Redis(port=port, password="not-for-everybody") as client:

            def answers() -> bool:
                try:
                    return bool(client.ping())
                except redis.exceptions.ConnectionError:
                    return False

            wait_until(answers, "redis-server's start")
            assert client.config_get("maxmemory")["maxmemory"] == str(1500 << 20)
            assert client.config_get("appendonly") == {"appendonly": "yes"}
            assert client.config_get("slowlog-log-slower-than") == {"slowlog-log-slower-than": "-1"}
        with redis.Redis(port=port) as stranger, pytest.raises(redis.exceptions.AuthenticationError):
            stranger.ping()
        assert b"not-for-everybody" not in Path(f"/proc/{process.pid}/cmdline").read_bytes()
        process.send_signal(signal.SIGTERM)
        assert process.wait(PATIENCE_SECONDS) == 0
    finally:
        with suppress(ProcessLookupError):  # also a server that the shell has left behind
            os.killpg(process.pid, signal.SIGKILL)
        process.wait(PATIENCE_SECONDS)
