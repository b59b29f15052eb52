"""The tables of the job as a whole: what it keeps, and whom it tells when a feed is ill."""

import re
from pathlib import Path
from typing import Annotated, Literal

from pydantic import AfterValidator, Field, SecretStr, ValidationInfo

from idsync.settings.values import ConfigPath, Host, Table


def _memory(size: str) -> str:
    if not re.fullmatch(r"[1-9][0-9]*\s?(MB|GB|MiB|GiB)", size):
        raise ValueError('must be a size such as "1GB" or "800MB"')
    return size


def _within_run(days: int, info: ValidationInfo) -> int:
    """What lies in a run's folder goes with it at the latest."""
    if days > info.data.get("keep_runs_days", days):
        raise ValueError("must not be more than keep_runs_days: it lies in the folder of its run")
    return days


class Reconcile(Table):
    """Where the job keeps its ledger, run folders and held records, for how long, and how much memory a join takes."""

    state_dir: ConfigPath = Field(default=Path("var/reconcile"), validate_default=True)
    memory_limit: Annotated[str, AfterValidator(_memory)] = "1700MB"
    disk_check: bool = True
    keep_runs_days: Annotated[int, Field(ge=1, le=3650)] = 30
    keep_rejects_days: Annotated[int, Field(ge=1, le=3650), AfterValidator(_within_run)] = 30
    keep_files_days: Annotated[int, Field(ge=1, le=3650), AfterValidator(_within_run)] = 7
    keep_state_days: Annotated[int, Field(ge=1, le=3650)] = 365
    lease_seconds: Annotated[int, Field(ge=3, le=3600)] = 30
    mask_ids: bool = True


def _url_or_file(url: SecretStr | None, info: ValidationInfo) -> SecretStr | None:
    """The URL of a chat's webhook lets everybody write there who has it."""
    if url is None:
        return None
    if info.data.get("webhook_url_file") is not None:
        raise ValueError("stands beside webhook_url_file; give one of them")
    if not re.fullmatch(r"https?://[^\s/]+(/\S*)?", url.get_secret_value()):
        raise ValueError("must be a URL of http or https")
    return url


def _from_and_to(receivers: tuple[str, ...], info: ValidationInfo) -> tuple[str, ...]:
    missing = [name for name in ("smtp_host", "mail_from") if info.data.get(name, ...) is None]
    if receivers and missing:
        raise ValueError(f"needs {' and '.join(missing)}")
    return receivers


def _of_smtp_user(password: SecretStr | None, info: ValidationInfo) -> SecretStr | None:
    if password is not None and info.data.get("smtp_password_file") is not None:
        raise ValueError("stands beside smtp_password_file; give one of them")
    return password


MailAddress = Annotated[str, Field(pattern=r"^[^@\s<>,]+@[^@\s<>,]+$")]


class Health(Table):
    """When `reconcile health` calls a feed ill, and whom it tells. `webhook_url` and `smtp_password` come from the
    environment alone, `config` sees to that.
    """

    stuck_hours: Annotated[float, Field(gt=0, le=8784)] = 3
    match_rate_fall: Annotated[float, Field(gt=0, le=1)] = 0.2
    compared_runs: Annotated[int, Field(ge=1, le=365)] = 7
    webhook_url_file: ConfigPath | None = None
    webhook_url: Annotated[SecretStr | None, AfterValidator(_url_or_file)] = None
    smtp_host: Host | None = None
    smtp_port: Annotated[int, Field(ge=1, le=65_535)] = 587
    smtp_security: Literal["starttls", "tls", "none"] = "starttls"
    smtp_ca_file: ConfigPath | None = None
    smtp_user: str | None = None
    smtp_password_file: ConfigPath | None = None
    smtp_password: Annotated[SecretStr | None, AfterValidator(_of_smtp_user)] = None
    mail_from: MailAddress | None = None
    mail_to: Annotated[tuple[MailAddress, ...], AfterValidator(_from_and_to)] = ()
