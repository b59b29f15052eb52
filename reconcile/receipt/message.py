"""From the bytes of an e-mail, or of its text alone, to texts in which figures can be looked for. Pure.

A mail program saves what it likes: the whole message with all its parts, the HTML alone, or what was on the screen. So
every reading is offered, the likeliest first, and who asks takes the first that holds figures.
"""

import re
from collections.abc import Iterator
from email import message_from_bytes, policy
from email.message import EmailMessage, Message
from html.parser import HTMLParser

_OF_A_MESSAGE = {"from", "subject", "received", "mime-version", "content-type", "date", "message-id"}
_LINES = {"br", "p", "div", "tr", "table", "li", "ul", "ol", "pre", "h1", "h2", "h3", "h4", "hr", "body"}
_CELLS = {"td", "th"}
_UNSEEN = {"script", "style", "head", "title"}
_TAG = re.compile(r"<(?:!doctype|html|body|table|div|p|br|span|td)\b", re.IGNORECASE)


def readings(content: bytes) -> Iterator[str]:
    """What the text may be, each reading once."""
    seen: set[str] = set()
    for text in _readings(content):
        if text not in seen:
            seen.add(text)
            yield text


def _readings(content: bytes) -> Iterator[str]:
    message = message_from_bytes(content, policy=policy.default)
    if _OF_A_MESSAGE & {name.lower() for name in message}:
        parts = [part for part in message.walk() if part.get_content_maintype() == "text"]
        plain = [part for part in parts if part.get_content_subtype() != "html"]
        for part in [*plain, *(part for part in parts if part not in plain)]:
            text = _decoded(part)
            yield from (text,) if part in plain else _pages(text)
    text = _text(content)
    yield text
    if _TAG.search(text):
        yield from _pages(text)


def _pages(html: str) -> Iterator[str]:
    """Layouts put all of a message into one cell, and tables of figures put paragraphs into theirs."""
    yield shown(html, breaks_in_cells=True)
    yield shown(html, breaks_in_cells=False)


def _decoded(part: "Message | EmailMessage") -> str:
    """Of a part whose encodings may be unknown or wrong: then as much as can be read."""
    raw = part.get_payload(decode=True)
    content = raw if isinstance(raw, bytes) else str(part.get_payload()).encode(errors="replace")
    charset = part.get_content_charset()
    try:
        return content.decode(charset) if charset else _text(content)
    except (LookupError, UnicodeError):
        return _text(content)


def _text(content: bytes) -> str:
    """UTF-16 by its byte order mark, else UTF-8, else what no byte can be wrong in."""
    if content.startswith((b"\xff\xfe", b"\xfe\xff")):
        return content.decode("utf-16", errors="replace")
    try:
        return content.decode("utf-8-sig")
    except UnicodeDecodeError:
        return content.decode("cp1252", errors="replace")


def shown(html: str, *, breaks_in_cells: bool) -> str:
    """What a reader of the page sees: rows as lines, a tab between cells."""
    page = _Page(breaks_in_cells=breaks_in_cells)
    page.feed(html)
    page.close()
    return "".join(page.pieces)


class _Page(HTMLParser):
    def __init__(self, *, breaks_in_cells: bool) -> None:
        super().__init__(convert_charrefs=True)
        self.pieces: list[str] = []
        self._breaks, self._hidden, self._cells = breaks_in_cells, 0, 0

    def handle_starttag(self, tag: str, attrs: object) -> None:
        if tag in _UNSEEN:
            self._hidden += 1
        elif tag in _CELLS:
            self.pieces.append("\t")
            self._cells += 1
        elif tag in _LINES and (self._breaks or not self._cells or tag in {"tr", "table"}):
            self.pieces.append("\n")

    def handle_endtag(self, tag: str) -> None:
        if tag in _UNSEEN:
            self._hidden = max(self._hidden - 1, 0)
        elif tag in _CELLS:
            self._cells = max(self._cells - 1, 0)
        elif tag in _LINES and (self._breaks or not self._cells or tag in {"tr", "table"}):
            self.pieces.append("\n")

    def handle_data(self, data: str) -> None:
        if not self._hidden:
            self.pieces.append(re.sub(r"[ \r\n]+", " ", data))
