"""The website tag as bytes and headers; what it does in a browser is tested end to end."""

import gzip
import re
import tomllib
from collections.abc import Iterator
from pathlib import Path

import pytest
from flask.testing import FlaskClient

from idsync import config, tag
from idsync.app import create_app
from idsync.service import Service, open_spool
from idsync.settings import Settings
from idsync.store import open_store
from tests.endpoint import run_idsync

ROOT = Path(__file__).parent.parent.parent
PROGRAM = (ROOT / "idsync" / "static" / "idsync.js").read_text()
CONFIGURATION = """
[store]
url = "sqlite:///idsync.db"

[endpoint]
public_url = "https://sync.example.com"
identity = "mint"

[privacy]
gdpr_default = "does-not-apply"

[[data_sources]]
name = "crm"
dpid = 12345
placement = { kind = "cookie", name = "crm_id" }

[[data_sources]]
name = "app"
dpid = 777
placement = { kind = "js", name = "digitalData.user[0].id" }

[[data_sources]]
name = "shop"
dpid = 888
placement = { kind = "meta", name = 'a"b]c.1\u00e9' }

[[data_sources]]
name = "member"
dpid = 999
placement = { kind = "attribute", name = "data-customer-id" }

[[data_sources]]
name = "mailing"
dpid = 1001

[[data_sources]]
name = "gone"
dpid = 1002
placement = { kind = "cookie", name = "gone_id" }
denied = true

[[data_sources]]
name = "signed"
dpid = 1003
placement = { kind = "cookie", name = "signed_id" }
signature = "required"
signing_keys_file = "keys"
"""


def settings(text: str = CONFIGURATION, base: Path = Path()) -> Settings:
    return config.parse(text, environ={}, base=base)


def called_with(name: str | None) -> str:
    """The arguments of the script, as they stand in it."""
    return tag.scripts(PROGRAM, settings())[name].body.decode("ascii").rpartition("})(")[2]


def test_it_is_small() -> None:
    assert len(gzip.compress(tag.scripts(PROGRAM, settings())[None].body)) < 2048


@pytest.mark.parametrize(
    ("name", "source"),
    [
        ("crm", '[12345,"cookie","crm_id"]'),
        ("app", '[777,"js",["digitalData","user","0","id"]]'),
        ("shop", r'[888,"element","meta[name=a\\22 b\\5d c\\2e \\31 \\e9 ]","content"]'),
        ("member", '[999,"element","[data-customer-id]","data-customer-id"]'),
    ],
)
def test_where_it_looks(name: str, source: str) -> None:
    assert called_with(name) == f'"https://sync.example.com",[{source}]);\n'
    assert source in called_with(None)


def test_only_data_sources_that_pages_can_sync_have_one() -> None:
    assert set(tag.scripts(PROGRAM, settings())) == {"crm", "app", "shop", "member", None}
    assert not re.search("gone|signed|100[123]", called_with(None))


def test_without_any_placement_there_is_none() -> None:
    assert tag.scripts(PROGRAM, settings(re.sub("placement = .*", "", CONFIGURATION))) == {}


def test_nothing_that_a_policy_would_refuse_and_no_comments() -> None:
    body = tag.scripts(PROGRAM, settings())[None].body.decode("ascii")
    assert not re.search(r"\beval\b|Function\(|innerHTML|document\.write|Storage|\.cookie\s*=[^=]|\.style|^\s*//", body)
    assert "\n " not in body


def test_the_etag_changes_with_the_script_alone() -> None:
    scripts = tag.scripts(PROGRAM, settings())
    assert len({script.etag for script in scripts.values()}) == len(scripts)
    assert scripts == tag.scripts(PROGRAM, settings())
    elsewhere = tag.scripts(PROGRAM, settings(CONFIGURATION.replace("sync.example.com", "s.example.com")))
    assert elsewhere["crm"].etag != scripts["crm"].etag


def test_the_policy_follows_the_redirect() -> None:
    endpoint = settings(CONFIGURATION.replace('"mint"', '"audience-manager"')).endpoint
    both = "https://sync.example.com https://dpm.demdex.net"
    assert tag.policy(endpoint) == f"script-src https://sync.example.com; img-src {both}; connect-src {both}"


def test_it_is_part_of_the_package() -> None:
    packaged = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["setuptools"]["package-data"]["idsync"]
    assert any((ROOT / "idsync" / "static" / "idsync.js").match(pattern) for pattern in packaged)


