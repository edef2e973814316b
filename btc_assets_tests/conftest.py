"""Shared builders: frames of bars, and the real data where it is at hand."""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path

import numpy as np
import polars as pl
import pytest

from btc_assets.contracts import PRICES
from btc_assets.settings import PROJECT_ROOT

SHARED_DATA = PROJECT_ROOT.parent / "shared" / "data"


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """Return the folder of real market data, or skip the test where it is absent."""
    if not SHARED_DATA.is_dir():
        pytest.skip("needs the real market data, which is not part of the project")
    return SHARED_DATA


def random_walk_bars(
    hours: int, *, seed: int = 7, start: datetime = datetime(2018, 1, 1, tzinfo=UTC), flow: bool = True
) -> pl.DataFrame:
    """Return `hours` synthetic hourly bars of a driftless random walk, as a PRICES frame.

    Nothing about the next bar can be known from the earlier ones.
    """
    rng = np.random.default_rng(seed)
    returns = rng.normal(0, 0.006, hours)
    close = 10_000 * np.exp(np.cumsum(returns))
    open_ = np.concatenate([[10_000.0], close[:-1]])
    wick = np.abs(rng.normal(0, 0.002, (2, hours)))
    volume = rng.lognormal(6, 0.6, hours)
    trades = rng.poisson(20_000, hours)
    share = rng.beta(20, 20, hours)
    quote = volume * (open_ + close) / 2
    frame = pl.DataFrame(
        {
            "open_time": pl.datetime_range(
                start, start + (hours - 1) * np.timedelta64(1, "h").astype(object), "1h", eager=True, time_unit="us"
            ),
            "open": open_,
            "high": np.maximum(open_, close) * (1 + wick[0]),
            "low": np.minimum(open_, close) * (1 - wick[1]),
            "close": close,
            "volume": volume,
            "quote_volume": quote if flow else None,
            "trades": trades if flow else None,
            "taker_buy_volume": volume * share if flow else None,
            "taker_buy_quote_volume": quote * share if flow else None,
            "venue": ["synthetic"] * hours,
        }
    )
    return frame.cast(PRICES.columns)


@pytest.fixture
def bars() -> pl.DataFrame:
    """Return 90 days of synthetic bars."""
    return random_walk_bars(90 * 24)
