"""Feeds of e-mail hashes: no address travels."""

from pathlib import Path

from reconcile import failpoints, inputs
from reconcile.feed import plan
from reconcile.optouts import OptOuts
from reconcile.spark import parcels, tasks
from reconcile.spark.work import Work
from tests.reconcile.test_feed_emails import HEADER, sha, world


def test_no_address_leaves_the_task_that_reads_it(tmp_path: Path) -> None:
    made = world(tmp_path)
    path = made.put("1.csv", [("a", "person1@example.com"), ("b", "person2")], HEADER)
    with path.open("a") as file:
        file.write("person3@example.com,g,h\n")
    settings = made.settings
    feed, source = settings.feeds[0], settings.data_sources[0]
    work = Work(
        settings,
        feed,
        source,
        plan(feed, source, settings.data_sources),
        made.now,
        2,
        (inputs.fingerprint(path),),
        made.state / "held" / "daily.parquet",
        0,
        OptOuts(source.dpid, {}),
        frozenset(),
        None,
        None,
        failpoints.reached,
    )
    found = list(tasks.read(work, 0))
    assert not any(b"person" in parcel.body for parcel in found)
    assert any(sha("person1@example.com").encode() in parcel.body for parcel in found)
    (told,) = (parcels.told(parcel) for parcel in found if parcel.kind == parcels.ACCOUNT)
    assert [reject.reason for reject in told.bad] == ["too-many-columns"]
