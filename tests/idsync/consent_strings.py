"""Builds TC, GPP and US strings of named fields. Shares nothing with the readers: bits are text, fields have names."""

import random
import re
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, date, datetime, time
from typing import Literal

ALPHABET = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_"
VENDOR = 565
PURPOSES = (1, 10)
# The last day on which a string without disclosed vendors could be made, and the first on which none could.
OLD, NEW = date(2026, 2, 27), date(2026, 2, 28)
# What a section or segment is filled up to, in bits: a character, a byte and then a character, four characters.
Unit = Literal[6, 8, 24]
GPC_OFF, GPC_ON = "010", "011"


def number(value: int, bits: int) -> str:
    return f"{value:0{bits}b}"


def letters(text: str) -> str:
    return "".join(number(ord(letter) - ord("A"), 6) for letter in text)


def flags(ids: Collection[int], size: int) -> str:
    return "".join("1" if each in ids else "0" for each in range(1, size + 1))


def fibonacci(value: int) -> str:
    terms = [1, 2]
    while terms[-1] <= value:
        terms.append(terms[-1] + terms[-2])
    digits = ""
    for term in reversed([term for term in terms if term <= value]):
        digits = ("1" if term <= value else "0") + digits
        value -= term if term <= value else 0
    return digits + "1"


def text_of(bits: str, unit: Unit = 24) -> str:
    """Base64url, filled up with zeros."""
    bits += "0" * (-len(bits) % unit)
    bits += "0" * (-len(bits) % 6)
    return "".join(ALPHABET[int(bits[at : at + 6], 2)] for at in range(0, len(bits), 6))


def bits_of(text: str) -> str:
    return "".join(number(ALPHABET.index(character), 6) for character in text)


# --- TCF -------------------------------------------------------------------------------------------------------------


def spans(ids: Iterable[int]) -> list[tuple[int, int]]:
    found: list[tuple[int, int]] = []
    for each in sorted(ids):
        if found and found[-1][1] == each - 1:
            found[-1] = (found[-1][0], each)
        else:
            found.append((each, each))
    return found


def entries(ids: Iterable[int]) -> str:
    made = spans(ids)
    return number(len(made), 12) + "".join(
        "0" + number(first, 16) if first == last else "1" + number(first, 16) + number(last, 16) for first, last in made
    )


def vendor_section(ids: Collection[int], *, ranges: bool = False) -> str:
    highest = max(ids, default=0)
    return number(highest, 16) + ("1" + entries(ids) if ranges else "0" + flags(ids, highest))


@dataclass(frozen=True)
class Tc:
    """A TC string that grants. `disclosed`, `allowed`, `publisher`: None leaves the segment out; `publisher` is the
    number of custom purposes. `restrictions`: purpose, type, vendors. `order`: of the segments, by type.
    """

    version: int = 2
    cmp: int = 31
    created: date = NEW
    updated: date | None = None
    policy: int = 5
    service_specific: bool = True
    purposes: Collection[int] = PURPOSES
    purposes_li: Collection[int] = ()
    purpose_one_treatment: bool = False
    language: str = "EN"
    country: str = "DE"
    vendors: Collection[int] = (VENDOR,)
    vendors_li: Collection[int] = ()
    restrictions: Sequence[tuple[int, int, Collection[int]]] = ()
    disclosed: Collection[int] | None = (VENDOR,)
    allowed: Collection[int] | None = None
    publisher: int | None = None
    order: tuple[int, ...] = (1, 2, 3)
    ranges: bool = False
    unit: Unit = 24

    def core_bits(self) -> str:
        return "".join(
            [
                number(self.version, 6),
                deciseconds(self.created),
                deciseconds(self.updated or self.created),
                number(self.cmp, 12) + number(7, 12) + number(1, 6),
                letters(self.language),
                number(120, 12),
                number(self.policy, 6),
                "1" if self.service_specific else "0",
                "0" + flags((1,), 12),
                flags(self.purposes, 24),
                flags(self.purposes_li, 24),
                "1" if self.purpose_one_treatment else "0",
                letters(self.country),
                vendor_section(self.vendors, ranges=self.ranges),
                vendor_section(self.vendors_li, ranges=self.ranges),
                number(len(self.restrictions), 12),
                *(number(purpose, 6) + number(kind, 2) + entries(ids) for purpose, kind, ids in self.restrictions),
            ]
        )

    def segment_bits(self) -> list[str]:
        made: dict[int, str] = {}
        if self.disclosed is not None:
            made[1] = number(1, 3) + vendor_section(self.disclosed, ranges=self.ranges)
        if self.allowed is not None:
            made[2] = number(2, 3) + vendor_section(self.allowed, ranges=self.ranges)
        if self.publisher is not None:
            custom = flags((1,), self.publisher)
            made[3] = number(3, 3) + flags((1, 2), 24) + flags((), 24) + number(self.publisher, 6) + custom + custom
        return [made[kind] for kind in self.order if kind in made]

    def text(self) -> str:
        return ".".join(text_of(bits, self.unit) for bits in [self.core_bits(), *self.segment_bits()])


