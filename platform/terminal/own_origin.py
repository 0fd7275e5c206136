"""MLflow's web application, which takes writes from its own page alone.

MLflow itself also takes them from every page of ``http://localhost:ANY_PORT``: any other program with a page on this
machine could delete the runs. A browser names the page that asks in ``Origin`` and ``Sec-Fetch-Site``. A program that
is no browser, such as MLflow's own client, sends neither.
"""

from __future__ import annotations

import importlib
from collections.abc import Awaitable, Callable, Mapping
from typing import Any

READS = ("GET", "HEAD", "OPTIONS")

Application = Callable[[Any, Any, Any], Awaitable[None]]
"""An ASGI application: called with a scope, and with the functions that receive and send."""


def mlflow_application() -> Application:
    """MLflow's application behind the guard. It reads its settings from the environment."""
    from fedrecon.platform.terminal.quiet_page import quiet_page

    return guarded(quiet_page(importlib.import_module("mlflow.server.fastapi_app").app))


def guarded(application: Application) -> Application:
    """The application; a write that another page asks for is answered with 403."""

    async def guard(scope: Any, receive: Any, send: Any) -> None:
        writes = scope["type"] == "websocket" or (scope["type"] == "http" and scope["method"] not in READS)
        if not writes or _is_own(dict(scope["headers"])):
            await application(scope, receive, send)
        elif scope["type"] == "websocket":
            await send({"type": "websocket.close", "code": 1008})
        else:
            await send({"type": "http.response.start", "status": 403, "headers": [(b"content-type", b"text/plain")]})
            await send({"type": "http.response.body", "body": b"writes are taken from this page alone"})

    return guard


def _is_own(headers: Mapping[bytes, bytes]) -> bool:
    origin, asked_by = headers.get(b"origin"), headers.get(b"sec-fetch-site")
    own = b"http://" + headers.get(b"host", b"")
    return origin in (None, own) and asked_by in (None, b"same-origin", b"none")
