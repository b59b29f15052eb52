"""What the code is held to, said as plainly as can be."""

from collections.abc import Sequence

from reconcile.conflicts import Policy
from reconcile.lines import Item, Signal, Trait


def settled(said: Sequence[Item], policy: Policy) -> list[Item]:
    """What is sent of the items of one user."""
    if policy == "all":
        kept = dict.fromkeys(said)
        return [item for item in kept if not (isinstance(item, Trait) and item.remove and Trait(item.trait) in kept)]
    chosen = -1 if policy == "last" else 0
    subjects = dict.fromkeys(map(_subject, said))
    return [[item for item in said if _subject(item) == subject][chosen] for subject in subjects]


def _subject(item: Item) -> object:
    if isinstance(item, Signal):
        return "signal", item.key.lower()
    return item.trait if isinstance(item, Trait) else item
