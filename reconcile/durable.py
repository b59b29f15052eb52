"""One way to put a file where it is found whole or not at all, also after a power cut."""

import os
from pathlib import Path


def write(path: Path, data: bytes) -> None:
    """Write beside the target, sync, rename over it, sync the folder."""
    temporary = path.with_name(f".{path.name}.part")
    with temporary.open("wb") as file:
        file.write(data)
        file.flush()
        os.fsync(file.fileno())
    move(temporary, path)


def move(source: Path, target: Path) -> None:
    """Rename within a file system, and make the rename last."""
    source.rename(target)
    sync_folder(target.parent)


def sync_folder(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
