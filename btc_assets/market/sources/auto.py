"""Several venues in order of preference; one hour is always of one venue."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from datetime import datetime
from typing import Self

import polars as pl

from btc_assets.clock import HOUR
from btc_assets.market.bars import find_gaps
from btc_assets.market.sources.protocol import MarketSource
from btc_assets.market.tables import PRICES
from btc_assets.transport import SourceError, SourceUnavailableError

_LOG = logging.getLogger(__name__)


class AutoSource:
    """Asks the first venue, and each next one only for the hours still missing.

    Attributes:
        venue: "auto"; each row carries the venue it came from.
        venues: in order of preference.
    """

    venue = "auto"

    def __init__(self, sources: Sequence[MarketSource]) -> None:
        self._sources = tuple(sources)
        self.venues = tuple(source.venue for source in sources)

    def without_first(self, places: int) -> Self:
        """Return a source that leaves out so many of the preferred venues."""
        return type(self)(self._sources[places:])

    def fetch(self, first: datetime, last: datetime, now: datetime) -> pl.DataFrame:
        """Return the closed bars of the span; see `MarketSource.fetch`.

        Raises:
            SourceUnavailableError: no venue gave a bar; the message holds what each one said.
        """
        end = max(first, min(last, now.replace(minute=0, second=0, microsecond=0)))
        bars = PRICES.empty()
        said: list[str] = []
        for source in self._sources:
            for start, newest, _ in find_gaps(bars, first, end).iter_rows():
                try:
                    found = source.fetch(start, newest + HOUR, now)
                except SourceError as error:
                    said.append(f"{source.venue}: {error}")
                    _LOG.warning("%s gave no bars from %s on, the next venue is asked: %s", source.venue, start, error)
                    if isinstance(error, SourceUnavailableError):
                        break  # it would be as unavailable for the next gap
                else:
                    bars = pl.concat([bars, found.select(list(PRICES.columns))])
        if bars.is_empty() and end > first:
            raise SourceUnavailableError(
                f"No venue gave a bar from {first:%Y-%m-%d %H:%M} to {end:%Y-%m-%d %H:%M} UTC. {' | '.join(said)}"
            )
        return bars.sort("open_time")
