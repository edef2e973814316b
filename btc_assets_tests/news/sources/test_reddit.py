"""Reddit: the latest posts of some channels, from the listing or the feed."""

from __future__ import annotations

import html
from collections.abc import Iterator
from dataclasses import replace
from datetime import datetime, timedelta
from typing import Any

import pytest

from btc_assets.news.sources.protocol import Delivery
from btc_assets.news.sources.reddit import USER_AGENT, RedditSource
from btc_assets.transport import SourceMalformedError, SourceRefusedError, SourceUnavailableError
from btc_assets_tests.market.conftest import Answer, Exchange
from btc_assets_tests.news.sources.services import DAY, NEXT, NOW, iso, listing, post, reset, run_server, transport

MINUTE = timedelta(minutes=1)
HOUR = timedelta(hours=1)


@pytest.fixture(scope="module")
def service() -> Iterator[Exchange]:
    with run_server() as server:
        yield server


@pytest.fixture
def server(service: Exchange) -> Exchange:
    return reset(service)


def fetch(
    server: Exchange, *channels: str, first: datetime = DAY, last: datetime = NEXT, now: datetime = NOW
) -> Delivery:
    return RedditSource(transport(server), channels or ["Bitcoin"]).fetch(first, last, now)


def serve(server: Exchange, posts: list[dict[str, Any]]) -> None:
    """Serve a listing of these posts, newest first, in pages."""

    def respond(path: str, query: dict[str, str]) -> Answer:
        if not path.endswith("/new.json"):
            return Answer(status=404)
        names = [fields["name"] for fields in posts]
        start = names.index(query["after"]) + 1 if "after" in query else 0
        page = posts[start : start + int(query["limit"])][: max(0, 1_000 - start)]
        more = page and start + len(page) < min(len(posts), 1_000)
        return Answer(listing(page, page[-1]["name"] if more else None))

    server.respond = respond


def feed(posts: list[dict[str, Any]]) -> bytes:
    """Return the posts in the format of Reddit's Atom feeds."""
    entries = "".join(
        f"""<entry><author><name>/u/someone</name><uri>https://www.reddit.com/user/someone</uri></author>
        <category term="{fields["subreddit"]}" label="r/{fields["subreddit"]}"/>
        <content type="html">{html.escape(fields["selftext_html"] or "")} &amp;#32; submitted by &amp;#32;
        &lt;a href=&quot;https://www.reddit.com/user/someone&quot;&gt; /u/someone &lt;/a&gt; &lt;br/&gt;
        &lt;span&gt;&lt;a href=&quot;https://www.reddit.com/x&quot;&gt;[link]&lt;/a&gt;&lt;/span&gt; &amp;#32;
        &lt;span&gt;&lt;a href=&quot;https://www.reddit.com/x&quot;&gt;[comments]&lt;/a&gt;&lt;/span&gt;</content>
        <id>{fields["name"]}</id><link href="https://www.reddit.com{fields["permalink"]}"/>
        <updated>{iso(NOW)}</updated>
        <published>{iso(datetime.fromtimestamp(fields["created_utc"], tz=NOW.tzinfo))}</published>
        <title>{html.escape(fields["title"])}</title></entry>"""
        for fields in posts
    )
    return (
        '<?xml version="1.0" encoding="UTF-8"?><feed xmlns="http://www.w3.org/2005/Atom" '
        'xmlns:media="http://search.yahoo.com/mrss/"><category term="Bitcoin" label="r/Bitcoin"/>'
        f"<id>/r/Bitcoin/new/.rss</id><title>newest submissions : Bitcoin</title>{entries}</feed>"
    ).encode()


def serve_only_feed(server: Exchange, content: bytes, status: int = 403) -> None:
    """Refuse the listings and serve a feed."""
    server.respond = lambda path, query: Answer(content) if path.endswith(".rss") else Answer(status=status)


# --- the listing -----------------------------------------------------------------------------------
def test_each_channel_is_requested_with_the_user_agent(server: Exchange) -> None:
    serve(server, [])
    fetch(server, "Bitcoin", "CryptoCurrency")
    assert server.requests == [
        ("/r/Bitcoin/new.json", {"limit": "100", "raw_json": "1"}),
        ("/r/CryptoCurrency/new.json", {"limit": "100", "raw_json": "1"}),
    ]
    assert {headers["User-Agent"] for headers in server.headers} == {USER_AGENT}


