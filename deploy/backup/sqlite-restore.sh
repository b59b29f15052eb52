#!/bin/sh
# Put a copy back as the store: sh deploy/backup/sqlite-restore.sh COPY DATABASE
# Stop endpoint and jobs first; then run settle.py and `python -m idsync sweep`, see deploy/README.md. A database that
# is there is kept as DATABASE.before. Its opt-outs go into the restored one where they can be read: an opt-out that
# was answered must not be forgotten.
set -eu
umask 027
[ $# -eq 2 ] || { echo "usage: sh deploy/backup/sqlite-restore.sh COPY DATABASE" >&2; exit 2; }
copy=$1 database=$2
[ -f "$copy" ] || { echo "restore: $copy: no such file" >&2; exit 2; }
part=$database.part
rm -f "$part"
trap 'rm -f "$part"' EXIT
cp "$copy" "$part"
"${PYTHON:-python3}" - "$part" "$database" <<'PY'
import pathlib, sqlite3, sys
restored, present = sys.argv[1:]
db = sqlite3.connect(restored)
if db.execute("PRAGMA integrity_check").fetchone()[0] != "ok":
    sys.exit("restore: the copy is damaged; take another one")
if pathlib.Path(present).exists():
    try:
        old = sqlite3.connect(present, timeout=0)
        old.execute("PRAGMA locking_mode = EXCLUSIVE")
        old.execute("BEGIN EXCLUSIVE")
        known = old.execute("SELECT token, tail, owner, since FROM opt_outs").fetchall()
        old.rollback()
        old.execute("PRAGMA wal_checkpoint(TRUNCATE)")
        old.close()
    except sqlite3.OperationalError as error:
        if "locked" in str(error):
            sys.exit(f"restore: {present} is in use; stop endpoint and jobs first")
        known = None
    except sqlite3.DatabaseError:
        known = None
    if known is None:
        print("restore: the present database can't be read: opt-outs since the copy are lost", file=sys.stderr)
    else:
        with db:
            before = db.total_changes
            db.executemany("INSERT OR IGNORE INTO opt_outs VALUES (?, ?, ?, ?)", known)
        print(f"restore: {db.total_changes - before} opt-outs were made since the copy, and are kept", file=sys.stderr)
db.close()
PY
for suffix in "" -wal -shm; do
    [ ! -e "$database$suffix" ] || mv "$database$suffix" "$database.before$suffix"
done
mv "$part" "$database"
echo "$database"
