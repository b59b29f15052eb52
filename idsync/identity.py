"""Which UUID a call is about when it does not say so: this endpoint's own cookie, or Audience Manager's by redirect.

With `identity = "mint"` a device is known by our cookie. With "audience-manager" the cookie plays no part: only the
visitor's `demdex` cookie names the UUID that Audience Manager knows. It can change without us hearing of it, and a copy
in a cookie of ours would go on tying IDs to the old one.
"""

from collections.abc import Iterable, Sequence
from urllib.parse import quote

from idsync import ids
from idsync.call import SyncCall
from idsync.declared import SEPARATOR, Declared
from idsync.settings import Endpoint

RETURN_MARK = "1"
OPT_OUT_DAYS = 400  # the longest that browsers keep a cookie
_OPTED_OUT = "optout"  # the cookie of a browser that has no UUID
_AUDIENCE_MANAGER = "https://dpm.demdex.net/ibs:"
_SECONDS_A_DAY = 86_400


def from_cookie(header: str, endpoint: Endpoint) -> str | None:
    """The UUID in the Cookie header, or None. One that is malformed or stands there twice is no cookie of ours."""
    values = _values(header, endpoint)
    return values[0] if len(values) == 1 and ids.is_uuid(values[0]) else None


def opted_out(header: str, endpoint: Endpoint) -> bool:
    """Whether the Cookie header says that this browser opted out before it had a UUID."""
    return _OPTED_OUT in header and _OPTED_OUT in _values(header, endpoint)


def opt_out_cookie(endpoint: Endpoint, uuid: str | None) -> str:
    """A Set-Cookie value that keeps a browser opted out: by its UUID, which the store knows as opted out, so that the
    person can take it back; or by a mark that is the same for everybody.
    """
    return set_cookie(endpoint, uuid or _OPTED_OUT, OPT_OUT_DAYS)


def set_cookie(endpoint: Endpoint, uuid: str, days: int) -> str:
    """A Set-Cookie value. SameSite=None: the pixel is called from other sites."""
    domain = f"; Domain={endpoint.cookie_domain}" if endpoint.cookie_domain else ""
    partitioned = "; Partitioned" if endpoint.cookie_partitioned else ""
    age = days * _SECONDS_A_DAY
    return f"{_name(endpoint)}={uuid}; Path=/{domain}; Max-Age={age}; Secure; HttpOnly; SameSite=None{partitioned}"


def _values(header: str, endpoint: Endpoint) -> list[str]:
    name = _name(endpoint)
    if len(header) == len(name) + 1 + ids.UUID_DIGITS and header.startswith(f"{name}="):  # as it nearly always is
        return [header[len(name) + 1 :]]
    # Split, not searched: a pattern that may give blanks back looks at each of them again and again.
    pairs = [pair.partition("=") for pair in header.split(";")] if name in header else []
    return [value.rstrip(" \t") for key, equals, value in pairs if equals and key.lstrip(" \t") == name]


def _name(endpoint: Endpoint) -> str:
    """Browsers take a cookie of this prefix from this very host only: no other host of the site can plant one."""
    return endpoint.cookie_name if endpoint.cookie_domain else f"__Host-{endpoint.cookie_name}"


def ask_audience_manager(call: SyncCall, declared: Sequence[Declared], public_url: str) -> str:
    """The URL at Audience Manager that notes the pairs there and sends the visitor back here with the UUID.

    The way back carries the call's own parameters, re-encoded, and a mark: whoever bears it is never sent out again.
    """
    back = _query(call._replace(d_uuid=None, idsync_return=RETURN_MARK).parameters())
    return_url = f"{public_url}/sync?{back}&d_uuid=${{DD_UUID}}"
    first, *others = declared
    asked = [("dpid", str(first.source.dpid)), ("dpuuid", first.customer_id)]
    asked += [("d_cid", f"{other.source.dpid}{SEPARATOR}{other.customer_id}") for other in others]
    signals = {"d_mid": call.d_mid, "gdpr": call.gdpr, "gdpr_consent": call.gdpr_consent}
    asked += [(name, value) for name, value in signals.items() if value]
    # The braces and the dollar are encoded with the rest; Audience Manager decodes redir, then fills in the macro. A
    # macro in the call's own redir is encoded twice by now and survives for the last hop.
    return f"{_AUDIENCE_MANAGER}{_query([*asked, ('redir', return_url)])}"


def _query(parameters: Iterable[tuple[str, str]]) -> str:
    return "&".join([f"{name}={quote(value, safe='')}" for name, value in parameters])