def deciseconds(day: date) -> str:
    return number(int(datetime.combine(day, time(), UTC).timestamp()) * 10, 36)


# --- GPP -------------------------------------------------------------------------------------------------------------

_STATE = "ProcessingNotice SaleOptOutNotice TargetedAdvertisingOptOutNotice SaleOptOut TargetedAdvertisingOptOut"
_MSPA = "MspaCoveredTransaction MspaOptOutOptionMode MspaServiceProviderMode"
_ADDED = "AdditionalDataProcessingConsent"


def _state(sensitive: int, children: int, *added: str, first: str = _STATE) -> str:
    return " ".join(
        [first, f"SensitiveDataProcessing*{sensitive}", f"KnownChildSensitiveDataConsents*{children}", *added, _MSPA]
    )


_NATIONAL = (
    "SharingNotice SaleOptOutNotice SharingOptOutNotice TargetedAdvertisingOptOutNotice"
    " SensitiveDataProcessingOptOutNotice SensitiveDataLimitUseNotice"
    " SaleOptOut SharingOptOut TargetedAdvertisingOptOut"
)
_NOTICE_OF_SENSITIVE = _STATE.replace(" SaleOptOut ", " SensitiveDataOptOutNotice SaleOptOut ")
_LATER = f"MspaCoveredTransaction MspaMode {_STATE}"
# By section and version: fields of two bits, in the order of the specification; "*" is how many of one name.
US_FIELDS: dict[tuple[int, int], str] = {
    (7, 1): _state(12, 2, "PersonalDataConsents", first=_NATIONAL),
    (7, 2): _state(16, 3, "PersonalDataConsents", first=_NATIONAL),
    (8, 1): _state(
        *(9, 2, "PersonalDataConsents"),
        first="SaleOptOutNotice SharingOptOutNotice SensitiveDataLimitUseNotice SaleOptOut SharingOptOut",
    ),
    (9, 1): _state(8, 1),
    (10, 1): _state(7, 1),
    (11, 1): _state(8, 1, first=_NOTICE_OF_SENSITIVE),
    (12, 1): _state(8, 3),
    (13, 1): _state(8, 3, _ADDED),
    (14, 1): _state(8, 3, _ADDED),
    (15, 1): _state(11, 3, _ADDED),
    (16, 1): _state(8, 1, _ADDED),
    (17, 1): _state(9, 5, _ADDED),
    (18, 1): _state(8, 1, first=_NOTICE_OF_SENSITIVE),
    (19, 1): _state(8, 1, _ADDED),
    (20, 1): _state(8, 3, _ADDED),
    (21, 1): _state(10, 5, _ADDED),
    (22, 1): _state(8, 1, _ADDED),
    (23, 1): _state(8, 1, _ADDED),
    (24, 1): f"{_LATER} {_ADDED}",
    (25, 1): f"{_LATER} KnownChildSensitiveDataConsents {_ADDED}",
    (26, 1): f"{_LATER} KnownChildSensitiveDataConsents {_ADDED}",
    (27, 1): f"{_LATER} KnownChildSensitiveDataConsents {_ADDED}",
}
WITHOUT_SUBSECTION = frozenset({9, 11, 13})
WITH_SENSITIVE_SUBSECTION = frozenset({25, 26, 27})
WITHOUT_GPC = WITHOUT_SUBSECTION | WITH_SENSITIVE_SUBSECTION


def us_names(section: int, version: int = 1) -> list[str]:
    """The names of the fields, one for each of two bits."""
    names = []
    for field in US_FIELDS[section, version].split():
        name, _, times = field.partition("*")
        names += [name] * int(times or 1)
    return names


def us_values(section: int, version: int = 1, **values: int) -> list[int]:
    """What grants, with `values` in place of it, by name: notices were given, nobody opted out, no child is known."""
    granting = {"MspaCoveredTransaction": 2}
    for name in us_names(section, version):
        if name.endswith("Notice"):
            granting[name] = 1
        elif name.endswith("OptOut"):
            granting[name] = 2
    granting |= values
    return [granting.get(name, 0) for name in us_names(section, version)]


def us_subsection(section: int) -> str:
    """The bits of the one that its layout has, which says nothing: no Global Privacy Control, no sensitive data."""
    if section in WITHOUT_SUBSECTION:
        return ""
    return number(0, 16) if section in WITH_SENSITIVE_SUBSECTION else GPC_OFF


def us(section: int, values: Sequence[int], *, version: int = 1, after: str | None = None, unit: Unit = 8) -> str:
    """`after`: the bits of a subsection; None for what `us_subsection` makes, "" to leave it out."""
    core = number(version, 6) + "".join(number(value, 2) for value in values)
    after = us_subsection(section) if after is None else after
    return text_of(core, unit) + ("." + text_of(after, unit) if after else "")


