"""A whole run of a feed with `compression = "pgp"`: what is delivered, what a retry offers, and a key that is wrong."""

from pathlib import Path

import pytest

from idsync.errors import ConfigError
from reconcile import names
from reconcile.delivery.directory import DirectoryDelivery
from reconcile.errors import DestinationUnavailable
from tests.reconcile.samples import NOW_SECONDS, World, uuid
from tests.reconcile.test_encryption import Gpg, adobe

__all__ = ["adobe"]


def world_for(adobe: Gpg, folder: Path) -> World:
    key = adobe.hand_out(folder / "key.asc")
    pgp = f'\n[pgp]\npublic_key_file = "{key}"\nfingerprint = "{adobe.fingerprints[1]}"\n'
    world = World(folder / "world", f'signals = ["gender"]\ncompression = "pgp"\n{pgp}')
    world.sync(("c1", uuid(1)), ("c2", uuid(2)))
    world.put("a.csv", [("c1", "f", "", ""), ("c2", "m", "", "")])
    return world


def test_the_owner_of_the_key_reads_the_lines(adobe: Gpg, tmp_path: Path) -> None:
    world = world_for(adobe, tmp_path)
    assert world.run().status == "delivered"
    [path] = world.delivered.iterdir()
    assert path.name == f"ftp_dpm_12345_{NOW_SECONDS}.sync.gpg"
    assert names.parse(path.name).suffix == "gpg"
    lines = adobe("--decrypt", given=path.read_bytes()).decode().splitlines()
    assert sorted(lines) == [f'{uuid(1)}\t"gender"="f"', f'{uuid(2)}\t"gender"="m"']


def test_a_retry_offers_the_same_bytes(adobe: Gpg, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Encrypted once more it would be another file under the same name."""
    world = world_for(adobe, tmp_path)
    offered: list[bytes] = []

    def away(_: object, path: Path, *__: object) -> str:
        offered.append(path.read_bytes())
        raise DestinationUnavailable("away", mend="wait")

    with monkeypatch.context() as patched:
        patched.setattr(DirectoryDelivery, "deliver", away)
        with pytest.raises(DestinationUnavailable):
            world.run()
    assert world.run().settled
    [path] = world.delivered.iterdir()
    assert set(offered) == {path.read_bytes()}


def test_another_key_than_the_pinned_one_stops_the_run(adobe: Gpg, tmp_path: Path) -> None:
    world = world_for(adobe, tmp_path)
    world.feed = world.feed.replace(adobe.fingerprints[1], "0" * 40)
    with pytest.raises(ConfigError, match=r"pgp\.fingerprint"):
        world.run()
    assert not world.delivered.exists()
    world.feed = world.feed.replace("0" * 40, adobe.fingerprints[1])
    assert world.run().status == "delivered"
