"""What every store promises of leases: one holder at a time, tokens that only grow, an end of their own accord."""

import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import pytest

from idsync.errors import StoreUnavailable
from idsync.settings import Store
from idsync.store.lease import Leases, open_leases
from tests.contracts.stores import Kind
from tests.servers import free_port, wait_until

LONG, SHORT = 600, 0.1


@pytest.fixture
def leases(kind: Kind) -> Iterator[Leases]:
    opened = open_leases(Store(url=kind.url))
    yield opened
    opened.close()


def token(answer: int | str) -> int:
    assert isinstance(answer, int), answer
    return answer


def test_one_holder_at_a_time(leases: Leases) -> None:
    held = token(leases.acquire("daily", "host a", LONG))
    assert leases.acquire("daily", "host b", LONG) == "host a"
    assert leases.renew("daily", held, LONG)
    leases.release("daily", held)
    assert not leases.renew("daily", held, LONG)
    assert token(leases.acquire("daily", "host b", LONG)) > held


def test_each_feed_has_its_own(leases: Leases) -> None:
    token(leases.acquire("daily", "host a", LONG))
    token(leases.acquire("id-sync@12345_777", "host b", LONG))
    assert leases.acquire("daily", "host b", LONG) == "host a"


def test_the_holder_gets_it_again_under_a_new_token(leases: Leases) -> None:
    old = token(leases.acquire("daily", "host a", LONG))
    new = token(leases.acquire("daily", "host a", LONG))
    assert new > old
    assert not leases.renew("daily", old, LONG)
    leases.release("daily", old)  # of one that died, or was paused: it takes nothing from its heir
    assert leases.renew("daily", new, LONG)


def test_others_can_ask_whether_it_was_granted_since_and_prolong_nothing(leases: Leases) -> None:
    old = token(leases.acquire("daily", "host a", SHORT))
    assert leases.is_last("daily", old)
    assert not leases.is_last("weekly", old)
    wait_until(lambda: leases.is_last("daily", old) and _granted(leases), "the end of a lease")
    assert not leases.is_last("daily", old)


def _granted(leases: Leases) -> bool:
    return isinstance(leases.acquire("daily", "host b", LONG), int)


def test_it_ends_when_nobody_renews_it(leases: Leases) -> None:
    old = token(leases.acquire("daily", "host a", SHORT))
    wait_until(lambda: isinstance(leases.acquire("daily", "host b", LONG), int), "the end of a lease")
    assert not leases.renew("daily", old, LONG)
    assert leases.acquire("daily", "host a", LONG) == "host b"


def test_it_lasts_as_long_as_it_is_renewed(leases: Leases) -> None:
    held = token(leases.acquire("daily", "host a", SHORT))
    assert leases.renew("daily", held, LONG)
    ended = threading.Event()
    assert not ended.wait(2 * SHORT)
    assert leases.acquire("daily", "host b", LONG) == "host a"


def test_of_many_at_once_one_gets_it(leases: Leases) -> None:
    answers: list[int | str] = []

    def ask(number: int) -> None:
        answers.append(leases.acquire("daily", f"host {number}", LONG))

    threads = [threading.Thread(target=ask, args=(number,)) for number in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sum(isinstance(answer, int) for answer in answers) == 1


def test_times_only_grow(leases: Leases) -> None:
    now = 1_790_000_000
    given = [leases.later(seconds) for seconds in (now, now, now - 3600, now + 1, now + 60, 0)]
    assert given == [now, now + 1, now + 2, now + 3, now + 60, now + 61]


def test_a_time_is_given_out_once(leases: Leases) -> None:
    with ThreadPoolExecutor(8) as pool:
        given = list(pool.map(leases.later, [1_790_000_000] * 40))
    assert sorted(given) == list(range(1_790_000_000, 1_790_000_040))


@pytest.mark.parametrize("scheme", ["redis", "redis+cluster"])
def test_a_store_that_is_away_is_told(scheme: str) -> None:
    leases = open_leases(Store(url=f"{scheme}://127.0.0.1:{free_port()}"))
    with pytest.raises(StoreUnavailable):
        leases.acquire("daily", "host a", LONG)
    leases.close()


def test_a_folder_that_cannot_be_written_is_told(tmp_path_factory: pytest.TempPathFactory) -> None:
    path = tmp_path_factory.mktemp("store") / "file"
    path.write_bytes(b"")
    with pytest.raises(StoreUnavailable, match="leases"):
        open_leases(Store(url=f"sqlite:///{path}/idsync.db")).acquire("daily", "host a", LONG)
