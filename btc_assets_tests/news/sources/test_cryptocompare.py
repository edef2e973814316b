"""CryptoCompare: paging back in time, and errors with status 200."""

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
    cryptocompare_answer,
    cryptocompare_article,
    epoch,
    reset,
    run_server,
    transport,
)

MINUTE = timedelta(minutes=1)
YESTERDAY = DAY - timedelta(days=1)


@pytest.fixture(scope="module")
def service() -> Iterator[Exchange]:
    with run_server() as server:
        yield server


@pytest.fixture
def server(service: Exchange) -> Exchange:
    return reset(service)


def fetch(server: Exchange, first: datetime = DAY, last: datetime = NEXT) -> Delivery:
    return CryptoCompareSource(transport(server), SECRET).fetch(first, last, NOW)


def serve(server: Exchange, articles: list[dict[str, Any]], *, inclusive: bool = False) -> None:
    """Serve the latest 50 articles before a time."""

    def respond(path: str, query: dict[str, str]) -> Answer:
        end = int(query["lTs"]) + inclusive
        return Answer(cryptocompare_answer([article for article in articles if article["published_on"] < end][:50]))

    server.respond = respond


def test_the_request_has_the_key_in_a_header(server: Exchange) -> None:
    serve(server, [])
    fetch(server)
    assert server.requests == [
        ("/data/v2/news/", {"lang": "EN", "categories": "BTC", "sortOrder": "latest", "lTs": str(epoch(NOW))})
    ]
    assert server.headers[0]["Authorization"] == f"Apikey {SECRET}"


def test_an_article_has_the_outlet_of_its_publisher(server: Exchange) -> None:
    serve(server, [cryptocompare_article(5, NOW - MINUTE)])
    (item,) = fetch(server).items
    assert (item.kind, item.source, item.outlet) == ("article", "cryptocompare", "paper.example")
    assert (item.guid, item.url) == ("50000005", "https://www.paper.example/piece/5")
    assert (item.published_at, item.precision) == (NOW - MINUTE, "second")


@pytest.mark.parametrize("inclusive", [False, True])
@pytest.mark.parametrize("every", [1, 7, 60])
def test_a_span_is_fetched_back_to_its_start(every: int, inclusive: bool, server: Exchange) -> None:
    articles = [cryptocompare_article(number, NOW - number // 3 * every * MINUTE) for number in range(300)]
    serve(server, articles, inclusive=inclusive)
    expected = {article["id"] for article in articles if epoch(DAY) - 3_600 <= article["published_on"] < epoch(NOW)}
    received = [item.guid for item in fetch(server).items]
    assert expected <= set(received)
    assert len(received) == len(set(received))
    assert len(server.requests) <= len(expected) // 47 + 3


def test_repeated_answers_end_the_fetch(server: Exchange) -> None:
    server.respond = lambda path, query: Answer(
        cryptocompare_answer([cryptocompare_article(number, NOW) for number in range(50)])
    )
    assert len(fetch(server).items) == 50
    assert len(server.requests) == 2


@pytest.mark.parametrize(
    ("message", "error_type", "sentence"),
    [
        ("You need a valid auth key or api key to access this endpoint", SourceRefusedError, "BTC_CRYPTOCOMPARE_KEY"),
        ("Path does not exist", SourceRefusedError, "BTC_CRYPTOCOMPARE_URL"),
        ("You are over your rate limit please upgrade your account!", SourceUnavailableError, "try later"),
        ("You can only have 1 request in flight at a time", SourceUnavailableError, "try later"),
    ],
)
def test_errors_with_status_200_are_reported(
    message: str, error_type: type[SourceError], sentence: str, server: Exchange
) -> None:
    server.respond = lambda path, query: Answer({"Response": "Error", "Message": message, "Type": 1, "Data": {}})
    with pytest.raises(error_type, match=sentence) as error:
        fetch(server)
    assert message[:20] in str(error.value)


def test_a_day_before_its_history_is_refused(server: Exchange) -> None:
    serve(server, [cryptocompare_article(number, NOW - number * MINUTE) for number in range(60)])
    with pytest.raises(SourceRefusedError, match=r"lists only its latest entries, back to no entry at all"):
        fetch(server, YESTERDAY, DAY)
