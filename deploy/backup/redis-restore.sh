#!/bin/sh
# Make the data folder of a Redis server out of a copy: sh deploy/backup/redis-restore.sh COPY FOLDER [OPT_OUTS]
# Redis must be stopped, and FOLDER (its `dir`) hold no append-only files: a server with `appendonly yes` never looks at
# a snapshot, and would start empty. So a server that nobody can reach loads it and writes the append-only files; then
# start yours. OPT_OUTS, the newest file of opt-outs, adds those that were made since the copy; of a cluster leave it out,
# and add them when it runs: the awk below, with `redis-cli -c`.
set -eu
umask 027
[ $# -ge 2 ] || { echo "usage: sh deploy/backup/redis-restore.sh COPY FOLDER [OPT_OUTS]" >&2; exit 2; }
copy=$1 folder=$(cd "$2" && pwd) opt_outs=${3:-}
[ -f "$copy" ] || { echo "restore: $copy: no such file" >&2; exit 2; }
[ ! -e "$folder/appendonlydir" ] || { echo "restore: $folder/appendonlydir is there: stop Redis, move it away" >&2; exit 2; }
redis-check-rdb "$copy" >/dev/null || { echo "restore: $copy is damaged; take another one" >&2; exit 1; }
socket=$(mktemp -d)/redis
cp "$copy" "$folder/restore.rdb"
redis-server --port 0 --unixsocket "$socket" --dir "$folder" --dbfilename restore.rdb --appendonly no --save '' >"$folder/restore.log" &
server=$!
trap 'kill "$server" 2>/dev/null || true; wait "$server" || true; rm -rf "$(dirname "$socket")" "$folder/restore.rdb"' EXIT
asked() { redis-cli -e -s "$socket" "$@"; }
tries=0
until asked ping >/dev/null 2>&1; do
    kill -0 "$server" 2>/dev/null || { echo "restore: Redis did not start, see $folder/restore.log" >&2; exit 1; }
    tries=$((tries + 1))
    [ "$tries" -lt 3600 ] || { echo "restore: the copy was not loaded within an hour" >&2; exit 1; }
    sleep 1
done
if [ -n "$opt_outs" ]; then
    awk 'NR % 2 { token = $0; next } { printf "HSETNX ids:out %s \"%s\"\n", token, $0 }' "$opt_outs" | asked >/dev/null
fi
asked config set appendonly yes >/dev/null
tries=0
until asked info persistence | grep -q '^aof_rewrite_in_progress:0' && asked info persistence | grep -q '^aof_rewrite_scheduled:0'; do
    tries=$((tries + 1))
    [ "$tries" -lt 3600 ] || { echo "restore: the append-only file was not written within an hour" >&2; exit 1; }
    sleep 1
done
asked info persistence | grep -q '^aof_last_bgrewrite_status:ok' || { echo "restore: the append-only file was not written, see $folder/restore.log" >&2; exit 1; }
asked shutdown >/dev/null 2>&1 || true
wait "$server"
rm -f "$folder/restore.log"
echo "$folder"
