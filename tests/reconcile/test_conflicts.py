"""Items of one user that can't all be true: what is sent of them, and what is told of it."""

from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from idsync.errors import ConfigError
from reconcile import conflicts, lines
from reconcile.conflicts import Policy
from reconcile.lines import Item, Signal, Trait
from tests.reconcile.definitions import settled
from tests.reconcile.samples import World, figures, uuid

POLICIES: list[Policy] = ["all", "last", "first"]
TABLE: list[tuple[str, str, str, str, tuple[int, int, int]]] = [
    # said; sent under "all", "last", "first"; items dropped
    ('"a"="1"', '"a"="1"', '"a"="1"', '"a"="1"', (0, 0, 0)),
    ('"a"="1","b"="2","a"="1"', '"a"="1","b"="2"', '"a"="1","b"="2"', '"a"="1","b"="2"', (0, 0, 0)),
    ('"a"="1","b"="2","a"="3"', '"a"="1","b"="2","a"="3"', '"a"="3","b"="2"', '"a"="1","b"="2"', (0, 1, 1)),
    ('"a"="1","A"="2","a"="3"', '"a"="1","A"="2","a"="3"', '"a"="3"', '"a"="1"', (0, 2, 2)),
    ('"Köln"="x","KÖLN"="X"', '"Köln"="x","KÖLN"="X"', '"KÖLN"="X"', '"Köln"="x"', (0, 0, 0)),  # of one meaning
    ('"a"="x,y","a"="d_sid=1"', '"a"="x,y","a"="d_sid=1"', '"a"="d_sid=1"', '"a"="x,y"', (0, 1, 1)),
    ("d_sid=7,d_unsid=7", "d_sid=7", "d_unsid=7", "d_sid=7", (1, 1, 1)),
    ("d_unsid=7,d_sid=8,d_sid=7", "d_sid=8,d_sid=7", "d_sid=7,d_sid=8", "d_unsid=7,d_sid=8", (1, 1, 1)),
    ("d_sid=7,d_unsid=7,d_sid=7", "d_sid=7", "d_sid=7", "d_sid=7", (1, 1, 1)),
    ("d_sid=07,d_unsid=7", "d_sid=07", "d_unsid=7", "d_sid=07", (1, 1, 1)),
    ("d_unsid=7,d_unsid=7", "d_unsid=7", "d_unsid=7", "d_unsid=7", (0, 0, 0)),
    ("ic=7,d_unsid=7,ic=7", "ic=7,d_unsid=7", "ic=7,d_unsid=7", "ic=7,d_unsid=7", (0, 0, 0)),
]


@pytest.mark.parametrize("row", TABLE, ids=[row[0] for row in TABLE])
def test_each_policy(row: tuple[str, str, str, str, tuple[int, int, int]]) -> None:
    said, *sent, dropped = row
    for policy, expected, count in zip(POLICIES, sent, dropped, strict=True):
        found = conflicts.resolve(lines.split_items(said), policy)
        assert (",".join(found.items), found.dropped) == (expected, count), policy


items = st.one_of(
    st.builds(Signal, st.sampled_from(["a", "A", "b"]), st.sampled_from(["1", "2", "x,y"])),
    st.builds(Trait, st.integers(1, 3), st.booleans()),
    st.builds(lines.TraitCode, st.sampled_from(["1", "a"])),
)


@given(st.lists(items, max_size=12), st.sampled_from(POLICIES))
def test_by_the_definition(said: list[Item], policy: Policy) -> None:
    found = conflicts.resolve(map(lines.render_item, said), policy)
    assert [lines.parse_item(item) for item in found.items] == settled(said, policy)
    told, sent = ({lines.render_item(item).lower() for item in items} for items in (said, settled(said, policy)))
    assert found.dropped == len(told) - len(sent)


def test_a_text_of_items_comes_apart_again() -> None:
    said = ['"a"="x,y"', "d_sid=1"]
    assert conflicts.split("".join(conflicts.SEPARATOR + item for item in said)) == said
    assert conflicts.split("") == []


