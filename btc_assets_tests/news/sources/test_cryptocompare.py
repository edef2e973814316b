"""CryptoCompare: answer after answer back in time, and errors told in good answers."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import datetime, timedelta
from typing import Any

import pytest

from btc_assets.news.sources.cryptocompare import CryptoCompareSource
from btc_assets.news.sources.protocol import Delivery
from btc_assets.transport import SourceError, SourceRefusedError, SourceUnavailableError
from btc_assets_tests.market.conftest import Answer, Exchange
from btc_assets_tests.news.sources.services import (
    DAY,
    NEXT,
    NOW,
    SECRET,
    compared,
    compareds,
    epoch,
    playing,
    silent,
    transport,
)

MINUTE = timedelta(minutes=1)
YESTERDAY = DAY - timedelta(days=1)


@pytest.fixture(scope="module")
def service() -> Iterator[Exchange]:
    with playing() as server:
        yield server


@pytest.fixture
def server(service: Exchange) -> Exchange:
    return silent(service)


def fetch(server: Exchange, first: datetime = DAY, last: datetime = NEXT) -> Delivery:
    return CryptoCompareSource(transport(server), SECRET).fetch(first, last, NOW)


def told(server: Exchange, articles: list[dict[str, Any]], *, inclusive: bool = False) -> None:
    """Let the server tell the newest 50 articles before a time."""

    def respond(path: str, query: dict[str, str]) -> Answer:
        end = int(query["lTs"]) + inclusive
        return Answer(compareds([article for article in articles if article["published_on"] < end][:50]))

    server.respond = respond


def test_news_about_bitcoin_is_asked_for_with_the_key_in_a_header(server: Exchange) -> None:
    told(server, [])
    fetch(server)
    assert server.requests == [
        ("/data/v2/news/", {"lang": "EN", "categories": "BTC", "sortOrder": "latest", "lTs": str(epoch(NOW))})
    ]
    assert server.headers[0]["Authorization"] == f"Apikey {SECRET}"


def test_an_article_is_its_publishers(server: Exchange) -> None:
    told(server, [compared(5, NOW - MINUTE)])
    (item,) = fetch(server).items
    assert (item.kind, item.source, item.outlet) == ("article", "cryptocompare", "paper.example")
    assert (item.guid, item.url) == ("50000005", "https://www.paper.example/piece/5")
    assert (item.published_at, item.precision) == (NOW - MINUTE, "second")


@pytest.mark.parametrize("inclusive", [False, True])
@pytest.mark.parametrize("every", [1, 7, 60])
def test_a_span_is_read_back_to_its_beginning(every: int, inclusive: bool, server: Exchange) -> None:
    articles = [compared(number, NOW - number // 3 * every * MINUTE) for number in range(300)]
    told(server, articles, inclusive=inclusive)
    wanted = {article["id"] for article in articles if epoch(DAY) - 3_600 <= article["published_on"] < epoch(NOW)}
    found = [item.guid for item in fetch(server).items]
    assert wanted <= set(found)
    assert len(found) == len(set(found))
    assert len(server.requests) <= len(wanted) // 47 + 3


def test_a_service_that_always_tells_the_same_is_left(server: Exchange) -> None:
    server.respond = lambda path, query: Answer(compareds([compared(number, NOW) for number in range(50)]))
    assert len(fetch(server).items) == 50
    assert len(server.requests) == 2


@pytest.mark.parametrize(
    ("said", "kind", "sentence"),
    [
        ("You need a valid auth key or api key to access this endpoint", SourceRefusedError, "BTC_CRYPTOCOMPARE_KEY"),
        ("Path does not exist", SourceRefusedError, "BTC_CRYPTOCOMPARE_URL"),
        ("You are over your rate limit please upgrade your account!", SourceUnavailableError, "try later"),
        ("You can only have 1 request in flight at a time", SourceUnavailableError, "try later"),
    ],
)
def test_errors_come_in_good_answers(said: str, kind: type[SourceError], sentence: str, server: Exchange) -> None:
    server.respond = lambda path, query: Answer({"Response": "Error", "Message": said, "Type": 1, "Data": {}})
    with pytest.raises(kind, match=sentence) as error:
        fetch(server)
    assert said[:20] in str(error.value)


def test_a_day_before_its_history_is_refused_not_empty(server: Exchange) -> None:
    told(server, [compared(number, NOW - number * MINUTE) for number in range(60)])
    with pytest.raises(SourceRefusedError, match=r"expected|lists only its newest entries, back to no entry at all"):
        fetch(server, YESTERDAY, DAY)
