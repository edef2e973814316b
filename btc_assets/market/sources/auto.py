"""Several venues in order of preference; every bar comes from a single venue."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from datetime import datetime
from typing import Self

import polars as pl

from btc_assets.clock import floor
from btc_assets.market.bars import find_gaps
from btc_assets.market.sources.protocol import MarketSource
from btc_assets.market.tables import PRICES
from btc_assets.transport import SourceError, SourceUnavailableError

_LOG = logging.getLogger(__name__)


class AutoSource:
    """Requests bars from the first venue, and from each next venue only the bars still missing.

    Attributes:
        venue: "auto"; each row names its own venue.
        venues: in order of preference.
        step: length of a bar.
    """

    venue = "auto"

    def __init__(self, sources: Sequence[MarketSource]) -> None:
        self._sources = tuple(sources)
        self.venues = tuple(source.venue for source in sources)
        self.step = sources[0].step

    def without_first(self, count: int) -> Self:
        """Return a source without the first venues."""
        return type(self)(self._sources[count:])

    def from_venue(self, venue: str) -> Self:
        """Return a source without the venues before the named one; unchanged if the name is unknown."""
        return self.without_first(self.venues.index(venue)) if venue in self.venues else self

    def fetch(self, first: datetime, last: datetime, now: datetime) -> pl.DataFrame:
        """Return the closed bars of the span; see `MarketSource.fetch`.

        Raises:
            SourceUnavailableError: no venue returned a bar; the message lists each venue's error.
        """
        end = max(first, min(last, floor(now, self.step)))
        bars = PRICES.empty()
        errors: list[str] = []
        for source in self._sources:
            for start, newest, _ in find_gaps(bars, first, end, self.step).iter_rows():
                try:
                    fetched = source.fetch(start, newest + self.step, now)
                except SourceError as error:
                    errors.append(f"{source.venue}: {error}")
                    _LOG.warning(
                        "%s returned no bars from %s on, trying the next venue: %s", source.venue, start, error
                    )
                    if isinstance(error, SourceUnavailableError):
                        break  # the venue is unavailable for the next gap too
                else:
                    bars = pl.concat([bars, fetched.select(list(PRICES.columns))])
        if bars.is_empty() and end > first:
            raise SourceUnavailableError(
                f"No venue returned a bar from {first:%Y-%m-%d %H:%M} to {end:%Y-%m-%d %H:%M} UTC. {' | '.join(errors)}"
            )
        return bars.sort("open_time")
