"""A small history: bars, features, labels, and two models of different cutoffs."""

from __future__ import annotations

from dataclasses import dataclass, field
from datetime import UTC, date, datetime, time, timedelta

import numpy as np
import polars as pl

from btc_assets.champion.tables import MODEL_HISTORY
from btc_assets.clock import midnight
from btc_assets.features.tables import HOURLY_FEATURES, HOURLY_LABELS
from btc_assets.learning.forecast_model import Forecasts
from btc_assets.learning.tables import TRAINED_MODEL, TRAINING_PROFILE
from btc_assets.vocabulary import HORIZONS, QUANTILE_NAMES
from btc_assets_tests.conftest import random_walk_bars

FIRST = date(2018, 1, 1)
DAYS = [FIRST + timedelta(days=i) for i in range(12)]
FEATURE = next(name for name in HOURLY_FEATURES.columns if name not in ("open_time", "available_at"))
"""The only feature of the test models: any feature of the catalogue, filled with the last return."""


SCALE_FEATURE = "realised_volatility_24h"
"""The feature that is the volatility of the test models, per hour."""
NO_PROFILES = TRAINING_PROFILE.empty()


def digest_of(version: int) -> str:
    """Return a stand-in for the SHA-256 of a model."""
    return f"{version:064x}"


@dataclass
class LinearModel:
    """A model whose P(up) is a logistic function of the negated last return."""

    version: int
    cutoff: date
    features: tuple[str, ...] = (FEATURE, SCALE_FEATURE)
    digest: str = ""
    members: tuple[str, ...] = ("linear",)

    def __post_init__(self) -> None:
        self.digest = self.digest or digest_of(self.version)

    def predict(self, rows: np.ndarray, missing: np.ndarray | None = None) -> Forecasts:
        """Forecast from the first feature, with 0 for a missing value; the only member requires it."""
        x = np.nan_to_num(rows[:, 0])
        p_up = 1 / (1 + np.exp((10 + self.version) * x))
        half = np.array([-1.6, -0.7, 0.0, 0.7, 1.6]) * 0.006
        quantiles = np.stack([np.tile(half * np.sqrt(h / 60), (len(rows), 1)) for h in HORIZONS], axis=1)
        sigma = np.column_stack([np.nan_to_num(rows[:, 1], nan=0.005) * np.sqrt(h / 60) for h in HORIZONS])
        lacks = np.isnan(rows[:, 0]) if missing is None else missing[:, 0]
        nobody = np.zeros((len(rows), 1), dtype=np.bool_)
        many = np.column_stack([p_up] * len(HORIZONS))
        return Forecasts(HORIZONS, many, quantiles, sigma, np.zeros_like(many), nobody, lacks)


@dataclass
class Shelf:
    """Holds models by version and records the loaded versions."""

    models: dict[int, LinearModel]
    loaded: list[int] = field(default_factory=list)

    def load(self, version: int) -> LinearModel:
        """Return a version."""
        self.loaded.append(version)
        return self.models[version]


def shelf() -> Shelf:
    """Return models 1 (cutoff on the 4th day) and 2 (cutoff on the 8th)."""
    return Shelf({1: LinearModel(1, DAYS[3]), 2: LinearModel(2, DAYS[7])})


def bars_of_the_history() -> pl.DataFrame:
    """Return 12 days of bars."""
    return random_walk_bars(12 * 24, start=datetime.combine(FIRST, time(), tzinfo=UTC))


def features_of(bars: pl.DataFrame) -> pl.DataFrame:
    """Return HOURLY_FEATURES rows in which only the last return is known."""
    known = bars.select(
        "open_time",
        (pl.col("open_time") + timedelta(hours=1)).alias("available_at"),
        (pl.col("close") / pl.col("close").shift(1)).log().alias(FEATURE),
    )
    empty = [pl.lit(None, pl.Float64).alias(name) for name in HOURLY_FEATURES.columns if name not in known.columns]
    return known.with_columns(empty).select(list(HOURLY_FEATURES.columns))


def labels_of(bars: pl.DataFrame) -> pl.DataFrame:
    """Return HOURLY_LABELS rows of every horizon known within the history."""
    last = bars["open_time"].max() + timedelta(hours=1)
    labels = pl.concat(
        bars.select(
            "open_time",
            pl.lit(h, pl.Int64).alias("horizon_minutes"),
            (pl.col("open_time") + timedelta(minutes=h + 60)).alias("known_at"),
            (pl.col("close").shift(-(h // 60)) / pl.col("close")).log().alias("log_return"),
        )
        for h in HORIZONS
    )
    return labels.filter(pl.col("known_at") <= last).sort(HOURLY_LABELS.key)


def profile_rows(cutoff: date, *, weight: float = 0.2, longest: int = 0, median: float = 0.0) -> pl.DataFrame:
    """Return TRAINING_PROFILE rows of a model with `FEATURE`; the missing scale feature counts as seen in training."""
    shared = {"cutoff": cutoff, "missing_share": 0.0, "gone": False, "base_rate": 0.6, "rows": 1000}
    shared |= {name: 0.5 * (i - 2) for i, name in enumerate(QUANTILE_NAMES)}
    inputs = [
        {"feature": FEATURE, "weight": weight, "longest_missing_hours": longest, "median": median},
        {"feature": SCALE_FEATURE, "weight": 1 - weight, "longest_missing_hours": 10**6, "median": 0.01},
    ]
    rows = [shared | profile | {"horizon_minutes": horizon} for horizon in HORIZONS for profile in inputs]
    return pl.DataFrame(rows, schema=TRAINING_PROFILE.columns).sort(TRAINING_PROFILE.key)


def history_rows(day: date, version: int | None, role: str = "champion", *, hour: int = 0) -> pl.DataFrame:
    """Return the MODEL_HISTORY row that gives a role to a version, or that ends the role for None."""
    cutoff = {1: DAYS[3], 2: DAYS[7]}.get(version or 0)
    at = midnight(day) + timedelta(hours=hour)
    row = {
        "effective_from": at,
        "recorded_at": at,
        "role": role,
        "event": "promoted" if role == "champion" else "entered_shadow" if version else "left_shadow",
        "model_version": version,
        "model_cutoff": cutoff,
        "model_digest": None if version is None else digest_of(version),
        "reason": "because",
        "actor": "model_verdict",
        "verdict_cutoff": cutoff,
    }
    return pl.DataFrame([row], schema=MODEL_HISTORY.columns)


def champion_from(day: date, hours: pl.Series, *, version: int, cutoff: date) -> pl.DataFrame:
    """Return rows that make one model champion of every hour from a day on."""
    return pl.DataFrame({"open_time": hours.filter(hours >= midnight(day))}).with_columns(
        pl.lit("champion").alias("role"),
        pl.lit(version, pl.Int64).alias("model_version"),
        pl.lit(cutoff).alias("model_cutoff"),
        pl.lit(digest_of(version)).alias("model_digest"),
    )


def trained_rows(cutoff: date, version: int) -> pl.DataFrame:
    """Return the TRAINED_MODEL rows of every graph of a model."""
    return pl.DataFrame(
        [
            {
                "cutoff": cutoff,
                "horizon_minutes": h,
                "output": output,
                "model_version": version,
                "model_digest": digest_of(version),
                "graph_digest": digest_of(version),
                "rows": 100,
                "trees": 10,
                "parity_error": 0.0,
            }
            for h in HORIZONS
            for output in ("p_up", *QUANTILE_NAMES)
        ],
        schema=dict(TRAINED_MODEL.columns),
    ).sort(TRAINED_MODEL.key)
