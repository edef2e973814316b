"""Forecasts of closed hours by the models that held a role in that hour.

The champion and the challenger of an hour come from the append-only history of models, the newest model from the table
of trained models. Registry aliases are not used, as they show the present roles only; so a replay gives the same
forecasts.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import date, timedelta
from typing import Protocol, Self

import numpy as np
import polars as pl

from btc_assets.champion.history import ModelChoice, holders
from btc_assets.clock import HOUR
from btc_assets.forecasting.tables import FORECASTS
from btc_assets.learning.forecast_model import Forecasts
from btc_assets.learning.missingness import AdjustedForecast, Bools, Floats, Profile
from btc_assets.schema import UTC_TIME
from btc_assets.vocabulary import HELD_ROLES, NEWEST, QUANTILE_NAMES


class ForecastError(RuntimeError):
    """A model cannot be used for the forecasts it was chosen for."""


class Predictor(Protocol):
    """The interface of a model that forecasts; `learning.forecast_model.ForecastModel` implements it."""

    digest: str
    cutoff: date
    features: tuple[str, ...]

    @property
    def members(self) -> tuple[str, ...]:
        """Names of its members."""
        ...

    def predict(self, rows: np.ndarray, missing: np.ndarray | None = None) -> Forecasts:
        """Forecast rows (n, len(features)); `missing` says which values are substitutes."""
        ...


class Models(Protocol):
    """A source of registered models."""

    def load(self, version: int) -> Predictor:
        """Return one registered version, verified."""
        ...


@dataclass(frozen=True)
class ModelInputs:
    """The rows that a model forecasts.

    Attributes:
        rows: (n, f), NaN where unknown; lost values are replaced by their training medians.
        missing: which values are unknown, replaced or not, (n, f).
        lost: which values are missing beyond what the model saw in training, (n, f).
    """

    rows: Floats
    missing: Bools
    lost: Bools

    @classmethod
    def of(cls, model: Predictor, hours: pl.DataFrame, features: pl.DataFrame, profile: Profile | None) -> Self:
        """Return the rows of a model.

        Args:
            model: the model.
            hours: the n HOURLY_FEATURES rows, in time order.
            features: HOURLY_FEATURES rows of the hours and of `missingness.LOOK_BACK_DAYS` before them, in time order.
            profile: profile of the model's training window; without one no value is lost.

        Raises:
            ForecastError: the model needs a feature that does not exist.
        """
        absent = [name for name in model.features if name not in hours.columns]
        if absent:
            raise ForecastError(
                f"the model of {model.cutoff} needs features that are not computed: {', '.join(absent)}"
            )
        rows = hours.select(pl.col(model.features).cast(pl.Float64).fill_null(float("nan"))).to_numpy()
        missing, lost = np.isnan(rows), np.zeros(rows.shape, dtype=np.bool_)
        if profile is not None:
            lost = profile.lost(features)[features["open_time"].is_in(hours["open_time"].implode()).to_numpy()]
            rows = profile.fill(rows, lost)
        return cls(rows, missing, lost)


def choose_models(history: pl.DataFrame, trained: pl.DataFrame, hours: pl.Series, *, window_days: int) -> pl.DataFrame:
    """Return the model of each hour and role: open_time, role, model_version, model_cutoff, model_digest.

    Args:
        history: MODEL_HISTORY rows, with the champion and the challenger of each hour.
        trained: TRAINED_MODEL rows; the newest model of an hour is that of the newest cutoff, judged or not.
        hours: open_time, UTC.
        window_days: largest age of the newest model, days.
    """
    parts = {role: holders(history, role, hours) for role in HELD_ROLES}
    parts[NEWEST] = _newest(trained, hours, window_days)
    columns = ["open_time", "role", "model_version", "model_cutoff", "model_digest"]
    return pl.concat(part.with_columns(pl.lit(role).alias("role")).select(columns) for role, part in parts.items())


def _newest(trained: pl.DataFrame, hours: pl.Series, window_days: int) -> pl.DataFrame:
    """Return the newest cutoff's own model of each hour; an hour without one is left out."""
    models = (
        trained.select("model_version", pl.col("cutoff").alias("model_cutoff"), "model_digest")
        .unique("model_cutoff", keep="any")
        .with_columns(pl.col("model_cutoff").cast(UTC_TIME).alias("since"))
        .sort("since")
    )
    newest = pl.DataFrame({"open_time": hours.sort()}).join_asof(models, left_on="open_time", right_on="since")
    young_enough = pl.col("model_cutoff") >= pl.col("open_time").dt.date() - timedelta(days=window_days)
    return newest.drop_nulls("model_version").filter(young_enough).drop("since")


