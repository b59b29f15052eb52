"""Prefixes and suffixes that the IDs of one side share and those of the other lack. Pure.

None is configured: what many IDs begin or end with is counted, tried, and kept where it makes enough of them match.
"""

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from itertools import groupby
from typing import NamedTuple

MAX_CANDIDATES = 8  # of each kind
_MAX_COMMON = 8
_MAX_OF_BOTH_ENDS = 4
MAX_FOUND = 5
MIN_IDS = 2  # one ID is no pattern; but of FEW it counts where all else is the same
FEW = 100
_MIN_CORE = 3
MIN_SHARE = 0.01
_MIN_SHARE_WITHIN = 0.5  # see `Affix.is_natural`
_MAX_LENGTH = 32
_PARTS = 3


class Affix(NamedTuple):
    """What to take from both ends of a record's ID, and what to put there, to have the ID of a mapping."""

    record_prefix: str = ""
    record_suffix: str = ""
    mapping_prefix: str = ""
    mapping_suffix: str = ""

    def fits(self, text: str) -> bool:
        """Whether the ID has these ends, and something between them."""
        room = len(text) > len(self.record_prefix) + len(self.record_suffix)
        return room and text.startswith(self.record_prefix) and text.endswith(self.record_suffix)

    def applied(self, text: str) -> str:
        """The ID with the ends of the other side; `fits` comes before."""
        return f"{self.mapping_prefix}{self.core(text)}{self.mapping_suffix}"

    def core(self, text: str) -> str:
        """What is between the ends; likewise."""
        return text[len(self.record_prefix) : len(text) - len(self.record_suffix)]

    def is_natural(self, text: str) -> bool:
        """Whether the ends stand off from the rest by their kind, as `CRM-` or `u` stand off from digits.

        Where they don't, as a `1` before digits, a match may well be chance: numbers lie close together.
        """
        core = self.core(text)
        prefixes, suffixes = (self.record_prefix, self.mapping_prefix), (self.record_suffix, self.mapping_suffix)
        return all(not end or _kind(end[-1]) != _kind(core[0]) or not end[-1].isalnum() for end in prefixes) and all(
            not end or _kind(end[0]) != _kind(core[-1]) or not end[0].isalnum() for end in suffixes
        )


def prefixes(texts: Sequence[str]) -> list[str]:
    """What many of the texts begin with, the most frequent first; it ends where the kind of character changes, or is
    common to half of all texts.
    """
    counts: Counter[str] = Counter()
    for text in texts:
        counts.update(set(_natural_prefixes(text)))
    common = _common(texts)
    least = max(MIN_IDS, MIN_SHARE * len(texts))
    frequent = sorted((-count, prefix) for prefix, count in counts.items() if count >= least)
    return list(dict.fromkeys([*(prefix for _, prefix in frequent[:MAX_CANDIDATES]), *common]))


def suffixes(texts: Sequence[str]) -> list[str]:
    """What many of the texts end with; see `prefixes`."""
    return [prefix[::-1] for prefix in prefixes([text[::-1] for text in texts])]


def candidates(records: Sequence[str], mappings: Sequence[str]) -> list[Affix]:
    """What may turn IDs of records into IDs of mappings: another prefix or suffix, or both at once gone or added."""
    starts, ends = prefixes(records), suffixes(records)
    known_starts, known_ends = prefixes(mappings), suffixes(mappings)
    few = _MAX_OF_BOTH_ENDS
    found = [
        *(Affix(record_prefix=ours, mapping_prefix=theirs) for ours, theirs in _pairs(starts, known_starts)),
        *(Affix(record_suffix=ours, mapping_suffix=theirs) for ours, theirs in _pairs(ends, known_ends)),
        *(Affix(record_prefix=start, record_suffix=end) for start in starts[:few] for end in ends[:few]),
        *(Affix(mapping_prefix=start, mapping_suffix=end) for start in known_starts[:few] for end in known_ends[:few]),
    ]
    return list(dict.fromkeys(found))


