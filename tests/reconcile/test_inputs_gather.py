"""Which files a run looks at: what is unfinished is left for the next one; objects of a bucket are copied once."""

import hashlib
import os
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from tempfile import TemporaryDirectory
from threading import Thread
from typing import Any

import boto3
import pytest

from idsync.errors import ConfigError, IdsyncError
from idsync.settings import Feed
from reconcile import inputs
from reconcile.errors import InputChanging, InputRefused, InputUnavailable
from reconcile.feed import Plan
from reconcile.inputs import Gathered, bucket
from reconcile.inputs.bucket import Bucket
from reconcile.inputs.remote import RemoteObject
from reconcile.progress import Meter
from tests.s3 import moto_s3

NOW = 1_790_000_000_000
NOBODY = 65_534
PLAN = Plan("id", ("a",), (), by_uuid=True, every_device=False, emit_unmatched=False)


def feed(pattern: str, **changes: Any) -> Feed:
    given = {"name": "daily", "data_source": "crm", "id_column": "id", "signals": ["a"], "destination": "local"}
    return Feed.model_validate({**given, "inputs": pattern, **changes}, context={"base": Path("/")})


@contextmanager
def gather(folder: Path, which: Feed, *, known: Iterable[str] = ()) -> Iterator[Gathered]:
    def those(found: Mapping[str, str]) -> set[str]:
        return {name for name, sha256 in found.items() if sha256 in set(known)}

    with inputs.gather(which, folder / "copies", NOW, Meter(), known=those, memory=folder / "state" / "m") as gathered:
        yield gathered


def content(source: inputs.Input) -> list[str]:
    return [text for chunk in inputs.read(source, PLAN) for text in chunk.columns[0].to_pylist()]


# --- folders ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "name",
    [
        *("a.csv.tmp", "a.csv.part", "._a.csv", ".a.csv", "a.csv.filepart", "A.CSV.TMP", "a.csv~", "a.crdownload"),
        "_SUCCESS",
    ],
)
def test_unfinished_names_are_passed_over_and_counted(tmp_path: Path, name: str) -> None:
    for each in ("b.csv", "a.csv", name):
        (tmp_path / each).write_text("id,a\n1,2\n")
    which = feed(str(tmp_path / "[!c]*")) if not name.startswith(".") else feed(str(tmp_path / ".*"))
    with gather(tmp_path, which) as gathered:
        assert gathered.unfinished == 1
        assert [source.path.name for source in gathered.sources] == ([] if name.startswith(".") else ["a.csv", "b.csv"])
    assert tmp_path / name not in inputs.discover(which.inputs)


@pytest.mark.parametrize(
    "name", ["a.csv", "tmp.csv", "part.tsv", "a.tmp.csv", "_a.csv", "SUCCESS.csv", "a.part.jsonl.gz"]
)
def test_finished_names_are_not(name: str) -> None:
    assert not inputs.is_unfinished(name)


def test_what_was_written_to_just_now_is_left_for_the_next_run(tmp_path: Path) -> None:
    for name, age in {"new.csv": 9.5, "ahead.csv": -3, "old.csv": 10}.items():
        (tmp_path / name).write_text("id,a\n1,2\n")
        os.utime(tmp_path / name, (NOW / 1000 - age,) * 2)
    with gather(tmp_path, feed(str(tmp_path / "*.csv"), settle_seconds=10)) as gathered:
        assert [source.path.name for source in gathered.sources] == ["old.csv"]
        assert gathered.unsettled == 2
    with gather(tmp_path, feed(str(tmp_path / "*.csv"))) as gathered:
        assert (len(gathered.sources), gathered.unsettled) == (3, 0)


def test_inputs_know_how_the_feed_writes(tmp_path: Path) -> None:
    (tmp_path / "a.csv").write_bytes("KUNDE;a\nZoë;x\n".encode("cp1252"))
    which = feed(str(tmp_path / "*.csv"), encoding="cp1252", columns={"id": "KUNDE"})
    with gather(tmp_path, which) as gathered:
        (source,) = gathered.sources
        assert content(source) == ["Zoë"]
        assert source.name == str(tmp_path / "a.csv")


