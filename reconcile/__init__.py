"""reconcile: joins offline records to the stored mappings and delivers files that Audience Manager accepts."""
