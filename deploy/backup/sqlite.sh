#!/bin/sh
# A copy of an SQLite file while it is in use: sh deploy/backup/sqlite.sh DATABASE FOLDER [DAYS]
# For the store, and for the job's ledger. Writers go on meanwhile. Copies older than DAYS (7) are removed, as who was
# erased must not live on in them. Never copy the file by itself: what is in its log (-wal) would be missing.
set -eu
umask 077
[ $# -ge 2 ] || { echo "usage: sh deploy/backup/sqlite.sh DATABASE FOLDER [DAYS]" >&2; exit 2; }
database=$1 folder=$2 days=${3:-7}
[ -f "$database" ] || { echo "backup: $database: no such file" >&2; exit 2; }
mkdir -p "$folder"
name=$(basename "$database" .db)
part=$folder/.$name.part
rm -f "$part"
trap 'rm -f "$part"' EXIT
"${PYTHON:-python3}" - "$database" "$part" <<'PY'
import os, pathlib, sqlite3, sys
source, target = sys.argv[1:]
# read-only: a backup must not be what creates the file or empties its log
with sqlite3.connect(pathlib.Path(source).absolute().as_uri() + "?mode=ro", uri=True, timeout=60) as db:
    db.execute("VACUUM INTO ?", (target,))
with sqlite3.connect(target) as copy:
    told = copy.execute("PRAGMA integrity_check").fetchone()[0]
copy.close()
if told != "ok":
    sys.exit(f"backup: the copy is damaged: {told}")
with open(target, "rb") as file:
    os.fsync(file.fileno())
PY
copy=$folder/$name-$(date -u +%Y%m%dT%H%M%SZ).db
mv "$part" "$copy"
find "$folder" -maxdepth 1 -name "$name-*.db" -mtime "+$days" -delete
echo "$copy"
