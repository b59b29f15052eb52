"""The allow-list and the macros. A redirect that is allowed must lead every reader to a listed place."""

import posixpath
import re
from collections.abc import Mapping
from contextlib import ExitStack
from pathlib import Path
from typing import NamedTuple
from urllib.parse import unquote, urlsplit

import ada_url
import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from pydantic import ValidationError

from idsync.redirect import MAX_BYTES, MAX_LOCATION_BYTES, MAX_MACROS, entry_fault, expand, fault
from idsync.settings import Endpoint
from tests.browser import Site, Web, browsing, standing_in
from tests.idsync.redirect_corpus import EVIL, HARMLESS, LISTED, MACROS, REFUSED
from tests.idsync.samples import UUID

TRICKS = sorted({url for family in REFUSED.values() for url in family})
ALLOWED = sorted({url for family in HARMLESS.values() for url in family})

# --- readers ---------------------------------------------------------------------------------------------------------


class Read(NamedTuple):
    """What a reader takes a URL for. `port` is never None: the default port is a port."""

    scheme: str
    host: str
    port: int
    path: str
    credentials: str


def as_browsers(url: str) -> Read | None:
    """By the WHATWG URL standard; None for what is no URL."""
    try:
        read = ada_url.URL(url)
    except ValueError:
        return None
    return browser_read(
        [read.protocol, read.hostname, read.port, read.pathname, f"{read.username}{read.password}"],
    )


def browser_read(fields: list[str]) -> Read:
    """Of what the URL class of a browser shows."""
    protocol, host, port, path, credentials = fields
    return Read(
        protocol, host, int(port) if port else {"https:": 443, "http:": 80}.get(protocol, -1), path, credentials
    )


def as_python(url: str) -> Read:
    read = urlsplit(url)
    host = f"[{read.hostname}]" if ":" in (read.hostname or "") else read.hostname or ""
    port = {"https": 443, "http": 80}[read.scheme] if read.port is None else read.port
    return Read(f"{read.scheme}:", host, port, read.path or "/", f"{read.username or ''}{read.password or ''}")


def as_eager_servers(path: str) -> str:
    """The path as a server takes it that cuts parameters off, decodes, and only then resolves dots."""
    return posixpath.normpath(unquote(re.sub(r";[^/]*", "", path)).replace("\\", "/"))


def listed(scheme: str, host: str, port: int, path: str) -> bool:
    """LISTED, said in other words."""

    def below(top: str) -> bool:
        return path == top or path.startswith(f"{top}/")

    if scheme == "http:":
        return host in {"localhost", "127.0.0.1"} or (host, port) == ("[::1]", 8000)
    return scheme == "https:" and (
        host in {"good.example", "wide.example", "localhost", "127.0.0.1"}
        or host.endswith(".wide.example")
        or (host, port) in {("ported.example", 8443), ("[::1]", 8000)}
        or (host == "narrow.example" and below("/cb"))
        or ((host, port) == ("both.example", 8443) and below("/cb"))
        or ((host == "deep.example" or host.endswith(".deep.example")) and port == 444 and below("/a/b"))
    )


def check(location: str) -> None:
    """`location` leads everybody to one listed place."""
    browsers, python = as_browsers(location), as_python(location)
    assert browsers is not None
    assert browsers[:3] == python[:3]
    assert browsers.credentials == python.credentials == ""
    assert "@" not in urlsplit(location).netloc
    assert listed(*browsers[:4])
    assert listed(*python[:3], as_eager_servers(python.path))
    assert re.fullmatch(r"[\x21-\x7e]+", location)
    assert "\\" not in location


