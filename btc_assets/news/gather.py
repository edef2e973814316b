"""Fetch every source and file new texts under the day they became available.

A stored row never changes: a repeated delivery adds nothing, and a text edited by its live source adds a row with the
next revision. Filing is a pure function of the fetch results, independent of their order.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Collection, Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass, field, replace
from datetime import UTC, date, datetime, timedelta
from time import monotonic
from typing import Any

import polars as pl

from btc_assets.clock import midnight
from btc_assets.markdown import markdown_rows
from btc_assets.news.identity import (
    STORY_WINDOW,
    article_id,
    assign_stories,
    canonical_url,
    post_id,
    text_digest,
)
from btc_assets.news.sources.protocol import Delivery, Item, Kind, TextSource
from btc_assets.news.tables import ARTICLES, POSTS
from btc_assets.schema import Contract
from btc_assets.transport import SourceError

CONTRACTS: dict[Kind, Contract] = {"article": ARTICLES, "post": POSTS}
"""The contract of each kind of text."""
MAX_REVISIONS = 20
"""Maximum number of revisions per text; a page that changes on every fetch must not fill the table."""
UNKNOWN_OUTLET = "unknown"
"""Outlet or platform of a text that does not state one."""

_MAX_NOTES = 3
_MAX_NOTE_CHARACTERS = 300
_MAX_COUNT = 2**53
_ENTITIES = {"<": "&lt;", ">": "&gt;", "&": "&amp;"}
_DAY = timedelta(days=1)
_MINUTE = timedelta(minutes=1)


@dataclass(frozen=True)
class FetchResult:
    """The result of fetching one source.

    Attributes:
        name: of the source.
        live: whether its texts are first seen now; see `TextSource`.
        lag: from publication to availability, for texts without a first-seen time.
        delivery: the texts; None if the source failed.
        fault: why it failed, a sentence; empty if it succeeded.
        seconds: duration of the fetch.
    """

    name: str
    live: bool
    lag: timedelta
    delivery: Delivery | None
    fault: str = ""
    seconds: float = 0.0


@dataclass(frozen=True)
class KnownTexts:
    """The stored texts of other days that filing needs.

    Attributes:
        texts: one row per text: item_id, source, story_id (null for posts), first and newest (lowest and highest
            revision stored under those days) and digests (of all these revisions).
        titles: first texts of the last days, for stories: article_id, story_id, outlet, title, available_at; empty
            for posts.
    """

    texts: pl.DataFrame
    titles: pl.DataFrame

    @classmethod
    def empty(cls) -> KnownTexts:
        """Return the known texts of an empty table."""
        return cls(pl.DataFrame(schema=_TEXTS), pl.DataFrame(schema=_TITLES))

    @classmethod
    def look_up(
        cls, kind: Kind, rows: pl.LazyFrame, results: Iterable[FetchResult], days: Sequence[date]
    ) -> KnownTexts:
        """Look up the delivered texts, and the titles of stories that they may join, in the stored rows of other days.

        Args:
            kind: article or post.
            rows: stored rows of that kind; rows of `days` are ignored.
            results: the fetch results to file; only their texts are looked up.
            days: the days to file.
        """
        contract = CONTRACTS[kind]
        elsewhere = rows.filter(~contract.day.is_in(list(days)))
        key = contract.key[0]
        texts = _texts(kind, elsewhere.filter(pl.col(key).is_in(item_ids(results, kind))).collect())
        if kind == "post":
            return cls(texts, pl.DataFrame(schema=_TITLES))
        reach = pl.col("available_at") >= midnight(min(days)) - STORY_WINDOW
        return cls(texts, _first_titles(elsewhere.filter(reach & (pl.col("revision") == 0)).collect()))


_TEXTS = pl.Schema(
    {
        "item_id": pl.String(),
        "source": pl.String(),
        "story_id": pl.String(),
        "first": pl.Int64(),
        "newest": pl.Int64(),
        "digests": pl.List(pl.String()),
    }
)
_TITLES = pl.Schema(
    {name: ARTICLES.columns[name] for name in ("article_id", "story_id", "outlet", "title", "available_at")}
)


@dataclass(frozen=True)
class SourceReport:
    """The outcome of one source's delivery; fetched = new + revised + duplicate + outside + left_out.

    Attributes:
        name: of the source.
        fetched: delivered texts of the kind.
        new: texts filed as first texts.
        revised: texts filed as further revisions.
        duplicate: texts already stored or also delivered by another source.
        outside: texts that are undated, not available on the requested days, or not available yet.
        left_out: texts that cannot be filed.
        unchanged: whether the source reported that nothing is new.
        fault: why it failed, a sentence; empty if it succeeded.
        notes: sentences about texts left out by the source or during filing.
        seconds: duration of the fetch.
    """

    name: str
    fetched: int = 0
    new: int = 0
    revised: int = 0
    duplicate: int = 0
    outside: int = 0
    left_out: int = 0
    unchanged: bool = False
    fault: str = ""
    notes: tuple[str, ...] = ()
    seconds: float = 0.0


@dataclass(frozen=True)
class FilingResult:
    """Rows of the requested days and one report per source.

    Attributes:
        frame: ARTICLES or POSTS rows in key order, including the unchanged stored rows.
        reports: one per source, in the order of the fetch results.
    """

    frame: pl.DataFrame
    reports: tuple[SourceReport, ...]


@dataclass(frozen=True)
class SilentSource:
    """A source that has delivered nothing new for longer than its rhythm.

    Attributes:
        name: of the source.
        newest: available_at of its latest stored text, UTC; None if none is stored.
        rhythm: longest normal silence.
    """

    name: str
    newest: datetime | None
    rhythm: timedelta


# --- fetching ----------------------------------------------------------------------------------------
def fetch_all(
    sources: Sequence[TextSource], first: datetime, last: datetime, now: datetime, concurrency: int
) -> list[FetchResult]:
    """Fetch a span from every source concurrently; a slow or failing source does not affect the others.

    The limits of its transport bound how long a source may take.

    Args:
        sources: the sources to fetch.
        first: start of the span, UTC.
        last: its end, UTC, exclusive.
        now: the time of the request, UTC.
        concurrency: maximum number of sources fetched at the same time.

    Returns:
        One result per source, in the order of the sources.
    """
    if not sources:
        return []
    with ThreadPoolExecutor(max_workers=min(concurrency, len(sources)), thread_name_prefix="news") as pool:
        try:
            return list(pool.map(lambda source: _fetch(source, first, last, now), sources))
        except BaseException:  # the run is being stopped: start no further fetch
            pool.shutdown(wait=False, cancel_futures=True)
            raise


def _fetch(source: TextSource, first: datetime, last: datetime, now: datetime) -> FetchResult:
    started = monotonic()
    result = FetchResult(name=source.name, live=source.live, lag=source.lag, delivery=None)
    try:
        delivery = source.fetch(first, last, now)
    except SourceError as error:
        return replace(result, fault=str(error), seconds=monotonic() - started)
    except Exception as error:  # noqa: BLE001 - a bug in one source must not cost the texts of the others
        fault = f"{source.name} could not process its response (a bug in this program): {type(error).__name__}: {error}"
        return replace(result, fault=fault, seconds=monotonic() - started)
    return replace(result, delivery=delivery, seconds=monotonic() - started)


# --- when a text became available --------------------------------------------------------------------
def available_at(item: Item, *, live: bool, lag: timedelta, days: Collection[date], now: datetime) -> datetime | None:
    """Return when a text became available, UTC; None if unknown.

    This is when its source first saw the text, if the source states it; otherwise the publication time plus the lag of
    the source. A text that a live source delivers for today is available now, unless its history puts it on an earlier
    requested day: filing several days at once and one after another gives the same result.

    Args:
        item: the text.
        live: whether its source is live.
        lag: of its source.
        days: the requested UTC days.
        now: the time of the request, UTC.
    """
    declared = item.first_seen_at.astimezone(UTC) if item.first_seen_at is not None else published_plus_lag(item, lag)
    today = now.astimezone(UTC).date()
    if live and today in days and not (declared is not None and declared.date() < today and declared.date() in days):
        return now
    return declared


def published_plus_lag(item: Item, lag: timedelta) -> datetime | None:
    """Return the publication time plus the lag of the source, UTC; None if it is unknown.

    A time with day or minute precision counts from the end of that day or minute, so that no text is available before
    it can have been published.
    """
    if item.published_at is None:
        return None
    published = item.published_at.astimezone(UTC)
    try:
        if item.precision == "minute":
            return published.replace(second=0, microsecond=0) + _MINUTE + lag
        if item.precision == "second":
            return published + lag
        return midnight(published.date()) + _DAY + lag
    except OverflowError:
        return None


# --- filing ------------------------------------------------------------------------------------------
@dataclass
class _TextState:
    """The state of one text while a batch is filed.

    Attributes:
        source: the source that delivered it.
        story_id: story of a stored article.
        has_first: whether its first text exists; a killed run may have stored only a later revision.
        newest: its latest revision.
        digests: digests of all its revisions.
    """

    source: str
    story_id: str | None = None
    has_first: bool = False
    newest: int = 0
    digests: set[str] = field(default_factory=set)


@dataclass(frozen=True)
class _Candidate:
    """One item that may be filed.

    Attributes:
        position: index of its delivery.
        seen_now: whether a live source shows it now, so that a changed text is a revision.
        item_id: article_id or post_id.
        digest: of its text.
        row: ARTICLES or POSTS columns, without the story.
    """

    position: int
    seen_now: bool
    item_id: str
    digest: str
    row: dict[str, Any]

    @property
    def order(self) -> tuple[Any, ...]:
        """Sort key: earliest available, with a summary, earliest published, then content; never delivery order."""
        published = self.row["published_at"]
        return (
            self.row["available_at"],
            not self.row.get("summary", True),
            published is None,
            published or self.row["available_at"],
            self.row["source"],
            self.item_id,
            self.digest,
            repr(sorted(self.row.items(), key=lambda pair: pair[0])),
        )


def file_items(
    results: Sequence[FetchResult],
    kind: Kind,
    stored: pl.DataFrame,
    known: KnownTexts,
    days: Sequence[date],
    now: datetime,
) -> FilingResult:
    """Add new texts to the stored rows of the requested days.

    The address or id identifies a text (see `identity`). A text that is already stored, on these or other days, is a
    duplicate; if the live source that delivered its first text now delivers a changed text, the change is filed as the
    next revision. If a text occurs several times in one batch, the earliest available one is filed, with ties resolved
    by a fixed order of their contents. New articles are assigned a story.

    Texts stored under later days are not known here, so what those days hold changes no row. The tables are unique
    across days: of the filed texts, the lake does not store those that a later day holds. Another article of the batch
    may have joined the story of such a text, which by its delivery was available before.

    Args:
        results: the results of `fetch_all`.
        kind: the kind to file; other texts are ignored.
        stored: rows of `days`, which are kept unchanged.
        known: texts stored under the other days that are known.
        days: the UTC days to file under.
        now: the time of the request, UTC; texts that become available later are not filed yet.

    Returns:
        The rows of the days and one report per source.
    """
    contract = CONTRACTS[kind]
    wanted = set(days)
    texts = _stored_texts(known.texts, _texts(kind, stored))
    counts = [_SourceCounts(result) for result in results]
    candidates: list[_Candidate] = []
    for position, result in enumerate(results):
        candidates.extend(_candidates(position, result, kind, wanted, now, counts[position]))
    rows = []
    for candidate in sorted(candidates, key=lambda candidate: candidate.order):
        row, count = candidate.row, counts[candidate.position]
        text = texts.setdefault(candidate.item_id, _TextState(row["source"]))
        if not text.has_first:
            text.has_first = True
            count.new += 1
        elif _is_revision(candidate, text):
            text.newest += 1
            row |= {"revision": text.newest, "available_at": now}
            count.revised += 1
        else:
            count.duplicate += 1
            continue
        text.digests.add(candidate.digest)
        rows.append(row)
    added = pl.DataFrame(rows, schema=contract.columns) if rows else contract.empty()
    if kind == "article" and rows:
        added = _assign_stories(added, stored, known, texts)
    frame = pl.concat([stored, added]).sort(contract.key)
    return FilingResult(frame, tuple(count.report() for count in counts))


def _stored_texts(*frames: pl.DataFrame) -> dict[str, _TextState]:
    """Return the state of each stored text; its revisions may be stored under several days."""
    texts: dict[str, _TextState] = {}
    for frame in frames:
        for row in frame.iter_rows(named=True):
            text = texts.setdefault(row["item_id"], _TextState(row["source"], row["story_id"]))
            text.has_first |= row["first"] == 0
            text.newest = max(text.newest, row["newest"])
            text.digests.update(row["digests"])
    return texts


class _SourceCounts:
    """Counts the outcomes of one source's texts."""

    def __init__(self, result: FetchResult) -> None:
        self._result = result
        self.fetched = self.new = self.revised = self.duplicate = self.outside = self.left_out = 0
        self.notes: list[str] = list(result.delivery.faults) if result.delivery else []

    def report(self) -> SourceReport:
        result = self._result
        return SourceReport(
            name=result.name,
            fetched=self.fetched,
            new=self.new,
            revised=self.revised,
            duplicate=self.duplicate,
            outside=self.outside,
            left_out=self.left_out,
            unchanged=result.delivery is not None and result.delivery.unchanged,
            fault=result.fault,
            notes=tuple(self.notes),
            seconds=result.seconds,
        )


