"""Passwords and private keys: out of the environment or a file, and never shown."""

from pathlib import Path

from pydantic import SecretStr

from reconcile.errors import DestinationRefused

_FORBIDDEN_MODE = 0o037  # the owner's, and at most readable by a group


def password_of(destination: str, password: SecretStr | None, file: Path | None) -> str | None:
    """What was given, without the newline at a file's end. Raises DestinationRefused."""
    if password is not None:
        return password.get_secret_value()
    if file is None:
        return None
    see_private(destination, "password_file", file)
    try:
        return file.read_text().rstrip("\r\n")
    except (OSError, UnicodeDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else "not text"
        raise DestinationRefused(
            f'destination "{destination}": password_file {file}: {reason}',
            mend="name a readable file that holds the password and nothing else",
        ) from None


def see_private(destination: str, key: str, file: Path) -> None:
    """Raise where a file is missing, or open to others."""
    try:
        mode = file.stat().st_mode
    except OSError as error:
        raise DestinationRefused(
            f'destination "{destination}": {key} {file}: {error.strerror}', mend=f"mend the destination's {key}"
        ) from None
    if mode & _FORBIDDEN_MODE:
        raise DestinationRefused(
            f'destination "{destination}": {key} {file}: open to others (mode {mode & 0o777:04o})',
            mend="chmod 600 or 640",
        )
