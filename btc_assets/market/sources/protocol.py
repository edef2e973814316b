"""The interface of every market source; its errors are those of `btc_assets.transport`."""

from __future__ import annotations

from datetime import datetime, timedelta
from typing import Protocol

import polars as pl


class MarketSource(Protocol):
    """A source of bars of one length.

    Attributes:
        venue: name of the source, for messages and metadata.
        venues: the venues its rows may come from, in order of preference.
        step: length of a bar.
    """

    venue: str
    venues: tuple[str, ...]
    step: timedelta

    def fetch(self, first: datetime, last: datetime, now: datetime) -> pl.DataFrame:
        """Return the closed bars with `first` <= open_time < `last`.

        Args:
            first: first open_time, UTC.
            last: end of the span, UTC, exclusive.
            now: current time, UTC; a bar is closed when open_time + step <= now.

        Returns:
            The columns of the PRICES contract; a file source may add `close_time` and may repeat bars, which
            `bars.clean` resolves. Missing bars are absent.

        Raises:
            SourceError: there is no usable answer.
        """
        ...
