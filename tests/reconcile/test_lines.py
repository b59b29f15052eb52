"""Data lines: what is rendered parses back, what Audience Manager would drop is refused."""

import hashlib
import itertools

import pytest
from hypothesis import given
from hypothesis import strategies as st

from reconcile import lines
from reconcile.lines import MAX_LINE_BYTES, Line, Signal, Trait, TraitCode

sendable = st.text(st.characters(exclude_characters='"\x7f', exclude_categories=("Cs", "Cc")), min_size=1, max_size=20)
codes = st.text(st.characters(codec="ascii", categories=("L", "N")), min_size=1, max_size=20)
items = st.one_of(
    st.builds(Signal, sendable, sendable),
    st.builds(Trait, st.integers(1, 10**12), st.booleans()),
    st.builds(TraitCode, codes),
)
users = st.text(st.characters(codec="ascii", categories=("L", "N")), min_size=1, max_size=40)


@given(users, st.lists(items, min_size=1, max_size=8))
def test_what_is_rendered_parses_back(user: str, content: list[lines.Item]) -> None:
    line = Line(user, tuple(content))
    text = lines.render(line)
    assert text.endswith("\n")
    assert text.count("\n") == text.count("\t") == 1
    assert lines.parse(text) == line


@given(st.text(max_size=60))
def test_whatever_parses_renders_to_a_line_that_says_the_same(text: str) -> None:
    try:
        line = lines.parse(text)
    except ValueError:
        return
    assert lines.parse(lines.render(line)) == line


@pytest.mark.parametrize(
    ("text", "content"),
    [
        ("u\td_sid=24", [Trait(24)]),
        ("u\td_unsid=28", [Trait(28, remove=True)]),
        ("u\t28:0,29:-1", [Trait(28, remove=True), Trait(29, remove=True)]),
        ("u\t24,ic=25", [TraitCode("24"), TraitCode("25")]),
        ('u\t"gender"="f","a,b"="c,d"', [Signal("gender", "f"), Signal("a,b", "c,d")]),
        ('u\tgender=f,"k"=v,k="v"', [Signal("gender", "f"), Signal("k", "v"), Signal("k", "v")]),
        ("u\t-gender=f", [Signal("gender", "f")]),
        ('u\t"city"="Köln 1"\n', [Signal("city", "Köln 1")]),
    ],
)
def test_every_spelling_of_an_item(text: str, content: list[lines.Item]) -> None:
    assert lines.parse(text).items == tuple(content)


@pytest.mark.parametrize(
    ("text", "rule"),
    [
        ("", "not <user ID>"),
        ("u", "not <user ID>"),
        ("u\t", "ends in a tab or a space"),
        ("\td_sid=24", "not <user ID>"),
        ("u\td_sid=24\t", "ends in a tab or a space"),
        ("u\td_sid=24 ", "ends in a tab or a space"),
        ("u\td_sid=24\td_sid=25", "second tab"),
        ('u\t"a"="b', "not closed"),
        ("u\td_sid=x=y", "not an item"),
        ("u\td_sid=24,,d_sid=25", "not an item"),
        ("u\td_sid=24,", "not an item"),
        ('u\t"a"="b"c', "not an item"),
        ('u\t"a\x01"="b"', "not an item"),
        ("u\ta=" + "b" * MAX_LINE_BYTES, "longer than"),
    ],
)
def test_lines_that_would_be_dropped_are_refused(text: str, rule: str) -> None:
    with pytest.raises(ValueError, match=rule):
        lines.parse(text)


@pytest.mark.parametrize("value", ["", 'a"b', "a\tb", "a\nb", "a\rb", "a\x00b", "a\x7fb"])
def test_what_has_no_escape_is_not_rendered(value: str) -> None:
    with pytest.raises(ValueError, match="can't be sent"):
        lines.render_item(Signal("key", value))
    with pytest.raises(ValueError, match="can't be sent"):
        lines.render_item(Signal(value, "value"))


