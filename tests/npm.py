"""Packages of the npm registry, pinned by their hashes. Without npm itself, which is much to install for two files."""

import base64
import hashlib
import io
import os
import shutil
import tarfile
import tempfile
import urllib.request
from pathlib import Path
from typing import NamedTuple

REGISTRY = "https://registry.npmjs.org/"
TIMEOUT_SECONDS = 60


class Package(NamedTuple):
    """`sha512`: of its tarball, in base64, as registries and lock files have it."""

    name: str
    version: str
    sha512: str


def unpacked(package: Package, cache: Path) -> Path:
    """The folder of a package, fetched once into `cache`. A missing network fails the test: nothing is skipped."""
    target = cache / f"{package.name.replace('/', '+')}@{package.version}"
    if target.exists():
        return target / "package"
    content = _fetch(package)
    if base64.b64encode(hashlib.sha512(content).digest()).decode() != package.sha512:
        raise AssertionError(f"{package.name} {package.version} is not what was pinned: its sha512 differs")
    folder = Path(tempfile.mkdtemp(dir=cache))
    with tarfile.open(fileobj=io.BytesIO(content)) as archive:
        for member in filter(tarfile.TarInfo.isfile, archive):
            file = folder / member.name
            file.parent.mkdir(parents=True, exist_ok=True)
            file.write_bytes(archive.extractfile(member).read())  # type: ignore[union-attr]  # it is a file
    try:
        folder.rename(target)
    except OSError:  # another run was faster
        shutil.rmtree(folder)
    return target / "package"


def _fetch(package: Package) -> bytes:
    file = f"{package.name.rpartition('/')[2]}-{package.version}.tgz"
    url = f"{registry().rstrip('/')}/{package.name}/-/{file}"
    try:
        with urllib.request.urlopen(url, timeout=TIMEOUT_SECONDS) as answer:  # noqa: S310  (the registry's scheme)
            content: bytes = answer.read()
    except OSError as error:
        # The URL may hold a password.
        raise AssertionError(
            f"{package.name} {package.version} can't be fetched from the npm registry ({type(error).__name__}); "
            "set npm_config_registry to one that can be reached"
        ) from None
    return content


def registry() -> str:
    """Where npm itself would look, in its order: environment, project, user, default."""
    set_here = {name.lower(): value for name, value in os.environ.items() if value}
    if "npm_config_registry" in set_here:
        return set_here["npm_config_registry"]
    files = (Path(".npmrc"), Path(set_here.get("npm_config_userconfig", "~/.npmrc")).expanduser())
    for file in files:
        for line in file.read_text().splitlines() if file.is_file() else ():
            name, equals, value = line.partition("=")
            if equals and name.strip() == "registry":
                return value.strip().strip("\"'")
    return REGISTRY
