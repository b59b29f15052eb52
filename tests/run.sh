#!/bin/sh
# Every check and every test, on real servers, from a fresh machine: sh tests/run.sh [pytest arguments]
# With --every-case each case of each test that runs a feed runs on Spark, too, and not just a test's first.
# Needs python3 (3.11 or newer); installs missing system packages with apt-get, as root or through sudo.
set -eu
cd "$(dirname "$0")/.."

fail() {
    echo "tests/run.sh: $1" >&2
    exit 1
}

command -v python3 >/dev/null || fail "python3 is missing: install Python 3.11 or newer"
python3 -c 'import sys; sys.exit(sys.version_info < (3, 11))' || fail "$(python3 -V) is too old: install Python 3.11 or newer"

# where Debian keeps servers, and users do not look
PATH="$PATH:/usr/local/sbin:/usr/sbin:/sbin"
export PATH
# package:program, for what the tests start
missing=""
for need in redis-server:redis-server php-cli:php nodejs:node chromium:chromium gnupg:gpg \
    openssh-server:sshd openssh-client:ssh-keygen nginx:nginx logrotate:logrotate prometheus:promtool \
    systemd:systemd-analyze openssl:openssl zsh:zsh fish:fish \
    openjdk-17-jre-headless:java; do
    command -v "${need#*:}" >/dev/null || missing="$missing ${need%%:*}"
done
python3 -c 'import ensurepip, venv' 2>/dev/null || missing="$missing python3-venv"
if [ -n "$missing" ]; then
    command -v apt-get >/dev/null || fail "missing:$missing; install them, there is no apt-get here to do it"
    as_root=""
    if [ "$(id -u)" -ne 0 ]; then
        command -v sudo >/dev/null || fail "missing:$missing; run as root, or install them or sudo first"
        as_root="sudo"
    fi
    echo "installing:$missing"
    $as_root apt-get update -qq
    # RUNLEVEL: Debian would start a server that it installs; the tests start their own, on free ports
    # shellcheck disable=SC2086
    $as_root env DEBIAN_FRONTEND=noninteractive RUNLEVEL=1 \
        apt-get install -y -qq --no-install-recommends $missing >/dev/null
fi

# a container may forbid Python to keep what it has compiled: each of a thousand processes would compile all of it anew
unset PYTHONDONTWRITEBYTECODE
[ -x .venv/bin/python ] || python3 -m venv .venv
# what is imported is compiled then; most of Spark and its like never is
.venv/bin/python -m pip install --quiet --no-compile --disable-pip-version-check -r requirements.txt \
    -r deploy/cluster/requirements-spark.txt -r tests/requirements.txt

.venv/bin/ruff check .
.venv/bin/ruff format --check .
.venv/bin/mypy -n 2
# three at a time, also on two cores: much of it waits for servers
exec .venv/bin/python -m pytest -n 3 --dist loadfile "$@"
