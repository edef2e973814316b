"""The Litestar app: routes, the lifespan of the watcher, and error responses."""

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
from serve.routes import ROUTES, RequestError, with_fast_predict
from serve.schema import LoadedModelSchema
from serve.state import Watcher

logger = logging.getLogger("serve")

_ERRORS = {
    404: "{path} does not exist; /schema lists the endpoints.",
    405: "{path} does not support {method}; /schema lists the methods.",
    413: f"The body is larger than the limit of {MAX_BODY_BYTES // 2**20} MiB.",
}


def wall_clock() -> datetime:
    """Return the current time, UTC."""
    return datetime.now(tz=UTC)


def create_app(serving_dir: Path, *, clock: Callable[[], datetime] = wall_clock) -> Litestar:
    """Build the server for a serving folder, which may still be empty.

    Args:
        serving_dir: folder to which bundles are published; the server watches it and never writes to it.
        clock: current time, UTC; determines the age of a forecast.
    """
    watcher = Watcher(serving_dir)
    metrics = Metrics(watcher, clock)

    @contextlib.asynccontextmanager
    async def lifespan(_app: Litestar) -> AsyncIterator[None]:
        watcher.check()
        task = asyncio.create_task(watcher.watch())
        try:
            yield
        finally:
            task.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await task

    app = Litestar(
        route_handlers=ROUTES,
        lifespan=[lifespan],
        state=AppState({"watcher": watcher, "clock": clock, "metrics": metrics}),
        exception_handlers={HTTPException: client_error, Exception: server_error},
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
    # Outside the router: a Litestar middleware does not see requests that the router rejects.
    app.asgi_handler = metrics.wrap(with_fast_predict(with_head(app.asgi_handler), app.state))
    return app


def client_error(request: Request[Any, Any, Any], error: HTTPException) -> Response[Fault]:
    """Return the error response of an invalid request: one sentence and the invalid field."""
    sentence, field = error.detail, getattr(error, "field", None)
    if isinstance(error, ValidationException) and isinstance(error.extra, list) and error.extra:
        first: Any = error.extra[0]
        field = str(first.get("key", "")) or None
        sentence = f"{field!r} is invalid: {first.get('message', error.detail)}."
    elif not isinstance(error, RequestError) and error.status_code in _ERRORS:
        sentence = _ERRORS[error.status_code].format(path=request.url.path, method=request.method)
        field = "body" if error.status_code == 413 else None
    return Response(Fault(sentence, field), status_code=error.status_code, headers=error.headers)


def server_error(request: Request[Any, Any, Any], error: Exception) -> Response[Fault]:
    """Log an internal error and return its response."""
    logger.error("%s %s failed", request.method, request.url.path, exc_info=error)
    return Response(Fault("Internal server error; the server's log has the details."), status_code=500)
