"""GDELT: press articles about Bitcoin, stamped with the quarter hour in which GDELT first saw them."""

from __future__ import annotations

import json
import re
from datetime import datetime, timedelta
from itertools import pairwise
from typing import Any

from btc_assets.news.identity import outlet_of
from btc_assets.news.sources.answer import Entry, EntryError, drop_repeats, list_at, parse_items, parse_time, preview
from btc_assets.news.sources.protocol import Delivery, Item, Kind
from btc_assets.transport import SourceMalformedError, SourceRefusedError, SourceUnavailableError, Transport

QUERY = "bitcoin sourcelang:english"
PAGE_SIZE = 250
"""Maximum number of articles per response."""
STAMP_INTERVAL = timedelta(minutes=15)
"""GDELT stamps articles by quarter hour."""
REQUESTS_PER_SECOND = 0.2
"""GDELT allows one request every 5 seconds."""
ATTEMPTS = 3
"""How often a search is sent if GDELT reports its rate limit with status 200."""
REMEDY = "check BTC_GDELT_URL, or take gdelt out of BTC_NEWS_SOURCES"
"""What to do if the service refuses the request."""
MAX_SILENCE = timedelta(days=1)
"""English articles about Bitcoin appear every hour; a day without any means that the search does not reach it."""

_SECOND = timedelta(seconds=1)
_RATE_LIMITED = re.compile(r"limit requests|too many|rate limit|try again|timed? ?out", re.IGNORECASE)
_BACKSLASH = re.compile(r'\\(["\\/bfnrt]|u[0-9a-fA-F]{4})?')
_SPACED_PUNCTUATION = (
    (re.compile(r"(?<=\d) ([.,]) (?=\d)"), r"\1"),
    (re.compile(r" +(?=[,;:!?%)])"), ""),
    (re.compile(r"([($]) +"), r"\1"),
)
"""Spaces that GDELT inserts around punctuation in titles, and their replacements."""
_HISTORY_REMEDY = "GDELT guarantees only its last three months; load older articles from files (BTC_NEWS_FILES)."


