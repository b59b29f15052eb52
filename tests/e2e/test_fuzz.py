"""Whatever is sent, the endpoint answers in bounded time, never with an error of its own, and logs nothing of it."""

import random
import socket
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import schemathesis
from hypothesis import HealthCheck, settings
from schemathesis.checks import not_a_server_error
from schemathesis.specs.openapi.checks import (
    content_type_conformance,
    response_schema_conformance,
    status_code_conformance,
)

from tests.endpoint import Endpoint, serving
from tests.idsync.samples import OTHER_UUID, UUID, configuration

SEED = 20_261_124
REQUESTS = 1_500
MARK = "hush-7f3a"
_SECONDS = 5  # a request that is not finished is waited for longer, by design; these all end

TEXT = {"schema": {"type": "string"}}
PARAMETERS = [
    *("dpid", "dpuuid", "d_cid", "d_cid_ic", "d_uuid", "d_mid", "redir", "d_rtbd", "d_cb", "d_sig", "gdpr"),
    *("gdpr_consent", "gpp", "gpp_sid", "us_privacy", "idsync_return"),
]
ANSWER: dict[str, Any] = {
    "type": "object",
    "required": ["uuid", "stored", "errors"],
    "additionalProperties": False,
    "properties": {
        "uuid": {"type": "string", "pattern": "^([0-9]{38})?$"},
        "stored": {"type": "integer", "minimum": 0, "maximum": 10},
        "errors": {
            "type": "array",
            "items": {
                "type": "object",
                "required": ["code", "msg"],
                "properties": {"code": {"type": "integer"}, "msg": {"type": "string"}},
            },
        },
    },
}
JSON = {"description": "as JSON", "content": {"application/json": {"schema": ANSWER}}}
TOLD = {
    "description": "pixel, script or JSON",
    "content": {"application/json": {"schema": ANSWER}, "image/gif": {}, "text/javascript": {}},
}


def route(statuses: dict[str, Any], parameters: list[str], *, in_path: tuple[str, ...] = ()) -> dict[str, Any]:
    named: list[dict[str, Any]] = [{"name": name, "in": "query", **TEXT} for name in parameters]
    named += [{"name": name, "in": "path", "required": True, **TEXT} for name in in_path]
    headers = [{"name": name, "in": "header", "schema": {"type": "string"}} for name in ("Cookie", "Referer", "Origin")]
    return {"get": {"parameters": named + headers, "responses": statuses}}


OPT_OUT = {
    "description": "as a sentence, image, script or JSON",
    "content": {
        "application/json": {
            "schema": {
                "type": "object",
                "required": ["opted_out", "errors"],
                "additionalProperties": False,
                "properties": {
                    "opted_out": {"type": "integer", "minimum": 0},
                    "errors": ANSWER["properties"]["errors"],
                },
            }
        },
        "image/gif": {},
        "text/javascript": {},
        "text/plain": {},
    },
}
TEXT_200 = {"description": "as text", "content": {"text/plain": {}}}
SCHEMA = schemathesis.openapi.from_dict(
    {
        "openapi": "3.0.3",
        "info": {"title": "idsync", "version": "1"},
        "paths": {
            **{
                path: route({"200": TOLD, "302": {"description": "sent on"}, "400": JSON}, PARAMETERS)
                for path in ("/sync", "/event", "/id")
            },
            "/ibs:dpid=12345&dpuuid={dpuuid}&redir=https%3A%2F%2Fdpm.demdex.net%2F%3Fu%3D%24%7BDD_UUID%7D": route(
                {"302": {"description": "sent on"}, "400": JSON}, [], in_path=("dpuuid",)
            ),
            "/ibs:d_cid=12345%01{customer_id}&d_cid_ic=acme-crm%01{other}&d_rtbd={form}": route(
                {"200": TOLD, "400": JSON}, [], in_path=("customer_id", "other", "form")
            ),
            **{
                path: route({"200": OPT_OUT, "302": {"description": "sent on"}, "400": JSON}, PARAMETERS)
                for path in ("/demoptout", "/demoptout.jpg")
            },
            "/healthz": route({"200": TEXT_200}, []),
            "/readyz": route({"200": {"description": "ready", "content": {"application/json": {}}}}, []),
            "/metrics": route({"200": TEXT_200}, []),
            "/robots.txt": route({"200": TEXT_200}, []),
            "/idsync.js": route({"200": {"description": "", "content": {"text/javascript": {}}}, "404": TEXT_200}, []),
        },
    }
)


@pytest.fixture(scope="module")
def endpoint(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Endpoint]:
    folder: Path = tmp_path_factory.mktemp("fuzz")
    config = folder / "idsync.toml"
    config.write_text(configuration())
    with serving(config, "--workers", "1") as running:
        yield running
        status, output = running.stop()
    assert status == 0
    assert "Traceback" not in output
    assert "ERROR" not in output
    assert MARK not in output


