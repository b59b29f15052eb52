"""How Redis is reached: TLS, certificates, passwords, URLs, and the settings of them."""

import subprocess
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import pytest

from idsync import config
from idsync.errors import ConfigError, StoreMisconfigured, StoreUnavailable
from tests.contracts.stores import NOW, Kind, rows, sync, uuid
from tests.servers import RedisServer, free_port, redis_server, wait_until


@dataclass(frozen=True)
class Certificates:
    ca: Path
    cert: Path
    key: Path


def certificates(folder: Path) -> Certificates:
    """An authority, and a certificate of its for 127.0.0.1 that serves both ends."""
    folder.mkdir()
    run = partial(subprocess.run, check=True, capture_output=True, cwd=folder, timeout=60)
    new = ["openssl", "req", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes"]
    run([*new, "-x509", "-days", "2", "-keyout", "ca.key", "-out", "ca.crt", "-subj", f"/CN={folder.name}"])
    run([*new, "-keyout", "node.key", "-out", "node.csr", "-subj", "/CN=node"])
    (folder / "names").write_text("subjectAltName=IP:127.0.0.1\n")
    signed = ["-CA", "ca.crt", "-CAkey", "ca.key", "-CAcreateserial", "-days", "2", "-extfile", "names"]
    run(["openssl", "x509", "-req", "-in", "node.csr", *signed, "-out", "node.crt"])
    return Certificates(folder / "ca.crt", folder / "node.crt", folder / "node.key")


def with_tls(files: Certificates, port: int, clients: str) -> list[str]:
    paths = ["--tls-ca-cert-file", str(files.ca), "--tls-cert-file", str(files.cert), "--tls-key-file", str(files.key)]
    return ["--tls-port", str(port), "--tls-auth-clients", clients, *paths]


@pytest.fixture(scope="module")
def authority(tmp_path_factory: pytest.TempPathFactory) -> Certificates:
    return certificates(tmp_path_factory.mktemp("tls") / "ours")


def test_tls_checks_the_authority_and_the_name(authority: Certificates, tmp_path: Path) -> None:
    port = free_port()
    with redis_server(tmp_path / "redis", *with_tls(authority, port, "no")):
        kind = Kind(f"rediss://127.0.0.1:{port}/0")
        store = kind.open(tls_ca_file=authority.ca)
        store.record([sync("c1", 1)])
        assert rows(store) == [("c1", uuid(1), NOW)]
        store.check()
        store.close()
        stranger = certificates(tmp_path / "stranger")
        named = Kind(f"rediss://localhost:{port}/0")  # the certificate is for 127.0.0.1
        for broken in (kind.open(), kind.open(tls_ca_file=stranger.ca), named.open(tls_ca_file=authority.ca)):
            with pytest.raises(StoreMisconfigured, match="CERTIFICATE_VERIFY_FAILED") as caught:
                broken.record([sync("c1", 1)])
            assert "store.tls_ca_file" in caught.value.mend
            broken.close()


def test_tls_shows_its_own_certificate(authority: Certificates, tmp_path: Path) -> None:
    port = free_port()
    with redis_server(tmp_path / "redis", *with_tls(authority, port, "yes")):
        kind = Kind(f"rediss://127.0.0.1:{port}/0")
        store = kind.open(tls_ca_file=authority.ca, tls_cert_file=authority.cert, tls_key_file=authority.key)
        store.check()
        store.close()
        without = kind.open(tls_ca_file=authority.ca)
        with pytest.raises(StoreUnavailable) as caught:
            without.check()
        assert "store.tls_cert_file" in caught.value.mend
        without.close()


def test_a_cluster_with_tls(authority: Certificates, tmp_path: Path) -> None:
    port = free_port()
    options = [*with_tls(authority, port, "yes"), "--cluster-enabled", "yes", "--tls-cluster", "yes"]
    with redis_server(tmp_path / "redis", *options) as node, node.client() as client:
        client.execute_command("CLUSTER ADDSLOTSRANGE", 0, 16383)
        wait_until(node.in_agreement, "the cluster's agreement")
        store = Kind(f"rediss+cluster://127.0.0.1:{port}").open(
            tls_ca_file=authority.ca, tls_cert_file=authority.cert, tls_key_file=authority.key
        )
        store.record([sync("c1", 1)])
        assert rows(store) == [("c1", uuid(1), NOW)]
        store.check()
        store.close()


@pytest.mark.parametrize(
    ("lines", "fault"),
    [
        ('url = "redis://h"\ntls_ca_file = "ca.crt"', "store.tls_ca_file: store.url has no TLS"),
        ('url = "rediss://h"\ntls_key_file = "own.key"', "store.tls_cert_file: missing"),
        ('url = "sqlite:///a.db"\nreplicas = 1', "store.replicas = 1: SQLite has none"),
    ],
)
def test_settings_that_would_have_no_effect_are_faults(lines: str, fault: str) -> None:
    with pytest.raises(ConfigError) as caught:
        config.parse(f"[store]\n{lines}", environ={}, base=Path("/"))
    assert any(each.startswith(fault) for each in caught.value.faults)


def test_a_tls_file_that_is_not_there_is_named(tmp_path: Path) -> None:
    with pytest.raises(StoreMisconfigured, match=r"store\.tls_ca_file .*nowhere"):
        Kind("rediss://127.0.0.1:1/0").open(tls_ca_file=tmp_path / "nowhere")


def test_a_wrong_password_is_told_without_showing_it(tmp_path: Path) -> None:
    with redis_server(tmp_path / "redis", "--requirepass", "correct-horse") as server:
        right = tmp_path / "password"
        right.write_text("correct-horse\n")
        kind = Kind(server.url)
        with_file = kind.open(password_file=right)
        with_file.record([sync("c1", 1)])
        with_file.close()
        for broken in (kind, Kind(server.url.replace("//", "//user:staple-battery@"))):
            store = broken.open()
            with pytest.raises(StoreMisconfigured) as caught:
                store.record([sync("c1", 1)])
            assert "staple" not in str(caught.value)
            assert "password" in caught.value.mend
            store.close()


def test_a_database_that_the_server_has_not_is_told_as_what_never_passes(shared_redis: RedisServer) -> None:
    store = Kind(shared_redis.url.removesuffix("/0") + "/99").open()
    for operation in (store.check, lambda: store.record([sync("c1", 1)])):
        with pytest.raises(StoreMisconfigured, match=r"/99: .*DB index") as caught:
            operation()
        assert "/0 to /15" in caught.value.mend
    store.close()


@pytest.mark.parametrize("url", ["redis://me:sec/ret@127.0.0.1:1/0", "redis://me:secret@127.0.0.1:port/0"])
@pytest.mark.parametrize("cluster", [False, True])
def test_a_url_that_can_not_be_read_is_told_without_its_password(url: str, cluster: bool) -> None:
    store = Kind(url.replace("redis:", "redis+cluster:") if cluster else url).open()
    with pytest.raises(StoreMisconfigured) as caught:
        store.check()
    assert "sec" not in caught.value.problem
    assert "127.0.0.1" in caught.value.problem


def test_a_password_file_that_is_not_there_is_named(tmp_path: Path) -> None:
    with pytest.raises(StoreMisconfigured, match="nowhere"):
        Kind("redis://127.0.0.1:1/0").open(password_file=tmp_path / "nowhere")
