"""Whether a call may be stored, by the privacy signals on it. Fails closed."""

from idsync.consent.signals import DENIALS, Verdict, Word, verdict

__all__ = ["DENIALS", "Verdict", "Word", "verdict"]
