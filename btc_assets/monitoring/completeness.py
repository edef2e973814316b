"""Is every forecast and outcome there that should be, and would it be the same again?"""

from __future__ import annotations

from collections.abc import Mapping
from datetime import date

import polars as pl

from btc_assets.contracts import FORECASTS, HORIZONS
from btc_assets.learning.gate import ModelChoice

_KEY = list(FORECASTS.key)


def missing_forecasts(
    features: pl.DataFrame,
    prices: pl.DataFrame,
    forecasts: pl.DataFrame,
    chosen: Mapping[str, Mapping[date, ModelChoice]],
) -> pl.DataFrame:
    """Return (open_time, horizon_hours, role) of each forecast that should be there and is not.

    Args:
        features: HOURLY_FEATURES rows.
        prices: PRICES rows of the same hours.
        forecasts: FORECASTS rows stored.
        chosen: the model of each role and day, see `forecasting.choose_models`.
    """
    hours = features.join(prices, on="open_time", how="semi").select("open_time")
    wanted = [
        hours.filter(pl.col("open_time").dt.date().is_in(list(by_day)))
        .join(pl.DataFrame({"horizon_hours": HORIZONS}, schema={"horizon_hours": pl.Int64}), how="cross")
        .with_columns(pl.lit(role).alias("role"))
        for role, by_day in chosen.items()
    ]
    return pl.concat(wanted).join(forecasts, on=_KEY, how="anti").sort(_KEY)


def missing_outcomes(forecasts: pl.DataFrame, labels: pl.DataFrame, outcomes: pl.DataFrame) -> pl.DataFrame:
    """Return the key of each forecast whose label is known but whose outcome is not stored.

    Args:
        forecasts: FORECASTS rows, of the labels' day and the two before.
        labels: HOURLY_LABELS rows of one day.
        outcomes: FORECAST_OUTCOMES rows stored of that day.
    """
    known = labels.drop_nulls("log_return")
    judged = forecasts.join(known, on=["open_time", "horizon_hours"], how="semi").select(_KEY)
    return judged.join(outcomes, on=_KEY, how="anti").sort(_KEY)


def moved_forecasts(stored: pl.DataFrame, replayed: pl.DataFrame) -> pl.DataFrame:
    """Return the key of each row that differs between the stored forecasts and a replay, bit for bit."""
    columns = list(FORECASTS.columns)
    return (
        pl.concat([stored.select(columns), replayed.select(columns)])
        .group_by(columns)
        .len("copies")
        .filter(pl.col("copies") != 2)
        .select(_KEY)
        .unique()
        .sort(_KEY)
    )
