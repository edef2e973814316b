"""Forecasts of closed hours by the models that stood on the hour's own day.

Which model forecasts day d is read from what was written by cutoffs up to d: the champion from the
append-only history of verdicts, the newest from the history of trained models. A registry alias says
who stands today and is never asked, so a replay gives the same forecasts.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from datetime import date, timedelta
from typing import Protocol

import numpy as np
import polars as pl

from btc_assets.clock import HOUR
from btc_assets.contracts import FORECASTS, ROLES
from btc_assets.learning.bundle import QUANTILE_NAMES, HorizonForecast
from btc_assets.learning.gate import ModelChoice, champion_as_of

CHAMPION, NEWEST = ROLES


class ForecastError(RuntimeError):
    """A model cannot forecast as its verdict says it should."""


class Predictor(Protocol):
    """What a forecast needs of a model; `learning.bundle.ModelBundle` has it."""

    digest: str
    cutoff: date
    features: tuple[str, ...]

    def predict(self, rows: np.ndarray) -> dict[int, HorizonForecast]:
        """Forecast every horizon for rows (n, len(features)), NaN where missing."""
        ...


class Models(Protocol):
    """Where models come from."""

    def load(self, version: int) -> Predictor:
        """Return one registered version, verified."""
        ...


def newest_as_of(trained: pl.DataFrame, day: date, *, window_days: int) -> ModelChoice | None:
    """Return the model of the newest cutoff <= day, judged or not.

    Args:
        trained: TRAINED_MODEL rows.
        day: the day to be forecast.
        window_days: models older than this many days are not asked.
    """
    standing = trained.filter(pl.col("cutoff").is_between(day - timedelta(days=window_days), day)).sort("cutoff")
    if standing.is_empty():
        return None
    row = standing.row(-1, named=True)
    return ModelChoice(row["model_version"], row["cutoff"], row["model_digest"])


def choose_models(
    verdicts: pl.DataFrame, trained: pl.DataFrame, days: Iterable[date], *, window_days: int
) -> dict[str, dict[date, ModelChoice]]:
    """Return each role's model for each day; a day without a model is absent."""
    chosen: dict[str, dict[date, ModelChoice]] = {role: {} for role in ROLES}
    for day in days:
        champion = champion_as_of(verdicts, day, window_days=window_days)
        newest = newest_as_of(trained, day, window_days=window_days)
        if champion:
            chosen[CHAMPION][day] = champion
        if newest:
            chosen[NEWEST][day] = newest
    return chosen


def forecast_hours(
    features: pl.DataFrame,
    prices: pl.DataFrame,
    chosen: Mapping[str, Mapping[date, ModelChoice]],
    models: Models,
) -> pl.DataFrame:
    """Forecast every hour that has features and a bar.

    A feature that is not known is missing to the model, not a reason to be silent. Each model is loaded once
    and each hour is put to it once, whichever roles it has.

    Args:
        features: HOURLY_FEATURES rows.
        prices: PRICES rows of the same hours.
        chosen: the model of each role and day, see `choose_models`.
        models: where the models come from.

    Returns:
        FORECASTS rows, by open_time, horizon and role; none for a day without a model.

    Raises:
        ForecastError: a model is not the one chosen, is newer than the day, or needs a feature that is not there.
    """
    hours = features.join(prices.select("open_time", "close"), on="open_time", how="inner").sort("open_time")
    hours = hours.with_columns(pl.col("open_time").dt.date().alias("_day"))
    roles_of: dict[ModelChoice, dict[str, list[date]]] = {}
    for role, by_day in chosen.items():
        for day, choice in by_day.items():
            if choice.cutoff > day:
                raise ForecastError(
                    f"model version {choice.version} was cut off on {choice.cutoff}, after {day}: "
                    "it would have seen the hours it is to forecast"
                )
            roles_of.setdefault(choice, {}).setdefault(role, []).append(day)
    parts = []
    for choice, roles in roles_of.items():
        asked = hours.filter(pl.col("_day").is_in({day for days in roles.values() for day in days}))
        if asked.height:
            forecast = _forecast_by(choice, models.load(choice.version), asked)
            parts += [
                forecast.filter(pl.col("_day").is_in(set(days))).with_columns(pl.lit(role).alias("role"))
                for role, days in roles.items()
            ]
    if not parts:
        return FORECASTS.empty()
    return pl.concat(parts).select(list(FORECASTS.columns)).sort(FORECASTS.key)


def _forecast_by(choice: ModelChoice, model: Predictor, hours: pl.DataFrame) -> pl.DataFrame:
    """Put hours to one model; FORECASTS columns without the role, and `_day`."""
    if (model.digest, model.cutoff) != (choice.digest, choice.cutoff):
        raise ForecastError(
            f"registry version {choice.version} holds the model {model.digest[:12]} of {model.cutoff}, "
            f"but {choice.digest[:12]} of {choice.cutoff} was judged under that version"
        )
    missing = [name for name in model.features if name not in hours.columns]
    if missing:
        raise ForecastError(
            f"model version {choice.version} needs features that are not computed: {', '.join(missing)}"
        )
    rows = hours.select(pl.col(model.features).cast(pl.Float64).fill_null(float("nan"))).to_numpy()
    made_at = pl.col("open_time") + HOUR
    return pl.concat(
        hours.select(
            "_day",
            "open_time",
            pl.lit(horizon, pl.Int64).alias("horizon_hours"),
            made_at.alias("made_at"),
            (made_at + timedelta(hours=horizon)).alias("target_time"),
            pl.lit(choice.version, pl.Int64).alias("model_version"),
            pl.lit(choice.cutoff).alias("model_cutoff"),
            pl.lit(choice.digest).alias("model_digest"),
            "close",
            pl.Series("p_up", forecast.p_up, pl.Float64),
            *(pl.Series(name, forecast.quantiles[:, i], pl.Float64) for i, name in enumerate(QUANTILE_NAMES)),
        )
        for horizon, forecast in model.predict(rows).items()
    )