def _candidates(
    position: int, result: FetchResult, kind: Kind, days: set[date], now: datetime, count: _SourceCounts
) -> Iterable[_Candidate]:
    """Yield the items of a delivery that may be filed under the days; count the others."""
    seen_now = result.live and now.astimezone(UTC).date() in days
    for item in result.delivery.items if result.delivery else ():
        if item.kind != kind:
            continue
        count.fetched += 1
        at = available_at(item, live=result.live, lag=result.lag, days=days, now=now)
        if at is None or at > now or at.date() not in days:
            count.outside += 1
            continue
        try:
            row = _article_row(item, at) if kind == "article" else _post_row(item, at)
        except ValueError as error:
            count.left_out += 1
            count.notes.append(
                f"{result.name}: {_one_line(item.title or item.guid or item.url)!r} was left out: {error}"
            )
            continue
        item_id, digest = row[CONTRACTS[kind].key[0]], _digest(kind, row)
        yield _Candidate(position, seen_now, item_id, digest, row)


def _is_revision(candidate: _Candidate, text: _TextState) -> bool:
    """Return whether a live source delivers a changed version of its own text."""
    return (
        candidate.seen_now
        and candidate.row["source"] == text.source
        and candidate.digest not in text.digests
        and text.newest < MAX_REVISIONS
    )


