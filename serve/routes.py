"""The routes. Each reads the state once, so a response never mixes two bundles."""

from __future__ import annotations

import asyncio
import math
import re
import string
from collections.abc import Callable, Iterable, Sequence
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

from btc_assets.vocabulary import display
from serve.answers import (
    Explanation,
    Fault,
    FeatureAnswer,
    Forecast,
    Health,
    HorizonExplanation,
    HorizonForecastAnswer,
    Interval,
    MemberAnswer,
    ModelAnswer,
    ModelName,
    Outcome,
    PastForecast,
    PastForecasts,
    Prediction,
    PriceBand,
    Ready,
    ReasonAnswer,
    RowExplanation,
)
from serve.explain import Method, UnexplainedError
from serve.metrics import Metrics
from serve.model import MAX_BODY_BYTES, InvalidRowsError
from serve.model import predict as predict_rows
from serve.state import State, Watcher, names_in

FORECAST_INTERVAL = timedelta(hours=1)
"""Time between forecasts; a forecast is valid until the next one is due."""
GRACE = timedelta(minutes=15)
"""Time after the due time of the next forecast until the current one is stale."""
MAX_PAGE_SIZE = 1_000
"""Maximum number of forecasts in a response."""
DEFAULT_SPAN = timedelta(days=7)
PREDICT = "/v1/predict"
INLINE_ROWS = 16
"""Maximum number of rows predicted on the event loop; more rows run in a thread to not block other requests."""

_EARLIEST = datetime(1, 1, 3, tzinfo=UTC)  # the earliest time that is valid in every UTC offset
_HOST_CHARACTERS = (string.ascii_letters + string.digits + ".-:[]").encode()
_REASONS = msgspec.json.Decoder(list[ReasonAnswer])
_UNESCAPED_PLUS = re.compile(r" (\d{2}:?\d{2})$")

PREDICTED = ResponseSpec(
    Prediction, description="The forecasts of the submitted rows, in their order.", generate_examples=False
)
BAD_REQUEST = ResponseSpec(Fault, description="The request is invalid; `field` names the invalid field.")
NOT_YET = ResponseSpec(Fault, description="No forecast has been published yet.")
REVERSED = ResponseSpec(Fault, description="Both times are valid, but `from` is after `to`.")
UNEXPLAINED = ResponseSpec(Fault, description="There is no explanation of a forecast made at this time.")
TOO_LARGE = ResponseSpec(Fault, description="The body is too large.")
NOT_JSON = ResponseSpec(Fault, description="The content type is not application/json.")


class RequestError(HTTPException):
    """An invalid request: status code, message and invalid field."""

    def __init__(self, status_code: int, sentence: str, field: str | None = None) -> None:
        """Store the response."""
        super().__init__(status_code=status_code, detail=sentence)
        self.field = field


@get("/health", sync_to_thread=False, summary="Liveness")
def health() -> Health:
    """Return 200 while the process runs, independent of the published bundle."""
    return Health("ok")


@get("/ready", sync_to_thread=False, summary="Readiness", responses={503: NOT_YET})
def ready(state: AppState) -> Ready:
    """Return 200 once a bundle is loaded; `note` explains why a newer one could not be loaded."""
    loaded = _loaded(state)
    return Ready("ready", loaded.bundle_id, _watcher(state).fault)


@get("/v1/forecast", sync_to_thread=False, summary="The newest forecast", responses={503: NOT_YET})
def forecast(state: AppState) -> Forecast:
    """Return the newest published forecast of every horizon, as log returns and as prices in USD."""
    loaded = _loaded(state)
    now = _clock(state)()
    age = max(now - loaded.made_at, timedelta())
    valid_until = loaded.made_at + FORECAST_INTERVAL
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
        abstained=names_in(loaded.newest[0]["abstained"]),
        horizons=[_horizon(row) for row in loaded.newest],
    )


