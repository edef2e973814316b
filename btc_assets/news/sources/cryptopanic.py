"""CryptoPanic: news about Bitcoin that its editors and readers gathered; needs a key of a paid plan."""

from __future__ import annotations

from datetime import datetime, timedelta
from typing import Any

from btc_assets.news.identity import outlet_of
from btc_assets.news.plain_text import plain_summary
from btc_assets.news.sources.answer import Entry, hidden, items_of, list_in, once, shortfall, told_time, without
from btc_assets.news.sources.protocol import Delivery, Item, Kind
from btc_assets.transport import SourceRefusedError, Transport

PLAN_PATH = "/api/developer/v2"
"""Where the posts are when BTC_CRYPTOPANIC_URL names no plan; other plans have /api/growth/v2 or /api/enterprise/v2."""
MOST_PAGES = 100
"""Pages asked for at once, of 20 or 50 posts each."""
REMEDY = (
    "check BTC_CRYPTOPANIC_TOKEN, and that BTC_CRYPTOPANIC_URL has the place of its plan, such as "
    "https://cryptopanic.com/api/growth/v2"
)
"""What a person may do where the service refuses."""

_OWN = "cryptopanic.com"
_ELSEWHERE = "Older articles can be had from files (BTC_NEWS_FILES)."


class CryptoPanicSource:
    """News of the service's list about Bitcoin, in English, newest first.

    The service takes its key in the address only, so it is kept out of every message. The addresses of further pages
    that it tells hold the key as well, and are not followed: pages are asked for by number.
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
        """Return the news listed of the span and of the lag before it; see `TextSource.fetch`."""
        start = first - self.lag
        with without(self._token):
            posts, missing = self._posts(start)
        items, faults = items_of(self.name, posts, now, self._item)
        times = [item.published_at for item in items if item.published_at is not None]
        faults += shortfall(self.name, min(times, default=None), first, last, now, _ELSEWHERE)
        return Delivery(items, [hidden(fault, self._token) for fault in faults + missing])

    def _posts(self, start: datetime) -> tuple[list[Any], list[str]]:
        """Return posts, newest first, back to `start`, and a sentence where the plan allows no more pages."""
        posts: list[Any] = []
        for number in range(1, MOST_PAGES + 1):
            asked: dict[str, str | int] = {
                "auth_token": self._token,
                "currencies": "BTC",
                "kind": "news",
                "regions": "en",
                "public": "true",
                "page": number,
            }
            try:
                answer = self._api.json("/posts/", asked)
            except SourceRefusedError as error:
                if not posts:
                    raise
                return once(posts, "id"), [f"cryptopanic: page {number} and all after it are missing: {error}."]
            page = list_in(self.name, answer, "results")
            posts += page
            times = [at for post in page if isinstance(post, dict) and (at := told_time(post.get("published_at")))]
            if not page or not answer.get("next") or (times and times[-1].at < start):
                break
        return once(posts, "id"), []

    def _item(self, post: Entry) -> Item:
        title = post.title("title")
        url = post.url("original_url", "url")
        outlet = outlet_of(url)
        if outlet in ("", _OWN):
            told = outlet_of(f"https://{post.inner('source').text('domain').strip()}")
            outlet = told if "." in told else _OWN
        at, precision = post.time("published_at")
        return Item(
            kind="article",
            source=self.name,
            guid=post.identifier("id", "slug", otherwise=f"{at} {title}"),  # the cheapest plan tells neither
            url=url,
            title=title,
            summary=plain_summary(post.text("description")),
            published_at=at,
            precision=precision,
            outlet=outlet,
        )
