"""Encryption through GnuPG: the right bytes for the right key, or a clear no. Keys as theirs: signed with SHA-1."""

import os
import random
import re
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest

from idsync.errors import ConfigError
from idsync.settings import AUDIENCE_MANAGER_SUBKEY, Pgp
from reconcile import encryption

YEAR_2013 = "20130601T000000"


@dataclass
class Gpg:
    """Somebody's GnuPG with a key: `public` is what they hand out, `fingerprints` those of primary key and subkeys."""

    home: Path

    def __call__(self, *arguments: str, given: bytes = b"") -> bytes:
        command = ["gpg", "--homedir", str(self.home), "--batch", "--quiet", "--pinentry-mode", "loopback", *arguments]
        return subprocess.run(command, input=given, capture_output=True, check=True, timeout=120).stdout

    def generate(self, *, at: str = YEAR_2013, expire: str = "never", subkeys: int = 1) -> None:
        """RSA, signed with SHA-1, dated back."""
        dated = ("--faked-system-time", at, "--cert-digest-algo", "SHA1", "--passphrase", "")
        self(*dated, "--quick-generate-key", "Throw-away", "rsa2048", "cert,sign", expire)
        for number in range(subkeys):
            dated = ("--faked-system-time", f"{int(at[:4]) + number}{at[4:]}", *dated[2:])
            self(*dated, "--quick-add-key", self.fingerprints[0], "rsa2048", "encrypt", expire)

    @property
    def fingerprints(self) -> list[str]:
        listing = self("--with-colons", "--with-subkey-fingerprint", "--list-keys").decode()
        return re.findall(r"^fpr:{9}([0-9A-F]{40}):", listing, re.MULTILINE)

    def hand_out(self, path: Path, *, armored: bool = True) -> Path:
        path.write_bytes(self(*(["--armor"] if armored else []), "--export"))
        return path

    def pgp(self, folder: Path, fingerprint: str = "") -> Pgp:
        public = self.hand_out(folder / "public.asc")
        return Pgp(public_key_file=public, fingerprint=fingerprint or self.fingerprints[1])


@contextmanager
def gpg_of_their_own() -> Iterator[Gpg]:
    # not below pytest's folder: a socket's path may only be so long
    with tempfile.TemporaryDirectory(prefix="gpg-", ignore_cleanup_errors=True) as home:
        try:
            yield Gpg(Path(home))
        finally:
            subprocess.run(["gpgconf", "--homedir", home, "--kill", "all"], check=False, timeout=60)


@pytest.fixture(scope="module")
def adobe() -> Iterator[Gpg]:
    """Two encryption subkeys: GnuPG would take the second."""
    with gpg_of_their_own() as made:
        made.generate(subkeys=2)
        yield made


def pack(pgp: Pgp, *texts: bytes) -> bytes:
    with encryption.opened(pgp) as recipient:
        packer = recipient.packer()
        return b"".join([*(packer.compress(memoryview(text)) for text in texts), packer.flush()])


def homes() -> set[Path]:
    return set(Path(tempfile.gettempdir()).glob("idsync-gpg-*"))


def test_the_keys_of_these_tests_are_signed_as_audience_managers_is(adobe: Gpg, tmp_path: Path) -> None:
    packets = adobe("--list-packets", str(adobe.hand_out(tmp_path / "key"))).decode()
    assert set(re.findall(r"digest algo (\d+)", packets)) == {"2"}  # SHA-1
    assert "created 1370044800" in packets  # June 2013


@pytest.mark.parametrize("armored", [True, False])
def test_the_owner_of_the_key_reads_the_same_bytes(adobe: Gpg, tmp_path: Path, armored: bool) -> None:
    chance = random.Random(1)
    texts = [chance.randbytes(chance.randrange(1, 300_000)) for _ in range(40)] + [b"last\n"]
    public = adobe.hand_out(tmp_path / "public", armored=armored)
    sealed = pack(Pgp(public_key_file=public, fingerprint=adobe.fingerprints[1]), *texts)
    assert adobe("--decrypt", given=sealed) == b"".join(texts)


def test_aes_256_for_the_pinned_subkey_and_nothing_compressed(adobe: Gpg, tmp_path: Path) -> None:
    for fingerprint in adobe.fingerprints[1:]:
        sealed = pack(adobe.pgp(tmp_path, fingerprint), b"x" * 1_000_000)
        assert len(sealed) > 1_000_000
        packets = adobe("--list-packets", "--debug", "0", given=sealed).decode()
        assert re.findall(r"^:pubkey enc packet: .* keyid (\w+)", packets, re.MULTILINE) == [fingerprint[-16:]]
        assert ":compressed packet:" not in packets
        assert ":literal data packet:" in packets
        shown = adobe("--decrypt", "--status-fd", "1", "--output", os.devnull, given=sealed).decode()
        assert "DECRYPTION_INFO 2 9" in shown  # integrity protected; AES-256


