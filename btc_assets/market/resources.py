"""The resource `market`: the chosen sources, and the time for which bars are requested."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from datetime import datetime, timedelta

from btc_assets.clock import HOUR, QUARTER, midnight
from btc_assets.market.closing import Arrival, await_bar
from btc_assets.market.sources.auto import AutoSource
from btc_assets.market.sources.choose import eager_sources_of, quarter_source_of, source_of
from btc_assets.market.sources.protocol import MarketSource
from btc_assets.settings import Settings

CLOCK_SKEW = timedelta(seconds=5)
"""How far an exchange's clock may lag behind ours before its open bar could be taken for a closed one."""


class Market:
    """The resource `market`.

    Attributes:
        source: where bars come from.
        grows: whether the source keeps growing; files end, possibly in the middle of a day.
        quarters: where quarter bars come from; None if there are none.
    """

    def __init__(
        self,
        source: MarketSource,
        clock: Callable[[], datetime],
        *,
        eager: Sequence[MarketSource] = (),
        skew: timedelta = timedelta(),
        grows: bool = True,
        quarters: MarketSource | None = None,
        eager_quarters: Sequence[MarketSource] = (),
    ) -> None:
        """Combine a source and a clock.

        Args:
            source: where bars come from.
            clock: the project's clock, UTC: the wall clock, or the end of a closed history.
            eager: the venues of the source in order of preference, each of which tries a request once; empty if
                the source is never waited for.
            skew: time that must pass after an hour before it counts as closed.
            grows: see the attribute.
            quarters: see the attribute.
            eager_quarters: the venues of the quarter bars, each of which tries a request once; empty if the source is
                never waited for.
        """
        self.source = source
        self.grows = grows
        self.quarters = quarters
        self._eager_quarters = tuple(eager_quarters)
        self._clock = clock
        self._eager = tuple(eager)
        self._skew = skew

    @classmethod
    def from_settings(cls, config: Settings) -> Market:
        """Build the market that the settings choose; nothing is fetched yet."""
        ended = config.history_end is not None and config.now() >= midnight(config.history_end)
        skew = timedelta() if ended else CLOCK_SKEW
        return cls(
            source_of(config),
            config.now,
            eager=eager_sources_of(config),
            skew=skew,
            grows=config.source_grows,
            quarters=quarter_source_of(config),
            eager_quarters=eager_sources_of(config, QUARTER),
        )

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

    def quarters_from(self, venue: str | None, *, eager: bool) -> MarketSource | None:
        """Return where to request quarter bars; None if there are none.

        Args:
            venue: the venue of the hourly bars, None if unknown; requests begin with it.
            eager: whether only that venue is requested, once.
        """
        if eager and self._eager_quarters:
            return next((source for source in self._eager_quarters if source.venue == venue), self._eager_quarters[0])
        if isinstance(self.quarters, AutoSource) and venue is not None:
            return self.quarters.from_venue(venue)
        return self.quarters

    def newest_hour(self) -> datetime:
        """Return the open_time of the hour that closed last by the project's clock, UTC."""
        return self._clock().replace(minute=0, second=0, microsecond=0) - HOUR
