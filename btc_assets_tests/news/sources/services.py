"""Fakes of the five services: their sources and sample answers.

The answers are handwritten in the format of each service; none is recorded.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from functools import cache
from typing import Any

from btc_assets.news.sources.cryptocompare import CryptoCompareSource
from btc_assets.news.sources.cryptopanic import CryptoPanicSource
from btc_assets.news.sources.gdelt import GdeltSource
from btc_assets.news.sources.hacker_news import HackerNewsSource
from btc_assets.news.sources.protocol import TextSource
from btc_assets.news.sources.reddit import RedditSource
from btc_assets.transport import Limits, Transport
from btc_assets_tests.market.conftest import Answer, Exchange

DAY = datetime(2026, 11, 21, tzinfo=UTC)
NOW = DAY + timedelta(hours=12)
NEXT = DAY + timedelta(days=1)
SECRET = "0123456789abcdef0123456789abcdef"


@contextmanager
def run_server() -> Iterator[Exchange]:
    """Run a server for a test module; building a transport to it takes longer than most of the tests."""
    server = Exchange()
    yield server
    server.close()


def reset(server: Exchange) -> Exchange:
    """Clear a server's recorded requests and configured answers."""
    server.script, server.requests, server.headers = [], [], []
    server.respond = lambda path, query: Answer(status=404)
    return server


def transport(server: Exchange, **limits: float) -> Transport:
    """Return a transport with short waits to a server of the tests."""
    options = {"timeout_s": 5.0, "attempts": 3, "max_wait_s": 0.05, "requests_per_second": 10_000.0} | limits
    return _transport(server.url, Limits(**options))  # type: ignore[arg-type]


@cache
def _transport(url: str, limits: Limits) -> Transport:
    return Transport(url, limits, remedy="check BTC_SOMETHING")


def epoch(at: datetime) -> int:
    return int(at.timestamp())


def story(number: int, at: datetime, **fields: Any) -> dict[str, Any]:
    """Return a story in the format of Hacker News' search."""
    return {
        "objectID": f"{40_000_000 + number}",
        "title": f"Bitcoin story {number}",
        "url": f"https://example.com/story/{number}",
        "author": "someone",
        "story_text": f"<p>Text &amp; more {number}</p>",
        "points": 10 + number,
        "num_comments": number,
        "created_at": f"{at:%Y-%m-%dT%H:%M:%SZ}",
        "created_at_i": epoch(at),
        "_tags": ["story", "author_someone", f"story_{40_000_000 + number}"],
    } | fields


def stories(hits: list[Any], total: int | None = None, pages: int = 1) -> dict[str, Any]:
    return {"hits": hits, "nbHits": len(hits) if total is None else total, "nbPages": pages, "page": 0}


def post(number: int, at: datetime, **fields: Any) -> dict[str, Any]:
    """Return a post in the format of Reddit's listings."""
    return {
        "id": f"1abc{number}",
        "name": f"t3_1abc{number}",
        "subreddit": "Bitcoin",
        "title": f"Bitcoin post {number}",
        "selftext": f"Text & more {number}",
        "selftext_html": f'<!-- SC_OFF --><div class="md"><p>Text &amp; more {number}</p>\n</div><!-- SC_ON -->',
        "author": "someone",
        "created_utc": float(epoch(at)),
        "score": 10 + number,
        "num_comments": number,
        "stickied": False,
        "removed_by_category": None,
        "permalink": f"/r/Bitcoin/comments/1abc{number}/bitcoin_post_{number}/",
    } | fields


def listing(posts: list[Any], after: str | None = None) -> dict[str, Any]:
    children = [{"kind": "t3", "data": fields} for fields in posts]
    return {"kind": "Listing", "data": {"after": after, "before": None, "dist": len(posts), "children": children}}


def article(number: int, at: datetime, **fields: Any) -> dict[str, Any]:
    """Return an article in GDELT's format."""
    return {
        "url": f"https://www.paper{number % 7}.example/news/{number}",
        "url_mobile": "",
        "title": f"Bitcoin article {number}",
        "seendate": f"{at:%Y%m%dT%H%M%SZ}",
        "socialimage": "",
        "domain": f"paper{number % 7}.example",
        "language": "English",
        "sourcecountry": "United States",
    } | fields


