"""The streams of the market: hourly bars, the clock of the project, and what `BTC_CONTEXT` turns on beside them."""

from __future__ import annotations

from datetime import timedelta

import polars as pl

from btc_assets.clock import HOUR
from btc_assets.market.made_up import random_walk, stressed
from btc_assets.market.tables import PRICES
from btc_assets.streams import Rows, Stream, number_futures, same_columns

BARS = Stream(
    name="bars",
    about="Hourly bars",
    tables=(PRICES,),
    rows=same_columns(list(PRICES.columns)),
    available_at=pl.col("open_time").dt.offset_by("1h"),
    hour=pl.col("open_time"),
    join=lambda _rows, hours: hours.to_frame("open_time"),
    futures=number_futures,
    made_up=lambda hours, seed: Rows(random_walk(hours.len(), seed=seed, start=hours[0])),
    cadence=HOUR,
    warn_after=timedelta(hours=1, minutes=15),
    fail_after=timedelta(hours=2),
    roughened=stressed,
    is_clock=True,
)

CONTEXT: tuple[Stream, ...] = ()
"""The streams that `BTC_CONTEXT` may turn on, one a line."""

STREAMS = (BARS,)
"""The streams of the market that are on, the clock first."""
