"""gunicorn's limits for the endpoint, with their reasons.

`python -m idsync serve` reads this file (another: --gunicorn-conf PATH). What must not vary stands in idsync/server.py:
the worker, its parser, and that no request is logged.
"""

# --- what a request may be -------------------------------------------------------------------------------------------

# gunicorn's maximum, where its default is 4,094. A redir may nest a URL that nests a consent string.
limit_request_line = 8190
# Browsers send about 15 to 25, proxies add some.
limit_request_fields = 64
# A website's cookies all come along, up to 8 kB of them in one line.
limit_request_field_size = 8190

# --- connections -----------------------------------------------------------------------------------------------------

# Calls that arrive while all workers are busy wait in the kernel, not refused: a second of them at full speed. The
# kernel takes less if net.core.somaxconn is less (4,096 since Linux 5.4).
backlog = 2048
# Seconds; longer than a proxy in front keeps one (nginx: 60). The proxy closes it first, and never meets a reset.
keepalive = 65

# --- time-outs, in seconds -------------------------------------------------------------------------------------------

# A worker that has not moved for so long is replaced. Waiting for store and spool takes 10 at the very most.
timeout = 30
# On SIGTERM, for calls under way and writes that wait. More than a store takes to fail, less than Kubernetes' 30.
graceful_timeout = 25

# --- workers ---------------------------------------------------------------------------------------------------------

# Never: a worker that leaves in mid-traffic resets connections, and there is no leak to hide from.
max_requests = 0
