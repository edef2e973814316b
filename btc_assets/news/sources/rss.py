"""RSS and Atom feeds: the catalogue a person may edit, and each of its feeds as a source of articles."""

from __future__ import annotations

import re
import tomllib
from collections import defaultdict
from collections.abc import Callable
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from btc_assets.news.addresses import MAX_ADDRESS_CHARACTERS, web_address
from btc_assets.news.dates import Precision, read_time
from btc_assets.news.plain_text import plain_summary, plain_title
from btc_assets.news.sources.feed_entries import Document, DocumentEntry, FeedError, read_apart
from btc_assets.news.sources.protocol import Delivery, Item, Kind
from btc_assets.news.taken_down import is_taken_down
from btc_assets.settings import SettingsError
from btc_assets.transport import Limits, SourceMalformedError, Transport

LAG = timedelta(minutes=30)
"""From publication to availability of an article nobody was there to see appear."""
FUTURE = timedelta(hours=1)
"""How far a publisher's clock may be ahead of ours before a date counts as none."""
FEED_BYTES = 10 * 1024 * 1024
REDIRECTS = 5
TOTAL_S = 60.0
"""Seconds one feed may take to fetch, all tries together: the others' articles wait for the slowest."""
LONGEST_RHYTHM_HOURS = 24 * 90

_ATTEMPTS = 3
_MAX_WAIT_S = 20.0
_LONGEST_GUID = 500
_SHOWN = 40
_FIELDS = ("name", "url", "outlet", "rhythm_hours")
_NAME = re.compile(r"^[a-z0-9][a-z0-9_]{0,39}$")
_DOMAIN = re.compile(r"^[a-z0-9-]+(\.[a-z0-9-]+)+$")


# --- the catalogue -------------------------------------------------------------------------------------
@dataclass(frozen=True)
class FeedEntry:
    """One feed of the catalogue.

    Attributes:
        name: of the source, unique.
        url: of the feed.
        outlet: domain of the publisher.
        rhythm: longest silence that is usual.
    """

    name: str
    url: str
    outlet: str
    rhythm: timedelta


