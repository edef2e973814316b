"""The interface of every market source; its errors are those of `btc_assets.transport`."""

from __future__ import annotations

from datetime import datetime
from typing import Protocol

import polars as pl


class MarketSource(Protocol):
    """A source of hourly bars.

    Attributes:
        venue: name of the source, for messages and metadata.
        venues: the venues its rows may come from, in order of preference.
    """

    venue: str
    venues: tuple[str, ...]

    def fetch(self, first: datetime, last: datetime, now: datetime) -> pl.DataFrame:
        """Return the closed bars with `first` <= open_time < `last`.

        Args:
            first: first open_time, UTC.
            last: end of the span, UTC, exclusive.
            now: current time, UTC; a bar is closed when open_time + 1 h <= now.

        Returns:
            The columns of the PRICES contract; a file source may add `close_time` and may repeat hours, which
            `bars.clean` resolves. Hours without a bar are absent.

        Raises:
            SourceError: there is no usable answer.
        """
        ...