def test_a_line_of_exactly_the_limit_passes_and_one_byte_more_does_not() -> None:
    value = "é" * ((MAX_LINE_BYTES - len('u\t"k"=""\n')) // 2)
    text = lines.render(Line("u", (Signal("k", value),)))
    assert len(text.encode()) in {MAX_LINE_BYTES, MAX_LINE_BYTES - 1}
    padded = text.replace('"k"', '"k' + "k" * (MAX_LINE_BYTES - len(text.encode())) + '"')
    assert len(padded.encode()) == MAX_LINE_BYTES
    lines.parse(padded)
    with pytest.raises(ValueError, match="longer than"):
        lines.parse(padded.replace('"k', '"kk', 1))


@given(users, st.lists(st.integers(1, 60_000), min_size=1, max_size=30))
def test_packing_keeps_every_item_in_order_on_lines_that_fit(user: str, sizes: list[int]) -> None:
    content = ["é" * (size // 2) + "x" * (size % 2) for size in sizes]
    packed = lines.pack(user, content)
    assert all(len(line.encode()) <= MAX_LINE_BYTES for line in packed)
    assert [item for line in packed for item in line.rstrip("\n").partition("\t")[2].split(",")] == content
    # as few lines as fit: no line's items would have gone onto the one before
    for line, following in itertools.pairwise(packed):
        first = following.rstrip("\n").partition("\t")[2].split(",")[0]
        assert len(line.encode()) + 1 + len(first.encode()) > MAX_LINE_BYTES


INVISIBLE = ["\u200b", "\ufeff", "\u00ad", "\u2060", "\u200e", "\u202c", "\x00", "\x7f"]


@pytest.mark.parametrize("sign", INVISIBLE)
@pytest.mark.parametrize("address", ["{}a@b.de", "a@b.de{}", "a{}b@c.de", "a@b{}c.de", '"a{}b"@c.de', " {} a@b.de"])
def test_an_address_with_an_invisible_character_is_none(address: str, sign: str) -> None:
    with pytest.raises(ValueError, match=r"^not an e-mail address$"):
        lines.email_hash(address.format(sign))


@pytest.mark.parametrize(
    "address",
    [
        *("<a@b.de>", "jane<a@b.de>", '"jane"<a@b.de>', "mailto:a@b.de", "a@b.de,", "a@b.de;", "a@b.de(work)"),
        *("a@[192.0.2.1]", "[a]@b.de", "a\\b@c.de", 'a"b@c.de', '"a@b.de"', '"a"b"@c.de', '"@c.de', '""@c.de'),
        *('"a\\"@c.de', 'a@"b".de', "a@b,de.de", "a @b.de", "a@ b.de", "a\u00a0b@c.de", '"a b"@c.de'),
    ],
)
def test_an_address_with_a_sign_that_must_be_quoted_is_none(address: str) -> None:
    with pytest.raises(ValueError, match=r"^not an e-mail address$"):
        lines.email_hash(address)


@pytest.mark.parametrize(
    "address",
    [
        *("jane+news@example.com", "o'neil@example.com", "a.b_c-d!#$%&*/=?^`{|}~@example.co.uk", "jörg@bücher.example"),
        *("用户@例子.广告", "δοκιμή@παράδειγμα.δοκιμή", "e\u0301@example.com", '"a,b:c;d<e>(f)[g]"@example.com'),
        *('"a\\"b\\\\"@example.com', '"jane..doe"@example.com', "\u00a0jane@example.com\u2003"),
    ],
)
def test_a_legal_address_is_hashed_as_it_is(address: str) -> None:
    assert lines.email_hash(address) == hashlib.sha256(address.strip().encode()).hexdigest()


def test_an_item_that_fits_no_line_is_an_error() -> None:
    with pytest.raises(ValueError, match="does not fit"):
        lines.pack("u", ["x" * MAX_LINE_BYTES])
