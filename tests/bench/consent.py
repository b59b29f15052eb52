"""What a verdict on consent costs, the string known or new.

    python -m tests.bench.consent

Prints a Markdown table. Strings are as consent tools make them, from one seed: 900 vendors as bit fields, or 60 as
ranges, the disclosed vendors, a publisher's segment. "known": one of 1,000 strings that were read before, as the calls
of one visitor's pages bring it. "new": never seen. Every string is a fresh object, as it is when it comes off a socket,
so that its hash is reckoned anew. The fastest round counts. "none" is a call that brings no signal at all.
"""

import random
import time
from collections.abc import Sequence
from dataclasses import replace

from idsync.call import SyncCall
from idsync.consent import signals, verdict
from idsync.settings import Privacy
from tests.idsync.consent_strings import GPC_OFF, PURPOSES, VENDOR, Tc, gpp, us, us_names, us_values

SEED = 7
STRINGS = 1000
KNOWN_REPEATS = 50
ROUNDS = 5
VENDORS = 900
LISTED = 1400
PRIVACY = Privacy(gdpr_default="does-not-apply", vendor_id=VENDOR, purposes=PURPOSES)
TARGET_KNOWN = 5.0


def tc(chance: random.Random, *, ranges: bool) -> Tc:
    vendors = frozenset(chance.sample(range(1, LISTED), VENDORS)) | {VENDOR}
    made = Tc(vendors=vendors, vendors_li=vendors, disclosed=vendors | {1}, purposes=range(1, 12), publisher=0)
    if not ranges:
        return made
    few = frozenset(chance.sample(range(1, LISTED), 60)) | {VENDOR}
    return replace(made, vendors=few, vendors_li=few, disclosed=few, ranges=True)


def calls(kind: str) -> list[SyncCall]:
    chance = random.Random(SEED)
    made = []
    for _ in range(STRINGS):
        if kind == "none":
            made.append(SyncCall(dpid="12345"))
        elif kind == "gpp, US national":
            values = [
                chance.randrange(3) if name == "SensitiveDataProcessing" else value
                for name, value in zip(us_names(7), us_values(7), strict=True)
            ]
            made.append(SyncCall(gpp=gpp({6: "1YNN", 7: us(7, values, after=GPC_OFF)}), gpp_sid="7"))
        else:
            text = tc(chance, ranges="ranges" in kind).text()
            made.append(
                SyncCall(gpp=gpp({2: text}), gpp_sid="2") if "gpp" in kind else SyncCall(gdpr="1", gdpr_consent=text)
            )
    return made


def fresh(made: Sequence[SyncCall]) -> list[SyncCall]:
    def copy(text: str | None) -> str | None:
        return text and "".join([text[:1], text[1:]])

    return [call._replace(gdpr_consent=copy(call.gdpr_consent), gpp=copy(call.gpp)) for call in made]


def microseconds(made: Sequence[SyncCall]) -> float:
    start = time.perf_counter()
    for call in made:
        verdict(call, "", PRIVACY)
    return (time.perf_counter() - start) / len(made) * 1e6


def forget() -> None:
    for cache in (signals._tcf_read, signals._gpp_read, signals._holds_macro):
        cache.cache_clear()


def main() -> None:
    print(f"| signals | characters | new, µs | known, µs (target < {TARGET_KNOWN:g}) |\n|---|---|---|---|")
    for kind in ("none", "gdpr, bit fields", "gdpr, ranges", "gpp, TCF bit fields", "gpp, US national"):
        made = calls(kind)
        assert all(verdict(call, "", PRIVACY).allowed for call in made)
        new, known = [], []
        for _ in range(ROUNDS):
            forget()
            new.append(microseconds(fresh(made)))
            known.append(min(microseconds(fresh(made)) for _ in range(KNOWN_REPEATS // ROUNDS)))
        length = max(len(call.gdpr_consent or call.gpp or "") for call in made)
        print(f"| {kind} | {length} | {min(new):.1f} | {min(known):.2f} |")


if __name__ == "__main__":
    main()
