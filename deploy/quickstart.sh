#!/bin/sh
# From a fresh machine to a delivered file: sh deploy/quickstart.sh
# Needs python3 (3.11 or newer), neither root nor a server. Makes .venv and var/quickstart, which each run empties.
set -eu
cd "$(dirname "$0")/.."

work=var/quickstart
config=$work/idsync.toml
python=.venv/bin/python
server=""

fail() {
    echo "quickstart: $1" >&2
    exit 1
}

step() {
    printf '\n== %s\n' "$1"
}

at_the_end() {
    status=$?
    if [ -n "$server" ]; then
        kill "$server" 2>/dev/null || true
        wait "$server" || true
        [ "$status" -eq 0 ] || echo "quickstart: failed, see above; what the endpoint said is in $work/endpoint.log" >&2
    fi
}

# Listening, and the store takes writes. No urllib: it would ask a proxy for 127.0.0.1.
ready() {
    address=$(sed -n 's/.*Listening at: \(http:[^ ]*\).*/\1/p' "$work/endpoint.log")
    [ -n "$address" ] && "$python" -c '
import http.client, sys
connection = http.client.HTTPConnection(sys.argv[1], timeout=10)
connection.request("GET", "/readyz")
sys.exit(connection.getresponse().status != 200)' "${address#http://}" 2>/dev/null
}

# The table goes to stderr, the figures as JSON to stdout: here the table is what is wanted on the screen.
reconcile() {
    "$python" -m reconcile run crm-daily --config "$config" 2>&1 >"$work/$1.json"
}

first_lines() {
    "$python" -c '
import gzip, itertools, json, sys
[file] = json.load(open(sys.argv[1]))["files"]
with gzip.open(file["location"], "rt", encoding="utf-8") as lines:
    sys.stdout.writelines(itertools.islice(lines, 3))' "$work/$1.json"
}

command -v python3 >/dev/null || fail "python3 is missing: install Python 3.11 or newer"
python3 -c 'import sys; sys.exit(sys.version_info < (3, 11))' || fail "$(python3 -V) is too old: install Python 3.11 or newer"

# Not the settings of another installation: the sample must never end up in a real store.
for name in $(env | sed -n 's/^\(IDSYNC_[A-Za-z0-9_]*\)=.*/\1/p'); do
    unset "$name"
done

step "Python packages into .venv (downloaded the first time)"
if ! "$python" -m pip --version >/dev/null 2>&1; then
    python3 -c 'import ensurepip, venv' 2>/dev/null || fail "Python's venv module is missing: install python3-venv"
    python3 -m venv .venv
fi
"$python" -m pip install --quiet --disable-pip-version-check -r requirements.txt || fail "pip could not install requirements.txt, see above"

trap at_the_end EXIT
trap 'exit 130' INT
trap 'exit 143' TERM HUP

step "Configuration and a CRM export, in $work"
rm -rf "$work"
mkdir -p "$work/inbox"
cp deploy/idsync.example.toml "$config"
cp deploy/sample/crm.csv "$work/inbox/crm-monday.csv"
echo "  $config, $work/inbox/crm-monday.csv"

step "The endpoint, on a free port"
"$python" -m idsync serve --config "$config" --bind 127.0.0.1:0 >"$work/endpoint.log" 2>&1 &
server=$!
tries=0
until ready; do
    kill -0 "$server" 2>/dev/null || fail "the endpoint did not start: $(tail -n 3 "$work/endpoint.log")"
    tries=$((tries + 1))
    [ "$tries" -lt 60 ] || fail "the endpoint was not ready within a minute"
    sleep 1
done
echo "  $address"

step "A morning's visitors: real sync calls over HTTP"
"$python" deploy/sample/visits.py "$address" deploy/sample/crm.csv
echo "  python -m idsync stats"
"$python" -m idsync stats --config "$config"

step "Reconcile the export: python -m reconcile run crm-daily"
reconcile first
echo "The file's first lines:"
first_lines first

step "Run again: what was delivered is not delivered twice"
reconcile second

step "A customer who was held comes to the website, and goes out with the next run"
"$python" deploy/sample/visits.py "$address" deploy/sample/crm.csv crm-000296
reconcile third
first_lines third

cat <<EOM

== What next
Everything lies in $work: inbox/, var/delivered/, var/idsync.db, var/reconcile/ (ledger, held records, rejects).
1. Copy deploy/idsync.example.toml to idsync.toml, put in your data source and feed, and serve it behind HTTPS:
     $python -m idsync serve --bind 127.0.0.1:8000
2. Call it from each page that knows the customer, the ID percent-encoded:
     <img src="https://sync.example.com/ibs:dpid=12345&amp;dpuuid=CUSTOMER_ID" width="1" height="1" alt="">
3. Put the exports into the feed's folder, and reconcile them every night with cron:
     15 3 * * *  cd $(pwd) && $python -m reconcile run crm-daily
README.md has the rest: Redis, delivery to S3, every setting.
EOM
