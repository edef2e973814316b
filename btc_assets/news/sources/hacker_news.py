"""Hacker News: stories about Bitcoin from Algolia's search by date, which needs no key and has the full history."""

from __future__ import annotations

import math
from datetime import datetime, timedelta
from typing import Any

from btc_assets.news.plain_text import plain_summary
from btc_assets.news.sources.answer import Entry, EntryError, drop_repeats, is_seen_now, list_at, parse_items
from btc_assets.news.sources.protocol import Delivery, Item, Kind
from btc_assets.transport import SourceMalformedError, Transport

QUERY = "bitcoin"
MAX_STORIES = 1_000
"""Maximum number of stories per search, over all its pages."""
MAX_PAGES = 50
"""Maximum number of pages per search; at the service's default of 20 stories each they hold a full search."""
DISCUSSION = "https://news.ycombinator.com/item?id="
REMEDY = "check BTC_HACKER_NEWS_URL, or take hacker_news out of BTC_NEWS_SOURCES"
"""What to do if the service refuses the request."""


class HackerNewsSource:
    """Stories whose title, text or address contains the query.

    A search returns at most 1,000 stories, newest first; for a span with more, the search is repeated up to the oldest
    story so far.
    """

    name = "hacker_news"
    kinds: tuple[Kind, ...] = ("post",)
    live = True
    lag = timedelta(minutes=15)
    rhythm: timedelta | None = timedelta(hours=24)

    def __init__(self, api: Transport) -> None:
        self._api = api

    def fetch(self, first: datetime, last: datetime, now: datetime) -> Delivery:
        """Return the stories published in the span or up to `lag` before it; see `TextSource.fetch`."""
        start = math.floor((first - self.lag).timestamp())
        end = math.ceil(min(last, now).timestamp())
        stories = drop_repeats(self._stories(start, end), "objectID")
        items, faults = parse_items(self.name, stories, now, lambda story: self._item(story, last, now))
        return Delivery(items, faults)

    def _stories(self, start: int, end: int) -> list[Any]:
        """Return the stories with `start` <= creation time < `end`, epoch seconds, possibly with repeats."""
        stories: list[Any] = []
        while start < end:
            hits, total = self._search(start, end)
            stories += hits
            if not hits or total <= len(hits) < MAX_STORIES:
                break
            times = [at for story in hits if isinstance(at := _field(story, "created_at_i"), int) and at >= start]
            next_end = min(times, default=start) + 1
            if next_end >= end and len(hits) < MAX_STORIES:
                break
            if next_end >= end:
                raise SourceMalformedError(
                    f"hacker_news: expected stories created before the end of the span, newest first, got {len(hits)} "
                    f"stories without an older one. Nothing was stored; try again later."
                )
            end = next_end
        return stories

    def _search(self, start: int, end: int) -> tuple[list[Any], int]:
        """Fetch all pages of one search; return its stories and the total number that the service reports."""
        stories: list[Any] = []
        total = 0
        for page in range(MAX_PAGES):
            answer = self._api.json(
                "/api/v1/search_by_date",
                {
                    "query": QUERY,
                    "tags": "story",
                    "numericFilters": f"created_at_i>={start},created_at_i<{end}",
                    "typoTolerance": "false",
                    "hitsPerPage": MAX_STORIES,
                    "page": page,
                },
            )
            hits = list_at(self.name, answer, "hits")
            stories += hits
            total = max(total, _integer(answer, "nbHits"))
            if not hits or page + 1 >= _integer(answer, "nbPages"):
                break
        return stories, total

    def _item(self, story: Entry, last: datetime, now: datetime) -> Item:
        number = story.identifier("objectID")
        if not (number.isascii() and number.isdecimal()):
            raise EntryError("have an objectID that is not a number", number)
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


def _integer(answer: Any, name: str) -> int:
    value = _field(answer, name)
    return value if isinstance(value, int) else 0
