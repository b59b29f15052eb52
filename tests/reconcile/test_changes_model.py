"""Whatever happens to exports and runs, in the end Audience Manager's profiles are what the CRM says.

Audience Manager is played by its rules for .sync files: items of a line are added to the user's or removed, files in
the order of their names, each name once.
"""

import random
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from idsync.errors import IdsyncError
from reconcile import lines, names
from tests.reconcile.samples import NOW, World, content, uuid
from tests.reconcile.test_optouts import Killed

# c3 and c4 share a device; c5 has two; c6 is synced late
DEVICES = {"c1": [1], "c2": [2], "c3": [3], "c4": [3], "c5": [5, 6], "c6": [7], "c7": [7]}
LATE = "c6"
FEED = 'signals = ["gender"]\ntrait_columns = ["traits"]\ndevices = "{devices}"\n'
HEADER = ("id", "gender", "traits")
TRAITS = (24, 25, 26)


def killed(*_: Any, **__: Any) -> Any:
    raise Killed


def killed_after(function: Callable[..., Any]) -> Callable[..., Any]:
    def call(*arguments: Any, **named: Any) -> Any:
        function(*arguments, **named)
        raise Killed

    return call


# where a process may die, in the order in which a run comes by
DEATHS = {
    "reconcile.files.FileWriter.finish": False,
    "reconcile.state.RunFolder.mark_offered": False,
    "reconcile.state.RunFolder.mark_offered ": True,
    "reconcile.delivery.directory.DirectoryDelivery.deliver": True,
    "reconcile.ledger.Ledger.close": False,
    "reconcile.ledger.Ledger.close ": True,
    "reconcile.state.RunFolder.mark_ended": False,
    "reconcile.state.RunFolder.mark_ended ": True,
}


@dataclass
class Play:
    """A CRM, its exports, and runs that may die."""

    world: World
    full: bool
    crm: dict[str, tuple[str, frozenset[int]]] = field(default_factory=dict)
    changed: set[str] = field(default_factory=set)
    opted_out: set[str] = field(default_factory=set)
    exports: int = 0
    states: list[dict[str, tuple[str, frozenset[int]]]] = field(default_factory=list)

    def change(self, chance: random.Random) -> None:
        name = chance.choice(sorted(DEVICES))
        if self.full and name in self.crm and chance.random() < 0.3:
            del self.crm[name]
            return
        traits = frozenset(trait for trait in TRAITS if chance.random() < 0.5)
        self.crm[name] = (chance.choice(["", "f", "m"]), traits)
        self.changed.add(name)

    def go_back(self) -> None:
        """All is again as it was in the export before the last, to the byte where that was a full one."""
        for state in self.states[-2:-1]:
            self.changed |= {name for name in state if self.crm.get(name) != state[name]}
            self.crm = dict(state) if self.full else self.crm | state

    def export(self) -> None:
        self.exports += 1
        self.states.append(dict(self.crm))
        rows = [
            (name, f"{name} {gender}" if gender else "", "|".join(map(str, sorted(traits))))
            for name, (gender, traits) in self.crm.items()
            if self.full or name in self.changed
        ]
        self.world.put(f"{self.exports:03}.csv", rows, HEADER)
        self.changed = set()

    def send_again(self) -> None:
        """The last export once more, under another name."""
        if self.exports:
            self.exports += 1
            last, again = (self.world.inbox / f"{number:03}.csv" for number in (self.exports - 1, self.exports))
            again.write_bytes(last.read_bytes())

    def run(self) -> None:
        self.world.now += 60_000
        summary = self.world.run()
        assert summary.read == summary.matched + summary.unmatched + summary.rejected
        assert summary.silent + summary.unchanged <= summary.matched

    def die(self, where: str) -> None:
        target = where.strip()
        with pytest.MonkeyPatch.context() as patch:
            module, _, function = target.rpartition(".")
            owner = __import__(module.rpartition(".")[0], fromlist=["x"])
            original = getattr(getattr(owner, module.rpartition(".")[2]), function)
            patch.setattr(target, killed_after(original) if DEATHS[where] else killed)
            with suppress(Killed):
                self.run()

    def lose_destination(self) -> None:
        away = self.world.folder / "away"
        if self.world.delivered.exists():
            self.world.delivered.rename(away)
        self.world.delivered.write_text("a file where the folder should be")
        with suppress(IdsyncError):
            self.run()
        self.world.delivered.unlink()
        if away.exists():
            away.rename(self.world.delivered)

    def sync(self) -> None:
        self.world.sync((LATE, uuid(DEVICES[LATE][0])))

    def opt_out(self, name: str) -> None:
        self.world.opt_out(name)
        self.opted_out.add(name)

    def expected(self, every_device: bool) -> dict[str, set[int]]:
        """The traits of each device."""
        found: dict[str, set[int]] = {uuid(number): set() for numbers in DEVICES.values() for number in numbers}
        for name, (_, traits) in self.crm.items():
            if name not in self.opted_out:
                for number in DEVICES[name] if every_device else DEVICES[name][-1:]:
                    found[uuid(number)] |= traits
        return found


