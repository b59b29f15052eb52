"""Open-redirect tricks by family: what is refused whole, and what is harmless because it all stands after the host.

Built of templates, so that each trick is tried on every kind of entry of an allow-list that it could fool.
"""

from collections.abc import Iterable, Mapping

# An allow-list with every kind of entry.
LISTED = (
    "good.example",
    ".wide.example",
    "ported.example:8443",
    "narrow.example/cb",
    "both.example:8443/cb/",
    ".deep.example:444/a/b",
    "localhost",
    "127.0.0.1",
    "[::1]:8000",
)
# A place that each entry lists, as host with port, and path.
PLACES = (
    ("good.example", "/"),
    ("a.wide.example", "/"),
    ("ported.example:8443", "/"),
    ("narrow.example", "/cb/"),
    ("both.example:8443", "/cb/"),
    ("x.deep.example:444", "/a/b/"),
)
NAMES = ("good.example", "a.wide.example", "narrow.example")
# By entry with a path: what it is bounded by.
BOUNDED = ("narrow.example/cb", "both.example:8443/cb", "x.deep.example:444/a/b")

EVIL = "evil.example"
DOTS = ("..", "%2e%2e", "%2E%2E", ".%2e", "%2e.", ".%2E", "%2E.", "%2e%2E")
ONE_DOT = (".", "%2e", "%2E")
# What browsers take away, or take for something else.
STRIPPED = ("\t", "\n", "\r", "\r\n")
BLANKS = (*STRIPPED, " ", "\0", "\x0b", "\x0c", "\x1f", "\x7f", "\x85", "\xa0", "\u2028", "\u3000", "\ufeff")
INVISIBLE = ("\u00ad", "\u200b", "\u200c", "\u200d", "\u2060", "\ufeff", "\u180e", "\ufe0f")
FULL_STOPS = ("\u3002", "\uff0e", "\uff61", "\u2024", "%2e", "%2E", "%252e", "%e3%80%82")
FOLDED_SEPARATORS = ("\uff0f", "\uff20", "\uff1a", "\uff1f", "\uff03", "\uff3c", "\u2044", "\u2215", "\u2100", "\u2047")
LOOPBACK_SPELLINGS = (
    *("127.1", "127.0.1", "0x7f.1", "0x7f000001", "0x7F.0.0.1", "2130706433", "017700000001", "0177.0.0.1"),
    *("127.0.0.1.", "127.0.0.01", "127.0.0.0x1", "127.000.000.001", "127.0.0.2", "0.0", "0", "127.0.0.256"),
    *("[::]", "[0:0:0:0:0:0:0:1]", "[::0001]", "[::ffff:127.0.0.1]", "[::ffff:7f00:1]", "[::127.0.0.1]", "[::1%25lo]"),
    *("[::1%lo]", "[::1", "::1", "[v1.x]", "[127.0.0.1]", "[localhost]", "[]", "localhost.", "LOCALHOST.evil.example"),
    *("local\u017fhost", "127\u30020\u30020\u30021", "\uff11\uff12\uff17.0.0.1", "\u2460\u2461\u2466.0.0.1"),
)
OTHER_SCHEMES = (
    *("javascript", "data", "view-source", "vbscript", "file", "ftp", "ftps", "blob", "filesystem", "about", "chrome"),
    *("ws", "wss", "mailto", "tel", "intent", "jar", "ms-msdt", "x-apple.systempreferences", "httpx", "https2"),
    "shttp",
    *("http", "HTTPS", "Https", "hTTps", "https\u200b", "http\u017f", "\uff48ttps", "url:https", "feed:https"),
)
MACROS = ("${DD_UUID}", "$%7BDD_UUID%7D", "${GDPR}", "${GDPR_CONSENT_565}", "$%7bGDPR_CONSENT_1%7d")


def _each(templates: Iterable[str], **values: Iterable[str]) -> tuple[str, ...]:
    """Every template with every value of every name that it holds. "<name>" marks a place: braces belong to macros."""
    made = list(templates)
    for name, choices in values.items():
        chosen, place = tuple(choices), f"<{name}>"
        made = [one.replace(place, choice) for one in made for choice in (chosen if place in one else chosen[:1])]
    return tuple(dict.fromkeys(made))


