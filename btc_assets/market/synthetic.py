"""Synthetic bars: a random walk, the quarter bars that make given hours, and bars with gaps and unknown values."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import numpy as np
import polars as pl

from btc_assets.clock import HOUR, QUARTER

_START = datetime(2020, 1, 1, tzinfo=UTC)
_FLOW = ("quote_volume", "trades", "taker_buy_volume", "taker_buy_quote_volume")
_QUARTERS = HOUR // QUARTER


def stressed(bars: pl.DataFrame, *, seed: int = 5) -> pl.DataFrame:
    """Return the bars with gaps (one at the end of a day), an hour without trades, and spans of unknown order flow.

    All changes lie in the newer half, most in the newest three days.

    Args:
        bars: hourly or shorter bars in time order.
        seed: random seed of the dropped bars.
    """
    n = bars.height
    rng = np.random.default_rng(seed)
    row = pl.int_range(pl.len())
    dropped = rng.choice(np.arange(n // 2, n - 1), size=max(1, n // 200), replace=False).tolist()
    dropped += (bars["open_time"].dt.hour() == 23).arg_true().to_list()[-2:-1]
    unknown = row.is_between(n - 60, n - 50) | (row == n - 30)
    flow = pl.col([name for name in _FLOW if name in bars.columns])
    return (
        bars.with_columns(pl.when(~unknown).then(flow))
        .with_columns(pl.when(row != n - 20).then(pl.col("volume")).otherwise(0.0))
        .filter(~row.is_in(dropped) & ~row.is_between(n - 44, n - 40))
    )


def random_walk(hours: int, *, seed: int, start: datetime = _START) -> pl.DataFrame:
    """Return synthetic bars of a driftless random walk, a PRICES frame: nothing in them predicts the next hour.

    Args:
        hours: number of bars.
        seed: random seed.
        start: open_time of the first bar, UTC.
    """
    rng = np.random.default_rng(seed)
    close = 10_000 * np.exp(np.cumsum(rng.normal(0, 0.006, hours)))
    opened = np.concatenate([[10_000.0], close[:-1]])
    wick = 1 + np.abs(rng.normal(0, 0.002, (2, hours)))
    volume = rng.lognormal(6, 0.6, hours)
    bought = volume * rng.beta(20, 20, hours)
    return pl.DataFrame(
        {
            "open_time": pl.datetime_range(start, start + timedelta(hours=hours - 1), "1h", eager=True, time_unit="us"),
            "open": opened,
            "high": np.maximum(opened, close) * wick[0],
            "low": np.minimum(opened, close) / wick[1],
            "close": close,
            "volume": volume,
            "quote_volume": volume * (opened + close) / 2,
            "trades": rng.poisson(20_000, hours),
            "taker_buy_volume": bought,
            "taker_buy_quote_volume": bought * (opened + close) / 2,
            "venue": ["random walk"] * hours,
        }
    )


def quarters_of(bars: pl.DataFrame, *, seed: int) -> pl.DataFrame:
    """Split hourly bars into synthetic quarter bars that make them again, a QUARTER_BARS frame.

    The closes of the first three quarters are drawn within the range of the hour. One quarter reaches the high of the
    hour and one its low. Volumes and trades are split at random; their sums equal those of the hour up to rounding.

    Args:
        bars: PRICES rows, known order flow.
        seed: random seed.
    """
    rng = np.random.default_rng(seed)
    n = bars.height
    low, high, opened, close = (bars[name].to_numpy()[:, None] for name in ("low", "high", "open", "close"))
    closes = np.concatenate([low + (high - low) * rng.random((n, _QUARTERS - 1)), close], axis=1)
    opens = np.concatenate([opened, closes[:, :-1]], axis=1)
    highs, lows = np.maximum(opens, closes), np.minimum(opens, closes)
    every = np.arange(n)
    highs[every, rng.integers(_QUARTERS, size=n)] = high[:, 0]
    lows[every, rng.integers(_QUARTERS, size=n)] = low[:, 0]
    share = rng.dirichlet(np.full(_QUARTERS, 8.0), n)
    trades = rng.multinomial(bars["trades"].to_numpy(), np.full(_QUARTERS, 1 / _QUARTERS))
    times = bars["open_time"].to_numpy()[:, None] + np.arange(_QUARTERS) * np.timedelta64(QUARTER)
    return pl.DataFrame(
        {
            "open_time": pl.Series(times.ravel()).dt.cast_time_unit("us").dt.replace_time_zone("UTC"),
            "minutes": pl.repeat(QUARTER // timedelta(minutes=1), n * _QUARTERS, dtype=pl.Int64, eager=True),
            **{name: values.ravel() for name, values in
               (("open", opens), ("high", highs), ("low", lows), ("close", closes))},
            **{name: (bars[name].to_numpy()[:, None] * share).ravel() for name in ("volume", "quote_volume")},
            "trades": trades.ravel(),
            "taker_buy_volume": (bars["taker_buy_volume"].to_numpy()[:, None] * share).ravel(),
            "venue": np.repeat(bars["venue"].to_numpy(), _QUARTERS),
        }
    )  # fmt: skip
