"""Signed syncs: what proves an ID, why anything else does not, and the files that the keys come from."""

import json
import re
from pathlib import Path
from typing import Any
from urllib.parse import parse_qsl

import pytest
from hypothesis import given
from hypothesis import strategies as st

from idsync import config, signature
from idsync.call import SyncCall, parse
from idsync.errors import ConfigError
from idsync.service import milliseconds_now
from idsync.settings import Settings
from idsync.signature import MAX_SIGNATURES, MAX_VALID_SECONDS, Keys, Reason, read_keys, sign, verify
from tests.endpoint import run_idsync
from tests.idsync.samples import OTHER_UUID, UUID

NOW = 1_795_491_420
EXPIRES = NOW + 600
OLD = "11" * 32
NEW = bytes(range(32)).hex()
KEYS = Keys({"2026-11": bytes.fromhex(NEW), "2026-05": bytes.fromhex(OLD)})
OLD_KEYS = Keys({"2026-05": bytes.fromhex(OLD)})
GOOD = sign(KEYS, 12345, "user-4711", UUID, EXPIRES)


def check(
    *signatures: str,
    keys: Keys = KEYS,
    dpid: int = 12345,
    customer_id: str = "user-4711",
    uuid: str = UUID,
) -> Reason | None:
    """What becomes of `signatures`; by default on the call that GOOD was made for."""
    return verify(keys, signatures, dpid, customer_id, uuid, NOW)


# printf 'idsync-sync-v1\n12345\nuser-4711\n\n1795492020' |
#     openssl dgst -sha256 -mac HMAC -macopt hexkey:$NEW -binary | openssl base64 -A | tr +/ -_ | tr -d =
@pytest.mark.parametrize(
    ("customer_id", "uuid", "mac"),
    [
        ("user-4711", "", "H0Hse7z_fIxhsShzdNg-Brr5y2Ujn3ePGFJ5qJ8eGRk"),
        ('Müller & "Söhne"', UUID, "ZXfWIiRTeJEtHpQcevZkeeUzV0EVpnPVkH2K9LiUNNc"),
    ],
)
def test_as_openssl_signs(customer_id: str, uuid: str, mac: str) -> None:
    assert sign(KEYS, 12345, customer_id, uuid, 1_795_492_020) == f"2026-11.1795492020.{mac}"


def test_what_is_signed_is_taken() -> None:
    assert check(GOOD) is None
    assert check(sign(KEYS, 12345, "user-4711", "", EXPIRES), uuid="") is None


@pytest.mark.parametrize(
    "changed",
    [
        {"dpid": 1234},
        {"customer_id": "user-4712"},
        {"customer_id": "User-4711"},
        {"customer_id": "user-4711 "},
        {"uuid": OTHER_UUID},
        {"uuid": ""},
    ],
)
def test_it_proves_nothing_else(changed: dict[str, Any]) -> None:
    assert check(GOOD, **changed) is Reason.MISMATCH


def test_without_a_uuid_it_is_for_no_call_with_one() -> None:
    assert check(sign(KEYS, 12345, "user-4711", "", EXPIRES)) is Reason.MISMATCH


@pytest.mark.parametrize(
    ("expires", "reason"),
    [
        (NOW + 1, None),
        (NOW, Reason.EXPIRED),
        (NOW - 1, Reason.EXPIRED),
        (1, Reason.EXPIRED),
        (NOW + MAX_VALID_SECONDS, None),
        (NOW + MAX_VALID_SECONDS + 1, Reason.TOO_FAR_AHEAD),
        (9_999_999_999, Reason.TOO_FAR_AHEAD),
    ],
)
def test_expiry(expires: int, reason: Reason | None) -> None:
    assert check(sign(KEYS, 12345, "user-4711", UUID, expires)) is reason


def test_a_later_expiry_can_not_be_written_in() -> None:
    assert check(GOOD.replace(str(EXPIRES), str(EXPIRES + 1))) is Reason.MISMATCH


MAC = GOOD.rpartition(".")[2]