def cryptopanic_post(number: int, at: datetime, **fields: Any) -> dict[str, Any]:
    """Return a post in CryptoPanic's format."""
    return {
        "id": 20_000_000 + number,
        "slug": f"bitcoin-news-{number}",
        "title": f"Bitcoin news {number}",
        "description": f"Text &amp; more {number}",
        "published_at": f"{at:%Y-%m-%dT%H:%M:%SZ}",
        "created_at": f"{at:%Y-%m-%dT%H:%M:%SZ}",
        "kind": "news",
        "source": {"title": "Paper", "region": "en", "domain": "paper.example", "type": "feed"},
        "original_url": f"https://www.paper.example/{number}",
        "url": f"https://cryptopanic.com/news/{number}/bitcoin-news-{number}",
    } | fields


def cryptopanic_answer(results: list[Any], page: int | None = None) -> dict[str, Any]:
    """Return one page; as with the service, the address of the next page contains the key."""
    next_url = f"https://cryptopanic.com/api/developer/v2/posts/?auth_token={SECRET}&page={page}" if page else None
    return {"next": next_url, "previous": None, "results": results}


def cryptocompare_article(number: int, at: datetime, **fields: Any) -> dict[str, Any]:
    """Return an article in CryptoCompare's format."""
    return {
        "id": f"{50_000_000 + number}",
        "guid": f"https://paper.example/?p={number}",
        "published_on": epoch(at),
        "imageurl": "",
        "title": f"Bitcoin piece {number}",
        "url": f"https://www.paper.example/piece/{number}",
        "body": f"Text &amp; more {number}",
        "tags": "BTC",
        "lang": "EN",
        "categories": "BTC|MARKET",
        "source_info": {"name": "Paper", "img": "", "lang": "EN"},
        "source": "paper",
    } | fields


def cryptocompare_answer(articles: list[Any]) -> dict[str, Any]:
    return {"Type": 100, "Message": "News list successfully returned", "Promoted": [], "Data": articles}


@dataclass(frozen=True)
class Service:
    """One of the five services.

    Attributes:
        name: name of its source.
        source: builds its source from a transport.
        entry: builds its n-th entry.
        answer: wraps entries in a response.
        time: field of an entry's time.
        format_time: formats a time for that field.
        id: field of an entry's id.
        body: field of an entry's text; empty if it has none.
    """

    name: str
    source: Callable[[Transport], TextSource]
    entry: Callable[..., dict[str, Any]]
    answer: Callable[[list[Any]], Any]
    time: str
    format_time: Callable[[datetime], Any]
    id: str
    body: str = ""

    def entries(self, count: int, newest: datetime = NOW, step: timedelta = timedelta(minutes=1)) -> list[Any]:
        return [self.entry(number, newest - (number + 1) * step) for number in range(count)]


def iso(at: datetime) -> str:
    return f"{at:%Y-%m-%dT%H:%M:%SZ}"


SERVICES = (
    Service("hacker_news", HackerNewsSource, story, stories, "created_at_i", epoch, "objectID", "story_text"),
    Service(
        "reddit", lambda api: RedditSource(api, ["Bitcoin"]), post, listing, "created_utc", epoch, "id", "selftext_html"
    ),
    Service(
        "gdelt", GdeltSource, article, lambda articles: {"articles": articles}, "seendate",
        lambda at: f"{at:%Y%m%dT%H%M%SZ}", "url",
    ),
    Service(
        "cryptopanic", lambda api: CryptoPanicSource(api, SECRET), cryptopanic_post, cryptopanic_answer,
        "published_at", iso, "id", "description",
    ),
    Service(
        "cryptocompare", lambda api: CryptoCompareSource(api, SECRET), cryptocompare_article,
        cryptocompare_answer, "published_on", epoch, "id", "body",
    ),
)  # fmt: skip
