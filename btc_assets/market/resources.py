"""The market as the assets meet it: the chosen source, and the moment it is asked at."""

from __future__ import annotations

from collections.abc import Callable
from datetime import datetime

from btc_assets.market.sources.choose import source_of
from btc_assets.market.sources.protocol import MarketSource
from btc_assets.settings import Settings


class Market:
    """The resource `market`.

    Attributes:
        source: where bars come from.
        now: the project's clock: the wall clock, or the end of a closed history. UTC.
    """

    def __init__(self, source: MarketSource, now: Callable[[], datetime]) -> None:
        self.source = source
        self.now = now

    @classmethod
    def from_settings(cls, config: Settings) -> Market:
        """Build the market a deployment's settings ask for; nothing is fetched yet."""
        return cls(source_of(config), config.now)
