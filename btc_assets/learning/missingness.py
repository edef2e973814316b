"""Detect inputs that are missing for longer than in training, and adjust the forecasts.

An input is *lost* in an hour if its current run of missing hours is longer than the longest run in the training window
after its first known value. An input that was always known is lost at its first missing hour; an input that is often
missing is lost only after a longer run than ever before. Trees learn how to route missing values from the training
window; for an input that was never missing they have learnt nothing, so an outage adds the same bias to every forecast.
Therefore a lost input is replaced by its training median, and if the lost inputs have a weight of at least
`FALLBACK_WEIGHT` in the model and every member requires one of them, the base rate and intervals scaled by the hour's
volatility replace the forecast.

An input that is *gone* at a cutoff is not used in training. `python -m benchmarks.missing_inputs` measures both bounds.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import date, timedelta

import numpy as np
import numpy.typing as npt
import polars as pl

from btc_assets.clock import HOUR, midnight
from btc_assets.features.catalog import FEATURES
from btc_assets.learning.folds import Rows
from btc_assets.learning.forecast_model import HorizonForecast
from btc_assets.learning.tables import TRAINING_PROFILE
from btc_assets.learning.training import Scale, up
from btc_assets.vocabulary import QUANTILE_NAMES, QUANTILES

Bools = npt.NDArray[np.bool_]
Floats = npt.NDArray[np.float64]
Ints = npt.NDArray[np.int64]

LOOK_BACK_DAYS = 8
"""Days over which a run of missing hours is counted; an input missing for as long in training is never lost."""
MAX_LOST_HOURS = 24
"""An input that is lost for more hours is gone at a cutoff, and breaks a promise."""
FALLBACK_WEIGHT = 0.5
"""Share of the lost inputs in the mean |SHAP value| from which the fallback replaces the model."""

_NEVER = 10**9
_WARMUP_HOURS = {feature.name: feature.warmup_hours for feature in FEATURES}


def missing_runs(features: pl.DataFrame, names: Sequence[str]) -> Ints:
    """Return the length of the run of missing hours that ends with each hour, per input, (n, f).

    Hours that are not stored (a gap in the bars) neither end a run nor count. A run is counted over the
    `LOOK_BACK_DAYS` that end with the hour, so it does not depend on earlier hours.

    Args:
        features: HOURLY_FEATURES rows in time order, (n, ...).
        names: the f inputs.
    """
    unknown = _unknown(features, names)
    hours = np.arange(features.height)[:, None]
    known_at = np.maximum.accumulate(np.where(unknown, -1, hours), axis=0)
    opens = features["open_time"].dt.epoch("s").to_numpy()
    first = np.searchsorted(opens, opens - LOOK_BACK_DAYS * 86400, side="right")
    return hours - np.maximum(known_at, first[:, None] - 1)


def longest_runs(window: pl.DataFrame, names: Sequence[str]) -> Ints:
    """Return the longest run of missing hours of each input after its first known value, (f,).

    Args:
        window: HOURLY_FEATURES rows in time order.
        names: the f inputs.
    """
    return _after_first_value(window, names, missing_runs(window, names)).max(axis=0, initial=0)


def gone(features: pl.DataFrame, names: Sequence[str], *, cutoff: date, window_days: int) -> tuple[str, ...]:
    """Return the inputs that are gone at a cutoff, in the given order.

    An input is gone if its run of missing hours at the cutoff is longer than `MAX_LOST_HOURS` and than every earlier
    run in the window, and not explained by a gap in the bars, after which inputs are missing during their warm-up.

    Args:
        features: HOURLY_FEATURES rows, in time order.
        names: the inputs.
        cutoff: end of the window.
        window_days: length of the window in days.
    """
    inside = _window(features, cutoff, window_days)
    if inside.is_empty():
        return ()
    runs = missing_runs(inside, names)
    current_run = runs[-1]
    since_gap = int(_hours_since_gap(inside)[-1])
    unexplained = np.minimum(current_run, since_gap - np.array([_WARMUP_HOURS.get(name, 0) for name in names]))
    in_current_run = np.arange(len(runs))[:, None] >= len(runs) - current_run
    earlier_longest = np.where(in_current_run, 0, _after_first_value(inside, names, runs)).max(axis=0)
    return tuple(
        name
        for name, hours, longest in zip(names, unexplained, earlier_longest, strict=True)
        if hours > max(longest, MAX_LOST_HOURS)
    )


def gone_inputs(profile: pl.DataFrame) -> frozenset[str]:
    """Return the inputs that were gone at a cutoff.

    Args:
        profile: TRAINING_PROFILE rows of the cutoff.
    """
    return frozenset(profile.filter("gone")["feature"])


def profile_rows(
    features: pl.DataFrame,
    rows: Mapping[int, Rows],
    explanation: pl.DataFrame,
    names: Sequence[str],
    scale: Scale,
    *,
    cutoff: date,
    window_days: int,
) -> pl.DataFrame:
    """Compute the profile of a cutoff's training window.

    Args:
        features: HOURLY_FEATURES rows, in time order.
        rows: labelled rows of the window by horizon, with the inputs of the scale.
        explanation: MODEL_EXPLANATION rows of the cutoff; an input without a row was not used in training.
        names: every input with values in the window.
        scale: scale of the rows.
        cutoff: end of the window.
        window_days: length of the window in days.

    Returns:
        TRAINING_PROFILE rows.
    """
    inside = _window(features, cutoff, window_days)
    left_out = set(gone(features, names, cutoff=cutoff, window_days=window_days))
    inputs = pl.DataFrame(
        {
            "feature": list(names),
            "missing_share": _unknown(inside, names).mean(axis=0),
            "longest_missing_hours": longest_runs(inside, names),
            "median": [inside[name].median() for name in names],
            "gone": [name in left_out for name in names],
        }
    )
    parts = []
    for horizon, horizon_rows in sorted(rows.items()):
        weight = explanation.filter(pl.col("horizon_minutes") == horizon).select(
            "feature", (pl.col("mean_abs_shap") / pl.col("mean_abs_shap").sum()).fill_nan(0.0).alias("weight")
        )
        scaled = horizon_rows.log_return / scale(horizon_rows, horizon)
        parts.append(
            inputs.join(weight, on="feature", how="left").with_columns(
                pl.lit(cutoff).alias("cutoff"),
                pl.lit(horizon).alias("horizon_minutes"),
                pl.lit(float(up(horizon_rows).mean())).alias("base_rate"),
                *(
                    pl.lit(float(value)).alias(name)
                    for name, value in zip(QUANTILE_NAMES, np.quantile(scaled, QUANTILES), strict=True)
                ),
                pl.lit(len(horizon_rows)).alias("rows"),
            )
        )
    columns = TRAINING_PROFILE.columns
    return pl.concat(parts).select(list(columns)).cast(columns).sort(TRAINING_PROFILE.key)


@dataclass(frozen=True)
class AdjustedForecast:
    """The forecast of one horizon, adjusted for lost inputs.

    Attributes:
        forecast: the forecast of n hours.
        missing_weight: share of the lost inputs in the model's mean |SHAP value|, (n,).
        fallback: whether base rate and volatility replace the model, (n,).
    """

    forecast: HorizonForecast
    missing_weight: Floats
    fallback: Bools

    @classmethod
    def unadjusted(cls, forecast: HorizonForecast) -> AdjustedForecast:
        """Wrap the model's forecast of hours without lost inputs."""
        n = len(forecast.p_up)
        return cls(forecast, np.zeros(n), np.zeros(n, dtype=np.bool_))


