"""The Flask application on a SQLite store: what goes in and out of WSGI, and what happens when the store is away."""

import json
import logging
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any
from urllib.parse import unquote_to_bytes

import pytest
from flask import Flask
from hypothesis import given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st
from werkzeug.datastructures import Headers
from werkzeug.test import create_environ, run_wsgi_app

from idsync import signals, wsgi
from idsync.app import create_app
from idsync.call import SyncCall
from idsync.errors import StoreMisconfigured, StoreUnavailable
from idsync.reply import PIXEL
from idsync.store import open_store
from idsync.store.base import MappingStore, Sync
from tests.idsync.samples import NOW, OTHER_UUID, UUID, configuration, serving_in_process, settings


def ask(app: Flask, target: str, *, method: str = "GET", **headers: str) -> tuple[int, Headers, bytes]:
    """One request as gunicorn hands it over: the raw target beside the decoded path."""
    path, _, query = target.partition("?")
    environ = create_environ(method=method)
    environ |= {
        "REMOTE_ADDR": "127.0.0.1",
        "RAW_URI": target,
        "PATH_INFO": unquote_to_bytes(path).decode("latin-1"),
        "QUERY_STRING": query,
    }
    environ |= {f"HTTP_{name.upper()}": value for name, value in headers.items()}
    body, status, answered = run_wsgi_app(app, environ, buffered=True)
    return int(status.split()[0]), answered, b"".join(body)


@pytest.fixture
def store(tmp_path: Path) -> Iterator[MappingStore]:
    with closing(open_store(settings(tmp_path).store)) as store:
        yield store


@pytest.fixture
def app(tmp_path: Path) -> Iterator[Flask]:
    with serving_in_process(tmp_path) as service:
        yield create_app(service)


def test_a_call_is_stored_and_found_again(app: Flask, store: MappingStore) -> None:
    status, headers, body = ask(app, "/ibs:dpid=12345&dpuuid=a%26b")
    assert (status, body) == (200, PIXEL)
    [device] = store.devices(12345, "a&b", NOW)
    assert device.last_seen == NOW
    assert headers["Set-Cookie"].startswith(f"__Host-idsync={device.uuid};")
    status, _, body = ask(app, "/sync?dpid=12345&dpuuid=a%26b&d_rtbd=json")
    assert json.loads(body) == {"uuid": device.uuid, "stored": 1, "errors": []}


def test_the_cookie_names_the_device(app: Flask, store: MappingStore) -> None:
    _, headers, _ = ask(app, "/ibs:dpid=12345&dpuuid=a", cookie=f"__Host-idsync={UUID}")
    assert [device.uuid for device in store.devices(12345, "a", NOW)] == [UUID]
    assert headers["Set-Cookie"].startswith(f"__Host-idsync={UUID};")


def test_an_explicit_uuid_leaves_the_cookie_alone(app: Flask, store: MappingStore) -> None:
    _, headers, _ = ask(app, f"/ibs:dpid=12345&dpuuid=a&d_uuid={OTHER_UUID}", cookie=f"__Host-idsync={UUID}")
    assert [device.uuid for device in store.devices(12345, "a", NOW)] == [OTHER_UUID]
    assert "Set-Cookie" not in headers


def test_global_privacy_control_is_read_from_its_header(app: Flask, store: MappingStore) -> None:
    status, headers, body = ask(app, "/ibs:dpid=12345&dpuuid=a", sec_gpc="1", cookie=f"__Host-idsync={UUID}")
    assert (status, headers["X-Error"], body) == (200, "315", PIXEL)
    assert store.devices(12345, "a", NOW) == []


def test_location_leaves_byte_for_byte(app: Flask) -> None:
    """Werkzeug left to itself would write %7B for the brace and drop a default port."""
    location = 'https://dpm.demdex.net:443/a{b}|^`c"<d>//e;f?g=h%2fi#j={DD_UUID}'
    encoded = "".join(f"%{byte:02x}" for byte in location.encode())
    status, headers, body = ask(app, f"/ibs:dpid=12345&dpuuid=a&redir={encoded}")
    assert (status, headers.getlist("Location"), body) == (302, [location], b"")
    assert "Content-Type" not in headers


