"""The table of a feed, and its rules."""

import re
from decimal import Decimal
from typing import Annotated, Any, Literal, Self

from pydantic import AfterValidator, BeforeValidator, Field, ValidationInfo, model_validator

from idsync.settings.values import (
    Column,
    Columns,
    ConfigPath,
    ConstantText,
    Dpid,
    Name,
    SignalKey,
    Table,
    TraitId,
    checked_trait,
    glob_beside_config,
)


def _exact(number: Any) -> Any:
    """A number as it was written: a float of up to 15 digits comes back from its text unharmed."""
    if isinstance(number, float):
        if len(Decimal(repr(number)).as_tuple().digits) > FLOAT_DIGITS:
            raise ValueError(f"has more than {FLOAT_DIGITS} digits; write it in quotes")
        return Decimal(repr(number))
    if isinstance(number, bool) or (isinstance(number, str) and not re.fullmatch(r"[+-]?[0-9]+(\.[0-9]+)?", number)):
        raise ValueError('must be a number, such as 12, -0.5 or "12.50"')
    return number


FLOAT_DIGITS = 15
Number = Annotated[Decimal, BeforeValidator(_exact), Field(allow_inf_nan=False, max_digits=200)]


class Range(Table):
    """Both ends included; one of them may be left out."""

    min: Number | None = None
    max: Number | None = None

    @model_validator(mode="after")
    def _some(self) -> Self:
        if self.min is None and self.max is None:
            raise ValueError("empty; give min, max or both")
        if self.min is not None and self.max is not None and self.min > self.max:
            raise ValueError("no number is between: min is more than max")
        return self


def _re2(pattern: str) -> str:
    """Of the engine that will use it. Imported here, since it takes its time and most processes need it not."""
    import pyarrow as pa  # noqa: PLC0415
    import pyarrow.compute as pc  # noqa: PLC0415

    try:
        pc.match_substring_regex(pa.array([""]), pattern)
    except pa.ArrowInvalid as error:
        raise ValueError(f"not a pattern of RE2: {str(error).rpartition(': ')[2]}") from None
    return pattern


TRAIT_CODE = r"[!#-+\--9<>-{}~]{1,255}"  # of ASCII, without what separates items, lists, or an item's parts
TraitCode = Annotated[str, Field(pattern=f"^{TRAIT_CODE}$")]


class TraitRule(Table):
    """`trait`, or that with the integration code `ic`, is added to records whose `column` passes the one test.

    `otherwise = "remove"` removes it from all others.
    """

    column: Column
    equals: str | None = None
    one_of: Annotated[tuple[str, ...], Field(min_length=1)] | None = Field(default=None, alias="in")
    range: Range | None = None
    regex: Annotated[str, AfterValidator(_re2)] | None = None
    present: bool | None = None
    trait: TraitId | None = None
    ic: TraitCode | None = None
    otherwise: Literal["nothing", "remove"] = "nothing"

    @model_validator(mode="after")
    def _one_test_one_trait(self) -> Self:
        tests = (self.equals, self.one_of, self.range, self.regex, self.present)
        if sum(test is not None for test in tests) != 1:
            raise ValueError("needs exactly one of equals, in, range, regex, present")
        if (self.trait is None) == (self.ic is None):
            raise ValueError("needs either trait or ic")
        if self.ic is not None and self.otherwise == "remove":
            raise ValueError('otherwise = "remove" needs trait: there is no removal by integration code')
        return self

    @property
    def adds(self) -> int | str:
        """The trait by its ID, or by its integration code."""
        return self.ic or self.trait or 0


def _of_signals(keys: dict[str, str], info: ValidationInfo) -> dict[str, str]:
    if unknown := sorted(set(keys) - set(info.data.get("signals", keys))):
        raise ValueError(f"not in signals: {', '.join(unknown)}")
    return keys


def _constant_trait(given: Any) -> Any:
    """A trait ID, or `ic=code`; kept as number or bare code."""
    if isinstance(given, str) and re.fullmatch(f"ic={TRAIT_CODE}", given):
        return given.removeprefix("ic=")
    if isinstance(given, bool) or not isinstance(given, int) or given < 1:
        raise ValueError('must be a trait ID, such as 24, or "ic=" and an integration code')
    return checked_trait(given)


def _with_constants(empty_overwrite: bool, info: ValidationInfo) -> bool:
    """A line without items is dropped by Audience Manager: something has to stand on it."""
    if empty_overwrite and info.data.get("mode", "overwrite") != "overwrite":
        raise ValueError('needs mode = "overwrite"')
    if empty_overwrite and not info.data.get("constants", True):
        raise ValueError("needs constants: a line without any item would be dropped by Audience Manager")
    return empty_overwrite


def _not_overwriting(changes_only: bool, info: ValidationInfo) -> bool:
    """An overwrite file replaces all traits of its users, and can remove none by name."""
    if changes_only and info.data.get("mode", "sync") != "sync":
        raise ValueError('needs mode = "sync"')
    return changes_only


