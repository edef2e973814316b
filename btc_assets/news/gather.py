"""Ask every source, and file what is new under the day it became available.

A stored row never moves and never changes: a text delivered again adds nothing, and a text that a live source changed
adds a row with the next revision. Filing is a pure function, so the same deliveries give the same rows in whatever
order they come.
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
"""Where texts of a kind are filed."""
MOST_REVISIONS = 20
"""Revisions kept of one text; a page whose text is never twice the same does not fill the table."""
UNKNOWN_OUTLET = "unknown"
"""Outlet or platform of a text that tells none."""

_NOTES_SHOWN = 3
_LONGEST_NOTE = 300
_LARGEST_COUNT = 2**53
_ENTITIES = {"<": "&lt;", ">": "&gt;", "&": "&amp;"}
_DAY = timedelta(days=1)
_MINUTE = timedelta(minutes=1)


@dataclass(frozen=True)
class Gathered:
    """What came of asking one source once.

    Attributes:
        name: of the source.
        live: whether what it gives is seen now; see `TextSource`.
        lag: from publication to availability, where no first-seen time is told.
        delivery: what it gave; None where it failed.
        fault: why it failed, a sentence; empty where it answered.
        seconds: how long it took.
    """

    name: str
    live: bool
    lag: timedelta
    delivery: Delivery | None
    fault: str = ""
    seconds: float = 0.0


@dataclass(frozen=True)
class Known:
    """What is stored of other days than those asked for, as far as filing needs it.

    Attributes:
        texts: one row a text: item_id, source, story_id (null for posts), first and newest (its revisions stored
            under those days) and digests (of all of them).
        titles: first texts of the last days, for stories: article_id, story_id, outlet, title, available_at; empty
            for posts.
    """

    texts: pl.DataFrame
    titles: pl.DataFrame

    @classmethod
    def none(cls) -> Known:
        """Return what is known when nothing is stored."""
        return cls(pl.DataFrame(schema=_TEXTS), pl.DataFrame(schema=_TITLES))

    @classmethod
    def of(cls, kind: Kind, rows: pl.LazyFrame, deliveries: Iterable[Gathered], days: Sequence[date]) -> Known:
        """Look up what was delivered, and the titles its stories may continue, in the stored rows of other days.

        Args:
            kind: article or post.
            rows: stored rows of that kind; those of `days` are passed over.
            deliveries: what is about to be filed; only texts it names are looked up.
            days: the days that are about to be filed.
        """
        contract = CONTRACTS[kind]
        elsewhere = rows.filter(~contract.day.is_in(list(days)))
        wanted = {name for gathered in deliveries for name in _names(gathered, kind)}
        key = contract.key[0]
        texts = _texts(kind, elsewhere.filter(pl.col(key).is_in(list(wanted))).collect())
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
    """What became of one source's delivery; fetched = new + revised + duplicate + outside + left_out.

    Attributes:
        name: of the source.
        fetched: texts of the kind that it gave.
        new: filed as first texts.
        revised: filed as further revisions.
        duplicate: stored already, or given by another source as well.
        outside: not available on the days asked for, or not yet, or never dated.
        left_out: that cannot be filed.
        unchanged: whether it said that nothing is new.
        fault: why it failed, a sentence; empty where it answered.
        notes: sentences about what was left out, by the source or here.
        seconds: how long it took.
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
class Filed:
    """Rows of the days asked for, and what became of each source's delivery.

    Attributes:
        frame: ARTICLES or POSTS rows in key order, the stored ones untouched among them.
        reports: one a source, in the order they were asked.
    """

    frame: pl.DataFrame
    reports: tuple[SourceReport, ...]


@dataclass(frozen=True)
class Silence:
    """A source that has given nothing new for longer than is usual for it.

    Attributes:
        name: of the source.
        newest: available_at of its newest stored text, UTC; None where none is stored.
        rhythm: longest silence that is usual.
    """

    name: str
    newest: datetime | None
    rhythm: timedelta


# --- asking ----------------------------------------------------------------------------------------
def fetch_all(
    sources: Sequence[TextSource], first: datetime, last: datetime, now: datetime, concurrency: int
) -> list[Gathered]:
    """Ask every source for a span, several at a time; one that is slow or broken stops no other.

    How long a source may take is bounded by the limits of its own transport.

    Args:
        sources: whom to ask.
        first: start of the span, UTC.
        last: its end, UTC, exclusive.
        now: the moment asked at, UTC.
        concurrency: most sources asked at a time.

    Returns:
        What came of each, in the order of the sources.
    """
    if not sources:
        return []
    with ThreadPoolExecutor(max_workers=min(concurrency, len(sources)), thread_name_prefix="news") as pool:
        try:
            return list(pool.map(lambda source: _ask(source, first, last, now), sources))
        except BaseException:  # the run is being stopped: ask nobody else
            pool.shutdown(wait=False, cancel_futures=True)
            raise


