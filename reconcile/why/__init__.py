"""Why did it not match? What the IDs of unmatched records have in common with customers that the store does know.

The join compares byte for byte, and stays so. This looks at what it left over and tells, for people to act upon, how
many records would match if case, blanks, leading zeros, encodings or a prefix did not count, are synced under another
data source, or were matched until their mapping expired.

    forms      [P] the ways in which an ID may be written, and the rules that ignore them
    affixes    [P] prefixes and suffixes that IDs share
    diagnosis  [P] the result: figures, samples, sentences
    search     the look into the store
"""

from reconcile.errors import Undiagnosed
from reconcile.why.diagnosis import Diagnosis, Finding, Pair, explain, mask
from reconcile.why.forms import readings
from reconcile.why.search import SAMPLE_IDS, diagnose

__all__ = ["SAMPLE_IDS", "Diagnosis", "Finding", "Pair", "Undiagnosed", "diagnose", "explain", "mask", "readings"]
