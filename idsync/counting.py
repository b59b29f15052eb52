"""Counts a store for the status page, in a process of its own: a look at all of it must not slow down a sync call.

    python -m idsync.counting < {"now": <milliseconds>, "store": <the settings of the store>}

Whoever starts it need not stop it: it ends itself after COUNT_SECONDS, by a signal. What takes longer is asked of
`python -m idsync stats`.
"""

import json
import os
import signal
import sys
from collections import Counter
from contextlib import closing

from idsync.decision import MID_DPID
from idsync.errors import IdsyncError
from idsync.settings import Store
from idsync.store import open_store

COUNT_SECONDS = 10
_NICE = 19
_TRY_LATER = 75


def main() -> int:
    signal.setitimer(signal.ITIMER_REAL, COUNT_SECONDS)
    os.nice(_NICE)
    asked = json.load(sys.stdin)
    settings = Store.model_validate(asked["store"], context={"base": "/"})
    try:
        with closing(open_store(settings, patient=False)) as store:
            counts = store.count(asked["now"])
            opt_outs = Counter(token.partition(":")[0] for token in store.opt_outs())
    except IdsyncError:
        return _TRY_LATER
    devices = opt_outs.pop("uuid", 0)
    rows = {
        dpid: (*counts.get(dpid, (0, 0)), opt_outs.get(str(dpid), 0))
        for dpid in {*counts, *(int(dpid) for dpid in opt_outs)} - {MID_DPID}
    }
    print(json.dumps({"data_sources": rows, "devices": devices}))  # noqa: T201
    return 0


if __name__ == "__main__":
    sys.exit(main())
