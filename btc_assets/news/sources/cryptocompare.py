"""CryptoCompare: Bitcoin news of many outlets, with history; needs a key."""

from __future__ import annotations

import math
import re
from datetime import datetime, timedelta
from typing import Any

from btc_assets.news.identity import outlet_of
from btc_assets.news.plain_text import plain_summary
from btc_assets.news.sources.answer import (
    Entry,
    drop_repeats,
    list_at,
    missing_history,
    parse_items,
    parse_time,
    preview,
    redact,
    redacting,
)
from btc_assets.news.sources.protocol import Delivery, Item, Kind
from btc_assets.transport import SourceRefusedError, SourceUnavailableError, Transport

REMEDY = "check BTC_CRYPTOCOMPARE_KEY and BTC_CRYPTOCOMPARE_URL"
"""What to do if the service refuses the request."""

_RATE_LIMITED = re.compile(r"rate limit|too many|in flight|try again", re.IGNORECASE)
_HISTORY_REMEDY = "Load older articles from files (BTC_NEWS_FILES)."


class CryptoCompareSource:
    """English news in the service's category Bitcoin, 50 per response, newest first.

    The key is sent in a header. The service reports errors in responses with status 200.
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
        """Return the news published in the span or up to `lag` before it; see `TextSource.fetch`."""
        start = math.floor((first - self.lag).timestamp())
        end = math.ceil(min(last, now).timestamp())
        with redacting(self._key):
            articles = self._articles(start, end)
        items, faults = parse_items(self.name, articles, now, self._item)
        times = [at for article in articles if (at := _published(article)) is not None]
        faults += missing_history(self.name, min(times, default=None), first, last, now, _HISTORY_REMEDY)
        return Delivery(items, [redact(fault, self._key) for fault in faults])

    def _articles(self, start: int, end: int) -> list[Any]:
        """Return the articles with `start` <= publication time < `end`, epoch seconds."""
        articles: list[Any] = []
        seen: set[tuple[str, str]] = set()
        while start < end:
            page = self._page(end)
            articles += page
            added = {_key(article) for article in page} - seen
            times = [int(at.timestamp()) for article in page if (at := _published(article)) is not None]
            if not added or not times:
                break
            seen |= added
            end = times[-1] + 1  # `lTs` may be inclusive or exclusive, so the last second is requested again
        return drop_repeats(articles, "id")

    def _page(self, end: int) -> list[Any]:
        """Return the latest articles before a time.

        Raises:
            SourceUnavailableError: the rate limit is exceeded.
            SourceRefusedError: the service reports an invalid request.
        """
        answer = self._api.json(
            "/data/v2/news/",
            {"lang": "EN", "categories": "BTC", "sortOrder": "latest", "lTs": end},
            headers={"Authorization": f"Apikey {self._key}"},
        )
        if isinstance(answer, dict) and answer.get("Response") == "Error":
            message = preview(answer.get("Message"))
            if _RATE_LIMITED.search(message):
                raise SourceUnavailableError(f"cryptocompare limits the request rate: {message}; try later")
            raise SourceRefusedError(f"cryptocompare refuses the request: {message}; {REMEDY}.")
        return list_at(self.name, answer, "Data")

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


def _key(article: Any) -> tuple[str, str]:
    """Return a key that distinguishes articles of several responses."""
    return (repr(article.get("id")), repr(article.get("guid"))) if isinstance(article, dict) else ("", "")


def _published(article: Any) -> datetime | None:
    written = parse_time(article.get("published_on")) if isinstance(article, dict) else None
    return written.at if written is not None else None