# --- runs ------------------------------------------------------------------------------------------------------------

CONFLICTS = 'signals = ["gender", "tier"]\ntrait_columns = ["traits"]\nconflicts = "{}"\n{}'
ROWS = [("a", "f", "gold", "24,25:0"), ("b", "m", "", "24"), ("a", "m", "gold", "24:0,25"), ("c", "x", "", "26,26:0")]
SENT = {
    "all": ('"gender"="f","tier"="gold",d_sid=24,"gender"="m",d_sid=25', '"gender"="x",d_sid=26', 3),
    "last": ('"gender"="m","tier"="gold",d_unsid=24,d_sid=25', '"gender"="x",d_unsid=26', 4),
    "first": ('"gender"="f","tier"="gold",d_sid=24,d_unsid=25', '"gender"="x",d_sid=26', 4),
}


@pytest.mark.parametrize("policy", POLICIES)
@pytest.mark.parametrize(
    ("options", "changes"),
    [
        ("", None),
        ("", {}),
        ('devices = "all"\n', None),
        ('devices = "all"\n', {}),
        ('user_id = "customer-id"\n', None),
        ('user_id = "customer-id"\n', {}),
    ],
)
def test_in_every_kind_of_feed(tmp_path: Path, policy: str, options: str, changes: dict[str, Any] | None) -> None:
    world = World(tmp_path, CONFLICTS.format(policy, options), changes=changes)
    world.sync(("a", uuid(4)), ("a", uuid(1)), ("b", uuid(2)), ("c", uuid(3)))
    world.put("1.csv", ROWS)
    summary = world.run()
    of_a, of_c, dropped = SENT[policy]
    users = [("a", of_a), ("b", '"gender"="m",d_sid=24'), ("c", of_c)]
    if "uuid" in world.settings.feeds[0].user_id:
        users = [(uuid(ord(name) - ord("a") + 1), said) for name, said in users]
    if "all" in options:
        users.append((uuid(4), of_a))
        dropped += dropped - 1  # of a, once more
    assert sorted(world.lines()) == sorted(f"{user}\t{said}\n" for user, said in users)
    assert figures(summary, "read", "matched", "conflicts") == (4, 4, dropped)
    path = world.inbox / "1.csv"
    assert set(summary.conflict_samples) == {f"{path}, line {line}" for line in (2, 5)}


@pytest.mark.parametrize("policy", POLICIES)
@pytest.mark.parametrize("trait", ["7", "07"])
def test_case_and_zeros_mean_in_a_run_what_they_mean_by_the_rules(tmp_path: Path, policy: Policy, trait: str) -> None:
    """A code is another in another case, a value or a number with zeros is not."""
    world = World(tmp_path, CONFLICTS.format(policy, ""))
    world.sync(("a", uuid(1)))
    world.put("1.csv", [("a", "F", "gold", f"{trait},ic=Gold"), ("a", "f", "Gold", "7,ic=gold"), ("a", "F", "", "7:0")])
    said = f'"gender"="F","tier"="gold",d_sid={trait},ic=Gold,"gender"="f","tier"="Gold",d_sid=7,ic=gold,"gender"="F"'
    found = conflicts.resolve([*lines.split_items(said), "d_unsid=7"], policy)
    assert world.run().conflicts == found.dropped == 1
    assert world.lines() == [f"{uuid(1)}\t{','.join(found.items)}\n"]


def test_what_is_kept_of_a_conflict_is_what_was_sent(tmp_path: Path) -> None:
    world = World(tmp_path, CONFLICTS.format("last", ""), changes={})
    world.sync(("a", uuid(1)))
    for number, row in enumerate([("a", "", "", "24,25,25:0"), ("a", "", "", "26")]):
        world.now += 60_000
        world.put(f"{number}.csv", [row])
        world.run()
    assert world.lines() == [f"{uuid(1)}\td_sid=24,d_unsid=25\n", f"{uuid(1)}\td_sid=26,d_unsid=24\n"]


