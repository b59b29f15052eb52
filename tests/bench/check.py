"""`reconcile check` against a plain Python loop with a regex, on seeded files, in one session.

    python -m tests.bench.check [--megabytes 500] [--folder DIR] [--only TEXT]

Prints a Markdown table. Each contender is a process of its own, pinned to one core where the system can, timed from
its start to its end, its memory the peak resident set; processor time is what a busy machine leaves comparable.
The loop asks less than `check` does: one pattern a line, and a Counter of users.
"""

import argparse
import random
import shutil
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NamedTuple

from isal import igzip

from tests.bench.process import timed

LOOP = r"""
import gzip, re, sys
from collections import Counter
from pathlib import Path
item = r'd_sid=[0-9]+|d_unsid=[0-9]+|[0-9]+(?::0|:-1)?|ic=[^=",:\t]+|(?:"[^"]+"|[^=",\t]+)=(?:"[^"]+"|[^=",\t]+)'
line = re.compile(rf'([^\t:]+)\t(?:{item})(?:,(?:{item}))*\n')
users, faults, path = Counter(), 0, sys.argv[1]
with (gzip.open if path.endswith('.gz') else open)(path, 'rt', encoding='utf-8', newline='\n') as file:
    for text in file:
        match = line.fullmatch(text)
        if match is None or len(text.encode()) > 102_400:
            faults += 1
        else:
            users[match[1]] += 1
print(faults, sum(count > 200 for count in users.values()))
"""
CITIES = ["Berlin", "Paris", "New York", "Köln", "Oslo", "São Paulo"]
BLOCK_LINES = 100_000


class Case(NamedTuple):
    title: str
    name: str
    line: Callable[[random.Random], str]


def _with_uuid(chance: random.Random) -> str:
    traits = f"d_sid={chance.randrange(1, 10**6)},d_unsid={chance.randrange(10**6, 10**7)}"
    signals = f'"gender"="{chance.choice("fm")}","tier"="{chance.choice(["gold", "silver"])}"'
    return f'{chance.randrange(10**38):038d}\t{signals},"city"="{chance.choice(CITIES)}",{traits}\n'


def _with_customer_id(chance: random.Random) -> str:
    return f"user-{chance.randrange(10**9)}\td_sid={chance.randrange(1, 10**6)}\n"


def _with_device(chance: random.Random) -> str:
    digits = f"{chance.getrandbits(128):032x}"
    groups = (digits[:8], digits[8:12], digits[12:16], digits[16:20], digits[20:])
    return f"{'-'.join(groups)}\td_sid={chance.randrange(1, 10**6)},d_sid={chance.randrange(1, 10**6)}\n"


def _synced(chance: random.Random) -> str:
    return f"{chance.randrange(10**38):038d}\tuser-{chance.randrange(10**9)}\n"


CASES = [
    Case("UUIDs, three signals, a trait and a removal", "ftp_dpm_12345_1790000001.sync", _with_uuid),
    Case("the same, gzipped", "ftp_dpm_12345_1790000002.sync.gz", _with_uuid),
    Case("customer IDs, one trait", "ftp_dpm_12345_1790000003.sync", _with_customer_id),
    Case("Google Advertising IDs, two traits", "ftp_dpm_20914_21_1790000004.sync", _with_device),
    Case("ID sync: UUID and customer ID", "adobe_id_0_12345_1790000005.sync", _synced),
]


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--megabytes", type=int, default=500)
    parser.add_argument("--folder", type=Path)
    parser.add_argument("--only", default="", help="the files whose titles hold this")
    arguments = parser.parse_args()
    folder = arguments.folder or Path(tempfile.mkdtemp())
    folder.mkdir(parents=True, exist_ok=True)
    print("| file | who | s | MB/s | processor s | MB/s of it | peak MB |\n|---|---|---|---|---|---|---|")
    try:
        (folder / CASES[0].name).write_text("u1\td_sid=1\n")
        start = timed("-m", "reconcile", "check", str(folder / CASES[0].name), folder=folder, one_core=True)
        figures = f"{start.seconds:.1f} | | {start.busy:.1f} | | {start.memory * 1000:.0f}"
        print(f"| one line: the start alone | check | {figures} |", flush=True)
        for case in (case for case in CASES if arguments.only in case.title):
            path = folder / case.name
            size, lines = _write(path, case, arguments.megabytes * 1_000_000)
            for who, command in (
                ("check", ("-m", "reconcile", "check", str(path))),
                ("loop", ("-c", LOOP, str(path))),
            ):
                if who == "loop" and path.name.startswith("adobe_id"):
                    continue  # another grammar
                seconds, busy, memory, _ = timed(*command, folder=folder, one_core=True)
                figures = f"{seconds:.1f} | {size / seconds / 1e6:.0f} | {busy:.1f} | {size / busy / 1e6:.0f}"
                figures += f" | {memory * 1000:.0f}"
                print(f"| {case.title}, {lines:,} lines | {who} | {figures} |", flush=True)
            path.unlink()
    finally:
        if arguments.folder is None:
            shutil.rmtree(folder)


def _write(path: Path, case: Case, size: int) -> tuple[int, int]:
    """A file of about `size` bytes unpacked; its bytes and lines."""
    chance, written, lines = random.Random(1), 0, 0
    with igzip.open(path, "wb") if path.suffix == ".gz" else path.open("wb") as file:  # type: ignore[no-untyped-call]
        for block in _blocks(case, chance):
            file.write(block)
            written, lines = written + len(block), lines + BLOCK_LINES
            if written >= size:
                return written, lines
    raise AssertionError("no end")


def _blocks(case: Case, chance: random.Random) -> Iterator[bytes]:
    while True:
        yield "".join(case.line(chance) for _ in range(BLOCK_LINES)).encode()


if __name__ == "__main__":
    main()
