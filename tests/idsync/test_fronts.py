"""Both fronts give the same answers: one corpus of calls, valid, odd and hostile, through each, byte for byte."""

import asyncio
import random
from collections.abc import Callable, Sequence
from contextlib import closing
from pathlib import Path
from typing import Any
from urllib.parse import quote, unquote_to_bytes

import pytest
from werkzeug.test import create_environ, run_wsgi_app

from idsync.app import create_app
from idsync.asgi import RAW_TARGET, Application
from idsync.errors import StoreUnavailable
from idsync.store import open_store
from tests.idsync.samples import NOW, OTHER_UUID, UUID, serving_in_process, settings

# method, raw target, headers
Call = tuple[str, str, list[tuple[str, str]]]
# status, headers in their order with names in lower case, body
Seen = tuple[int, list[tuple[str, str]], bytes]

CALLS = 4_000
PEER = "127.0.0.1"
SEED = 20_261_124
HOSTS = ["dpm.demdex.net", "a.partner.example", "evil.example", "dpm.demdex.net.evil.example", "[::1]", "localhost:1"]
REDIRECTS = [
    *(f"https://{host}/p?u=${{DD_UUID}}&v=a%26b" for host in HOSTS),
    *("//evil.example", "/\t/evil.example", "https://evil.example\\@dpm.demdex.net/", "javascript:alert(1)", ""),
    *("https://dpm.demdex.net/{a}|^`\"<>'", "https://dpm.demdex.net:443/%zz", "http://localhost/${DD_UUID}${OTHER}"),
]
VALUES: dict[str, Sequence[str]] = {
    "dpid": ["12345", "777", "999", "0", "012345", "1e5", "", "-1", "١٢٣٤٥"],
    "dpuuid": [
        "a&b",
        "a+b",
        "a b",
        "007",
        "1e5",
        "café",
        "\U0001f600",
        "",
        " ",
        "a:b",
        "a\tb",
        "x" * 512,
        "x" * 513,
        "%3A",
    ],
    "d_uuid": [UUID, OTHER_UUID, UUID[1:], "0", "", "\uff11" * 38],
    "redir": REDIRECTS,
    "d_cid": ["12345\x01a", "777\x01b\x011", "999\x01c", "12345\x01a:b", "12345", "12345\x01d\x017", "20914\x01e"],
    "d_cid_ic": ["acme-crm\x01f", "acme shöp\x01g\x012", "\x01", "other\x01h"],
    "d_mid": [UUID, "1"],
    "d_cb": ["callback", "a.b.$c", "alert(1)", "", "a" * 200, "é"],
    "d_sig": ["k.1.x", ""],
    "d_rtbd": ["json", "JSON", ""],
    "gdpr": ["0", "1", "", "2"],
    "gdpr_consent": ["CA", ""],
    "gpp": ["DBAA", ""],
    "us_privacy": ["1YNN", "1YYN", "1---", "x"],
    "idsync_return": ["1"],
    "unknown": ["x", "%"],
}
RAW = ["%", "%f", "%FF", "%00", "#", "?", "=", "&", "&&", "é", "\x80", "%c0%af", "dpid", "dpid=1=2", "%64pid=12345"]
OTHER_TARGETS = [
    *("/", "/healthz", "/robots.txt", "/nothing", "/sync/", "/ibs", "/%69bs:dpid=1", "//ibs:dpid=1", "/sync"),
    *("/sync?", "/ibs:", "http://h/ibs:dpid=12345&dpuuid=absolute", "http://h", "/healthz?", "/healthz/../ibs:", "*"),
]
OPT_OUTS = [
    *("/demoptout.jpg", "/demoptout", "/demoptout?d_cid=12345%01customer-9&d_rtbd=json", "/demoptout?d_cid=999%01x"),
    *(f"/demoptout?d_uuid={OTHER_UUID}&d_cb=f", "/demoptout?d_uuid=%zz", "/demoptout?redir=https%3A%2F%2Fevil.example"),
]
HEADERS = [
    *(
        [],
        [],
        [],
        [("cookie", f"__Host-idsync={UUID}")],
        [("cookie", f"a=b; __Host-idsync={OTHER_UUID}")],
        [("sec-gpc", "1")],
    ),
    *(
        [("cookie", f"__Host-idsync={UUID}; __Host-idsync={OTHER_UUID}")],
        [("cookie", f"__Host-idsync={UUID}"), ("cookie", "a=b")],
    ),
    *([("sec-gpc", "0")], [("sec-gpc", "1"), ("sec-gpc", "1")], [("sec-gpc", " ")], [("cookie", "__Host-idsync=\xe9")]),
    *(
        [("purpose", "prefetch")],
        [("user-agent", "Googlebot/2.1")],
        [("user-agent", "Mozilla/5.0 (X11) Firefox/128.0")],
    ),
    *([("origin", "https://www.example.com")], [("origin", "null")], [("referer", "https://evil.example/")]),
    *([("x-forwarded-for", "203.0.113.7, 10.0.0.1")], [("x-forwarded-for", "x"), ("x-forwarded-for", "::1")]),
]


