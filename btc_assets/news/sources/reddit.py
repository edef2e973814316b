"""Reddit: the latest posts of some channels, from the public listings or, if they are closed, the public feeds."""

from __future__ import annotations

import re
from collections.abc import Sequence
from datetime import datetime, timedelta
from typing import Any

from btc_assets.news.plain_text import plain_summary
from btc_assets.news.sources.answer import (
    Entry,
    EntryError,
    drop_repeats,
    is_seen_now,
    list_at,
    missing_history,
    parse_items,
    parse_time,
)
from btc_assets.news.sources.feed_entries import DocumentEntry, FeedError, read_in_subprocess
from btc_assets.news.sources.protocol import Delivery, Item, Kind
from btc_assets.news.taken_down import is_taken_down
from btc_assets.transport import SourceError, SourceMalformedError, SourceRefusedError, Transport

USER_AGENT = "python:btc_assets:1 (reads the newest posts of a few channels every 15 minutes)"
"""Reddit refuses the default user agents of HTTP libraries."""
REQUESTS_PER_SECOND = 1 / 6
"""Reddit answers about ten requests per minute and address without an account."""
PAGE_SIZE = 100
"""Maximum number of posts per response."""
MAX_PAGES = 10
"""A listing holds only the latest 1,000 posts."""
REMEDY = "check BTC_REDDIT_URL and BTC_REDDIT_CHANNELS, or take reddit out of BTC_NEWS_SOURCES"
"""What to do if the service refuses the request."""

_HEADERS = {"User-Agent": USER_AGENT}
_ID = re.compile(r"^(?:t3_)?([0-9a-z]{1,12})$")
_CHANNEL = re.compile(r"^[A-Za-z0-9_]{2,21}$")
_LINK = re.compile(r"^https?://[^/]+/r/([A-Za-z0-9_]{2,21})/comments/([0-9a-z]{1,12})(?:/|$)")
_BODY = re.compile(r"<!-- SC_OFF -->(.*?)(?:<!-- SC_ON -->|$)", re.DOTALL)
"""The author's part of a feed's text; links to the author and the post surround it."""
_HISTORY_REMEDY = "Load older posts from files (BTC_SOCIAL_FILES)."


