"""Middleware of the object server: conditional puts of one object wait for one another.

S3 promises that of many puts with `If-None-Match: *` one succeeds. Swift looks whether the object is there before it
has read the body, so several can. A lock a path closes that gap, in a server that is one process.
"""

from collections.abc import Callable, Iterable
from typing import Any

from eventlet.semaphore import Semaphore

App = Callable[[dict[str, Any], Callable[..., Any]], Iterable[bytes]]
_LOCKS = 256  # paths share them; a lock shared by chance only costs time


def filter_factory(_global: dict[str, str], **_local: str) -> Callable[[App], App]:
    """The filter, as paste.deploy wants it."""
    locks = [Semaphore() for _ in range(_LOCKS)]

    def wrap(app: App) -> App:
        def call(environ: dict[str, Any], start_response: Callable[..., Any]) -> Iterable[bytes]:
            if environ["REQUEST_METHOD"] != "PUT" or environ.get("HTTP_IF_NONE_MATCH") != "*":
                return app(environ, start_response)
            with locks[hash(environ["PATH_INFO"]) % _LOCKS]:
                return app(environ, start_response)

        return call

    return wrap