def test_macros_of_consent(app: Flask) -> None:
    redir = "https%3A%2F%2Fdpm.demdex.net%2F%3Fg%3D%24%7BGDPR%7D%26c%3D%24%7BGDPR_CONSENT_565%7D"
    target = f"/ibs:dpid=12345&dpuuid=a&redir={redir}"
    _, headers, _ = ask(app, f"{target}&gdpr=0&gdpr_consent=C%2BA.B%26")
    assert headers["Location"] == "https://dpm.demdex.net/?g=0&c=C%2BA.B%26"
    _, headers, _ = ask(app, target)
    assert headers["Location"] == "https://dpm.demdex.net/?g=&c="


SITE = "https://www.example.com"


@pytest.mark.parametrize("target", ["/sync?dpid=12345&dpuuid=a&d_rtbd=json", "/id", "/sync?dpid=999&dpuuid=a"])
def test_pages_of_listed_origins_may_read_json(app: Flask, target: str) -> None:
    _, headers, _ = ask(app, target, origin=SITE)
    assert headers["Access-Control-Allow-Origin"] == SITE
    assert headers["Access-Control-Allow-Credentials"] == "true"
    assert headers["Vary"] == "Origin"
    for origin in ("https://evil.example", "null", f"{SITE}.evil.example", f"{SITE}:444", "http://www.example.com", ""):
        _, headers, _ = ask(app, target, origin=origin)
        assert not [name for name, _ in headers if name.startswith("Access-Control")], origin
        assert headers["Vary"] == "Origin"


def test_only_json_may_be_read(app: Flask) -> None:
    for shape in ("", "&d_cb=f", "&redir=https%3A%2F%2Fdpm.demdex.net%2F"):
        _, headers, _ = ask(app, f"/ibs:dpid=12345&dpuuid=a{shape}", origin=SITE)
        assert not [name for name, _ in headers if name.startswith("Access-Control")], shape


def test_preflight(app: Flask) -> None:
    _, headers, _ = ask(app, "/sync?dpid=12345", method="OPTIONS", origin=SITE)
    assert headers["Access-Control-Allow-Origin"] == SITE
    assert headers["Access-Control-Allow-Methods"] == "GET, HEAD, OPTIONS"
    _, headers, _ = ask(app, "/sync?dpid=12345", method="OPTIONS", origin="https://evil.example")
    assert not [name for name, _ in headers if name.startswith("Access-Control")]


def test_the_pixel_may_stand_on_any_page(app: Flask) -> None:
    _, headers, _ = ask(app, "/ibs:dpid=12345&dpuuid=a")
    assert headers["Cross-Origin-Resource-Policy"] == "cross-origin"


def test_head_is_a_get_without_the_body(app: Flask, store: MappingStore) -> None:
    status, headers, body = ask(app, "/ibs:dpid=12345&dpuuid=a", method="HEAD")
    assert (status, headers["Content-Length"], body) == (200, "43", b"")
    assert len(store.devices(12345, "a", NOW)) == 1


SYNC_CALLS = ["/ibs:dpid=12345&dpuuid=a", "/sync?dpid=12345&dpuuid=a", "/id?dpid=12345&dpuuid=a"]


@pytest.mark.parametrize("target", [*SYNC_CALLS, "/healthz", "/readyz", "/idsync.js"])
@pytest.mark.parametrize("method", ["POST", "PUT", "DELETE", "TRACE", "PATCH"])
def test_other_methods(app: Flask, store: MappingStore, target: str, method: str) -> None:
    status, headers, _ = ask(app, target, method=method)
    assert (status, headers["Allow"]) == (405, "GET, HEAD, OPTIONS" if target in SYNC_CALLS else "GET, HEAD")
    assert store.devices(12345, "a", NOW) == []


