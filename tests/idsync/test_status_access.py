"""Who may see the status page, and the settings of that."""

from pathlib import Path

import pytest

from idsync import access
from idsync.access import Access, Asker
from idsync.clients import TrustedProxies
from idsync.errors import ConfigError
from tests.idsync.status_samples import TOKEN, basic, endpoint_settings, with_token

# trusted_proxies · peer · X-Forwarded-For · Host · other header of a proxy · granted
PLACES: list[tuple[tuple[str, ...], str, str, str, bool, bool]] = [
    ((), "127.0.0.1", "", "127.0.0.1:8000", False, True),
    ((), "127.0.0.1", "", "localhost", False, True),
    ((), "127.9.9.9", "", "LOCALHOST:8000", False, True),
    ((), "::1", "", "[::1]:8000", False, True),
    ((), "::ffff:127.0.0.1", "", "localhost", False, True),
    ((), "192.0.2.1", "", "localhost", False, False),
    ((), "::ffff:192.0.2.1", "", "localhost", False, False),
    ((), "", "", "localhost", False, False),
    ((), "x", "", "localhost", False, False),
    # a proxy that nobody declared: told by a header, or by the name that it passes on
    ((), "127.0.0.1", "127.0.0.1", "localhost", False, False),
    ((), "127.0.0.1", "203.0.113.7", "localhost", False, False),
    ((), "127.0.0.1", " ", "localhost", False, False),
    ((), "127.0.0.1", "", "localhost", True, False),
    ((), "127.0.0.1", "", "sync.example.com", False, False),
    ((), "127.0.0.1", "", "localhost.evil.example", False, False),
    ((), "127.0.0.1", "", "", False, False),
    (("10.0.0.1",), "127.0.0.1", "127.0.0.1", "localhost", False, False),
    # a declared one: it tells who asks
    (("127.0.0.1",), "127.0.0.1", "127.0.0.1", "sync.example.com", True, True),
    (("127.0.0.1",), "127.0.0.1", "::1, 127.0.0.1", "sync.example.com", True, True),
    (("127.0.0.1",), "127.0.0.1", "203.0.113.7", "sync.example.com", True, False),
    (("127.0.0.1",), "127.0.0.1", "127.0.0.1, 203.0.113.7", "localhost", True, False),
    (("127.0.0.1",), "127.0.0.1", "203.0.113.7, 127.0.0.1", "localhost", True, False),
    (("127.0.0.1",), "127.0.0.1", "127.0.0.1, x", "localhost", True, False),
    (("127.0.0.1",), "127.0.0.1", ",", "localhost", True, False),
    (("127.0.0.1",), "127.0.0.1", "", "localhost", False, True),
    (("127.0.0.1",), "127.0.0.1", "", "localhost", True, False),
    (("127.0.0.1",), "127.0.0.1", "", "sync.example.com", False, False),
    # on another machine, "127.0.0.1" is that machine
    (("10.0.0.1",), "10.0.0.1", "127.0.0.1", "localhost", True, False),
    (("unix",), "", "127.0.0.1", "sync.example.com", True, True),
    (("unix",), "", "203.0.113.7", "sync.example.com", True, False),
    (("unix",), "", "", "localhost", False, False),
    (("127.0.0.1",), "", "127.0.0.1", "localhost", True, False),
]  # fmt: skip


@pytest.mark.parametrize(("proxies", "peer", "forwarded_for", "host", "signed", "granted"), PLACES)
def test_who_is_on_this_machine(
    proxies: tuple[str, ...], peer: str, forwarded_for: str, host: str, signed: bool, granted: bool
) -> None:
    found = access.by_place(Asker(peer, forwarded_for, host, signed=signed), TrustedProxies(proxies))
    assert found is (Access.GRANTED if granted else Access.NOT_HERE)


@pytest.mark.parametrize(
    ("authorization", "granted"),
    [
        (f"Bearer {TOKEN}", True),
        (f"bearer  {TOKEN}", True),
        (basic("", TOKEN), True),
        (basic("ops", TOKEN), True),
        (basic("ops", f"x:{TOKEN}"), False),
        (basic(TOKEN, ""), False),
        ("", False),
        ("Bearer", False),
        ("Bearer ", False),
        (f"Bearer {TOKEN[:-1]}", False),
        (f"Bearer {TOKEN}x", False),
        (f"Bearer {TOKEN.upper()}", False),
        (f"Token {TOKEN}", False),
        (TOKEN, False),
        ("Basic !", False),
        ("Basic \xff", False),
        ("Bearer \u0141", False),
        (f"Basic {TOKEN}", False),
    ],
)
def test_who_knows_the_token(authorization: str, granted: bool) -> None:
    found = access.by_token(Asker("203.0.113.7", authorization=authorization), TOKEN.encode())
    assert found is (Access.GRANTED if granted else Access.NO_TOKEN)


def test_the_token_is_read_from_its_file(tmp_path: Path) -> None:
    assert access.read_token(with_token(tmp_path).endpoint) == TOKEN.encode()
    assert access.read_token(endpoint_settings(tmp_path, 'status = "loopback"').endpoint) == b""


@pytest.mark.parametrize(
    ("content", "mode", "told"),
    [
        (TOKEN, 0o644, "open to others (mode 0644)"),
        ("", 0o600, "32 to 256 characters"),
        ("f" * 31, 0o600, "32 to 256 characters"),
        (f"{TOKEN}\n{TOKEN}", 0o600, "one token"),
        ("f" * 257, 0o600, "32 to 256 characters"),
        ("é" * 40, 0o600, "32 to 256 characters"),
    ],
)
def test_a_wrong_token_file_is_told_without_its_content(tmp_path: Path, content: str, mode: int, told: str) -> None:
    with pytest.raises(ConfigError) as caught:
        access.read_token(with_token(tmp_path, content, mode).endpoint)
    assert told in str(caught.value)
    assert str(tmp_path / "token") in str(caught.value)
    assert "f" * 31 not in str(caught.value)


def test_a_missing_token_file_is_told(tmp_path: Path) -> None:
    settings = with_token(tmp_path)
    (tmp_path / "token").unlink()
    with pytest.raises(ConfigError, match="status_token_file can't be read: No such file"):
        access.read_token(settings.endpoint)


def test_settings_that_make_no_sense(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r'endpoint.status = "token": needs status_token_file'):
        endpoint_settings(tmp_path, 'status = "token"')
    with pytest.raises(ConfigError, match=r"endpoint.status = .everybody."):
        endpoint_settings(tmp_path, 'status = "everybody"')
    assert endpoint_settings(tmp_path).endpoint.status == "off"