def with_fast_predict(app: ASGIApp, state: AppState) -> ASGIApp:
    """Wrap a Litestar app to handle POST /v1/predict outside its router; the app handles other requests and all errors.

    Litestar's router, hooks and error handling take a tenth of the time of a one-row prediction.
    """

    async def handle(scope: Scope, receive: Receive, send: Send) -> None:
        headers = _first(scope["headers"])
        unusual_characters = headers.get(b"host", b"").translate(None, _HOST_CHARACTERS)  # the router validates it
        if scope["path"] != PREDICT or scope.get("method") != "POST" or unusual_characters:
            await app(scope, receive, send)
            return
        try:
            body = await _predicted(state, headers, receive)
        except Exception as error:  # noqa: BLE001 - raised again inside the route for its exception handlers
            await app(scope, _raising(error), send)
            return
        scope["path_template"] = PREDICT  # for the metrics, as set by the router
        head = [(b"content-type", b"application/json"), (b"content-length", b"%d" % len(body))]
        await send({"type": "http.response.start", "status": 200, "headers": head})
        await send({"type": "http.response.body", "body": body, "more_body": False})

    return handle


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

    The response is the unmodified output of the model. A single row does not show for how long a value has been
    missing, so no forecast is marked degraded, no null is replaced and no fallback is used, unlike GET /v1/forecast.
    Members of the ensemble that require a null value abstain, as there.
    """
    return await _predicted(request.app.state, _first(request.scope["headers"]), request.receive)


async def _predicted(state: AppState, headers: dict[bytes, bytes], receive: Receive) -> bytes:
    loaded = _loaded(state)
    rows = await _rows(loaded, headers, receive)
    if len(rows) <= INLINE_ROWS:
        return _prediction(loaded, rows)
    return await asyncio.to_thread(_prediction, loaded, rows)


async def _rows(loaded: State, headers: dict[bytes, bytes], receive: Receive) -> np.ndarray:
    """Return the rows of the body of a request, shape (n, features)."""
    if headers.get(b"content-type", b"").partition(b";")[0].strip().lower() != b"application/json":
        raise RequestError(415, "Send the features as JSON, with Content-Type: application/json.", "Content-Type")
    try:
        return loaded.reader.read(await _body(headers, receive))
    except InvalidRowsError as error:
        raise RequestError(400, error.fault.error, error.fault.field) from error


@get(
    "/v1/explanation",
    summary="Why a forecast",
    responses={400: BAD_REQUEST, 404: UNEXPLAINED, 503: NOT_YET},
)
async def explanation(
    request: Request[Any, Any, Any],
    state: AppState,
    made_at: Annotated[
        str | None, Parameter(description="When the forecast was made, ISO 8601 with offset; by default the newest.")
    ] = None,
) -> Explanation:
    """Return what each input adds to the champion's forecast of an hour: SHAP contributions in log-odds."""
    loaded = _loaded(state)
    _refuse_unknown(request, ("made_at",))
    instant = loaded.made_at if made_at is None else _instant(made_at, "made_at")
    rows = await asyncio.to_thread(loaded.store.explanation, instant)
    if not rows:
        raise RequestError(
            404,
            f"There is no explanation of a forecast made at {instant.isoformat()}; /v1/forecasts lists the published "
            "forecasts, and the newest are explained.",
            "made_at",
        )
    first = rows[0]
    return Explanation(
        made_at=instant,
        model=ModelName(first["model_version"], first["model_cutoff"], first["model_digest"]),
        approximate=names_in(first["approximate"]),
        horizons=[
            HorizonExplanation(
                row["horizon_minutes"],
                row["p_up"],
                row["base"],
                _REASONS.decode(row["raises"]),
                _REASONS.decode(row["lowers"]),
                row["others"],
                row["unexplained"],
                row["sentence"],
            )
            for row in rows
        ],
    )


