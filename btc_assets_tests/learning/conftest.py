"""Builders of labelled rows with a known signal."""

from __future__ import annotations

from datetime import UTC, date, datetime, timedelta
from typing import Literal

import numpy as np
import polars as pl
import pytest

from btc_assets.learning.families.ridge_logistic import FAMILY as RIDGE
from btc_assets.learning.families.xgboost import FAMILY, XgboostParameters
from btc_assets.learning.folds import Rows
from btc_assets.learning.members import Member
from btc_assets.learning.training import Trainee, scale_of
from btc_assets.vocabulary import HORIZONS
from btc_assets_tests.serving.builders import volatility

CUTOFF = date(2018, 6, 4)
NAMES = ("signal", "noise", "log_variance_1h", "hour_of_day", "day_of_week")


def signal_rows(days: int = 120, *, seed: int = 3, strength: float = 0.5, horizon: int = 60) -> Rows:
    """Return hourly rows up to CUTOFF whose return depends on `signal`, with changing volatility."""
    rng = np.random.default_rng(seed)
    hours = days * 24 - horizon // 60
    start = datetime(CUTOFF.year, CUTOFF.month, CUTOFF.day, tzinfo=UTC) - timedelta(days=days)
    times = pl.datetime_range(start, start + timedelta(hours=hours - 1), "1h", eager=True, time_unit="us")
    volatility = 0.004 * np.exp(0.5 * np.sin(np.arange(hours) / 300))
    signal = rng.normal(size=hours)
    noise = rng.normal(size=hours)
    noise[rng.random(hours) < 0.05] = np.nan
    returns = volatility * np.sqrt(horizon / 60) * (strength * signal + rng.normal(size=hours))
    calendar = times.to_frame("at").select(pl.col("at").dt.hour(), day=pl.col("at").dt.weekday()).to_numpy()
    inputs = np.column_stack([signal, noise, 2 * np.log(volatility), calendar]).astype(np.float32)
    return Rows(times, inputs, returns, NAMES)


@pytest.fixture(scope="session")
def rows() -> dict[int, Rows]:
    """Return four months of rows with a strong signal, by horizon."""
    return {horizon: signal_rows(horizon=horizon) for horizon in HORIZONS}


SCALE = scale_of(volatility())
QUICK = XgboostParameters(rounds=25, quantile_rounds=20)


def trainee(
    name: str, features: tuple[str, ...], days: int, target: Literal["direction", "quantiles", "size"]
) -> Trainee:
    """Return a small member or head that reads some of NAMES."""
    return Trainee(Member(name, FAMILY.name, "hourly", days, target), FAMILY, features, dict.fromkeys(HORIZONS, QUICK))


MEMBERS = (
    trainee("long", ("signal", "noise"), 120, "direction"),
    trainee("short", ("signal", "noise"), 80, "direction"),
    trainee("plain", ("noise",), 120, "direction"),
)
"""Members with windows and inputs of their own; `plain` knows only noise, which is often missing."""
INTERVALS = trainee("intervals", NAMES, 120, "quantiles")
SIZE = Trainee(
    Member("size", RIDGE.name, "hourly", 120, "size"),
    RIDGE,
    ("signal", "noise"),
    dict.fromkeys(HORIZONS, RIDGE.parameters()),
)
