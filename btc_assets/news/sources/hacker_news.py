"""Hacker News: stories about Bitcoin from Algolia's search by date, which needs no key and knows all of them."""

from __future__ import annotations

import math
from datetime import datetime, timedelta
from typing import Any

from btc_assets.news.plain_text import plain_summary
from btc_assets.news.sources.answer import Entry, EntryError, is_seen_now, items_of, list_in, once
from btc_assets.news.sources.protocol import Delivery, Item, Kind
from btc_assets.transport import SourceMalformedError, Transport

QUERY = "bitcoin"
REACH = 1_000
"""Most stories of one search, whatever its pages."""
MOST_PAGES = 50
"""Pages asked of one search; of 20 stories each, the service's default, they hold all it gives."""
DISCUSSION = "https://news.ycombinator.com/item?id="
REMEDY = "check BTC_HACKER_NEWS_URL, or take hacker_news out of BTC_NEWS_SOURCES"
"""What a person may do where the service refuses."""


class HackerNewsSource:
    """Stories whose title, text or address holds the query.

    A search tells no more than 1,000 stories, newest first; a span with more is asked again from the oldest told back.
    """

    name = "hacker_news"
    kinds: tuple[Kind, ...] = ("post",)
    live = True
    lag = timedelta(minutes=15)
    rhythm: timedelta | None = timedelta(hours=24)

    def __init__(self, api: Transport) -> None:
        self._api = api

    def fetch(self, first: datetime, last: datetime, now: datetime) -> Delivery:
        """Return the stories published in the span and in the lag before it; see `TextSource.fetch`."""
        start = math.floor((first - self.lag).timestamp())
        end = math.ceil(min(last, now).timestamp())
        stories = once(self._stories(start, end), "objectID")
        items, faults = items_of(self.name, stories, now, lambda story: self._item(story, last, now))
        return Delivery(items, faults)

    def _stories(self, start: int, end: int) -> list[Any]:
        """Return the stories created from `start` on and before `end`, epoch seconds, some of them twice."""
        stories: list[Any] = []
        while start < end:
            found, total = self._search(start, end)
            stories += found
            if not found or total <= len(found) < REACH:
                break
            times = [at for story in found if isinstance(at := _field(story, "created_at_i"), int) and at >= start]
            rest = min(times, default=start) + 1
            if rest >= end and len(found) < REACH:
                break
            if rest >= end:
                raise SourceMalformedError(
                    f"hacker_news answered with {len(found)} stories none of which is older than the end of the span; "
                    f"expected them created before it, newest first. Nothing was stored; try again later."
                )
            end = rest
        return stories

    def _search(self, start: int, end: int) -> tuple[list[Any], int]:
        """Ask page after page of one search; return its stories and how many the service says there are."""
        found: list[Any] = []
        total = 0
        for page in range(MOST_PAGES):
            answer = self._api.json(
                "/api/v1/search_by_date",
                {
                    "query": QUERY,
                    "tags": "story",
                    "numericFilters": f"created_at_i>={start},created_at_i<{end}",
                    "typoTolerance": "false",
                    "hitsPerPage": REACH,
                    "page": page,
                },
            )
            hits = list_in(self.name, answer, "hits")
            found += hits
            total = max(total, _whole(answer, "nbHits"))
            if not hits or page + 1 >= _whole(answer, "nbPages"):
                break
        return found, total

    def _item(self, story: Entry, last: datetime, now: datetime) -> Item:
        number = story.identifier("objectID")
        if not (number.isascii() and number.isdecimal()):
            raise EntryError("have an objectID that is no number", number)
        at, precision = story.time("created_at_i")
        counted = is_seen_now(at, self.lag, last, now)
        return Item(
            kind="post",
            source=self.name,
            guid=number,
            url=f"{DISCUSSION}{number}",
            title=story.title("title"),
            summary=plain_summary(story.text("story_text")),
            published_at=at,
            precision=precision,
            outlet=self.name,
            points=story.count("points") if counted else None,
            comments=story.count("num_comments") if counted else None,
        )


def _field(story: Any, name: str) -> Any:
    return story.get(name) if isinstance(story, dict) else None


def _whole(answer: Any, name: str) -> int:
    value = _field(answer, name)
    return value if isinstance(value, int) else 0
