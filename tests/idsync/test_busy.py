"""Nothing that a caller can send, up to the server's limits, keeps a worker busy: work grows with length alone."""

import runpy
import time
from collections.abc import Iterator
from contextlib import closing

import pytest
from flask import Flask

from idsync import config, ids, signals
from idsync.app import create_app
from idsync.call import SyncCall
from idsync.server import LIMITS
from idsync.service import Service, open_spool
from idsync.store import open_store
from tests.idsync.samples import UUID
from tests.idsync.test_app import ask

CONFIGURATION = f"""
[store]
url = "sqlite:///idsync.db"

[endpoint]
redirect_hosts = ["dpm.demdex.net", ".partner.example"]
status = "token"
status_token_file = "token"

[privacy]
gdpr_default = "does-not-apply"

[abuse]
trusted_proxies = ["127.0.0.1"]

[[data_sources]]
name = "crm"
dpid = 12345
integration_code = "crm"
placement = {{ kind = "cookie", name = "crm_id" }}
referers = [".example.com"]
national_ids = {sorted(ids.COUNTRIES)}
signature = "optional"
signing_keys_file = "keys"
"""
LIMIT = runpy.run_path(str(LIMITS))
LINE, FIELDS, FIELD = (LIMIT[f"limit_request_{name}"] for name in ("line", "fields", "field_size"))
STARTS = ["", "__Host-idsync=optout", "https://", "https%3A%2F%2Fdpm.demdex.net%2F", "12345%01", "C", "DBABMA~", "k.1."]
PIECES = [
    *(" ", "\t", ";", ",", "=", "-", "_", "@", "%20", "%2E", "%2F", "%25", "%40", "%24%7B", "%7B%7B", "%25%25", "$"),
    *("a.", "a-", "a ", "a@", "a=", '"', "0", "0 ", "00 ", "+1", "(", "[", "__", "<", "~", "A", "~B", ":", "é"),
    *("::1,", "127.0.0.1,", "bot ", "mozilla/ +http", "prefetch", "/.", "//", "\\", "d_cid=12345%01a&", "&", "%01"),
]
# Several times what any takes; a reader that looks at blanks again and again would take a minute.
SECONDS = 1.0


@pytest.fixture(scope="module")
def app(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Flask]:
    base = tmp_path_factory.mktemp("busy")
    for name, content in (("token", "a" * 32), ("keys", f"k {'5a' * 32}")):
        (base / name).write_text(content)
        (base / name).chmod(0o600)
    chosen = config.parse(CONFIGURATION, environ={}, base=base)
    with closing(Service(chosen, open_store(chosen.store), open_spool(chosen))) as service:
        yield create_app(service)


def spent(app: Flask, target: str, **headers: str) -> float:
    start = time.process_time()
    ask(app, target, **headers)
    return time.process_time() - start


HEADERS = [header.replace("-", "_") for header in signals.FIELDS]
REFERER = "https://www.example.com/"
TARGETS = ["/ibs:dpid=12345&dpuuid=a", "/demoptout", "/idsync.js", "/status"]


@pytest.mark.parametrize("target", TARGETS)
@pytest.mark.parametrize("header", [*HEADERS, "if_none_match", "authorization", "host"])
def test_by_a_header(app: Flask, header: str, target: str) -> None:
    """Also one that is repeated in as many lines as there may be: they arrive as one."""
    for start in STARTS[:3]:
        for piece in PIECES:
            line = f"{start}{piece * (FIELD // len(piece))}x"
            headers = {"referer": REFERER, header: ",".join([line] * FIELDS)}
            assert spent(app, target, **headers) < SECONDS, (start, piece)


@pytest.mark.parametrize("name", [*SyncCall._fields, "d_cid", "d_cid_ic", "data_source"])
@pytest.mark.parametrize("target", ["/sync?d_cid=12345%01a&gdpr=1&gpp_sid=2,7&", "/demoptout?", "/idsync.js?"])
def test_by_a_parameter(app: Flask, name: str, target: str) -> None:
    for start in STARTS:
        for piece in PIECES:
            raw = f"{target}{name}={start}{piece * (LINE // len(piece))}"[:LINE]
            assert spent(app, raw, referer=REFERER, cookie=f"__Host-idsync={UUID}") < SECONDS, (start, piece)
