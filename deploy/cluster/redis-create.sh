#!/bin/sh
# Makes the cluster of nodes that run and are empty: sh redis-create.sh. Once; again, it does nothing.
#
# Environment: PASSWORD_FILE; PEERS, names that lead to all nodes; NODES, how many there must be; and, with their defaults,
# PORT=6379, REPLICAS=1 (of each primary). Exit status 75: not all of them are there yet.
set -eu
port=${PORT:-6379}
REDISCLI_AUTH=$(cat "$PASSWORD_FILE")
export REDISCLI_AUTH

found=0
nodes=""
for peer in $PEERS; do
    for address in $(getent ahostsv4 "$peer" | awk '$2 == "STREAM" { print $1 }'); do
        [ "$(redis-cli -h "$address" -p "$port" ping 2>/dev/null)" = PONG ] || continue
        found=$((found + 1))
        nodes="$nodes $address:$port"
    done
done
if [ "$found" -ne "$NODES" ]; then
    echo "redis-create.sh: $found of $NODES nodes answer" >&2
    exit 75
fi
if redis-cli -h "${address}" -p "$port" cluster info | grep -q '^cluster_state:ok'; then
    echo "redis-create.sh: the cluster is there" >&2
    exit 0
fi
# shellcheck disable=SC2086
exec redis-cli --cluster create $nodes --cluster-replicas "${REPLICAS:-1}" --cluster-yes