@dataclass(frozen=True)
class Profile:
    """The profile of a model's training window for its inputs.

    Attributes:
        names: the f inputs of the model, in its order.
        longest: longest run of missing hours of each input, (f,).
        median: median of each input, (f,); NaN without a known value in the window.
        weight: share of each input in the mean |SHAP value| by horizon, (f,).
        base_rate: share of rises by horizon.
        quantiles: quantiles by horizon of the return in units of its row's scale, (5,).
    """

    names: tuple[str, ...]
    longest: Ints
    median: Floats
    weight: Mapping[int, Floats]
    base_rate: Mapping[int, float]
    quantiles: Mapping[int, Floats]

    @classmethod
    def of(cls, rows: pl.DataFrame, names: Sequence[str]) -> Profile | None:
        """Build the profile of a model; None without TRAINING_PROFILE rows.

        Args:
            rows: TRAINING_PROFILE rows of the model's cutoff.
            names: inputs of the model.
        """
        if rows.is_empty():
            return None
        by_horizon = {
            key[0]: pl.DataFrame({"feature": list(names)}).join(part, on="feature", how="left", maintain_order="left")
            for key, part in rows.partition_by("horizon_minutes", as_dict=True).items()
        }
        first_rows = {
            key[0]: part.row(0, named=True) for key, part in rows.partition_by("horizon_minutes", as_dict=True).items()
        }
        any_horizon = next(iter(by_horizon.values()))
        return cls(
            names=tuple(names),
            longest=any_horizon["longest_missing_hours"].fill_null(_NEVER).to_numpy(),
            median=any_horizon["median"].fill_null(float("nan")).to_numpy(),
            weight={horizon: part["weight"].fill_null(0.0).to_numpy() for horizon, part in by_horizon.items()},
            base_rate={horizon: row["base_rate"] for horizon, row in first_rows.items()},
            quantiles={h: np.array([row[name] for name in QUANTILE_NAMES]) for h, row in first_rows.items()},
        )

    def lost(self, features: pl.DataFrame) -> Bools:
        """Return which inputs are lost in each hour, (n, f).

        Args:
            features: HOURLY_FEATURES rows in time order, from `LOOK_BACK_DAYS` before the first hour of interest on.
        """
        return missing_runs(features, self.names) > self.longest

    def fill(self, inputs: Floats, lost: Bools) -> Floats:
        """Return inputs (n, f) with each lost value replaced by the training median."""
        return np.where(lost, self.median, inputs)

    def adjust(self, horizon: int, forecast: HorizonForecast, lost: Bools, unfounded: Bools) -> AdjustedForecast:
        """Replace a forecast by base rate and volatility where no member can do without inputs of too much weight.

        Args:
            horizon: minutes ahead.
            forecast: the model's forecast for inputs with replaced values, see `fill`.
            lost: see `lost`, (n, f).
            unfounded: whether every member lacks an input that it requires, (n,).
        """
        weight = np.minimum(lost @ self.weight[horizon], 1.0)
        fallback = unfounded & (weight >= FALLBACK_WEIGHT)
        base = self.quantiles[horizon] * forecast.sigma[:, None]
        return AdjustedForecast(
            replace(
                forecast,
                p_up=np.where(fallback, self.base_rate[horizon], forecast.p_up),
                quantiles=np.where(fallback[:, None], base, forecast.quantiles),
                expected_return_bps=np.where(fallback, 0.0, forecast.expected_return_bps),
            ),
            missing_weight=weight,
            fallback=fallback,
        )


