"""Which inputs are missing beyond what a model saw in training, and what answers in their place.

An input is *lost* in an hour once it has been unknown for more hours in a row than ever in the training window, from
the hour on in which that window first knew it: an input that was always known counts at once, one that is often silent
only when it is silent for longer than it ever was. A model answers an unknown value in the way its trees learnt for
unknown values, and about an input that was never unknown they learnt nothing, so the same bias enters every forecast of
an outage. A lost input is therefore answered at its median in training, and where the lost inputs carry
`FALL_BACK_WEIGHT` of the model or more, the base rate and intervals of the hour's own volatility take its place.

An input that is *gone* at a cutoff is not learnt from. What happens at either bound is measured by
`python -m benchmarks.missing_inputs`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import date, timedelta

import numpy as np
import numpy.typing as npt
import polars as pl

from btc_assets.clock import HOUR, midnight
from btc_assets.features.catalog import FEATURES
from btc_assets.learning.folds import Rows
from btc_assets.learning.forecast_model import HorizonForecast
from btc_assets.learning.tables import TRAINING_PROFILE
from btc_assets.learning.training import SCALE_FEATURE, scaled_by, scales, up
from btc_assets.vocabulary import QUANTILE_NAMES, QUANTILES

Bools = npt.NDArray[np.bool_]
Floats = npt.NDArray[np.float64]
Ints = npt.NDArray[np.int64]

LOOK_BACK_DAYS = 8
"""Days of hours in which a run of missing hours is counted; an input silent for as long in training is never lost."""
LEAST_GONE_HOURS = 24
"""An input is gone at a cutoff, and a promise broken, when it was lost for more hours than these."""
FALL_BACK_WEIGHT = 0.5
"""Share of the mean |SHAP value| that lost inputs carry from which the model does not answer."""

_NEVER = 10**9
_MEMORY_HOURS = {feature.name: feature.warmup_hours for feature in FEATURES}


def missing_runs(features: pl.DataFrame, names: Sequence[str]) -> Ints:
    """Return for how many hours in a row, up to and including each hour, each input has been unknown, (n, f).

    Hours that are not stored (a hole in the bars) neither end a run nor count. A run is counted over the
    `LOOK_BACK_DAYS` that end with the hour, so it depends on those alone.

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
    """Return the longest run of missing hours of each input since it was first known, (f,).

    Args:
        window: HOURLY_FEATURES rows in time order.
        names: the f inputs.
    """
    return _once_known(window, names, missing_runs(window, names)).max(axis=0, initial=0)


def gone(features: pl.DataFrame, names: Sequence[str], *, cutoff: date, window_days: int) -> tuple[str, ...]:
    """Return the inputs that are gone at a cutoff, in the order given.

    Gone is what has been unknown up to the cutoff for more than `LEAST_GONE_HOURS`, for longer than ever before in
    the window, and not because of a hole in the bars, which leaves inputs that look back over it unknown for a while.

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
    newest = runs[-1]
    since_hole = int(_hours_since_hole(inside)[-1])
    unexplained = np.minimum(newest, since_hole - np.array([_MEMORY_HOURS.get(name, 0) for name in names]))
    own = np.arange(len(runs))[:, None] >= len(runs) - newest
    before = np.where(own, 0, _once_known(inside, names, runs)).max(axis=0)
    return tuple(
        name
        for name, hours, longest in zip(names, unexplained, before, strict=True)
        if hours > max(longest, LEAST_GONE_HOURS)
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
    *,
    cutoff: date,
    window_days: int,
) -> pl.DataFrame:
    """Describe the training window of a cutoff: what its inputs lacked, and what answers where the model does not.

    Args:
        features: HOURLY_FEATURES rows, in time order.
        rows: labelled rows of the window by horizon, with `SCALE_FEATURE` among their inputs.
        explanation: MODEL_EXPLANATION rows of the cutoff; an input without one was not learnt from.
        names: every input known in the window.
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
    for horizon, own in sorted(rows.items()):
        weight = explanation.filter(pl.col("horizon_hours") == horizon).select(
            "feature", (pl.col("mean_abs_shap") / pl.col("mean_abs_shap").sum()).fill_nan(0.0).alias("weight")
        )
        scaled = own.log_return / scales(own, horizon)
        parts.append(
            inputs.join(weight, on="feature", how="left").with_columns(
                pl.lit(cutoff).alias("cutoff"),
                pl.lit(horizon).alias("horizon_hours"),
                pl.lit(float(up(own).mean())).alias("base_rate"),
                *(
                    pl.lit(float(value)).alias(name)
                    for name, value in zip(QUANTILE_NAMES, np.quantile(scaled, QUANTILES), strict=True)
                ),
                pl.lit(len(own)).alias("rows"),
            )
        )
    columns = TRAINING_PROFILE.columns
    return pl.concat(parts).select(list(columns)).cast(columns).sort(TRAINING_PROFILE.key)


@dataclass(frozen=True)
class Answer:
    """What one horizon forecasts, lost inputs considered.

    Attributes:
        forecast: of n hours.
        missing_weight: share of the model's mean |SHAP value| that the lost inputs carry, (n,).
        fallback: whether base rate and volatility answer in place of the model, (n,).
    """

    forecast: HorizonForecast
    missing_weight: Floats
    fallback: Bools

    @classmethod
    def as_is(cls, forecast: HorizonForecast) -> Answer:
        """Return the model's own forecast, as of inputs of which none is lost."""
        n = len(forecast.p_up)
        return cls(forecast, np.zeros(n), np.zeros(n, dtype=np.bool_))