def test_a_name_that_is_not_utf_8_is_refused(tmp_path: Path) -> None:
    """The ledger and reports could not tell of it; so nothing may be delivered either."""
    (tmp_path / os.fsdecode(b"M\xfcnchen.csv")).write_text("id,a\n1,2\n")
    with pytest.raises(InputRefused, match=r"M\\xfcnchen\.csv: the name is not UTF-8"):
        gather(tmp_path, feed(str(tmp_path / "*.csv"))).__enter__()


def test_a_link_to_what_is_gone_is_not_passed_over(tmp_path: Path) -> None:
    (tmp_path / "a.csv").symlink_to(tmp_path / "away.csv")
    with pytest.raises(InputRefused, match=r"a\.csv: a link to what is not there"):
        gather(tmp_path, feed(str(tmp_path / "*.csv"))).__enter__()
    (tmp_path / "a.csv").rename(tmp_path / "a.csv~")  # as Emacs locks what it edits
    with gather(tmp_path, feed(str(tmp_path / "*"))) as gathered:
        assert gathered.sources == []


def test_a_folder_is_no_file_that_is_missing(tmp_path: Path) -> None:
    (tmp_path / "inbox" / "done").mkdir(parents=True)
    with pytest.raises(ConfigError, match=r"is a folder; for the files in it say inbox/\*"):
        gather(tmp_path, feed(str(tmp_path / "inbox"))).__enter__()
    with gather(tmp_path, feed(str(tmp_path / "inbox" / "*"))) as gathered:  # no file yet
        assert gathered.sources == []


@pytest.mark.parametrize("pattern", ["*.csv", "a.csv"])
@pytest.mark.parametrize("mode", [0o000, 0o400])
def test_a_folder_that_may_not_be_looked_into_is_not_an_empty_one(pattern: str, mode: int) -> None:
    with not_as_root(), TemporaryDirectory() as name:
        folder = Path(name) / "inbox"
        folder.mkdir()
        (folder / "a.csv").write_text("id,a\n1,2\n")
        folder.chmod(mode)
        try:
            with pytest.raises(IdsyncError, match=r"inbox.*: Permission denied"):
                gather(Path(name), feed(str(folder / pattern))).__enter__()
        finally:
            folder.chmod(0o700)


@contextmanager
def not_as_root() -> Iterator[None]:
    """Root may look everywhere."""
    as_root = os.geteuid() == 0
    if as_root:
        os.seteuid(NOBODY)
    try:
        yield
    finally:
        if as_root:
            os.seteuid(0)


# --- buckets ---------------------------------------------------------------------------------------------------------


