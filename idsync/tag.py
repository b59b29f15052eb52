"""The website tag: one small script for each data source that says where the site shows its IDs, and the HTML for it.

The script is made from the settings, so that a site includes one URL and needs no code of its own. It is the one reply
that browsers and proxies may keep: it is the same for everybody and holds no ID.
"""

import hashlib
import html
import json
import re
from collections.abc import Mapping, Sequence
from typing import NamedTuple

from idsync.settings import DataSource, Endpoint, Placement, Settings

PATH = "/idsync.js"
# How long a change of the settings may take to reach a browser.
MAX_AGE_SECONDS = 3600
# In braces, so that the endpoint takes an image which a mail system has left unfilled for the mistake that it is.
MAIL_PLACEHOLDER = "{{CUSTOMER_ID}}"
_AUDIENCE_MANAGER = "https://dpm.demdex.net"


class Script(NamedTuple):
    """`etag` is strong, without its quotes."""

    body: bytes
    etag: str


def scripts(program: str, settings: Settings) -> Mapping[str | None, Script]:
    """The script of each data source that has one, by name; under None that of all of them, if there are any.

    `program` is the text of `static/idsync.js`.
    """
    function = _without_comments(program)
    url = settings.endpoint.public_url
    placed = [source for source in settings.data_sources if has_script(source)]
    made: dict[str | None, Script] = {source.name: _script(function, url, [source]) for source in placed}
    if placed:
        made[None] = _script(function, url, placed)
    return made


def has_script(source: DataSource) -> bool:
    return source.placement is not None and not refusal(source)


def refusal(source: DataSource) -> str:
    """Why the endpoint would refuse what a page or a mail sends for a data source; "" where it would not."""
    if source.denied:
        return "takes no sync calls (denied = true)"
    if source.signature == "required":
        return 'wants signed calls (signature = "required"), and neither page nor mail may hold the key'
    return ""


def snippet(endpoint: Endpoint, source: DataSource) -> str:
    """The HTML that a website includes, on every page; `source` must have a script."""
    url = f"{endpoint.public_url}{PATH}?data_source={source.name}"
    return f'<script async src="{html.escape(url)}"></script>'


def mail_image(endpoint: Endpoint, source: DataSource) -> str:
    """The HTML for a mail, in which the mail system fills in the ID."""
    url = f"{endpoint.public_url}/ibs:dpid={source.dpid}&dpuuid={MAIL_PLACEHOLDER}"
    return f'<img src="{html.escape(url)}" width="1" height="1" alt="">'


def policy(endpoint: Endpoint) -> str:
    """What the Content-Security-Policy of a site must allow for the tag: the script, its image, its last fetch."""
    hosts = [endpoint.public_url]
    if endpoint.identity == "audience-manager":
        hosts.append(_AUDIENCE_MANAGER)
    calls = " ".join(hosts)
    return f"script-src {endpoint.public_url}; img-src {calls}; connect-src {calls}"


# --- parts -----------------------------------------------------------------------------------------------------------


def _script(function: str, url: str, sources: Sequence[DataSource]) -> Script:
    arguments = [url, [[source.dpid, *_found(source.placement)] for source in sources if source.placement]]
    # ASCII alone: then no page can read the script in another encoding than it was written in.
    called = ",".join(json.dumps(argument, ensure_ascii=True, separators=(",", ":")) for argument in arguments)
    body = f"{function}({called});\n".encode("ascii")
    return Script(body, hashlib.sha256(body).hexdigest()[:32])


def _found(placement: Placement) -> list[str | list[str]]:
    """How the script finds the ID: kind, where, attribute. To it a <meta> is an element with an attribute."""
    name = placement.name
    if placement.kind == "js":
        return ["js", [part for part in re.split(r"[.\[\]]", name) if part]]
    if placement.kind == "meta":
        return ["element", f"meta[name={_css_identifier(name)}]", "content"]
    if placement.kind == "attribute":
        return ["element", f"[{_css_identifier(name)}]", name]
    return ["cookie", name]


def _css_identifier(name: str) -> str:
    """Escaped as CSS wants it, digits too, as none may stand first."""
    return re.sub(r"[^A-Za-z_-]", lambda match: f"\\{ord(match[0]):x} ", name)


def _without_comments(program: str) -> str:
    """Without indentation and the lines that are comments. Line breaks stay: the script may rely on them."""
    lines = (line.strip() for line in program.splitlines())
    return "\n".join(line for line in lines if line and not line.startswith("//"))
