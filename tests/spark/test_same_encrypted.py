"""What tests/reconcile/test_run_encrypted.py says of encrypted files, on both engines."""

# ruff: noqa: F401  pytest finds here what is imported

from pathlib import Path

import pytest

from reconcile.errors import DestinationRefused
from reconcile.progress import Meter
from reconcile.run import run
from tests.reconcile.samples import World, uuid
from tests.reconcile.test_encryption import Gpg, adobe
from tests.reconcile.test_run_encrypted import (
    test_another_key_than_the_pinned_one_stops_the_run,
    test_the_owner_of_the_key_reads_the_lines,
    world_for,
)
from tests.spark.twins import on_both_engines

__all__ = ["adobe", "on_both_engines"]


@pytest.fixture(autouse=True)
def decrypted(adobe: Gpg, monkeypatch: pytest.MonkeyPatch) -> None:
    """What is compared are the lines in the files."""

    def lines(world: World) -> list[str]:
        texts = [adobe("--decrypt", given=path.read_bytes()).decode() for path in world.delivered.glob("*")]
        return [line for text in texts for line in text.splitlines()]

    monkeypatch.setattr(World, "lines", lines)


def test_a_retry_offers_the_same_bytes(adobe: Gpg, tmp_path: Path) -> None:
    """Encrypted once more, each would be another file under the same name."""
    world = world_for(adobe, tmp_path)
    world.delivered.write_text("no folder")
    for number in range(2):
        with pytest.raises(DestinationRefused):
            run(world.settings, "daily", dry_run=False, meter=Meter(), now=lambda: world.now, engine="spark")
        frozen = {path.name: path.read_bytes() for path in world.state.glob("runs/*/files/[!.]*")}
        assert len(frozen) == 2, number
    world.delivered.unlink()
    summary = run(world.settings, "daily", dry_run=False, meter=Meter(), now=lambda: world.now, engine="spark")
    assert len(summary.settled) == 1
    assert {path.name: path.read_bytes() for path in world.delivered.iterdir()} == frozen
    assert sorted(world.lines()) == [f'{uuid(1)}\t"gender"="f"', f'{uuid(2)}\t"gender"="m"']