def test_the_readers_see_through_the_tricks() -> None:
    """The tests below are worth what these readers are worth."""
    for url, scheme, host, path, good in [
        ("https://evil.example\\@good.example/", "https:", "evil.example", "/@good.example/", False),
        ("https:/\\good.example@evil.example:1/", "https:", "evil.example", "/", False),
        ("https:evil.example", "https:", "evil.example", "/", False),
        ("https://narrow.example/cb/.%2E/%2e/x", "https:", "narrow.example", "/x", False),
        ("https://both.example/cb/", "https:", "both.example", "/cb/", False),
        ("https://narrow.example/cbx", "https:", "narrow.example", "/cbx", False),
        ("javascript://good.example/", "javascript:", "good.example", "/", False),
        ("\thttps://go\tod%2eexample", "https:", "good.example", "/", True),
        ("https://\uff47ood\u3002ex\u00adample/", "https:", "good.example", "/", True),
        ("http://0x7f.1/", "http:", "127.0.0.1", "/", True),
    ]:
        read = as_browsers(url)
        assert read is not None
        assert (read.scheme, read.host, read.path) == (scheme, host, path)
        assert listed(*read[:4]) is good
    assert as_browsers("https://good.example%2f.evil.example/") is None
    for path in ("/cb/..%2fx", "/cb/..;a/x", "/cb/%5c..%5cx", "/cb/../x"):
        assert as_eager_servers(path) == "/x"


# --- the corpus ------------------------------------------------------------------------------------------------------


def test_the_corpus_is_as_large_as_it_should_be() -> None:
    assert len(TRICKS) > 2000
    assert len(ALLOWED) > 400


@pytest.mark.parametrize("family", REFUSED)
def test_refused(family: str) -> None:
    assert [url for url in REFUSED[family] if fault(url, LISTED) is None] == []


@pytest.mark.parametrize("family", HARMLESS)
def test_allowed(family: str) -> None:
    assert [url for url in HARMLESS[family] if fault(url, LISTED)] == []


def test_no_reason_quotes_the_redirect() -> None:
    reasons = {fault(url, LISTED) or "" for url in TRICKS}
    assert len(reasons) > 4
    assert not [reason for reason in reasons if EVIL in reason or "good.example" in reason]


def test_nothing_is_allowed_by_an_empty_list() -> None:
    assert [url for url in ALLOWED if fault(url, ()) is None] == []


# Of each, something that an attacker would like to slip in.
HOSTILE = (
    *("", UUID, ".", "..", "...", "/", "//", "../", "/..", "../..", "./.", "a/../b", "\\", "..\\", "a\\..", ";", "..;"),
    *("%", "%2e", "%2e%2e", "%2f", "%252e", "e", "E", "2e", "2E", "25", "0", "1", "#", "?", "&x=1", "=", "@", ":"),
    ":8443",
    *("@evil.example", "//evil.example", ".evil.example", "https://evil.example/", "javascript:"),
    "\r\nSet-Cookie: a=1",
    *("\t", " ", "\0", "\x7f", "\x85", "\u2028", "\u3002", "\uff0e\uff0e", "\uff0f", "é", "\U0001f36a", "<", "'"),
    *('"', "`"),
    *(*MACROS, "${", "}", "DD_UUID}", "CPXxRfAPXxRfAAfKABENB-CgAAAAAAAAAAYgAAAAAAAA.YAAAAAAAAAAA"),
)


@pytest.mark.parametrize("family", HARMLESS)
def test_what_is_allowed_leads_to_a_listed_place_whatever_the_macros_hold(family: str) -> None:
    for url in HARMLESS[family]:
        for value in HOSTILE if "$" in url else ("x",):
            check(expand(url, value, value, value))


# --- any text --------------------------------------------------------------------------------------------------------

PIECES = st.sampled_from(
    [
        *("https://", "http://", "https:", "//", "/", "\\", "@", ".", "..", ":", "?", "#", ";", "&", "=", "%", "-"),
        *("_", ","),
        *("%2e", "%2E", "%2f", "%5c", "%40", "%00", "%25", "%7B", "2e", "e", "E", "443", "8443", "444", "0", "a"),
        *("x", "/a/b"),
        *("good.example", "wide.example", "narrow.example", "evil.example", "localhost", "[::1]", "127.0.0.1", "cb"),
        "/cb/",
        *("\t", "\n", "\r", " ", "\0", "\x7f", "\u00ad", "\u200b", "\u3002", "\uff0f", "\uff20", "é", "xn--", "[", "]"),
        *(*MACROS, "${", "}"),
    ]
)
STARTS = st.sampled_from(
    [
        *("", "https://", "http://", "https://good.example", "https://a.wide.example", "https://ported.example:8443"),
        *("https://narrow.example/cb", "https://narrow.example/cb/", "https://both.example:8443/cb/"),
        "http://localhost",
        *("https://deep.example:444/a/b/", "https://narrow.example", "http://[::1]:8000/", "https://x."),
    ]
)
URLS = st.builds(
    lambda start, parts: start + "".join(parts), STARTS, st.lists(PIECES | st.text(max_size=2), max_size=8)
)
PATHS = st.builds(
    lambda start, parts: start + "".join(parts),
    st.sampled_from(["https://narrow.example/cb/", "https://both.example:8443/cb/", "https://x.deep.example:444/a/b/"]),
    st.lists(st.sampled_from([".", "%2e", "%2E", "/", "%2f", "%5C", ";", "a", "e", "%", "%2", *MACROS]), max_size=8),
)
VALUES = st.text(max_size=6) | st.sampled_from(HOSTILE) | st.text("./\\%2eEf;", max_size=6)


