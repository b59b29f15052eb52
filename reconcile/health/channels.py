"""Where alerts go: a webhook, mail. Each tries once and says what went wrong; the next look tries again."""

import json
import smtplib
import ssl
import urllib.error
import urllib.request
from collections.abc import Callable, Sequence
from contextlib import suppress
from email.message import EmailMessage
from pathlib import Path
from typing import Any, Literal

from pydantic import SecretStr

from idsync.errors import ConfigError, IdsyncError
from idsync.settings import Health
from reconcile.delivery.secret import password_of
from reconcile.health.memory import Alert

TIMEOUT_SECONDS = 10
_OK = range(200, 300)
_MAX_REASON = 200

Channel = Callable[[Sequence[Alert]], None]


class NotTold(Exception):
    """Why an alert did not go out, without the secret that the way there may hold."""


def open_channels(settings: Health) -> dict[str, Channel]:
    """By name. Raises ConfigError for a secret that can't be read."""
    channels: dict[str, Channel] = {}
    url = _secret(settings.webhook_url, settings.webhook_url_file, "webhook_url_file")
    if url:
        channels["webhook"] = lambda alerts: post(url, alerts)
    if settings.mail_to:
        password = _secret(settings.smtp_password, settings.smtp_password_file, "smtp_password_file")
        channels["mail"] = lambda alerts: mail(settings, password, alerts)
    return channels


def _secret(value: SecretStr | None, file: Path | None, key: str) -> str | None:
    try:
        return password_of("health", value, file)
    except IdsyncError as error:
        fault = error.problem.rpartition(": ")[2]
        raise ConfigError(f"health.{key}", [f"{file}: {fault}; {error.mend}"]) from None


def text(alerts: Sequence[Alert]) -> str:
    return "\n".join(alert.text for alert in alerts)


def body(alerts: Sequence[Alert]) -> dict[str, Any]:
    """`text` is what Slack and its like show; the rest is for programs."""
    worst: Literal["bad", "ok"] = "bad" if any(alert.condition.faults for alert in alerts) else "ok"
    return {"text": f"idsync\n{text(alerts)}", "state": worst, "alerts": [alert.as_dict() for alert in alerts]}


class _NoRedirect(urllib.request.HTTPRedirectHandler):
    """A POST that is redirected becomes a GET without its body, and looks as if it had been taken."""

    def redirect_request(self, *_: Any) -> None:
        return None


def post(url: str, alerts: Sequence[Alert]) -> None:
    """Raises NotTold."""
    request = urllib.request.Request(  # noqa: S310  the settings see to it that it is http or https
        url, json.dumps(body(alerts)).encode(), {"Content-Type": "application/json", "User-Agent": "idsync"}
    )
    try:
        with urllib.request.build_opener(_NoRedirect).open(request, timeout=TIMEOUT_SECONDS) as answer:
            status = answer.status
    except urllib.error.HTTPError as error:
        status = error.code
        error.close()
    except (OSError, ValueError) as error:  # of TLS and of HTTP, too
        raise NotTold(f"webhook: {_reason(error)}") from None
    except Exception as error:  # noqa: BLE001 - http.client has errors of its own that are none of these
        raise NotTold(f"webhook: {type(error).__name__}") from None
    if status not in _OK:
        raise NotTold(f"webhook: answered {status}")


def mail(settings: Health, password: str | None, alerts: Sequence[Alert]) -> None:
    """Raises NotTold. A server that takes it for one of the receivers has taken it."""
    message = EmailMessage()
    bad = sorted({alert.condition.subject for alert in alerts if alert.condition.faults})
    message["Subject"] = f"idsync: {', '.join(bad)}" if bad else "idsync: well again"
    message["From"], message["To"] = settings.mail_from, ", ".join(settings.mail_to)
    message.set_content(f"{text(alerts)}\n\nWhat to do: the runbook, by symptom.\n")
    try:
        server = _connected(settings)
        try:
            if settings.smtp_user is not None:
                server.login(settings.smtp_user, password or "")
            server.send_message(message)
        finally:
            with suppress(smtplib.SMTPException, OSError):  # what was taken is taken
                server.quit()
            server.close()
    except smtplib.SMTPResponseException as error:
        raise NotTold(f"mail: {settings.smtp_host} answered {error.smtp_code}") from None
    except (smtplib.SMTPException, OSError, ValueError) as error:
        raise NotTold(f"mail: {settings.smtp_host}: {_reason(error)}") from None


def _connected(settings: Health) -> smtplib.SMTP:
    host = settings.smtp_host or ""
    if settings.smtp_security == "none":
        return smtplib.SMTP(host, settings.smtp_port, timeout=TIMEOUT_SECONDS)
    trusted = ssl.create_default_context(cafile=settings.smtp_ca_file)
    if settings.smtp_security == "tls":
        return smtplib.SMTP_SSL(host, settings.smtp_port, timeout=TIMEOUT_SECONDS, context=trusted)
    server = smtplib.SMTP(host, settings.smtp_port, timeout=TIMEOUT_SECONDS)
    try:
        server.starttls(context=trusted)
    except BaseException:
        server.close()
        raise
    return server


def _reason(error: Exception) -> str:
    """Without the address, which may be a secret: what the system or the library says of the cause."""
    if isinstance(error, smtplib.SMTPException):
        return str(error)[:_MAX_REASON]
    cause = getattr(error, "reason", error)
    if isinstance(cause, OSError) and cause.strerror:
        return cause.strerror
    return type(cause).__name__ if isinstance(cause, Exception) else type(error).__name__
