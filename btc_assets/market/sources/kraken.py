"""Kraken: the newest 720 bars only, with trade counts."""

from __future__ import annotations

from collections.abc import Callable
from datetime import datetime, timedelta
from typing import Any

import polars as pl

from btc_assets.clock import HOUR
from btc_assets.market.sources.answer import (
    REMEDY,
    bars_of,
    closed_between,
    expect_bars,
    in_order,
    number,
    rows_of,
    valid_bars,
    wall_clock,
)
from btc_assets.transport import SourceMalformedError, SourceRefusedError, SourceUnavailableError, Transport

REACH = 720
"""Number of bars that the endpoint serves."""
_FIELDS = {"open_time": 0, "open": 1, "high": 2, "low": 3, "close": 4, "volume": 6, "trades": 7}
_VWAP = 5
_BUSY = ("rate limit", "too many", "unavailable", "busy", "throttled", "internal error")


class KrakenSource:
    """Bars over Kraken's REST API; quote_volume is the volume-weighted price times the volume."""

    venue = "kraken"
    venues: tuple[str, ...] = ("kraken",)

    def __init__(
        self, api: Transport, pair: str, clock: Callable[[], datetime] = wall_clock, step: timedelta = HOUR
    ) -> None:
        self.step = step
        self._api = api
        self._pair = pair
        self._clock = clock

    def fetch(self, first: datetime, last: datetime, now: datetime) -> pl.DataFrame:
        """Return the closed bars of the span; see `MarketSource.fetch`.

        Raises:
            SourceRefusedError: the span begins before the bars that Kraken serves.
        """
        reach = self._clock() - REACH * self.step
        if first < reach:
            raise SourceRefusedError(
                f"kraken serves only the newest {REACH * self.step // HOUR} hours, from {reach:%Y-%m-%d %H:%M} "
                f"UTC on, and {first:%Y-%m-%d %H:%M} was requested; set BTC_MARKET_SOURCE to binance, coinbase or "
                f"files for older days."
            )
        # The endpoint returns the bars after `since`.
        since = int((first - self.step).timestamp())
        minutes = self.step // timedelta(minutes=1)
        answer = self._api.json("/0/public/OHLC", {"pair": self._pair, "interval": minutes, "since": since})
        rows = self._series(answer)
        columns = rows_of(self.venue, rows, _FIELDS, micros=1_000_000, width=8)
        vwap = [number(self.venue, "vwap", row[_VWAP]) for row in rows]
        columns["quote_volume"] = [price * size for price, size in zip(vwap, columns["volume"], strict=True)]
        bars = valid_bars(self.venue, bars_of(self.venue, columns), self._clock(), step=self.step)
        bars = closed_between(in_order(self.venue, bars), first, last, now, self.step)
        return expect_bars(self.venue, bars, first, last, now, self.step)

    def _series(self, answer: Any) -> list[Any]:
        """Return the single list of rows in an answer; its name may differ from the requested pair."""
        if not isinstance(answer, dict):
            raise SourceMalformedError(f"kraken: expected a JSON object, got {str(answer)[:80]!r}. {REMEDY}")
        if errors := answer.get("error"):
            message = ", ".join(str(error) for error in errors) if isinstance(errors, list) else str(errors)
            if any(word in message.lower() for word in _BUSY):
                raise SourceUnavailableError(f"kraken is busy: {message!r}; try again later.")
            raise SourceRefusedError(
                f"kraken refused the request for {self._pair}: {message!r}; check BTC_KRAKEN_PAIR."
            )
        result = answer.get("result")
        series = [value for name, value in result.items() if name != "last"] if isinstance(result, dict) else []
        if len(series) != 1 or not isinstance(series[0], list):
            raise SourceMalformedError(f"kraken: expected one series in 'result', got {str(result)[:80]!r}. {REMEDY}")
        return series[0]