@pytest.mark.parametrize(
    "given",
    [
        "",
        "..",
        MAC,
        f"{EXPIRES}.{MAC}",
        f".{EXPIRES}.{MAC}",
        f"2026-11..{MAC}",
        f"2026-11.{EXPIRES}.",
        f"2026-11.{EXPIRES}.{MAC}=",
        f"2026-11.{EXPIRES}.{MAC}\n",
        f" 2026-11.{EXPIRES}.{MAC}",
        f"2026-11.{EXPIRES}.{MAC[:-1]}",
        f"2026-11.{EXPIRES}.{MAC[:-1]}+",
        f"2026-11.0{EXPIRES}.{MAC}",
        f"2026-11.+{EXPIRES}.{MAC}",
        f"2026-11.-1.{MAC}",
        f"2026-11.1{EXPIRES}0.{MAC}",
        f"2026-11.1{chr(0x661) * 9}.{MAC}",
        f"{'k' * 33}.{EXPIRES}.{MAC}",
        f"2026é11.{EXPIRES}.{MAC}",
    ],
)
def test_malformed(given: str) -> None:
    assert check(given) is Reason.MALFORMED


def test_missing_and_unknown() -> None:
    assert check() is Reason.MISSING
    assert check(GOOD.replace("2026-11", "2026-12")) is Reason.UNKNOWN_KEY
    assert check(GOOD.replace("2026-11", "2026-05")) is Reason.MISMATCH


@given(at=st.integers(0, len(GOOD) - 1), to=st.characters(max_codepoint=0x17F))
def test_no_other_character_anywhere(at: int, to: str) -> None:
    changed = GOOD[:at] + to + GOOD[at + 1 :]
    assert (check(changed) is None) == (changed == GOOD)


@given(
    customer_id=st.text(st.characters(exclude_categories=["Cs", "Cc"]), min_size=1),
    uuid=st.sampled_from(["", UUID]),
    at=st.integers(0),
    to=st.characters(exclude_categories=["Cs", "Cc"]),
)
def test_no_other_character_in_the_id(customer_id: str, uuid: str, at: int, to: str) -> None:
    signed = sign(KEYS, 777, customer_id, uuid, EXPIRES)
    assert verify(KEYS, [signed], 777, customer_id, uuid, NOW) is None
    at %= len(customer_id)
    other = customer_id[:at] + to + customer_id[at + 1 :]
    assert (verify(KEYS, [signed], 777, other, uuid, NOW) is None) == (other == customer_id)


def test_one_of_several_is_enough() -> None:
    """A call with several IDs has a signature for each, in no order."""
    others = [sign(KEYS, 12345, f"user-{number}", UUID, EXPIRES) for number in range(MAX_SIGNATURES - 1)]
    assert check(*others, GOOD) is None
    assert check(GOOD, *others) is None
    assert check(*others) is Reason.MISMATCH
    assert check(GOOD, *others, others[0]) is Reason.MALFORMED


def test_of_several_the_nearest_tells_why() -> None:
    late = sign(KEYS, 12345, "user-4711", UUID, NOW)
    other = sign(KEYS, 777, "user-4711", UUID, EXPIRES)
    unknown = GOOD.replace("2026-11", "2026-12")
    assert check(other, late, unknown, "x") is Reason.EXPIRED
    assert check("x", unknown, other) is Reason.MISMATCH
    assert check("x", unknown) is Reason.UNKNOWN_KEY


def test_rotation() -> None:
    """New key first: it signs, the old one still verifies. Then the old one goes."""
    before = sign(OLD_KEYS, 12345, "user-4711", UUID, EXPIRES)
    assert before.startswith("2026-05.")
    assert check(before) is None
    assert GOOD.startswith("2026-11.")
    assert check(before, keys=Keys({"2026-11": bytes.fromhex(NEW)})) is Reason.UNKNOWN_KEY
    assert check(GOOD, keys=OLD_KEYS) is Reason.UNKNOWN_KEY


def test_reasons_have_their_own_words() -> None:
    labels = {reason.label for reason in Reason}
    assert len(labels) == len(Reason)
    assert all(re.fullmatch(r"[a-z-]+", label) for label in labels)
    assert all("d_sig" in reason.explanation for reason in Reason)


# --- the file --------------------------------------------------------------------------------------------------------


def key_file(folder: Path, text: str | bytes, mode: int = 0o600) -> Path:
    path = folder / "signing-keys"
    path.write_bytes(text.encode() if isinstance(text, str) else text)
    path.chmod(mode)
    return path


