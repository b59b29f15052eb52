"""The grammar of calls: raw request target -> SyncCall.

    /ibs:<name>=<value>&<name>=<value>…        Audience Manager's form: the parameters stand in the path
    /sync?<name>=<value>&<name>=<value>…       the same parameters as a query; /event?… too, as with Audience Manager
    /id?<name>=<value>&<name>=<value>…         the same, answered with the UUID as JSON; may carry no customer ID
    /demoptout?…, /demoptout.jpg?…             an opt-out, which names whom in the same way; no sync call

Parameters are split on the raw target and only then percent-decoded, one by one, so that `%26` in a value is a literal
`&`. Decoding is strict: one bad escape, or bytes that are not UTF-8, and the whole call is dropped (Audience Manager's
error 311). `+` is a plus in both forms, not a space: IDs are compared byte for byte with those of a feed.
"""

import re
from dataclasses import dataclass
from typing import Any, NamedTuple
from urllib.parse import unquote_to_bytes

_ORIGIN = re.compile(r"[A-Za-z][A-Za-z0-9+.-]*://[^/?#]*")
_BAD_ESCAPE = re.compile(r"%(?![0-9A-Fa-f]{2})")
_URI_CHARACTERS = re.compile(r"[\x21-\x7e]*")
_PATH_PREFIX = "/ibs:"
_QUERY_PATHS = frozenset({"/sync", "/event", "/id"})
_ID_PATH = "/id"
_OPT_OUT_PATHS = frozenset({"/demoptout", "/demoptout.jpg"})
_ALIASES = {"d_dpid": "dpid", "d_dpuuid": "dpuuid"}


class SyncCall(NamedTuple):
    """The decoded parameters of a call, under their own names. None: not on the call; "" is a value.

    `idsync_return` marks a call that comes back from Audience Manager, see `identity`. `cids` are the parameters d_cid
    and d_cid_ic, by name and value, in their order; `d_sig` the signatures. `repeats_signal`: a privacy signal stands
    there more than once. `asks_id` is true of /id, `is_image` of /demoptout.jpg.
    """

    dpid: str | None = None
    dpuuid: str | None = None
    d_uuid: str | None = None
    d_mid: str | None = None
    redir: str | None = None
    d_rtbd: str | None = None
    d_cb: str | None = None
    gdpr: str | None = None
    gdpr_consent: str | None = None
    gpp: str | None = None
    gpp_sid: str | None = None
    us_privacy: str | None = None
    idsync_return: str | None = None
    cids: tuple[tuple[str, str], ...] = ()
    d_sig: tuple[str, ...] = ()
    repeats_signal: bool = False
    asks_id: bool = False
    is_image: bool = False

    def parameters(self) -> list[tuple[str, str]]:
        """By name and value, as they would stand on a call."""
        single = [(name, value) for name, value in zip(self._fields, self, strict=True) if isinstance(value, str)]
        return [*single, *self.cids, *(("d_sig", value) for value in self.d_sig)]


@dataclass(frozen=True, slots=True)
class Malformed:
    """A call that must be dropped whole. `reason` names what and the mend, and quotes nothing of the call."""

    reason: str


_CIDS = frozenset({"d_cid", "d_cid_ic"})
_REPEATABLE = _CIDS | {"d_sig"}
_SIGNALS = frozenset({"gdpr", "gdpr_consent", "gpp", "gpp_sid", "us_privacy"})
_SINGLE = frozenset(SyncCall._fields) - _REPEATABLE - {"cids", "repeats_signal", "asks_id", "is_image"}


def is_sync_call(target: str) -> bool:
    """Whether a raw request target (origin-form or absolute-form) is a sync call, well formed or not."""
    local = _local(target)
    return local.startswith(_PATH_PREFIX) or local.partition("?")[0] in _QUERY_PATHS


def is_opt_out(target: str) -> bool:
    """Whether a raw request target is an opt-out."""
    return _local(target).partition("?")[0] in _OPT_OUT_PATHS


def parse(target: str) -> SyncCall | Malformed:
    """A target that `is_sync_call` or `is_opt_out`. Unknown parameters are ignored, but must be well encoded.

    A parameter that stands twice with one value counts once. With two values there is no telling which was meant, and
    proxies differ in which they take: the call is dropped. A privacy signal that stands twice, with whatever value, is
    left to `consent`, as a no. d_cid, d_cid_ic and d_sig may stand there several times.
    """
    local = _local(target)
    in_path = local.startswith(_PATH_PREFIX)
    path, _, query = local.partition("?")
    raw = local.removeprefix(_PATH_PREFIX) if in_path else query
    if reason := _ambiguity(raw, in_path=in_path):
        return Malformed(reason)
    values: dict[str, Any] = {"asks_id": path == _ID_PATH, "is_image": path.endswith(".jpg")}
    repeated: list[tuple[str, str]] = []
    for part in filter(None, raw.split("&")):
        encoded_name, _, encoded_value = part.partition("=")
        name, value = _decode(encoded_name), _decode(encoded_value)
        if name is None:
            return Malformed("the name of a parameter is not valid percent-encoded UTF-8")
        name = _ALIASES.get(name, name)
        if value is None:
            return Malformed(f"{_shown(name)} is not valid percent-encoded UTF-8")
        if name in _SINGLE:
            if name not in values:
                values[name] = value
            elif name in _SIGNALS:
                values["repeats_signal"] = True
            elif values[name] != value:
                return Malformed(f"{name} is given more than once, with different values")
        elif name in _REPEATABLE:
            repeated.append((name, value))
    if repeated:
        once = dict.fromkeys(repeated)
        values["cids"] = tuple(pair for pair in once if pair[0] in _CIDS)
        values["d_sig"] = tuple(value for name, value in once if name == "d_sig")
    return SyncCall(**values)


def _local(target: str) -> str:
    origin = _ORIGIN.match(target)
    return target[origin.end() :] if origin else target


def _ambiguity(raw: str, *, in_path: bool) -> str | None:
    if not _URI_CHARACTERS.fullmatch(raw):
        return "a space, control character or non-ASCII byte is not percent-encoded"
    if "#" in raw:
        return "'#' is not percent-encoded; write %23"
    if in_path and "?" in raw:
        # Taking it as the end would cut off a redir that was not encoded and send the visitor to half a URL.
        return "'?' in the path is not percent-encoded; encode each value, redir above all: write %3F"
    return None


def _decode(encoded: str) -> str | None:
    if "%" not in encoded:
        return encoded
    if _BAD_ESCAPE.search(encoded):
        return None
    try:
        return unquote_to_bytes(encoded).decode()
    except UnicodeDecodeError:
        return None


def _shown(name: str) -> str:
    """A name that we know, or none: with a separator left out, an ID may stand where a name should."""
    return name if name in _SINGLE | _REPEATABLE else "a parameter"
