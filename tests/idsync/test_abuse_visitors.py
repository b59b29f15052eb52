"""Prefetches, declared bots and pages of others. A visitor must never be taken for a machine."""

import json
from importlib.resources import files
from pathlib import Path
from urllib.parse import urlsplit

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from idsync import config
from idsync.errors import ConfigError
from idsync.visitors import allowed_origin, is_declared_bot, prefetched


@pytest.mark.parametrize(
    ("headers", "expected"),
    [
        (("", "", "", ""), False),
        (("prefetch", "", "", ""), True),
        (("prefetch;prerender", "", "", ""), True),
        (("prefetch;anonymous-client-ip", "prefetch", "", ""), True),
        (("PREFETCH; Prerender", "", "", ""), True),
        (("", "prefetch", "", ""), True),
        (("", "Prerender", "", ""), True),
        (("", "preview", "", ""), True),
        (("", "", "prefetch", ""), True),
        (("", "", "", "preview"), True),
        (("", "", "", ": preview"), True),
        (("", "", "", "instant"), True),
        (("", "", "", "preview,preview"), True),
        (("navigate", "", "", ""), False),
        (("", "", "microsummary", ""), False),
        (("", "no-prefetch", "", "instantly"), False),
    ],
)
def test_prefetched(headers: tuple[str, str, str, str], expected: bool) -> None:
    assert prefetched(*headers) is expected


SAFARI = "AppleWebKit/605.1.15 (KHTML, like Gecko)"


def iphone(browser: str) -> str:
    return f"Mozilla/5.0 (iPhone; CPU iPhone OS 18_1 like Mac OS X) {SAFARI} {browser}"


def blink(platform: str, browser: str) -> str:
    return f"Mozilla/5.0 ({platform}) AppleWebKit/537.36 (KHTML, like Gecko) {browser}"