def header(ids: Sequence[int], unit: Unit = 8) -> str:
    """Ascending IDs; neighbours become one range, as the IAB's encoder has it."""
    bits, last = number(3, 6) + number(1, 6) + number(len(spans(ids)), 12), 0
    for first, final in spans(ids):
        bits += ("0" if first == final else "1") + fibonacci(first - last)
        bits += "" if first == final else fibonacci(final - first)
        last = final
    return text_of(bits, unit)


def gpp(sections: Mapping[int, str], unit: Unit = 8) -> str:
    """Of sections by their IDs."""
    ids = sorted(sections)
    return "~".join([header(ids, unit), *(sections[each] for each in ids)])


# --- corpora ---------------------------------------------------------------------------------------------------------


def random_tc(chance: random.Random) -> Tc:
    """Grants about as often as not."""

    def some(highest: int, wanted: Iterable[int]) -> frozenset[int]:
        within = {each for each in wanted if chance.random() < 0.9}
        return frozenset(within | {chance.randint(1, highest) for _ in range(chance.choice((0, 2, 20)))})

    new = chance.random() < 0.6
    return Tc(
        created=NEW if new else OLD,
        policy=chance.choice((4, 5, 5, 5, 5, 3)),
        service_specific=chance.random() < 0.97,
        purposes=some(24, PURPOSES) | (frozenset() if chance.random() < 0.2 else frozenset(PURPOSES)),
        purposes_li=some(24, ()),
        purpose_one_treatment=chance.random() < 0.1,
        language=chance.choice(("EN", "DE", "FR")),
        country=chance.choice(("DE", "AA", "ZZ")),
        vendors=some(1200, (VENDOR,)),
        vendors_li=some(1200, ()),
        restrictions=tuple(
            (chance.choice((1, 2, 7, 10)), chance.choice((0, 1, 1, 2)), some(1200, ()) | {chance.choice((VENDOR, 3))})
            for _ in range(chance.choice((0, 0, 0, 1, 2)))
        ),
        disclosed=some(1200, (VENDOR,)) if new or chance.random() < 0.3 else None,
        allowed=some(1200, ()) if chance.random() < 0.1 else None,
        publisher=chance.choice((None, None, 0, 3)),
        order=chance.choice(((1, 2, 3), (3, 1, 2), (1, 3, 2))),
        ranges=chance.random() < 0.5,
        unit=chance.choice((6, 8, 24)),
    )


def random_us(chance: random.Random, section: int) -> str:
    version = chance.choice((1, 2)) if section == 7 else 1
    values = us_values(section, version)
    for at, name in enumerate(us_names(section, version)):
        if chance.random() < (0.3 if name.startswith("Sensitive") else 0.04):
            values[at] = chance.choice((1, 2) if name == "MspaCoveredTransaction" else (0, 1, 2))
    after = None
    if section in WITH_SENSITIVE_SUBSECTION:
        after = "".join(number(chance.randrange(3), 2) for _ in range(8))
    elif section not in WITHOUT_GPC:
        after = chance.choice((GPC_OFF, GPC_OFF, GPC_OFF, GPC_ON))
    return us(section, values, version=version, after=after, unit=chance.choice((6, 8)))


def random_gpp(chance: random.Random) -> tuple[str, str]:
    """`gpp` and `gpp_sid`."""
    ids = sorted(chance.sample([2, *range(6, 28)], chance.choice((1, 1, 2, 3))))
    sections = {}
    for each in ids:
        if each == 2:
            sections[each] = random_tc(chance).text()
        elif each == 6:
            sections[each] = chance.choice(("1YNN", "1---", "1YYN"))
        else:
            sections[each] = random_us(chance, each)
    in_force = chance.sample(ids, chance.choice((1, 1, len(ids))))
    return gpp(sections, chance.choice((6, 8))), ",".join(map(str, in_force))


def mutated(chance: random.Random, text: str) -> str:
    """Cut, lengthened, misspelled, rearranged: what a string suffers on its way, and what an attacker tries."""
    at = chance.randrange(len(text))
    before, there, behind = text[:at], text[at], text[at + 1 :]
    parts = re.split(r"([.~])", text)
    parts[chance.randrange(0, len(parts), 2)] = parts[chance.randrange(0, len(parts), 2)]
    flipped = ALPHABET.find(there) ^ (1 << chance.randrange(6))
    return chance.choice(
        [
            before,
            text + "".join(chance.choices(ALPHABET + ".~", k=chance.choice((1, 1, 2, 8)))),
            before + chance.choice(ALPHABET + ".~=%+ ") + behind,
            before + behind,
            before + chance.choice(ALPHABET) + there + behind,
            "".join(parts),
            before + ALPHABET[flipped % len(ALPHABET)] + behind,
            before + ALPHABET[flipped % len(ALPHABET)] + behind,
        ]
    )