def forecast_hours(
    features: pl.DataFrame, prices: pl.DataFrame, chosen: pl.DataFrame, models: Models, profiles: pl.DataFrame
) -> pl.DataFrame:
    """Forecast every hour that has features, a bar and a model.

    An unknown feature is a missing value for the model and does not prevent a forecast. If it is missing beyond what
    the model saw in training, the forecast is marked as degraded and made by the rules of `learning.missingness`. Each
    model is loaded once and forecasts each hour once, whatever its roles.

    Args:
        features: HOURLY_FEATURES rows of the hours and, so that runs of missing hours can be counted, of
            `missingness.LOOK_BACK_DAYS` before them.
        prices: PRICES rows of the same hours.
        chosen: the model of each hour and role, see `choose_models`.
        models: source of the models.
        profiles: TRAINING_PROFILE rows of their cutoffs; forecasts of a model without a profile are never degraded.

    Returns:
        FORECASTS rows, by open_time, horizon and role; none for an hour without a model.

    Raises:
        ForecastError: a model is not the chosen one, is newer than the day, or needs a feature that does not exist.
    """
    early = chosen.filter(pl.col("model_cutoff") > pl.col("open_time").dt.date())
    if early.height:
        first = early.sort("open_time").row(0, named=True)
        raise ForecastError(
            f"model version {first['model_version']} was cut off on {first['model_cutoff']}, after "
            f"{first['open_time']:%Y-%m-%d}: it would have seen the hours that it forecasts"
        )
    features = features.sort("open_time")
    hours = features.join(prices.select("open_time", "close"), on="open_time", how="inner").sort("open_time")
    parts = []
    for _, assigned in sorted(chosen.group_by("model_version"), key=lambda part: part[0]):
        choice = ModelChoice(*assigned.select("model_version", "model_cutoff", "model_digest").row(0))
        rows = hours.join(assigned, on="open_time", how="semi")
        if rows.height:
            profile = profiles.filter(pl.col("cutoff") == choice.cutoff)
            forecast = _forecast_by(choice, models.load(choice.version), rows, features, profile)
            parts.append(forecast.join(assigned.select("open_time", "role"), on="open_time"))
    if not parts:
        return FORECASTS.empty()
    return pl.concat(parts).select(list(FORECASTS.columns)).sort(FORECASTS.key)


def _forecast_by(
    choice: ModelChoice, model: Predictor, hours: pl.DataFrame, features: pl.DataFrame, training: pl.DataFrame
) -> pl.DataFrame:
    """Forecast hours by one model; FORECASTS columns without the role."""
    if (model.digest, model.cutoff) != (choice.digest, choice.cutoff):
        raise ForecastError(
            f"registry version {choice.version} holds the model {model.digest[:12]} of {model.cutoff}, "
            f"but {choice.digest[:12]} of {choice.cutoff} was judged under that version"
        )
    profile = Profile.of(training, model.features)
    inputs = ModelInputs.of(model, hours, features, profile)
    made_at = pl.col("open_time") + HOUR
    names, members = np.array(model.features), np.array(model.members)
    forecasts = model.predict(inputs.rows, inputs.missing)
    parts = []
    for horizon in forecasts.horizons:
        forecast = forecasts[horizon]
        adjusted = (
            AdjustedForecast.unadjusted(forecast)
            if profile is None
            else profile.adjust(horizon, forecast, inputs.lost, forecasts.unfounded)
        )
        parts.append(
            hours.select(
                "open_time",
                pl.lit(horizon, pl.Int64).alias("horizon_minutes"),
                made_at.alias("made_at"),
                (made_at + timedelta(minutes=horizon)).alias("target_time"),
                pl.lit(choice.version, pl.Int64).alias("model_version"),
                pl.lit(choice.cutoff).alias("model_cutoff"),
                pl.lit(choice.digest).alias("model_digest"),
                "close",
                pl.Series("p_up", adjusted.forecast.p_up, pl.Float64),
                *(
                    pl.Series(name, adjusted.forecast.quantiles[:, i], pl.Float64)
                    for i, name in enumerate(QUANTILE_NAMES)
                ),
                pl.Series("sigma", forecast.sigma, pl.Float64),
                pl.Series("expected_return_bps", adjusted.forecast.expected_return_bps, pl.Float64),
                pl.Series("abstained", [",".join(members[row]) for row in forecasts.abstains], pl.String),
                pl.Series("degraded", inputs.lost.any(axis=1), pl.Boolean),
                pl.Series("missing_inputs", [",".join(names[row]) for row in inputs.lost], pl.String),
                pl.Series("missing_weight", adjusted.missing_weight, pl.Float64),
                pl.Series("fallback", adjusted.fallback, pl.Boolean),
            )
        )
    return pl.concat(parts)
