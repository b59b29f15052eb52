"""A generator of customer IDs full of what should not be there, of its look-alikes, and of both with a slip."""

from urllib.parse import quote

from hypothesis import strategies as st

_SHAPES = st.sampled_from(
    [
        *(
            "john@example.com",
            "+49 30 1234567",
            "(415) 555-2671",
            "415-555-2671",
            "0049 30 1234567",
            "4111111111111111",
        ),
        *(
            "4111-1111-1111-1111",
            "378282246310005",
            "${UID}",
            "[UID]",
            "{{UID}}",
            "%%UID%%",
            "__UID__",
            "{UID}",
            "$UID",
        ),
        *("0", "null", "undefined", "None", "NaN", "nil", "(null)", "[object Object]", "0" * 20, "0000-00"),
        *(
            "00000000-0000-0000-0000-000000000000",
            "e4fe9bde-caa0-47b6-908d-ffba3fa184f2",
            "C0001",
            "4711",
            "a:b",
            "%3A",
        ),
        *(
            "E4FE9BDE-CAA0-47B6-908D-FFBA3FA184F2",
            "dGhpcw==",
            "user_42",
            "__id",
            "536-90-4399",
            "36574261809",
            "é",
            " ",
        ),
        *(
            "a" * 64,
            "a" * 512,
            "1" * 38,
            "415-555-2671 x7",
            "0171-1234567",
            "",
            "\n",
            "\t",
            "\x85",
            "\u2028",
            "x" * 513,
        ),
    ]
)
_DIGITS = st.text("0123456789", max_size=40)
_NEAR = st.text("0123456789aAnNuUxlL ./()+-_@${}[]%<>=:\u00a0\u2011", max_size=24)
_PLAIN = _SHAPES | _DIGITS | _NEAR | st.text(st.characters(codec="utf-8"), max_size=12)
_CHANGES = st.sampled_from(
    [
        *(str, str.upper, str.lower, str.title, str.strip, quote, lambda text: quote(quote(text))),
        *(lambda text: text[1:], lambda text: text[:-1], lambda text: f"x{text}", lambda text: f"{text}7"),
        *(lambda text: f" {text}", lambda text: f"{text}\n", lambda text: text * 2, lambda text: f"-{text}"),
    ]
)
any_id = st.builds(lambda text, change: change(text), _PLAIN, _CHANGES)