@given(URLS | PATHS | st.text(), VALUES, VALUES, VALUES)
@example("https://narrow.example/cb/.${DD_UUID}", "", "", "")
@example("https://narrow.example/cb/${GDPR}${GDPR_CONSENT_1}/x", "", ".", ".")
@example("https://narrow.example/cb/%2${GDPR}%2e/x", "", "e", "")
@example("https://narrow.example/cb/a${GDPR}..${GDPR}../x", "", "/", "")
def test_whatever_is_allowed_leads_everybody_to_a_listed_place(url: str, uuid: str, gdpr: str, consent: str) -> None:
    if fault(url, LISTED) is None:
        for location in (url, expand(url, uuid, gdpr, consent), expand(url, "")):
            check(location)


# --- the limits ------------------------------------------------------------------------------------------------------


def test_the_length_of_a_redirect_has_an_end() -> None:
    url = "https://good.example/"
    longest = url + "a" * (MAX_BYTES - len(url))
    assert fault(longest, LISTED) is None
    assert fault(f"{longest}a", LISTED) == f"redir is longer than {MAX_BYTES} bytes"


def test_so_does_the_number_of_macros() -> None:
    url = "https://good.example/?" + "${GDPR}" * MAX_MACROS
    assert fault(url, LISTED) is None
    assert fault(f"{url}$%7BDD_UUID%7D", LISTED) == f"redir holds more than {MAX_MACROS} macros"


def test_a_location_that_would_be_too_long_tells_of_nobody() -> None:
    url = "https://good.example/?u=${DD_UUID}&c=${GDPR_CONSENT_565}"
    fits = MAX_LOCATION_BYTES - len(expand(url, UUID))
    assert len(expand(url, UUID, "1", "C" * fits)) == MAX_LOCATION_BYTES
    assert expand(url, UUID, "1", "C" * (fits + 1)) == "https://good.example/?u=&c="


# --- entries ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "entry",
    [
        *LISTED,
        *("dpm.demdex.net", ".example", "a-b.c1.example", "xn--bcher-kva.example", ".xn--bcher-kva.example"),
        "10.0.0.1:80",
        *("good.example:1", "good.example:65535/", "good.example/", "good.example/a.b/..c/~d_e-f/", "[::1]/cb"),
        "1.example",
    ],
)
def test_entry(entry: str) -> None:
    assert entry_fault(entry) is None
    assert fault(f"https://{entry.removeprefix('.')}", [entry]) is None
    assert Endpoint(redirect_hosts=(entry,)).redirect_hosts == (entry,)


@pytest.mark.parametrize(
    ("entry", "reason"),
    [
        *(
            (entry, "must be a lower-case host")
            for entry in ("", ".", "*", "*.good.example", "Good.example", "good.example.")
        ),
        *(
            (entry, "must be a lower-case host")
            for entry in ("https://good.example", "//good.example", "/cb", "u@good.example")
        ),
        *(
            (entry, "must be a lower-case host")
            for entry in ("good..example", "-a.example", "a_b.example", "good.example\n")
        ),
        *((entry, "must be a lower-case host") for entry in ("b\u00fccher.example", "good%2eexample", "good.example:")),
        *(
            (entry, "must be a lower-case host")
            for entry in ("good.example:0", "good.example:0443", "good.example:65536")
        ),
        *(
            (entry, "must be a lower-case host")
            for entry in ("good.example:*", "[::1", "[::2]", "good.example//cb", "good.example/?")
        ),
        *(
            (entry, "must be a lower-case host")
            for entry in ("good.example/a b", "good.example/%63b", "good.example/cb#", ".[::1]")
        ),
        *(
            (entry, "IPv4")
            for entry in ("127.1", "0x7f.1", "0x7f", "2130706433", "0177.0.0.1", ".0.0.1", ".127.0.0.1", ".1")
        ),
        *((entry, "IPv4") for entry in ("1.2.3.256", "1.2.3.04", "a.0x", "good.1:443/cb")),
        *(
            (entry, "resolve")
            for entry in ("good.example/..", "good.example/./cb", "good.example/cb/../", "good.example/...")
        ),
    ],
)
def test_entry_refused(entry: str, reason: str) -> None:
    assert reason in (entry_fault(entry) or "")
    with pytest.raises(ValidationError, match=reason):
        Endpoint(redirect_hosts=(entry,))