def test_two_encryptions_differ_so_the_frozen_one_is_kept(adobe: Gpg, tmp_path: Path) -> None:
    assert pack(adobe.pgp(tmp_path), b"some lines\n") != pack(adobe.pgp(tmp_path), b"some lines\n")


def test_output_comes_while_input_goes_in(adobe: Gpg, tmp_path: Path) -> None:
    """Files are split by what has come out: it must not all wait for the end."""
    with encryption.opened(adobe.pgp(tmp_path)) as recipient:
        packer = recipient.packer()
        given, came = bytes(1 << 20), 0
        for _ in range(16):
            came += len(packer.compress(given))
        assert came > 12 << 20


def test_the_key_ring_is_private_and_goes(adobe: Gpg, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    own = tmp_path / "own"
    own.mkdir(mode=0o700)
    monkeypatch.setenv("GNUPGHOME", str(own))
    before = homes()
    with encryption.opened(adobe.pgp(tmp_path)) as recipient:
        (home,) = homes() - before
        assert home.stat().st_mode & 0o777 == 0o700
        recipient.packer().flush()
    assert homes() == before
    assert list(own.iterdir()) == []


def test_what_ends_in_the_middle_leaves_nothing(adobe: Gpg, tmp_path: Path) -> None:
    before = homes()
    with encryption.opened(adobe.pgp(tmp_path)) as recipient:
        packer = recipient.packer()
        packer.compress(b"half a li")
        assert packer._process.poll() is None
    assert packer._process.returncode is not None
    assert homes() == before


def refused(pgp: Pgp) -> str:
    with pytest.raises(ConfigError) as caught, encryption.opened(pgp):
        pass
    assert caught.value.exit_status == 2
    return str(caught.value)


def test_a_key_that_is_not_the_pinned_one_is_refused(adobe: Gpg, tmp_path: Path) -> None:
    told = refused(adobe.pgp(tmp_path, AUDIENCE_MANAGER_SUBKEY))
    assert f"pgp.fingerprint = {AUDIENCE_MANAGER_SUBKEY}: no such key" in told
    assert all(fingerprint in told for fingerprint in adobe.fingerprints[1:])
    assert str(tmp_path / "public.asc") in told


def test_a_primary_key_can_not_encrypt(adobe: Gpg, tmp_path: Path) -> None:
    told = refused(adobe.pgp(tmp_path, adobe.fingerprints[0]))
    assert "this key can't encrypt" in told
    assert adobe.fingerprints[1] in told


def test_a_key_that_has_expired_is_refused(tmp_path: Path) -> None:
    with gpg_of_their_own() as late:
        late.generate(expire="1y")
        assert "has expired" in refused(late.pgp(tmp_path))


def test_a_key_that_was_revoked_is_refused(tmp_path: Path) -> None:
    with gpg_of_their_own() as lost:
        lost.generate()
        (revocation,) = lost.home.glob("openpgp-revocs.d/*.rev")
        lost("--import", given=revocation.read_bytes().replace(b":-----BEGIN", b"-----BEGIN"))
        assert "was revoked" in refused(lost.pgp(tmp_path))


@pytest.mark.parametrize("content", [b"no key at all", b"", None])
def test_a_file_without_a_key_is_refused(tmp_path: Path, content: bytes | None) -> None:
    path = tmp_path / "public.asc"
    if content is not None:
        path.write_bytes(content)
    told = refused(Pgp(public_key_file=path))
    assert f"pgp.public_key_file = {path}: " in told
    assert ("No such file" if content is None else "holds no OpenPGP key") in told


def test_without_gnupg_the_mend_is_told(adobe: Gpg, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pgp = adobe.pgp(tmp_path)
    monkeypatch.setenv("PATH", str(tmp_path))
    assert "install the program gpg" in refused(pgp)


@pytest.mark.parametrize("status", ["2", "0"])
def test_gpg_that_ends_too_early_is_no_success(
    adobe: Gpg, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, status: str
) -> None:
    real = shutil.which("gpg")
    fake = tmp_path / "bin" / "gpg"
    fake.parent.mkdir()
    fake.write_text(
        f'#!/bin/sh\ncase "$*" in *--encrypt*) head -c 10 >/dev/null; echo "broken" >&2; exit {status};; esac\n'
        f'exec {real} "$@"\n'
    )
    fake.chmod(0o755)
    pgp = adobe.pgp(tmp_path)
    monkeypatch.setenv("PATH", f"{fake.parent}:{os.environ['PATH']}")
    with pytest.raises(ConfigError, match="gpg ended"):
        pack(pgp, *[bytes(1 << 20)] * 8)


def test_gpg_that_is_killed_is_no_success(adobe: Gpg, tmp_path: Path) -> None:
    with encryption.opened(adobe.pgp(tmp_path)) as recipient:
        packer = recipient.packer()
        packer.compress(b"half a li")
        packer._process.kill()
        packer._process.wait(60)
        with pytest.raises(ConfigError, match="gpg ended with status -9"):
            packer.flush()
