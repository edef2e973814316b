"""The routes: each reads one state, so an answer never mixes two bundles."""

from __future__ import annotations

import asyncio
import math
import re
import string
from collections.abc import Callable, Iterable
from datetime import UTC, datetime, timedelta
from typing import Annotated, Any, NoReturn

import msgspec
import numpy as np
from litestar import Request, Response, get, post
from litestar.datastructures import State as AppState
from litestar.enums import MediaType
from litestar.exceptions import HTTPException
from litestar.exceptions.http_exceptions import RequestEntityTooLarge
from litestar.openapi import ResponseSpec
from litestar.params import Parameter
from litestar.types import ASGIApp, Receive, Scope, Send

from serve.answers import (
    Fault,
    FeatureAnswer,
    Forecast,
    Health,
    HorizonForecastAnswer,
    Interval,
    ModelAnswer,
    ModelName,
    Outcome,
    PastForecast,
    PastForecasts,
    Prediction,
    PriceBand,
    Ready,
)
from serve.metrics import Metrics
from serve.model import MAX_BODY_BYTES, BadRows
from serve.model import predict as predict_rows
from serve.state import State, Watcher, missing_inputs

FORECAST_EVERY = timedelta(hours=1)
"""A forecast is valid until the next one is due."""
GRACE = timedelta(minutes=15)
"""Time the next forecast may take to be made and published before the old one is called stale."""
PAGE = 1_000
"""Most forecasts of one answer."""
DEFAULT_SPAN = timedelta(days=7)
PREDICT = "/v1/predict"
INLINE_ROWS = 16
"""Rows predicted on the event loop itself; more go to a thread, so that they hold nobody up."""

_DAWN = datetime(1, 1, 3, tzinfo=UTC)  # the first time that every UTC offset can write
_HOST = (string.ascii_letters + string.digits + ".-:[]").encode()
_UNESCAPED_PLUS = re.compile(r" (\d{2}:?\d{2})$")

PREDICTED = ResponseSpec(
    Prediction, description="The forecasts of the rows sent, in their order.", generate_examples=False
)
BAD_REQUEST = ResponseSpec(Fault, description="The request cannot be answered; the field to change is named.")
NOT_YET = ResponseSpec(Fault, description="No forecast has been published yet.")
REVERSED = ResponseSpec(Fault, description="Both times are well formed, but `from` is after `to`.")
TOO_LARGE = ResponseSpec(Fault, description="The body is too large.")
NOT_JSON = ResponseSpec(Fault, description="The body must be sent as application/json.")


class Refusal(HTTPException):
    """A request that cannot be answered: status, sentence, field."""

    def __init__(self, status_code: int, sentence: str, field: str | None = None) -> None:
        """Carry the answer."""
        super().__init__(status_code=status_code, detail=sentence)
        self.field = field


@get("/health", sync_to_thread=False, summary="Is the process alive?")
def health() -> Health:
    """Answer as long as the process lives, whatever is published."""
    return Health("ok")


@get("/ready", sync_to_thread=False, summary="Is a forecast loaded?", responses={503: NOT_YET})
def ready(state: AppState) -> Ready:
    """Answer 200 once a bundle is loaded; `note` tells when a newer one could not be."""
    loaded = _loaded(state)
    return Ready("ready", loaded.bundle_id, _watcher(state).fault)


@get("/v1/forecast", sync_to_thread=False, summary="The newest forecast", responses={503: NOT_YET})
def forecast(state: AppState) -> Forecast:
    """Return the newest published forecast for every horizon, as log returns and as prices in USD."""
    loaded = _loaded(state)
    now = _clock(state)()
    age = max(now - loaded.made_at, timedelta())
    valid_until = loaded.made_at + FORECAST_EVERY
    stale = now > valid_until + GRACE
    sentences = [_stale_sentence(loaded.made_at, age)] if stale else []
    if loaded.missing_inputs:
        sentences.append(_degraded_sentence(loaded))
    return Forecast(
        made_at=loaded.made_at,
        published_at=loaded.published_at,
        valid_until=valid_until,
        age_seconds=age.total_seconds(),
        stale=stale,
        note=" ".join(sentences) or None,
        close=loaded.newest[0]["close"],
        model=_model_name(loaded),
        bundle_id=loaded.bundle_id,
        degraded=bool(loaded.missing_inputs),
        missing_inputs=loaded.missing_inputs,
        horizons=[_horizon(row) for row in loaded.newest],
    )


def predicting(app: ASGIApp, state: AppState) -> ASGIApp:
    """Answer POST /v1/predict ahead of a Litestar app, which answers the rest and words every refusal.

    Litestar's router, hooks and error handling would take a tenth of the time of one row.
    """

    async def answer(scope: Scope, receive: Receive, send: Send) -> None:
        headers = _first(scope["headers"])
        odd_host = headers.get(b"host", b"").translate(None, _HOST)  # the router decides whether it is valid
        if scope["path"] != PREDICT or scope.get("method") != "POST" or odd_host:
            await app(scope, receive, send)
            return
        try:
            body = await _predicted(state, headers, receive)
        except Exception as error:  # noqa: BLE001 - raised again in the route, whose handlers answer it
            await app(scope, _raising(error), send)
            return
        scope["path_template"] = PREDICT  # for the metrics, as the router does
        head = [(b"content-type", b"application/json"), (b"content-length", b"%d" % len(body))]
        await send({"type": "http.response.start", "status": 200, "headers": head})
        await send({"type": "http.response.body", "body": body, "more_body": False})

    return answer


