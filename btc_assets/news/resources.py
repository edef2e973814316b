"""The news as the assets meet them: the chosen sources, and the moment they are asked at."""

from __future__ import annotations

from collections.abc import Callable
from datetime import datetime

from btc_assets.news.sources.protocol import Kind, TextSource
from btc_assets.settings import Settings


class News:
    """The resource `news`.

    Attributes:
        now: the project's clock: the wall clock, or the end of a closed history. UTC.
    """

    def __init__(self, sources: Callable[[], tuple[TextSource, ...]], now: Callable[[], datetime]) -> None:
        self._sources = sources
        self.now = now

    def of(self, kind: Kind) -> tuple[TextSource, ...]:
        """Return the sources that give texts of a kind."""
        return tuple(source for source in self._sources() if kind in source.kinds)

    @classmethod
    def from_settings(cls, config: Settings) -> News:
        """Build the news a deployment's settings ask for; nothing is fetched, and no catalogue read, yet."""

        def sources() -> tuple[TextSource, ...]:
            from btc_assets.news.sources.choose import sources_of

            return sources_of(config)

        return cls(sources, config.now)