def telling(records: Sequence[str], mappings: Sequence[str]) -> list[Affix]:
    """Natural prefixes and suffixes by which an ID of a record differs from that of a mapping, even if it is the only
    one; nothing where there are more records than FEW.
    """
    if len(records) > FEW:
        return []
    ends = [
        *(Affix(record_prefix=end) for end in _parting(records, mappings)),
        *(Affix(mapping_prefix=end) for end in _parting(mappings, records)),
    ]
    backwards = [[text[::-1] for text in texts] for texts in (records, mappings)]
    ends += [
        *(Affix(record_suffix=end[::-1]) for end in _parting(*backwards)),
        *(Affix(mapping_suffix=end[::-1]) for end in _parting(*reversed(backwards))),
    ]
    return list(dict.fromkeys(ends))


def choose(hits: Mapping[Affix, set[str]], tried: Iterable[str]) -> list[Affix]:
    """Those that explain most of the IDs tried, each by what those before it leave over; the shorter of equals."""
    texts = list(tried)
    left = {affix: set(ids) for affix, ids in hits.items() if len(ids) >= _least(affix, ids, texts)}
    chosen: list[Affix] = []
    while left and len(chosen) < MAX_FOUND:
        best = min(left, key=lambda affix: (-len(left[affix]), sum(map(len, affix)), affix))
        explained = left.pop(best)
        if len(explained) < _fewest(texts):
            break
        chosen.append(best)
        left = {affix: ids - explained for affix, ids in left.items()}
    return chosen


def _least(affix: Affix, ids: set[str], texts: Sequence[str]) -> float:
    fitting = sum(map(affix.fits, texts))
    if all(map(affix.is_natural, ids)):
        return max(_fewest(texts), MIN_SHARE * fitting)
    return max(MIN_IDS, _MIN_SHARE_WITHIN * fitting)


def _fewest(texts: Sequence[str]) -> int:
    return 1 if len(texts) <= FEW else MIN_IDS


def _parting(longer: Sequence[str], shorter: Sequence[str]) -> Iterator[str]:
    """Natural prefixes that a text of the one side has before one of the other."""
    known = {text for text in shorter if len(text) >= _MIN_CORE}
    for text in longer:
        for prefix in _natural_prefixes(text):
            if text[len(prefix) :] in known:
                yield prefix


def _pairs(ours: Sequence[str], theirs: Sequence[str]) -> Iterator[tuple[str, str]]:
    return ((one, other) for one in ("", *ours) for other in ("", *theirs) if one != other)


def _natural_prefixes(text: str) -> Iterator[str]:
    """Up to the end of the first few runs of letters, of digits, and of signs, which belong to what is before them."""
    end = 0
    runs = [(kind, len(list(run))) for kind, run in groupby(text[: _MAX_LENGTH + 1], _kind)]
    for place, (_, length) in enumerate(runs[: 2 * _PARTS]):
        end += length
        followed_by_sign = place + 1 < len(runs) and not runs[place + 1][0]
        if end <= _MAX_LENGTH and end < len(text) and not followed_by_sign:
            yield text[:end]


def _common(texts: Sequence[str]) -> list[str]:
    """What at least half of all texts begin with, each a character longer than the one before."""
    found: list[str] = []
    left = list(texts)
    while left and len(texts) >= MIN_IDS and len(found) < _MAX_COMMON:
        length = len(found) + 1
        counts = Counter(text[:length] for text in left if len(text) > length)
        if not counts:
            break
        ((prefix, count),) = counts.most_common(1)
        if count < max(MIN_IDS, _MIN_SHARE_WITHIN * len(texts)):
            break
        found.append(prefix)
        left = [text for text in left if text.startswith(prefix)]
    return found


def _kind(character: str) -> str:
    """Digit, letter, or "" for a sign."""
    return "9" if character.isdigit() else "a" if character.isalpha() else ""
