"""What only a directory can do wrong."""

import errno
import os
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import pytest

from reconcile import durable
from reconcile.delivery import directory
from reconcile.delivery.base import temporary_name
from reconcile.delivery.directory import DirectoryDelivery
from reconcile.errors import DeliveryConflict, DestinationRefused, DestinationUnavailable
from tests.contracts.destinations import NAME, PLANNED_AT, files, frozen


def fails(number: int) -> Any:
    def call(*_: object, **__: object) -> None:
        raise OSError(number, os.strerror(number))

    return call


@pytest.mark.parametrize("links", [True, False])
def test_who_comes_between_the_look_and_the_copy_is_not_overwritten(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, links: bool
) -> None:
    out = tmp_path / "out"
    copy = directory._copy

    def slow(*arguments: Any) -> None:
        copy(*arguments)
        (out / NAME).write_bytes(b"somebody else's")

    monkeypatch.setattr(directory, "_copy", slow)
    if not links:
        monkeypatch.setattr(os, "link", fails(errno.EPERM))
    with pytest.raises(DeliveryConflict):
        DirectoryDelivery(out).deliver(*frozen(tmp_path / "run", b"some bytes"), PLANNED_AT)
    assert files(out) == {NAME: b"somebody else's"}


@pytest.mark.parametrize("links", [True, False])
def test_killed_between_taking_the_name_and_the_rename(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, links: bool
) -> None:
    out = tmp_path / "out"
    out.mkdir()
    (out / NAME).touch()
    (out / temporary_name(NAME)).write_bytes(b"some bytes")
    if not links:
        monkeypatch.setattr(os, "link", fails(errno.EOPNOTSUPP))
    DirectoryDelivery(out).deliver(*frozen(tmp_path / "run", b"some bytes"), PLANNED_AT)
    assert files(out) == {NAME: b"some bytes"}


def test_a_link_whose_answer_got_lost_is_ours(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A network file system sends the call again, and finds the name taken: by itself."""
    link = os.link

    def twice(source: Path, target: Path) -> None:
        link(source, target)
        link(source, target)

    monkeypatch.setattr(os, "link", twice)
    DirectoryDelivery(tmp_path / "out").deliver(*frozen(tmp_path / "run", b"some bytes"), PLANNED_AT)
    assert files(tmp_path / "out") == {NAME: b"some bytes"}


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.ESTALE, errno.EIO])
def test_a_disk_that_is_full_or_away_means_later(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: int) -> None:
    thing = frozen(tmp_path / "run", b"some bytes")
    monkeypatch.setattr(os, "fsync", fails(number))
    with pytest.raises(DestinationUnavailable) as caught:
        DirectoryDelivery(tmp_path / "out").deliver(*thing, PLANNED_AT)
    assert caught.value.exit_status == 75
    assert files(tmp_path / "out") == {}


@pytest.mark.parametrize(("number", "fine"), [(errno.EINVAL, True), (errno.EIO, False)])
def test_a_file_system_that_syncs_no_folders_does(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: int, fine: bool
) -> None:
    monkeypatch.setattr(durable, "sync_folder", fails(number))
    thing = frozen(tmp_path / "run", b"some bytes")
    with nullcontext() if fine else pytest.raises(DestinationUnavailable):
        DirectoryDelivery(tmp_path / "out").deliver(*thing, PLANNED_AT)
    assert files(tmp_path / "out") == {NAME: b"some bytes"}


def test_a_folder_that_cannot_be_written_is_refused(tmp_path: Path) -> None:
    (tmp_path / "out").write_text("a file")
    thing = frozen(tmp_path / "run", b"some bytes")
    with pytest.raises(DestinationRefused, match="out") as caught:
        DirectoryDelivery(tmp_path / "out").deliver(*thing, PLANNED_AT)
    assert caught.value.exit_status == 2