def test_a_post_becomes_an_item(server: Exchange) -> None:
    serve(server, [post(3, NOW - MINUTE, subreddit="BitcoinMarkets")])
    (item,) = fetch(server).items
    assert (item.kind, item.source, item.outlet, item.channel) == ("post", "reddit", "reddit", "BitcoinMarkets")
    assert (item.guid, item.title, item.summary) == ("1abc3", "Bitcoin post 3", "Text & more 3")
    assert item.url == "https://www.reddit.com/r/BitcoinMarkets/comments/1abc3"
    assert (item.points, item.comments, item.is_repost) == (13, 3, False)
    assert (item.published_at, item.precision) == (NOW - MINUTE, "second")


def test_pages_are_fetched_until_the_span_is_covered(server: Exchange) -> None:
    serve(server, [post(number, NOW - number * 5 * MINUTE) for number in range(600)])
    items = fetch(server).items
    assert len(items) == 12 * 12 + 3 + 1, "12 hours of a post every 5 minutes, and the lag of 15 minutes"
    assert [query.get("after") for _, query in server.requests] == [None, "t3_1abc99"]


def test_a_post_out_of_order_does_not_end_the_list(server: Exchange) -> None:
    posts = [post(number, NOW - number * MINUTE) for number in range(250)]
    posts[10] |= {"created_utc": 1_400_000_000.0}
    serve(server, posts)
    assert len(fetch(server).items) == 249


def test_a_repeated_page_ends_the_fetch(server: Exchange) -> None:
    server.respond = lambda path, query: Answer(listing([post(1, NOW - MINUTE)], "t3_1abc1"))
    assert len(fetch(server).items) == 1
    assert len(server.requests) == 2


def test_pinned_and_removed_posts_are_left_out(server: Exchange) -> None:
    kept = post(0, NOW - MINUTE)
    left_out = [
        post(1, NOW - MINUTE, stickied=True),
        post(2, NOW - MINUTE, removed_by_category="moderator"),
        post(3, NOW - MINUTE, selftext="[removed]", selftext_html="<div>[removed]</div>"),
        post(4, NOW - MINUTE, selftext="[deleted]"),
        post(5, NOW - MINUTE, title="[deleted by user]"),
        post(6, NOW - MINUTE, title="[ Removed by Reddit ]"),
    ]
    serve(server, [kept, *left_out])
    delivery = fetch(server)
    assert [item.guid for item in delivery.items] == ["1abc0"]
    assert delivery.faults == [
        "reddit: 5 of 7 entries were taken down and were left out, the first is entry 3: 'Bitcoin post 2'."
    ]


def test_posts_without_text_or_author_are_kept(server: Exchange) -> None:
    serve(server, [post(1, NOW - MINUTE, selftext="", selftext_html=None, author="[deleted]")])
    assert [item.summary for item in fetch(server).items] == [""]


def test_a_crosspost_is_a_repost(server: Exchange) -> None:
    serve(server, [post(1, NOW - MINUTE, crosspost_parent="t3_1xyz"), post(2, NOW - MINUTE, crosspost_parent=None)])
    assert [item.is_repost for item in fetch(server).items] == [True, False]


def test_other_things_than_posts_are_ignored(server: Exchange) -> None:
    answer = listing([post(1, NOW - MINUTE)])
    answer["data"]["children"] += [{"kind": "t1", "data": post(2, NOW)}, {"kind": "more"}, None, 7]
    server.respond = lambda path, query: Answer(answer)
    assert [item.guid for item in fetch(server).items] == ["1abc1"]


@pytest.mark.parametrize("name", ["../../etc", "1ABC", "a/b", "1abcdefghijkl"])
def test_an_invalid_id_is_refused(name: str, server: Exchange) -> None:
    serve(server, [post(1, NOW - MINUTE, id=name), post(2, NOW - MINUTE, subreddit="../x")])
    delivery = fetch(server)
    assert [item.url for item in delivery.items] == ["https://www.reddit.com/r/Bitcoin/comments/1abc2"]
    assert "have an id that is not a Reddit id and were left out" in delivery.faults[0]


# --- missing history ---------------------------------------------------------------------------------
def test_a_day_before_the_list_is_refused(server: Exchange) -> None:
    serve(server, [post(number, NOW - number * MINUTE) for number in range(1_200)])
    with pytest.raises(SourceRefusedError, match=r"reddit \(r/Bitcoin\) lists only its latest entries, back to"):
        fetch(server, first=DAY - timedelta(days=30), last=DAY - timedelta(days=29))
    assert len(server.requests) == 10


def test_a_partly_listed_day_reports_what_is_missing(server: Exchange) -> None:
    serve(server, [post(number, NOW - number * 2 * MINUTE) for number in range(1_200)])
    delivery = fetch(server, first=DAY - timedelta(days=1), last=DAY)
    assert min(item.published_at for item in delivery.items if item.published_at) == NOW - 999 * 2 * MINUTE
    assert "its list goes back only to 2026-11-20 02:42 UTC" in delivery.faults[0]
    assert delivery.items[0].points is None, "today's votes were unknown yesterday"


