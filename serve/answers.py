"""Every answer of the server, as structs: what the OpenAPI schema states and what goes over the wire.

Returns are natural-log fractions, prices USD, times UTC. JSON has no NaN; what is not known is null.
"""

from __future__ import annotations

from datetime import date, datetime
from typing import Annotated, Literal

from msgspec import Meta, Struct

Probability = Annotated[float, Meta(ge=0, le=1)]


class Fault(Struct, frozen=True):
    """Why a request was not answered: a sentence, and the field to change."""

    error: str
    field: str | None = None


class Health(Struct, frozen=True):
    """The process is alive."""

    status: Literal["ok"]


class Ready(Struct, frozen=True):
    """A bundle is loaded; `note` says when a newer one could not be."""

    status: Literal["ready"]
    bundle_id: str
    note: str | None


class Interval(Struct, frozen=True):
    """Lower and upper end, the lower never above the upper."""

    lower: float
    upper: float


class ModelName(Struct, frozen=True):
    """Which model made a forecast: registry version, cutoff day, digest."""

    version: int
    cutoff: date
    digest: str


class HorizonPrediction(Struct, frozen=True):
    """The forecast of one horizon, as log returns."""

    horizon_hours: int
    p_up: Probability
    median_return: float
    interval_50: Interval
    interval_90: Interval


class RowPrediction(Struct, frozen=True):
    """The forecast of one row, all horizons."""

    horizons: list[HorizonPrediction]


class Prediction(Struct, frozen=True):
    """The forecasts of the rows sent, in their order: the model's own, whatever is null in them."""

    model: ModelName
    rows: list[RowPrediction]


class PriceBand(Struct, frozen=True):
    """The forecast as prices, USD."""

    median: float
    interval_50: Interval
    interval_90: Interval


class HorizonForecastAnswer(Struct, frozen=True):
    """The published forecast of one horizon: log returns, and the same as prices.

    `fallback` says that too many inputs are missing for the model: the share of rises in its training window and
    intervals of the hour's own volatility answer in its place.
    """

    horizon_hours: int
    target_time: datetime
    p_up: Probability
    median_return: float
    interval_50: Interval
    interval_90: Interval
    price: PriceBand
    fallback: bool


class Forecast(Struct, frozen=True):
    """The newest published forecast.

    `made_at` is when its last bar closed, `published_at` when it was published (null where an older version of the
    project did that), `valid_until` when the next forecast is due; `age_seconds` is how old its newest data are, and
    `note` says in words that a forecast is stale or degraded. It is `degraded` where inputs are missing beyond what the
    model saw in training; `missing_inputs` names them.
    """

    made_at: datetime
    published_at: datetime | None
    valid_until: datetime
    age_seconds: float
    stale: bool
    note: str | None
    close: float
    model: ModelName
    bundle_id: str
    degraded: bool
    missing_inputs: list[str]
    horizons: list[HorizonForecastAnswer]


class FeatureAnswer(Struct, frozen=True):
    """One input of the model."""

    name: str
    unit: str
    group: str
    about: str


class ModelAnswer(Struct, frozen=True):
    """The model served: metrics are out of sample, by horizon; `newest_features` is a valid predict row."""

    version: int
    cutoff: date
    digest: str
    bundle_id: str
    feature_set: str
    horizons: list[int]
    metrics: dict[str, dict[str, float | None]]
    features: list[FeatureAnswer]
    newest_features: dict[str, float | None]


class Outcome(Struct, frozen=True):
    """What happened after a forecast."""

    known_at: datetime
    log_return: float
    outcome: Literal["correct", "incorrect", "too_small_to_call"]
    net_return_bps: float


class PastForecast(Struct, frozen=True):
    """One forecast of one horizon, with its outcome once known; `degraded` and the like as in the newest forecast."""

    made_at: datetime
    target_time: datetime
    horizon_hours: int
    model_version: int
    model_cutoff: date
    close: float
    p_up: Probability
    median_return: float
    interval_50: Interval
    interval_90: Interval
    degraded: bool
    missing_inputs: list[str]
    fallback: bool
    outcome: Outcome | None


class PastForecasts(Struct, frozen=True, rename={"first": "from", "last": "to"}):
    """Forecasts made in [from, to), oldest first; `next_offset` is null on the last page."""

    first: datetime
    last: datetime
    total: int
    next_offset: int | None
    forecasts: list[PastForecast]
