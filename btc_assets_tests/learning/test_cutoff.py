"""Which horizons the window of a cutoff has."""

from __future__ import annotations

from datetime import UTC, date, datetime, timedelta

import polars as pl
import pytest

from btc_assets.features.labels import compute_labels
from btc_assets.learning.cutoff import rows_by_horizon
from btc_assets.market.synthetic import quarters_of
from btc_assets.vocabulary import EVERY_HORIZON, HORIZONS
from btc_assets_tests.conftest import random_walk_bars

START = datetime(2018, 1, 1, tzinfo=UTC)
BARS = random_walk_bars(240, start=START)
QUARTERS = quarters_of(BARS, seed=1)
FEATURES = BARS.select("open_time", (pl.col("open_time") + timedelta(hours=1)).alias("available_at"), x=pl.col("close"))


@pytest.mark.parametrize(
    ("known_from", "horizons"), [(0, EVERY_HORIZON), (12, EVERY_HORIZON), (120, HORIZONS)], ids=["all", "most", "half"]
)
def test_a_window_has_the_horizon_below_an_hour_with_enough_of_its_labels(
    known_from: int, horizons: tuple[int, ...]
) -> None:
    quarters = QUARTERS.filter(pl.col("open_time") >= START + timedelta(hours=known_from))
    labels = compute_labels(BARS, START, START + timedelta(days=10), quarters=quarters)
    rows = rows_by_horizon(FEATURES.lazy(), labels.lazy(), date(2018, 1, 10), ("x",), days=30)
    assert tuple(rows) == horizons
    newest = datetime(2018, 1, 10, tzinfo=UTC)
    for horizon, own in rows.items():
        assert (
            own.open_time[-1] + timedelta(minutes=horizon + 60)
            <= newest
            < own.open_time[-1] + timedelta(minutes=horizon + 121)
        )
