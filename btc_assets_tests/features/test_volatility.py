"""Regressors of the volatility model from quarters: the sum of their variances is that of the hour."""

from __future__ import annotations

import math
from datetime import UTC, datetime, timedelta

import polars as pl
import pytest

from btc_assets.features.volatility import OF_QUARTERS
from btc_assets.market.quarter_grid import QUARTERS, column

START = datetime(2024, 1, 1, tzinfo=UTC)
HOURS = pl.DataFrame({"open_time": [START + timedelta(hours=hour) for hour in range(30)]}).with_columns(
    *(pl.lit(math.exp(0.001 * quarter)).alias(column(quarter, "high")) for quarter in QUARTERS),
    *(pl.lit(1.0).alias(column(quarter, "low")) for quarter in QUARTERS),
)
LOG_VARIANCE = math.log((1 + 4 + 9 + 16) * 1e-6 / (4 * math.log(2)))


def _values(frame: pl.DataFrame, name: str) -> list[float | None]:
    feature = next(feature for feature in OF_QUARTERS if feature.name == name)
    return frame.select(feature.expression).to_series().to_list()


@pytest.mark.parametrize("window", ["1h", "8h", "24h", "1d_ago"])
def test_the_variance_of_an_hour_is_the_sum_over_its_quarters(window: str) -> None:
    assert _values(HOURS, f"quarter_log_variance_{window}")[-1] == pytest.approx(LOG_VARIANCE)


def test_an_hour_with_a_missing_quarter_has_no_variance() -> None:
    last = pl.col("open_time") == HOURS["open_time"][-1]
    missing = HOURS.with_columns(pl.when(~last).then(column(3, "high")).alias(column(3, "high")))
    assert _values(missing, "quarter_log_variance_1h")[-2:] == [pytest.approx(LOG_VARIANCE), None]
    assert _values(missing, "quarter_log_variance_24h")[-1] == pytest.approx(LOG_VARIANCE)
