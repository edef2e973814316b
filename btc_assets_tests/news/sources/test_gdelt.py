"""GDELT: every quarter hour is read, stamps are when an article could first be seen, and its sentences are heard."""

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
from btc_assets_tests.news.sources.services import DAY, NEXT, NOW, article, playing, silent, transport

MINUTE = timedelta(minutes=1)
QUARTER = 15 * MINUTE
YESTERDAY = DAY - timedelta(days=1)
SLOW_DOWN = "Please limit requests to one every 5 seconds or contact us for larger queries."


@pytest.fixture(scope="module")
def service() -> Iterator[Exchange]:
    with playing() as server:
        yield server


@pytest.fixture
def server(service: Exchange) -> Exchange:
    return silent(service)


def fetch(server: Exchange, first: datetime = DAY, last: datetime = NEXT, now: datetime = NOW) -> Delivery:
    return GdeltSource(transport(server)).fetch(first, last, now)


class Press:
    """A search that knows articles and tells 250 of them at most; whether the ends count is up to it."""

    def __init__(self, server: Exchange, known: list[dict[str, Any]], *, ends: bool = True, order: bool = True) -> None:
        self.known = sorted(known, key=lambda found: found["seendate"], reverse=True)
        self.ends = ends
        self.order = order
        self.busy_after = 10**9
        server.respond = self.respond
        self.server = server

    def respond(self, path: str, query: dict[str, str]) -> Answer:
        assert path == "/api/v2/doc/doc"
        if len(self.server.requests) > self.busy_after:
            return Answer(SLOW_DOWN.encode())
        start, end = (f"{query[name][:8]}T{query[name][8:]}Z" for name in ("startdatetime", "enddatetime"))
        found = [
            one
            for one in self.known
            if (start <= one["seendate"] <= end if self.ends else start < one["seendate"] < end)
        ]
        if not self.order:
            random.Random(7).shuffle(found)
        return Answer({"articles": found[:250]} if found else {})


def quarters(count: int, each: int, newest: datetime = NOW) -> list[dict[str, Any]]:
    """Return `each` articles of each of the newest quarter hours."""
    return [article(place * each + n, newest - place * QUARTER) for place in range(count) for n in range(each)]


def urls(delivery: Delivery) -> list[str]:
    return sorted(item.url for item in delivery.items)


# --- what is asked and told --------------------------------------------------------------------------
def test_english_articles_are_asked_for_newest_first(server: Exchange) -> None:
    Press(server, [])
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


def test_an_article_is_available_when_the_search_knows_it_not_when_it_is_stamped(server: Exchange) -> None:
    Press(server, [article(1, YESTERDAY + 12 * QUARTER)])
    (item,) = fetch(server, YESTERDAY, DAY).items
    assert (item.kind, item.source, item.outlet) == ("article", "gdelt", "paper1.example")
    assert (item.published_at, item.precision) == (None, "none")
    assert item.first_seen_at == YESTERDAY + 13 * QUARTER


@pytest.mark.parametrize(
    ("told", "title"),
    [
        ("Bitcoin hits $ 64 , 123 . 5 , up 3 . 5 % ( again )", "Bitcoin hits $64,123.5, up 3.5% (again)"),
        ("Why now ? Bitcoin : a view ; more !", "Why now? Bitcoin: a view; more!"),
        ("Bitcoin - what next", "Bitcoin - what next"),
    ],
)
def test_blanks_around_punctuation_are_taken_out(told: str, title: str, server: Exchange) -> None:
    Press(server, [article(1, NOW - QUARTER, title=told)])
    assert [item.title for item in fetch(server).items] == [title]


