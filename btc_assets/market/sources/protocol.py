"""What every market source promises; its errors are those of `btc_assets.transport`."""

from __future__ import annotations

from datetime import datetime
from typing import Protocol

import polars as pl


class MarketSource(Protocol):
    """Where hourly bars come from.

    Attributes:
        venue: name of the source, for messages and metadata.
        venues: the venues its rows may come from, the preferred first.
    """

    venue: str
    venues: tuple[str, ...]

    def fetch(self, first: datetime, last: datetime, now: datetime) -> pl.DataFrame:
        """Return the closed bars with `first` <= open_time < `last`.

        Args:
            first: first open time wanted, UTC.
            last: end of the span, UTC, exclusive.
            now: the moment asked at, UTC; a bar is closed when open_time + 1 h <= now.

        Returns:
            The columns of the PRICES contract; a file source may add `close_time` and may hold an hour twice, which
            `bars.clean` decides. Hours without a bar are absent.

        Raises:
            SourceError: there is no answer, or none that can be trusted.
        """
        ...