@given(st.lists(PIECES | st.sampled_from(["0x", "1", ".", "/", "~"]), max_size=6).map("".join))
def test_every_entry_is_a_place_that_all_read_alike(entry: str) -> None:
    if entry_fault(entry) is None:
        url = f"https://{entry.removeprefix('.')}"
        browsers, python = as_browsers(url), as_python(url)
        assert browsers is not None
        assert (*browsers[:4], "") == python


@pytest.mark.parametrize(
    ("url", "entry", "allowed"),
    [
        ("https://h.example:443/", "h.example:443", True),
        ("https://h.example/", "h.example:443", True),
        ("http://localhost/", "localhost:80", True),
        ("https://localhost/", "localhost:80", False),
        ("https://h.example?u", "h.example/", True),
        ("https://h.example/cb?u", "h.example/cb", True),
        ("https://h.example/cb?u", "h.example/cb/", False),
        ("https://xn--bcher-kva.h.example/", ".h.example", True),
        ("https://xn--bcher-kva.h.example/", "h.example", False),
        ("https://a.xn--bcher-kva.h.example/", ".xn--bcher-kva.h.example", True),
        ("https://xn--bcher-kva.h.example/", "xn--bcher-kva.h.example", True),
    ],
)
def test_what_an_entry_lets_through(url: str, entry: str, *, allowed: bool) -> None:
    assert (fault(url, [entry]) is None) is allowed


def test_an_entry_that_was_not_checked_is_a_defect() -> None:
    with pytest.raises(ValueError, match="entry_fault"):
        fault("https://good.example/", ["https://good.example"])


# --- macros ----------------------------------------------------------------------------------------------------------

CONSENT = "CPXx-RfA_PX.YAAA"


@pytest.mark.parametrize(
    ("url", "expected"),
    [
        ("https://h/?u=${DD_UUID}", f"https://h/?u={UUID}"),
        ("https://h/?u=$%7BDD_UUID%7D", f"https://h/?u={UUID}"),
        ("https://h/?u=$%7bDD_UUID%7d", f"https://h/?u={UUID}"),
        ("https://h/${DD_UUID}/${DD_UUID}", f"https://h/{UUID}/{UUID}"),
        ("https://h/?u=%24%7BDD_UUID%7D", "https://h/?u=%24%7BDD_UUID%7D"),
        ("https://h/?u=${dd_uuid}", "https://h/?u=${dd_uuid}"),
        ("https://h/?u=${${DD_UUID}DD_UUID}", f"https://h/?u=${{{UUID}DD_UUID}}"),
        ("https://h/?g=${GDPR}&c=${GDPR_CONSENT_565}", f"https://h/?g=1&c={CONSENT}"),
        ("https://h/?g=$%7BGDPR%7D&c=$%7bGDPR_CONSENT_1%7D", f"https://h/?g=1&c={CONSENT}"),
        ("https://h/?c=${GDPR_CONSENT_12345678}#${GDPR}", f"https://h/?c={CONSENT}#1"),
        (
            "https://h/?c=${GDPR_CONSENT_}${GDPR_CONSENT}${GDPR_CONSENT_x}",
            "https://h/?c=${GDPR_CONSENT_}${GDPR_CONSENT}${GDPR_CONSENT_x}",
        ),
        ("https://h/?c=${GDPR%7D$%7BGDPR}${US_PRIVACY}", "https://h/?c=${GDPR%7D$%7BGDPR}${US_PRIVACY}"),
        ("https://H/a%2Fb?|<'\"`^&&=#%41", "https://H/a%2Fb?|<'\"`^&&=#%41"),
    ],
)
def test_macro(url: str, expected: str) -> None:
    assert expand(url, UUID, "1", CONSENT) == expected


