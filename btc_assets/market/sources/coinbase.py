"""Coinbase Exchange: candles of one product, 300 per page, newest first, without order flow."""

from __future__ import annotations

from collections.abc import Callable
from datetime import datetime, timedelta

import polars as pl

from btc_assets.clock import HOUR
from btc_assets.market.sources.answer import (
    bars_of,
    closed_between,
    expect_bars,
    in_order,
    rows_of,
    valid_bars,
    wall_clock,
)
from btc_assets.transport import Transport

PAGE = 300
"""Maximum number of candles per answer; the first and the last requested time are both included."""
_FIELDS = {"open_time": 0, "low": 1, "high": 2, "open": 3, "close": 4, "volume": 5}


class CoinbaseSource:
    """Candles over Coinbase Exchange's REST API."""

    venue = "coinbase"
    venues: tuple[str, ...] = ("coinbase",)

    def __init__(
        self, api: Transport, product: str, clock: Callable[[], datetime] = wall_clock, step: timedelta = HOUR
    ) -> None:
        self.step = step
        self._api = api
        self._product = product
        self._clock = clock

    def fetch(self, first: datetime, last: datetime, now: datetime) -> pl.DataFrame:
        """Return the closed bars of the span; see `MarketSource.fetch`."""
        last = min(last, now)
        pages = [bars_of(self.venue, {"open_time": []})]
        start = first
        while start < last:
            end = min(start + (PAGE - 1) * self.step, last)
            answer = self._api.json(
                f"/products/{self._product}/candles",
                {
                    "granularity": int(self.step.total_seconds()),
                    "start": f"{start:%Y-%m-%dT%H:%M:%SZ}",
                    "end": f"{end:%Y-%m-%dT%H:%M:%SZ}",
                },
            )
            page = bars_of(self.venue, rows_of(self.venue, answer, _FIELDS, micros=1_000_000))
            page = valid_bars(self.venue, page, self._clock(), step=self.step)
            pages.append(in_order(self.venue, page, descending=True))
            start = end + self.step
        bars = closed_between(pl.concat(pages), first, last, now, self.step)
        return expect_bars(self.venue, bars, first, last, now, self.step)
