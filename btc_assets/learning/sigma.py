"""Volatility of the coming return from one row of features: the reader of a fitted volatility model.

The model is a list of linear models of the log variance in order of preference. A row uses the first one whose
regressors it knows; the last one is a constant, so every row has a volatility. Fitting is in `learning.volatility`; the
reader needs numpy only, and training, forecasts and the server use it alike.

Document: `{"horizons": [minutes, ...], "models": [{"name": ..., "coefficients": {regressor: [one per horizon]}}]}`. A
regressor is `intercept`, a feature, or one of `CALENDAR_EFFECTS`.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from itertools import chain
from typing import Any

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.float64]

INTERCEPT = "intercept"
CALENDAR = ("hour_of_day", "day_of_week")
"""Features that name the hour of the week: the hour the bar opened in, and the ISO day."""
WEEK_HOURS = 168
LEAST, MOST = -30.0, 5.0
"""Bounds of the log variance, far beyond any market: absurd inputs must not give an infinite interval."""
CALENDAR_EFFECTS = (
    *(f"hour_{hour:02d}" for hour in range(24)),
    *(f"weekend_hour_{hour:02d}" for hour in range(24)),
    *(f"day_{day}" for day in range(1, 8)),
)
"""Indicators of the coming hour: its hour of the day, the same on Saturdays and Sundays, and its ISO day."""


def coming_hour_of_week(hour_of_day: Floats, day_of_week: Floats) -> npt.NDArray[np.int64]:
    """Return the hour of the week that follows each bar, (n,): 0 is Monday 00:00 UTC; of any hour if unknown."""
    hour = np.mod(24 * (day_of_week - 1) + hour_of_day + 1, WEEK_HOURS)
    return np.nan_to_num(hour).astype(np.int64) % WEEK_HOURS


def calendar_indicators() -> Floats:
    """Return `CALENDAR_EFFECTS` of every hour of the week, (168, 55), each 0 or 1."""
    day, hour = np.divmod(np.arange(WEEK_HOURS), 24)
    of_hour = np.eye(24)[hour]
    return np.hstack([of_hour, of_hour * (day >= 5)[:, None], np.eye(7)[day]])


@dataclass(frozen=True)
class _Linear:
    """One linear model of the log variance.

    Attributes:
        columns: places of its features among the inputs.
        coefficients: of these features, (f, horizons).
        of_week: intercept and calendar effects of each hour of the week, (168, horizons).
    """

    columns: list[int]
    coefficients: Floats
    of_week: Floats

    def log_variance(self, rows: Floats, week: npt.NDArray[np.int64]) -> Floats:
        """Return the log variance of rows whose features are known, (n, horizons)."""
        if not self.columns:
            return self.of_week[week]
        terms = rows[:, self.columns, None] * self.coefficients
        # A matrix product would round differently for one row than for many; a running sum has one order.
        return np.asarray(self.of_week[week] + np.cumsum(terms, axis=1)[:, -1])


class Sigma:
    """Standard deviation of the log return over each horizon, from features of the hour.

    Attributes:
        inputs: names of the features, in column order.
        horizons: minutes ahead, in order of the results.
    """

    def __init__(self, document: Mapping[str, Any]) -> None:
        """Prepare the model of a document, see the module."""
        models = [model["coefficients"] for model in document["models"]]
        # Sorted: sums are taken in this order, whatever the order of the document.
        features = set(chain.from_iterable(models)) - {INTERCEPT, *CALENDAR_EFFECTS}
        self.inputs: tuple[str, ...] = (*CALENDAR, *sorted(features))
        self.horizons: tuple[int, ...] = tuple(document["horizons"])
        self._models = [self._linear(coefficients) for coefficients in models]

    def _linear(self, coefficients: Mapping[str, list[float]]) -> _Linear:
        known = [name for name in self.inputs if name in coefficients]
        none = [0.0] * len(self.horizons)
        calendar = np.array([coefficients.get(name, none) for name in CALENDAR_EFFECTS])
        return _Linear(
            [self.inputs.index(name) for name in known],
            np.array([coefficients[name] for name in known]).reshape(len(known), len(self.horizons)),
            np.array(coefficients[INTERCEPT]) + calendar_indicators() @ calendar,
        )

    def __call__(self, rows: npt.NDArray[np.floating[Any]]) -> Floats:
        """Return the volatility of each row and horizon, (n, horizons), fraction over the horizon.

        A row gets the same numbers to the bit whether it comes alone or among others.

        Args:
            rows: (n, len(inputs)), NaN where unknown; the two calendar features are always known.
        """
        values = np.asarray(rows, dtype=np.float64)
        week = coming_hour_of_week(values[:, 0], values[:, 1])
        known = np.isfinite(values)
        log_variance = np.empty((len(values), len(self.horizons)))
        without = np.ones(len(values), dtype=bool)
        for model in self._models:
            usable = without & known[:, model.columns].all(axis=1)
            log_variance[usable] = model.log_variance(values[usable], week[usable])
            without &= ~usable
            if not without.any():
                break
        return np.asarray(np.exp(0.5 * np.minimum(np.maximum(log_variance, LEAST), MOST)))