def _of_changes(value: Any, info: ValidationInfo) -> Any:
    """Only where it is known what was sent before can it be taken away."""
    if value not in {False, "keep"} and not info.data.get("changes_only", True):
        raise ValueError("needs changes_only = true")
    return value


def _delimiter(sign: str) -> str:
    if sign != "auto" and (len(sign) != 1 or not sign.isascii() or sign in '\r\n\0"'):
        raise ValueError('must be "auto", or one ASCII character that is neither a quote nor a line break')
    return sign


def _quote(sign: str, info: ValidationInfo) -> str:
    if len(sign) > 1 or not sign.isascii() or (sign and (sign in "\r\n\0" or sign == info.data.get("delimiter"))):
        raise ValueError("must be one ASCII character other than the delimiter, or empty where nothing is quoted")
    return sign


def _encoding(name: str) -> str:
    """Any that Python knows for text, but not those that stop at the first bad byte (idna, punycode), which is to cost
    its record alone, nor those that know escapes (unicode_escape): a backslash in a file means itself.
    """
    try:
        known = name == "auto" or (
            "a;\n".encode(name).decode(name) == "a;\n"
            and "\n" not in rb"\u000a".decode(name, "backslashreplace")  # stands for any that is not `strict`
        )
    except (LookupError, UnicodeError):
        known = False
    if not known:
        raise ValueError('must be "auto" or the name of an encoding of files, such as cp1252, latin-1 or utf-16')
    return name


def _bucket_or_glob(pattern: str) -> str:
    if "://" in pattern and not re.fullmatch(r"s3://[a-z0-9][a-z0-9.-]{1,61}[a-z0-9]/.+", pattern):
        raise ValueError("must be a glob of local files, or s3://bucket/prefix*")
    return pattern


def _columns_asked_for(columns: dict[str, Any], info: ValidationInfo) -> dict[str, Any]:
    """A name that nothing asks for is a slip of the pen."""
    fields = ("id_column", "signals", "trait_columns", "rules")
    if all(field in info.data for field in fields):
        asked = {info.data["id_column"], *info.data["signals"], *info.data["trait_columns"]}
        asked |= {rule.column for rule in info.data["rules"]} | {info.data.get("email_column")}
        if unknown := sorted(set(columns) - asked):
            raise ValueError(f"nothing in this feed asks for {', '.join(unknown)}")
    return columns


class Feed(Table):
    name: Name
    data_source: str
    kind: Literal["data", "email-hashes"] = "data"
    inputs: Annotated[str, AfterValidator(_bucket_or_glob), AfterValidator(glob_beside_config)]
    inputs_endpoint_url: str | None = None
    inputs_region: str | None = None
    settle_seconds: Annotated[int, Field(ge=0, le=86_400)] = 0
    delimiter: Annotated[str, AfterValidator(_delimiter)] = "auto"
    quote: Annotated[str, AfterValidator(_quote)] = '"'
    encoding: Annotated[str, AfterValidator(_encoding)] = "auto"
    id_column: Column
    mode: Literal["sync", "overwrite"] = "sync"
    user_id: str = "uuid"
    dpid: Dpid | None = None
    target: Dpid | None = None
    devices: Literal["latest", "all"] = "latest"
    unmatched: Literal["hold", "drop", "emit"] = "hold"
    held_days: Annotated[int, Field(ge=1, le=3650)] = 120
    changes_only: Annotated[bool, AfterValidator(_not_overwriting)] = False
    vanished: Annotated[Literal["keep", "remove"], AfterValidator(_of_changes)] = "keep"
    max_vanished: Annotated[float, Field(ge=0, le=1)] = 0.1
    optout_removals: Annotated[bool, AfterValidator(_of_changes)] = False
    signals: tuple[SignalKey, ...] = ()
    trait_columns: tuple[Column, ...] = ()
    rules: tuple[TraitRule, ...] = ()
    signal_keys: Annotated[dict[Column, SignalKey], AfterValidator(_of_signals)] = Field(default={})
    constants: dict[ConstantText, ConstantText] = Field(default={})
    constant_traits: tuple[Annotated[int | str, BeforeValidator(_constant_trait)], ...] = ()
    unsendable: Literal["record", "item"] = "record"
    empty_overwrite: Annotated[bool, AfterValidator(_with_constants)] = False
    conflicts: Literal["all", "last", "first"] = "all"
    email_column: Column | None = None
    email_data_source: str | None = None
    columns: Annotated[dict[Column, Columns], AfterValidator(_columns_asked_for)] = Field(default={})
    destination: str
    compression: Literal["none", "gzip", "pgp"] = "gzip"
    max_rejected: Annotated[float, Field(ge=0, le=1)] = 0.01
    after_sync_file: bool = False
    diagnose: bool = True
    known_traits_file: ConfigPath | None = None
    expected_every_hours: Annotated[float, Field(gt=0, le=8784)] | None = None