class RedditSource:
    """New posts of some channels.

    Since 2026-05-29 Reddit answers 403 to requests for listings without an account. Its feeds of the same listings
    have the latest 100 posts, without votes and comments. A post has the same id and text in both. Pinned posts, which
    are notices of the channel, and removed posts are left out.
    """

    name = "reddit"
    kinds: tuple[Kind, ...] = ("post",)
    live = True
    lag = timedelta(minutes=15)
    rhythm: timedelta | None = timedelta(hours=3)

    def __init__(self, api: Transport, channels: Sequence[str]) -> None:
        self._api = api
        self._channels = tuple(channels)

    def fetch(self, first: datetime, last: datetime, now: datetime) -> Delivery:
        """Return the listed posts of the span and up to `lag` before it; see `TextSource.fetch`.

        Raises:
            SourceError: no channel answered, or none reaches back to the span.
        """
        items: list[Item] = []
        faults: list[str] = []
        errors: list[SourceError] = []
        for channel in self._channels:
            try:
                delivery = self._channel(channel, first, last, now)
            except SourceError as error:
                errors.append(error)
                faults.append(f"reddit: no posts from r/{channel}: {error}")
            else:
                items += delivery.items
                faults += delivery.faults
        if errors and len(errors) == len(self._channels):
            raise errors[0]
        return Delivery(items, faults)

    def _channel(self, channel: str, first: datetime, last: datetime, now: datetime) -> Delivery:
        start = first - self.lag
        try:
            posts, is_complete = self._listing(channel, start)
        except (SourceRefusedError, SourceMalformedError) as refusal:
            posts, is_complete = self._feed(channel, refusal), False
        items, faults = parse_items(self.name, posts, now, lambda post: self._item(post, channel, last, now))
        times = [item.published_at for item in items if item.published_at is not None]
        if not is_complete:
            faults += missing_history(
                f"{self.name} (r/{channel})", min(times, default=None), first, last, now, _HISTORY_REMEDY
            )
        return Delivery([item for item in items if item.published_at is None or item.published_at >= start], faults)

    # --- the listing -----------------------------------------------------------------------------
    def _listing(self, channel: str, start: datetime) -> tuple[list[Any], bool]:
        """Return posts, newest first, back to `start`, and whether the channel has no older posts."""
        posts: list[Any] = []
        query: dict[str, str | int] = {"limit": PAGE_SIZE, "raw_json": 1}
        for _ in range(MAX_PAGES):
            answer = self._api.json(f"/r/{channel}/new.json", query, _HEADERS)
            page = [
                child.get("data")
                for child in list_at(self.name, answer, "data", "children")
                if isinstance(child, dict) and child.get("kind") == "t3"
            ]
            posts += page
            after = answer["data"].get("after")
            times = [at for post in page if isinstance(post, dict) and (at := parse_time(post.get("created_utc")))]
            if not isinstance(after, str) or not after or after == query.get("after") or not page:
                return drop_repeats(posts, "id"), len(posts) < (MAX_PAGES - 1) * PAGE_SIZE
            if times and times[-1].at < start:
                break
            query["after"] = after
        return drop_repeats(posts, "id"), False

    # --- the feed --------------------------------------------------------------------------------
    def _feed(self, channel: str, refusal: SourceError) -> list[Any]:
        """Return the posts of a channel's feed, newest first, in the format of the listing.

        Raises:
            SourceRefusedError: neither the listing nor the feed is open.
            SourceMalformedError: the response is not a feed.
        """
        path = f"/r/{channel}/new/.rss"
        try:
            body = self._api.content(path, {"limit": PAGE_SIZE}, _HEADERS)
        except SourceRefusedError as error:
            raise SourceRefusedError(f"{refusal}; the feed is refused as well: {error}") from error
        try:
            document = read_in_subprocess(body, f"https://www.reddit.com{path}")
        except FeedError as fault:
            raise SourceMalformedError(f"reddit: expected a feed at {path}, but {fault}; try again later") from fault
        return drop_repeats([_as_listing_post(entry) for entry in document.entries], "id")

    def _item(self, post: Entry, channel: str, last: datetime, now: datetime) -> Item | None:
        """Convert a post to an item; None if it is pinned."""
        number = _ID.match(post.identifier("id"))
        if number is None:
            raise EntryError("have an id that is not a Reddit id", post.identifier("id"))
        title = post.title("title")
        if post.has("stickied"):
            return None
        if post.has("removed_by_category") or is_taken_down(title, post.text("selftext")):
            raise EntryError("were taken down", title)
        subreddit = post.text("subreddit")
        name = subreddit if _CHANNEL.match(subreddit) else channel
        at, precision = post.time("created_utc")
        counted = is_seen_now(at, self.lag, last, now)
        return Item(
            kind="post",
            source=self.name,
            guid=number[1],
            url=f"https://www.reddit.com/r/{name}/comments/{number[1]}",
            title=title,
            summary=plain_summary(post.text("selftext_html")),
            published_at=at,
            precision=precision,
            outlet=self.name,
            channel=name,
            points=post.count("score") if counted else None,
            comments=post.count("num_comments") if counted else None,
            is_repost=post.has("crosspost_parent"),
        )


def _as_listing_post(entry: DocumentEntry) -> dict[str, Any]:
    """Convert a feed's entry to the format of the listing."""
    body, link = _BODY.search(entry.summary), _LINK.match(entry.link)
    return {
        "id": link[2] if link else entry.guid.rpartition("/")[2],
        "title": entry.title,
        "selftext_html": body[1] if body else "",
        "created_utc": entry.published,
        "subreddit": link[1] if link else "",
    }
