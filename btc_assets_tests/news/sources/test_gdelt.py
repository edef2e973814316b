"""GDELT: every quarter hour is fetched, stamps give first-seen times, and its messages are interpreted."""

from __future__ import annotations

import json
import random
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from btc_assets.news.sources.gdelt import GdeltSource
from btc_assets.news.sources.protocol import Delivery
from btc_assets.transport import SourceMalformedError, SourceRefusedError, SourceUnavailableError
from btc_assets_tests.market.conftest import Answer, Exchange
from btc_assets_tests.news.sources.services import DAY, NEXT, NOW, article, reset, run_server, transport

MINUTE = timedelta(minutes=1)
QUARTER = 15 * MINUTE
YESTERDAY = DAY - timedelta(days=1)
SLOW_DOWN = "Please limit requests to one every 5 seconds or contact us for larger queries."


@pytest.fixture(scope="module")
def service() -> Iterator[Exchange]:
    with run_server() as server:
        yield server


@pytest.fixture
def server(service: Exchange) -> Exchange:
    return reset(service)


def fetch(server: Exchange, first: datetime = DAY, last: datetime = NEXT, now: datetime = NOW) -> Delivery:
    return GdeltSource(transport(server)).fetch(first, last, now)


class FakeGdelt:
    """A search that returns at most 250 articles, with inclusive or exclusive ends."""

    def __init__(
        self, server: Exchange, known: list[dict[str, Any]], *, inclusive: bool = True, ordered: bool = True
    ) -> None:
        self.known = sorted(known, key=lambda hit: hit["seendate"], reverse=True)
        self.inclusive = inclusive
        self.ordered = ordered
        self.busy_after = 10**9
        server.respond = self.respond
        self.server = server

    def respond(self, path: str, query: dict[str, str]) -> Answer:
        assert path == "/api/v2/doc/doc"
        if len(self.server.requests) > self.busy_after:
            return Answer(SLOW_DOWN.encode())
        start, end = (f"{query[name][:8]}T{query[name][8:]}Z" for name in ("startdatetime", "enddatetime"))
        hits = [
            hit
            for hit in self.known
            if (start <= hit["seendate"] <= end if self.inclusive else start < hit["seendate"] < end)
        ]
        if not self.ordered:
            random.Random(7).shuffle(hits)
        return Answer({"articles": hits[:250]} if hits else {})


def articles_per_quarter_hour(count: int, each: int, newest: datetime = NOW) -> list[dict[str, Any]]:
    """Return `each` articles of each of the newest quarter hours."""
    return [article(quarter * each + n, newest - quarter * QUARTER) for quarter in range(count) for n in range(each)]


def urls(delivery: Delivery) -> list[str]:
    return sorted(item.url for item in delivery.items)


# --- request and response ------------------------------------------------------------------------
def test_the_search_requests_english_articles_newest_first(server: Exchange) -> None:
    FakeGdelt(server, [])
    fetch(server)
    assert server.requests == [
        (
            "/api/v2/doc/doc",
            {
                "query": "bitcoin sourcelang:english",
                "mode": "artlist",
                "format": "json",
                "maxrecords": "250",
                "sort": "datedesc",
                "startdatetime": "20261120234459",
                "enddatetime": "20261121120001",
            },
        )
    ]


def test_an_article_is_available_a_lag_after_its_stamp(server: Exchange) -> None:
    FakeGdelt(server, [article(1, YESTERDAY + 12 * QUARTER)])
    (item,) = fetch(server, YESTERDAY, DAY).items
    assert (item.kind, item.source, item.outlet) == ("article", "gdelt", "paper1.example")
    assert (item.published_at, item.precision) == (None, "none")
    assert item.first_seen_at == YESTERDAY + 13 * QUARTER


@pytest.mark.parametrize(
    ("raw", "title"),
    [
        ("Bitcoin hits $ 64 , 123 . 5 , up 3 . 5 % ( again )", "Bitcoin hits $64,123.5, up 3.5% (again)"),
        ("Why now ? Bitcoin : a view ; more !", "Why now? Bitcoin: a view; more!"),
        ("Bitcoin - what next", "Bitcoin - what next"),
    ],
)
def test_spaces_around_punctuation_are_removed(raw: str, title: str, server: Exchange) -> None:
    FakeGdelt(server, [article(1, NOW - QUARTER, title=raw)])
    assert [item.title for item in fetch(server).items] == [title]


