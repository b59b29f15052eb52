"""How it is told: to a real HTTP server, and a real SMTP server."""

import asyncio
import ssl
from collections.abc import Iterator
from contextlib import contextmanager
from email import message_from_bytes
from pathlib import Path
from typing import Any

import pytest
from aiosmtpd.controller import Controller
from aiosmtpd.smtp import AuthResult, LoginPassword

from idsync.errors import ConfigError
from reconcile.health.job import look
from tests.contracts.destinations import self_signed
from tests.reconcile.samples import NOW, World
from tests.reconcile.watching import delivered_once, late, watched, webhook
from tests.servers import free_port


@pytest.fixture
def world(tmp_path: Path) -> World:
    return delivered_once(tmp_path)


class Postbox:
    def __init__(self) -> None:
        self.mails: list[Any] = []
        self.refuse = False

    async def handle_DATA(self, server: Any, session: Any, envelope: Any) -> str:
        if self.refuse:
            return "451 not now"
        message = message_from_bytes(envelope.content)
        self.mails.append((session.ssl is not None, session.authenticated, envelope.rcpt_tos, message))
        return "250 OK"


@contextmanager
def smtp(postbox: Postbox, folder: Path, *, implicit: bool = False) -> Iterator[int]:
    """With STARTTLS, or TLS from the first byte, and AUTH."""
    certificate = self_signed(folder)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate)

    def authenticate(_server: Any, _session: Any, _envelope: Any, _mechanism: str, data: Any) -> AuthResult:
        good = isinstance(data, LoginPassword) and (data.login, data.password) == (b"idsync", b"hunter2")
        return AuthResult(success=good, handled=False)  # the answer is the server's

    controller = Controller(
        postbox,
        hostname="127.0.0.1",
        port=free_port(),
        loop=asyncio.new_event_loop(),
        authenticator=authenticate,
        auth_required=True,
        auth_require_tls=not implicit,  # it knows of its own STARTTLS alone
        **({"ssl_context": context} if implicit else {"tls_context": context, "require_starttls": True}),
    )
    controller.start()
    try:
        yield controller.port
    finally:
        controller.stop()


def test_the_webhook(world: World) -> None:
    with webhook() as (url, hook):
        settings = watched(world, webhook_url=url)
        assert late(settings, 1).well
        assert hook.posts == []
        for hours in (30, 31, 60):
            assert not late(settings, hours).well
        [post] = hook.posts
        text = "daily: overdue: nothing delivered for 30 hours, expected every 24 hours"
        assert (post["text"], post["state"]) == (f"idsync\n{text}", "bad")
        assert post["alerts"][0]["subject"] == "daily"
        assert late(settings, 2).told == {"webhook": 1}
        assert (hook.posts[1]["text"], hook.posts[1]["state"]) == ("idsync\ndaily: well again (was overdue)", "ok")


@pytest.mark.parametrize("status", [500, 404, 302, 307])
def test_a_webhook_that_does_not_take_it_is_tried_again(world: World, status: int) -> None:
    with webhook() as (url, hook):
        settings = watched(world, webhook_url=url)
        hook.status = status
        for _ in range(2):
            assert late(settings).not_told == [f"webhook: answered {status}"]
        hook.status = 200
        assert late(settings).told == {"webhook": 1}
        assert late(settings).told == {}
        assert len(hook.posts) == 1


def test_a_webhook_out_of_reach_is_told_without_its_address(world: World) -> None:
    settings = watched(world, webhook_url=f"http://127.0.0.1:{free_port()}/services/secret-path")
    [reason] = late(settings).not_told
    assert reason == "webhook: Connection refused"


def mailed(port: int, certificate: Path, password: Path, **changes: Any) -> dict[str, Any]:
    return {
        "smtp_host": "127.0.0.1",
        "smtp_port": port,
        "smtp_ca_file": certificate,
        "smtp_user": "idsync",
        "smtp_password_file": password,
        "mail_from": "idsync@example.com",
        "mail_to": ["ops@example.com", "crm@example.com"],
        **changes,
    }


# the server does not see the TLS that it is wrapped in
@pytest.mark.filterwarnings("ignore:Requiring AUTH while not requiring TLS")
@pytest.mark.parametrize("security", ["starttls", "tls"])
def test_mail(world: World, security: str) -> None:
    postbox = Postbox()
    password = world.folder / "password"
    password.write_text("hunter2\n")
    password.chmod(0o600)
    with smtp(postbox, world.folder, implicit=security == "tls") as port:
        [certificate] = world.folder.glob("*.pem")
        settings = watched(world, **mailed(port, certificate, password), smtp_security=security)
        postbox.refuse = True
        assert late(settings).not_told == ["mail: 127.0.0.1 answered 451"]
        postbox.refuse = False
        assert late(settings).told == {"mail": 1}
        assert late(settings).told == {}
        [(encrypted, authenticated, receivers, message)] = postbox.mails
        assert (encrypted, authenticated, receivers) == (
            security == "starttls",
            True,
            ["ops@example.com", "crm@example.com"],
        )
        assert (message["Subject"], message["From"]) == ("idsync: daily", "idsync@example.com")
        assert "daily: overdue: nothing delivered for 30 hours" in message.get_payload()
        password.write_text("wrong")
        assert look(settings, [], NOW).not_told == ["mail: 127.0.0.1 answered 535"]
        unknown = watched(world, **mailed(port, certificate, password, smtp_ca_file=None), smtp_security=security)
        [reason] = look(unknown, [], NOW).not_told
        assert "hunter2" not in reason
    [reason] = look(settings, [], NOW).not_told
    assert reason == "mail: 127.0.0.1: Connection refused"
    assert len(postbox.mails) == 1


def test_each_way_has_its_own_account(world: World) -> None:
    """One that is closed does not have the other told twice."""
    with webhook() as (url, hook):
        mail = {"smtp_host": "127.0.0.1", "smtp_port": free_port(), "mail_from": "a@example.com", "mail_to": ["b@c.de"]}
        settings = watched(world, webhook_url=url, **mail)
        for _ in range(3):
            found = late(settings)
        assert len(hook.posts) == 1
        assert found.not_told == ["mail: 127.0.0.1: Connection refused"]


def test_secrets_are_read_from_files_that_are_private(world: World) -> None:
    file = world.folder / "url"
    file.write_text("http://127.0.0.1:1/x\n")
    file.chmod(0o644)
    with pytest.raises(ConfigError, match="open to others"):
        late(watched(world, webhook_url_file=file))
    file.chmod(0o640)
    assert late(watched(world, webhook_url_file=file)).not_told == ["webhook: Connection refused"]
