"""What spark-submit starts in place of `python -m reconcile`:

    spark-submit --master MASTER deploy/cluster/submit.py run FEED --engine spark --config idsync.toml

The packages beside it are used where it lies in a checkout; else those that are installed, or given by --py-files.
"""

import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[len(("cluster", "deploy"))]
if (ROOT / "reconcile").is_dir():
    sys.path.insert(0, str(ROOT))

from idsync.cli import start  # noqa: E402
from reconcile.commands import cli  # noqa: E402

start(cli)