@post(
    "/v1/explain",
    status_code=200,
    summary="Explain a forecast from your own features",
    responses={400: BAD_REQUEST, 413: TOO_LARGE, 415: NOT_JSON, 503: NOT_YET},
)
async def explain(
    request: Request[Any, Any, Any],
    state: AppState,
    method: Annotated[
        Method, Parameter(description="SHAP contributions of the members, or a local linear fit (LIME).")
    ] = "shap",
) -> RowExplanation:
    """Return what each value of one object of named features adds to the forecast; null is a missing value.

    With `shap` the parts are exact for trees and linear members and add up to the forecast of `/v1/predict`. With
    `lime` they are the coefficients of a linear model fitted to forecasts of this row with random sets of its values
    replaced by training medians; `unexplained` is what that model misses.
    """
    loaded = _loaded(state)
    _refuse_unknown(request, ("method",))
    rows = await _rows(loaded, _first(request.scope["headers"]), request.receive)
    if len(rows) != 1:
        raise RequestError(400, f"One row is explained at a time; the body has {len(rows):,}.", "body")
    explained = loaded.explainer.contributions if method == "shap" else loaded.explainer.local_fit
    try:
        horizons = await asyncio.to_thread(explained, rows[0])
    except UnexplainedError as error:
        raise RequestError(503, str(error)) from error
    approximate = loaded.explainer.approximate if method == "shap" else []
    return RowExplanation(_model_name(loaded), method, approximate, horizons)


@get("/v1/model", sync_to_thread=False, summary="The served model", responses={503: NOT_YET})
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
        members=[
            MemberAnswer(
                name=member["name"],
                family=member["family"],
                window_days=member["window_days"],
                first=datetime.fromisoformat(member["first"]),
                rows=member["rows"],
                required=[loaded.model.features[column] for column in member["required"]],
                weights=member["weights"],
            )
            for member in document["members"]
        ],
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
    limit: Annotated[
        int, Parameter(ge=1, le=MAX_PAGE_SIZE, description="Maximum number of forecasts to return.")
    ] = MAX_PAGE_SIZE,
    offset: Annotated[int, Parameter(ge=0, le=10**9, description="Number of forecasts to skip.")] = 0,
) -> PastForecasts:
    """Return the champion's forecasts made in [from, to), by default the last seven days, oldest first."""
    loaded = _loaded(state)
    _refuse_unknown(request, ("from", "to", "limit", "offset"))
    next_due = loaded.made_at + FORECAST_INTERVAL
    start = None if first is None else _instant(first, "from")
    end = (max(next_due, start) if start else next_due) if last is None else _instant(last, "to")
    if start is None:
        start = max(end, _EARLIEST + DEFAULT_SPAN) - DEFAULT_SPAN
    elif start > end:
        raise RequestError(409, f"'from' ({start.isoformat()}) must not be after 'to' ({end.isoformat()}).", "from")

    def read() -> tuple[int, list[dict[str, Any]]]:
        return loaded.store.count(start, end), loaded.store.forecasts(start, end, limit=limit, offset=offset)

    total, rows = await asyncio.to_thread(read)
    next_offset = offset + len(rows)
    return PastForecasts(
        first=start,
        last=end,
        total=total,
        next_offset=next_offset if rows and next_offset < total else None,
        forecasts=[_past(row) for row in rows],
    )


@get("/metrics", sync_to_thread=True, include_in_schema=False)
def metrics(request: Request[Any, Any, Any], state: AppState) -> Response[bytes]:
    """Return the metrics in a Prometheus format; runs in a thread to not block other requests."""
    app_metrics: Metrics = state["metrics"]
    page, content_type = app_metrics.page(request.headers.get("accept", ""))
    return Response(page, headers={"content-type": content_type})


ROUTES = [health, ready, forecast, explanation, predict, explain, model, forecasts, metrics]


def _watcher(state: AppState) -> Watcher:
    watcher: Watcher = state["watcher"]
    return watcher


def _clock(state: AppState) -> Callable[[], datetime]:
    clock: Callable[[], datetime] = state["clock"]
    return clock


def _loaded(state: AppState) -> State:
    watcher = _watcher(state)
    if watcher.state is None:
        raise RequestError(503, watcher.fault or "No forecast is loaded yet; try again in a moment.")
    return watcher.state


