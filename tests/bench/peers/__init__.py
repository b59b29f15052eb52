"""What the endpoint is measured against: small servers as one would write them, for `tests.bench.endpoint`."""