PEOPLE = {
    "Chrome": blink("Windows NT 10.0; Win64; x64", "Chrome/131.0.0.0 Safari/537.36"),
    "Firefox": "Mozilla/5.0 (X11; Linux x86_64; rv:133.0) Gecko/20100101 Firefox/133.0",
    "Safari": f"Mozilla/5.0 (Macintosh; Intel Mac OS X 10_15_7) {SAFARI} Version/18.1 Safari/605.1.15",
    "iPhone": iphone("Version/18.1 Mobile/15E148 Safari/604.1"),
    "Edge": blink("Windows NT 10.0; Win64; x64", "Chrome/131.0.0.0 Safari/537.36 Edg/131.0.0.0"),
    "Opera": blink("Windows NT 10.0; Win64; x64", "Chrome/130.0.0.0 Safari/537.36 OPR/115.0.0.0"),
    "Internet Explorer": "Mozilla/5.0 (Windows NT 10.0; WOW64; Trident/7.0; rv:11.0) like Gecko",
    "Samsung": blink("Linux; Android 14; SM-S918B", "SamsungBrowser/27.0 Chrome/125.0.0.0 Mobile Safari/537.36"),
    "Silk": blink("Linux; Android 9; KFMAWI", "Silk/108.9.6 like Chrome/108.0.5359.160 Safari/537.36"),
    "Yandex": blink("Windows NT 10.0; Win64; x64", "Chrome/128.0.0.0 YaBrowser/24.10.0.0 Safari/537.36"),
    "Coc Coc": blink("Windows NT 10.0; Win64; x64", "coc_coc_browser/128.0.0 Chrome/122.0.0.0 Safari/537.36"),
    "Sogou": blink("Windows NT 10.0; WOW64", "Chrome/58.0.3029.110 Safari/537.36 SE 2.X MetaSr 1.0"),
    "Baidu app": blink(
        "Linux; Android 12; V2118A",
        "Version/4.0 Chrome/97.0.4692.98 Mobile Safari/537.36 T7/13.56 (Baidu; P1 12) baiduboxapp/13.55.0.10",
    ),
    "Google app": iphone("GSA/344.0.695551749 Mobile/15E148 Safari/604.1"),
    "DuckDuckGo": blink("Linux; Android 10", "Version/4.0 Chrome/131.0.0.0 Mobile DuckDuckGo/5 Safari/537.36"),
    "Facebook": iphone(
        "Mobile/22B83 [FBAN/FBIOS;FBAV/490.0.0.49.111;FBDV/iPhone15,2;FBSN/iOS;FBSV/18.1;FBLC/en_US;FBOP/5]"
    ),
    "Facebook, Android": blink(
        "Linux; Android 16; Pixel 10 Pro XL Build/CP1A.260305.018; wv",
        "Version/4.0 Chrome/146.0.7680.174 Mobile Safari/537.36 MetaIAB Facebook",
    ),
    "Instagram": blink(
        "Linux; Android 15; CPH2557 Build/AP3A.240617.008; wv",
        "Version/4.0 Chrome/142.0.7444.142 Mobile Safari/537.36 Instagram 406.0.0.58.159 Android (35/15; OPPO)",
    ),
    "WhatsApp": blink(
        "Linux; Android 13; SM-A546B; wv", "Version/4.0 Chrome/119.0.0.0 Mobile Safari/537.36 WhatsApp/2.23.24"
    ),
    "WeChat": iphone("Mobile/15E148 MicroMessenger/8.0.53(0x18003531) NetType/WIFI Language/zh_CN"),
    "Line": iphone("Mobile/15E148 Safari Line/14.19.0"),
    "Pinterest": iphone("Mobile/15E148 [Pinterest/iOS]"),
    "Snapchat": iphone(
        "Version/18.1 Mobile/15E148 Safari/604.1 Snapchat/13.18.0.42 (like Safari/8619.2.8.10.7, panda)"
    ),
    "TikTok": blink(
        "Linux; Android 14; SM-S911B; wv",
        "Version/4.0 Chrome/130.0.0.0 Mobile Safari/537.36 trill_370402 BytedanceWebview/d8a21c6",
    ),
    "Cubot phone": blink("Linux; Android 12; CUBOT P60", "Chrome/131.0.0.0 Mobile Safari/537.36"),
    "Cubot phone, too": blink("Linux; Android 9; CUBOT_NOTE_S Build/O11019", "Chrome/131.0.0.0 Mobile Safari/537.36"),
    "television": blink("Web0S; Linux/SmartTV", "Chrome/108.0.5359.211 Safari/537.36 WebAppManager"),
    "console": f"Mozilla/5.0 (PlayStation; PlayStation 5/2.26) {SAFARI} Version/13.0 Safari/605.1.15",
    "desktop application": blink(
        "Windows NT 10.0; Win64; x64", "Slack/4.41.97 Chrome/130.0.6723.191 Electron/33.3.1 Safari/537.36"
    ),
    "Outlook": "Mozilla/4.0 (compatible; ms-office; MSOffice 16)",
    "Thunderbird": "Mozilla/5.0 (Windows NT 10.0; Win64; x64; rv:128.0) Gecko/20100101 Thunderbird/128.5.0",
    "Apple Mail": "Mozilla/5.0",
    "Gmail": "Mozilla/5.0 (Windows NT 5.1; rv:11.0) Gecko Firefox/11.0 (via ggpht.com GoogleImageProxy)",
    "Yahoo Mail": "YahooMailProxy; https://help.yahoo.com/kb/yahoo-mail-proxy-SLN28749.html",
}
SERVERS = {
    "none": "",
    "curl": "curl/8.11.0",
    "requests": "python-requests/2.32.3",
    "Java": "Java/21.0.5",
    "Go": "Go-http-client/2.0",
    "OkHttp": "okhttp/4.12.0",
    "node-fetch": "node-fetch/1.0 (+https://github.com/bitinn/node-fetch)",
}
MACHINES = [
    "Mozilla/5.0 (compatible; Googlebot/2.1; +http://www.google.com/bot.html)",
    "Mozilla/5.0 AppleWebKit/537.36 (KHTML, like Gecko; compatible; bingbot/2.0; +http://www.bing.com/bingbot.htm)",
    "Mozilla/5.0 (compatible; YandexBot/3.0; +http://yandex.com/bots)",
    "Mozilla/5.0 (compatible; Baiduspider/2.0; +http://www.baidu.com/search/spider.html)",
    "Mozilla/5.0 (compatible; Yahoo! Slurp; http://help.yahoo.com/help/us/ysearch/slurp)",
    "AdsBot-Google (+http://www.google.com/adsbot.html)",
    "Mediapartners-Google",
    "GPTBOT/1.2",
    "Mozilla/5.0 AppleWebKit/537.36 (KHTML, like Gecko); compatible; ChatGPT-User/1.0; +https://openai.com/bot",
    "facebookexternalhit/1.1 (+http://www.facebook.com/externalhit_uatext.php)",
    "WhatsApp/2.23.20.0 A",
    "Slackbot-LinkExpanding 1.0 (+https://api.slack.com/robots)",
    "Mozilla/5.0 (X11; Linux x86_64) AppleWebKit/537.36 (KHTML, like Gecko) HeadlessChrome/131.0.0.0 Safari/537.36",
    "Scrapy/2.12.0 (+https://scrapy.org)",
    "Mozilla/5.0 (compatible; Daum/4.1; +http://cs.daum.net/faq/15/4118.html?faqId=28966)",
]


@pytest.mark.parametrize("user_agent", [*PEOPLE.values(), *SERVERS.values()], ids=[*PEOPLE, *SERVERS])
def test_no_person_and_no_server_is_a_bot(user_agent: str) -> None:
    assert not is_declared_bot(user_agent)
    assert not is_declared_bot(user_agent.upper())


@pytest.mark.parametrize("user_agent", MACHINES)
def test_declared_bots(user_agent: str) -> None:
    assert is_declared_bot(user_agent)
    assert is_declared_bot(user_agent.lower())


def known_bots(*tags: str) -> list[str]:
    known = json.loads(files("crawleruseragents").joinpath("crawler-user-agents.json").read_text())
    return [name for bot in known if set(tags) & set(bot.get("tags", ())) for name in bot["instances"]]


