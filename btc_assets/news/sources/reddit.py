"""Reddit: the newest posts of a few channels, from the public listings or, where those are closed, the public feeds."""

from __future__ import annotations

import re
from collections.abc import Sequence
from datetime import datetime, timedelta
from typing import Any

from btc_assets.news.plain_text import plain_summary
from btc_assets.news.sources.answer import (
    Entry,
    EntryError,
    is_seen_now,
    items_of,
    list_in,
    once,
    shortfall,
    told_time,
)
from btc_assets.news.sources.feed_entries import DocumentEntry, FeedError, read_apart
from btc_assets.news.sources.protocol import Delivery, Item, Kind
from btc_assets.news.taken_down import is_taken_down
from btc_assets.transport import SourceError, SourceMalformedError, SourceRefusedError, Transport

USER_AGENT = "python:btc_assets:1 (reads the newest posts of a few channels every 15 minutes)"
"""Reddit turns away the names that HTTP libraries go by."""
REQUESTS_PER_SECOND = 1 / 6
"""Reddit answers about ten requests a minute of one address without an account."""
PAGE = 100
"""Most posts of one answer."""
MOST_PAGES = 10
"""The newest 1,000 posts are all that a listing holds."""
REMEDY = "check BTC_REDDIT_URL and BTC_REDDIT_CHANNELS, or take reddit out of BTC_NEWS_SOURCES"
"""What a person may do where the service refuses."""

_HEADERS = {"User-Agent": USER_AGENT}
_ID = re.compile(r"^(?:t3_)?([0-9a-z]{1,12})$")
_CHANNEL = re.compile(r"^[A-Za-z0-9_]{2,21}$")
_LINK = re.compile(r"^https?://[^/]+/r/([A-Za-z0-9_]{2,21})/comments/([0-9a-z]{1,12})(?:/|$)")
_BODY = re.compile(r"<!-- SC_OFF -->(.*?)(?:<!-- SC_ON -->|$)", re.DOTALL)
"""The author's part of a feed's text; links to the author and the post stand around it."""
_ELSEWHERE = "Older posts can be had from files (BTC_SOCIAL_FILES)."


class RedditSource:
    """New posts of some channels.

    Since 2026-05-29 Reddit answers 403 where the listings are asked for without an account; the feeds it publishes of
    the same listings tell the newest 100 posts, without votes and comments. A post has the same id and text in both.
    Posts that moderators pinned are left out, they are the channel's own notices; and so are those taken down.
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
        """Return the posts listed of the span and of the lag before it; see `TextSource.fetch`.

        Raises:
            SourceError: no channel answered, or none reaches back to the span.
        """
        items: list[Item] = []
        faults: list[str] = []
        errors: list[SourceError] = []
        for channel in self._channels:
            try:
                found = self._channel(channel, first, last, now)
            except SourceError as error:
                errors.append(error)
                faults.append(f"reddit: nothing of r/{channel}: {error}")
            else:
                items += found.items
                faults += found.faults
        if errors and len(errors) == len(self._channels):
            raise errors[0]
        return Delivery(items, faults)

    def _channel(self, channel: str, first: datetime, last: datetime, now: datetime) -> Delivery:
        start = first - self.lag
        try:
            posts, ended = self._listing(channel, start)
        except (SourceRefusedError, SourceMalformedError) as refusal:
            posts, ended = self._feed(channel, refusal), False
        items, faults = items_of(self.name, posts, now, lambda post: self._item(post, channel, last, now))
        times = [item.published_at for item in items if item.published_at is not None]
        if not ended:
            faults += shortfall(f"{self.name} (r/{channel})", min(times, default=None), first, last, now, _ELSEWHERE)
        return Delivery([item for item in items if item.published_at is None or item.published_at >= start], faults)

    # --- the listing -----------------------------------------------------------------------------
    def _listing(self, channel: str, start: datetime) -> tuple[list[Any], bool]:
        """Return posts, newest first, back to `start`, and whether the channel has no older ones."""
        posts: list[Any] = []
        asked: dict[str, str | int] = {"limit": PAGE, "raw_json": 1}
        for _ in range(MOST_PAGES):
            answer = self._api.json(f"/r/{channel}/new.json", asked, _HEADERS)
            page = [
                child.get("data")
                for child in list_in(self.name, answer, "data", "children")
                if isinstance(child, dict) and child.get("kind") == "t3"
            ]
            posts += page
            following = answer["data"].get("after")
            times = [at for post in page if isinstance(post, dict) and (at := told_time(post.get("created_utc")))]
            if not isinstance(following, str) or not following or following == asked.get("after") or not page:
                return once(posts, "id"), len(posts) < (MOST_PAGES - 1) * PAGE
            if times and times[-1].at < start:
                break
            asked["after"] = following
        return once(posts, "id"), False

    # --- the feed --------------------------------------------------------------------------------
    def _feed(self, channel: str, refusal: SourceError) -> list[Any]:
        """Return the posts of a channel's feed, newest first, as the listing would have them.

        Raises:
            SourceRefusedError: neither the listing nor the feed is open.
            SourceMalformedError: what came is no feed.
        """
        path = f"/r/{channel}/new/.rss"
        try:
            body = self._api.content(path, {"limit": PAGE}, _HEADERS)
        except SourceRefusedError as error:
            raise SourceRefusedError(f"{refusal}; nor is the feed open: {error}") from error
        try:
            document = read_apart(body, f"https://www.reddit.com{path}")
        except FeedError as fault:
            raise SourceMalformedError(f"reddit: expected a feed at {path}, but {fault}; try again later") from fault
        return once([_post_of(entry) for entry in document.entries], "id")

    def _item(self, post: Entry, channel: str, last: datetime, now: datetime) -> Item | None:
        """Read a post; None where it is pinned."""
        number = _ID.match(post.identifier("id"))
        if number is None:
            raise EntryError("have an id that is none of Reddit's", post.identifier("id"))
        title = post.title("title")
        if post.has("stickied"):
            return None
        if post.has("removed_by_category") or is_taken_down(title, post.text("selftext")):
            raise EntryError("were taken down", title)
        told = post.text("subreddit")
        named = told if _CHANNEL.match(told) else channel
        at, precision = post.time("created_utc")
        counted = is_seen_now(at, self.lag, last, now)
        return Item(
            kind="post",
            source=self.name,
            guid=number[1],
            url=f"https://www.reddit.com/r/{named}/comments/{number[1]}",
            title=title,
            summary=plain_summary(post.text("selftext_html")),
            published_at=at,
            precision=precision,
            outlet=self.name,
            channel=named,
            points=post.count("score") if counted else None,
            comments=post.count("num_comments") if counted else None,
            is_repost=post.has("crosspost_parent"),
        )


def _post_of(entry: DocumentEntry) -> dict[str, Any]:
    """Return what the listing would hold of a feed's entry."""
    written, named = _BODY.search(entry.summary), _LINK.match(entry.link)
    return {
        "id": named[2] if named else entry.guid.rpartition("/")[2],
        "title": entry.title,
        "selftext_html": written[1] if written else "",
        "created_utc": entry.published,
        "subreddit": named[1] if named else "",
    }
