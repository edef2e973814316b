"""CryptoCompare: news about Bitcoin from the outlets it follows, with its history; needs a key."""

from __future__ import annotations

import math
import re
from datetime import datetime, timedelta
from typing import Any

from btc_assets.news.identity import outlet_of
from btc_assets.news.plain_text import plain_summary
from btc_assets.news.sources.answer import (
    Entry,
    hidden,
    items_of,
    list_in,
    once,
    shortfall,
    shown,
    told_time,
    without,
)
from btc_assets.news.sources.protocol import Delivery, Item, Kind
from btc_assets.transport import SourceRefusedError, SourceUnavailableError, Transport

REMEDY = "check BTC_CRYPTOCOMPARE_KEY and BTC_CRYPTOCOMPARE_URL"
"""What a person may do where the service refuses."""

_PATIENCE = re.compile(r"rate limit|too many|in flight|try again", re.IGNORECASE)
_ELSEWHERE = "Older articles can be had from files (BTC_NEWS_FILES)."


class CryptoCompareSource:
    """News in English that the service files under Bitcoin, 50 an answer, newest first.

    The key goes into a header. The service tells its errors in good answers.
    """

    name = "cryptocompare"
    kinds: tuple[Kind, ...] = ("article",)
    live = True
    lag = timedelta(hours=1)
    rhythm: timedelta | None = timedelta(hours=6)

    def __init__(self, api: Transport, key: str) -> None:
        self._api = api
        self._key = key

    def fetch(self, first: datetime, last: datetime, now: datetime) -> Delivery:
        """Return the news published in the span and in the lag before it; see `TextSource.fetch`."""
        start = math.floor((first - self.lag).timestamp())
        end = math.ceil(min(last, now).timestamp())
        with without(self._key):
            articles = self._articles(start, end)
        items, faults = items_of(self.name, articles, now, self._item)
        times = [at for article in articles if (at := _published(article)) is not None]
        faults += shortfall(self.name, min(times, default=None), first, last, now, _ELSEWHERE)
        return Delivery(items, [hidden(fault, self._key) for fault in faults])

    def _articles(self, start: int, end: int) -> list[Any]:
        """Return the articles published from `start` on and before `end`, epoch seconds."""
        articles: list[Any] = []
        told: set[tuple[str, str]] = set()
        while start < end:
            page = self._page(end)
            articles += page
            fresh = {_name(article) for article in page} - told
            times = [int(at.timestamp()) for article in page if (at := _published(article)) is not None]
            if not fresh or not times:
                break
            told |= fresh
            end = times[-1] + 1  # whether `lTs` counts in, the service does not say: the last second comes again
        return once(articles, "id")

    def _page(self, end: int) -> list[Any]:
        """Return the newest articles before a time.

        Raises:
            SourceUnavailableError: the service asks for patience.
            SourceRefusedError: it says what is wrong with the request.
        """
        answer = self._api.json(
            "/data/v2/news/",
            {"lang": "EN", "categories": "BTC", "sortOrder": "latest", "lTs": end},
            headers={"Authorization": f"Apikey {self._key}"},
        )
        if isinstance(answer, dict) and answer.get("Response") == "Error":
            said = shown(answer.get("Message"))
            if _PATIENCE.search(said):
                raise SourceUnavailableError(f"cryptocompare asks for patience and says {said}; try later")
            raise SourceRefusedError(f"cryptocompare refuses the request and says {said}; {REMEDY}.")
        return list_in(self.name, answer, "Data")

    def _item(self, article: Entry) -> Item:
        url = article.url("url", "guid")
        at, precision = article.time("published_on")
        return Item(
            kind="article",
            source=self.name,
            guid=article.identifier("id", "guid"),
            url=url,
            title=article.title("title"),
            summary=plain_summary(article.text("body")),
            published_at=at,
            precision=precision,
            outlet=outlet_of(url) or self.name,
        )


def _name(article: Any) -> tuple[str, str]:
    """Return what tells articles of several answers apart."""
    return (repr(article.get("id")), repr(article.get("guid"))) if isinstance(article, dict) else ("", "")


def _published(article: Any) -> datetime | None:
    written = told_time(article.get("published_on")) if isinstance(article, dict) else None
    return written.at if written is not None else None
