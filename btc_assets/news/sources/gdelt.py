"""GDELT: articles of the world's press about Bitcoin, stamped with the quarter hour in which GDELT first saw them."""

from __future__ import annotations

import json
import re
from datetime import datetime, timedelta
from itertools import pairwise
from typing import Any

from btc_assets.news.identity import outlet_of
from btc_assets.news.sources.answer import Entry, EntryError, items_of, list_in, once, shown, told_time
from btc_assets.news.sources.protocol import Delivery, Item, Kind
from btc_assets.transport import SourceMalformedError, SourceRefusedError, SourceUnavailableError, Transport

QUERY = "bitcoin sourcelang:english"
PAGE = 250
"""Most articles of one answer."""
STAMP = timedelta(minutes=15)
"""GDELT files what it sees by quarter hours."""
REQUESTS_PER_SECOND = 0.2
"""One request every 5 seconds is what GDELT asks for."""
TRIES = 3
"""Times a search is sent that GDELT answers with a plea for patience under status 200."""
REMEDY = "check BTC_GDELT_URL, or take gdelt out of BTC_NEWS_SOURCES"
"""What a person may do where the service refuses."""
SILENCE = timedelta(days=1)
"""English articles about Bitcoin are seen every hour; a day without any is a search that does not go back so far."""

_SECOND = timedelta(seconds=1)
_PATIENCE = re.compile(r"limit requests|too many|rate limit|try again|timed? ?out", re.IGNORECASE)
_BACKSLASH = re.compile(r'\\(["\\/bfnrt]|u[0-9a-fA-F]{4})?')
_SPACED = (
    (re.compile(r"(?<=\d) ([.,]) (?=\d)"), r"\1"),
    (re.compile(r" +(?=[,;:!?%)])"), ""),
    (re.compile(r"([($]) +"), r"\1"),
)
"""Blanks that GDELT puts around punctuation in titles."""
_ELSEWHERE = "GDELT promises its last three months only; older articles can be had from files (BTC_NEWS_FILES)."


