"""What freezing and uploading cost, against `aws s3 cp`; shares of compression and encryption of a run beside its join.

    python -m tests.bench.delivery [--gigabytes 5] [--records 10000000] [--aws PATH] [--rounds 2] [--folder DIR]

Prints Markdown tables. The lines are seeded. Both uploads are processes of their own, from start to end, with the same
ready files, to a server on this host that checks what it is sent (see `sink`): aws as it comes, told to use the same
checksum, CRC-64/NVME, and once more with parts as large as ours. Without --aws it is installed, from PyPI, into an
environment of its own for as long as this runs. Needs gpg, curl, and three times as many gigabytes of disk.
"""

import argparse
import hashlib
import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any

import duckdb

from idsync import config
from idsync.settings import Pgp, S3Destination, Store
from reconcile import encryption, files
from reconcile.delivery import connect
from reconcile.delivery.courier import Courier, Patience
from reconcile.files import FileWriter, FrozenFile, Packer, gzip_packer
from reconcile.names import InboundName, Suffix
from reconcile.progress import Meter
from reconcile.run import run
from reconcile.screen import text_buffer
from tests.bench import data
from tests.bench.process import timed as process
from tests.bench.reconcile import CONFIG, fill_sqlite
from tests.servers import free_port, wait_until

BUCKET = "inbound"
LINE_BYTES = 96
BATCH_LINES = 100_000
_KEY = "Key-Type: RSA\nKey-Length: 4096\nSubkey-Type: RSA\nSubkey-Length: 4096\nSubkey-Usage: encrypt\n"


def batches(gigabytes: float) -> list[memoryview]:
    """A tenth of the text, as the engine hands it over; it is written ten times."""
    count = int(gigabytes * 1e8 / LINE_BYTES)
    line = (
        """uuid || chr(9) || '"gender"="' || gender || '","tier"="' || tier || '","city"="' || city || '",d_sid=' """
        "|| traits || chr(10)"
    )
    query = (
        f"SELECT {line} AS line FROM ({data.records(f'range({count})')}) "
        f"JOIN ({data.mappings(f'range({count})')}) USING (customer_id)"
    )
    with duckdb.connect() as con:
        lines = con.sql(query)
        assert lines is not None
        return [text_buffer(batch.column("line"))[1] for batch in lines.to_arrow_reader(BATCH_LINES)]


def freeze(folder: Path, text: list[memoryview], suffix: Suffix, packer: Any = None) -> tuple[float, list[FrozenFile]]:
    folder.mkdir(parents=True)
    writer = FileWriter(folder, InboundName(data.DPID, 1_790_000_000, "sync", suffix=suffix), encrypted_by=packer)
    start = time.perf_counter()
    for _ in range(10):
        for piece in text:
            writer.write(piece, BATCH_LINES)
    files = writer.finish()
    seconds = time.perf_counter() - start
    writer.close()
    return seconds, files


def timed(work: Callable[[], object]) -> float:
    start = time.perf_counter()
    work()
    return time.perf_counter() - start


def alone(text: list[memoryview], take: Callable[[memoryview], object]) -> float:
    return timed(lambda: [take(piece) for _ in range(10) for piece in text])


def freezing(folder: Path, text: list[memoryview], rounds: int) -> tuple[float, list[FrozenFile]]:
    """Prints the table; the plain files stay for the upload. Seconds that they took, the best of some."""
    size = 10 * sum(map(len, text))
    gzipped, packed = freeze(folder / "gzip", text, "gz")
    with encryption.opened(key(folder / "key")) as made:
        encrypted, _ = freeze(folder / "pgp", text, "gpg", made.packer)
    for no_more in ("gzip", "pgp"):
        shutil.rmtree(folder / no_more)
    plain, frozen = float("inf"), list[FrozenFile]()
    for _ in range(rounds):
        shutil.rmtree(folder / "plain", ignore_errors=True)
        seconds, frozen = freeze(folder / "plain", text, "")
        plain = min(plain, seconds)
    rows = [
        (f"freeze, plain, best of {rounds}", plain),
        ("freeze, gzip", gzipped),
        ("freeze, OpenPGP (GnuPG, AES-256)", encrypted),
        ("gzip level 1 alone, in one thread", alone(text, gzip_packer().compress)),
        ("SHA-256 alone", alone(text, hashlib.sha256().update)),
        ("MD5 alone", alone(text, hashlib.md5(usedforsecurity=False).update)),
    ]
    print(f"\n{size / 1e9:.2f} GB of lines, gzipped {sum(file.bytes for file in packed) / 1e9:.2f} GB\n")
    print("| what | seconds | MB/s of text |\n|---|---|---|")
    for name, seconds in rows:
        print(f"| {name} | {seconds:.1f} | {size / 1e6 / seconds:,.0f} |", flush=True)
    return plain, frozen


