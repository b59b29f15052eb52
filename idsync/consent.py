"""Whether a call may be stored, by the privacy signals on it. Fails closed.

This version reads no consent string, so a signal which says that a privacy regime applies is a refusal, whatever the
string beside it grants.
"""

import re
from typing import Literal, NamedTuple

from idsync.call import SyncCall

# IAB US Privacy string, version 1: notice given, opt-out of sale, LSPA covered; Y, N, or - for "does not apply".
_US_PRIVACY_NOT_OPTED_OUT = re.compile(r"1[YN-][N-][YN-]")


class Verdict(NamedTuple):
    """`reason` is a word for the log and a sentence's end for the reply; it quotes nothing of the call."""

    allowed: bool
    reason: str


def verdict(call: SyncCall, sec_gpc: str, gdpr_default: Literal["applies", "does-not-apply"]) -> Verdict:
    """`sec_gpc` is the value of the Sec-GPC header, "" without one; `gdpr_default` the setting of that name.

    An empty parameter is no signal: that is what an ad server makes of a macro which it has no value for.
    """
    if reason := _refusal(call, sec_gpc):
        return Verdict(False, reason)
    if call.gdpr == "0":
        return Verdict(True, "gdpr=0")
    if gdpr_default == "applies":
        return Verdict(False, 'there is no gdpr signal, and privacy.gdpr_default is "applies"')
    return Verdict(True, "no gdpr signal")


def _refusal(call: SyncCall, sec_gpc: str) -> str | None:
    # Global Privacy Control defines the value 1 alone. Repeated headers arrive joined ("1,1"); those too mean it.
    if sec_gpc.strip() not in {"", "0"}:
        return "the browser sends Global Privacy Control (Sec-GPC)"
    if call.gpp or call.gpp_sid:
        return "a GPP string or section is given, which this version can't read"
    if call.us_privacy and not _US_PRIVACY_NOT_OPTED_OUT.fullmatch(call.us_privacy):
        return "us_privacy opts out of sale or is malformed"
    # gdpr_consent without gdpr=1 says nothing (Audience Manager: each only counts together with the other).
    if call.gdpr and call.gdpr != "0":
        return "gdpr applies, and this version can't read gdpr_consent" if call.gdpr_consent else "gdpr applies"
    return None