def _ask(source: TextSource, first: datetime, last: datetime, now: datetime) -> Gathered:
    began = monotonic()
    asked = Gathered(name=source.name, live=source.live, lag=source.lag, delivery=None)
    try:
        delivery = source.fetch(first, last, now)
    except SourceError as error:
        return replace(asked, fault=str(error), seconds=monotonic() - began)
    except Exception as error:  # noqa: BLE001 - a fault in one source's code must not cost the others' texts
        fault = f"{source.name} broke on what it got, which is a fault of this program: {type(error).__name__}: {error}"
        return replace(asked, fault=fault, seconds=monotonic() - began)
    return replace(asked, delivery=delivery, seconds=monotonic() - began)


# --- when a text became available --------------------------------------------------------------------
def available_at(item: Item, *, live: bool, lag: timedelta, days: Collection[date], now: datetime) -> datetime | None:
    """Return when a text became available, UTC; None where nobody can tell.

    That is when its source first saw the text, where it tells; else when the text was published, plus the lag of the
    source. A live source asked about today shows the text now, unless its history puts it on an earlier
    day that is asked for as well: filing several days at once and one after another comes to the same.

    Args:
        item: the text.
        live: whether its source is.
        lag: of its source.
        days: the UTC days asked for.
        now: the moment asked at, UTC.
    """
    declared = item.first_seen_at.astimezone(UTC) if item.first_seen_at is not None else declared_at(item, lag)
    today = now.astimezone(UTC).date()
    if live and today in days and not (declared is not None and declared.date() < today and declared.date() in days):
        return now
    return declared


def declared_at(item: Item, lag: timedelta) -> datetime | None:
    """Return when a text was published, plus the lag of its source, UTC; None where it is not told.

    A publication told to the day counts from the end of that day, one told to the minute from the end of that
    minute: nothing is available before it can have been known.
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
class _Text:
    """What is known of one text while a batch is filed.

    Attributes:
        source: that gave it.
        story_id: of an article that is stored.
        has_first: whether its first text is there; a run killed halfway may have stored a later one only.
        newest: its newest revision.
        digests: of all its revisions.
    """

    source: str
    story_id: str | None = None
    has_first: bool = False
    newest: int = 0
    digests: set[str] = field(default_factory=set)


@dataclass(frozen=True)
class _Offer:
    """One item, ready to be filed.

    Attributes:
        place: of its source among those asked.
        seen_now: whether a live source shows it now, so that new words are a revision.
        item_id: article_id or post_id.
        digest: of its text.
        row: ARTICLES or POSTS columns, the story still open.
    """

    place: int
    seen_now: bool
    item_id: str
    digest: str
    row: dict[str, Any]

    @property
    def order(self) -> tuple[Any, ...]:
        """First available, the fuller text, first published, then by content: the order of delivery decides nothing."""
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
    deliveries: Sequence[Gathered],
    kind: Kind,
    stored: pl.DataFrame,
    known: Known,
    days: Sequence[date],
    now: datetime,
) -> Filed:
    """File what is new under the days asked for, beside what is stored there.

    A text is named by its address or id (`identity`). A name that is stored, under these days or others, is a
    duplicate; where the live source that gave its first text now tells another, that is filed as its next revision.
    Of a name that comes several times in one batch the one available first is filed, and the first in a fixed
    order of their contents where several are. New articles are given their story.

    Args:
        deliveries: what came of asking the sources, see `fetch_all`.
        kind: what to file; other texts in the deliveries are passed over.
        stored: rows of `days`, which are kept as they are.
        known: what is stored under other days.
        days: the UTC days to file under.
        now: the moment asked at, UTC; what is available later than this is not filed yet.

    Returns:
        The rows of the days, and a report of each source.
    """
    contract = CONTRACTS[kind]
    wanted = set(days)
    texts = _stored_texts(known.texts, _texts(kind, stored))
    counts = [_Counting(gathered) for gathered in deliveries]
    offers: list[_Offer] = []
    for place, gathered in enumerate(deliveries):
        offers.extend(_offers(place, gathered, kind, wanted, now, counts[place]))
    rows = []
    for offer in sorted(offers, key=lambda offer: offer.order):
        row, count = offer.row, counts[offer.place]
        text = texts.setdefault(offer.item_id, _Text(row["source"]))
        if not text.has_first:
            text.has_first = True
            count.new += 1
        elif _is_revision(offer, text):
            text.newest += 1
            row |= {"revision": text.newest, "available_at": now}
            count.revised += 1
        else:
            count.duplicate += 1
            continue
        text.digests.add(offer.digest)
        rows.append(row)
    fresh = pl.DataFrame(rows, schema=contract.columns) if rows else contract.empty()
    if kind == "article" and rows:
        fresh = _with_stories(fresh, stored, known, texts)
    frame = pl.concat([stored, fresh]).sort(contract.key)
    return Filed(frame, tuple(count.report() for count in counts))


def _stored_texts(*frames: pl.DataFrame) -> dict[str, _Text]:
    """Return what is stored of each text; its revisions may lie under several days."""
    texts: dict[str, _Text] = {}
    for frame in frames:
        for row in frame.iter_rows(named=True):
            text = texts.setdefault(row["item_id"], _Text(row["source"], row["story_id"]))
            text.has_first |= row["first"] == 0
            text.newest = max(text.newest, row["newest"])
            text.digests.update(row["digests"])
    return texts


class _Counting:
    """Counts what becomes of one source's texts."""

    def __init__(self, gathered: Gathered) -> None:
        self._gathered = gathered
        self.fetched = self.new = self.revised = self.duplicate = self.outside = self.left_out = 0
        self.notes: list[str] = list(gathered.delivery.faults) if gathered.delivery else []

    def report(self) -> SourceReport:
        gathered = self._gathered
        return SourceReport(
            name=gathered.name,
            fetched=self.fetched,
            new=self.new,
            revised=self.revised,
            duplicate=self.duplicate,
            outside=self.outside,
            left_out=self.left_out,
            unchanged=gathered.delivery is not None and gathered.delivery.unchanged,
            fault=gathered.fault,
            notes=tuple(self.notes),
            seconds=gathered.seconds,
        )


