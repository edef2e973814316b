"""The embedded sample of texts, written for this project, 2019-07-01 to 2019-09-30; see btc_assets/sample/README.md."""

from __future__ import annotations

from datetime import datetime, timedelta

from btc_assets.news.sources.files import TextFiles
from btc_assets.news.sources.protocol import Delivery, Kind
from btc_assets.settings import PACKAGE

NAME = "synthetic_sample"
"""Name of the source, on every row, so that these texts are not mistaken for news."""
ARTICLES_FILE = PACKAGE / "sample" / "synthetic_articles.jsonl"
POSTS_FILE = PACKAGE / "sample" / "synthetic_posts.jsonl"
LAG = timedelta(minutes=10)


class SampleSource:
    """Synthetic articles and posts; they were never published and are not derived from prices."""

    name = NAME
    kinds: tuple[Kind, ...] = ("article", "post")
    live = False
    lag = LAG
    rhythm: timedelta | None = None

    def __init__(self) -> None:
        self._files = (
            TextFiles(str(ARTICLES_FILE), "article", LAG, name=NAME),
            TextFiles(str(POSTS_FILE), "post", LAG, name=NAME),
        )

    def fetch(self, first: datetime, last: datetime, now: datetime) -> Delivery:
        """Return the texts that may have become available in the span; see `TextSource.fetch`."""
        deliveries = [files.fetch(first, last, now) for files in self._files]
        return Delivery(
            [item for delivery in deliveries for item in delivery.items],
            [fault for delivery in deliveries for fault in delivery.faults],
        )
