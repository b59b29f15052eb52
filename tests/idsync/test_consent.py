"""Every privacy signal, alone and against the default: what is not plainly allowed is refused."""

from typing import Literal

import pytest

from idsync.call import SyncCall
from idsync.consent import verdict

ALLOWED: list[tuple[SyncCall, str]] = [
    (SyncCall(), ""),
    (SyncCall(), "0"),
    (SyncCall(gdpr="0"), ""),
    (SyncCall(gdpr="0", gdpr_consent="CPXxRfAPXxRfAAfKABENB"), ""),
    (SyncCall(gdpr="", gdpr_consent="", gpp="", gpp_sid="", us_privacy=""), ""),
    (SyncCall(gdpr_consent="CPXxRfAPXxRfAAfKABENB"), ""),
    (SyncCall(us_privacy="1---"), ""),
    (SyncCall(us_privacy="1YNN"), ""),
    (SyncCall(us_privacy="1NN-"), ""),
]
REFUSED: list[tuple[SyncCall, str]] = [
    (SyncCall(), "1"),
    (SyncCall(), "1,1"),
    (SyncCall(gdpr="0"), "1"),
    (SyncCall(gdpr="1"), ""),
    (SyncCall(gdpr="1", gdpr_consent="CPXxRfAPXxRfAAfKABENB"), ""),
    (SyncCall(gdpr="1", gdpr_consent="CA"), ""),
    (SyncCall(gdpr="2"), ""),
    (SyncCall(gdpr="00"), ""),
    (SyncCall(gdpr="false"), ""),
    (SyncCall(gdpr="${GDPR}"), ""),
    (SyncCall(gdpr="0", gpp="DBACNYA~CPXxRfAPXxRfAAfKABENB"), ""),
    (SyncCall(gpp_sid="7"), ""),
    (SyncCall(gpp_sid="-1"), ""),
    (SyncCall(gdpr="0", us_privacy="1YYN"), ""),
    (SyncCall(us_privacy="1NY-"), ""),
    (SyncCall(us_privacy="1YN"), ""),
    (SyncCall(us_privacy="2YNN"), ""),
    (SyncCall(us_privacy="1YNNN"), ""),
    (SyncCall(us_privacy="1ynn"), ""),
    (SyncCall(us_privacy="${US_PRIVACY}"), ""),
]


@pytest.mark.parametrize(("call", "sec_gpc"), ALLOWED)
def test_allowed_where_gdpr_does_not_apply_by_default(call: SyncCall, sec_gpc: str) -> None:
    assert verdict(call, sec_gpc, "does-not-apply").allowed


@pytest.mark.parametrize(("call", "sec_gpc"), ALLOWED)
def test_where_gdpr_applies_by_default_only_a_zero_allows(call: SyncCall, sec_gpc: str) -> None:
    assert verdict(call, sec_gpc, "applies").allowed is (call.gdpr == "0")


@pytest.mark.parametrize("gdpr_default", ["applies", "does-not-apply"])
@pytest.mark.parametrize(("call", "sec_gpc"), REFUSED)
def test_refused(call: SyncCall, sec_gpc: str, gdpr_default: Literal["applies", "does-not-apply"]) -> None:
    decided = verdict(call, sec_gpc, gdpr_default)
    assert not decided.allowed
    assert decided.reason
