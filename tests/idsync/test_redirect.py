"""The allow-list and the macro. A redirect that is allowed must lead every reader to a listed host."""

import re
from urllib.parse import unquote, urlsplit

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from idsync.redirect import expand, fault
from tests.idsync.samples import UUID

HOSTS = ("good.example", ".wide.example", "localhost", "127.0.0.1", "[::1]")

ALLOWED = [
    "https://good.example",
    "https://good.example/",
    "https://GOOD.Example/",
    "https://good.example:443/",
    "https://good.example:8443?u=${DD_UUID}",
    "https://good.example/ibs:dpid=1&dpuuid=2&redir=https%3A%2F%2Fnext.example%2F",
    "https://good.example/@evil.example/",
    "https://good.example/?next=https://evil.example",
    "https://good.example/#@evil.example",
    "https://good.example//evil.example",
    "https://good.example/%5C%0d%0a",
    "https://good.example/a|b^c`d\"e<f>{g}'",
    "https://wide.example/",
    "https://a.wide.example/",
    "https://a.b-c.wide.example/",
    "https://xn--bcher-kva.wide.example/",
    "http://localhost/",
    "http://localhost:8000/cb?u=${DD_UUID}",
    "http://127.0.0.1:1/",
    "http://[::1]:8000/",
    "https://localhost/",
]


@pytest.mark.parametrize("url", ALLOWED)
def test_allowed(url: str) -> None:
    assert fault(url, HOSTS) is None


REFUSED = [
    # no absolute URL, or another scheme
    "",
    "/",
    "good.example",
    "//good.example",
    "///good.example",
    "/\\good.example",
    "/\t/evil.example",
    "https:good.example",
    "https:/good.example",
    "https:///good.example",
    "https:////good.example",
    "https:\\\\good.example",
    "javascript:alert(1)",
    "javascript://good.example/%0aalert(1)",
    "data:text/html,good.example",
    "ftp://good.example/",
    "blob:https://good.example/",
    "view-source:https://good.example/",
    "HTTPS://good.example/",
    "http://good.example/",
    "http://localhost.evil.example/",
    # another host
    "https://evil.example/",
    "https://evil.example/good.example",
    "https://evil.example?good.example",
    "https://evil.example#good.example",
    "https://good.example.evil.example/",
    "https://good.example.",
    "https://evilgood.example/",
    "https://evilwide.example/",
    "https://evil-wide.example/",
    "https://.wide.example/",
    "https://a..wide.example/",
    "https://-a.wide.example/",
    "https://sub.good.example/",
    "https://good.examp1e/",
    "https://2130706433/",
    "https://0x7f.0.0.1/",
    "https://0177.0.0.1/",
    "https://127.1/",
    "https://[::ffff:127.0.0.1]/",
    "https://[::1%25eth0]/",
    "https://[0:0:0:0:0:0:0:1]/",
    # user info
    "https://good.example@evil.example/",
    "https://good.example:443@evil.example/",
    "https://good.example%40evil.example/",
    "https://@good.example/",
    "https://user:word@good.example/",
    "https://user@a.wide.example/",
    "https://evil.example@a.wide.example/",
    "https://good.example:@evil.example/",
    "https://evil.example\\@good.example/",
    "https://evil.example/\\@good.example",
    "https://good.example\\.evil.example/",
    "https://good.example/\\evil.example",
    # encodings and look-alikes in the host
    "https://good%2eexample/",
    "https://good.example%2f.evil.example/",
    "https://good.example%00.evil.example/",
    "https://good.example%252e/",
    "https://\uff47ood.example/",
    "https://good\u3002example/",
    "https://good.example\uff0f.evil.example/",
    "https://good.exampl\u00e9/",
    "https://goo\u0501.example/",
    "https://good.example\u2025/",
    "https://good_.example/",
    # blanks and controls, which browsers strip
    " https://good.example/",
    "https://good.example/ ",
    "\thttps://good.example/",
    "ht\ntps://good.example/",
    "https://go\tod.example/",
    "https://good.example\n.evil.example/",
    "https://good.example/\r\nSet-Cookie: idsync=1",
    "https://good.example/\r",
    "https://good.example/\n",
    "https://good.example/\0",
    "https://good.example/\x7f",
    "https://good.example/\x1f",
    "https://good.example/\x85",
    "https://good.example/\xa0",
    "https://good.example/\u2028",
    # ports
    "https://good.example:/",
    "https://good.example:65536/",
    "https://good.example:99999/",
    "https://good.example:-1/",
    "https://good.example:4a3/",
    "https://good.example:0000443/",
    "https://good.example:443:443/",
    "https://good.example:\u0664\u0664\u0663/",
    # separators that some readers know
    "https://good.example;evil.example/",
    "https://good.example&evil.example/",
    "https://good.example,evil.example/",
    "https://good.example*/",
    # the macro before the path
    "${DD_UUID}",
    "${DD_UUID}://good.example/",
    "https://${DD_UUID}/",
    "https://${DD_UUID}.wide.example/",
    "https://good.example${DD_UUID}/",
    "https://good.example:${DD_UUID}/",
    "https://$%7BDD_UUID%7D.wide.example/",
    "https://%24%7BDD_UUID%7D.wide.example/",
]


