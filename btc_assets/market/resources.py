"""The resource `market`: the chosen source, and the time for which bars are requested."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from datetime import datetime, timedelta

from btc_assets.clock import HOUR, midnight
from btc_assets.market.closing import Arrival, await_bar
from btc_assets.market.sources.auto import AutoSource
from btc_assets.market.sources.choose import eager_sources_of, source_of
from btc_assets.market.sources.protocol import MarketSource
from btc_assets.settings import Settings

CLOCK_SKEW = timedelta(seconds=5)
"""How far an exchange's clock may lag behind ours before its open hour could be taken for a closed one."""


class Market:
    """The resource `market`.

    Attributes:
        source: where bars come from.
        grows: whether the source keeps growing; files end, possibly in the middle of a day.
    """

    def __init__(
        self,
        source: MarketSource,
        clock: Callable[[], datetime],
        *,
        eager: Sequence[MarketSource] = (),
        skew: timedelta = timedelta(),
        grows: bool = True,
    ) -> None:
        """Combine a source and a clock.

        Args:
            source: where bars come from.
            clock: the project's clock, UTC: the wall clock, or the end of a closed history.
            eager: the venues of the source in order of preference, each of which tries a request once; empty if
                the source is never waited for.
            skew: time that must pass after an hour before it counts as closed.
            grows: see the attribute.
        """
        self.source = source
        self.grows = grows
        self._clock = clock
        self._eager = tuple(eager)
        self._skew = skew

    @classmethod
    def from_settings(cls, config: Settings) -> Market:
        """Build the market that the settings choose; nothing is fetched yet."""
        ended = config.history_end is not None and config.now() >= midnight(config.history_end)
        skew = timedelta() if ended else CLOCK_SKEW
        return cls(source_of(config), config.now, eager=eager_sources_of(config), skew=skew, grows=config.source_grows)

    def now(self) -> datetime:
        """Return the time for which bars are requested, UTC; hours closed by then are closed at the exchange too."""
        return self._clock() - self._skew

    def await_newest(self, patience_s: float) -> tuple[Arrival | None, MarketSource]:
        """Wait for the bar of the hour that closed last.

        Args:
            patience_s: longest time to wait, seconds.

        Returns:
            The result, None if the source is never waited for; and the source for all other requests, without the
            venues that were skipped.
        """
        if not self._eager:
            return None, self.source
        arrival = await_bar(self._eager, self.newest_hour(), patience_s=patience_s, now=self.now)
        if arrival.venue and isinstance(self.source, AutoSource):
            return arrival, self.source.without_first(arrival.venue)
        return arrival, self.source

    def newest_hour(self) -> datetime:
        """Return the open_time of the hour that closed last by the project's clock, UTC."""
        return self._clock().replace(minute=0, second=0, microsecond=0) - HOUR
