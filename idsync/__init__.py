"""idsync: receives customer-ID to UUID sync calls from a website and keeps them as facts."""