def key(home: Path) -> Pgp:
    """Of somebody with a key as large as Audience Manager's."""
    home.mkdir(mode=0o700)
    gpg = ("gpg", "--homedir", str(home), "--batch", "--quiet")
    given = f"%no-protection\n{_KEY}Name-Real: Bench\n%commit\n".encode()
    subprocess.run([*gpg, "--generate-key", "-"], input=given, check=True, capture_output=True)
    listing = subprocess.run(
        [*gpg, "--with-colons", "--with-subkey-fingerprint", "--list-keys"], check=True, capture_output=True
    )
    fingerprint = [row.split(":")[9] for row in listing.stdout.decode().splitlines() if row.startswith("fpr")][-1]
    file = home / "key.asc"
    file.write_bytes(subprocess.run([*gpg, "--export"], check=True, capture_output=True).stdout)
    subprocess.run(["gpgconf", "--homedir", str(home), "--kill", "all"], check=False)
    return Pgp(public_key_file=file, fingerprint=fingerprint)


# --- the upload ------------------------------------------------------------------------------------------------------


def upload(folder: Path, port: int) -> None:
    """What a run does, in a process of its own."""
    destination = S3Destination(
        kind="s3", name="bench", bucket=BUCKET, endpoint_url=f"http://127.0.0.1:{port}", region="us-east-1"
    )
    frozen = [FrozenFile(**entry) for entry in json.loads((folder / ".manifest").read_text())]
    courier = Courier(connect(destination, "acme"), Patience(0), parallel=destination.parallel)
    for _ in courier.deliver_all(folder, frozen, data.SEEN):
        pass


def installed(folder: Path) -> Path:
    """The aws of PyPI; `crt` has the checksum that ours uses."""
    subprocess.run([sys.executable, "-m", "venv", str(folder)], check=True)
    pip = [str(folder / "bin" / "pip"), "install", "--quiet", "--disable-pip-version-check", "awscli[crt]"]
    subprocess.run(pip, check=True)
    return folder / "bin" / "aws"


def uploading(folder: Path, frozen: list[FrozenFile], freeze_seconds: float, aws: Path, rounds: int) -> None:
    (folder / ".manifest").write_text(json.dumps([asdict(file) for file in frozen]))
    port = free_port()
    sink = subprocess.Popen([sys.executable, "-m", "tests.bench.sink", str(port)])
    try:
        wait_until(lambda: _answers(port), "the sink's start")
        ours = [sys.executable, "-m", "tests.bench.delivery", "--upload", str(folder), "--port", str(port)]
        contenders: dict[str, tuple[list[str], dict[str, str]]] = {"ours, the upload": (ours, {})}
        peer = [str(aws), "s3", "cp", "--quiet", "--recursive", "--exclude", ".*", str(folder), f"s3://{BUCKET}/x"]
        peer += ["--endpoint-url", f"http://127.0.0.1:{port}", "--checksum-algorithm", "CRC64NVME"]
        large = folder.parent / "aws.conf"
        large.write_text("[default]\ns3 =\n  multipart_chunksize = 64MB\n")
        contenders["`aws s3 cp`"] = (peer, {})
        contenders["`aws s3 cp`, parts of 64 MB"] = (peer, {"AWS_CONFIG_FILE": str(large)})
        best = dict.fromkeys(contenders, float("inf"))
        for _ in range(rounds):
            for name, (command, more) in contenders.items():
                environ = {**os.environ, "AWS_ACCESS_KEY_ID": "a", "AWS_SECRET_ACCESS_KEY": "b"}
                environ |= {"AWS_DEFAULT_REGION": "us-east-1", **more}
                seconds = timed(lambda: subprocess.run(command, env=environ, check=True))  # noqa: B023 - called at once
                best[name] = min(best[name], seconds)
    finally:
        sink.terminate()
        sink.wait()
    size = sum(file.bytes for file in frozen)
    rows = {"ours, freezing and uploading": freeze_seconds + best["ours, the upload"], **best}
    print(f"\nUpload of {size / 1e9:.2f} GB in {len(frozen)} files, best of {rounds}\n")
    print("| what | seconds | MB/s | times `aws s3 cp` |\n|---|---|---|---|")
    for name, seconds in rows.items():
        print(
            f"| {name} | {seconds:.1f} | {size / 1e6 / seconds:,.0f} | {seconds / best['`aws s3 cp`']:.2f} |",
            flush=True,
        )


