#!/bin/sh
# A node of the cluster, in a container or not: sh redis-node.sh
#
# Environment: PASSWORD_FILE; ADDRESS, at which others reach this node; PEERS, names that lead to all nodes (one that leads
# to several will do); MAXMEMORY; and, with their defaults, DATA=/data, CONF=/etc/redis/redis-cluster.conf, PORT=6379,
# BIND='*', RETURN_SECONDS=60 (at most), MEET_SECONDS=10.
set -eu
data=${DATA:-/data}
port=${PORT:-6379}
password=$(cat "$PASSWORD_FILE")

ask() {
    REDISCLI_AUTH=$password timeout 2 redis-cli -p "$port" "$@" 2>/dev/null
}

addresses() {
    for peer in $PEERS; do
        getent ahostsv4 "$peer" | awk '$2 == "STREAM" { print $1 }'
    done
}

# A primary that was killed may lack writes that it had passed on, but not yet written to its log. Were it back before its
# replica has taken over, the replica would copy that gap. So it waits until another node has its slots. If that does not
# happen in time (all nodes were down, or no replica was in step), it is the best there is.
replaced() {
    for address in $(addresses); do
        if ask -h "$address" cluster nodes |
            awk -v id="$myself" '$1 == id { known = 1; slots = NF > 8 } END { exit !(known && !slots) }'; then
            return 0
        fi
    done
    return 1
}

myself=""
if [ -e "$data/nodes.conf" ]; then
    myself=$(awk '$3 ~ /myself/ && $3 ~ /master/ && NF > 8 { print $1 }' "$data/nodes.conf")
fi
if [ -n "$myself" ]; then
    trap 'exit 0' TERM
    end=$(($(date +%s) + ${RETURN_SECONDS:-60}))
    until replaced; do
        if [ "$(date +%s)" -ge "$end" ]; then
            echo "redis-node.sh: no replica has taken over: back as a primary" >&2
            break
        fi
        sleep 1
    done
fi

# Nodes that all come back under new addresses at once, as after a power cut, seek each other where nobody is any more.
# A node that knows a cluster and sees it broken looks the names up again.
meet() {
    while sleep "${MEET_SECONDS:-10}"; do
        told=$(ask -h "$ADDRESS" cluster info) || continue
        case $told in
            *cluster_state:ok* | *cluster_known_nodes:1[!0-9]*) continue ;;
        esac
        for address in $(addresses); do
            ask -h "$ADDRESS" cluster meet "$address" "$port" >/dev/null || :
        done
    done
}

meet </dev/null &

# The password goes in by standard input: on a command line everybody would see it.
exec redis-server "${CONF:-/etc/redis/redis-cluster.conf}" --dir "$data" --port "$port" --bind "${BIND:-*}" \
    --cluster-announce-ip "$ADDRESS" --maxmemory "$MAXMEMORY" - <<END
requirepass $password
masterauth $password
END
