"""What keys of several tables have in common: names, paths, hosts."""

from pathlib import Path
from typing import Annotated

from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field, ValidationInfo


def beside_config(path: Path, info: ValidationInfo) -> Path:
    """Relative paths are relative to the configuration file."""
    base = (info.context or {}).get("base", Path())
    return Path(base) / path.expanduser()


def glob_beside_config(pattern: str, info: ValidationInfo) -> str:
    return pattern if "://" in pattern else str(beside_config(Path(pattern), info))


ConfigPath = Annotated[Path, AfterValidator(beside_config)]
Name = Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]{0,63}$")]
Host = Annotated[str, Field(pattern=r"^([A-Za-z0-9._-]+|[0-9A-Fa-f:]+)$")]
Dpid = Annotated[int, Field(ge=1, le=9_999_999_999)]
TraitId = Annotated[int, Field(ge=1)]
Column = Annotated[str, Field(min_length=1)]
Columns = Annotated[
    tuple[Column, ...], Field(min_length=1), BeforeValidator(lambda given: [given] if isinstance(given, str) else given)
]
SignalKey = Annotated[str, Field(pattern=r'^[^"\x00-\x1f\x7f]+$')]
ConstantText = Annotated[SignalKey, Field(max_length=1000)]


class Table(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)
