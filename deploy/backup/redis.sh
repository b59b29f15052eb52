#!/bin/sh
# A copy of what a Redis server holds, over the network: sh deploy/backup/redis.sh HOST PORT FOLDER [DAYS]
# The server makes a snapshot of one moment (a fork, as BGSAVE does: leave it room) and sends it. Of a cluster: each
# primary. The password, where there is one, comes as $REDISCLI_AUTH. Copies older than DAYS (7) are removed.
# The opt-outs go into a small file of their own besides: make that one often, --opt-outs in place of DAYS.
set -eu
umask 077
[ $# -ge 3 ] || { echo "usage: sh deploy/backup/redis.sh HOST PORT FOLDER [DAYS | --opt-outs]" >&2; exit 2; }
host=$1 port=$2 folder=$3 days=${4:-7}
mkdir -p "$folder"
stem=$folder/redis-$host-$port
part=$folder/.redis-$host-$port.part
trap 'rm -f "$part"' EXIT
# pairs of lines: the hash of who opted out, and since when
redis-cli -e -c -h "$host" -p "$port" --raw HGETALL ids:out >"$part"
mv "$part" "$stem.opt-outs"
if [ "$days" = --opt-outs ]; then
    echo "$stem.opt-outs"
    exit
fi
redis-cli -h "$host" -p "$port" --rdb "$part" >/dev/null
redis-check-rdb "$part" >/dev/null || { echo "backup: the copy is damaged" >&2; exit 1; }
copy=$stem-$(date -u +%Y%m%dT%H%M%SZ).rdb
mv "$part" "$copy"
find "$folder" -maxdepth 1 -name "$(basename "$stem")-*.rdb" -mtime "+$days" -delete
echo "$copy"
