"""Completeness and reproducibility of forecasts and outcomes."""

from __future__ import annotations

import polars as pl

from btc_assets.forecasting.tables import FORECASTS
from btc_assets.vocabulary import HORIZONS

_KEY = list(FORECASTS.key)


def missing_forecasts(
    features: pl.DataFrame,
    prices: pl.DataFrame,
    forecasts: pl.DataFrame,
    chosen: pl.DataFrame,
) -> pl.DataFrame:
    """Return (open_time, horizon_minutes, role) of each expected forecast that is not stored.

    Args:
        features: HOURLY_FEATURES rows.
        prices: PRICES rows of the same hours.
        forecasts: the stored FORECASTS rows.
        chosen: the model of each hour and role, see `forecasting.choose_models`.
    """
    hours = features.join(prices, on="open_time", how="semi")
    horizons = pl.DataFrame({"horizon_minutes": HORIZONS}, schema={"horizon_minutes": pl.Int64})
    expected = chosen.join(hours, on="open_time", how="semi").join(horizons, how="cross").select(_KEY)
    return expected.join(forecasts, on=_KEY, how="anti").sort(_KEY)


def missing_outcomes(forecasts: pl.DataFrame, labels: pl.DataFrame, outcomes: pl.DataFrame) -> pl.DataFrame:
    """Return the key of each forecast whose label is known but whose outcome is not stored.

    Args:
        forecasts: FORECASTS rows of the labels' day and the two days before.
        labels: HOURLY_LABELS rows of one day.
        outcomes: the stored FORECAST_OUTCOMES rows of that day.
    """
    known = labels.drop_nulls("log_return")
    due = forecasts.join(known, on=["open_time", "horizon_minutes"], how="semi").select(_KEY)
    return due.join(outcomes, on=_KEY, how="anti").sort(_KEY)


def changed_forecasts(stored: pl.DataFrame, replayed: pl.DataFrame) -> pl.DataFrame:
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