@pytest.fixture(autouse=True)
def credentials(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in {"AWS_ACCESS_KEY_ID": "id", "AWS_SECRET_ACCESS_KEY": "key"}.items():
        monkeypatch.setenv(name, value)


@pytest.fixture(scope="module")
def moto() -> Iterator[str]:
    with moto_s3() as url:
        yield url


class Inbox:
    """A bucket of its own for each test."""

    def __init__(self, url: str, name: str) -> None:
        self.url, self.bucket = url, name
        self.client = boto3.client("s3", endpoint_url=url, region_name="us-east-1", aws_access_key_id="id",
                                   aws_secret_access_key="key")  # fmt: skip
        self.client.create_bucket(Bucket=name)

    def put(self, **objects: bytes) -> None:
        for key, data in objects.items():
            self.client.put_object(Bucket=self.bucket, Key=key, Body=data)

    def feed(self, pattern: str, **changes: Any) -> Feed:
        where = {"inputs_endpoint_url": self.url, "inputs_region": "us-east-1"}
        return feed(f"s3://{self.bucket}/{pattern}", **{**where, **changes})


@pytest.fixture
def inbox(moto: str, tmp_path: Path) -> Inbox:
    return Inbox(moto, hashlib.sha256(str(tmp_path).encode()).hexdigest()[:32])


def test_objects_are_found_by_pattern_copied_and_read(inbox: Inbox, tmp_path: Path) -> None:
    inbox.put(**{
        "in/crm-2.csv": b"id,a\n2,x\n", "in/crm-1/deep.jsonl": b'{"id":"1"}\n', "in/crm-3.csv.tmp": b"half",
        "in/crm-4/": b"", "in/other.csv": b"id,a\n9,x\n", "crm-1.csv": b"id,a\n9,x\n",
    })  # fmt: skip
    with gather(tmp_path, inbox.feed("in/crm-*")) as gathered:
        urls = [source.name for source in gathered.sources]
        assert urls == [f"s3://{inbox.bucket}/in/crm-{rest}" for rest in ("1/deep.jsonl", "2.csv")]
        assert gathered.unfinished == 1
        assert [content(source) for source in gathered.sources] == [["1"], ["2"]]
        assert gathered.sources[1].sha256 == hashlib.sha256(b"id,a\n2,x\n").hexdigest()
        for source in gathered.sources:
            inputs.check_unchanged(source)
        assert inputs.line_numbers(gathered.sources[1], [0]) == {0: 2}
    assert not (tmp_path / "copies").exists()


@pytest.mark.parametrize(
    ("pattern", "places"),
    [
        ("in/", ["1.csv", "deep/2.csv"]),
        ("in/*", ["1.csv", "deep/2.csv"]),
        ("in/deep/2*", ["2.csv"]),
        ("in/1.csv", ["1.csv"]),
        ("i*", ["in/1.csv", "in/deep/2.csv"]),
        ("in", []),
    ],
)
def test_a_pattern_names_objects_and_their_places(
    inbox: Inbox, tmp_path: Path, pattern: str, places: list[str]
) -> None:
    inbox.put(**{"in/1.csv": b"id,a\n1,x\n", "in/deep/2.csv": b"id,a\n2,x\n", "other.csv": b"id,a\n3,x\n"})
    with gather(tmp_path, inbox.feed(pattern)) as gathered:
        assert [source.place for source in gathered.sources] == places


def test_objects_beyond_the_first_page_are_found(inbox: Inbox, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bucket, "PAGE_KEYS", 2)
    inbox.put(**{f"in/{number}.csv": b"id,a\n1,x\n" for number in range(5)})
    assert [found.key for found in Bucket(inbox.feed("in/*.csv")).objects()] == [f"in/{at}.csv" for at in range(5)]


def test_known_content_is_not_copied_again(inbox: Inbox, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    inbox.put(**{"a.csv": b"id,a\n1,x\n", "b.csv": b"id,a\n2,x\n"})
    copied: list[str] = []
    copy = Bucket.copy

    def noted(bucket: Bucket, source: RemoteObject, target: Path) -> str:
        copied.append(source.key)
        return copy(bucket, source, target)

    monkeypatch.setattr(Bucket, "copy", noted)
    with gather(tmp_path, inbox.feed("*.csv")) as gathered:
        digests = {source.path.name: source.sha256 for source in gathered.sources}
    assert copied == ["a.csv", "b.csv"]
    copied.clear()
    with gather(tmp_path, inbox.feed("*.csv"), known=[digests["a.csv"]]) as gathered:
        assert {source.path.name: source.sha256 for source in gathered.sources} == digests
        assert content(gathered.sources[1]) == ["2"]  # remembered, but not known: it is still to be read
    assert copied == ["b.csv"]
    copied.clear()
    inbox.put(**{"a.csv": b"id,a\n3,x\n"})
    with gather(tmp_path, inbox.feed("*.csv"), known=digests.values()) as gathered:
        assert content(gathered.sources[0]) == ["3"]
    assert copied == ["a.csv"]


def test_without_its_memory_everything_is_copied_again(inbox: Inbox, tmp_path: Path) -> None:
    inbox.put(**{"a.csv": b"id,a\n1,x\n"})
    (tmp_path / "state").mkdir()
    (tmp_path / "state" / "m").write_text("{broken")
    with gather(tmp_path, inbox.feed("*.csv")) as gathered:
        assert content(gathered.sources[0]) == ["1"]


def test_an_object_that_is_replaced_meanwhile_is_noticed(inbox: Inbox, tmp_path: Path) -> None:
    inbox.put(**{"a.csv": b"id,a\n1,x\n"})
    bucket = Bucket(inbox.feed("*.csv"))
    (listed,) = bucket.objects()
    inbox.put(**{"a.csv": b"id,a\n2,x\n"})
    with pytest.raises(InputChanging, match=f"s3://{inbox.bucket}/a.csv: was replaced or removed"):
        bucket.copy(listed, tmp_path / "a.csv")
    inbox.client.delete_object(Bucket=inbox.bucket, Key="a.csv")
    with pytest.raises(InputChanging, match="was replaced or removed"):
        bucket.copy(listed, tmp_path / "a.csv")


def test_what_a_killed_run_left_is_removed(tmp_path: Path) -> None:
    (tmp_path / "copies" / "0").mkdir(parents=True)
    (tmp_path / "copies" / "0" / "a.csv").write_text("somebody's")
    (tmp_path / "inbox").mkdir()
    with gather(tmp_path, feed(str(tmp_path / "inbox" / "*"))):
        assert not (tmp_path / "copies").exists()


def test_a_bucket_that_is_not_there_is_a_fault_of_the_configuration(inbox: Inbox) -> None:
    which = feed("s3://no-such-bucket-here/*", inputs_endpoint_url=inbox.url, inputs_region="us-east-1")
    with pytest.raises(ConfigError, match=r"s3://no-such-bucket-here/\*: NoSuchBucket .*mend its name"):
        Bucket(which).objects()


def test_no_credentials_are_a_fault_of_the_configuration(inbox: Inbox, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.delenv(name)
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", "/dev/null")
    monkeypatch.setenv("AWS_CONFIG_FILE", "/dev/null")
    with pytest.raises(ConfigError, match="give AWS_ACCESS_KEY_ID"):
        Bucket(inbox.feed("*")).objects()


LISTING = b"""<ListBucketResult><IsTruncated>false</IsTruncated><Contents><Key>a.csv</Key><ETag>"1"</ETag><Size>9</Size>
<LastModified>2026-09-21T00:00:00.000Z</LastModified></Contents></ListBucketResult>"""


@contextmanager
def server(status: int, code: str = "", body: bytes = b"", length: int | None = None) -> Iterator[str]:
    """Lists one object of nine bytes, and answers for it as told; `length` is what it promises."""

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            listing = "list-type" in self.path and code != "AccessDenied"
            told = LISTING if listing else body or f"<Error><Code>{code}</Code></Error>".encode()
            self.send_response(200 if listing else status)
            self.send_header("Content-Length", str(length if length is not None and not listing else len(told)))
            self.end_headers()
            self.wfile.write(told)

        def log_message(self, *_: object) -> None:
            pass

    running = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = Thread(target=running.serve_forever, daemon=True)
    thread.start()
    try:
        yield f"http://127.0.0.1:{running.server_address[1]}"
    finally:
        running.shutdown()
        running.server_close()
        thread.join()


@pytest.mark.parametrize(
    ("answer", "error", "told"),
    [
        ({"status": 503, "code": "SlowDown"}, InputUnavailable, "SlowDown"),
        ({"status": 500, "code": "InternalError"}, InputUnavailable, "InternalError"),
        ({"status": 403, "code": "AccessDenied"}, ConfigError, "may not s3:ListBucket"),
        ({"status": 403, "code": "ExpiredToken"}, ConfigError, "renew"),
        ({"status": 200, "body": b"id,a\n", "length": 9}, InputUnavailable, "a.csv"),
        ({"status": 200, "body": b"id,a\n"}, InputUnavailable, "5 bytes came of 9"),
    ],
)
def test_what_a_server_can_do_wrong(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, answer: dict[str, Any], error: type[Exception], told: str
) -> None:
    monkeypatch.setattr(bucket, "ATTEMPTS", 1)
    with server(**answer) as url:
        which = feed("s3://inbox/*", inputs_endpoint_url=url, inputs_region="us-east-1")
        with pytest.raises(error, match=told) as caught, gather(tmp_path, which):
            pass
    assert getattr(caught.value, "exit_status", None) == (75 if error is InputUnavailable else 2)
    assert not (tmp_path / "copies").exists()


def test_a_server_that_is_away_may_be_back_later(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bucket, "ATTEMPTS", 1)
    with server(200) as url:
        pass
    with pytest.raises(InputUnavailable, match="run again later"):
        Bucket(feed("s3://inbox/*", inputs_endpoint_url=url, inputs_region="us-east-1")).objects()
