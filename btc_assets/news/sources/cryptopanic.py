"""CryptoPanic: curated Bitcoin news; needs a key of a paid plan."""

from __future__ import annotations

from datetime import datetime, timedelta
from typing import Any

from btc_assets.news.identity import outlet_of
from btc_assets.news.plain_text import plain_summary
from btc_assets.news.sources.answer import (
    Entry,
    drop_repeats,
    list_at,
    missing_history,
    parse_items,
    parse_time,
    redact,
    redacting,
)
from btc_assets.news.sources.protocol import Delivery, Item, Kind
from btc_assets.transport import SourceRefusedError, Transport

PLAN_PATH = "/api/developer/v2"
"""Default path if BTC_CRYPTOPANIC_URL names no plan; other plans use /api/growth/v2 or /api/enterprise/v2."""
MAX_PAGES = 100
"""Maximum number of pages per fetch, of 20 or 50 posts each."""
REMEDY = (
    "check BTC_CRYPTOPANIC_TOKEN, and that BTC_CRYPTOPANIC_URL has the path of its plan, such as "
    "https://cryptopanic.com/api/growth/v2"
)
"""What to do if the service refuses the request."""

_DOMAIN = "cryptopanic.com"
_HISTORY_REMEDY = "Load older articles from files (BTC_NEWS_FILES)."


class CryptoPanicSource:
    """English news in the service's list about Bitcoin, newest first.

    The service accepts its key only in the address, so the key is removed from every message. The addresses of further
    pages in its responses contain the key and are not followed: pages are requested by number.
    """

    name = "cryptopanic"
    kinds: tuple[Kind, ...] = ("article",)
    live = True
    lag = timedelta(hours=1)
    rhythm: timedelta | None = timedelta(hours=12)

    def __init__(self, api: Transport, token: str) -> None:
        self._api = api
        self._token = token

    def fetch(self, first: datetime, last: datetime, now: datetime) -> Delivery:
        """Return the listed news of the span and up to `lag` before it; see `TextSource.fetch`."""
        start = first - self.lag
        with redacting(self._token):
            posts, missing = self._posts(start)
        items, faults = parse_items(self.name, posts, now, self._item)
        times = [item.published_at for item in items if item.published_at is not None]
        faults += missing_history(self.name, min(times, default=None), first, last, now, _HISTORY_REMEDY)
        return Delivery(items, [redact(fault, self._token) for fault in faults + missing])

    def _posts(self, start: datetime) -> tuple[list[Any], list[str]]:
        """Return posts, newest first, back to `start`, and a sentence if the plan allows no more pages."""
        posts: list[Any] = []
        for number in range(1, MAX_PAGES + 1):
            query: dict[str, str | int] = {
                "auth_token": self._token,
                "currencies": "BTC",
                "kind": "news",
                "regions": "en",
                "public": "true",
                "page": number,
            }
            try:
                answer = self._api.json("/posts/", query)
            except SourceRefusedError as error:
                if not posts:
                    raise
                return drop_repeats(posts, "id"), [
                    f"cryptopanic: page {number} and all later pages are missing: {error}."
                ]
            page = list_at(self.name, answer, "results")
            posts += page
            times = [at for post in page if isinstance(post, dict) and (at := parse_time(post.get("published_at")))]
            if not page or not answer.get("next") or (times and times[-1].at < start):
                break
        return drop_repeats(posts, "id"), []

    def _item(self, post: Entry) -> Item:
        title = post.title("title")
        url = post.url("original_url", "url")
        outlet = outlet_of(url)
        if outlet in ("", _DOMAIN):
            domain = outlet_of(f"https://{post.nested('source').text('domain').strip()}")
            outlet = domain if "." in domain else _DOMAIN
        at, precision = post.time("published_at")
        return Item(
            kind="article",
            source=self.name,
            guid=post.identifier("id", "slug", default=f"{at} {title}"),  # the cheapest plan has neither
            url=url,
            title=title,
            summary=plain_summary(post.text("description")),
            published_at=at,
            precision=precision,
            outlet=outlet,
        )
