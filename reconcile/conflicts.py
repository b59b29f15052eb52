"""What is sent for a user of whom several items can't all be true. Pure.

Two items contradict each other where they give one signal two values, or where one adds a trait that the other removes.
Keys and values of signals are not case-sensitive for Audience Manager. Items are texts, as `lines.render_item` makes
them.
"""

from collections.abc import Iterable
from typing import Literal, NamedTuple

Policy = Literal["all", "last", "first"]
"""`all`: all values of a signal are sent, and no trait that is added is removed. Else: what was said last, or first."""

ADD, REMOVE = "d_sid=", "d_unsid="
SEPARATOR = "\x1f"
"""Goes before each item where several are one text: no item can hold a control character."""


class Resolved(NamedTuple):
    """`dropped`: how many items are not sent, and none of the same meaning in their place."""

    items: list[str]
    dropped: int


def resolve(items: Iterable[str], policy: Policy) -> Resolved:
    """The items to send, each once, in the order in which they were first said, or, of one subject, spoken of."""
    said = list(dict.fromkeys(items)) if policy == "all" else list(items)
    if policy == "all":
        added = {subject(item) for item in said if item.startswith(ADD)}
        kept = [item for item in said if not item.startswith(REMOVE) or subject(item) not in added]
        if len(kept) == len(said):
            return Resolved(kept, 0)
    else:
        final: dict[str, str] = {}  # a key that is set again keeps its place
        for item in said:
            if policy == "last":
                final[subject(item)] = item
            else:
                final.setdefault(subject(item), item)
        kept = list(final.values())
    return Resolved(kept, len(set(map(_meaning, said))) - len(set(map(_meaning, kept))))


def without_removals(items: Iterable[str]) -> list[str]:
    return [item for item in items if not item.startswith(REMOVE)]


def split(text: str) -> list[str]:
    """The items of a text of several."""
    return text[1:].split(SEPARATOR) if text else []


def subject(item: str) -> str:
    """What an item speaks of: a signal by its key, a trait by its number, or by its integration code."""
    if item.startswith('"'):
        return item[: item.index('"', 1)].lower()
    if item.startswith(ADD):
        return item[len(ADD) :].lstrip("0")
    return item[len(REMOVE) :].lstrip("0") if item.startswith(REMOVE) else item


def _meaning(item: str) -> tuple[str, str]:
    """Alike for items that Audience Manager takes for one."""
    about = subject(item)
    return about, item[len(about) :].lower() if item.startswith('"') else item[:3]
