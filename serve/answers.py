"""The response bodies of the server as structs, which also define the OpenAPI schema.

Returns are natural-log fractions, prices are in USD, times in UTC. Unknown values are null, as JSON has no NaN.
"""

from __future__ import annotations

from datetime import date, datetime
from typing import Annotated, Literal

from msgspec import Meta, Struct

Probability = Annotated[float, Meta(ge=0, le=1)]


class Fault(Struct, frozen=True):
    """An error: one sentence, and the name of the invalid field if there is one."""

    error: str
    field: str | None = None


class Health(Struct, frozen=True):
    """The process is running."""

    status: Literal["ok"]


class Ready(Struct, frozen=True):
    """A bundle is loaded; `note` explains why a newer one could not be loaded."""

    status: Literal["ready"]
    bundle_id: str
    note: str | None


class Interval(Struct, frozen=True):
    """Lower and upper bound, with lower <= upper."""

    lower: float
    upper: float


class ModelName(Struct, frozen=True):
    """The model of a forecast: registry version, cutoff day and digest."""

    version: int
    cutoff: date
    digest: str


class HorizonPrediction(Struct, frozen=True):
    """The forecast of one horizon, as log returns.

    `sigma` is their forecast standard deviation, and `expected_return_bps` their forecast mean in basis points by a
    model of its own: its sign may differ from that of `p_up`.
    """

    horizon_minutes: int
    p_up: Probability
    median_return: float
    interval_50: Interval
    interval_90: Interval
    sigma: float
    expected_return_bps: float


class RowPrediction(Struct, frozen=True):
    """The forecasts of one row for every horizon.

    `abstained` names the members of the ensemble that require a null value; the others forecast. It is empty if every
    member requires one: then all forecast.
    """

    horizons: list[HorizonPrediction]
    abstained: list[str]


class Prediction(Struct, frozen=True):
    """The model's forecasts of the submitted rows, in their order; null values are passed to the model unchanged."""

    model: ModelName
    rows: list[RowPrediction]


class PriceBand(Struct, frozen=True):
    """The forecast as prices in USD."""

    median: float
    interval_50: Interval
    interval_90: Interval


class HorizonForecastAnswer(Struct, frozen=True):
    """The published forecast of one horizon as log returns and as prices.

    `sigma` is the forecast standard deviation of the log return, `expected_return_bps` its forecast mean by a model of
    its own, basis points. `fallback` is true if too many inputs are missing to use the model. The forecast is then the
    share of rises in the training window, with intervals scaled by `sigma`, and expects no return.
    """

    horizon_minutes: int
    target_time: datetime
    p_up: Probability
    median_return: float
    interval_50: Interval
    interval_90: Interval
    sigma: float
    expected_return_bps: float
    price: PriceBand
    fallback: bool


class Forecast(Struct, frozen=True):
    """The newest published forecast.

    `made_at` is when its last bar closed, `published_at` when it was published (null if an older version of the project
    published it), `valid_until` when the next forecast is due, and `age_seconds` the age of its newest data. `note`
    explains that a forecast is stale or degraded. A forecast is `degraded` if more inputs are missing than the model
    saw in training; `missing_inputs` names them. `abstained` names the members of the ensemble that did not forecast
    because they require a missing input.
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
    abstained: list[str]
    horizons: list[HorizonForecastAnswer]


class FeatureAnswer(Struct, frozen=True):
    """One input of the model."""

    name: str
    unit: str
    group: str
    about: str


class MemberAnswer(Struct, frozen=True):
    """One member of the ensemble: its family, window and first training hour, and the inputs without which it abstains.

    `weights` has its weight by horizon, one or one for each tercile of volatility.
    """

    name: str
    family: str
    window_days: int
    first: datetime
    rows: int
    required: list[str]
    weights: dict[str, list[float]]


class ModelAnswer(Struct, frozen=True):
    """The served model: out-of-sample metrics by horizon; `newest_features` is a valid row for `/v1/predict`."""

    version: int
    cutoff: date
    digest: str
    bundle_id: str
    feature_set: str
    horizons: list[int]
    members: list[MemberAnswer]
    metrics: dict[str, dict[str, float | None]]
    features: list[FeatureAnswer]
    newest_features: dict[str, float | None]


class Outcome(Struct, frozen=True):
    """The realised outcome of a forecast."""

    known_at: datetime
    log_return: float
    outcome: Literal["correct", "incorrect", "too_small_to_call"]
    net_return_bps: float


class PastForecast(Struct, frozen=True):
    """One forecast of one horizon and its outcome once known; other fields are those of the newest forecast."""

    made_at: datetime
    target_time: datetime
    horizon_minutes: int
    model_version: int
    model_cutoff: date
    close: float
    p_up: Probability
    median_return: float
    interval_50: Interval
    interval_90: Interval
    sigma: float
    expected_return_bps: float
    degraded: bool
    missing_inputs: list[str]
    abstained: list[str]
    fallback: bool
    outcome: Outcome | None


class PastForecasts(Struct, frozen=True, rename={"first": "from", "last": "to"}):
    """Forecasts made in [from, to), oldest first; `next_offset` is null on the last page."""

    first: datetime
    last: datetime
    total: int
    next_offset: int | None
    forecasts: list[PastForecast]


class ReasonAnswer(Struct, frozen=True):
    """The contribution of one input: in log-odds, and in percentage points of P(up); `value` is null if unknown."""

    feature: str
    value: float | None
    unit: str
    contribution: float
    points: float


class HorizonExplanation(Struct, frozen=True):
    """Why P(up) of one horizon is what it is.

    `base`, the contributions of `raises` and `lowers` (the five strongest each), `others` (the sum of all other
    contributions) and `unexplained` add up to the log-odds of `p_up`. `r_squared` is that of the fit with method `lime`
    and null with `shap`.
    """

    horizon_minutes: int
    p_up: Probability
    base: float
    raises: list[ReasonAnswer]
    lowers: list[ReasonAnswer]
    others: float
    unexplained: float
    sentence: str
    r_squared: float | None = None


class Explanation(Struct, frozen=True):
    """Why a published forecast is what it is; `approximate` names members whose contributions are not exact."""

    made_at: datetime
    model: ModelName
    approximate: list[str]
    horizons: list[HorizonExplanation]


class RowExplanation(Struct, frozen=True):
    """Why the model forecasts what it does for the submitted row; `approximate` as for a published forecast."""

    model: ModelName
    method: Literal["shap", "lime"]
    approximate: list[str]
    horizons: list[HorizonExplanation]