def test_another_policy_sends_everybody_anew(tmp_path: Path) -> None:
    world = World(tmp_path, CONFLICTS.format("first", ""), changes={})
    world.sync(("a", uuid(1)))
    for policy in ("first", "last", "last"):
        world.feed = CONFLICTS.format(policy, "")
        world.now += 60_000
        world.put(f"{world.now}.csv", [("a", "", "", "24,24:0"), ("x", "", "", str(world.now))])
        world.run()
    assert world.lines() == [f"{uuid(1)}\td_sid=24\n", f"{uuid(1)}\td_unsid=24\n"]


def test_a_trait_of_another_customer_stays(tmp_path: Path) -> None:
    world = World(tmp_path, CONFLICTS.format("last", ""), changes={})
    world.sync(("a", uuid(1)), ("b", uuid(1)))
    world.put("1.csv", [("a", "", "", "24")])
    world.run()
    world.now += 60_000
    world.put("2.csv", [("b", "f", "", "24:0")])
    assert world.run().conflicts == 1
    assert world.lines()[-1] == f'{uuid(1)}\t"gender"="f"\n'


def test_constants_that_contradict_each_other(tmp_path: Path) -> None:
    options = 'constants = {{ Source = "crm", source = "web", GENDER = "none" }}\n'.replace("{{", "{").replace(
        "}}", "}"
    )
    world = World(tmp_path, CONFLICTS.format("last", options))
    world.sync(("a", uuid(1)), ("b", uuid(2)))
    world.put("1.csv", [("a", "f", "", ""), ("b", "", "gold", "")])
    world.run()
    assert sorted(world.lines()) == [
        f'{uuid(1)}\t"GENDER"="none","source"="web"\n',
        f'{uuid(2)}\t"tier"="gold","source"="web","GENDER"="none"\n',
    ]


@pytest.mark.parametrize("policy", POLICIES)
@pytest.mark.parametrize("changes", [None, {}])
def test_a_user_with_more_than_fits_is_rejected_and_others_are_packed(
    tmp_path: Path, policy: str, changes: dict[str, Any] | None
) -> None:
    world = World(tmp_path, CONFLICTS.format(policy, "max_rejected = 1\n"), changes=changes)
    world.sync(("a", uuid(1)), ("b", uuid(2)), ("b2", uuid(2)))
    long = ["x" * 60_000 + str(number) for number in range(201)]
    world.put("1.csv", [("a", value, "", "") for value in long] + [("b", long[0], long[1], "7"), ("b2", "", "", "7:0")])
    summary = world.run()
    if policy == "all":
        assert summary.reasons == {"too-many-lines": 201}
        assert summary.read == summary.matched + summary.rejected == 203
    else:
        assert (summary.rejected, summary.lines) == (0, 3)
    of_b = [line for line in world.lines() if line.startswith(uuid(2))]
    last = "d_unsid=7" if policy == "last" else "d_sid=7"
    assert [line.partition("\t")[2] for line in of_b] == [f'"gender"="{long[0]}"\n', f'"tier"="{long[1]}",{last}\n']


def test_a_record_that_says_nothing_of_a_user_with_more_than_fits_is_silent(tmp_path: Path) -> None:
    world = World(tmp_path, CONFLICTS.format("all", "max_rejected = 1\n"))
    world.sync(("a", uuid(1)))
    values = ["x" * 60_000 + str(number) for number in range(201)]
    world.put("1.csv", [("a", "", "", ""), *(("a", value, "", "") for value in values)])
    summary = world.run()
    assert summary.reasons == {"too-many-lines": 201}
    assert (summary.read, summary.matched, summary.silent) == (202, 1, 1)


def test_a_policy_that_is_none_is_told(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="conflicts"):
        _ = World(tmp_path, CONFLICTS.format("newest", "")).settings
