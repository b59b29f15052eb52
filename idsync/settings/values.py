"""What keys of several tables have in common: names, paths, hosts."""

import glob
from pathlib import Path
from typing import Annotated

from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field, ValidationInfo


def beside_config(path: Path, info: ValidationInfo) -> Path:
    """Relative paths are relative to the configuration file."""
    return _base(info) / path.expanduser()


def glob_beside_config(pattern: str, info: ValidationInfo) -> str:
    """The name of the configuration's folder is no pattern, whatever it looks like."""
    if "://" in pattern:
        return pattern
    return str(Path(glob.escape(str(_base(info)))) / Path(pattern).expanduser())


def _base(info: ValidationInfo) -> Path:
    return Path((info.context or {}).get("base", Path()))


ConfigPath = Annotated[Path, AfterValidator(beside_config)]
Name = Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]{0,63}$")]
Host = Annotated[str, Field(pattern=r"^([A-Za-z0-9._-]+|[0-9A-Fa-f:]+)$")]
Dpid = Annotated[int, Field(ge=1, le=9_999_999_999)]
MAX_TRAIT_DIGITS = 18  # as in columns of traits: more may be more than 64 bits hold


def checked_trait(trait: int) -> int:
    if trait >= 10**MAX_TRAIT_DIGITS:
        raise ValueError(f"must have at most {MAX_TRAIT_DIGITS} digits")
    return trait


TraitId = Annotated[int, Field(ge=1), AfterValidator(checked_trait)]
Column = Annotated[str, Field(min_length=1)]
Columns = Annotated[
    tuple[Column, ...], Field(min_length=1), BeforeValidator(lambda given: [given] if isinstance(given, str) else given)
]
SignalKey = Annotated[str, Field(pattern=r'^[^"\x00-\x1f\x7f]+$')]
ConstantText = Annotated[SignalKey, Field(max_length=1000)]


class Table(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)
