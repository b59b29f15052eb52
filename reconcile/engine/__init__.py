"""The join: records and mappings in, rendered lines out, every record accounted for."""
