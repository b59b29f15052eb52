"""What FTP and SFTP servers can do wrong: cuts, lost answers, missing rights and commands, keys that are not known."""

import re
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import paramiko
import pytest

from reconcile.delivery import bandwidth, byname, connect, sftp
from reconcile.delivery import ftp as ftp_module
from reconcile.delivery.base import temporary_name
from reconcile.delivery.courier import Courier, Patience
from reconcile.errors import DeliveryConflict, DestinationRefused, DestinationUnavailable
from tests.contracts.destinations import (
    MEGABYTE,
    NAME,
    PLANNED_AT,
    Kind,
    files,
    frozen,
    ftp_table,
    large,
    opened,
    self_signed,
    settings_of,
)
from tests.ftp import ALL_RIGHTS, PASSWORD, USER, Ftp, ftp_server
from tests.servers import Proxy
from tests.sftp import PASSPHRASE, Sftp, password_server, sftp_server

WITHOUT_READING = ALL_RIGHTS.replace("r", "")


def courier(table: dict[str, Any]) -> Courier:
    return Courier(connect(settings_of(table), ""), Patience(60, time.monotonic, chance=lambda: 0.001))


@pytest.fixture(params=["ftp", "ftps", "sftp"])
def kind(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Kind]:
    (tmp_path / "there").mkdir()
    with opened(request.param, tmp_path / "there", lambda: "") as made:
        yield made


# --- all three --------------------------------------------------------------------------------------------------------


