"""Every test that asks for `kind` or `store` runs on each kind of store, at first empty."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from idsync.store.base import MappingStore
from tests.contracts.stores import Kind
from tests.servers import RedisServer


@pytest.fixture(params=["sqlite", "redis", "cluster"])
def kind(request: pytest.FixtureRequest, tmp_path: Path) -> Kind:
    if request.param == "sqlite":
        return Kind(f"sqlite:///{tmp_path / 'deep' / 'idsync.db'}")
    if request.param == "redis":
        server: RedisServer = request.getfixturevalue("shared_redis")
        with server.client() as client:
            client.flushall()
        return Kind(server.url)
    nodes: list[RedisServer] = request.getfixturevalue("shared_cluster")
    for node in nodes:
        with node.client() as client:
            client.flushall()
    return Kind(f"redis+cluster://127.0.0.1:{nodes[0].port}")


@pytest.fixture
def store(kind: Kind) -> Iterator[MappingStore]:
    opened = kind.open()
    yield opened
    opened.close()