def _raising(error: Exception) -> Receive:
    async def receive() -> NoReturn:
        raise error

    return receive


@post(
    PREDICT,
    status_code=200,
    media_type=MediaType.JSON,
    summary="Forecast from your own features",
    responses={200: PREDICTED, 400: BAD_REQUEST, 413: TOO_LARGE, 415: NOT_JSON, 503: NOT_YET},
)
async def predict(request: Request[Any, Any, Any]) -> bytes:
    """Forecast every horizon for one object of named features, or a list of up to 1,000; null is a missing value.

    The model answers as it is. A single row does not show for how long a value has been missing, so nothing is marked
    as degraded, no null is replaced, and no base rate answers; GET /v1/forecast does all of that.
    """
    return await _predicted(request.app.state, _first(request.scope["headers"]), request.receive)


async def _predicted(state: AppState, headers: dict[bytes, bytes], receive: Receive) -> bytes:
    loaded = _loaded(state)
    if headers.get(b"content-type", b"").partition(b";")[0].strip().lower() != b"application/json":
        raise Refusal(415, "Send the features as JSON, with Content-Type: application/json.", "Content-Type")
    try:
        rows = loaded.reader.read(await _body(headers, receive))
    except BadRows as error:
        raise Refusal(400, error.fault.error, error.fault.field) from error
    if len(rows) <= INLINE_ROWS:
        return _prediction(loaded, rows)
    return await asyncio.to_thread(_prediction, loaded, rows)


@get("/v1/model", sync_to_thread=False, summary="The model served", responses={503: NOT_YET})
def model(state: AppState) -> ModelAnswer:
    """Return the model's version, cutoff, digest, out-of-sample metrics and inputs with their units."""
    loaded = _loaded(state)
    document = loaded.model.document
    newest = loaded.manifest.get("features", {})
    return ModelAnswer(
        version=loaded.model_version,
        cutoff=loaded.model.cutoff,
        digest=loaded.model.digest,
        bundle_id=loaded.bundle_id,
        feature_set=str(document.get("feature_set", "")),
        horizons=list(loaded.model.horizons),
        metrics=document.get("metrics", {}),
        features=[
            FeatureAnswer(*(str(feature.get(key, "")) for key in ("name", "unit", "group", "about")))
            for feature in document["features"]
        ],
        newest_features={name: newest[name] for name in loaded.model.features if name in newest},
    )


@get("/v1/forecasts", summary="Past forecasts and outcomes", responses={400: BAD_REQUEST, 409: REVERSED, 503: NOT_YET})
async def forecasts(
    request: Request[Any, Any, Any],
    state: AppState,
    first: Annotated[str | None, Parameter(query="from", description="Made at or after, ISO 8601 with offset.")] = None,
    last: Annotated[str | None, Parameter(query="to", description="Made before, ISO 8601 with offset.")] = None,
    limit: Annotated[int, Parameter(ge=1, le=PAGE, description="Most forecasts to return.")] = PAGE,
    offset: Annotated[int, Parameter(ge=0, le=10**9, description="Forecasts to skip.")] = 0,
) -> PastForecasts:
    """Return the champion's forecasts made in [from, to), by default the last seven days, oldest first."""
    loaded = _loaded(state)
    for name in request.query_params:
        if name not in ("from", "to", "limit", "offset"):
            raise Refusal(400, f"{name!r} is not a parameter; there are from, to, limit and offset.", name)
    due = loaded.made_at + FORECAST_EVERY
    start = None if first is None else _instant(first, "from")
    end = (max(due, start) if start else due) if last is None else _instant(last, "to")
    if start is None:
        start = max(end, _DAWN + DEFAULT_SPAN) - DEFAULT_SPAN
    elif start > end:
        raise Refusal(409, f"'from' ({start.isoformat()}) must not be after 'to' ({end.isoformat()}).", "from")

    def read() -> tuple[int, list[dict[str, Any]]]:
        return loaded.store.count(start, end), loaded.store.forecasts(start, end, limit=limit, offset=offset)

    total, rows = await asyncio.to_thread(read)
    seen = offset + len(rows)
    return PastForecasts(
        first=start,
        last=end,
        total=total,
        next_offset=seen if rows and seen < total else None,
        forecasts=[_past(row) for row in rows],
    )


