"""Regressors of the volatility model: ranges of bars or of their quarters, and the coming hour of earlier days."""

from __future__ import annotations

import math
from datetime import UTC, datetime, timedelta

import numpy as np
import polars as pl
import pytest

from btc_assets.features.volatility import FLOOR, OF_BARS, OF_QUARTERS
from btc_assets.market.quarter_grid import QUARTERS, column

START = datetime(2024, 1, 1, tzinfo=UTC)
N = 200
RANGES = np.random.default_rng(1).uniform(0.001, 0.02, N)
HOURS = pl.DataFrame(
    {"open_time": [START + timedelta(hours=hour) for hour in range(N)], "high": np.exp(RANGES), "low": 1.0}
)
VARIANCE = RANGES**2 / (4 * math.log(2))


def _values(frame: pl.DataFrame, name: str) -> list[float | None]:
    feature = next(feature for feature in (*OF_BARS, *OF_QUARTERS) if feature.name == name)
    return frame.select(feature.expression).to_series().to_list()


def test_the_variance_is_parkinsons() -> None:
    assert _values(HOURS, "log_variance_1h") == pytest.approx(np.log(VARIANCE).tolist())
    assert _values(HOURS, "log_variance_24h")[-1] == pytest.approx(math.log(VARIANCE[-24:].mean()))


def test_an_hour_without_a_range_has_the_least_variance() -> None:
    flat = HOURS.with_columns(high=pl.lit(1.0))
    assert _values(flat, "log_variance_1h")[-1] == pytest.approx(math.log(FLOOR))


def test_the_variance_a_day_ago_is_that_of_the_coming_hour() -> None:
    assert _values(HOURS, "log_variance_1d_ago")[30] == pytest.approx(math.log(VARIANCE[30 + 1 - 24]))


def test_the_variance_a_day_ago_is_unknown_across_a_gap() -> None:
    after_a_gap = HOURS.filter(pl.col("open_time") != START + timedelta(hours=190))
    assert _values(after_a_gap, "log_variance_1d_ago")[-1] is None


def test_quarters_sum_to_the_hour_and_a_missing_one_leaves_it_unknown() -> None:
    quarters = HOURS.select(
        "open_time",
        *(pl.lit(math.exp(0.001 * quarter)).alias(column(quarter, "high")) for quarter in QUARTERS),
        *(pl.lit(1.0).alias(column(quarter, "low")) for quarter in QUARTERS),
    )
    expected = math.log(30e-6 / (4 * math.log(2)))
    assert _values(quarters, "quarter_log_variance_1h")[-1] == pytest.approx(expected)
    last = pl.col("open_time") == HOURS["open_time"][-1]
    missing = quarters.with_columns(pl.when(~last).then(column(3, "high")).alias(column(3, "high")))
    assert _values(missing, "quarter_log_variance_1h")[-2:] == [pytest.approx(expected), None]
    assert _values(missing, "quarter_log_variance_24h")[-1] == pytest.approx(expected)
