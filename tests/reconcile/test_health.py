"""Health: what is judged from facts, what is told once, and looks at real things."""

import json
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

from idsync import config
from idsync.errors import ConfigError, IdsyncError, UsageError
from idsync.settings import Feed, Health
from reconcile.__main__ import cli
from reconcile.health import memory
from reconcile.health.job import Look, look
from reconcile.health.judging import HOUR, Condition, Facts, Fault, FeedFacts, RunFacts, Waiting, judge, span
from reconcile.health.memory import Memory
from reconcile.ledger import Ledger
from reconcile.lock import exclusive
from tests.reconcile.samples import NOW, World, uuid
from tests.reconcile.watching import delivered_once, late, watched, webhook


@pytest.fixture
def world(tmp_path: Path) -> World:
    return delivered_once(tmp_path)


RUN = "1790000000-daily"

# --- judging ---------------------------------------------------------------------------------------------------------


def feed_of(**changes: Any) -> Feed:
    made = {"name": "daily", "data_source": "crm", "inputs": "x", "id_column": "id", "destination": "local", **changes}
    return Feed.model_validate(made)


def runs(*rates: float, state: str = "delivered") -> list[RunFacts]:
    """Latest first."""
    return [RunFacts(RUN, state, NOW, NOW, 1000, round(1000 * rate)) for rate in rates]


def kinds(facts: FeedFacts, **limits: Any) -> list[str]:
    conditions = judge(Facts(NOW, feeds=[facts]), Health(**limits))
    assert [condition.subject for condition in conditions] == ["the store", "the ledger", "daily"]
    assert not conditions[0].faults
    assert not conditions[1].faults
    return [fault.kind for fault in conditions[2].faults]


WELL = FeedFacts(feed_of(expected_every_hours=24), NOW - 1000 * HOUR, runs(0.7, 0.7), NOW - HOUR)


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({}, []),
        ({"delivered_at": NOW - 24 * HOUR}, []),
        ({"delivered_at": NOW - 24 * HOUR - 1}, ["overdue"]),
        ({"delivered_at": 0}, ["overdue"]),
        ({"delivered_at": 0, "watched_since": NOW - 24 * HOUR}, []),  # its first day
        ({"delivered_at": 0, "feed": feed_of()}, []),  # nothing is expected
        ({"delivered_at": NOW - HOUR, "feed": feed_of(expected_every_hours=0.5)}, ["overdue"]),
        ({"runs": [RunFacts(RUN, "refused"), *WELL.runs]}, ["refused"]),
        ({"runs": [RunFacts(RUN, "failed"), *WELL.runs]}, ["failed"]),
        ({"runs": [RunFacts(RUN, "planned"), RunFacts(RUN, "frozen"), RunFacts(RUN, "refused")]}, ["refused"]),
        ({"runs": [*WELL.runs, RunFacts(RUN, "refused")]}, []),  # it was mended
        ({"runs": [RunFacts(RUN, "withdrawn"), *WELL.runs]}, []),
        ({"waiting": [Waiting(RUN, NOW - 3 * HOUR)]}, []),
        ({"waiting": [Waiting(RUN, NOW - 3 * HOUR - 1)]}, ["stuck"]),
        ({"waiting": [Waiting(RUN, NOW - 9 * HOUR, on_hold=True), Waiting(RUN, NOW)]}, ["held-back"]),
        ({"waiting": [Waiting(RUN, 0), Waiting(RUN, 0, on_hold=True)]}, ["stuck", "held-back"]),
        ({"unfinished": [HOUR, 3 * HOUR]}, []),
        ({"unfinished": [HOUR, 3 * HOUR + 1]}, ["unfinished-input"]),
        ({"runs": []}, []),
    ],
)
def test_a_feed_is_judged(changes: dict[str, Any], expected: list[str]) -> None:
    assert kinds(replace(WELL, **changes)) == expected


@pytest.mark.parametrize(
    ("rates", "falls"),
    [
        ((0.5, 0.7, 0.7, 0.7), True),
        ((0.56, 0.7, 0.7, 0.7), False),  # a fifth less, not more
        ((0.5, 0.7, 0.7), False),  # too few to know what is usual
        ((0.5, 0.1, 0.7, 0.7, 0.6), True),  # the median does not mind one
        ((0.9, 0.7, 0.7, 0.7), False),
        ((0.0, 0.0, 0.0, 0.0), False),
        ((0.5, *(0.5,) * 7, *(0.9,) * 30), False),  # only the last seven count
    ],
)
def test_a_fall_of_the_match_rate(rates: Sequence[float], falls: bool) -> None:
    assert kinds(replace(WELL, runs=runs(*rates))) == ["match-rate"] * falls


def test_small_or_broken_runs_say_nothing_of_the_match_rate() -> None:
    usual = runs(0.7, 0.7, 0.7, 0.7)
    assert kinds(replace(WELL, runs=[RunFacts(RUN, "delivered", 0, 0, 99, 0), *usual])) == []
    assert kinds(replace(WELL, runs=[RunFacts(RUN, "frozen", 0, 0, 1000, 0), *usual])) == []
    assert kinds(replace(WELL, runs=runs(0.5, 0.7)), compared_runs=1) == ["match-rate"]
    assert kinds(replace(WELL, runs=runs(0.5, *(0.7,) * 7)), match_rate_fall=0.3) == []


