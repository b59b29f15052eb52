"""The closed list of what can become of a sync call: HTTP status, Audience Manager's error code, and a label.

Codes: Audience Manager's table of DCS error codes. A call refused for several reasons carries several faults; its
outcome is that of the first.
"""

from enum import Enum
from typing import NamedTuple


class Outcome(Enum):
    """`status`: when it is not a redirect. `code`: for X-Error; None where Audience Manager has no code for it."""

    STORED = ("stored", 200, None)
    SPOOLED = ("spooled", 200, None)
    UUID_TOLD = ("uuid-told", 200, None)
    UUID_ASKED = ("uuid-asked", 302, None)
    OPT_OUT = ("opt-out", 200, None)
    PREFETCHED = ("prefetched", 200, None)
    BOT = ("bot", 200, None)
    OPTED_OUT = ("opted-out", 200, 171)
    CONSENT_DENIED = ("consent-denied", 200, 315)
    ECID_INVALID = ("ecid-invalid", 400, 101)
    UUID_INVALID = ("uuid-invalid", 400, 102)
    NO_CUSTOMER_ID = ("no-customer-id", 400, 104)
    REFERER_REFUSED = ("referer-refused", 400, 109)
    CUSTOMER_ID_INVALID = ("customer-id-invalid", 400, 300)
    SIGNATURE_INVALID = ("signature-invalid", 400, 300)
    TOO_MANY_IDS = ("too-many-ids", 400, 301)
    DATA_SOURCE_UNKNOWN = ("data-source-unknown", 400, 302)
    CUSTOMER_ID_DENIED = ("customer-id-denied", 400, 303)
    DATA_SOURCE_DENIED = ("data-source-denied", 400, 304)
    DEVICE_DENIED = ("device-denied", 400, 306)
    ID_DROPPED = ("id-dropped", 400, 309)
    NAMESPACE_FULL = ("namespace-full", 400, 310)
    WRONGLY_ENCODED = ("wrongly-encoded", 400, 311)
    DEVICE_ID_INVALID = ("device-id-invalid", 400, 312)
    REDIRECT_REFUSED = ("redirect-refused", 400, None)
    CALLBACK_INVALID = ("callback-invalid", 400, None)
    RATE_LIMITED = ("rate-limited", 429, None)
    STORE_UNAVAILABLE = ("store-unavailable", 503, None)
    OVERLOADED = ("overloaded", 503, None)
    FAILED = ("failed", 500, None)

    def __init__(self, label: str, status: int, code: int | None) -> None:
        self.label = label
        self.status = status
        self.code = code


class Fault(NamedTuple):
    """Why a call, or a part of it, was not honoured. `message` names the parameter and the mend, never an ID.

    `reason` is the word for the rule that a customer ID breaks, see `ids`; "" where it is not about one.
    """

    outcome: Outcome
    message: str
    reason: str = ""
