"""The Litestar app: routes, the watcher's life, and errors as sentences."""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import AsyncIterator, Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from litestar import Litestar, Request, Response
from litestar.datastructures import State as AppState
from litestar.enums import MediaType
from litestar.exceptions import HTTPException, ValidationException
from litestar.openapi import OpenAPIConfig
from litestar.openapi.spec import License

from serve.answers import Fault
from serve.head import with_head
from serve.metrics import Metrics
from serve.model import MAX_BODY_BYTES
from serve.routes import ROUTES, Refusal, predicting
from serve.schema import LoadedModelSchema
from serve.state import Watcher

logger = logging.getLogger("serve")

_SENTENCES = {
    404: "There is nothing at {path}; /schema lists what there is.",
    405: "{path} does not answer {method}; /schema says what it answers.",
    413: f"The body is larger than {MAX_BODY_BYTES // 2**20} MiB, more than 1,000 rows need.",
}


def wall_clock() -> datetime:
    """Return now, UTC."""
    return datetime.now(tz=UTC)


def create_app(serving_dir: Path, *, clock: Callable[[], datetime] = wall_clock) -> Litestar:
    """Build the server on a published folder, which may still be empty.

    Args:
        serving_dir: the folder bundles are published to; it is watched, never written.
        clock: what the age of a forecast is measured by.
    """
    watcher = Watcher(serving_dir)
    metrics = Metrics(watcher, clock)

    @contextlib.asynccontextmanager
    async def watching(_app: Litestar) -> AsyncIterator[None]:
        watcher.look()
        task = asyncio.create_task(watcher.watch())
        try:
            yield
        finally:
            task.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await task

    app = Litestar(
        route_handlers=ROUTES,
        lifespan=[watching],
        state=AppState({"watcher": watcher, "clock": clock, "metrics": metrics}),
        exception_handlers={HTTPException: refuse, Exception: fail},
        openapi_config=OpenAPIConfig(
            title="btc_assets forecasts",
            version="1",
            description="Hourly Bitcoin forecasts: direction, return quantiles and price bands.",
            license=License(name="Apache-2.0", identifier="Apache-2.0"),
            path="/schema",
            render_plugins=[LoadedModelSchema(path=["/", "/openapi.json"], media_type=MediaType.JSON)],
        ),
        logging_config=None,
    )
    # Outside the router: a middleware of Litestar's would not see what the router refuses.
    app.asgi_handler = metrics.measured(predicting(with_head(app.asgi_handler), app.state))
    return app


def refuse(request: Request[Any, Any, Any], error: HTTPException) -> Response[Fault]:
    """Answer a refused request with a sentence and the field to change."""
    sentence, field = error.detail, getattr(error, "field", None)
    if isinstance(error, ValidationException) and isinstance(error.extra, list) and error.extra:
        first: Any = error.extra[0]
        field = str(first.get("key", "")) or None
        sentence = f"{field!r} cannot be used: {first.get('message', error.detail)}."
    elif not isinstance(error, Refusal) and error.status_code in _SENTENCES:
        sentence = _SENTENCES[error.status_code].format(path=request.url.path, method=request.method)
        field = "body" if error.status_code == 413 else None
    return Response(Fault(sentence, field), status_code=error.status_code, headers=error.headers)


def fail(request: Request[Any, Any, Any], error: Exception) -> Response[Fault]:
    """Answer a failure of our own, and log it."""
    logger.error("%s %s failed", request.method, request.url.path, exc_info=error)
    return Response(Fault("The server failed to answer; its log says why."), status_code=500)
