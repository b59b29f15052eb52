"""What freezing and uploading cost: shares of compression, hashes and encryption; the upload against `aws s3 cp`.

    python -m tests.bench.delivery [--gigabytes 2] [--aws PATH] [--rounds 2] [--folder DIR]

Prints Markdown tables. The lines are seeded. Both uploads are processes of their own, from start to end, with the same
ready files, to a server on this host that checks what it is sent (see `sink`): aws as it comes, told to use the same
checksum, CRC-64/NVME, and once more with parts as large as ours. Without --aws there is no peer.
"""

import argparse
import hashlib
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import duckdb

from idsync.settings import Pgp, S3Destination
from reconcile import encryption
from reconcile.delivery import connect
from reconcile.delivery.courier import Courier, Patience
from reconcile.files import FileWriter, FrozenFile, gzip_packer
from reconcile.names import InboundName, Suffix
from reconcile.screen import text_buffer
from tests.bench import data
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


def freezing(folder: Path, text: list[memoryview]) -> list[FrozenFile]:
    """Prints the table; the plain files stay for the upload."""
    size = 10 * sum(map(len, text))
    plain, files = freeze(folder / "plain", text, "")
    gzipped, packed = freeze(folder / "gzip", text, "gz")
    with recipient(folder / "pgp-home") as made:
        encrypted, _ = freeze(folder / "pgp", text, "gpg", made.packer)
    packer = gzip_packer()
    rows = [
        ("freeze, plain", plain),
        ("freeze, gzip", gzipped),
        ("freeze, OpenPGP (GnuPG, AES-256)", encrypted),
        ("gzip level 1 alone, in one thread", alone(text, packer.compress)),
        ("SHA-256 alone", alone(text, hashlib.sha256().update)),
        ("MD5 alone", alone(text, hashlib.md5(usedforsecurity=False).update)),
    ]
    print(f"\n{size / 1e9:.2f} GB of lines, gzipped {sum(file.bytes for file in packed) / 1e9:.2f} GB\n")
    print("| what | seconds | MB/s of text |\n|---|---|---|")
    for name, seconds in rows:
        print(f"| {name} | {seconds:.1f} | {size / 1e6 / seconds:,.0f} |")
    return files


@contextmanager
def recipient(home: Path) -> Iterator[encryption.Recipient]:
    """Somebody with a key as large as Audience Manager's."""
    home.mkdir(mode=0o700)
    gpg = ("gpg", "--homedir", str(home), "--batch", "--quiet")
    given = f"%no-protection\n{_KEY}Name-Real: Bench\n%commit\n".encode()
    subprocess.run([*gpg, "--generate-key", "-"], input=given, check=True, capture_output=True)
    listing = subprocess.run(
        [*gpg, "--with-colons", "--with-subkey-fingerprint", "--list-keys"], check=True, capture_output=True
    )
    fingerprint = [row.split(":")[9] for row in listing.stdout.decode().splitlines() if row.startswith("fpr")][-1]
    key = home / "key.asc"
    key.write_bytes(subprocess.run([*gpg, "--export"], check=True, capture_output=True).stdout)
    with encryption.opened(Pgp(public_key_file=key, fingerprint=fingerprint)) as made:
        yield made
    subprocess.run(["gpgconf", "--homedir", str(home), "--kill", "all"], check=False)


def upload(folder: Path, port: int) -> None:
    """What a run does, in a process of its own."""
    destination = S3Destination(
        kind="s3", name="bench", bucket=BUCKET, endpoint_url=f"http://127.0.0.1:{port}", region="us-east-1"
    )
    files = [
        FrozenFile(path.name, path.stat().st_size, path.stat().st_size, 1, (folder / f".{path.name}.sha").read_text())
        for path in sorted(folder.glob("[!.]*"))
    ]
    courier = Courier(connect(destination, "acme"), Patience(0), parallel=destination.parallel)
    for _ in courier.deliver_all(folder, files, data.SEEN):
        pass


def uploading(folder: Path, files: list[FrozenFile], aws: Path | None, rounds: int) -> None:
    for file in files:
        (folder / f".{file.name}.sha").write_text(file.sha256)
    port = free_port()
    sink = subprocess.Popen([sys.executable, "-m", "tests.bench.sink", str(port)])
    try:
        wait_until(lambda: _answers(port), "the sink's start")
        ours = [sys.executable, "-m", "tests.bench.delivery", "--upload", str(folder), "--port", str(port)]
        contenders: dict[str, tuple[list[str], dict[str, str]]] = {"ours": (ours, {})}
        if aws:
            peer = [str(aws), "s3", "cp", "--quiet", "--recursive", "--exclude", ".*", str(folder), f"s3://{BUCKET}/x"]
            peer += ["--endpoint-url", f"http://127.0.0.1:{port}", "--checksum-algorithm", "CRC64NVME"]
            large = folder.parent / "aws.conf"
            large.write_text("[default]\ns3 =\n  multipart_chunksize = 64MB\n")
            contenders["aws s3 cp"] = (peer, {})
            contenders["aws s3 cp, parts of 64 MB"] = (peer, {"AWS_CONFIG_FILE": str(large)})
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
    size = sum(file.bytes for file in files)
    print(f"\nUpload of {size / 1e9:.2f} GB in {len(files)} files, best of {rounds}\n")
    print("| what | seconds | MB/s | ours, times |\n|---|---|---|---|")
    for name, seconds in best.items():
        print(f"| {name} | {seconds:.1f} | {size / 1e6 / seconds:,.0f} | {best['ours'] / seconds:.2f} |")


def _answers(port: int) -> bool:
    command = ["curl", "-s", "-o", os.devnull, f"http://127.0.0.1:{port}/{BUCKET}"]
    return subprocess.run(command, check=False).returncode == 0


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--gigabytes", type=float, default=2)
    parser.add_argument("--aws", type=Path)
    parser.add_argument("--rounds", type=int, default=2)
    parser.add_argument("--folder", type=Path)
    parser.add_argument("--upload", type=Path, help=argparse.SUPPRESS)
    parser.add_argument("--port", type=int, help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.upload:
        upload(given.upload, given.port)
        return
    with tempfile.TemporaryDirectory(dir=given.folder) as scratch:
        folder = Path(scratch)
        files = freezing(folder, batches(given.gigabytes))
        uploading(folder / "plain", files, given.aws, given.rounds)


if __name__ == "__main__":
    main()
