"""Whether a call comes of a visitor who looks at a page of ours: prefetches, declared bots, other people's pages.

All of it is what the caller says of itself. It keeps honest machines from being taken for visitors; it stops nobody who
lies.

The pattern for bots is our own, and short. `crawler-user-agents`, the list that one would take, also lists the browsers
inside Instagram and Facebook (by a build of Android, and by "MetaIAB Facebook"), the image proxies of mail services,
and every HTTP library. The tests hold the pattern against that list instead.

* HTTP libraries are no bots here: servers and scripts may call, and say who the visitor is.
* Mail services fetch the pixel of a mail for a reader (GoogleImageProxy, YahooMailProxy), and some when the mail
  arrives; the customer ID stands in the mail either way, so the call counts. It brings no cookie.
"""

import re
from collections.abc import Sequence
from functools import lru_cache

_PREFETCH = re.compile(r"(?:^|[\s,;:])(?:prefetch|prerender|preview|instant)(?=$|[\s,;:])", re.IGNORECASE)

# Of lower-case text: to ignore case makes the search ten times slower. CUBOT is a maker of phones.
_BOT = re.compile(
    r"(?<!cu)bots?(?![a-z])|crawl|spider|slurp|scrap(?:er|y)|^mozilla/.*\+https?://"
    r"|google(?:-inspectiontool|other|-extended| web preview)|(?:mediapartners|apis|feedfetcher|storebot)-google"
    r"|externalhit|meta-external|facebookcatalog|bingpreview|microsoftpreview|skypeuripreview|link ?preview|^whatsapp"
    r"|embedly|iframely|(?:chatgpt|claude|perplexity|mistralai)-user|claude-web|anthropic-ai|cohere-ai"
    r"|headlesschrome|phantomjs|lighthouse|pagespeed|gtmetrix|\bptst/|pingdom|statuscake|datadogsynthetics|catchpoint"
    r"|site24x7|uptime|archiver|wayback|heritrix|nutch"
)
_MAX_USER_AGENT = 512
_CACHED = 4096

_LABEL = r"[A-Za-z0-9](?:[A-Za-z0-9-]*[A-Za-z0-9])?"
_ORIGIN = re.compile(rf"https?://({_LABEL}(?:\.{_LABEL})*|\[::1\])(?::[0-9]{{1,5}})?")


def prefetched(sec_purpose: str, purpose: str, x_moz: str, x_purpose: str) -> bool:
    """Whether a browser fetched this for a page that nobody has looked at yet; headers by their names, "" for none.

    Chrome: `Sec-Purpose: prefetch;prerender` and `Purpose: prefetch`; Firefox: `X-Moz: prefetch`; Safari:
    `X-Purpose: preview` or `instant`.
    """
    # Nearly no call has any.
    if not (sec_purpose or purpose or x_moz or x_purpose):
        return False
    return any(_PREFETCH.search(header) for header in (sec_purpose, purpose, x_moz, x_purpose))


def is_declared_bot(user_agent: str) -> bool:
    """Whether this says that it is a crawler, link preview, monitor or browser without a person. "" does not."""
    return _is_bot(user_agent[:_MAX_USER_AGENT])


@lru_cache(_CACHED)
def _is_bot(user_agent: str) -> bool:
    return _BOT.search(user_agent.lower()) is not None


def allowed_origin(origin: str, referer: str, hosts: Sequence[str]) -> bool:
    """Whether the calling page is on a listed host; without a list every page may call, and whoever is no page.

    `hosts`: exact ones, or ".example.com" for it and its subdomains; any port will do. Origin counts where there is
    one, else Referer; "null" is none. What can't be read strictly is refused, and so is a call that tells neither.
    """
    if not hosts:
        return True
    if origin and origin != "null":
        match = _ORIGIN.fullmatch(origin)
    else:
        match = _ORIGIN.match(referer)
        if match and referer[match.end() : match.end() + 1] not in {"", "/", "?"}:
            match = None
    if match is None:
        return False
    host = match[1].lower()
    return any(host == entry.removeprefix(".") or (entry[0] == "." and host.endswith(entry)) for entry in hosts)