def _offers(
    place: int, gathered: Gathered, kind: Kind, days: set[date], now: datetime, count: _Counting
) -> Iterable[_Offer]:
    """Return the items of a delivery that may be filed under the days, and count the others."""
    seen_now = gathered.live and now.astimezone(UTC).date() in days
    for item in gathered.delivery.items if gathered.delivery else ():
        if item.kind != kind:
            continue
        count.fetched += 1
        at = available_at(item, live=gathered.live, lag=gathered.lag, days=days, now=now)
        if at is None or at > now or at.date() not in days:
            count.outside += 1
            continue
        try:
            row = _article(item, at) if kind == "article" else _post(item, at)
        except ValueError as error:
            count.left_out += 1
            count.notes.append(f"{gathered.name}: {_cut(item.title or item.guid or item.url)!r} was left out: {error}")
            continue
        item_id, digest = row[CONTRACTS[kind].key[0]], _digest(kind, row)
        yield _Offer(place, seen_now, item_id, digest, row)


def _is_revision(offer: _Offer, text: _Text) -> bool:
    """Tell whether a live source gives its own known text in new words."""
    return (
        offer.seen_now
        and offer.row["source"] == text.source
        and offer.digest not in text.digests
        and text.newest < MOST_REVISIONS
    )


def _article(item: Item, at: datetime) -> dict[str, Any]:
    """Return the ARTICLES row of an item, its story still open.

    Raises:
        ValueError: it cannot be one; the message ends a sentence.
    """
    title = item.title.strip()
    if not title:
        raise ValueError("it has no title")
    url = canonical_url(item.url)
    return {
        "article_id": article_id(url, item.source, item.guid),
        "revision": 0,
        "story_id": None,
        "source": _named(item.source),
        "outlet": item.outlet.strip().lower() or UNKNOWN_OUTLET,
        "url": url or None,
        "title": _sound(title),
        "summary": _sound(item.summary.strip()),
        "published_at": _published(item),
        "precision": item.precision if item.published_at else "none",
        "available_at": at,
    }


def _post(item: Item, at: datetime) -> dict[str, Any]:
    """Return the POSTS row of an item.

    Raises:
        ValueError: it cannot be one; the message ends a sentence.
    """
    title, body = item.title.strip(), item.summary.strip()
    text = body if body.startswith(title) else f"{title}\n{body}".strip()
    if not text:
        raise ValueError("it has no text")
    platform, url = item.outlet.strip().lower() or UNKNOWN_OUTLET, canonical_url(item.url)
    return {
        "post_id": post_id(platform, item.guid or url),
        "revision": 0,
        "source": _named(item.source),
        "platform": _sound(platform),
        "channel": _sound(item.channel.strip()),
        "url": url or None,
        "text": _sound(text),
        "published_at": _published(item),
        "precision": item.precision if item.published_at else "none",
        "available_at": at,
        "points": _count(item.points),
        "comments": _count(item.comments),
        "is_repost": item.is_repost,
    }