def test_the_running_day_is_complete(server: Exchange) -> None:
    serve(server, [post(number, NOW - number * MINUTE / 4) for number in range(1_200)])
    assert fetch(server).faults == []


def test_a_fully_listed_channel_is_complete(server: Exchange) -> None:
    serve(server, [post(number, NOW - number * HOUR) for number in range(5)])
    assert fetch(server, first=DAY - timedelta(days=9), last=DAY - timedelta(days=8)).faults == []


# --- the feed ----------------------------------------------------------------------------------------
@pytest.mark.parametrize("status", [302, 403, 404])
def test_the_feed_replaces_a_closed_listing(status: int, server: Exchange) -> None:
    posts = [post(0, NOW - MINUTE), post(1, NOW - 2 * MINUTE, title="Fees < 1 & > 0 <3 $5", selftext_html=None)]
    serve(server, posts)
    by_listing = fetch(server).items
    serve_only_feed(server, feed(posts), status)
    delivery = fetch(server)
    assert delivery.items == [replace(item, points=None, comments=None) for item in by_listing]
    assert delivery.faults == []
    assert server.requests[-1] == ("/r/Bitcoin/new/.rss", {"limit": "100"})
    assert server.headers[-1]["User-Agent"] == USER_AGENT


def test_the_feed_replaces_a_login_page(server: Exchange) -> None:
    page = Answer(b"<html>log in</html>")
    server.respond = lambda path, query: Answer(feed([post(1, NOW - MINUTE)])) if path.endswith(".rss") else page
    assert len(fetch(server).items) == 1


def test_the_link_line_of_the_feed_is_not_text(server: Exchange) -> None:
    serve_only_feed(server, feed([post(1, NOW - MINUTE, selftext_html=None)]))
    assert fetch(server).items[0].summary == ""


def test_an_empty_feed_is_not_an_error(server: Exchange) -> None:
    serve_only_feed(server, feed([]))
    assert fetch(server) == Delivery([])


def test_the_feed_has_no_past_days(server: Exchange) -> None:
    serve_only_feed(server, feed([post(1, NOW - MINUTE)]))
    with pytest.raises(SourceRefusedError, match=r"Load older posts from files \(BTC_SOCIAL_FILES\)"):
        fetch(server, first=DAY - timedelta(days=1), last=DAY)


def test_if_both_are_closed_both_errors_are_reported(server: Exchange) -> None:
    server.respond = lambda path, query: Answer(status=403)
    with pytest.raises(
        SourceRefusedError, match=r"new\.json: HTTP 403.*the feed is refused as well: .*\.rss: HTTP 403"
    ):
        fetch(server)


BOMB = """<?xml version="1.0"{0}?><!DOCTYPE lolz [<!ENTITY a "aaaaaaaaaa"><!ENTITY b "&a;&a;&a;&a;&a;&a;&a;&a;">]>
<feed xmlns="http://www.w3.org/2005/Atom"><entry><id>t3_1</id><title>&b;</title></entry></feed>"""


@pytest.mark.parametrize(
    "content",
    [BOMB.format("").encode(), BOMB.format(' encoding="UTF-16"').encode("utf-16"), b"<!doctype html><p>whoa there"],
    ids=["bomb", "wide bomb", "page"],
)
def test_a_feed_with_entities_or_html_is_refused(content: bytes, server: Exchange) -> None:
    serve_only_feed(server, content)
    with pytest.raises(SourceMalformedError, match=r"declares entities|is an HTML page"):
        fetch(server)


@pytest.mark.parametrize("content", [b"", b"whoa there, pardner", b'{"error": 403}', b"\xff\xfe\x00"])
def test_an_invalid_feed_is_refused(content: bytes, server: Exchange) -> None:
    serve_only_feed(server, content)
    with pytest.raises(SourceMalformedError, match=r"is empty|not an RSS or Atom feed"):
        fetch(server)


# --- several channels ----------------------------------------------------------------------------------
def test_one_closed_channel_stops_no_other(server: Exchange) -> None:
    answer = Answer(listing([post(1, NOW - MINUTE)]))
    server.respond = lambda path, query: answer if "/r/Bitcoin/" in path else Answer(status=403)
    delivery = fetch(server, "Private", "Bitcoin")
    assert len(delivery.items) == 1
    assert len(delivery.faults) == 1
    assert delivery.faults[0].startswith("reddit: no posts from r/Private: ")


def test_without_any_channel_the_source_fails(server: Exchange) -> None:
    server.respond = lambda path, query: Answer(status=503)
    with pytest.raises(SourceUnavailableError, match="HTTP 503"):
        fetch(server, "Bitcoin", "CryptoCurrency")