def faults(path: Path) -> tuple[str, ...]:
    with pytest.raises(ConfigError) as caught:
        read_keys(path)
    assert str(path) in str(caught.value)
    return caught.value.faults


@pytest.mark.parametrize("mode", [0o600, 0o400, 0o640, 0o440])
def test_keys(tmp_path: Path, mode: int) -> None:
    keys = read_keys(key_file(tmp_path, f"# of the shop\r\n\n 2026-11\t{NEW.upper()} \r\n2026-05 {OLD}", mode))
    assert keys == KEYS
    assert list(keys.secrets) == ["2026-11", "2026-05"]


def test_keys_can_not_be_changed_nor_printed(tmp_path: Path) -> None:
    keys = read_keys(key_file(tmp_path, f"a {OLD}"))
    with pytest.raises(TypeError):
        keys.secrets["a"] = b""  # type: ignore[index]
    with pytest.raises(AttributeError):
        keys.secrets = {}  # type: ignore[misc]
    for shown in (repr(keys), str(keys), f"{keys}", repr([keys]), f"{KEYS!r}"):
        assert "11" not in shown


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("", "holds no key"),
        ("# a\n\n", "holds no key"),
        (OLD, "line 1: must be a key ID"),
        (f"a {OLD[2:]}", "line 1: must be a key ID"),
        (f"a {OLD}1", "line 1: must be a key ID"),
        (f"a {OLD[:-1]}g", "line 1: must be a key ID"),
        (f"a {OLD} # mine", "line 1: must be a key ID"),
        (f"a.b {OLD}", "line 1: must be a key ID"),
        (f"{'a' * 33} {OLD}", "line 1: must be a key ID"),
        (f"\ufeffa {OLD}", "line 1: must be a key ID"),
        (b"\xff " + OLD.encode(), "line 1: must be a key ID"),
        (f"a {OLD}\n\na {NEW}", "line 3: the key ID stands on an earlier line"),
        (f"a {OLD}\n#\nb {OLD}", "line 3: the secret is that of an earlier line"),
    ],
)
def test_a_faulty_file(tmp_path: Path, text: str | bytes, expected: str) -> None:
    [fault] = faults(key_file(tmp_path, text))
    assert fault.startswith(expected)
    assert OLD[:8] not in fault


def test_all_faults_of_a_file_at_once(tmp_path: Path) -> None:
    found = faults(key_file(tmp_path, f"a {OLD}\nb\na {NEW}\nc {NEW}", 0o644))
    assert [fault.partition(":")[0] for fault in found] == ["open to others (mode 0644)", "line 2", "line 3"]


@pytest.mark.parametrize("mode", [0o604, 0o644, 0o620, 0o602, 0o601, 0o777])
def test_a_file_open_to_others(tmp_path: Path, mode: int) -> None:
    assert f"mode {mode:04o}" in faults(key_file(tmp_path, f"a {OLD}", mode))[0]


def test_a_file_that_can_not_be_read(tmp_path: Path) -> None:
    assert faults(tmp_path / "none") == ("can't be read: No such file or directory",)
    assert faults(tmp_path) == ("can't be read: Is a directory",)


# --- settings --------------------------------------------------------------------------------------------------------


CONFIGURATION = """
[store]
url = "sqlite:///idsync.db"
[privacy]
gdpr_default = "does-not-apply"
[[data_sources]]
name = "crm"
dpid = 12345
[[data_sources]]
name = "shop"
dpid = 777
"""


def settings(folder: Path, *of_shop: str) -> Settings:
    """`of_shop`: lines for the second data source."""
    return config.parse(CONFIGURATION + "\n".join(of_shop), environ={}, base=folder)


def test_settings(tmp_path: Path) -> None:
    crm, shop = settings(tmp_path, 'signature = "required"', 'signing_keys_file = "keys"').data_sources
    assert (crm.signature, crm.signing_keys_file) == ("off", None)
    assert (shop.signature, shop.signing_keys_file) == ("required", tmp_path / "keys")


@pytest.mark.parametrize(
    ("lines", "fault"),
    [
        (['signature = "required"'], 'data_sources[1].signature = "required": needs signing_keys_file'),
        (['signature = "optional"'], 'data_sources[1].signature = "optional": needs signing_keys_file'),
        (['signature = "on"', 'signing_keys_file = "keys"'], 'data_sources[1].signature = "on": must be'),
        (['signature = "required"', "signing_keys_file = 7"], "data_sources[1].signing_keys_file = 7: "),
    ],
)
def test_faulty_settings(tmp_path: Path, lines: list[str], fault: str) -> None:
    with pytest.raises(ConfigError) as caught:
        settings(tmp_path, *lines)
    [found] = caught.value.faults
    assert found.startswith(fault)


