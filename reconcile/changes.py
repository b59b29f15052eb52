"""What is sent for a user of whom something was sent before. Pure.

What was sent is kept for each pair of user and customer: a device may be shared, and then each of its customers has a
say. A record says all that is known of its customer: traits that it no longer has are taken away, unless another
customer of the device has them. Signals can't be taken away.
"""

from dataclasses import dataclass, field
from typing import NamedTuple

from reconcile import conflicts
from reconcile.conflicts import ADD, REMOVE, Policy


@dataclass(slots=True)
class User:
    """What is known of one user. Traits are numbers.

    `said`: customer and items of each record that says something new, in order; no items where nothing is left to say.
    `before`: the traits that were sent for them. `kept`: those of customers of whom there is no news. `taken`: those of
    customers who vanished, or opted out, to be taken away.
    """

    said: list[tuple[str, list[str]]] = field(default_factory=list)
    before: set[int] = field(default_factory=set)
    kept: set[int] = field(default_factory=set)
    taken: set[int] = field(default_factory=set)


class News(NamedTuple):
    """The items to send, in order, each once; the traits of each customer in `said`, as they are kept with what was
    sent; how many items were dropped for others that contradict them.
    """

    items: list[str]
    traits: dict[str, str]
    dropped: int


def parse_traits(text: str) -> set[int]:
    """`24,26`, as kept with what was sent; empty text for none."""
    return {int(trait) for trait in text.split(",")} if text else set()


def news(user: User, policy: Policy = "all") -> News:
    """What is sent for the user.

    Whatever the policy, a trait that another customer was said to have, of whom there is no news, is not removed.
    """
    said, dropped = conflicts.resolve([item for _, items in user.said for item in items], policy)
    removed = {item: int(item[len(REMOVE) :]) for item in said if item.startswith(REMOVE)}
    in_force = {*_added(said).values(), *user.kept}
    sent = [item for item in said if removed.get(item) not in in_force]
    lost = (user.before | user.taken).difference(in_force, removed.values())
    by_customer: dict[str, list[str]] = {}
    for customer, items in user.said:
        by_customer.setdefault(customer, []).extend(items)
    traits = {
        customer: ",".join(dict.fromkeys(map(str, _added(conflicts.resolve(items, policy).items).values())))
        for customer, items in by_customer.items()
    }
    items = sent + [f"{REMOVE}{trait}" for trait in sorted(lost)]
    return News(items, traits, dropped + len(said) - len(sent))


def _added(items: list[str]) -> dict[str, int]:
    """The items that add a trait, and which."""
    return {item: int(item[len(ADD) :]) for item in items if item.startswith(ADD)}