@pytest.mark.parametrize("target", SYNC_CALLS)
def test_options(app: Flask, store: MappingStore, target: str) -> None:
    status, headers, body = ask(app, target, method="OPTIONS")
    assert (status, headers["Allow"], body) == (204, "GET, HEAD, OPTIONS", b"")
    assert "Content-Length" not in headers
    assert not [name for name in headers if name[0].startswith("Access-Control")]
    assert store.devices(12345, "a", NOW) == []


@pytest.mark.parametrize(
    "target", ["/", "/nothing", "/ibs", "/%69bs:dpid=1", "//ibs:dpid=1", "/healthz/", "//evil.example/..", "/static/x"]
)
def test_no_such_route(app: Flask, target: str) -> None:
    status, headers, body = ask(app, target)
    assert (status, body) == (404, b"Not Found\n")
    assert "Location" not in headers
    assert headers["Cache-Control"] == "no-store"


def test_small_routes(app: Flask) -> None:
    status, headers, body = ask(app, "/robots.txt")
    assert (status, body) == (200, b"User-agent: *\nDisallow: /\n")
    assert headers["Content-Type"] == "text/plain; charset=utf-8"
    assert ask(app, "/healthz?x=1")[0] == 200
    status, headers, body = ask(app, "/readyz")
    assert (status, headers["Content-Type"], json.loads(body)["ready"]) == (200, "application/json", True)


class Away:
    """A store that answers every operation with `error`."""

    def close(self) -> None:
        """As a store without a connection."""

    def __init__(self, error: Exception) -> None:
        self._error = error

    def __getattr__(self, operation: str) -> Any:
        def fail(*_: object) -> None:
            raise self._error

        return fail


AWAY = pytest.mark.parametrize(
    "error",
    [
        StoreUnavailable("redis://:hunter2@store:6379: connection refused"),
        StoreMisconfigured("redis://user:hunter2@store:6379: buckets differ"),
    ],
)


@AWAY
@pytest.mark.parametrize("shape", ["", "&d_rtbd=json", "&redir=https%3A%2F%2Fdpm.demdex.net%2F"])
def test_store_away(error: Exception, shape: str, tmp_path: Path) -> None:
    """The spool takes the call, and the visitor sees no difference."""
    target = f"/ibs:dpid=12345&dpuuid=a{shape}"
    with serving_in_process(tmp_path / "there") as there, serving_in_process(tmp_path, Away(error)) as away:
        assert ask(create_app(away), target) == ask(create_app(there), target)
        assert away.spooled()[0] == 1


@AWAY
@pytest.mark.parametrize("shape", ["", "&d_rtbd=json", "&redir=https%3A%2F%2Fdpm.demdex.net%2F"])
def test_store_and_spool_away(error: Exception, shape: str, tmp_path: Path) -> None:
    (tmp_path / "var").write_text("no folder")
    with serving_in_process(tmp_path, Away(error)) as service:
        app = create_app(service)
        status, headers, body = ask(app, f"/ibs:dpid=12345&dpuuid=a{shape}")
        assert status == 503
        assert int(headers["Retry-After"]) > 0
        assert json.loads(body)["stored"] == 0
        assert "Location" not in headers
        assert "Set-Cookie" not in headers
        assert ask(app, "/healthz")[0] == 200
        document = json.loads(ask(app, "/readyz")[2])
        assert "spool.db" in document["spool"]["reason"]


@AWAY
def test_readyz_tells_the_reason_but_no_password(error: Exception, tmp_path: Path) -> None:
    with serving_in_process(tmp_path, Away(error), clock=lambda: NOW + 1_500) as service:
        service._spool.record([Sync(12345, "a", UUID, "", NOW)])
        status, _, body = ask(create_app(service), "/readyz")
    document = json.loads(body)
    assert (status, document["ready"]) == (503, False)
    assert "store:6379" in document["reason"]
    assert b"hunter2" not in body
    assert document["spool"] == {"mappings": 1, "age_seconds": 1.5, "opt_outs": 0}


def test_readyz_while_shutting_down(tmp_path: Path) -> None:
    with serving_in_process(tmp_path) as service:
        service.draining = True
        status, _, body = ask(create_app(service), "/readyz")
    assert (status, json.loads(body)["reason"]) == (503, "shutting down")


