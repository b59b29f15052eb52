"""A feed that has delivered and is watched, and a webhook that hears of it."""

import json
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread
from typing import Any, ClassVar

from idsync.settings import Health, Settings
from reconcile.health.job import Look, look
from reconcile.health.judging import HOUR
from tests.reconcile.samples import NOW, World, uuid


def delivered_once(folder: Path) -> World:
    """A feed that has delivered once."""
    world = World(folder)
    world.sync(("a", uuid(1)))
    world.put("a.csv", [("a", "f", "gold", "24")])
    world.run()
    return world


def watched(world: World, **health: Any) -> Settings:
    """Nothing delivered for more than a day is late."""
    settings = world.settings
    feed = settings.feeds[0].model_copy(update={"expected_every_hours": 24})
    return settings.model_copy(update={"feeds": (feed,), "health": Health.model_validate(health)})


def late(settings: Settings, hours: float = 30) -> Look:
    return look(settings, [], NOW + int(hours * HOUR))


class Hook(BaseHTTPRequestHandler):
    posts: ClassVar[list[dict[str, Any]]]
    status: ClassVar[int]

    def do_POST(self) -> None:
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        if type(self).status == 200:
            type(self).posts.append(body)
        self.send_response(type(self).status)
        self.send_header("Location", "/elsewhere")
        self.send_header("Content-Length", "0")
        self.end_headers()

    def do_GET(self) -> None:  # where a redirect would lead
        self.send_response(200)
        self.send_header("Content-Length", "0")
        self.end_headers()

    def log_message(self, *_: object) -> None:
        pass


@contextmanager
def webhook() -> Iterator[tuple[str, type[Hook]]]:
    kind = type("OwnHook", (Hook,), {"posts": [], "status": 200})
    with ThreadingHTTPServer(("127.0.0.1", 0), kind) as server:
        thread = Thread(target=server.serve_forever, args=(0.02,))
        thread.start()
        try:
            yield f"http://127.0.0.1:{server.server_address[1]}/services/secret-path", kind
        finally:
            server.shutdown()
            thread.join()
