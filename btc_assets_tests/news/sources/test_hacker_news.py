"""Hacker News: the whole span is fetched, for any number of stories."""

from __future__ import annotations

import re
from collections.abc import Iterator
from datetime import datetime, timedelta
from typing import Any

import pytest

from btc_assets.news.sources.hacker_news import HackerNewsSource
from btc_assets.transport import SourceMalformedError
from btc_assets_tests.market.conftest import Answer, Exchange
from btc_assets_tests.news.sources.services import DAY, NEXT, NOW, epoch, reset, run_server, stories, story, transport

MINUTE = timedelta(minutes=1)


@pytest.fixture(scope="module")
def service() -> Iterator[Exchange]:
    with run_server() as server:
        yield server


@pytest.fixture
def server(service: Exchange) -> Exchange:
    return reset(service)


class FakeSearch:
    """A search that returns at most 1,000 stories, `page` per page, and reports `extra` more than it has."""

    def __init__(self, server: Exchange, known: list[dict[str, Any]], *, page: int = 1_000, extra: int = 0) -> None:
        self.known = sorted(known, key=lambda hit: -hit["created_at_i"])
        self.page = page
        self.extra = extra
        server.respond = self.respond

    def respond(self, path: str, query: dict[str, str]) -> Answer:
        assert path == "/api/v1/search_by_date"
        start, end = map(int, re.fullmatch(r"created_at_i>=(\d+),created_at_i<(\d+)", query["numericFilters"]).groups())
        hits = [hit for hit in self.known if start <= hit["created_at_i"] < end]
        size, page = min(self.page, int(query["hitsPerPage"])), int(query["page"])
        served = hits[:1_000]
        return Answer(stories(served[page * size :][:size], len(hits) + self.extra, -(-len(served) // size)))


def fetch(server: Exchange, first: datetime = DAY, last: datetime = NEXT, now: datetime = NOW) -> list[Any]:
    return HackerNewsSource(transport(server)).fetch(first, last, now).items


def test_the_search_is_by_date(server: Exchange) -> None:
    FakeSearch(server, [])
    fetch(server)
    ((path, query),) = server.requests
    assert path == "/api/v1/search_by_date"
    assert query == {
        "query": "bitcoin",
        "tags": "story",
        "typoTolerance": "false",
        "hitsPerPage": "1000",
        "page": "0",
        "numericFilters": f"created_at_i>={epoch(DAY) - 900},created_at_i<{epoch(NOW)}",
    }


def test_a_story_is_a_post_with_its_discussion_as_address(server: Exchange) -> None:
    FakeSearch(server, [story(7, NOW - MINUTE)])
    (item,) = fetch(server)
    assert (item.kind, item.source, item.outlet, item.channel) == ("post", "hacker_news", "hacker_news", "")
    assert item.guid == "40000007"
    assert item.url == "https://news.ycombinator.com/item?id=40000007"
    assert (item.points, item.comments, item.is_repost) == (17, 7, False)
    assert (item.published_at, item.precision) == (NOW - MINUTE, "second")


def test_votes_of_past_days_are_unknown(server: Exchange) -> None:
    FakeSearch(server, [story(7, DAY + MINUTE)])
    assert [(item.points, item.comments) for item in fetch(server, now=NEXT + MINUTE)] == [(None, None)]
    FakeSearch(server, [story(1, DAY + MINUTE), story(2, DAY - 10 * MINUTE), story(3, DAY - 20 * MINUTE)])
    week = fetch(server, first=DAY - timedelta(days=7))
    assert {item.guid[-1]: item.points for item in week} == {"1": 11, "2": 12, "3": None}, (
        "yesterday's story is within the lag"
    )


@pytest.mark.parametrize(("page", "extra"), [(1_000, 0), (130, 0), (1_000, 3)], ids=["whole", "pages", "estimated"])
def test_a_span_beyond_one_search_is_fetched_in_parts(page: int, extra: int, server: Exchange) -> None:
    known = [story(number, DAY + timedelta(seconds=7 * (number // 3))) for number in range(2_200)]
    search = FakeSearch(server, known, page=page, extra=extra)
    items = fetch(server)
    assert sorted(item.guid for item in items) == sorted(hit["objectID"] for hit in search.known)
    spans = {query["numericFilters"] for _, query in server.requests}
    assert len(spans) <= 3 + bool(extra)


def test_a_thousand_stories_are_fetched(server: Exchange) -> None:
    FakeSearch(server, [story(number, DAY + timedelta(seconds=number)) for number in range(1_000)])
    assert len(fetch(server)) == 1_000


def test_a_search_that_never_ends_is_refused(server: Exchange) -> None:
    FakeSearch(server, [story(number, DAY) for number in range(1_500)])
    with pytest.raises(SourceMalformedError, match="1000 stories without an older one"):
        fetch(server)
    server.respond = lambda path, query: Answer(
        stories([story(number, NEXT + timedelta(days=9)) for number in range(1_000)], 10**9, 1)
    )
    with pytest.raises(SourceMalformedError, match="1000 stories without an older one"):
        fetch(server)


def test_the_number_of_pages_is_bounded(server: Exchange) -> None:
    def respond(path: str, query: dict[str, str]) -> Answer:
        page = int(query["page"])
        return Answer(stories([story(page, NOW - page * MINUTE)], 10**9, 10**9))

    server.respond = respond
    assert len(fetch(server)) == 50
    assert len(server.requests) <= 102


def test_an_id_that_is_not_a_number_is_refused(server: Exchange) -> None:
    FakeSearch(server, [story(1, NOW - MINUTE, objectID="1&x=<script>"), story(2, NOW - MINUTE, objectID="١٢")])
    delivery = HackerNewsSource(transport(server)).fetch(DAY, NEXT, NOW)
    assert delivery.items == []
    (fault,) = delivery.faults
    assert fault.startswith("hacker_news: 2 of 2 entries have an objectID that is not a number and were left out")
    assert fault.endswith("the first is entry 1: '1&x=<script>'.")
