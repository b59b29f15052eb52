"""Members of a sorted set from all over it, found with few looks, however large it is. Pure but for the looks."""

from collections import deque
from collections.abc import Callable

_LOOKS = 8  # for each member that is wanted, at most
_HALVED = 2  # characters that are less apart have none between them


def spread(first: str, last: str, after: Callable[[str], str], most: int) -> list[str]:
    """Up to `most` members, in order: ranges of texts are halved, those without a member given up.

    `first` and `last` are the ends of the set; `after` looks for the first member that is not below a text, and is
    asked for no text above `last`.
    """
    found = list(dict.fromkeys((first, last)))[:most]
    ranges = deque([(first, last)] if first < last else [])
    for _ in range(_LOOKS * most):
        if len(found) >= most or not ranges:
            break
        low, high = ranges.popleft()
        if middle := between(low, high):
            ranges.append((low, middle))
            if (member := after(middle)) < high:
                found.append(member)
                ranges.append((member, high))
    return sorted(found)


def between(low: str, high: str) -> str:
    """A text about half way from `low` to `high`, which is above it; empty where none is known."""
    at = next((place for place, (one, other) in enumerate(zip(low, high, strict=False)) if one != other), len(low))
    start, least, beyond = low[:at], ord(low[at]) if at < len(low) else 0, ord(high[at])
    if beyond - least < _HALVED and at < len(low):  # neighbours: among the texts that begin as the lower one does
        start, least, beyond = low[: at + 1], ord(low[at + 1]) if at + 1 < len(low) else 0, 0x80
    middle = (least + beyond) // 2
    return start + chr(middle) if middle > least and not 0xD800 <= middle <= 0xDFFF else ""  # noqa: PLR2004  surrogates