def test_the_keys_of_those_that_verify(tmp_path: Path) -> None:
    key_file(tmp_path, f"a {OLD}")
    for policy, dpids in (("off", set()), ("optional", {777}), ("required", {777})):
        chosen = settings(tmp_path, f'signature = "{policy}"', 'signing_keys_file = "signing-keys"')
        assert set(signature.read_all(chosen.data_sources)) == dpids


def test_faulty_files_of_all_data_sources_at_once(tmp_path: Path) -> None:
    [source] = settings(tmp_path, 'signature = "required"', 'signing_keys_file = "none"').data_sources[1:]
    other = source.model_copy(update={"name": "web", "signing_keys_file": key_file(tmp_path, "a b")})
    with pytest.raises(ConfigError) as caught:
        signature.read_all([source, other])
    assert [fault.partition(": ")[0] for fault in caught.value.faults] == [
        'signing_keys_file of data source "shop"',
        'signing_keys_file of data source "web"',
    ]


# --- the command -----------------------------------------------------------------------------------------------------


@pytest.fixture
def path(tmp_path: Path) -> Path:
    """A configuration whose shop has keys."""
    key_file(tmp_path, f"2026-11 {NEW}\n2026-05 {OLD}")
    path = tmp_path / "idsync.toml"
    path.write_text(CONFIGURATION + 'signing_keys_file = "signing-keys"\n')
    return path


@pytest.mark.parametrize(("uuid", "valid_for", "seconds"), [("", "", 600), (UUID, "90s", 90), ("", "7d", 604_800)])
def test_the_command_signs(path: Path, uuid: str, valid_for: str, seconds: int) -> None:
    customer_id = "Ünï & co+1"
    options = [*(["--uuid", uuid] if uuid else []), *(["--valid-for", valid_for] if valid_for else [])]
    before = milliseconds_now() // 1000
    done = run_idsync("sign", "shop", customer_id, *options, "--config", path)
    after = milliseconds_now() // 1000
    assert (done.returncode, done.stderr) == (0, "")
    answer = json.loads(done.stdout)
    assert list(answer) == ["d_sig", "expires", "query"]
    assert before + seconds <= answer["expires"] <= after + seconds
    assert verify(KEYS, [answer["d_sig"]], 777, customer_id, uuid, after) is None
    assert verify(KEYS, [answer["d_sig"]], 777, customer_id, uuid, answer["expires"]) is Reason.EXPIRED
    call = parse(f"/ibs:{answer['query']}")
    assert isinstance(call, SyncCall)
    assert (call.dpid, call.dpuuid, call.d_uuid or "") == ("777", customer_id, uuid)
    assert dict(parse_qsl(answer["query"]))["d_sig"] == answer["d_sig"]


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (["crm", "a"], 'data source "crm" has no signing keys'),
        (["nowhere", "a"], "no data source"),
        (["shop", "a:b"], "':'"),
        (["shop", "a", "--uuid", UUID[1:]], "38 decimal digits"),
        (["shop", "a", "--valid-for", "8d"], "7d at most"),
        (["shop", "a", "--valid-for", "0s"], "7d at most"),
        (["shop", "a", "--valid-for", "10"], "7d at most"),
        (["shop", "a", "--valid-for", "604801s"], "7d at most"),
    ],
)
def test_the_command_refuses(path: Path, arguments: list[str], told: str) -> None:
    done = run_idsync("sign", *arguments, "--config", path)
    assert (done.returncode, done.stdout) == (2, "")
    assert told in done.stderr
    assert "Traceback" not in done.stderr


def test_the_command_tells_no_secret(path: Path) -> None:
    key_file(path.parent, f"2026-11 {NEW}\n2026-11 {OLD}\n{OLD}", 0o644)
    done = run_idsync("sign", "shop", "a", "--config", path)
    assert (done.returncode, done.stdout) == (2, "")
    assert "3 faults" in done.stderr
    assert not any(secret[:8] in done.stderr for secret in (OLD, NEW))
