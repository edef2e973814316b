"""HEAD: the answer to a GET without its body, of every route and of every error."""

from __future__ import annotations

from typing import cast

from litestar.enums import ScopeType
from litestar.types import ASGIApp, HTTPScope, Message, Receive, Scope, Send


def with_head(app: ASGIApp) -> ASGIApp:
    """Wrap an ASGI app so that HEAD has the status and the headers that GET would have, and no body."""

    async def answer(scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != ScopeType.HTTP or scope["method"] != "HEAD":
            await app(scope, receive, send)
            return
        # The server knows from its own scope that no body follows, whatever Content-Length is.
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

    return answer