# --- more than one answer ------------------------------------------------------------------------------
@pytest.mark.parametrize("inclusive", [True, False], ids=["inclusive", "exclusive"])
@pytest.mark.parametrize("each", [1, 31, 249])
def test_a_span_beyond_one_answer_is_fetched_in_parts(each: int, inclusive: bool, server: Exchange) -> None:
    gdelt = FakeGdelt(server, articles_per_quarter_hour(1_600 // each if each > 1 else 49, each), inclusive=inclusive)
    delivery = fetch(server)
    inside = [found["url"] for found in gdelt.known if found["seendate"] >= "20261120T234500Z"]
    assert urls(delivery) == sorted(inside)
    assert delivery.faults == []
    assert len(server.requests) <= 1 + len(inside) // (250 - each)


def test_unordered_articles_are_found_by_bisection(server: Exchange) -> None:
    gdelt = FakeGdelt(server, articles_per_quarter_hour(49, 20), ordered=False)
    delivery = fetch(server)
    assert urls(delivery) == sorted(found["url"] for found in gdelt.known)
    assert delivery.faults == []


@pytest.mark.parametrize("ordered", [True, False])
def test_an_overfull_quarter_hour_is_reported_and_older_articles_are_fetched(ordered: bool, server: Exchange) -> None:
    crowd = [article(10_000 + n, NOW - 8 * QUARTER) for n in range(400)]
    gdelt = FakeGdelt(server, articles_per_quarter_hour(40, 5) + crowd, ordered=ordered)
    delivery = fetch(server)
    assert {found["url"] for found in gdelt.known} - set(urls(delivery)) <= {found["url"] for found in crowd}
    assert len(delivery.items) >= 195 + 250 - 5
    assert any("more than 250 articles are stamped 2026-11-21 " in fault for fault in delivery.faults)


@pytest.mark.parametrize("stamp", [NOW - timedelta(days=9), NOW + timedelta(days=9), None])
def test_a_full_answer_outside_the_span_is_refused(stamp: datetime | None, server: Exchange) -> None:
    found = [article(n, stamp or NOW, **({} if stamp else {"seendate": "soon"})) for n in range(250)]
    server.respond = lambda path, query: Answer({"articles": found})
    with pytest.raises(SourceMalformedError, match="got articles of another time"):
        fetch(server)
    assert len(server.requests) == 1


# --- history ---------------------------------------------------------------------------------------------
def test_a_past_day_without_an_article_is_refused(server: Exchange) -> None:
    FakeGdelt(server, [])
    with pytest.raises(SourceRefusedError, match="guarantees only its last three months"):
        fetch(server, YESTERDAY, DAY)
    assert fetch(server, DAY, NEXT) == Delivery([])
    assert fetch(server, DAY, DAY + QUARTER) == Delivery([]), "a quarter hour may be quiet"


def test_a_history_that_starts_late_is_reported(server: Exchange) -> None:
    FakeGdelt(server, articles_per_quarter_hour(4, 1, DAY - QUARTER))
    faults = fetch(server, DAY - timedelta(days=9), DAY).faults
    assert len(faults) == 1
    assert "it has no article before 2026-11-20 23:00 UTC" in faults[0]


# --- messages with status 200 ------------------------------------------------------------------------------
@pytest.mark.parametrize(
    "message", ["Your query was too short or too long.\n", "Invalid/Unsupported Language.", "Timespan"]
)
def test_a_rejected_search_reports_the_message(message: str, server: Exchange) -> None:
    server.respond = lambda path, query: Answer(message.encode(), headers={"Content-Type": "text/html; charset=utf-8"})
    with pytest.raises(SourceRefusedError) as error:
        fetch(server)
    assert f"gdelt rejects the search: {message.strip()!r}; check BTC_GDELT_URL" in str(error.value)
    assert len(server.requests) == 1, "a rejected search is not retried"


def test_a_rate_limit_message_is_retried(server: Exchange) -> None:
    server.script = [
        Answer(SLOW_DOWN.encode()),
        Answer(SLOW_DOWN.encode()),
        Answer({"articles": articles_per_quarter_hour(1, 2)}),
    ]
    assert len(fetch(server).items) == 2
    server.respond = lambda path, query: Answer(SLOW_DOWN.encode())
    with pytest.raises(SourceUnavailableError, match="gdelt limits the request rate: 'Please limit requests"):
        fetch(server)
    assert len(server.requests) == 6


def test_the_running_day_keeps_articles_before_the_rate_limit(server: Exchange) -> None:
    gdelt = FakeGdelt(server, articles_per_quarter_hour(40, 20))
    gdelt.busy_after = 2
    delivery = fetch(server)
    assert len(delivery.items) >= 470
    assert "articles before " in delivery.faults[0]
    assert "gdelt limits the request rate" in delivery.faults[0]


def test_an_incomplete_past_day_is_an_error(server: Exchange) -> None:
    gdelt = FakeGdelt(server, articles_per_quarter_hour(90, 20, DAY - QUARTER))
    gdelt.busy_after = 2
    with pytest.raises(SourceUnavailableError, match="gdelt limits the request rate"):
        fetch(server, YESTERDAY, DAY)


# --- JSON as GDELT writes it ---------------------------------------------------------------------------------
@pytest.mark.parametrize(
    ("raw", "title"),
    [
        (r"Bitcoin \ Gold", r"Bitcoin \ Gold"),
        (r"Bitcoin \x Gold \u12", r"Bitcoin \x Gold \u12"),
        (r"Bitcoin \\ Gold \"quoted\" \u00e9", 'Bitcoin \\ Gold "quoted" é'),
        ("Bitcoin \t\x01 Gold", "Bitcoin Gold"),
    ],
)
def test_lone_backslashes_and_control_characters_are_read(raw: str, title: str, server: Exchange) -> None:
    body = json.dumps({"articles": [article(1, NOW - QUARTER, title="TITLE")]}).replace("TITLE", raw)
    server.respond = lambda path, query: Answer(b"\xef\xbb\xbf" + body.encode())
    assert [item.title for item in fetch(server).items] == [title]


def test_stamps_are_utc(server: Exchange) -> None:
    FakeGdelt(server, [article(1, YESTERDAY + QUARTER)])
    seen = fetch(server, YESTERDAY, DAY).items[0].first_seen_at
    assert seen is not None
    assert seen.tzinfo is UTC