def test_store_and_ledger() -> None:
    conditions = judge(Facts(NOW, store="redis://10.0.0.7: gone", ledger="/x: damaged"), Health())
    assert [(each.subject, each.kinds) for each in conditions] == [
        ("the store", ("unreadable",)),
        ("the ledger", ("unreadable",)),
    ]
    assert "10.0.0.7" not in repr(conditions)
    assert "/x" not in repr(conditions)


@pytest.mark.parametrize(
    ("milliseconds", "words"),
    [(0, "0 minutes"), (60_000, "1 minute"), (HOUR, "1 hour"), (47 * HOUR, "47 hours"), (49 * HOUR, "2 days")],
)
def test_spans(milliseconds: int, words: str) -> None:
    assert span(milliseconds) == words


# --- what is told ----------------------------------------------------------------------------------------------------

BAD, WORSE, GOOD = (
    Condition("daily", (Fault("stuck", "so long"),)),
    Condition("daily", (Fault("stuck", "longer"), Fault("overdue", "too"))),
    Condition("daily"),
)


def told(conditions: Sequence[Condition], held: Memory, now: int = 1, *, arrives: bool = True) -> list[str]:
    """One look; what went out."""
    held.see(conditions, ["daily"], now)
    alerts = held.due("webhook", conditions)
    if arrives:
        held.was_told("webhook", alerts)
    return [alert.text for alert in alerts]


def test_each_change_is_told_once() -> None:
    held = Memory()
    assert told([GOOD], held) == []
    assert told([BAD], held) == ["daily: stuck: so long"]
    longer = Condition("daily", (Fault("stuck", "even longer"),))
    assert [told([longer], held) for _ in range(100)] == [[]] * 100
    assert told([WORSE], held) == ["daily: stuck: longer\ndaily: overdue: too"]
    assert told([BAD], held) == ["daily: stuck: so long"]
    assert told([GOOD], held) == ["daily: well again (was stuck)"]
    assert told([GOOD], held) == []


def test_what_did_not_arrive_stays_due_as_long_as_it_is_so() -> None:
    held = Memory()
    assert told([BAD], held, arrives=False) == told([BAD], held, arrives=False) == ["daily: stuck: so long"]
    assert told([GOOD], held) == []  # nobody ever heard of it
    assert told([BAD], held) == ["daily: stuck: so long"]
    assert told([GOOD], held, arrives=False) == ["daily: well again (was stuck)"]
    assert told([BAD], held) == []
    assert held.due("mail", [BAD])  # another way has its own account


def test_since_when_it_is_so() -> None:
    held = Memory()
    for now, condition, since in ((5, GOOD, 5), (6, BAD, 6), (7, BAD, 6), (8, WORSE, 8), (9, GOOD, 9)):
        told([condition], held, now)
        assert held.since == {"daily": since}


def test_memory_survives_and_forgets_feeds_that_are_gone() -> None:
    held = Memory()
    held.watch(["daily", "weekly"], ["daily", "weekly"], 3)
    told([BAD], held)
    again = memory.load(held.dump())
    assert (again.watched, again.told, again.since, again.kinds) == (held.watched, held.told, held.since, held.kinds)
    assert told([BAD], again) == []
    again.watch([], ["weekly"], 9)
    again.see([], ["weekly"], 9)
    assert (again.watched, again.told, again.since) == ({"weekly": 3}, {"webhook": {}}, {})


@pytest.mark.parametrize("content", [b"", b"[]", b"null", b"{}", b"\xff", b'{"told": 3}', b'{"told": {"a": {"b": 3}}}'])
def test_a_damaged_memory(content: bytes) -> None:
    with pytest.raises(ValueError):  # noqa: PT011
        memory.load(content)


# --- a look at real things -------------------------------------------------------------------------------------------


def faults(found: Look) -> dict[str, tuple[str, ...]]:
    return {condition.subject: condition.kinds for condition in found.conditions if condition.faults}


def test_a_run_that_is_refused_and_mended(world: World) -> None:
    settings = watched(world)
    world.put("b.csv", [("e@mail.example", "f", "gold", "24")])
    with pytest.raises(IdsyncError):
        world.run()
    found = look(settings, [], NOW)
    assert faults(found) == {"daily": ("refused",)}
    assert "e@mail" not in json.dumps(found.as_dict())
    (world.inbox / "b.csv").unlink()
    world.put("b.csv", [("a", "f", "silver", "24")])
    world.run()
    assert look(settings, [], NOW).well


def test_files_that_wait_for_their_destination(tmp_path: Path) -> None:
    world = World(tmp_path)
    world.sync(("a", uuid(1)))
    world.put("a.csv", [("a", "f", "gold", "24")])
    world.delivered.write_text("no folder")
    with pytest.raises(IdsyncError):
        world.run()
    assert look(world.settings, [], NOW + HOUR).well
    assert faults(look(world.settings, [], NOW + 4 * HOUR)) == {"daily": ("stuck",)}
    world.delivered.unlink()
    world.run()
    assert look(world.settings, [], NOW + 4 * HOUR).well


