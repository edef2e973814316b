"""Binance spot: REST klines, and the public zip archive for spans longer than a month."""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Callable
from datetime import date, datetime, timedelta

import polars as pl

from btc_assets.clock import HALF_HOUR, HOUR, QUARTER, midnight
from btc_assets.market.sources.answer import (
    REMEDY,
    bars_of,
    closed_between,
    expect_bars,
    in_order,
    rows_of,
    valid_bars,
    wall_clock,
)
from btc_assets.market.sources.files import read_table
from btc_assets.market.tables import PRICES
from btc_assets.transport import SourceMalformedError, SourceRefusedError, SourceUnavailableError, Transport

PAGE = 1000
"""Maximum number of klines per REST answer."""
ARCHIVE_FROM = timedelta(days=31)
"""Longer spans are read from the archive as far as it reaches."""
_FIELDS = {
    "open_time": 0,
    "open": 1,
    "high": 2,
    "low": 3,
    "close": 4,
    "volume": 5,
    "quote_volume": 7,
    "trades": 8,
    "taker_buy_volume": 9,
    "taker_buy_quote_volume": 10,
}
_INTERVALS = {HOUR: "1h", HALF_HOUR: "30m", QUARTER: "15m"}
"""Names of the lengths of a bar."""
_UNZIPPED_LIMIT = 64 * 1024 * 1024
_LOG = logging.getLogger(__name__)


class BinanceSource:
    """Klines of one symbol, with order flow."""

    venue = "binance"
    venues: tuple[str, ...] = ("binance",)

    def __init__(
        self,
        api: Transport,
        archive: Transport,
        symbol: str,
        clock: Callable[[], datetime] = wall_clock,
        step: timedelta = HOUR,
    ) -> None:
        self.step = step
        self._api = api
        self._archive = archive
        self._symbol = symbol
        self._clock = clock

    def fetch(self, first: datetime, last: datetime, now: datetime) -> pl.DataFrame:
        """Return the closed bars of the span; see `MarketSource.fetch`."""
        last = min(last, now)
        parts = [bars_of(self.venue, {"open_time": []})]
        reached = first
        if last - first > ARCHIVE_FROM:
            archived, reached = self._archived(first, last)
            if archived and (listed_from := archived[0]["open_time"][0]) > first:
                parts += self._pages(first, listed_from)  # months that the archive lacks; empty before the listing
            parts += archived
        parts += self._pages(reached, last)
        bars = closed_between(pl.concat(parts), first, last, now, self.step)
        return expect_bars(self.venue, bars, first, last, now, self.step)

    # --- REST ----------------------------------------------------------------------------------
    def _pages(self, first: datetime, last: datetime) -> list[pl.DataFrame]:
        """Request page after page; a page that is not full is the last."""
        pages: list[pl.DataFrame] = []
        while first < last:
            answer = self._api.json(
                "/api/v3/klines",
                {
                    "symbol": self._symbol,
                    "interval": _INTERVALS[self.step],
                    "startTime": _milliseconds(first),
                    "endTime": _milliseconds(last) - 1,
                    "limit": PAGE,
                },
            )
            page = bars_of(self.venue, rows_of(self.venue, answer, _FIELDS, micros=1_000, width=11))
            page = in_order(self.venue, valid_bars(self.venue, page, self._clock(), step=self.step))
            if page.is_empty():
                break
            pages.append(page)
            newest = page["open_time"][-1]
            if page.height < PAGE:
                break
            if newest < first:
                raise SourceMalformedError(
                    f"binance returned only bars before the requested {first:%Y-%m-%d %H:%M} UTC, up "
                    f"to {newest:%Y-%m-%d %H:%M}. {REMEDY}"
                )
            first = newest + self.step
        return pages

    # --- the archive ---------------------------------------------------------------------------
    def _archived(self, first: datetime, last: datetime) -> tuple[list[pl.DataFrame], datetime]:
        """Read whole months, then whole days, as far as they are published.

        The REST API, which has the same bars, covers first months without a file, and everything if the archive is
        unreachable.

        Returns:
            The bars, and the time from which on the REST API is needed.
        """
        parts: list[pl.DataFrame] = []
        reached = first
        try:
            month = first.date().replace(day=1)
            while (following := _next_month(month)) <= last.date():
                part = self._file("monthly", f"{month:%Y-%m}")
                if part is not None:
                    parts.append(part)
                    reached = midnight(following)
                elif parts:
                    break
                month = following
            while parts and reached.date() < last.date():
                part = self._file("daily", f"{reached:%Y-%m-%d}")
                if part is None:
                    break
                parts.append(part)
                reached = midnight(reached.date() + timedelta(days=1))
        except (SourceUnavailableError, SourceRefusedError) as error:
            _LOG.warning("The archive of binance is unreachable (%s); using the REST API from %s on.", error, reached)
        return parts, reached

    def _file(self, period: str, stamp: str) -> pl.DataFrame | None:
        """Return the verified bars of one archive file, or None if the file does not exist."""
        interval = _INTERVALS[self.step]
        name = f"{self._symbol}-{interval}-{stamp}.zip"
        path = f"/data/spot/{period}/klines/{self._symbol}/{interval}/{name}"
        content = self._archive.content_if_found(path)
        if content is None:
            return None
        checksum = self._archive.content_if_found(f"{path}.CHECKSUM")
        if checksum is not None:
            expected = (checksum.decode("ascii", "replace").split() or [""])[0].lower()
            actual = hashlib.sha256(content).hexdigest()
            if expected != actual:
                raise SourceMalformedError(
                    f"binance archive {name}: expected sha256 {expected}, got {actual}; the download is damaged. Try "
                    f"again; if this persists, a proxy changes the file (BTC_BINANCE_ARCHIVE_URL)."
                )
        table = read_table(f"binance archive {name}", content, remedy=REMEDY, limit=_UNZIPPED_LIMIT, step=self.step)
        bars = valid_bars(f"binance archive {name}", table, self._clock(), step=self.step)
        return in_order(self.venue, bars.select(list(PRICES.columns)).with_columns(pl.lit(self.venue).alias("venue")))


def _milliseconds(at: datetime) -> int:
    return int(at.timestamp() * 1000)


def _next_month(month: date) -> date:
    return (month + timedelta(days=31)).replace(day=1)