class GdeltSource:
    """English articles found by GDELT's DOC 2.0 search.

    A response has at most 250 articles, newest first; for a span with more, the search is repeated up to the oldest
    article so far. GDELT has no publication dates. An article could first be seen at its stamp plus the lag until the
    search finds it.
    """

    name = "gdelt"
    kinds: tuple[Kind, ...] = ("article",)
    live = True
    lag = STAMP_INTERVAL
    rhythm: timedelta | None = timedelta(hours=3)

    def __init__(self, api: Transport) -> None:
        self._api = api

    def fetch(self, first: datetime, last: datetime, now: datetime) -> Delivery:
        """Return the articles seen in the span or up to `lag` before it; see `TextSource.fetch`.

        Raises:
            SourceRefusedError: GDELT rejects the search, or its history does not reach the span.
        """
        articles, faults = self._articles(first - self.lag, min(last, now), running=now < last)
        seen = [at for article in articles if (at := _stamp(article)) is not None]
        if last <= now and last - first >= MAX_SILENCE:
            if not seen:
                raise SourceRefusedError(
                    f"gdelt returned no article from {first:%Y-%m-%d} to {last:%Y-%m-%d %H:%M} UTC. {_HISTORY_REMEDY}"
                )
            if min(seen) > first + MAX_SILENCE:
                faults.append(f"gdelt: it has no article before {min(seen):%Y-%m-%d %H:%M} UTC. {_HISTORY_REMEDY}")
        items, left_out = parse_items(self.name, articles, now, self._item)
        return Delivery(items, left_out + faults)

    def _articles(self, start: datetime, end: datetime, *, running: bool) -> tuple[list[Any], list[str]]:
        """Return the articles with `start` <= stamp < `end`, and sentences about missing articles.

        GDELT is often too busy to answer. A running span keeps the articles received before that, because later runs
        request it again.
        """
        articles: list[Any] = []
        faults: list[str] = []
        spans = [(start, end)] if start < end else []
        while spans:
            start, end = spans.pop()
            try:
                page = self._search(start, end)
            except SourceUnavailableError as error:
                if not (running and articles):
                    raise
                faults.append(f"gdelt: articles before {end:%H:%M} UTC are missing: {error}.")
                break
            articles += page
            if len(page) < PAGE_SIZE:
                continue
            remaining, missing = self._remaining_spans(page, start, end)
            spans += remaining
            faults += missing
        return drop_repeats(articles, "url"), faults

    def _remaining_spans(
        self, page: list[Any], start: datetime, end: datetime
    ) -> tuple[list[tuple[datetime, datetime]], list[str]]:
        """Return the spans to request after a full response, and a sentence about articles that cannot be requested.

        Raises:
            SourceMalformedError: the response is outside the span.
        """
        stamps = [at for article in page if (at := _stamp(article)) is not None]
        if not stamps or max(stamps) < start - STAMP_INTERVAL or min(stamps) > end + STAMP_INTERVAL:
            raise SourceMalformedError(
                f"gdelt: expected articles seen from {start:%Y-%m-%d %H:%M} to {end:%Y-%m-%d %H:%M} UTC, got articles "
                f"of another time. Nothing was stored; try again later."
            )
        if any(newer < older for newer, older in pairwise(stamps)):
            if end - start > STAMP_INTERVAL:
                middle = start + (end - start) / 2
                return [(start, middle), (middle, end)], []
            oldest = start
        else:
            oldest = min(stamps)
            if oldest + _SECOND < end:
                return [(start, oldest + _SECOND)] if start <= oldest else [], []
        # A full response of a single quarter hour: its other articles cannot be requested.
        older = (start, oldest - 2 * _SECOND)
        return [older] if older[0] < older[1] else [], [
            f"gdelt: more than {PAGE_SIZE} articles are stamped {oldest:%Y-%m-%d %H:%M} UTC; the rest is missing."
        ]

    def _search(self, start: datetime, end: datetime) -> list[Any]:
        """Return the articles of one response, newest first.

        Raises:
            SourceUnavailableError: GDELT reports its rate limit on every attempt.
            SourceRefusedError: GDELT rejects the search.
            SourceMalformedError: the response is neither articles nor an error message.
        """
        message = ""
        for _ in range(ATTEMPTS):
            body = self._api.content(
                "/api/v2/doc/doc",
                {
                    "query": QUERY,
                    "mode": "artlist",
                    "format": "json",
                    "maxrecords": PAGE_SIZE,
                    "sort": "datedesc",
                    # The ends may be inclusive or exclusive, so the span is extended by a second on either side.
                    "startdatetime": f"{start - _SECOND:%Y%m%d%H%M%S}",
                    "enddatetime": f"{end + _SECOND:%Y%m%d%H%M%S}",
                },
            )
            text = body.decode("utf-8-sig", "replace").strip()
            if text.startswith("{"):
                answer = _parse_json(text)
                return list_at(self.name, answer, "articles") if answer else []
            message = preview(text)
            if not text or text.startswith("<"):
                raise SourceMalformedError(
                    f"gdelt: expected articles or an error message, got a page that starts with {message}; {REMEDY}"
                )
            if not _RATE_LIMITED.search(text):
                raise SourceRefusedError(f"gdelt rejects the search: {message}; {REMEDY}")
        raise SourceUnavailableError(
            f"gdelt limits the request rate: {message}; gave up after {ATTEMPTS} attempts, try later"
        )

    def _item(self, article: Entry) -> Item:
        url = article.url("url")
        if not url:
            raise EntryError("have an invalid url", article.value("url"))
        title = article.title("title")
        for spaced, replacement in _SPACED_PUNCTUATION:
            title = spaced.sub(replacement, title)
        seen, _ = article.time("seendate")
        return Item(
            kind="article",
            source=self.name,
            guid=url,
            url=url,
            title=title,
            summary="",
            published_at=None,
            precision="none",
            outlet=outlet_of(url),
            first_seen_at=seen + self.lag if seen is not None else None,
        )


def _parse_json(text: str) -> Any:
    """Parse JSON that may contain unescaped backslashes and control characters, as GDELT's responses do."""
    try:
        return json.loads(_BACKSLASH.sub(lambda match: match[0] if match[1] else r"\\", text), strict=False)
    except (ValueError, RecursionError) as error:
        raise SourceMalformedError(
            f"gdelt: the response is truncated or not JSON, it starts with {preview(text)} and has {len(text)} "
            f"characters; try again later."
        ) from error


def _stamp(article: Any) -> datetime | None:
    written = parse_time(article.get("seendate")) if isinstance(article, dict) else None
    return written.at if written is not None else None
