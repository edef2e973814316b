"""The streams of the market: hourly bars (the clock of the project), quarter bars, and those of `BTC_CONTEXT`."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import timedelta

import polars as pl

from btc_assets.clock import HOUR
from btc_assets.market.fear_greed import FEAR_GREED
from btc_assets.market.funding_rates import FUNDING
from btc_assets.market.implied_volatility import DVOL
from btc_assets.market.perpetual import BASIS
from btc_assets.market.quarter_bars import QUARTER_STREAM
from btc_assets.market.synthetic import random_walk, stressed
from btc_assets.market.tables import PRICES
from btc_assets.settings import ENV_PREFIX, SettingsError, settings
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
    synthetic=lambda hours, seed: Rows(random_walk(hours.len(), seed=seed, start=hours[0])),
    cadence=HOUR,
    warn_after=timedelta(hours=1, minutes=15),
    fail_after=timedelta(hours=2),
    stressed=stressed,
    is_clock=True,
)

CONTEXT = (
    FUNDING,
    BASIS,
    DVOL,
    FEAR_GREED,
)
"""Streams that `BTC_CONTEXT` can enable, one per line."""


def chosen(names: Sequence[str]) -> tuple[Stream, ...]:
    """Return the streams that `BTC_CONTEXT` names, in the order of `CONTEXT`.

    Raises:
        SettingsError: a name is not a stream.
    """
    known = {stream.name: stream for stream in CONTEXT}
    if unknown := [name for name in names if name not in known]:
        raise SettingsError(f"{ENV_PREFIX}CONTEXT: {unknown[0]!r} is not a stream; choose from {', '.join(known)}")
    return tuple(stream for name, stream in known.items() if name in names)


CONTEXT_ON = chosen(settings().context_names)
"""Streams that this deployment enables."""
STREAMS = (BARS, QUARTER_STREAM, *CONTEXT_ON)
"""Enabled streams of the market, the clock first."""