REFUSED: Mapping[str, tuple[str, ...]] = {
    "another scheme": (
        *_each(
            ("<scheme>://<host>/", "<scheme>:<host>", "<scheme>:alert(1)//<host>/"), scheme=OTHER_SCHEMES, host=NAMES
        ),
        *_each(("javascript://<host>/%0aalert(1)", "javascript://<host>/%0d%0aalert(1)//"), host=NAMES),
        *_each(("data:text/html,https://<host>/", "data:text/html;base64,PHNjcmlwdD4=#https://<host>/"), host=NAMES),
        *_each(("view-source:https://<host>/", "blob:https://<host>/", "://<host>/", ":https://<host>/"), host=NAMES),
    ),
    "no scheme": _each(
        (
            *("", "/", "?", "#", ".", "..", "<host>", "<host>/", "/<host>", "//<host>", "///<host>", "////<host>/"),
            *("//<host>@evil.example", "/.//<host>", "./<host>", "?//<host>", "#//<host>", ";//<host>", "@<host>/"),
            *("//evil.example/", "///evil.example/", "////evil.example/", "/%2fevil.example", "%2f%2f<host>"),
        ),
        host=NAMES,
    ),
    "slashes": _each(
        (
            *("https:<host>", "https:/<host>", "https:///<host>", "https:////<host>", "https://///<host>/"),
            *("https:/<host>@evil.example", "https:///evil.example/<host>", "https:////evil.example@<host>"),
            *("https:%2f%2f<host>/", "https:/%2f<host>/", "https%3a//<host>/", "https%3A%2F%2F<host>%2F"),
            *("https//<host>/", "https;//<host>/", "https.//<host>/", "https::/<host>", "https:?//<host>"),
            "https:#//<host>",
        ),
        host=NAMES,
    ),
    "backslashes": _each(
        (
            *("\\\\<host>", "/\\<host>", "\\/<host>", "https:\\\\<host>", "https:/\\<host>/", "https:\\/<host>/"),
            *("https://\\<host>/", "https://<host>\\", "https://<host>\\@evil.example/"),
            "https://<host>\\.evil.example/",
            *("https://evil.example\\@<host>/", "https://evil.example/\\@<host>", "https://evil.example\\\\@<host>/"),
            *("https://evil.example\\.<host>/", "https://evil.example:443\\@<host>/", "https://evil.example\\<host>/"),
            *("https://<host>/\\evil.example", "https://<host>/\\..\\..\\", "https://<host>/?\\", "https://<host>/#\\"),
        ),
        host=NAMES,
    ),
    "blanks and controls": _each(
        (
            *("<blank>https://<host>/", "ht<blank>tps://<host>/", "https<blank>://<host>/", "https:<blank>//<host>/"),
            *("https:/<blank>/<host>/", "https://<blank><host>/", "https://<host><blank>/", "https://<host><blank>"),
            *("https://<host><blank>.evil.example/", "https://evil.example<blank>@<host>/"),
            "https://<host>:4<blank>43/",
            *("https://<host>/cb/<blank>", "https://<host>/cb/.<blank>./", "https://<host>/cb?<blank>"),
            "<blank>//<host>",
        ),
        blank=BLANKS,
        host=NAMES[:2],
    ),
    "response splitting": _each(
        (
            "https://<host>/cb<break>Set-Cookie: idsync=1",
            "https://<host>/cb<break><break><script>alert(1)</script>",
            "https://<host>/cb?a=1<break>Location: https://evil.example/",
            "https://<host>/cb#<break> X: 1",
        ),
        **{"break": ("\r\n", "\n", "\r", "\u560d\u560a", "\u010d\u010a", "\x85")},
        host=NAMES,
    ),
    "user info": _each(
        (
            *("https://<host>@evil.example/", "https://<host>:443@evil.example/", "https://<host>:@evil.example/"),
            *("https://@<host>/", "https://:@<host>/", "https://user@<host>/", "https://user:word@<host>/"),
            "https://@@<host>/",
            *("https://evil.example@<host>/", "https://evil.example:443@<host>/", "https://<host>@<host>/"),
            *("https://<host>@evil.example@<host>/", "https://evil.example&@<host>/", "https://<host>;@evil.example/"),
            *("https://<host>%40evil.example/", "https://<host>%00@evil.example/", "https://<host>%20@evil.example/"),
            *("https://<host>%2f@evil.example/", "https://<host>%3f@evil.example/", "https://<host>%23@evil.example/"),
            *("https://<host>!@evil.example/", "https://<host>$@evil.example/", "https://[<host>]@evil.example/"),
            *("https://evil.example%2f@<host>/", "https://evil.example%5c@<host>/", "https://${DD_UUID}@<host>/"),
        ),
        host=NAMES,
    ),
    "delimiters before the host ends": _each(
        (
            *("https://evil.example#@<host>/", "https://evil.example?@<host>/", "https://evil.example/@<host>/"),
            *("https://evil.example;@<host>/", "https://evil.example#<host>", "https://evil.example?<host>"),
            *("https://evil.example/<host>", "https://evil.example//<host>/", "https://evil.example;<host>/"),
            *("https://#<host>/", "https://?<host>/", "https://;<host>/", "https://#@<host>/", "https://?@<host>/"),
            *("https://<host>;evil.example/", "https://<host>;@evil.example/", "https://<host>&evil.example/"),
            *("https://<host>,evil.example/", "https://<host>|evil.example/", "https://<host>'.evil.example/"),
            *('https://<host>".evil.example/', "https://<host>`.evil.example/", "https://<host>{.evil.example/"),
            *("https://<host>^.evil.example/", "https://<host>*/", "https://<host>!/", "https://<host>~/"),
            "https://<host>=/",
            *("https://<host>$/", "https://<host>+/", "https://(<host>)/", "https://<<host>>/", "https://<host>_/"),
        ),
        host=NAMES,
    ),
    "look-alikes in the host": (
        *_each(("https://good<dot>example/", "https://a<dot>wide<dot>example/"), dot=FULL_STOPS),
        *_each(("https://<host><dot>evil<dot>example/", "https://<host><dot>/"), host=NAMES, dot=FULL_STOPS),
        *_each(
            (
                "https://go<gap>od.example/",
                "https://good.example<gap>/",
                "https://<gap>a.wide.example/",
                "https://a<gap>.wide.example/",
            ),
            gap=INVISIBLE,
        ),
        *_each(
            ("https://<host><mark>.evil.example/", "https://evil.example<mark><host>/"),
            host=NAMES,
            mark=FOLDED_SEPARATORS,
        ),
        *("https://\uff47ood.example/", "https://g\u043eod.example/", "https://goo\u0501.example/"),
        "https://go\u00f6d.example/",
        *("https://\U0001d420ood.example/", "https://g\u24de\u24ded.example/", "https://good.exampl\u0435/"),
        *("https://good.ex\u0430mple/", "https://xn--god-tna.example/", "https://good.xn--exampl-eva/"),
        *("https://good\u2025example/", "https://www.\u0131good.example/", "https://a.wide.e\u212aample/"),
        "https://\xdf.wide.example/",
    ),
    "encoded hosts": _each(
        (
            *("https://%67ood.example/", "https://good%2eexample/", "https://a%2ewide%2eexample/", "https://%<host>/"),
            *("https://<host>%2f.evil.example/", "https://<host>%5c.evil.example/", "https://<host>%3f.evil.example/"),
            *("https://<host>%23.evil.example/", "https://<host>%00.evil.example/"),
            "https://<host>%0d%0a.evil.example/",
            *("https://<host>%09.evil.example/", "https://<host>%20/", "https://<host>%/", "https://<host>%zz/"),
            *("https://<host>%252f.evil.example/", "https://<host>%3a443/", "https://<host>%u002e/"),
            "https://<host>%c0%ae/",
            *("https://evil.example%23.<host>/", "https://evil.example%00<host>/", "https://evil.example%2f<host>/"),
        ),
        host=NAMES,
    ),
    "suffix and prefix": (
        *_each(
            (
                *("https://<host>.evil.example/", "https://<host>evil.example/", "https://<host>-evil.example/"),
                *("https://evil<host>.evil.example/", "https://<host>.", "https://<host>./", "https://<host>../"),
                *("https://.<host>/", "https://..<host>/", "https://-.<host>/", "https://<host>.:443/"),
                "https://a..<host>/",
            ),
            host=NAMES,
        ),
        *("https://evilgood.example/", "https://evil-good.example/", "https://evil.good.example/"),
        "https://www.good.example/",
        *("https://evilwide.example/", "https://evil-wide.example/", "https://wide.example.evil.example/"),
        "https://wide/",
        *("https://good.exampl/", "https://good.example0/", "https://ood.example/", "https://example/"),
        "https://good/",
        *("https://.wide.example/", "https://-a.wide.example/", "https://a-.wide.example/", "https://_a.wide.example/"),
        *("https://evilported.example:8443/", "https://a.ported.example:8443/", "https://x.narrow.example/cb"),
        *("https://evildeep.example:444/a/b", "https://.deep.example:444/a/b"),
        "https://deep.example.evil.example:444/a/b",
    ),
    "other addresses": _each(("http://<ip>/", "https://<ip>/", "http://<ip>:8000/"), ip=LOOPBACK_SPELLINGS),
    "http beyond loopback": (
        *_each(("http://<host>/", "http://<host>:443/", "http://<host>:8443/cb/"), host=NAMES),
        *("http://localhost.wide.example/", "http://a.localhost/", "http://localhost.evil.example/"),
        "http://[::1]:8001/",
        *("http://localhost@evil.example/", "http://localhost:80@evil.example/", "http://127.0.0.1.evil.example/"),
        *("http://[::1].evil.example/", "http://[::1]evil.example/", "http://[::1]@evil.example/", "http://[::1]/"),
    ),
    "ports": (
        *_each(
            ("https://<host>:<port>/", "https://<host>:<port>"),
            host=NAMES,
            port=(
                *("", "0", "00", "00443", "0443", "65536", "99999", "655350", "-1", "+443", "4 43", "0x1bb", "4a3"),
                "443:443",
                *("443.", "1e3", "%34%34%33", "443@evil.example:", "\u0664\u0664\u0663", "443;", "*"),
            ),
        ),
        *("https://ported.example/", "https://ported.example:443/", "https://ported.example:844/"),
        "https://ported.example:84430/",
        *("https://ported.example:08443/", "https://ported.example:8443:8443/", "https://ported.example:18443/"),
        *("https://both.example/cb/", "https://both.example:443/cb/", "https://x.deep.example/a/b"),
        "https://deep.example:4444/a/b",
    ),
    "beside a path": (
        *_each(
            (
                *("https://<place>x", "https://<place>.", "https://<place>..", "https://<place>;x"),
                *("https://<place>%2f", "https://<place>%2Fx"),
                *("https://<place>%3fx", "https://<place>%23", "https://<place>%00", "https://<place>-"),
                "https://<place>${DD_UUID}",
                *("https://<place>${GDPR}/", "https://<place>$%7BDD_UUID%7D", "https://<place>@evil.example/"),
                "https://<place>&x",
            ),
            place=BOUNDED,
        ),
        *("https://narrow.example", "https://narrow.example/", "https://narrow.example?/cb"),
        "https://narrow.example#/cb",
        *("https://narrow.example/c", "https://narrow.example/CB", "https://narrow.example/%63b"),
        "https://narrow.example//cb",
        *("https://narrow.example/x/cb", "https://narrow.example/?/cb/", "https://narrow.example/;/cb"),
        "https://narrow.example/%2fcb",
        *("https://narrow.example/${DD_UUID}cb", "https://narrow.example/${DD_UUID}/cb"),
        "https://narrow.example/c${GDPR}b",
        *("https://both.example:8443/cb", "https://both.example:8443/cb?/", "https://both.example:8443/cb#/"),
        "https://both.example:8443/",
        *("https://x.deep.example:444/a", "https://x.deep.example:444/a/", "https://x.deep.example:444/a/bc"),
        "https://x.deep.example:444/b",
        *("https://x.deep.example:444/a//b", "https://x.deep.example:444/a%2fb", "https://x.deep.example:444//a/b"),
    ),
    "out of a path": _each(
        (
            *("https://<place>/<dots>", "https://<place>/<dots>/", "https://<place>/<dots>/x"),
            *("https://<place>/<dots>?x", "https://<place>/<dots>#x"),
            *("https://<place>/x/<dots>/<dots>/x", "https://<place>//<dots>/<dots>/", "https://<place>/<dots>;/x"),
            "https://<place>/<dots>;a=1/x",
            *("https://<place>/<dots>%2fx", "https://<place>/<dots>%5Cx", "https://<place>/x%2f<dots>/x"),
            "https://<place>/x%5c<dots>%2F",
        ),
        place=BOUNDED,
        dots=DOTS,
    ),
    "dots that go nowhere": (
        *_each(
            ("https://<place>/<dot>/x", "https://<place>/<dot>", "https://<place>/<dot>?", "https://<place>/.../"),
            place=BOUNDED,
            dot=ONE_DOT,
        ),
        *_each(("https://good.example/<dots>/", "https://good.example/a/<dots>"), dots=DOTS),
    ),
    "a macro that could make dots": _each(
        (
            *("https://<place>/.<macro>/x", "https://<place>/<macro>./x", "https://<place>/.<macro>./x"),
            "https://<place>/..<macro>/x",
            *("https://<place>/%2e<macro>/x", "https://<place>/<macro>%2E/x", "https://<place>/.<macro><macro>"),
            "https://<place>/.<macro>?",
            *("https://<place>/%<macro>2e/x", "https://<place>/%2<macro>e/x", "https://<place>/%2<macro>/x"),
            "https://<place>/.%2<macro>/",
            *("https://<place>/.<macro>;/x", "https://<place>/x%2f<macro>.", "https://<place>/<macro>../<macro>"),
        ),
        place=BOUNDED,
        macro=MACROS,
    ),
    "a macro before the path": _each(
        (
            *("<macro>", "<macro>://<host>/", "http<macro>://<host>/", "https:<macro>//<host>/", "https://<macro>/"),
            "https://<macro>.wide.example/",
            *("https://a<macro>.wide.example/", "https://<host><macro>/", "https://<host>:<macro>/"),
            "https://<host>:44<macro>/",
            *("https://<macro><host>/", "https://<macro>@<host>/", "https://<macro>", "https://<host><macro>"),
            "//<macro>/",
        ),
        macro=MACROS,
        host=NAMES[:2],
    ),
    "broken escapes": _each(
        (
            *("https://<host>/cb/%", "https://<host>/cb/%2", "https://<host>/cb/%zz", "https://<host>/cb/%u002e"),
            "https://<host>/cb/%%32%65",
            *("https://<host>/cb?a=%", "https://<host>/cb#%1", "https://<host>/cb/%+1", "https://<host>/cb/% 0"),
            "https://<host>/cb/%-e",
            *("https://<host>/cb?%${GDPR}", "https://<host>/cb?%2${GDPR}"),
        ),
        host=NAMES,
    ),
    "nested": _each(
        (
            "https://https://<host>/",
            "https://https:<host>/",
            "https:https://<host>/",
            "https://https@<host>/",
            "https://evil.example/?u=https://<host>/",
            "https://evil.example/https://<host>/",
            "https://evil.example/redirect?to=//<host>",
            "https://translate.example/?u=https%3A%2F%2F<host>%2F",
            "https://http://<host>/",
            "https://<host>:https://evil.example/",
            "//https://<host>/",
            "https%3A//evil.example/https://<host>/",
        ),
        host=NAMES,
    ),
}