def profiles(delivered: Path) -> tuple[dict[str, set[int]], dict[tuple[str, str], str]]:
    """The traits of each user, and the last signal of each user and customer."""
    traits: dict[str, set[int]] = {uuid(number): set() for numbers in DEVICES.values() for number in numbers}
    signals: dict[tuple[str, str], str] = {}
    for path in sorted(delivered.glob("*"), key=lambda path: names.parse(path.name).timestamp):
        users = set()
        for line in map(lines.parse, content(path).splitlines()):
            assert line.user not in users
            users.add(line.user)
            for item in line.items:
                if isinstance(item, lines.Signal):
                    name, _, value = item.value.partition(" ")
                    signals[line.user, name] = value
                elif isinstance(item, lines.Trait):
                    (traits[line.user].discard if item.remove else traits[line.user].add)(item.trait)
    return traits, signals


steps = st.lists(
    st.one_of(
        st.just("change"),
        st.just("change"),
        st.just("export"),
        st.just("export"),
        st.just("run"),
        st.just("run"),
        st.just("lose_destination"),
        st.just("send_again"),
        st.just("go_back"),
        st.just("sync"),
        st.sampled_from([f"die {where}" for where in DEATHS]),
        st.sampled_from([f"opt_out {name}" for name in ("c1", "c3", "c6")]),
    ),
    min_size=8,
    max_size=24,
)


@settings(max_examples=30, deadline=None)
@example(steps=["export", "run", "change", "export", "run", "go_back"], seed=0, full=True, every_device=False)
@given(steps=steps, seed=st.integers(0, 1000), full=st.booleans(), every_device=st.booleans())
def test_profiles_end_as_the_crm_says(steps: list[str], seed: int, full: bool, every_device: bool) -> None:
    chance = random.Random(seed)
    with TemporaryDirectory() as folder:
        changes = {"vanished": "remove" if full else "keep", "optout_removals": True}
        feed = FEED.format(devices="all" if every_device else "latest")
        play = Play(World(Path(folder), feed, changes=changes), full)
        pairs = [(name, uuid(number)) for name, numbers in DEVICES.items() if name != LATE for number in numbers]
        play.world.sync(*pairs, seen=NOW)
        for _ in range(20):
            play.change(chance)
        for step in steps:
            act, _, argument = step.partition(" ")
            if act == "change":
                for _ in range(3):
                    play.change(chance)
            else:
                getattr(play, act)(*[argument] * bool(argument))
        play.sync()
        play.export()
        play.run()
        play.run()
        traits, signals = profiles(play.world.delivered)
        assert traits == play.expected(every_device)
        for name, (gender, _) in play.crm.items():
            if gender and name not in play.opted_out:
                assert signals[uuid(DEVICES[name][-1]), name] == gender
        before = sorted(play.world.delivered.glob("*"))
        play.changed = set(play.crm)
        play.export()
        play.run()
        assert sorted(play.world.delivered.glob("*")) == before  # nothing changed, nothing is sent