def _article_row(item: Item, at: datetime) -> dict[str, Any]:
    """Return the ARTICLES row of an item, without its story.

    Raises:
        ValueError: the item is not a valid article; the message is the reason of a note.
    """
    title = item.title.strip()
    if not title:
        raise ValueError("it has no title")
    url = canonical_url(item.url)
    return {
        "article_id": article_id(url, item.source, item.guid),
        "revision": 0,
        "story_id": None,
        "source": _source_name(item.source),
        "outlet": item.outlet.strip().lower() or UNKNOWN_OUTLET,
        "url": url or None,
        "title": _encodable(title),
        "summary": _encodable(item.summary.strip()),
        "published_at": _published_at(item),
        "precision": item.precision if item.published_at else "none",
        "available_at": at,
    }


def _post_row(item: Item, at: datetime) -> dict[str, Any]:
    """Return the POSTS row of an item.

    Raises:
        ValueError: the item is not a valid post; the message is the reason of a note.
    """
    title, body = item.title.strip(), item.summary.strip()
    text = body if body.startswith(title) else f"{title}\n{body}".strip()
    if not text:
        raise ValueError("it has no text")
    platform, url = item.outlet.strip().lower() or UNKNOWN_OUTLET, canonical_url(item.url)
    return {
        "post_id": post_id(platform, item.guid or url),
        "revision": 0,
        "source": _source_name(item.source),
        "platform": _encodable(platform),
        "channel": _encodable(item.channel.strip()),
        "url": url or None,
        "text": _encodable(text),
        "published_at": _published_at(item),
        "precision": item.precision if item.published_at else "none",
        "available_at": at,
        "points": _count(item.points),
        "comments": _count(item.comments),
        "is_repost": item.is_repost,
    }