def read_catalogue(path: Path) -> tuple[FeedEntry, ...]:
    """Read the catalogue of feeds, a TOML file of `[[feed]]` tables with name, url, outlet and rhythm_hours.

    Raises:
        SettingsError: the file cannot be read or holds something else; the message says which feed and what.
    """
    try:
        content = tomllib.loads(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
        raise _fault(path, f"it cannot be read: {error}") from error
    strangers = sorted(set(content) - {"feed"})
    if strangers:
        raise _fault(path, f"{strangers[0]!r} is unknown; expected [[feed]] tables only")
    tables = content.get("feed", [])
    if not isinstance(tables, list) or not tables:
        raise _fault(path, "it holds no feed; expected one [[feed]] table for each")
    feeds: list[FeedEntry] = []
    for place, table in enumerate(tables, 1):
        feed = _feed_of(path, place, table)
        for other in feeds:
            if feed.name == other.name:
                raise _fault(path, f"feed {place} is named {feed.name!r}, as another is; each needs a name of its own")
            if feed.url == other.url:
                raise _fault(path, f"feed {place} ({feed.name}) has the address of {other.name!r}; remove one")
        feeds.append(feed)
    return tuple(feeds)


def _feed_of(path: Path, place: int, table: Any) -> FeedEntry:
    if not isinstance(table, dict):
        raise _fault(path, f"feed {place} is {table!r}; expected a [[feed]] table")
    which = f"feed {place} ({table['name']})" if isinstance(table.get("name"), str) else f"feed {place}"
    for stranger in sorted(set(table) - set(_FIELDS)):
        raise _fault(path, f"{which} has an unknown key {stranger!r}; expected {', '.join(_FIELDS)}")
    for absent in (field for field in _FIELDS if field not in table):
        raise _fault(path, f"{which} has no {absent!r}; expected {', '.join(_FIELDS)}")
    name, url, outlet, rhythm = (table[field] for field in _FIELDS)
    if not isinstance(name, str) or not _NAME.match(name):
        raise _fault(path, f"{which} has the name {name!r}; expected up to 40 lower-case letters, digits and _")
    if not isinstance(url, str) or not web_address(url):
        raise _fault(path, f"{which} has the url {url!r}; expected an http or https address without credentials")
    if not isinstance(outlet, str) or not _DOMAIN.match(outlet):
        raise _fault(path, f"{which} has the outlet {outlet!r}; expected a domain such as 'example.com'")
    is_number = isinstance(rhythm, (int, float)) and not isinstance(rhythm, bool)
    if not is_number or not 0 < rhythm <= LONGEST_RHYTHM_HOURS:
        raise _fault(
            path, f"{which} has rhythm_hours {rhythm!r}; expected hours above 0, at most {LONGEST_RHYTHM_HOURS}"
        )
    return FeedEntry(name, web_address(url), outlet, timedelta(hours=rhythm))


def _fault(path: Path, what: str) -> SettingsError:
    return SettingsError(f"The catalogue of feeds {path}: {what}. Correct it or point BTC_NEWS_FEEDS at another.")


# --- the source ------------------------------------------------------------------------------------------
class Feed:
    """Articles of one feed; it knows only its newest ones, whatever span it is asked for.

    Args:
        entry: of the catalogue.
        limits: how patient its transport is; see `feed_limits`.
        cache: SQLite file that remembers what was fetched; feeds and processes may share it.
    """

    kinds: tuple[Kind, ...] = ("article",)
    live = True
    lag = LAG

    def __init__(self, entry: FeedEntry, limits: Limits, cache: Path | None) -> None:
        self.name = entry.name
        self.rhythm: timedelta | None = entry.rhythm
        self._entry = entry
        parts = urlsplit(entry.url)
        base = f"{parts.scheme}://{parts.netloc}"
        self._path = entry.url[len(base) :].partition("#")[0]
        self._api = Transport(
            base, limits, cache=cache, remedy="correct its address in the catalogue (BTC_NEWS_FEEDS) or take it out"
        )

    def fetch(self, first: datetime, last: datetime, now: datetime) -> Delivery:
        """Return the articles the feed holds; none where it says that it has not changed; see `TextSource.fetch`.

        Raises:
            SourceError: it did not answer, or not with a feed.
        """
        # What was fetched for other days was filed under those only: each span has a memory of its own.
        purpose = f"{first:%Y-%m-%dT%H:%M}/{last:%Y-%m-%dT%H:%M}"
        body = self._api.content_if_changed(self._path, purpose)
        if body is None:
            return Delivery([], unchanged=True)
        try:
            document = read_apart(body, self._entry.url)
        except FeedError as fault:
            self._api.forget(self._path, purpose)
            raise SourceMalformedError(
                f"{self.name}: expected a feed at {self._entry.url.partition('?')[0]}, but {fault}. Nothing of it was "
                f"stored; if it stays so, correct its address in the catalogue (BTC_NEWS_FEEDS) or take it out."
            ) from fault
        if not document.is_whole:
            self._api.forget(self._path, purpose)
        return delivery_of(document, self._entry, now)


def feed_limits(limits: Limits) -> Limits:
    """Return how patient feeds are: the given limits, and those that outside addresses need."""
    return replace(
        limits,
        attempts=min(limits.attempts, _ATTEMPTS),
        max_wait_s=min(limits.max_wait_s, _MAX_WAIT_S),
        body_bytes=FEED_BYTES,
        redirects=REDIRECTS,
        total_s=TOTAL_S,
    )


def feeds_of(catalogue: Path, limits: Limits, cache: Path | None) -> tuple[Feed, ...]:
    """Build the sources of a catalogue; nothing is fetched yet.

    Raises:
        SettingsError: as `read_catalogue` does.
    """
    patience = feed_limits(limits)
    return tuple(Feed(entry, patience, cache) for entry in read_catalogue(catalogue))


# --- from a document to items ------------------------------------------------------------------------------
def delivery_of(document: Document, feed: FeedEntry, now: datetime) -> Delivery:
    """Turn what was read of a feed into items, plain and bounded.

    An entry without a title or a web address is left out. A date that is absent, cannot be read or is more than an
    hour ahead of `now` is none. Each fault is one sentence, however many entries have it.

    Args:
        document: as read.
        feed: whose it is.
        now: the moment asked at, UTC.
    """
    faults = _Faults(feed.name, len(document.entries))
    items = [
        item
        for place, entry in enumerate(document.entries, 1)
        if (item := _item(entry, feed, now, lambda what, shown="", place=place: faults.add(what, place, shown)))
    ]
    sentences = faults.sentences()
    if not document.is_whole:
        sentences.append(
            f"{feed.name}: the feed is cut short; the {len(document.entries)} entries before the cut are used."
        )
    if document.passed_over:
        sentences.append(f"{feed.name}: the feed holds {document.passed_over} entries more than are read at once.")
    return Delivery(items, sentences)


class _Faults:
    """Counts the faults of a feed's entries by kind."""

    def __init__(self, name: str, entries: int) -> None:
        self._name = name
        self._entries = entries
        self._found: dict[str, list[tuple[int, str]]] = defaultdict(list)

    def add(self, what: str, place: int, shown: str) -> None:
        self._found[what].append((place, shown))

    def sentences(self) -> list[str]:
        return [
            f"{self._name}: {len(found)} of {self._entries} entries {what}, the first is entry {found[0][0]}"
            f"{f' ({found[0][1]})' if found[0][1] else ''}."
            for what, found in self._found.items()
        ]


def _item(entry: DocumentEntry, feed: FeedEntry, now: datetime, complain: Callable[..., None]) -> Item | None:
    title, url = plain_title(entry.title), web_address(entry.link)
    if not title:
        complain("have no title and were left out")
        return None
    if not url:
        what = (
            "no link to a web page"
            if len(entry.link) <= MAX_ADDRESS_CHARACTERS
            else f"a link of more than {MAX_ADDRESS_CHARACTERS} characters"
        )
        complain(f"have {what} and were left out", repr(entry.link[:_SHOWN]))
        return None
    if is_taken_down(title, entry.summary):
        complain("were taken down and were left out")
        return None
    published, precision = published_at(entry.published)
    if entry.published and published is None:
        complain("have a date that cannot be read and is taken for none", repr(entry.published[:_SHOWN]))
    if published is not None and published > now + FUTURE:
        complain("have a date in the future, which is taken for none", f"{published:%Y-%m-%d %H:%M} UTC")
        published, precision = None, "none"
    return Item(
        kind="article",
        source=feed.name,
        guid=entry.guid if entry.guid.isprintable() and 0 < len(entry.guid) <= _LONGEST_GUID else url,
        url=url,
        title=title,
        summary=plain_summary(entry.summary),
        published_at=published,
        precision=precision,
        outlet=feed.outlet,
    )


def published_at(text: str) -> tuple[datetime | None, Precision]:
    """Read a date as feeds write it; one without a zone is UTC.

    Returns:
        The time, UTC, and how exactly it is given; None and "none" where it is absent or cannot be read for sure.
        Guessing could date an article before it was there.
    """
    written = read_time(text)
    return (written.at, written.precision) if written is not None else (None, "none")