def test_inputs_that_never_get_whole(world: World) -> None:
    at = world.put("b.csv.part", []).stat().st_mtime_ns // 1_000_000
    assert look(world.settings, [], at + HOUR).well
    assert faults(look(world.settings, [], at + 4 * HOUR)) == {"daily": ("unfinished-input",)}


def test_store_and_ledger_that_cant_be_read(world: World) -> None:
    settings = watched(world)
    assert not late(settings).well
    away = settings.store.model_copy(update={"url": "redis://127.0.0.1:1/0"})
    found = late(settings.model_copy(update={"store": away}))
    assert faults(found) == {"the store": ("unreadable",), "daily": ("overdue",)}
    assert "127.0.0.1:1" in found.reasons[0]
    (world.state / "ledger.db").write_bytes(b"not a database" * 1000)
    with webhook() as (url, hook):
        found = late(watched(world, webhook_url=url))
        assert faults(found) == {"the ledger": ("unreadable",)}
        assert len(hook.posts) == 1
        assert "well again" not in hook.posts[0]["text"]  # of the feed nothing is known


def test_only_some_feeds(world: World) -> None:
    assert faults(late(watched(world))) == {"daily": ("overdue",)}
    with pytest.raises(UsageError, match='no feed is called "dayly"'):
        look(watched(world), ["dayly"], NOW)
    assert [each.subject for each in look(watched(world), ["daily"], NOW).conditions][2:] == ["daily"]


def test_a_damaged_memory_is_begun_anew(world: World) -> None:
    settings = watched(world)
    late(settings)
    (world.state / "health.json").write_bytes(b"{")
    found = late(settings)
    assert not found.well
    assert "damaged" in found.reasons[0]
    assert late(settings).reasons == []


def test_nothing_at_all_has_happened_yet(tmp_path: Path) -> None:
    found = look(World(tmp_path).settings, [], NOW)
    assert (found.well, found.reasons) == (True, [])
    assert Ledger(tmp_path / "var" / "reconcile" / "ledger.db").history() == []


def test_two_looks_at_once_tell_nothing_twice(world: World) -> None:
    with exclusive(world.state / "locks" / "@health.lock", "@health"), pytest.raises(IdsyncError) as caught:
        late(watched(world))
    assert caught.value.exit_status == 75


def test_the_command(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    path = str(world.write_config())
    good = CliRunner().invoke(cli, ["health", "--config", path])
    assert (good.exit_code, "daily" in good.stdout, "well" in good.stdout) == (0, True, True)
    ledger = Ledger(world.state / "ledger.db")
    run, _ = ledger.reserve("daily", NOW // 1000)
    ledger.close(run, "failed", {"problem": "x"})
    bad = CliRunner().invoke(cli, ["health", "daily", "--json", "--config", path])
    shown = json.loads(bad.stdout)
    assert (bad.exit_code, shown["well"]) == (1, False)
    assert shown["subjects"][2]["faults"][0]["kind"] == "failed"
    with webhook() as (url, hook):
        monkeypatch.setenv("IDSYNC_HEALTH__WEBHOOK_URL", url)
        assert CliRunner().invoke(cli, ["health", "--config", path]).exit_code == 1
        assert len(hook.posts) == 1
        ledger.forget(run)
        hook.status = 500
        unsent = CliRunner().invoke(cli, ["health", "--config", path])
        assert (unsent.exit_code, unsent.stderr) == (75, "webhook: answered 500\n")


# --- the settings ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("table", "told"),
    [
        ('webhook_url = "https://hooks.example.com/services/T0/s3cret"', "health.webhook_url: a secret in the file"),
        ('smtp_password = "s3cret"', "health.smtp_password: a secret in the file"),
        ('mail_to = ["ops@example.com"]', "needs smtp_host and mail_from"),
        ('mail_to = ["s3cret"]\nsmtp_host = "a"\nmail_from = "a@example.com"', "mail_to"),
        ("stuck_hours = 0", "stuck_hours"),
    ],
)
def test_wrong_settings(tmp_path: Path, table: str, told: str) -> None:
    text = World(tmp_path).write_config().read_text() + f"\n[health]\n{table}\n"
    with pytest.raises(ConfigError) as caught:
        config.parse(text, environ={}, base=tmp_path)
    assert told in str(caught.value)
    assert "services/T0" not in str(caught.value)


def test_secrets_come_from_the_environment(tmp_path: Path) -> None:
    text = World(tmp_path).write_config().read_text()
    environ = {"IDSYNC_HEALTH__WEBHOOK_URL": "https://hooks.example.com/s3cret"}
    settings = config.parse(text, environ=environ, base=tmp_path)
    assert "s3cret" not in repr(settings)
    with pytest.raises(ConfigError) as caught:
        config.parse(text, environ={"IDSYNC_HEALTH__WEBHOOK_URL": "s3cret"}, base=tmp_path)
    assert "health.webhook_url: must be a URL" in str(caught.value)
    assert "s3cret" not in str(caught.value)
