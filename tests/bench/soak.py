"""Mixed load on two workers and Redis, all faults of `tests.crash` in random order, and an exact account at the end.

    python -m tests.bench.soak [--minutes 10] [--seed 1] [--folder DIR]

Every fault comes once before any comes again. After about half of them the spool is given time to empty; after the
others the next fault meets it as it is. Ends with 0 if every call that was answered as stored is found, and no other;
prints a Markdown table of the calls, and the faults as they come on stderr.
"""

import argparse
import random
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

from tests.crash import HURT_ITS_HOST, HURT_REDIS, HURT_THE_SERVICE, MORE_CALLS, Fault, staged
from tests.load import Tally, load, mixed_calls

PAUSE_SECONDS = 0.02  # of each visitor, so at most 800 calls a second: the account is kept in memory


def soak(folder: Path, seconds: float, seed: int) -> tuple[Tally, Counter[str]]:
    """What became of the calls, and how often each fault came."""
    chance, came = random.Random(seed), Counter[str]()
    start = time.monotonic()
    faults = in_random_order(chance)
    with staged(folder, clock=True) as stage:
        with load(stage.port, mixed_calls("soak", seed), pause_seconds=PAUSE_SECONDS) as running:
            while (now := time.monotonic() - start) < seconds:
                fault = next(faults)
                came[fault.__name__] += 1
                print(f"{now:6.1f} s  {fault.__name__:24}{running.told()}", file=sys.stderr)
                fault(stage, running, chance)
                running.wait_for(MORE_CALLS)
                if chance.random() < 0.5:
                    stage.settle()
        stage.account(running.tally)
    return running.tally, came


def in_random_order(chance: random.Random) -> Iterator[Fault]:
    while True:
        faults = [*HURT_THE_SERVICE, *HURT_REDIS, *HURT_ITS_HOST]
        chance.shuffle(faults)
        yield from faults


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--minutes", type=float, default=10)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--folder", type=Path, help="where store and spool lie; default: a temporary folder")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="soak-", dir=options.folder) as name:
        tally, came = soak(Path(name), options.minutes * 60, options.seed)
    print(f"{options.minutes:g} minutes, seed {options.seed}, {came.total()} faults\n\n| calls | |\n|---|---|")
    print(f"| answered as stored, and found | {len(tally.stored):,} |")
    print(f"| declined for what they are, and not found | {len(tally.declined):,} |")
    print(f"| refused with 503 while neither store nor spool could take them, and not found | {len(tally.refused):,} |")
    print(f"| not answered, as their worker was killed or left | {len(tally.unanswered):,} |")
    print(f"| answered in another way | {tally.failed.total():,} |")
    if tally.failed:
        sys.exit(f"calls that failed, by status: {dict(tally.failed)}")


if __name__ == "__main__":
    main()
