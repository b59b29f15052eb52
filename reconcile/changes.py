"""What is sent for a user of whom something was sent before. Pure.

What was sent is kept for each pair of user and customer: a device may be shared, and then each of its customers has a
say. A record says all that is known of its customer: traits that it no longer has are taken away, unless another
customer of the device has them. Signals can't be taken away.
"""

from dataclasses import dataclass, field
from itertools import chain

_ADD, _REMOVE = "d_sid=", "d_unsid="


@dataclass(slots=True)
class User:
    """What is known of one user. Traits are numbers.

    `said`: the items of customers whose records say something new, by customer; empty where nothing is left to say.
    `before`: the traits that were sent for them. `kept`: those of customers of whom there is no news. `taken`: those of
    customers who vanished, or opted out, to be taken away.
    """

    said: dict[str, list[str]] = field(default_factory=dict)
    before: set[int] = field(default_factory=set)
    kept: set[int] = field(default_factory=set)
    taken: set[int] = field(default_factory=set)


def parse_traits(text: str) -> set[int]:
    """`24,26`, as kept with what was sent; empty text for none."""
    return {int(trait) for trait in text.split(",")} if text else set()


def news(user: User) -> tuple[list[str], dict[str, str]]:
    """The items to send, in order, each once; and the traits of each customer in `said`, as they are kept.

    Where one customer has a trait that another is said not to have, the device has it.
    """
    items = list(dict.fromkeys(chain.from_iterable(user.said.values())))
    added = {item: int(item[len(_ADD) :]) for item in items if item.startswith(_ADD)}
    removed = {item: int(item[len(_REMOVE) :]) for item in items if item.startswith(_REMOVE)}
    in_force = {*added.values(), *user.kept}
    sent = [item for item in items if removed.get(item) not in in_force]
    lost = (user.before | user.taken).difference(in_force, removed.values())
    traits = {
        customer: ",".join(dict.fromkeys(str(added[item]) for item in said if item in added))
        for customer, said in user.said.items()
    }
    return sent + [f"{_REMOVE}{trait}" for trait in sorted(lost)], traits