def corpus() -> list[Call]:
    draw = random.Random(SEED)
    calls: list[Call] = []
    for number in range(CALLS):
        kind = draw.random()
        if kind < 0.1:
            target = draw.choice(OTHER_TARGETS)
        else:
            parameters = {"dpid": "12345", "dpuuid": f"customer-{number % 700}"} if kind < 0.7 else {}
            for name in draw.sample(list(VALUES), draw.randint(0, 4)):
                parameters[name] = draw.choice(VALUES[name])
            parts = [f"{name}={quote(value, safe='')}" for name, value in parameters.items()]
            if kind > 0.9:
                parts.insert(draw.randint(0, len(parts)), draw.choice(RAW))
            target = draw.choice(["/ibs:", "/sync?", "/id?", "/event?", "http://sync.example.com/ibs:"]) + "&".join(
                parts
            )
        method = draw.choice(["GET"] * 8 + ["HEAD", "POST", "OPTIONS"])
        calls.append((method, target, draw.choice(HEADERS)))
    return calls


def through_flask(app: Any, call: Call) -> Seen:
    method, target, headers = call
    path, _, query = target.partition("?")
    environ = create_environ(method=method)
    environ |= {"RAW_URI": target, "PATH_INFO": unquote_to_bytes(path).decode("latin-1"), "QUERY_STRING": query}
    for name, value in headers:
        key = f"HTTP_{name.upper().replace('-', '_')}"
        environ[key] = f"{environ[key]},{value}" if key in environ else value
    environ["REMOTE_ADDR"] = PEER
    body, status, answered = run_wsgi_app(app, environ, buffered=True)
    return int(status.split()[0]), [(name.lower(), value) for name, value in answered], b"".join(body)


def through_asgi(application: Application, calls: Sequence[Call]) -> list[Seen]:
    async def one(call: Call) -> Seen:
        method, target, headers = call
        path, _, query = target.partition("?")
        scope = {
            "type": "http",
            "http_version": "1.1",
            "method": method,
            "path": unquote_to_bytes(path.encode("latin-1")).decode("utf-8", "replace"),
            "raw_path": path.encode("latin-1"),
            "query_string": query.encode("latin-1"),
            "extensions": {RAW_TARGET: target},
            "headers": [(name.encode(), value.encode("latin-1")) for name, value in headers],
            "server": ("127.0.0.1", 80),
            "client": (PEER, 40_000),
        }
        sent: list[Any] = []

        async def receive() -> Any:
            return {"type": "http.request", "body": b"", "more_body": False}

        async def send(message: Any) -> None:
            sent.append(message)

        await application(scope, receive, send)
        answered = [(name.decode("latin-1").lower(), value.decode("latin-1")) for name, value in sent[0]["headers"]]
        return sent[0]["status"], answered, b"".join(message.get("body", b"") for message in sent[1:])

    async def all_of_them() -> list[Seen]:
        return [await one(call) for call in calls]

    return asyncio.run(all_of_them())


def play(base: Path, through: Callable[[Any], Any], store: Any = None, identity: str = "mint") -> tuple[Any, Any]:
    """The answers, and all mappings that are there afterwards, in store and spool."""
    draw, clock = random.Random(SEED), iter(range(NOW, NOW + 10 * CALLS))
    options = {"identity": identity, "clock": lambda: next(clock), "entropy": draw.randbytes}
    with serving_in_process(base, store, **options) as service:
        answers = through(service)
        spooled = service._spool.oldest(CALLS)
        waiting = service._spool.waiting_opt_outs(CALLS)
    with closing(open_store(settings(base).store)) as opened:
        mappings = [row for dpid in (12345, 777) for batch in opened.export(dpid, NOW) for row in batch.to_pylist()]
        opt_outs = [*waiting, *opened.opt_outs()]
    return answers, (mappings, spooled, opt_outs)


class Away:
    def record(self, *_: object) -> list[str]:
        raise StoreUnavailable("away")

    check = opt_out = opted_out = latest = record

    def close(self) -> None:
        pass


def through_both(base: Path, calls: Sequence[Call], store: Any, identity: str) -> tuple[list[Seen], tuple[Any, ...]]:
    """The answers, and what was kept; the same for both fronts."""

    def flask(service: Any) -> list[Seen]:
        app = create_app(service)
        return [through_flask(app, call) for call in calls]

    def asgi(service: Any) -> list[Seen]:
        return through_asgi(Application(service), calls)

    answers, kept = play(base / "flask", flask, store, identity)
    answers_asgi, kept_asgi = play(base / "asgi", asgi, store, identity)
    for call, answer, answer_asgi in zip(calls, answers, answers_asgi, strict=True):
        assert answer_asgi == answer, call
    assert kept_asgi == kept
    return answers, kept


@pytest.mark.parametrize("identity", ["mint", "audience-manager"])
@pytest.mark.parametrize("store", [None, Away()], ids=["store", "spool"])
def test_both_fronts_answer_alike(tmp_path: Path, identity: str, store: Any) -> None:
    answers, kept = through_both(tmp_path, corpus(), store, identity)
    assert sum(map(len, kept)) > 30
    statuses = [status for status, _, _ in answers]
    expected = (200, 204, 302, 400, 404, 405)
    assert {status: statuses.count(status) > 50 for status in expected} == dict.fromkeys(expected, True)


@pytest.mark.parametrize("identity", ["mint", "audience-manager"])
@pytest.mark.parametrize("store", [None, Away()], ids=["store", "spool"])
def test_both_fronts_opt_out_alike(tmp_path: Path, identity: str, store: Any) -> None:
    calls = corpus()[:600]
    opt_outs: list[Call] = [("GET", target, headers) for target in OPT_OUTS for headers in HEADERS]
    answers, kept = through_both(tmp_path, [*calls, *opt_outs, *calls], store, identity)
    assert kept[2]
    refused = [dict(headers).get("x-error", "").startswith("171") for _, headers, _ in answers]
    assert sum(refused[: len(calls)]) == 0
    assert sum(refused[-len(calls) :]) > 2