@pytest.mark.parametrize("url", REFUSED)
def test_refused(url: str) -> None:
    reason = fault(url, HOSTS)
    assert reason is not None
    assert "evil" not in reason


@pytest.mark.parametrize("url", ALLOWED)
def test_nothing_is_allowed_by_an_empty_list(url: str) -> None:
    assert fault(url, ()) is not None


def whatwg_host(url: str) -> str:
    """The host as browsers read it (WHATWG URL, special schemes): blanks stripped, backslash a slash, last @ counts."""
    url = re.sub(r"^[\x00-\x20]+|[\x00-\x20]+$", "", url)
    url = re.sub(r"[\t\n\r]", "", url)
    _, _, rest = url.partition(":")
    authority = re.split(r"[/\\?#]", rest.lstrip("/\\"), maxsplit=1)[0]
    host = authority.rpartition("@")[2]
    return unquote(re.sub(r":[0-9]*$", "", host)).lower()


def listed(host: str) -> bool:
    return host in HOSTS or host == "wide.example" or host.endswith(".wide.example")


PARTS = st.sampled_from(
    [
        *("https://", "http://", "//", "/", "\\", "@", ".", ":", "?", "#", "443", "%2e", "%40", "%2f", "%00", "%5c"),
        *("good.example", "wide.example", "evil.example", "localhost", "[::1]", "127.0.0.1", "${DD_UUID}", "a", "-"),
        *("\t", "\n", "\r", " ", "\0", "\x7f", "\u3002", "\uff0f", "é", "xn--", "[", "]", "%", ";", ",", "_"),
    ]
)
URLS = st.builds(
    lambda start, parts: start + "".join(parts),
    st.sampled_from(["", "https://", "https://good.example", "https://wide.example", "http://localhost"]),
    st.lists(PARTS | st.text(max_size=3), max_size=8),
)


@given(URLS)
@example("https://good.example/")
def test_whatever_is_allowed_leads_to_a_listed_host_for_every_reader(url: str) -> None:
    if fault(url, HOSTS) is None:
        for leaving in (url, expand(url, UUID), expand(url, "")):
            host = urlsplit(leaving).hostname or ""
            assert listed(host) or listed(f"[{host}]")
            assert listed(whatwg_host(leaving))
            assert re.fullmatch(r"[\x21-\x7e]+", leaving)
            assert leaving.startswith("https://") or whatwg_host(leaving) in {"localhost", "127.0.0.1", "[::1]"}


def test_the_other_readers_do_see_through_the_tricks() -> None:
    """The property above is worth what `whatwg_host` is worth."""
    assert whatwg_host("https://evil.example\\@good.example/") == "evil.example"
    assert whatwg_host("https:/\\good.example@evil.example:1/") == "evil.example"
    assert whatwg_host("\thttps://go\tod%2eexample") == "good.example"


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
        ("https://h/", "https://h/"),
    ],
)
def test_macro(url: str, expected: str) -> None:
    assert expand(url, UUID) == expected


def test_macro_without_a_uuid() -> None:
    assert expand("https://h/?u=${DD_UUID}&v=1", "") == "https://h/?u=&v=1"