def test_every_byte_is_counted_once_against_the_bandwidth(
    kind: Kind, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    taken: list[int] = []
    monkeypatch.setattr(bandwidth.Bandwidth, "take", lambda _, count: taken.append(count))
    kind.delivery().deliver(*frozen(tmp_path / "run", large()), PLANNED_AT)
    assert sum(taken) == len(large())


def test_who_comes_between_the_look_and_the_rename_is_not_overwritten(
    kind: Kind, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pieces = byname._pieces

    def slow(*arguments: Any) -> Iterator[bytes]:
        yield from pieces(*arguments)
        kind.put(b"somebody else's")

    monkeypatch.setattr(byname, "_pieces", slow)
    with pytest.raises(DeliveryConflict):
        kind.delivery().deliver(*frozen(tmp_path / "run", b"some bytes"), PLANNED_AT)
    assert kind.held() == {NAME: b"somebody else's"}


def test_a_file_that_arrived_in_part_is_not_given_its_name(
    kind: Kind, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A disk that is full, and a server that does not say so."""
    pieces = byname._pieces
    full = [True]

    def cut_short(*arguments: Any) -> Iterator[bytes]:
        for piece in pieces(*arguments):
            yield piece[:-1] if full else piece

    monkeypatch.setattr(byname, "_pieces", cut_short)
    thing = frozen(tmp_path / "run", b"some bytes")
    with pytest.raises(DestinationUnavailable, match="9 of 10 bytes"):
        kind.delivery().deliver(*thing, PLANNED_AT)
    assert kind.held() == {}
    full.clear()
    kind.delivery().deliver(*thing, PLANNED_AT)
    assert kind.held() == {NAME: b"some bytes"}


def test_a_folder_that_is_missing_is_refused(kind: Kind, tmp_path: Path) -> None:
    with pytest.raises(DestinationRefused) as caught:
        kind.courier(folder="/no/such/folder").deliver(*frozen(tmp_path / "run", b"some bytes"), PLANNED_AT)
    assert "folder" in caught.value.mend
    with pytest.raises(DestinationRefused):
        kind.courier(folder="/no/such/folder").reach()


def test_secrets_open_to_others_are_refused(kind: Kind, tmp_path: Path) -> None:
    key = "key_file" if kind.table["kind"] == "sftp" else "password_file"
    Path(kind.table[key]).chmod(0o644)
    with pytest.raises(DestinationRefused, match=f"{key} .* open to others") as caught:
        kind.delivery().reach()
    assert "chmod" in caught.value.mend
    Path(kind.table[key]).unlink()
    with pytest.raises(DestinationRefused, match=f"{key} .*No such file"):
        kind.delivery().reach()


# --- FTP --------------------------------------------------------------------------------------------------------------


@pytest.fixture(params=["ftp", "ftps"])
def any_ftp(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[tuple[Ftp, dict[str, Any]]]:
    certificate = self_signed(tmp_path) if request.param == "ftps" else None
    more = {"kind": "ftps", "tls_ca_file": str(certificate)} if certificate else {}
    with ftp_server(tmp_path / "inbox", certificate=certificate) as server:
        yield server, ftp_table(tmp_path, server.port, **more)


@pytest.fixture
def ftp(tmp_path: Path) -> Iterator[Ftp]:
    with ftp_server(tmp_path / "inbox") as server:
        yield server


def test_an_upload_that_was_cut_is_gone_on_with(any_ftp: tuple[Ftp, dict[str, Any]], tmp_path: Path) -> None:
    ftp, table = any_ftp
    ftp.cut_after = 3 * MEGABYTE
    courier(table).deliver(*frozen(tmp_path / "run", large()), PLANNED_AT)
    assert files(ftp.folder) == {NAME: large()}
    first, second = ftp.stored
    assert first == 0
    assert second >= 3 * MEGABYTE


@pytest.mark.parametrize("command", ["STOR", "RNTO"])
def test_answers_that_get_lost_do_no_harm(any_ftp: tuple[Ftp, dict[str, Any]], tmp_path: Path, command: str) -> None:
    ftp, table = any_ftp
    ftp.lose = command
    courier(table).deliver(*frozen(tmp_path / "run", large()), PLANNED_AT)
    assert files(ftp.folder) == {NAME: large()}
    assert ftp.lose == ""
    assert ftp.commands.count("RNTO") == 1


def test_a_server_that_can_not_resume_gets_it_from_the_beginning(tmp_path: Path) -> None:
    with ftp_server(tmp_path / "inbox", unknown=frozenset({"REST"})) as server:
        (server.folder / temporary_name(NAME)).write_bytes(large()[: 2 * MEGABYTE])
        courier(ftp_table(tmp_path, server.port)).deliver(*frozen(tmp_path / "run", large()), PLANNED_AT)
        assert files(server.folder) == {NAME: large()}


def test_bytes_are_compared_unless_sizes_have_to_do(tmp_path: Path) -> None:
    """A drop box: what is written can't be read."""
    with ftp_server(tmp_path / "inbox", rights=WITHOUT_READING) as server:
        table = ftp_table(tmp_path, server.port)
        thing = frozen(tmp_path / "run", b"some bytes")
        with pytest.raises(DestinationRefused, match="may not read it") as caught:
            courier(table).deliver(*thing, PLANNED_AT)
        assert 'compare = "size"' in caught.value.mend
        assert NAME not in files(server.folder)
        for _ in range(2):
            courier(table | {"compare": "size"}).deliver(*thing, PLANNED_AT)
        assert files(server.folder) == {NAME: b"some bytes"}
        (server.folder / NAME).write_bytes(b"longer than that")
        with pytest.raises(DeliveryConflict):
            courier(table | {"compare": "size"}).deliver(*thing, PLANNED_AT)


def test_what_plain_ftp_has_mangled_is_not_given_its_name(
    ftp: Ftp, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pieces = byname._pieces
    damage = [True]

    def mangled(*arguments: Any) -> Iterator[bytes]:
        for piece in pieces(*arguments):
            yield bytes(len(piece)) if damage else piece
        damage.clear()

    monkeypatch.setattr(byname, "_pieces", mangled)
    thing = frozen(tmp_path / "run", b"some bytes")
    with pytest.raises(DestinationUnavailable, match="other bytes arrived"):
        connect(settings_of(ftp_table(tmp_path, ftp.port)), "").deliver(*thing, PLANNED_AT)
    assert files(ftp.folder) == {}
    courier(ftp_table(tmp_path, ftp.port)).deliver(*thing, PLANNED_AT)
    assert files(ftp.folder) == {NAME: b"some bytes"}


def test_a_certificate_that_is_not_trusted_gets_no_password(tmp_path: Path) -> None:
    (tmp_path / "other").mkdir()
    other = self_signed(tmp_path / "other")
    with ftp_server(tmp_path / "inbox", certificate=self_signed(tmp_path)) as server:
        for changes in ({}, {"tls_ca_file": str(other)}):
            table = ftp_table(tmp_path, server.port, kind="ftps", **changes)
            with pytest.raises(DestinationRefused) as caught:
                courier(table).reach()
            assert "tls_ca_file" in caught.value.mend
        assert "PASS" not in server.commands


def test_data_goes_in_the_tls_session_of_the_log_in(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Many servers refuse data connections that don't: anybody else could have opened them."""
    reused: list[bool | None] = []
    end = ftp_module._end_tls

    def noted(connection: Any) -> None:
        reused.append(connection.session_reused)
        end(connection)

    monkeypatch.setattr(ftp_module, "_end_tls", noted)
    certificate = self_signed(tmp_path)
    with ftp_server(tmp_path / "inbox", certificate=certificate) as server:
        table = ftp_table(tmp_path, server.port, kind="ftps", tls_ca_file=str(certificate))
        for _ in range(2):
            courier(table).deliver(*frozen(tmp_path / "run", b"some bytes"), PLANNED_AT)
    assert reused == [True, True]


def test_a_server_without_tls_gets_no_password(ftp: Ftp, tmp_path: Path) -> None:
    with pytest.raises(DestinationRefused, match="AUTH"):
        courier(ftp_table(tmp_path, ftp.port, kind="ftps")).reach()
    assert "PASS" not in ftp.commands


@pytest.mark.parametrize("text", ["not PEM", None])
def test_an_authority_that_can_not_be_read_is_told(tmp_path: Path, text: str | None) -> None:
    authority = tmp_path / "ca.pem"
    if text is not None:
        authority.write_text(text)
    with pytest.raises(DestinationRefused, match="tls_ca_file"):
        courier(ftp_table(tmp_path, 21, kind="ftps", tls_ca_file=str(authority))).reach()


def test_a_password_from_the_environment_is_never_shown(ftp: Ftp, tmp_path: Path) -> None:
    table = ftp_table(tmp_path, ftp.port)
    del table["password_file"]
    settings = settings_of(table | {"password": PASSWORD})
    connect(settings, "").reach()
    assert PASSWORD not in f"{settings!r} {settings} {settings.model_dump()}"


# --- SFTP -------------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Sftp]:
    with sftp_server(tmp_path_factory.mktemp("sftp")) as made:
        yield made


@pytest.fixture(autouse=True)
def empty(request: pytest.FixtureRequest) -> None:
    if "server" in request.fixturenames:
        made: Sftp = request.getfixturevalue("server")
        for path in made.folder.iterdir():
            path.unlink()


def table_of(server: Sftp, **changes: Any) -> dict[str, Any]:
    about = {"kind": "sftp", "name": "server", "host": "127.0.0.1", "port": server.port, "user": server.user}
    table = {**about, "folder": str(server.folder), "key_file": str(server.key), "host_keys": [server.host_key]}
    return {key: value for key, value in (table | changes).items() if value is not None}


@pytest.mark.parametrize("way", ["asked", "answered"])
def test_a_session_that_was_cut_is_gone_on_with(
    server: Sftp, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, way: str
) -> None:
    begun: list[int] = []
    write = sftp._Folder.write

    def noted(self: Any, name: str, pieces: Iterator[bytes], offset: int) -> None:
        begun.append(offset)
        write(self, name, pieces, offset)

    monkeypatch.setattr(sftp._Folder, "write", noted)
    proxy = Proxy(server.port)
    try:
        proxy.cut_after(5 * MEGABYTE if way == "asked" else 10_000, way)
        courier(table_of(server, port=proxy.port)).deliver(*frozen(tmp_path / "run", large()), PLANNED_AT)
        assert proxy.cuts == 1
    finally:
        proxy.close()
    assert files(server.folder) == {NAME: large()}
    first, second = begun
    assert first == 0
    assert second > MEGABYTE or way == "answered"


@pytest.mark.parametrize("cut", [1, 500, 2_000, 3_000, 4_000, 5_000])
def test_sessions_cut_anywhere_end_well(server: Sftp, tmp_path: Path, cut: int) -> None:
    """In the banner, the exchange of keys, the log-in, between requests and around the rename."""
    proxy = Proxy(server.port)
    try:
        proxy.cut_after(cut, "asked")
        courier(table_of(server, port=proxy.port)).deliver(*frozen(tmp_path / "run", b"some bytes"), PLANNED_AT)
    finally:
        proxy.close()
    assert files(server.folder) == {NAME: b"some bytes"}


def test_a_session_that_can_not_be_closed_does_no_harm(
    server: Sftp, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What was cut right after the last answer, for one."""

    def cut(_: object) -> None:
        raise EOFError

    monkeypatch.setattr(paramiko.SFTPClient, "close", cut)
    connect(settings_of(table_of(server)), "").deliver(*frozen(tmp_path / "run", b"some bytes"), PLANNED_AT)
    assert files(server.folder) == {NAME: b"some bytes"}


def test_an_sftp_rename_replaces_nothing(server: Sftp, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Somebody comes even after the last look."""
    rename = sftp._Folder.rename

    def late(self: Any, old: str, new: str) -> None:
        (server.folder / NAME).write_bytes(b"somebody else's")
        rename(self, old, new)

    monkeypatch.setattr(sftp._Folder, "rename", late)
    with pytest.raises(DeliveryConflict):
        courier(table_of(server)).deliver(*frozen(tmp_path / "run", b"some bytes"), PLANNED_AT)
    assert files(server.folder) == {NAME: b"somebody else's"}


OTHER_KEY = "SHA256:" + "A" * 43


def test_a_host_key_that_is_not_known_gets_nothing(server: Sftp, tmp_path: Path) -> None:
    other = tmp_path / "known"
    wrong = server.wrong_key.with_name("wrong.pub").read_text()
    other.write_text(f"[127.0.0.1]:{server.port} {wrong}")
    elsewhere = tmp_path / "elsewhere"
    elsewhere.write_text(f"example.com {wrong}")
    changed = {"known_hosts_file": str(other), "host_keys": [server.host_key]}  # known_hosts has the last word
    unknown = {"known_hosts_file": str(elsewhere), "host_keys": []}
    for changes in ({"host_keys": [OTHER_KEY]}, changed, unknown):
        with pytest.raises(DestinationRefused, match=re.escape(f"ssh-ed25519 {server.host_key}")) as caught:
            courier(table_of(server, **changes)).reach()
        assert "Nothing was sent" in caught.value.mend


def test_known_hosts_and_several_fingerprints_do(server: Sftp) -> None:
    courier(table_of(server, known_hosts_file=str(server.known_hosts), host_keys=[])).reach()
    courier(table_of(server, host_keys=[OTHER_KEY, server.host_key])).reach()
    with pytest.raises(DestinationRefused, match="known_hosts_file"):
        courier(table_of(server, known_hosts_file="/no/such/file", host_keys=[])).reach()


def test_rsa_host_keys_do(tmp_path: Path) -> None:
    with sftp_server(tmp_path / "rsa", host_kind="rsa") as made:
        courier(table_of(made, known_hosts_file=str(made.known_hosts), host_keys=[])).reach()
        courier(table_of(made)).reach()


def test_a_locked_key_is_opened_by_its_passphrase(server: Sftp, tmp_path: Path) -> None:
    locked = str(server.locked_key)
    courier(table_of(server, key_file=locked, password=PASSPHRASE)).reach()
    for changes in ({"password": "guessed"}, {}):
        with pytest.raises(DestinationRefused, match="can't be read as a private key") as caught:
            courier(table_of(server, key_file=locked, **changes)).reach()
        assert "guessed" not in str(caught.value)
    nonsense = tmp_path / "key"
    nonsense.write_text("no key")
    nonsense.chmod(0o600)
    with pytest.raises(DestinationRefused, match="can't be read as a private key"):
        courier(table_of(server, key_file=str(nonsense))).reach()


def test_a_wrong_password_is_refused(server: Sftp) -> None:
    with pytest.raises(DestinationRefused, match="Authentication"):
        courier(table_of(server, key_file=None, password="guessed")).reach()


def test_the_right_password_opens(tmp_path: Path) -> None:
    """sshd would ask the system for it: here the library's own server is asked."""
    password = tmp_path / "password"
    password.write_text(f"{PASSWORD}\n")
    password.chmod(0o600)
    with password_server(USER, PASSWORD) as (port, host_key):
        table = {"kind": "sftp", "name": "server", "host": "127.0.0.1", "port": port, "user": USER}
        courier({**table, "host_keys": [host_key], "password_file": str(password)}).reach()
        courier({**table, "host_keys": [host_key], "password": PASSWORD}).reach()
        with pytest.raises(DestinationRefused, match="Authentication"):
            courier({**table, "host_keys": [host_key], "password": "guessed"}).reach()


def test_an_sftp_drop_box_is_judged_by_sizes(tmp_path: Path) -> None:
    with sftp_server(tmp_path / "box", denied=["read"]) as made:
        thing = frozen(tmp_path / "run", b"some bytes")
        courier(table_of(made)).deliver(*thing, PLANNED_AT)
        with pytest.raises(DestinationRefused, match="may not read it") as caught:
            courier(table_of(made)).deliver(*thing, PLANNED_AT)
        assert 'compare = "size"' in caught.value.mend
        courier(table_of(made, compare="size")).deliver(*thing, PLANNED_AT)
        (made.folder / NAME).rename(made.folder / temporary_name(NAME))
        courier(table_of(made)).deliver(*thing, PLANNED_AT)  # what is half there can't be seen: from the beginning
        assert files(made.folder) == {NAME: b"some bytes"}


def test_rights_that_are_missing_are_told(tmp_path: Path) -> None:
    with sftp_server(tmp_path / "box", denied=["rename"]) as made:
        with pytest.raises(DestinationRefused, match=r"[Pp]ermission denied"):
            courier(table_of(made)).deliver(*frozen(tmp_path / "run", b"some bytes"), PLANNED_AT)
        assert NAME not in files(made.folder)