@pytest.mark.parametrize("target", ["/ibs:dpid=12345&dpuuid=customer-1", "/readyz?dpuuid=customer-1"])
def test_a_fault_of_ours_is_logged_without_the_call(
    target: str, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    with serving_in_process(tmp_path, Away(ValueError("HSET customer-1"))) as service, caplog.at_level(logging.DEBUG):
        status, headers, _ = ask(create_app(service), target)
    assert (status, headers["Cache-Control"]) == (500, "no-store")
    assert "ValueError" in caplog.text
    assert "test_app.py" in caplog.text
    assert "customer-1" not in caplog.text


def test_a_server_without_the_raw_target_is_found_out(app: Flask, caplog: pytest.LogCaptureFixture) -> None:
    """Stored from the decoded path, a%26b would be two parameters."""
    environ = create_environ("/ibs:dpid=12345&dpuuid=a")
    del environ["RAW_URI"], environ["REQUEST_URI"]
    _, status, _ = run_wsgi_app(app, environ, buffered=True)
    assert status.startswith("500")
    assert "_raw_target" in caplog.text


TARGETS = st.builds(
    lambda start, parts: start + "&".join(parts),
    st.sampled_from(
        [
            "/ibs:",
            "/sync?",
            "/id?",
            "/event?",
            "/demoptout?",
            "/demoptout.jpg?",
            "/idsync.js?",
            "/",
            "",
            "http://h/ibs:",
            "//",
            "/ibs:dpid=12345&dpuuid=a&",
            "*",
        ]
    ),
    st.lists(
        st.builds(
            lambda name, value: f"{name}={value}",
            st.sampled_from([*SyncCall._fields, "d_cid", "d_cid_ic", "x"]),
            st.sampled_from(["12345", "a", UUID, "https://dpm.demdex.net/", "json", "%", "%FF", "0", "%0d%0a"])
            | st.sampled_from(["12345%01a", "acme-crm%01b%011", "20914%01c", "%01%01%01", "k.1.x", "f.g", "${DD_UUID}"])
            | st.text(alphabet=st.characters(min_codepoint=1, max_codepoint=255), max_size=20),
        )
        | st.text(alphabet=st.characters(min_codepoint=1, max_codepoint=255), max_size=20),
        max_size=5,
    ),
)


@pytest.fixture(scope="module")
def apps(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, Flask]]:
    base = tmp_path_factory.mktemp("apps")
    with serving_in_process(base) as mint, serving_in_process(base, identity="audience-manager") as asking:
        yield {"mint": create_app(mint), "audience-manager": create_app(asking)}


SENT = st.text(st.characters(max_codepoint=255), max_size=30) | st.sampled_from(
    [f"__Host-idsync={UUID}", "https://www.example.com", "null", "prefetch", "203.0.113.7, ::1", "1", "Googlebot/2.1"]
)
HEADERS = st.dictionaries(st.sampled_from([*signals.FIELDS.values(), "x_forwarded_for", "if_none_match"]), SENT)


@given(target=TARGETS, identity=st.sampled_from(["mint", "audience-manager"]), headers=HEADERS)
@hypothesis_settings(deadline=None, max_examples=400)
def test_no_target_or_header_is_an_error_of_ours(
    apps: dict[str, Flask], target: str, identity: str, headers: dict[str, str]
) -> None:
    status, answered, body = ask(apps[identity], target or "/", **headers)
    assert status in {200, 302, 304, 400, 404}
    assert (status == 302) is ("Location" in answered)
    if not target.partition("?")[0].endswith("/idsync.js"):
        assert answered["Cache-Control"] == "no-store"
        assert answered["Content-Length"] == str(len(body))
    assert len(answered.getlist("X-Error")) <= 1


def test_the_factory_for_other_servers(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "idsync.toml"
    path.write_text(configuration())
    monkeypatch.setenv("IDSYNC_CONFIG", str(path))
    assert ask(wsgi.app(), "/ibs:dpid=12345&dpuuid=a")[0] == 200
