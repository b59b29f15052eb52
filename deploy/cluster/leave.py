"""Before an endpoint is stopped: wait until nothing waits in its spool, for a bounded time.

    python leave.py [SECONDS]         300 without it

Kubernetes sends no new calls to a pod that is about to be stopped, while the endpoint goes on bringing its spool to the
store. What is left after that time stays on the pod's volume, and goes when the pod is back. Exit status 1 tells so.
"""

import json
import os
import sys
import time
import urllib.error
import urllib.request

ADDRESS = os.environ.get("IDSYNC_ADDRESS", "http://127.0.0.1:8000")
PAUSE_SECONDS = 1.0
SETTLE_SECONDS = 5.0  # until every node of Kubernetes knows that this pod takes no more calls


def waits() -> bool:
    """Whether mappings or opt-outs wait; also where nobody can tell."""
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    try:
        with opener.open(f"{ADDRESS}/readyz", timeout=5) as reply:
            told = json.load(reply)
    except urllib.error.HTTPError as reply:  # not ready: it tells all the same
        told = json.load(reply)
    except OSError:
        return True
    spool = told.get("spool") or {"mappings": None}
    return spool.get("mappings") != 0 or bool(spool.get("opt_outs"))


def main() -> int:
    patience = float(sys.argv[1]) if len(sys.argv) > 1 else 300.0
    end = time.monotonic() + patience
    time.sleep(min(SETTLE_SECONDS, patience / 10))
    while waits():
        if time.monotonic() > end:
            return 1
        time.sleep(PAUSE_SECONDS)
    return 0


if __name__ == "__main__":
    sys.exit(main())
