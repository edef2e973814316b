"""HEAD requests: the response of GET without its body, for every route and every error."""

from __future__ import annotations

from typing import cast

from litestar.enums import ScopeType
from litestar.types import ASGIApp, HTTPScope, Message, Receive, Scope, Send


def with_head(app: ASGIApp) -> ASGIApp:
    """Wrap an ASGI app: HEAD returns the status and headers of GET without the body."""

    async def handle(scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != ScopeType.HTTP or scope["method"] != "HEAD":
            await app(scope, receive, send)
            return
        # Uvicorn knows from its own scope that no body follows, so Content-Length may be non-zero.
        as_get = cast("HTTPScope", {**scope, "method": "GET"})

        async def send_head(message: Message) -> None:
            if message["type"] == "http.response.body":
                message = {**message, "body": b""}
            await send(message)

        try:
            await app(as_get, receive, send_head)
        finally:
            if "path_template" in as_get:  # set by the router for the metrics
                scope["path_template"] = as_get["path_template"]

    return handle