@get("/metrics", sync_to_thread=True, include_in_schema=False)
def metrics(request: Request[Any, Any, Any], state: AppState) -> Response[bytes]:
    """Return the metrics in a format that Prometheus reads; from a thread, so that a scrape holds nobody up."""
    told: Metrics = state["metrics"]
    page, content_type = told.page(request.headers.get("accept", ""))
    return Response(page, headers={"content-type": content_type})


ROUTES = [health, ready, forecast, predict, model, forecasts, metrics]


def _watcher(state: AppState) -> Watcher:
    watcher: Watcher = state["watcher"]
    return watcher


def _clock(state: AppState) -> Callable[[], datetime]:
    clock: Callable[[], datetime] = state["clock"]
    return clock


def _loaded(state: AppState) -> State:
    watcher = _watcher(state)
    if watcher.state is None:
        raise Refusal(503, watcher.fault or "No forecast is loaded yet; try again in a moment.")
    return watcher.state


def _first(headers: Iterable[tuple[bytes, bytes]]) -> dict[bytes, bytes]:
    """Return the first value of each header."""
    return dict(reversed(list(headers)))


async def _body(headers: dict[bytes, bytes], receive: Receive) -> bytes:
    """Return a request's body; `Request.body` does it too, at ten times the cost, which a prediction would notice."""
    body, more = b"", True
    size = int(headers.get(b"content-length") or 0)  # as announced, if it is
    while more and size <= MAX_BODY_BYTES:
        message: Any = await receive()
        if message["type"] == "http.disconnect":
            raise Refusal(400, "The connection was closed before the whole body had come.", "body")
        body, more = body + message.get("body", b""), message.get("more_body", False)
        size = max(size, len(body))
    if size > MAX_BODY_BYTES:
        raise RequestEntityTooLarge
    return body


def _prediction(loaded: State, rows: np.ndarray) -> bytes:
    return msgspec.json.encode(Prediction(_model_name(loaded), predict_rows(loaded.model, rows)))


def _model_name(loaded: State) -> ModelName:
    return ModelName(loaded.model_version, loaded.model.cutoff, loaded.model.digest)


def _horizon(row: dict[str, Any]) -> HorizonForecastAnswer:
    price = {q: row["close"] * math.exp(row[q]) for q in ("q05", "q25", "q50", "q75", "q95")}
    return HorizonForecastAnswer(
        horizon_hours=row["horizon_hours"],
        target_time=row["target_time"],
        p_up=row["p_up"],
        median_return=row["q50"],
        interval_50=Interval(row["q25"], row["q75"]),
        interval_90=Interval(row["q05"], row["q95"]),
        price=PriceBand(price["q50"], Interval(price["q25"], price["q75"]), Interval(price["q05"], price["q95"])),
        fallback=row["fallback"],
    )


def _past(row: dict[str, Any]) -> PastForecast:
    known = row["known_at"] is not None
    return PastForecast(
        made_at=row["made_at"],
        target_time=row["target_time"],
        horizon_hours=row["horizon_hours"],
        model_version=row["model_version"],
        model_cutoff=row["model_cutoff"],
        close=row["close"],
        p_up=row["p_up"],
        median_return=row["q50"],
        interval_50=Interval(row["q25"], row["q75"]),
        interval_90=Interval(row["q05"], row["q95"]),
        degraded=row["degraded"],
        missing_inputs=missing_inputs(row),
        fallback=row["fallback"],
        outcome=Outcome(row["known_at"], row["log_return"], row["outcome"], row["net_return_bps"]) if known else None,
    )


def _instant(text: str, name: str) -> datetime:
    """Parse an ISO time that carries its offset."""
    # An unescaped + arrives as a space; nobody means anything else by it.
    written = _UNESCAPED_PLUS.sub(r"+\1", text).upper()
    try:
        instant = datetime.fromisoformat(written)
    except ValueError:
        raise Refusal(
            400, f"{name!r} must be an ISO 8601 time like 2025-07-01T00:00:00Z, not {text!r}.", name
        ) from None
    if instant.tzinfo is None:
        raise Refusal(400, f"{name!r} must say its UTC offset, like {instant.isoformat()}Z.", name)
    return instant


def _degraded_sentence(loaded: State) -> str:
    names = loaded.missing_inputs
    listed = ", ".join(names[:8]) + (f" and {len(names) - 8} others" if len(names) > 8 else "")
    behind = [f"{row['horizon_hours']} h" for row in loaded.newest if row["fallback"]]
    instead = f" The base rate of its training window answers for {', '.join(behind)}." if behind else ""
    return (
        "This forecast is degraded: inputs are missing beyond what the model saw in training, and are replaced by "
        f"their usual value: {listed}.{instead}"
    )


def _stale_sentence(made_at: datetime, age: timedelta) -> str:
    hours = int(age.total_seconds() // 3600)
    old = f"{hours // 24} days" if hours >= 48 else f"{hours} h {int(age.total_seconds() % 3600 // 60)} min"
    return (
        f"This forecast is stale: it was made at {made_at:%Y-%m-%d %H:%M} UTC, {old} ago, and the next one was due "
        "an hour later. Its prices start from that hour, not from now."
    )
