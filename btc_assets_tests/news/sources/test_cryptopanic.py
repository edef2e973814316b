"""CryptoPanic: pages are requested by number, and the key is sent to no other address."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import datetime, timedelta
from typing import Any

import pytest

from btc_assets.news.sources.cryptopanic import CryptoPanicSource
from btc_assets.news.sources.protocol import Delivery
from btc_assets.transport import SourceRefusedError
from btc_assets_tests.market.conftest import Answer, Exchange
from btc_assets_tests.news.sources.services import (
    DAY,
    NEXT,
    NOW,
    SECRET,
    cryptopanic_answer,
    cryptopanic_post,
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
    return CryptoPanicSource(transport(server), SECRET).fetch(first, last, NOW)


def serve(server: Exchange, posts: list[dict[str, Any]], *, pages: int = 10**9) -> None:
    """Serve posts, 20 per page, and refuse pages beyond the plan's."""

    def respond(path: str, query: dict[str, str]) -> Answer:
        number = int(query["page"])
        if number > pages:
            return Answer(status=403)
        page = posts[(number - 1) * 20 :][:20]
        return Answer(cryptopanic_answer(page, number + 1 if number * 20 < len(posts) else None))

    server.respond = respond


def test_the_request_has_the_key(server: Exchange) -> None:
    serve(server, [])
    fetch(server)
    assert server.requests == [
        (
            "/posts/",
            {
                "auth_token": SECRET, "currencies": "BTC", "kind": "news", "regions": "en", "public": "true",
                "page": "1",
            },
        )
    ]  # fmt: skip


def test_pages_are_fetched_until_the_span_is_covered(server: Exchange) -> None:
    serve(server, [cryptopanic_post(number, NOW - number * 21 * MINUTE) for number in range(200)])
    items = fetch(server).items
    assert len(items) == 40, "the last page is complete"
    assert [query["page"] for _, query in server.requests] == ["1", "2"]


def test_the_next_url_is_not_followed(server: Exchange) -> None:
    evil = cryptopanic_answer([cryptopanic_post(1, NOW - MINUTE)]) | {"next": "http://127.0.0.1:1/steal?page=2"}
    server.script = [Answer(evil)]
    server.respond = lambda path, query: Answer(cryptopanic_answer([]))
    assert len(fetch(server).items) == 1
    assert [path for path, _ in server.requests] == ["/posts/", "/posts/"]


def test_the_number_of_pages_is_bounded(server: Exchange) -> None:
    server.respond = lambda path, query: Answer(cryptopanic_answer([cryptopanic_post(1, NOW - MINUTE)], 2))
    assert len(fetch(server).items) == 1
    assert len(server.requests) == 100


def test_an_article_has_the_outlet_of_its_publisher(server: Exchange) -> None:
    serve(server, [cryptopanic_post(5, NOW - MINUTE)])
    (item,) = fetch(server).items
    assert (item.kind, item.source, item.outlet) == ("article", "cryptopanic", "paper.example")
    assert (item.guid, item.url) == ("20000005", "https://www.paper.example/5")
    assert (item.published_at, item.precision) == (NOW - MINUTE, "second")


@pytest.mark.parametrize(
    ("domain", "outlet"),
    [("www.paper.example", "paper.example"), ("r/Bitcoin", "cryptopanic.com"), ("", "cryptopanic.com")],
)
def test_without_an_external_url_the_outlet_is_the_source_domain(domain: str, outlet: str, server: Exchange) -> None:
    serve(server, [cryptopanic_post(5, NOW - MINUTE, original_url=None, source={"domain": domain})])
    assert [item.outlet for item in fetch(server).items] == [outlet]


def test_entries_without_id_and_address_are_accepted(server: Exchange) -> None:
    complete = cryptopanic_post(5, NOW - MINUTE)
    serve(
        server, [{name: complete[name] for name in ("title", "description", "published_at", "created_at", "kind")}] * 2
    )
    delivery = fetch(server)
    assert delivery.faults == []
    assert {(item.guid, item.url, item.outlet) for item in delivery.items} == {
        ("2026-11-21 11:59:00+00:00 Bitcoin news 5", "", "cryptopanic.com")
    }


def test_pages_beyond_the_plan_are_reported_as_missing(server: Exchange) -> None:
    serve(server, [cryptopanic_post(number, NOW - number * MINUTE) for number in range(200)], pages=2)
    delivery = fetch(server)
    assert len(delivery.items) == 40
    assert delivery.faults[0].startswith("cryptopanic: page 3 and all later pages are missing: http://127.0.0.1")
    assert SECRET not in delivery.faults[0]


def test_a_day_before_the_list_is_refused(server: Exchange) -> None:
    serve(server, [cryptopanic_post(number, NOW - number * MINUTE) for number in range(60)])
    with pytest.raises(SourceRefusedError, match="cryptopanic lists only its latest entries, back to 2026-11-21 11:01"):
        fetch(server, YESTERDAY, DAY)


def test_a_partly_listed_day_reports_what_is_missing(server: Exchange) -> None:
    serve(server, [cryptopanic_post(number, NOW - number * 15 * MINUTE) for number in range(60)])
    assert "its list goes back only to 2026-11-20 21:15 UTC" in fetch(server, YESTERDAY, DAY).faults[0]
