"""Room on disk, looked at before a run begins: one that finds the disk full at its end has cost the night.

What a join spills was measured (see tests/bench/README.md): 100 million records of 43 bytes and as many mappings, with
2.5 GB of memory, held 24 GB in the scratch folder at most. So a byte of the inputs takes about four there, texts having
a header of 16 bytes each, and a mapping 100. These are reckoned for the inputs as they would lie there unpacked.
"""

import shutil
from collections.abc import Iterable
from pathlib import Path, PurePath

from reconcile.errors import StateUnavailable

_SPILL_PER_BYTE = 4
_SPILL_PER_MAPPING = 100
_FROZEN_PER_BYTE = 1  # frozen lines, held records and rejects together, packed; three where the files are not
_FROZEN_PLAIN_PER_BYTE = 3
_BYTES_PER_RECORD = 40  # of a small record: how many there are at most, and so how many mappings in a first run
_UNPACKED = {".gz": 6, ".parquet": 4}
_UNITS = {"MB": 10**6, "GB": 10**9, "MiB": 2**20, "GiB": 2**30}


def needed(unpacked_bytes: int, mappings: int, memory_bytes: int, *, plain: bool) -> int:
    """Bytes that a run takes at most, as far as can be told before; `plain` files are not compressed."""
    spilled = _SPILL_PER_BYTE * unpacked_bytes + _SPILL_PER_MAPPING * mappings - memory_bytes
    frozen = (_FROZEN_PLAIN_PER_BYTE if plain else _FROZEN_PER_BYTE) * unpacked_bytes
    return max(spilled, 0) + frozen


def unpacked(files: Iterable[tuple[str, int]]) -> int:
    """Of files by name and size, how many bytes of text they hold, about."""
    return sum(size * _UNPACKED.get(PurePath(name).suffix.lower(), 1) for name, size in files)


def check(
    folder: Path, files: Iterable[tuple[str, int]], *, mappings: int | None, memory_limit: str, plain: bool
) -> None:
    """Raise StateUnavailable if a run would not fit the disk on which `folder`, that of the state, lies.

    `mappings`: how many were read last time; None: unknown, so that there may be one for each record.
    """
    text = unpacked(files)
    known = text // _BYTES_PER_RECORD if mappings is None else mappings
    need = needed(text, known, size_of(memory_limit), plain=plain)
    free = shutil.disk_usage(folder).free
    if need > free:
        raise StateUnavailable(
            f"the run may need {need / 1e9:,.1f} GB of disk under {folder}, where {free / 1e9:,.1f} GB are free",
            mend="free as much, point reconcile.state_dir to a larger disk, or raise reconcile.memory_limit, so that"
            " less is spilled; with reconcile.disk_check = false it runs all the same",
        )


def size_of(text: str) -> int:
    """Of a size as settings spell it, `1300MB`, `2 GiB`, in bytes."""
    unit = next(unit for unit in _UNITS if text.endswith(unit))
    return int(text.removesuffix(unit)) * _UNITS[unit]
