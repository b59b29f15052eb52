"""Which UUID a call is about when it does not say so: this endpoint's own cookie, or Audience Manager's by redirect.

With `identity = "mint"` a device is known by our cookie. With "audience-manager" the cookie plays no part: only the
visitor's `demdex` cookie names the UUID that Audience Manager knows. It can change without us hearing of it, and a copy
in a cookie of ours would go on tying IDs to the old one.
"""

import re
from functools import cache
from urllib.parse import quote

from idsync import ids
from idsync.call import SyncCall

RETURN_MARK = "1"
_AUDIENCE_MANAGER = "https://dpm.demdex.net/ibs:"
_SECONDS_A_DAY = 86_400


def from_cookie(header: str, name: str) -> str | None:
    """The UUID in the Cookie header, or None. One that is malformed or stands there twice is no cookie of ours."""
    values = _cookie(name).findall(header)
    return values[0] if len(values) == 1 and ids.is_uuid(values[0]) else None


@cache
def _cookie(name: str) -> re.Pattern[str]:
    """Finds the values of a cookie. A name is a setting, so there are few."""
    return re.compile(rf"(?:^|;)[ \t]*{re.escape(name)}=([^;]*?)[ \t]*(?=;|$)")


def set_cookie(name: str, uuid: str, days: int) -> str:
    """A Set-Cookie value. SameSite=None: the pixel is called from other sites. It lives as long as a mapping does."""
    return f"{name}={uuid}; Path=/; Max-Age={days * _SECONDS_A_DAY}; Secure; HttpOnly; SameSite=None"


def ask_audience_manager(call: SyncCall, public_url: str) -> str:
    """The URL at Audience Manager that notes the pair there and sends the visitor back here with the UUID.

    The way back carries the call's own parameters, re-encoded, and a mark: whoever bears it is never sent out again.
    """
    back = _query(call._replace(d_uuid=None, idsync_return=RETURN_MARK))
    return_url = f"{public_url}/sync?{back}&d_uuid=${{DD_UUID}}"
    # The braces and the dollar are encoded with the rest; Audience Manager decodes redir, then fills in the macro. A
    # macro in the call's own redir is encoded twice by now and survives for the last hop.
    return f"{_AUDIENCE_MANAGER}dpid={call.dpid}&dpuuid={_encode(call.dpuuid or '')}&redir={_encode(return_url)}"


def _query(call: SyncCall) -> str:
    given = zip(call._fields, call, strict=True)
    return "&".join(f"{name}={_encode(value)}" for name, value in given if value is not None)


def _encode(value: str) -> str:
    return quote(value, safe="")
