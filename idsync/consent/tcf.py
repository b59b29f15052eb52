"""IAB Europe's TC strings, version 2: TCF 2.0, 2.2 and 2.3.

https://github.com/InteractiveAdvertisingBureau/GDPR-Transparency-and-Consent-Framework/tree/master/TCFv2
("Consent string and vendor list formats v2"); names of fields are in its order. A string is a core, and after each dot
a segment, of which every type may stand there once.
"""

from typing import NamedTuple

from idsync.consent.bits import Bits, Unreadable

# Longer than any that consent tools make; what a call may have in all is 8,190 bytes.
MAX_LENGTH = 4096

_VERSION = 2
_DISCLOSED_VENDORS, _ALLOWED_VENDORS, _PUBLISHER_TC = 1, 2, 3
_PURPOSES = 24
_LETTERS = 26
_FIRST_CMP = 2  # 0 and 1 are what tests and unconfigured tools have
_REQUIRE_CONSENT = 1

# Tenths of a second since the epoch.
_DAY = 864_000
# TCF 2.2: a string made after 30 September 2023 under an older policy is invalid.
_POLICY_4_FROM = 19_631 * _DAY  # 2023-10-01T00:00Z
_POLICY_4 = 4
# TCF 2.3: a string made from 28 February 2026 on is invalid without its disclosed vendors.
_DISCLOSED_FROM = 20_512 * _DAY  # 2026-02-28T00:00Z


class Vendors(NamedTuple):
    """A set of vendor IDs: bit `ID - 1` of `field`, counted from its left end, or within one of `ranges`."""

    size: int
    field: int
    ranges: tuple[tuple[int, int], ...]

    def has(self, vendor: int) -> bool:
        if 1 <= vendor <= self.size and self.field >> (self.size - vendor) & 1:
            return True
        return any(first <= vendor <= last for first, last in self.ranges)


class Restriction(NamedTuple):
    purpose: int
    kind: int
    vendors: Vendors


class TcString(NamedTuple):
    """What of a string bears on consent.

    `cmp`: the ID of the consent tool. `updated`: tenths of a second since the epoch, the later of its two dates.
    `purposes`: those with consent. `disclosed`: None without that segment.
    """

    cmp: int
    updated: int
    policy: int
    service_specific: bool
    purposes: frozenset[int]
    vendors: Vendors
    restrictions: tuple[Restriction, ...]
    disclosed: Vendors | None


def refusal(text: str, vendor: int, purposes: tuple[int, ...]) -> str | None:
    """Why `text` grants `vendor` no consent for all of `purposes`, or None. Raises Unreadable.

    The dates are held against fixed days, not against a clock: one of the future only makes more rules apply.
    """
    tc = read(text)
    if reason := _invalid(tc):
        return reason
    if tc.disclosed is not None and not tc.disclosed.has(vendor):
        return "says that the vendor was not disclosed"
    # Where purpose 1 was not disclosed (PurposeOneTreatment), its bit is 0 and this is a no.
    if not tc.purposes.issuperset(purposes):
        return "has no consent for a purpose"
    if not tc.vendors.has(vendor):
        return "has no consent for the vendor"
    # "Require legitimate interest" takes away the legal basis that we have; type 3 is not defined.
    restricted = (each for each in tc.restrictions if each.kind != _REQUIRE_CONSENT and each.purpose in purposes)
    return "restricts the vendor in a purpose" if any(each.vendors.has(vendor) for each in restricted) else None


def _invalid(tc: TcString) -> str | None:
    """Why no vendor may rely on it, whatever it grants."""
    if tc.cmp < _FIRST_CMP:
        return "is made by no registered consent tool"
    if not tc.service_specific:
        return "holds for all sites, which no string may since 2021"
    if tc.updated >= _POLICY_4_FROM and tc.policy < _POLICY_4:
        return "is made under a policy that had ended"
    if tc.updated >= _DISCLOSED_FROM and tc.disclosed is None:
        return "lacks the disclosed vendors"
    return None


def read(text: str) -> TcString:
    """Every bit of a string. Raises Unreadable."""
    if len(text) > MAX_LENGTH:
        raise Unreadable("is too long")
    core, *segments = text.split(".")
    read_core = _core(Bits(core))
    seen: set[int] = set()
    disclosed = None
    for segment in segments:
        bits = Bits(segment)
        kind = bits.integer(3)
        if kind in seen:
            raise Unreadable("has a segment twice")
        seen.add(kind)
        if kind == _DISCLOSED_VENDORS:
            disclosed = _vendors(bits)
        elif kind == _ALLOWED_VENDORS:
            _vendors(bits)  # of TCF 2.0: who may work outside the TCF, which is not asked here
        elif kind == _PUBLISHER_TC:
            _publisher_tc(bits)
        else:
            raise Unreadable("has a segment of an unknown type")
        bits.end(groups=True)
    return read_core._replace(disclosed=disclosed)


def _core(bits: Bits) -> TcString:
    if bits.integer(6) != _VERSION:
        raise Unreadable("is not of version 2")
    created, updated = bits.integer(36), bits.integer(36)
    if created > updated:
        raise Unreadable("was updated before it was made")
    cmp = bits.integer(12)
    bits.integer(12 + 6)  # CmpVersion, ConsentScreen
    _two_letters(bits)  # ConsentLanguage
    bits.integer(12)  # VendorListVersion
    policy = bits.integer(6)
    service_specific = bits.flag()
    bits.integer(1 + 12)  # UseNonStandardTexts, SpecialFeatureOptIns
    consents = bits.integer(_PURPOSES)
    bits.integer(_PURPOSES + 1)  # PurposesLITransparency, PurposeOneTreatment
    _two_letters(bits)  # PublisherCC
    vendors = _vendors(bits)
    _vendors(bits)  # by legitimate interest, which nothing here rests on
    restrictions = tuple(_restriction(bits) for _ in range(bits.integer(12)))
    bits.end(groups=True)
    purposes = frozenset(n for n in range(1, _PURPOSES + 1) if consents >> (_PURPOSES - n) & 1)
    return TcString(cmp, updated, policy, service_specific, purposes, vendors, restrictions, None)


def _two_letters(bits: Bits) -> None:
    if bits.integer(6) >= _LETTERS or bits.integer(6) >= _LETTERS:
        raise Unreadable("has a code that is not two letters")


def _vendors(bits: Bits) -> Vendors:
    highest = bits.integer(16)
    if bits.flag():
        return Vendors(0, 0, _ranges(bits, highest))
    return Vendors(highest, bits.integer(highest), ())


def _ranges(bits: Bits, highest: int) -> tuple[tuple[int, int], ...]:
    ranges = []
    for _ in range(bits.integer(12)):
        is_range = bits.flag()
        first = bits.integer(16)
        last = bits.integer(16) if is_range else first
        if not 1 <= first <= last <= highest:
            raise Unreadable("has a range that is none")
        ranges.append((first, last))
    return tuple(ranges)


def _restriction(bits: Bits) -> Restriction:
    purpose, kind = bits.integer(6), bits.integer(2)
    return Restriction(purpose, kind, Vendors(0, 0, _ranges(bits, (1 << 16) - 1)))


def _publisher_tc(bits: Bits) -> None:
    """The publisher's own consents, which are nobody else's."""
    bits.integer(2 * _PURPOSES)
    bits.integer(2 * bits.integer(6))  # NumCustomPurposes, with consent and by legitimate interest