# --- more than one answer ------------------------------------------------------------------------------
@pytest.mark.parametrize("ends", [True, False], ids=["ends count", "ends do not count"])
@pytest.mark.parametrize("each", [1, 31, 249])
def test_a_span_with_more_than_an_answer_holds_is_asked_again(each: int, ends: bool, server: Exchange) -> None:
    press = Press(server, quarters(1_600 // each if each > 1 else 49, each), ends=ends)
    delivery = fetch(server)
    inside = [found["url"] for found in press.known if found["seendate"] >= "20261120T234500Z"]
    assert urls(delivery) == sorted(inside)
    assert delivery.faults == []
    assert len(server.requests) <= 1 + len(inside) // (250 - each)


def test_articles_in_no_order_are_found_by_halving(server: Exchange) -> None:
    press = Press(server, quarters(49, 20), order=False)
    delivery = fetch(server)
    assert urls(delivery) == sorted(found["url"] for found in press.known)
    assert delivery.faults == []


@pytest.mark.parametrize("order", [True, False])
def test_a_quarter_hour_with_too_many_says_so_and_does_not_hide_the_older_ones(order: bool, server: Exchange) -> None:
    crowd = [article(10_000 + n, NOW - 8 * QUARTER) for n in range(400)]
    press = Press(server, quarters(40, 5) + crowd, order=order)
    delivery = fetch(server)
    assert {found["url"] for found in press.known} - set(urls(delivery)) <= {found["url"] for found in crowd}
    assert len(delivery.items) >= 195 + 250 - 5
    assert any("more than 250 articles are stamped 2026-11-21 " in fault for fault in delivery.faults)


@pytest.mark.parametrize("stamp", [NOW - timedelta(days=9), NOW + timedelta(days=9), None])
def test_a_full_answer_of_another_time_is_refused(stamp: datetime | None, server: Exchange) -> None:
    found = [article(n, stamp or NOW, **({} if stamp else {"seendate": "soon"})) for n in range(250)]
    server.respond = lambda path, query: Answer({"articles": found})
    with pytest.raises(SourceMalformedError, match="answered with others"):
        fetch(server)
    assert len(server.requests) == 1


# --- history ---------------------------------------------------------------------------------------------
def test_a_past_day_without_an_article_is_refused_not_empty(server: Exchange) -> None:
    Press(server, [])
    with pytest.raises(SourceRefusedError, match="promises its last three months only"):
        fetch(server, YESTERDAY, DAY)
    assert fetch(server, DAY, NEXT) == Delivery([])
    assert fetch(server, DAY, DAY + QUARTER) == Delivery([]), "a quarter hour may be quiet"


def test_a_history_that_begins_late_says_so(server: Exchange) -> None:
    Press(server, quarters(4, 1, DAY - QUARTER))
    faults = fetch(server, DAY - timedelta(days=9), DAY).faults
    assert len(faults) == 1
    assert "it knows no article before 2026-11-20 23:00 UTC" in faults[0]


# --- sentences under status 200 ----------------------------------------------------------------------------
@pytest.mark.parametrize(
    "said", ["Your query was too short or too long.\n", "Invalid/Unsupported Language.", "Timespan"]
)
def test_a_search_that_gdelt_does_not_run_fails_with_its_words(said: str, server: Exchange) -> None:
    server.respond = lambda path, query: Answer(said.encode(), headers={"Content-Type": "text/html; charset=utf-8"})
    with pytest.raises(SourceRefusedError) as error:
        fetch(server)
    assert f"gdelt does not run the search and says {said.strip()!r}; check BTC_GDELT_URL" in str(error.value)
    assert len(server.requests) == 1, "the same search will not be run the next time either"


def test_a_plea_for_patience_is_heard(server: Exchange) -> None:
    server.script = [Answer(SLOW_DOWN.encode()), Answer(SLOW_DOWN.encode()), Answer({"articles": quarters(1, 2)})]
    assert len(fetch(server).items) == 2
    server.respond = lambda path, query: Answer(SLOW_DOWN.encode())
    with pytest.raises(SourceUnavailableError, match="gdelt asks for patience and says 'Please limit requests"):
        fetch(server)
    assert len(server.requests) == 6


def test_of_the_running_day_what_came_before_the_plea_is_kept(server: Exchange) -> None:
    press = Press(server, quarters(40, 20))
    press.busy_after = 2
    delivery = fetch(server)
    assert len(delivery.items) >= 470
    assert "articles before " in delivery.faults[0]
    assert "gdelt asks for patience" in delivery.faults[0]


def test_of_a_past_day_nothing_is_kept_unless_all_is(server: Exchange) -> None:
    press = Press(server, quarters(90, 20, DAY - QUARTER))
    press.busy_after = 2
    with pytest.raises(SourceUnavailableError, match="gdelt asks for patience"):
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
    Press(server, [article(1, YESTERDAY + QUARTER)])
    seen = fetch(server, YESTERDAY, DAY).items[0].first_seen_at
    assert seen is not None
    assert seen.tzinfo is UTC