HARMLESS: Mapping[str, tuple[str, ...]] = {
    "after the host": tuple(
        f"https://{host}{path}{rest}"
        for host, path in PLACES
        for rest in (
            *("", "@evil.example/", "/evil.example", "//evil.example", "https://evil.example/"),
            "?next=https://evil.example/",
            *("?@evil.example", "#@evil.example", "#//evil.example", "?//evil.example/../../..", "#/../../"),
            ";@evil.example",
            *("x@evil.example:443/", "%5C%5cevil.example", "%0d%0aSet-Cookie:%20a=1", "%00", "%09", "%252e%252e/"),
            *("..a/", ".well-known/x"),
            *("javascript:alert(1)", "?u=javascript:alert(1)", "a..b/", "x/;..", "[::1]", "?[", "<script>", "'\"`^|{}"),
        )
    ),
    "macros": tuple(
        f"https://{host}{path}{rest}"
        for host, path in PLACES
        for macro in MACROS
        for rest in (
            *(macro, f"{macro}/x", f"a{macro}", f"{macro}.a", f".a{macro}", f"{macro}{macro}/", f"?u={macro}"),
            *(f"#{macro}", f"?..{macro}"),
            *(f"x/{macro};a", f"%2f{macro}/", f"%41{macro}/", f"?a=%41{macro}", f"//{macro}"),
        )
    ),
    "the entries themselves": (
        *("https://xn--bcher-kva.wide.example/", "https://a.XN--bcher-kva.wide.example/"),
        *("https://good.example", "https://GOOD.example:1/", "https://wide.example?u", "https://x.y.wide.example#u"),
        *("https://good.example:443", "https://good.example:65535/", "https://narrow.example/cb"),
        "https://narrow.example:9/cb?u",
        *("https://narrow.example/cb#/x", "https://deep.example:444/a/b", "https://x.deep.example:444/a/b?u"),
        *("http://localhost/", "http://127.0.0.1:8000/cb", "http://[::1]:8000/", "https://[::1]:8000"),
        "https://localhost:1/",
    ),
}