def _published_at(item: Item) -> datetime | None:
    return item.published_at.astimezone(UTC) if item.published_at else None


def _source_name(source: str) -> str:
    if not source:
        raise ValueError("its source has no name")
    return _encodable(source)


def _encodable(text: str) -> str:
    """Return a text after checking that UTF-8 can encode it.

    Raises:
        ValueError: the text contains a lone surrogate.
    """
    try:
        text.encode()
    except UnicodeEncodeError:
        raise ValueError("its text contains a lone surrogate, which UTF-8 cannot encode") from None
    return text


def _count(value: int | None) -> int | None:
    """Return a count; None if it is missing or implausibly large."""
    return value if value is not None and abs(value) <= _MAX_COUNT else None


def _digest(kind: Kind, row: Mapping[str, Any]) -> str:
    return text_digest(row["title"], row["summary"]) if kind == "article" else text_digest(row["text"])


def item_ids(results: Iterable[FetchResult], kind: Kind) -> list[str]:
    """Return the article_id or post_id of every delivered text that has one, sorted."""
    ids = set()
    for item in (item for result in results if result.delivery for item in result.delivery.items):
        with suppress(ValueError):
            if item.kind == kind == "article":
                ids.add(article_id(item.url, item.source, item.guid))
            elif item.kind == kind == "post":
                ids.add(post_id(item.outlet.strip() or UNKNOWN_OUTLET, item.guid or canonical_url(item.url)))
    return sorted(ids)