@dataclass(frozen=True)
class Profile:
    """What a model saw in training, for the inputs it has.

    Attributes:
        names: the f inputs of the model, in its order.
        longest: longest run of missing hours of each input, (f,).
        median: of each input, (f,); NaN where the window never knew it.
        weight: by horizon, share of each input in the mean |SHAP value|, (f,).
        base_rate: by horizon, share of rises.
        quantiles: by horizon, quantiles of the return in units of its row's scale, (5,).
    """

    names: tuple[str, ...]
    longest: Ints
    median: Floats
    weight: Mapping[int, Floats]
    base_rate: Mapping[int, float]
    quantiles: Mapping[int, Floats]

    @classmethod
    def of(cls, rows: pl.DataFrame, names: Sequence[str]) -> Profile | None:
        """Read the profile of a model; None where its cutoff has none, and nothing is known of its training.

        Args:
            rows: TRAINING_PROFILE rows of its cutoff.
            names: its inputs.
        """
        if rows.is_empty():
            return None
        by_horizon = {
            key[0]: pl.DataFrame({"feature": list(names)}).join(part, on="feature", how="left", maintain_order="left")
            for key, part in rows.partition_by("horizon_hours", as_dict=True).items()
        }
        stated = {
            key[0]: part.row(0, named=True) for key, part in rows.partition_by("horizon_hours", as_dict=True).items()
        }
        one = next(iter(by_horizon.values()))
        return cls(
            names=tuple(names),
            longest=one["longest_missing_hours"].fill_null(_NEVER).to_numpy(),
            median=one["median"].fill_null(float("nan")).to_numpy(),
            weight={horizon: part["weight"].fill_null(0.0).to_numpy() for horizon, part in by_horizon.items()},
            base_rate={horizon: row["base_rate"] for horizon, row in stated.items()},
            quantiles={h: np.array([row[name] for name in QUANTILE_NAMES]) for h, row in stated.items()},
        )

    def lost(self, features: pl.DataFrame) -> Bools:
        """Return which inputs are lost in each hour, (n, f).

        Args:
            features: HOURLY_FEATURES rows in time order, from `LOOK_BACK_DAYS` before the first hour of interest on.
        """
        return missing_runs(features, self.names) > self.longest

    def filled(self, inputs: Floats, lost: Bools) -> Floats:
        """Return inputs (n, f) with each lost one at its median in training."""
        return np.where(lost, self.median, inputs)

    def answer(self, horizon: int, forecast: HorizonForecast, inputs: Floats, lost: Bools) -> Answer:
        """Put base rate and volatility in place of a forecast where the lost inputs carry too much of the model.

        Args:
            horizon: hours ahead.
            forecast: of the model, for `inputs`.
            inputs: the filled inputs, (n, f).
            lost: see `lost`, (n, f).
        """
        weight = np.minimum(lost @ self.weight[horizon], 1.0)
        fallback = weight >= FALL_BACK_WEIGHT
        scale = scaled_by(inputs[:, self.names.index(SCALE_FEATURE)], horizon)
        return Answer(
            HorizonForecast(
                p_up=np.where(fallback, self.base_rate[horizon], forecast.p_up),
                quantiles=np.where(fallback[:, None], self.quantiles[horizon] * scale[:, None], forecast.quantiles),
            ),
            missing_weight=weight,
            fallback=fallback,
        )


def hours_lost(forecasts: pl.DataFrame, features: pl.DataFrame) -> dict[str, int]:
    """Count the hours in which each input was lost to a model, but for those that a hole in the bars explains.

    Args:
        forecasts: FORECASTS rows of one model, role and horizon.
        features: HOURLY_FEATURES rows of the same hours and of `LOOK_BACK_DAYS` before them, in time order.
    """
    since_hole = features.select("open_time").with_columns(pl.Series("since_hole", _hours_since_hole(features)))
    lost = (
        forecasts.filter(pl.col("degraded").fill_null(value=False))
        .select("open_time", pl.col("missing_inputs").str.split(",").alias("name"))
        .explode("name")
        .join(since_hole, on="open_time")
    )
    memory = pl.col("name").replace_strict(_MEMORY_HOURS, default=0, return_dtype=pl.Int64)
    counted = lost.filter(pl.col("since_hole") > memory).group_by("name").len("hours").sort("name")
    return dict(counted.iter_rows())


def _window(features: pl.DataFrame, cutoff: date, window_days: int) -> pl.DataFrame:
    start = midnight(cutoff - timedelta(days=window_days))
    inside = features.filter((pl.col("available_at") <= midnight(cutoff)) & (pl.col("open_time") >= start))
    return inside.sort("open_time")


def _unknown(features: pl.DataFrame, names: Sequence[str]) -> Bools:
    return features.select(pl.col(list(names)).is_null()).to_numpy().reshape(features.height, len(names))


def _once_known(features: pl.DataFrame, names: Sequence[str], runs: Ints) -> Ints:
    """Return runs with 0 for the hours before an input was first known."""
    return np.where(np.maximum.accumulate(~_unknown(features, names), axis=0), runs, 0)


def _hours_since_hole(features: pl.DataFrame) -> Ints:
    """Return how many hours each hour is from the first one after the last hole in the bars, (n,)."""
    rows = np.arange(features.height)
    after_hole = (features["open_time"].diff() > HOUR).fill_null(value=False).to_numpy()
    return rows - np.maximum.accumulate(np.where(after_hole, rows, -_NEVER))