class GdeltSource:
    """English articles that GDELT's DOC 2.0 search finds.

    An answer holds no more than 250 articles, newest first; a span with more is asked again from the oldest told back.
    GDELT tells no dates of publication. Its stamp, plus the lag until its search knows the article, is when the
    article could first be seen.
    """

    name = "gdelt"
    kinds: tuple[Kind, ...] = ("article",)
    live = True
    lag = STAMP
    rhythm: timedelta | None = timedelta(hours=3)

    def __init__(self, api: Transport) -> None:
        self._api = api

    def fetch(self, first: datetime, last: datetime, now: datetime) -> Delivery:
        """Return the articles seen in the span and in the lag before it; see `TextSource.fetch`.

        Raises:
            SourceRefusedError: GDELT does not run the search, or does not go back so far.
        """
        articles, faults = self._articles(first - self.lag, min(last, now), running=now < last)
        seen = [at for article in articles if (at := _stamp(article)) is not None]
        if last <= now and last - first >= SILENCE:
            if not seen:
                raise SourceRefusedError(
                    f"gdelt answered without a single article from {first:%Y-%m-%d} to {last:%Y-%m-%d %H:%M} UTC. "
                    f"{_ELSEWHERE}"
                )
            if min(seen) > first + SILENCE:
                faults.append(f"gdelt: it knows no article before {min(seen):%Y-%m-%d %H:%M} UTC. {_ELSEWHERE}")
        items, left_out = items_of(self.name, articles, now, self._item)
        return Delivery(items, left_out + faults)

    def _articles(self, start: datetime, end: datetime, *, running: bool) -> tuple[list[Any], list[str]]:
        """Return the articles stamped from `start` on and before `end`, and sentences about what is missing.

        GDELT often has no time for a search. Of a running span, which is asked for again and again, what came before
        that is kept.
        """
        found: list[Any] = []
        faults: list[str] = []
        spans = [(start, end)] if start < end else []
        while spans:
            start, end = spans.pop()
            try:
                page = self._search(start, end)
            except SourceUnavailableError as error:
                if not (running and found):
                    raise
                return once(found, "url"), [*faults, f"gdelt: articles before {end:%H:%M} UTC are missing: {error}."]
            found += page
            if len(page) < PAGE:
                continue
            rest, fault = self._rest(page, start, end)
            spans += rest
            faults += fault
        return once(found, "url"), faults

    def _rest(
        self, page: list[Any], start: datetime, end: datetime
    ) -> tuple[list[tuple[datetime, datetime]], list[str]]:
        """Return the spans that a full answer leaves to be asked for, and a sentence where some cannot be had.

        Raises:
            SourceMalformedError: the answer is not of the span.
        """
        stamps = [at for article in page if (at := _stamp(article)) is not None]
        if not stamps or max(stamps) < start - STAMP or min(stamps) > end + STAMP:
            raise SourceMalformedError(
                f"gdelt was asked for articles seen from {start:%Y-%m-%d %H:%M} to {end:%Y-%m-%d %H:%M} UTC and "
                f"answered with others; nothing was stored, try again later."
            )
        if any(newer < older for newer, older in pairwise(stamps)):
            if end - start > STAMP:
                middle = start + (end - start) / 2
                return [(start, middle), (middle, end)], []
            oldest = start
        else:
            oldest = min(stamps)
            if oldest + _SECOND < end:
                return [(start, oldest + _SECOND)] if start <= oldest else [], []
        # A whole answer of one quarter hour; what else that has cannot be asked for.
        older = (start, oldest - 2 * _SECOND)
        return [older] if older[0] < older[1] else [], [
            f"gdelt: more than {PAGE} articles are stamped {oldest:%Y-%m-%d %H:%M} UTC; the rest is missing."
        ]

    def _search(self, start: datetime, end: datetime) -> list[Any]:
        """Return the articles of one answer, newest first.

        Raises:
            SourceUnavailableError: GDELT asks for patience again and again.
            SourceRefusedError: it says what it does not like about the search.
            SourceMalformedError: the answer is neither articles nor a sentence.
        """
        said = ""
        for _ in range(TRIES):
            body = self._api.content(
                "/api/v2/doc/doc",
                {
                    "query": QUERY,
                    "mode": "artlist",
                    "format": "json",
                    "maxrecords": PAGE,
                    "sort": "datedesc",
                    # Whether GDELT counts the ends in, it does not say; a second more on either side does no harm.
                    "startdatetime": f"{start - _SECOND:%Y%m%d%H%M%S}",
                    "enddatetime": f"{end + _SECOND:%Y%m%d%H%M%S}",
                },
            )
            text = body.decode("utf-8-sig", "replace").strip()
            if text.startswith("{"):
                answer = _parsed(text)
                return list_in(self.name, answer, "articles") if answer else []
            said = shown(text)
            if not text or text.startswith("<"):
                raise SourceMalformedError(
                    f"gdelt: expected articles or a sentence, got a page that starts with {said}; {REMEDY}"
                )
            if not _PATIENCE.search(text):
                raise SourceRefusedError(f"gdelt does not run the search and says {said}; {REMEDY}")
        raise SourceUnavailableError(
            f"gdelt asks for patience and says {said}; given up after {TRIES} tries, try later"
        )

    def _item(self, article: Entry) -> Item:
        url = article.url("url")
        if not url:
            raise EntryError("have a url that is no web address", article.value("url"))
        title = article.title("title")
        for spaced, tight in _SPACED:
            title = spaced.sub(tight, title)
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


def _parsed(text: str) -> Any:
    """Parse JSON in which a backslash or a control character may stand as it is, which GDELT lets happen."""
    try:
        return json.loads(_BACKSLASH.sub(lambda found: found[0] if found[1] else r"\\", text), strict=False)
    except (ValueError, RecursionError) as error:
        raise SourceMalformedError(
            f"gdelt: the answer is truncated or not JSON, it starts with {shown(text)} and has {len(text)} characters; "
            f"try again later."
        ) from error


def _stamp(article: Any) -> datetime | None:
    written = told_time(article.get("seendate")) if isinstance(article, dict) else None
    return written.at if written is not None else None