@pytest.mark.parametrize(
    ("value", "encoded"),
    [
        ("a b&c=d#e%?", "a%20b%26c%3Dd%23e%25%3F"),
        ("é\r\n", "%C3%A9%0D%0A"),
        ("${DD_UUID}", "%24%7BDD_UUID%7D"),
        ("a.b-c_d~", "a.b-c_d~"),
        (".a", ".a"),
        *((steps, "") for steps in (".", "..", "...", "a/b", "/", "..\\", "\n/")),
    ],
)
def test_value(value: str, encoded: str) -> None:
    for url in ("https://h/?a=${DD_UUID}", "https://h/?a=${GDPR}", "https://h/?a=${GDPR_CONSENT_1}"):
        assert expand(url, value, value, value) == f"https://h/?a={encoded}"


def test_one_pass() -> None:
    """Not even a value that holds a macro in the spelling that outlives encoding is expanded again."""
    assert expand("https://h/?a=${GDPR}DD_UUID%7D", UUID, "$%7B") == "https://h/?a=%24%257BDD_UUID%7D"
    assert expand("https://h/?a=${DD_${GDPR}UUID}", UUID) == "https://h/?a=${DD_UUID}"


def test_without_values() -> None:
    assert expand("https://h/?u=${DD_UUID}&g=${GDPR}&c=${GDPR_CONSENT_1}&v=1", "") == "https://h/?u=&g=&c=&v=1"


# --- a real browser --------------------------------------------------------------------------------------------------

SYNC = "sync.example"
READ_ALL = """urls => urls.map(url => {
    try {
        const read = new URL(url)
        return [read.protocol, read.hostname, read.port, read.pathname, read.username + read.password]
    } catch { return null }
})"""
FOLLOW_ALL = """async count => {
    for (let each = 0; each < count; each++) await fetch(`/${each}`, {mode: "no-cors"}).catch(() => {})
}"""


class Sender(Site):
    """Sends whoever asks for /<n> to the n-th of its locations."""

    def __init__(self) -> None:
        super().__init__()
        self.put("/", "<!doctype html><link rel=icon href=data:,>")
        self.locations: list[str] = []

    def answer(self, target: str) -> tuple[int, Mapping[str, str], bytes]:
        at = target.removeprefix("/")
        return (302, {"Location": self.locations[int(at)]}, b"") if at.isdigit() else super().answer(target)


def test_a_browser_goes_where_it_should(tmp_path: Path) -> None:
    leaving = [expand(url, value, value, value) for url in ALLOWED for value in ("", "..", "2e", "@evil.example")]
    leaving = sorted(set(leaving))
    hosts = ("good.example", "a.wide.example", "narrow.example")
    with ExitStack() as stack:
        sender = Sender()
        port = stack.enter_context(standing_in(sender))
        servers = {SYNC: port, EVIL: stack.enter_context(standing_in(Site()))}
        servers |= dict.fromkeys(hosts, stack.enter_context(standing_in(Site())))
        web = stack.enter_context(Web(tmp_path, servers))
        page = stack.enter_context(browsing(web)).browser.new_page()
        page.goto(f"https://{SYNC}/")

        for location, fields in zip(leaving, page.evaluate(READ_ALL, leaving), strict=True):
            read = browser_read(fields)
            assert read[:3] == as_python(location)[:3]
            assert listed(*read[:4])
            assert not read.credentials
        fooled = [browser_read(fields) for fields in page.evaluate(READ_ALL, TRICKS) if fields]
        assert len([read for read in fooled if read.host == EVIL]) > 50

        reads = [(location, as_python(location)) for location in leaving]
        sender.locations = [location for location, read in reads if read.host in hosts and read.port == 443]
        page.evaluate(FOLLOW_ALL, len(sender.locations))
        assert sum(len(web.asked(host)) for host in hosts) == len(sender.locations) > 100
        assert all(asked.target.startswith("/cb") for asked in web.asked("narrow.example"))
        assert web.asked(EVIL) == []

        sender.locations = ["https://evil.example\\@good.example/"]
        page.evaluate(FOLLOW_ALL, 1)
        assert len(web.asked(EVIL)) == 1
