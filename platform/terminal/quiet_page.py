"""MLflow's page with its Assistant closed.

On the first visit of a browser the page opens the Assistant over a quarter of the window, unless the browser's storage
says that it has done so before. A script at the head of the page says it, before MLflow's own scripts run. The button
that opens the Assistant stays.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, MutableMapping
from typing import Any

OPENED = "mlflow.assistant.fab.autoOpenedOnFirstLoad_v1"
"""The key of the storage in which MLflow's page notes that it has opened the Assistant."""

SCRIPT = f'<script>try {{ localStorage.setItem("{OPENED}", "true") }} catch {{}}</script>'.encode()
_HEAD = b"<head>"


def quiet_page(application: Callable[[Any, Any, Any], Awaitable[None]]) -> Callable[[Any, Any, Any], Awaitable[None]]:
    """The application; the script is in its page."""

    async def answer(scope: Any, receive: Any, send: Any) -> None:
        start: MutableMapping[str, Any] = {}
        body = b""

        async def with_script(message: MutableMapping[str, Any]) -> None:
            nonlocal body
            if message["type"] == "http.response.start":
                start.update(message)
                return
            body += message.get("body", b"")
            if message.get("more_body"):
                return
            changed = body.replace(_HEAD, _HEAD + SCRIPT, 1)
            kept = [(key, value) for key, value in start["headers"] if key.lower() not in (b"content-length", b"etag")]
            await send({**start, "headers": [*kept, (b"content-length", str(len(changed)).encode())]})
            await send({"type": "http.response.body", "body": changed})

        is_page = scope["type"] == "http" and scope["method"] == "GET" and scope["path"] == "/"
        if is_page:
            asked = [one for one in scope["headers"] if one[0] not in (b"if-none-match", b"if-modified-since")]
            await application({**scope, "headers": asked}, receive, with_script)
        else:
            await application(scope, receive, send)

    return answer