def hours_lost(forecasts: pl.DataFrame, features: pl.DataFrame) -> dict[str, int]:
    """Count the hours in which each input was lost, except hours explained by a gap in the bars.

    Args:
        forecasts: FORECASTS rows of one model, role and horizon.
        features: HOURLY_FEATURES rows of the same hours and of `LOOK_BACK_DAYS` before them, in time order.
    """
    since_gap = features.select("open_time").with_columns(pl.Series("since_gap", _hours_since_gap(features)))
    lost = (
        forecasts.filter(pl.col("degraded").fill_null(value=False))
        .select("open_time", pl.col("missing_inputs").str.split(",").alias("name"))
        .explode("name")
        .join(since_gap, on="open_time")
    )
    warmup = pl.col("name").replace_strict(_WARMUP_HOURS, default=0, return_dtype=pl.Int64)
    counted = lost.filter(pl.col("since_gap") > warmup).group_by("name").len("hours").sort("name")
    return dict(counted.iter_rows())


def _window(features: pl.DataFrame, cutoff: date, window_days: int) -> pl.DataFrame:
    start = midnight(cutoff - timedelta(days=window_days))
    inside = features.filter((pl.col("available_at") <= midnight(cutoff)) & (pl.col("open_time") >= start))
    return inside.sort("open_time")


def _unknown(features: pl.DataFrame, names: Sequence[str]) -> Bools:
    return features.select(pl.col(list(names)).is_null()).to_numpy().reshape(features.height, len(names))


def _after_first_value(features: pl.DataFrame, names: Sequence[str], runs: Ints) -> Ints:
    """Return runs with 0 for the hours before the first known value of an input."""
    return np.where(np.maximum.accumulate(~_unknown(features, names), axis=0), runs, 0)


def _hours_since_gap(features: pl.DataFrame) -> Ints:
    """Return the number of hours since the first hour after the last gap in the bars, (n,)."""
    rows = np.arange(features.height)
    after_gap = (features["open_time"].diff() > HOUR).fill_null(value=False).to_numpy()
    return rows - np.maximum.accumulate(np.where(after_gap, rows, -_NEVER))
