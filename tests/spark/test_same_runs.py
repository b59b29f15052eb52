"""tests/reconcile/test_run.py on both engines."""

from tests.reconcile.test_run import *  # noqa: F403
from tests.spark.twins import on_both_engines as on_both_engines
