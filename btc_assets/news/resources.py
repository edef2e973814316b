"""The Dagster resource of the news assets: the configured sources and the project's clock."""

from __future__ import annotations

from collections.abc import Callable
from datetime import datetime

from btc_assets.news.sources.protocol import Kind, TextSource
from btc_assets.settings import Settings


class News:
    """The resource `news`.

    Attributes:
        now: the project's clock, UTC: the wall clock, or the end of a closed history.
    """

    def __init__(self, sources: Callable[[], tuple[TextSource, ...]], now: Callable[[], datetime]) -> None:
        self._sources = sources
        self.now = now

    def sources_of(self, kind: Kind) -> tuple[TextSource, ...]:
        """Return the sources that provide texts of a kind."""
        return tuple(source for source in self._sources() if kind in source.kinds)

    @classmethod
    def from_settings(cls, config: Settings) -> News:
        """Build the resource from settings; sources are built on first use, so no catalogue is read here."""

        def sources() -> tuple[TextSource, ...]:
            from btc_assets.news.sources.choose import sources_of

            return sources_of(config)

        return cls(sources, config.now)