def _texts(kind: Kind, rows: pl.DataFrame) -> pl.DataFrame:
    """Aggregate stored rows to one row per text, with the columns of `KnownTexts.texts`."""
    if rows.is_empty():
        return pl.DataFrame(schema=_TEXTS)
    digests = pl.Series("digest", [_digest(kind, row) for row in rows.iter_rows(named=True)], pl.String)
    story = pl.col("story_id") if kind == "article" else pl.lit(None, pl.String)
    return (
        rows.with_columns(digests, story.alias("story_id"))
        .sort(CONTRACTS[kind].key)
        .group_by(pl.col(CONTRACTS[kind].key[0]).alias("item_id"), maintain_order=True)
        .agg(
            pl.col("source", "story_id").first(),
            pl.col("revision").first().alias("first"),
            pl.col("revision").last().alias("newest"),
            pl.col("digest").alias("digests"),
        )
    )


def _first_titles(rows: pl.DataFrame) -> pl.DataFrame:
    return rows.filter(pl.col("revision") == 0).select(list(_TITLES))


def _assign_stories(
    added: pl.DataFrame, stored: pl.DataFrame, known: KnownTexts, texts: Mapping[str, _TextState]
) -> pl.DataFrame:
    """Return new articles with their stories; a revision keeps the story of its first text."""
    stories = assign_stories(added.filter(pl.col("revision") == 0), pl.concat([known.titles, _first_titles(stored)]))
    stories |= {item_id: text.story_id for item_id, text in texts.items() if text.story_id is not None}
    return added.with_columns(pl.Series("story_id", [stories[item_id] for item_id in added["article_id"]], pl.String))


# --- reporting ---------------------------------------------------------------------------------------
def source_table(reports: Sequence[SourceReport]) -> str:
    """Return the reports as a Markdown table; text from sources is escaped."""
    if not reports:
        return "No source was fetched."
    counts = ("fetched", "new", "revised", "duplicate", "outside the days", "left out", "seconds")
    rows = (
        (
            _escape_cell(report.name),
            *(report.fetched, report.new, report.revised, report.duplicate, report.outside, report.left_out),
            f"{report.seconds:.1f}",
            _notes(report),
        )
        for report in reports
    )
    return markdown_rows(("source", *counts, "notes"), rows, right=counts)


def _notes(report: SourceReport) -> str:
    notes = [f"**failed**: {_escape_cell(report.fault)}"] if report.fault else []
    if report.unchanged:
        notes.append("unchanged since the last fetch")
    notes.extend(_escape_cell(note) for note in report.notes[:_MAX_NOTES])
    if len(report.notes) > _MAX_NOTES:
        notes.append(f"… and {len(report.notes) - _MAX_NOTES} more")
    return "; ".join(notes)


def _escape_cell(text: str) -> str:
    """Return untrusted text as a Markdown table cell without active markup."""
    return re.sub(r"([\\|`*\[\]<>&])", lambda match: _ENTITIES.get(match[1], f"\\{match[1]}"), _one_line(text))


def _one_line(text: str) -> str:
    """Return untrusted text on one line, without control or invisible characters, bounded in length."""
    plain = "".join(" " if unicodedata.category(character).startswith("C") else character for character in text)
    line = " ".join(plain.split())
    return line if len(line) <= _MAX_NOTE_CHARACTERS else f"{line[: _MAX_NOTE_CHARACTERS - 1]}…"


def silent_sources(sources: Sequence[TextSource], rows: pl.LazyFrame, now: datetime) -> list[SilentSource]:
    """Return the sources whose latest stored text is older than their rhythm, in order.

    Args:
        sources: the fetched sources; a source without a rhythm is never silent.
        rows: ARTICLES or POSTS rows.
        now: the current time, UTC.
    """
    newest = dict(rows.group_by("source").agg(pl.col("available_at").max()).collect().iter_rows())
    silent = []
    for source in sources:
        last = newest.get(source.name)
        if source.rhythm is not None and (last is None or now - last > source.rhythm):
            silent.append(SilentSource(source.name, last, source.rhythm))
    return silent