def fuzzed(path: str) -> Callable[..., None]:
    """A test of one route: several would have one name, and where tests run side by side one of them alone be run."""

    @SCHEMA.include(path=path).parametrize()
    @settings(max_examples=60, deadline=None, suppress_health_check=list(HealthCheck), derandomize=True)
    def documented_route(case: Any, endpoint: Endpoint) -> None:
        """What is no sync call is refused, so that "valid by its types" does not mean accepted here."""
        checks = [not_a_server_error, status_code_conformance, content_type_conformance, response_schema_conformance]
        case.call_and_validate(base_url=f"http://127.0.0.1:{endpoint.port}", checks=checks)

    tested: Callable[..., None] = documented_route
    return tested


for _number, _path in enumerate(SCHEMA.raw_schema["paths"]):
    globals()[f"test_documented_route_{_number}"] = fuzzed(_path)


TARGETS = [
    f"/ibs:dpid=12345&dpuuid={MARK}",
    f"/sync?d_cid=12345%01{MARK}&d_cid_ic=acme-crm%01{MARK}%011&d_uuid={UUID}&d_mid={OTHER_UUID}",
    f"/id?dpid=12345&dpuuid={MARK}&redir=https%3A%2F%2Fdpm.demdex.net%2F%3Fu%3D%24%7BDD_UUID%7D{MARK}&d_cb={MARK}",
    f"/ibs:dpid=20915&dpuuid={MARK}&gdpr=1&gdpr_consent={MARK}&gpp={MARK}&us_privacy=1YNN&d_sig={MARK}.1.x",
    f"/demoptout?d_cid=12345%01{MARK}&d_mid={OTHER_UUID}&redir=https%3A%2F%2Fdpm.demdex.net%2F{MARK}",
    f"/demoptout.jpg?dpid=12345&dpuuid={MARK}&d_uuid={UUID}&d_rtbd=json&d_cb={MARK}",
    f"/idsync.js?data_source={MARK}",
    f"/{MARK}",
]
LINES = [
    f"Cookie: __Host-idsync={UUID}; a={MARK}",
    f"Referer: https://{MARK}.example/",
    f"Origin: https://{MARK}.example",
    f"User-Agent: {MARK}bot",
    f"X-Forwarded-For: {MARK}, 203.0.113.7",
    f"Sec-Purpose: {MARK}",
    "Sec-GPC: 1",
    "Content-Length: 0",
    f"Transfer-Encoding: {MARK}",
    f"Expect: {MARK}",
    f"Upgrade: {MARK}",
    f"If-None-Match: {MARK}",
    f"{MARK}",
    f"{MARK}: \x00",
]
PIECES = [
    b"%",
    b"%00",
    b"%ff",
    b"&",
    b"=",
    b"?",
    b"#",
    b"\x00",
    b"\x80",
    b"\r",
    b"\n",
    b"\r\n",
    b" ",
    b"\t",
    b"\\",
    b"%01",
]
PIECES += [b"a" * 5_000, b"%0d%0a", b"\xf0\x9f\x98\x80", b":", b"//", b"..", b"${DD_UUID}", b"{{", b"@"]


def requests() -> Iterator[bytes]:
    draw = random.Random(SEED)
    for _ in range(REQUESTS):
        method = draw.choice(["GET"] * 6 + ["HEAD", "OPTIONS", "POST", "get", "GET /", MARK])
        lines = [f"{method} {draw.choice(TARGETS)} HTTP/1.1", "Host: sync.example.com", "Connection: close"]
        lines += draw.sample(LINES, draw.randint(0, 4))
        raw = bytearray("\r\n".join([*lines, "", ""]).encode())
        for _ in range(draw.choice([0, 1, 1, 2, 5])):
            at = draw.randrange(len(raw))
            raw[at : at + draw.choice([0, 0, 1, 4])] = draw.choice(PIECES)
        yield bytes(raw) + b"\r\n\r\n"


def test_raw_requests(endpoint: Endpoint) -> None:
    answered = 0
    for raw in requests():
        with socket.create_connection(("127.0.0.1", endpoint.port), timeout=_SECONDS) as connection:
            connection.sendall(raw)
            connection.shutdown(socket.SHUT_WR)
            answer = b""
            try:
                while piece := connection.recv(65_536):
                    answer += piece
            except ConnectionResetError:
                pass  # closed with bytes of ours unread
        assert b" 500 " not in answer.split(b"\r\n", 1)[0], raw
        assert b"Traceback" not in answer
        answered += answer.startswith(b"HTTP/1.1 ")
    assert answered > REQUESTS * 0.8
    assert endpoint.get("/healthz").status == 200