def _published(item: Item) -> datetime | None:
    return item.published_at.astimezone(UTC) if item.published_at else None


def _named(source: str) -> str:
    if not source:
        raise ValueError("its source has no name")
    return _sound(source)


def _sound(text: str) -> str:
    """Return a text that can be stored.

    Raises:
        ValueError: it holds half a character.
    """
    try:
        text.encode()
    except UnicodeEncodeError:
        raise ValueError("its text holds half a character, which no file can store") from None
    return text


def _count(value: int | None) -> int | None:
    """Return a count, or None where it is none or cannot be one."""
    return value if value is not None and abs(value) <= _LARGEST_COUNT else None


def _digest(kind: Kind, row: Mapping[str, Any]) -> str:
    return text_digest(row["title"], row["summary"]) if kind == "article" else text_digest(row["text"])


def _names(gathered: Gathered, kind: Kind) -> set[str]:
    """Return the article_id or post_id of every text of a delivery that has one."""
    found = set()
    for item in gathered.delivery.items if gathered.delivery else ():
        with suppress(ValueError):
            if item.kind == kind == "article":
                found.add(article_id(item.url, item.source, item.guid))
            elif item.kind == kind == "post":
                found.add(post_id(item.outlet.strip() or UNKNOWN_OUTLET, item.guid or canonical_url(item.url)))
    return found


def _texts(kind: Kind, rows: pl.DataFrame) -> pl.DataFrame:
    """Return one row a text of stored rows, with the columns of `Known.texts`."""
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


def _with_stories(fresh: pl.DataFrame, stored: pl.DataFrame, known: Known, texts: Mapping[str, _Text]) -> pl.DataFrame:
    """Return new articles with the story each one tells; a revision tells its first text's."""
    told = assign_stories(fresh.filter(pl.col("revision") == 0), pl.concat([known.titles, _first_titles(stored)]))
    told |= {name: text.story_id for name, text in texts.items() if text.story_id is not None}
    return fresh.with_columns(pl.Series("story_id", [told[name] for name in fresh["article_id"]], pl.String))


# --- telling -----------------------------------------------------------------------------------------
def source_table(reports: Sequence[SourceReport]) -> str:
    """Return what became of each source's delivery as a Markdown table; nothing in it can be markup."""
    if not reports:
        return "No source was asked."
    head = "| source | fetched | new | revised | duplicate | outside the days | left out | seconds | why |"
    rows = [
        f"| {_cell(report.name)} | {report.fetched} | {report.new} | {report.revised} | {report.duplicate} | "
        f"{report.outside} | {report.left_out} | {report.seconds:.1f} | {_why(report)} |"
        for report in reports
    ]
    return "\n".join([head, "|---|" + "---:|" * 7 + "---|", *rows])


def _why(report: SourceReport) -> str:
    said = [f"**failed**: {_cell(report.fault)}"] if report.fault else []
    if report.unchanged:
        said.append("unchanged since it was last asked")
    said.extend(_cell(note) for note in report.notes[:_NOTES_SHOWN])
    if len(report.notes) > _NOTES_SHOWN:
        said.append(f"… and {len(report.notes) - _NOTES_SHOWN} more")
    return "; ".join(said)


def _cell(text: str) -> str:
    """Return words from outside as a table cell that shows them and does nothing else."""
    return re.sub(r"([\\|`*\[\]<>&])", lambda found: _ENTITIES.get(found[1], f"\\{found[1]}"), _cut(text))


def _cut(text: str) -> str:
    """Return one line of a text from outside, without control or invisible characters, bounded in length."""
    plain = "".join(" " if unicodedata.category(character).startswith("C") else character for character in text)
    line = " ".join(plain.split())
    return line if len(line) <= _LONGEST_NOTE else f"{line[: _LONGEST_NOTE - 1]}…"


def silent_sources(sources: Sequence[TextSource], rows: pl.LazyFrame, now: datetime) -> list[Silence]:
    """Return the sources whose newest stored text is older than is usual for them, in their order.

    Args:
        sources: those asked; one without a rhythm is never silent.
        rows: ARTICLES or POSTS rows.
        now: the present moment, UTC.
    """
    newest = dict(rows.group_by("source").agg(pl.col("available_at").max()).collect().iter_rows())
    silent = []
    for source in sources:
        last = newest.get(source.name)
        if source.rhythm is not None and (last is None or now - last > source.rhythm):
            silent.append(Silence(source.name, last, source.rhythm))
    return silent