def _answers(port: int) -> bool:
    command = ["curl", "-s", "-o", os.devnull, f"http://127.0.0.1:{port}/{BUCKET}"]
    return subprocess.run(command, check=False).returncode == 0


# --- beside the join --------------------------------------------------------------------------------------------------


class Timed:
    """A packer, and the seconds that its caller waited for it and all others like it."""

    seconds = 0.0

    def __init__(self, packer: Packer) -> None:
        self._packer = packer

    def compress(self, text: memoryview, /) -> bytes:
        return self._wait(lambda: self._packer.compress(text))

    def flush(self) -> bytes:
        return self._wait(self._packer.flush)

    def _wait(self, work: Callable[[], bytes]) -> bytes:
        start = time.perf_counter()
        try:
            return work()
        finally:
            Timed.seconds += time.perf_counter() - start


def run_timed(path: Path) -> None:
    """A run, in a process of its own; tells the seconds of all of it and of its packers, and its bytes of text."""
    encrypt = encryption.Recipient.packer
    files.gzip_packer = lambda: Timed(gzip_packer())
    encryption.Recipient.packer = lambda self: Timed(encrypt(self))  # type: ignore[assignment,method-assign,return-value]
    start = time.perf_counter()
    summary = run(config.load(path), "bench", dry_run=False, meter=Meter())
    seconds = time.perf_counter() - start
    text = sum(file["raw_bytes"] for file in summary.files)
    print(json.dumps({"seconds": seconds, "packing": Timed.seconds, "text": text}))


def beside_the_join(folder: Path, records: int, rounds: int) -> None:
    feed, mappings = data.make(folder, records)
    store = Store(url=f"sqlite:///{folder}/bench.db")
    fill_sqlite(store, f"FROM '{mappings}'")
    pgp = key(folder / "feed-key")
    table = f'[pgp]\npublic_key_file = "{pgp.public_key_file}"\nfingerprint = "{pgp.fingerprint}"\n'
    kinds = ("none", "gzip", "pgp")
    best: dict[str, dict[str, float]] = {}
    for _ in range(rounds):
        for kind in kinds:
            path = folder / f"{kind}.toml"
            text = CONFIG.format(name=kind, url=store.url, feed=feed, unmatched="drop")
            path.write_text(
                text.replace("[reconcile]", f'compression = "{kind}"\ndiagnose = false\n{table}[reconcile]')
            )
            taken = process("-m", "tests.bench.delivery", "--run", str(path), folder=folder)
            for left in (f"state-{kind}", f"out-{kind}"):
                shutil.rmtree(folder / left)
            told = json.loads(taken.out)
            best[kind] = min(best.get(kind, told), told, key=lambda figures: float(figures["seconds"]))
    print(
        f"\nRuns of {records / 1e6:g} million records, {best['none']['text'] / 1e9:.2f} GB of lines, best of {rounds}\n"
    )
    print("| `compression` | run, seconds | of these waiting for packers | share | packers' MB/s of text | run's |")
    print("|---|---|---|---|---|---|")
    for kind, told in best.items():
        seconds, packing, megabytes = told["seconds"], told["packing"], told["text"] / 1e6
        pace = f"{megabytes / packing:,.0f}" if packing else ""
        shown = f"{seconds:.1f} | {packing:.1f} | {packing / seconds:.0%} | {pace} | {megabytes / seconds:,.0f}"
        print(f"| `{kind}` | {shown} |")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--gigabytes", type=float, default=5)
    parser.add_argument("--records", type=int, default=10_000_000)
    parser.add_argument("--aws", type=Path, help="an aws with awscrt, in place of one that is installed for this")
    parser.add_argument("--rounds", type=int, default=2)
    parser.add_argument("--folder", type=Path)
    parser.add_argument("--upload", type=Path, help=argparse.SUPPRESS)
    parser.add_argument("--port", type=int, help=argparse.SUPPRESS)
    parser.add_argument("--run", type=Path, help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.upload:
        upload(given.upload, given.port)
    elif given.run:
        run_timed(given.run)
    else:
        with tempfile.TemporaryDirectory(dir=given.folder) as scratch:
            folder = Path(scratch)
            seconds, frozen = freezing(folder, batches(given.gigabytes), given.rounds)
            uploading(folder / "plain", frozen, seconds, given.aws or installed(folder / "aws"), given.rounds)
            shutil.rmtree(folder / "plain")
            beside_the_join(folder, given.records, given.rounds)


if __name__ == "__main__":
    main()
