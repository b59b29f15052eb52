"""Whether a call may be stored, by the privacy signals on it. Fails closed.

In the order of the checks: Global Privacy Control (the header Sec-GPC), `gpp` with `gpp_sid`, `gdpr` with
`gdpr_consent`, `us_privacy`, and for a call that says nothing of the GDPR, `privacy.gdpr_default`. Every signal is
heard: one that says no refuses, whatever another grants, and so does one that can't be read, or stands there twice:
whoever put it there the second time had another in mind. The first no is told.
"""

from functools import lru_cache
from typing import Literal, NamedTuple, get_args
from urllib.parse import unquote

from idsync.call import SyncCall
from idsync.consent import gpp, tcf, us
from idsync.consent.bits import Unreadable
from idsync.placeholders import holds_macro
from idsync.settings import Privacy

# By consent, because no law that a signal knows of applies, because there is no signal.
Grant = Literal["granted", "not-applicable", "no-signal"]
# By the signal of that name, as a signal that can't be read, as two that can't both be true, by privacy.gdpr_default.
Denial = Literal["gpc", "gpp", "tcf", "us-privacy", "unreadable", "contradictory", "default"]
DENIALS: tuple[Denial, ...] = get_args(Denial)
Word = Grant | Denial
# Verdicts by whole string: consent tools make one for each visitor and choice, and pages send it again and again.
_CACHED = 4096


class Verdict(NamedTuple):
    """`word`: for a label. `reason`: a sentence's end for the reply; it quotes nothing of the call."""

    allowed: bool
    word: Word
    reason: str


_NO_SIGNAL = Verdict(True, "no-signal", "no signal")
_GDPR_DOES_NOT_APPLY = Verdict(True, "not-applicable", "gdpr=0")
_NO_SECTION = frozenset[int]()


def verdict(call: SyncCall, sec_gpc: str, privacy: Privacy) -> Verdict:
    """`sec_gpc` is the value of the Sec-GPC header, "" without one.

    An empty parameter is no signal: that is what an ad server makes of a macro which it has no value for. A macro that
    nobody expanded is one that can't be read.
    """
    vendor, purposes = privacy.vendor_id, privacy.purposes
    if sec_gpc or call.repeats_signal:
        refused = _unread(sec_gpc, repeated=call.repeats_signal)
        if refused is not None:
            return refused
    found, sections = _NO_SIGNAL, _NO_SECTION
    if call.gpp or call.gpp_sid:
        found, sections = _gpp(call.gpp or "", call.gpp_sid or "", vendor, purposes)
        if not found.allowed:
            return found
    gdpr = _gdpr(call.gdpr or "", call.gdpr_consent or "", vendor, purposes, sections)
    if gdpr is not None:
        if not gdpr.allowed:
            return gdpr
        found = gdpr
    if call.us_privacy:
        us_privacy = _us_privacy(call.us_privacy)
        if not us_privacy.allowed:
            return us_privacy
        found = us_privacy if found is _NO_SIGNAL else found
    # Neither a US signal nor "no section is in force" says anything of the GDPR.
    if gdpr is None and gpp.TCF_EU_SECTION not in sections and privacy.gdpr_default == "applies":
        return Verdict(False, "default", 'there is no gdpr signal, and privacy.gdpr_default is "applies"')
    return found


def _unread(sec_gpc: str, *, repeated: bool) -> Verdict | None:
    """A no for which no string need be read."""
    # Global Privacy Control defines the value 1 alone. Repeated headers arrive joined ("1,1"); those too mean it.
    if sec_gpc.strip() not in {"", "0"}:
        return Verdict(False, "gpc", "the browser sends Global Privacy Control (Sec-GPC)")
    return Verdict(False, "contradictory", "a privacy signal is given more than once") if repeated else None


def _gpp(text: str, sid: str, vendor: int, purposes: tuple[int, ...]) -> tuple[Verdict, frozenset[int]]:
    """With the sections in force."""
    if not text or not sid:
        return Verdict(False, "contradictory", "gpp and gpp_sid count only together"), _NO_SECTION
    if len(text) + len(sid) > gpp.MAX_LENGTH:
        return Verdict(False, "unreadable", "gpp is too long"), _NO_SECTION
    return _gpp_read(text, sid, vendor, purposes)


@lru_cache(maxsize=_CACHED)
def _gpp_read(text: str, sid: str, vendor: int, purposes: tuple[int, ...]) -> tuple[Verdict, frozenset[int]]:
    try:
        read = gpp.read(text, sid, vendor, purposes)
    except Unreadable as unreadable:
        return Verdict(False, "unreadable", f"gpp {unreadable}"), _NO_SECTION
    if read.refusal:
        return Verdict(False, "gpp", f"gpp {read.refusal}"), read.in_force
    if not read.in_force:
        return Verdict(True, "not-applicable", "no section of gpp is in force"), read.in_force
    return Verdict(True, "granted", "gpp grants it"), read.in_force


def _gdpr(applies: str, text: str, vendor: int, purposes: tuple[int, ...], sections: frozenset[int]) -> Verdict | None:
    """None where `gdpr` is not given: then `gdpr_consent` does not count (Audience Manager: each only with the other).

    Nor does it with gdpr=0; but a macro in it shows that the signals of the call were not filled in.
    """
    if len(text) > tcf.MAX_LENGTH:
        return Verdict(False, "unreadable", "gdpr_consent is too long")
    if applies == "1":
        return _tcf_read(text, vendor, purposes)
    if applies not in {"", "0"}:
        return Verdict(False, "unreadable", "gdpr is neither 0 nor 1")
    if text and _holds_macro(text):
        return Verdict(False, "unreadable", "gdpr_consent holds a macro")
    if applies and gpp.TCF_EU_SECTION in sections:
        return Verdict(False, "contradictory", "gdpr=0, and gpp_sid says that the GDPR applies")
    return _GDPR_DOES_NOT_APPLY if applies else None


@lru_cache(maxsize=_CACHED)
def _tcf_read(text: str, vendor: int, purposes: tuple[int, ...]) -> Verdict:
    if not text:
        return Verdict(False, "tcf", "gdpr applies, and there is no gdpr_consent")
    try:
        refusal = tcf.refusal(text, vendor, purposes)
    except Unreadable as unreadable:
        return Verdict(False, "unreadable", f"gdpr_consent {unreadable}")
    if refusal:
        return Verdict(False, "tcf", f"gdpr_consent {refusal}")
    return Verdict(True, "granted", "gdpr_consent grants it")


@lru_cache(maxsize=_CACHED)
def _holds_macro(text: str) -> bool:
    # Encoded once more it is one still; `redirect` knows that spelling too.
    return holds_macro(text) or holds_macro(unquote(text))


def _us_privacy(text: str) -> Verdict:
    try:
        refusal = us.us_privacy_refusal(text)
    except Unreadable as unreadable:
        return Verdict(False, "unreadable", f"us_privacy {unreadable}")
    if refusal:
        return Verdict(False, "us-privacy", f"us_privacy {refusal}")
    return Verdict(True, "granted", "us_privacy does not opt out")
