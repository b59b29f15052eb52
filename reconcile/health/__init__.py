"""Is all well with the feeds? Looked at every few minutes by cron, told once for each change."""