# --- the route -------------------------------------------------------------------------------------------------------


@pytest.fixture
def client(tmp_path: Path) -> Iterator[FlaskClient]:
    (tmp_path / "keys").write_text(f"k1 {'ab' * 32}\n")
    (tmp_path / "keys").chmod(0o600)
    chosen = settings(base=tmp_path)
    service = Service(chosen, open_store(chosen.store), open_spool(chosen))
    yield create_app(service).test_client()
    service.close()


@pytest.mark.parametrize(("query", "name"), [("", None), ("?data_source=crm", "crm"), ("?v=2", None)])
def test_it_may_be_kept_and_used_by_every_site(client: FlaskClient, query: str, name: str | None) -> None:
    answer = client.get(f"/idsync.js{query}")
    script = tag.scripts(PROGRAM, settings())[name]
    assert (answer.status_code, answer.data) == (200, script.body)
    assert dict(answer.headers) == {
        "Content-Type": "text/javascript; charset=utf-8",
        "Cache-Control": "public, max-age=3600",
        "ETag": f'"{script.etag}"',
        "X-Content-Type-Options": "nosniff",
        "Cross-Origin-Resource-Policy": "cross-origin",
        "Content-Length": str(len(script.body)),
    }


@pytest.mark.parametrize(
    ("given", "status"), [('"{}"', 304), ('W/"{}"', 304), ('"x", "{}"', 304), ("*", 304), ('"x"', 200)]
)
def test_it_is_not_sent_again(client: FlaskClient, given: str, status: int) -> None:
    etag = tag.scripts(PROGRAM, settings())["crm"].etag
    answer = client.get("/idsync.js?data_source=crm", headers={"If-None-Match": given.format(etag)})
    assert (answer.status_code, answer.headers["ETag"]) == (status, f'"{etag}"')
    assert answer.headers["Cache-Control"] == "public, max-age=3600"
    assert (answer.data == b"") == (status == 304)
    assert ("Content-Length" in answer.headers) == (status == 200)


@pytest.mark.parametrize("name", ["crn", "12345", "", "mailing", "gone", "signed", "None"])
def test_there_is_none_for_others(client: FlaskClient, name: str) -> None:
    answer = client.get(f"/idsync.js?data_source={name}")
    assert answer.status_code == 404
    assert answer.headers["Cache-Control"] == "no-store"
    assert answer.headers["Content-Type"] == "text/plain; charset=utf-8"


def test_its_methods(client: FlaskClient) -> None:
    answer = client.head("/idsync.js")
    assert (answer.status_code, answer.data) == (200, b"")
    assert int(answer.headers["Content-Length"]) == len(tag.scripts(PROGRAM, settings())[None].body)
    assert client.post("/idsync.js").status_code == 405


# --- the command -----------------------------------------------------------------------------------------------------


@pytest.fixture
def path(tmp_path: Path) -> Path:
    path = tmp_path / "idsync.toml"
    path.write_text(CONFIGURATION)
    return path


def test_the_snippet(path: Path) -> None:
    done = run_idsync("tag", "777", "--config", path)
    assert done.returncode == 0
    assert done.stdout == '<script async src="https://sync.example.com/idsync.js?data_source=app"></script>\n'
    assert "script-src https://sync.example.com; img-src" in done.stderr


def test_the_mail_image_stands_below_the_snippet_or_alone(path: Path) -> None:
    for name, dpid, lines in (("crm", 12345, 2), ("mailing", 1001, 1)):
        done = run_idsync("tag", name, "--email", "--config", path)
        assert (done.returncode, done.stdout.count("\n")) == (0, lines)
        image = f"https://sync.example.com/ibs:dpid={dpid}&amp;dpuuid={{{{CUSTOMER_ID}}}}"
        assert done.stdout.endswith(f'<img src="{image}" width="1" height="1" alt="">\n')


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (["mailing"], 'data source "mailing" has no placement\n  → say where'),
        (["gone"], "denied = true"),
        (["gone", "--email"], "denied = true"),
        (["signed"], 'signature = "required"'),
        (["signed", "--email"], 'signature = "required"'),
        (["crn"], "known here: crm (12345), "),
    ],
)
def test_what_has_no_snippet(path: Path, arguments: list[str], told: str) -> None:
    done = run_idsync("tag", *arguments, "--config", path)
    assert (done.returncode, done.stdout) == (2, "")
    assert told in done.stderr
    assert "Traceback" not in done.stderr