def test_most_of_the_bots_that_are_known_are_recognised() -> None:
    """Most, as that list also names a few that people sit behind; the rest call themselves nothing in common."""
    names = known_bots("search-engine", "ai-crawler", "social-preview")
    assert len(names) > 500
    assert sum(map(is_declared_bot, names)) > 0.85 * len(names)


def test_the_length_of_a_user_agent_does_not_matter() -> None:
    assert not is_declared_bot("Mozilla/5.0 " + "x" * 1_000_000 + " bot")
    assert is_declared_bot("Googlebot " + "x" * 1_000_000)


HOSTS = ("www.example.com", ".shop.example", "localhost", "[::1]")


@pytest.mark.parametrize(
    ("origin", "referer"),
    [
        ("https://www.example.com", ""),
        ("http://www.example.com:8080", ""),
        ("https://WWW.Example.com", ""),
        ("https://shop.example", ""),
        ("https://a.b.shop.example", ""),
        ("http://localhost:3000", ""),
        ("http://[::1]:3000", ""),
        ("", "https://www.example.com"),
        ("", "https://www.example.com/"),
        ("", "https://www.example.com:8443/path?q=https://evil.example/"),
        ("", "https://www.example.com?q"),
        ("", "https://de.shop.example/@evil.example"),
        ("null", "https://www.example.com/"),
        ("https://www.example.com", "https://evil.example/"),
    ],
)
def test_allowed(origin: str, referer: str) -> None:
    assert allowed_origin(origin, referer, HOSTS)


REFUSED = [
    "null",
    "www.example.com",
    "//www.example.com",
    "ftp://www.example.com",
    "HTTPS://www.example.com",
    "https://evil.example",
    "https://example.com",
    "https://sub.www.example.com",
    "https://www.example.com.evil.example",
    "https://www.example.com.",
    "https://evilshop.example",
    "https://.shop.example",
    "https://www.example.com@evil.example",
    "https://www.example.com:443@evil.example",
    "https://evil.example\\@www.example.com",
    "https://www.example.com\\.evil.example",
    "https://www.example.com%2eevil.example",
    "https://www.example.com:",
    "https://www.example.com:123456",
    "https://www.example.com:80:80",
    "https://www.example.com https://evil.example",
    "https://www.example.com, https://evil.example",
    "https://www.example.com\n",
    " https://www.example.com",
    "https://www.ex\tample.com",
    "https://www.example.com#",
    "https://\uff57ww.example.com",
    "android-app://com.google.android.gm",
]


@pytest.mark.parametrize("text", REFUSED)
def test_refused(text: str) -> None:
    assert not allowed_origin(text, "", HOSTS)
    assert not allowed_origin("", text, HOSTS)


def test_an_origin_is_nothing_but_one() -> None:
    assert not allowed_origin("https://www.example.com/", "", HOSTS)
    assert not allowed_origin("https://evil.example", "https://www.example.com/", HOSTS)


def test_a_call_of_no_page() -> None:
    assert not allowed_origin("", "", HOSTS)
    assert allowed_origin("", "", ())
    assert allowed_origin("https://evil.example", "https://evil.example/", ())


PARTS = st.sampled_from(
    [
        *(
            "https://",
            "http://",
            "/",
            "\\",
            "@",
            ".",
            ":",
            "?",
            "#",
            "443",
            "%2e",
            ",",
            " ",
            "\t",
            "\n",
            "\uff0f",
            "null",
        ),
        *("www.example.com", "shop.example", "evil.example", "localhost", "[::1]", "a", "-"),
    ]
)
URLS = st.builds(
    lambda start, parts: start + "".join(parts),
    st.sampled_from(["", "https://", "https://www.example.com", "https://shop.example"]),
    st.lists(PARTS | st.text(max_size=2), max_size=6),
)


@given(URLS)
@example("https://www.example.com/")
def test_what_is_allowed_has_a_listed_host_for_another_reader_too(url: str) -> None:
    if allowed_origin("", url, HOSTS) or allowed_origin(url, "", HOSTS):
        # Browsers put no backslash and no user into a Referer; behind the host it is nobody's business.
        host = urlsplit(url).hostname or ""
        assert host in {"www.example.com", "shop.example", "localhost", "::1"} or host.endswith(".shop.example")


CONFIGURATION = """
store.url = "sqlite:///idsync.db"
privacy.gdpr_default = "does-not-apply"
"""


def referers(entry: str) -> tuple[str, ...]:
    source = f'data_sources = [{{ name = "crm", dpid = 12345, referers = ["{entry}"] }}]'
    return config.parse(f"{CONFIGURATION}\n{source}", environ={}, base=Path()).data_sources[0].referers


def test_settings_of_referers() -> None:
    assert referers("www.example.com") == ("www.example.com",)
    assert referers(".example.com") == (".example.com",)


@pytest.mark.parametrize(
    "entry", ["", ".", "https://www.example.com", "www.example.com:443", "WWW.example.com", "*.a.b"]
)
def test_settings_of_referers_that_match_nothing(entry: str) -> None:
    with pytest.raises(ConfigError, match=r"data_sources\[0\]\.referers\[0\]"):
        referers(entry)
