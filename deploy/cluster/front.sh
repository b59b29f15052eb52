#!/bin/sh
# nginx with deploy/nginx/idsync.conf before the endpoint's Service, as a user without rights on a root file system that
# nobody can write to: sh front.sh
#
# Environment, with defaults: CONF=/etc/idsync/idsync.conf, ENDPOINT=idsync:8000, CERTIFICATES=/etc/tls, FOLDER=/tmp,
# TLS_PORT=8443, PLAIN_PORT=8080, OPERATORS_PORT=8081, RELOAD_SECONDS=21600.
set -eu
folder=${FOLDER:-/tmp}
endpoint=${ENDPOINT:-idsync:8000}
certificates=${CERTIFICATES:-/etc/tls}

# The endpoint stands in `upstream` twice: where a pod dies with a call, nginx makes it once more, and the Service hands it
# to another pod. A Service is never "down", hence max_fails=0.
sed -e "s|server 127.0.0.1:8000;|server $endpoint max_fails=0; server $endpoint max_fails=0;|" \
    -e "s|listen 443 |listen ${TLS_PORT:-8443} |" \
    -e "s|listen 80 |listen ${PLAIN_PORT:-8080} |" \
    -e "s|listen 127.0.0.1:8081;|listen 127.0.0.1:${OPERATORS_PORT:-8081};|" \
    -e "/listen \[::\]:/d" \
    -e "s|/etc/letsencrypt/live/sync.example.com/fullchain.pem|$certificates/tls.crt|" \
    -e "s|/etc/letsencrypt/live/sync.example.com/privkey.pem|$certificates/tls.key|" \
    -e "s|/var/log/nginx/idsync.log|/dev/stdout|" \
    "${CONF:-/etc/idsync/idsync.conf}" >"$folder/idsync.conf"

cat >"$folder/nginx.conf" <<END
daemon off;
pid $folder/nginx.pid;
error_log /dev/stderr notice;
worker_processes 2;
events { worker_connections 8192; }
http {
    client_body_temp_path $folder/body;
    proxy_temp_path $folder/proxy;
    fastcgi_temp_path $folder/fastcgi;
    uwsgi_temp_path $folder/uwsgi;
    scgi_temp_path $folder/scgi;
    include $folder/idsync.conf;
}
END

# A certificate that was renewed lies in the same files; nginx looks at them when it is told to.
reload() {
    while sleep "${RELOAD_SECONDS:-21600}"; do
        nginx -c "$folder/nginx.conf" -e /dev/stderr -s reload || :
    done
}
reload </dev/null &
exec nginx -c "$folder/nginx.conf" -e /dev/stderr
