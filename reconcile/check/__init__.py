"""Is this a file that Audience Manager takes? `python -m reconcile check` for inbound and ID-sync files of anybody."""
