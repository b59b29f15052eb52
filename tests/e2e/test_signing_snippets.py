"""The snippets for a site's server, run by the languages themselves, sign as the endpoint verifies."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from idsync import signature
from idsync.call import SyncCall, parse
from idsync.service import milliseconds_now
from idsync.signature import Keys, Reason
from tests.idsync.samples import UUID

SNIPPETS = Path(__file__).parent.parent.parent / "deploy" / "signing"
SECRET = bytes(range(224, 256))
KEY = f"2026-11 {SECRET.hex()}"
KEYS = Keys({"2026-11": SECRET})
CUSTOMER_IDS = [
    "user-4711",
    "a&b=c",
    "a+b c",
    " a ",
    "100%",
    "%41",
    "\"'`<>",
    "\\n\\",
    "$a ${b} {$c}",
    "a/b?c#d;e,f",
    "!'()*~-._",
    "0",
    "007",
    "1e5",
    "Müller",
    "Mu\u0308ller",
    "用户",
    "\U0001f600\u200d",
    "x" * 512,
]

# Each reads the arguments of its function as JSON, many calls at a time, and prints the queries as JSON.
PYTHON = """
import json, sys
sys.path.insert(0, sys.argv[1])
import sign
print(json.dumps([sign.signed_query(*call) for call in json.load(sys.stdin)]))
"""
PHP = """
require $argv[1] . "/sign.php";
$calls = json_decode(stream_get_contents(STDIN));
echo json_encode(array_map(function ($call) { return idsync_signed_query(...$call); }, $calls));
"""
NODE = """
const { signedQuery } = require(`${process.argv[1]}/sign.js`);
const calls = JSON.parse(require("fs").readFileSync(0, "utf8"));
console.log(JSON.stringify(calls.map((call) => signedQuery(...call))));
"""
RUNNERS = {
    "python": [sys.executable, "-I", "-B", "-c", PYTHON],
    "php": ["php", "-n", "-d", "error_reporting=-1", "-d", "display_errors=stderr", "-r", PHP, "--"],
    "node": ["node", "-e", NODE],
}


def run(language: str, calls: list[list[object]]) -> list[str]:
    done = subprocess.run(
        [*RUNNERS[language], SNIPPETS],
        input=json.dumps(calls),
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )
    assert (done.returncode, done.stderr) == (0, "")
    queries = json.loads(done.stdout)
    assert len(queries) == len(calls)
    return [str(query) for query in queries]


@pytest.mark.parametrize("uuid", ["", UUID])
@pytest.mark.parametrize("language", RUNNERS)
def test_the_endpoint_takes_what_a_snippet_signs(language: str, uuid: str) -> None:
    before = milliseconds_now() // 1000
    queries = run(language, [[KEY, 12345, customer_id, uuid] for customer_id in CUSTOMER_IDS])
    after = milliseconds_now() // 1000
    for customer_id, query in zip(CUSTOMER_IDS, queries, strict=True):
        for target in (f"/ibs:{query}", f"/sync?{query}"):
            call = parse(target)
            assert isinstance(call, SyncCall)
            assert (call.dpid, call.dpuuid, call.d_uuid or "") == ("12345", customer_id, uuid)
        d_sig = query.rpartition("&d_sig=")[2]
        expires = int(d_sig.split(".")[1])
        assert before + 600 <= expires <= after + 600
        assert signature.verify(KEYS, [d_sig], 12345, customer_id, uuid, after) is None
        assert signature.verify(KEYS, [d_sig], 12345, customer_id + "x", uuid, after) is Reason.MISMATCH
        # Byte for byte as the command does it, so that the languages can't differ in what they leave unencoded.
        assert query == signature.query(
            12345, customer_id, uuid, signature.sign(KEYS, 12345, customer_id, uuid, expires)
        )


@pytest.mark.parametrize("language", RUNNERS)
def test_validity_and_a_long_dpid(language: str) -> None:
    before = milliseconds_now() // 1000
    [query] = run(language, [[f" {KEY}\n", 9_999_999_999, "a", "", 60]])
    after = milliseconds_now() // 1000
    d_sig = query.rpartition("&d_sig=")[2]
    assert before + 60 <= int(d_sig.split(".")[1]) <= after + 60
    assert signature.verify(KEYS, [d_sig], 9_999_999_999, "a", "", after) is None
