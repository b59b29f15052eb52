"""`reconcile segments` against a plain DuckDB join and COPY of the same data, in one session.

    python -m tests.bench.segments [--lines 10000000] [--folder DIR]

An export of so many lines, 7 in 10 with a mapping, one to five segments each, some removed; as it comes, in gzip, and
unpacked. The plain join reads the mappings from Parquet, checks nothing, and writes the same rows. Each contender is a
process of its own, timed from start to end, memory as its peak resident set. Seeded; needs about 8 GB of disk.
"""

import argparse
import json
import tempfile
from pathlib import Path

import duckdb

from idsync.settings import Store
from tests.bench import data
from tests.bench.process import timed
from tests.bench.reconcile import fill_sqlite

CONFIG = """
[store]
url = "{url}"
mapping_ttl_days = 3650
[privacy]
gdpr_default = "does-not-apply"
[[data_sources]]
name = "crm"
dpid = 12345
"""

PLAIN = """
import sys, duckdb
lines, mappings, out = sys.argv[1:]
duckdb.execute(f'''COPY (
    WITH read AS (
        SELECT split_part(line, ' ', 1) AS uuid, split_part(line, ' ', 2) AS added, split_part(line, ' ', 3) AS removed
        FROM read_csv('{lines}', columns = {{'line': 'VARCHAR'}}, header = false, auto_detect = false, delim = '\\t')),
    joined AS (SELECT customer_id, added, removed FROM read JOIN '{mappings}' USING (uuid))
    SELECT customer_id, unnest(string_split(added, ',')) AS segment_id, 'add' AS action FROM joined
    UNION ALL
    SELECT customer_id, unnest(string_split(removed, ',')), 'remove' FROM joined WHERE removed <> ''
) TO '{out}' (FORMAT csv, HEADER)''')
"""


def make(folder: Path, count: int) -> tuple[Path, Path, Path]:
    """The export plain and packed, and the mappings as Parquet."""
    _, known = data.make(folder, count)
    plain, packed = (folder / f"S3_1_2_iter_1790000000000.sync{ending}" for ending in ("", ".gz"))
    if not packed.exists():
        segment = "(100000 + hash(uuid, {}) % 5000)::VARCHAR"
        added = ", ".join(f"CASE WHEN hash(uuid, 21) % 5 >= {at} THEN {segment.format(30 + at)} END" for at in range(5))
        removed = f"CASE WHEN hash(uuid, 22) % 4 = 0 THEN ' ' || {segment.format(40)} ELSE '' END"
        line = f"uuid || ' ' || concat_ws(',', {added}) || {removed}"
        query = f"SELECT {line} FROM ({data.mappings(f'range({count})')})"
        for path, packing in ((plain, "none"), (packed, "gzip")):
            options = f"HEADER false, QUOTE '', ESCAPE '', DELIMITER '\\t', COMPRESSION {packing}"
            duckdb.execute(f"COPY ({query}) TO '{path}' ({options})")
    return plain, packed, known


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--lines", type=int, default=10_000_000)
    parser.add_argument("--folder", type=Path, help="keep the data there for the next time")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="bench-") as temporary:
        folder = options.folder or Path(temporary)
        folder.mkdir(exist_ok=True, parents=True)
        compare(folder, options.lines)


def compare(folder: Path, count: int) -> None:
    plain, packed, known = make(folder, count)
    store = Store(url=f"sqlite:///{folder}/segments.db")
    if not (folder / "segments.db").exists():
        fill_sqlite(store, f"FROM '{known}'")
    config = folder / "segments.toml"
    config.write_text(CONFIG.format(url=store.url))
    print("| what | seconds | times the plain join | peak GB |\n|---|---|---|---|")
    for name, export in (("plain text", plain), ("gzip", packed)):
        peer_rows, rows = folder / "peer.csv", folder / "rows.csv"
        first = timed("-c", PLAIN, str(export), str(known), str(peer_rows), folder=folder)
        command = ("-m", "reconcile", "segments", str(export), "--data-source", "crm", "-o", str(rows))
        ours = timed(*command, "--config", str(config), folder=folder)
        again = timed("-c", PLAIN, str(export), str(known), str(peer_rows), folder=folder)
        told = json.loads(ours.out)
        if told["read"] != count or rows.stat().st_size != peer_rows.stat().st_size:
            raise SystemExit(f"not the same rows: {told}")
        peer = (first.seconds + again.seconds) / 2
        both = f"{first.seconds:.1f}, {again.seconds:.1f}"
        print(f"| plain DuckDB join and COPY, {name} | {both} | 1 | {first.memory:.2f} |")
        figures = f"{ours.seconds:.1f} | {ours.seconds / peer:.2f} | {ours.memory:.2f}"
        print(f"| reconcile segments, {name} | {figures} |", flush=True)


if __name__ == "__main__":
    main()