def _refuse_unknown(request: Request[Any, Any, Any], names: Sequence[str]) -> None:
    """Raise RequestError if the request has a query parameter that the route does not know."""
    for name in request.query_params:
        if name not in names:
            *others, last = names
            expected = f"{', '.join(others)} or {last}" if others else last
            raise RequestError(400, f"{name!r} is not a parameter; expected {expected}.", name)


def _first(headers: Iterable[tuple[bytes, bytes]]) -> dict[bytes, bytes]:
    """Return the first value of each header."""
    return dict(reversed(list(headers)))


async def _body(headers: dict[bytes, bytes], receive: Receive) -> bytes:
    """Return the body of a request; Litestar's `Request.body` takes ten times as long."""
    body, more = b"", True
    size = int(headers.get(b"content-length") or 0)  # the declared size, if any
    while more and size <= MAX_BODY_BYTES:
        message: Any = await receive()
        if message["type"] == "http.disconnect":
            raise RequestError(400, "The connection was closed before the complete body arrived.", "body")
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
        horizon_minutes=row["horizon_minutes"],
        target_time=row["target_time"],
        p_up=row["p_up"],
        median_return=row["q50"],
        interval_50=Interval(row["q25"], row["q75"]),
        interval_90=Interval(row["q05"], row["q95"]),
        sigma=row["sigma"],
        expected_return_bps=row["expected_return_bps"],
        price=PriceBand(price["q50"], Interval(price["q25"], price["q75"]), Interval(price["q05"], price["q95"])),
        fallback=row["fallback"],
    )


def _past(row: dict[str, Any]) -> PastForecast:
    known = row["known_at"] is not None
    return PastForecast(
        made_at=row["made_at"],
        target_time=row["target_time"],
        horizon_minutes=row["horizon_minutes"],
        model_version=row["model_version"],
        model_cutoff=row["model_cutoff"],
        close=row["close"],
        p_up=row["p_up"],
        median_return=row["q50"],
        interval_50=Interval(row["q25"], row["q75"]),
        interval_90=Interval(row["q05"], row["q95"]),
        sigma=row["sigma"],
        expected_return_bps=row["expected_return_bps"],
        degraded=row["degraded"],
        missing_inputs=names_in(row["missing_inputs"]),
        abstained=names_in(row["abstained"]),
        fallback=row["fallback"],
        outcome=Outcome(row["known_at"], row["log_return"], row["outcome"], row["net_return_bps"]) if known else None,
    )


def _instant(text: str, name: str) -> datetime:
    """Parse an ISO 8601 time with a UTC offset."""
    # An unescaped + arrives as a space, which has no other meaning here.
    normalised = _UNESCAPED_PLUS.sub(r"+\1", text).upper()
    try:
        instant = datetime.fromisoformat(normalised)
    except ValueError:
        raise RequestError(
            400, f"{name!r} must be an ISO 8601 time like 2025-07-01T00:00:00Z, not {text!r}.", name
        ) from None
    if instant.tzinfo is None:
        raise RequestError(400, f"{name!r} must have a UTC offset, like {instant.isoformat()}Z.", name)
    return instant


def _degraded_sentence(loaded: State) -> str:
    names = loaded.missing_inputs
    listed = ", ".join(names[:8]) + (f" and {len(names) - 8} others" if len(names) > 8 else "")
    horizons = [display(row["horizon_minutes"]) for row in loaded.newest if row["fallback"]]
    fallback = f" The forecast for {', '.join(horizons)} is the base rate of the training window." if horizons else ""
    return (
        "This forecast is degraded: more inputs are missing than the model saw in training. Members that require them "
        f"abstain, others get their training median: {listed}.{fallback}"
    )


def _stale_sentence(made_at: datetime, age: timedelta) -> str:
    hours = int(age.total_seconds() // 3600)
    age_text = f"{hours // 24} days" if hours >= 48 else f"{hours} h {int(age.total_seconds() % 3600 // 60)} min"
    return (
        f"This forecast is stale: it was made at {made_at:%Y-%m-%d %H:%M} UTC, {age_text} ago, and the next one was "
        "due an hour later. Its prices refer to that hour, not to now."
    )
