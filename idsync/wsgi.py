"""For WSGI servers other than the one that `python -m idsync serve` starts: `idsync.wsgi:app` is a factory.

The configuration is $IDSYNC_CONFIG, else ./idsync.toml. The server must hand over the raw request target as RAW_URI or
REQUEST_URI, must fork before it calls the factory, and should be told to write no access log: targets hold IDs.
"""

from flask import Flask

from idsync import config
from idsync.app import create_app
from idsync.service import open_service


def app() -> Flask:
    return create_app(open_service(config.load()))
