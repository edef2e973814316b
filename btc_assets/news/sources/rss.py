"""RSS and Atom feeds: the editable catalogue, and each of its feeds as a source of articles."""

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
from btc_assets.news.sources.feed_entries import Document, DocumentEntry, FeedError, read_in_subprocess
from btc_assets.news.sources.protocol import Delivery, Item, Kind
from btc_assets.news.taken_down import is_taken_down
from btc_assets.settings import SettingsError
from btc_assets.transport import Limits, SourceMalformedError, Transport

LAG = timedelta(minutes=30)
"""From publication to availability of an article that was not seen live."""
MAX_AHEAD = timedelta(hours=1)
"""How far a publisher's clock may be ahead of ours; later dates count as missing."""
FEED_BYTES = 10 * 1024 * 1024
MAX_REDIRECTS = 5
TOTAL_S = 60.0
"""Seconds that fetching one feed may take, including retries: the slowest feed delays all others."""
MAX_RHYTHM_HOURS = 24 * 90

_MAX_ATTEMPTS = 3
_MAX_WAIT_S = 20.0
_MAX_GUID_CHARACTERS = 500
_PREVIEW_CHARACTERS = 40
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
        rhythm: longest normal silence.
    """

    name: str
    url: str
    outlet: str
    rhythm: timedelta


def read_catalogue(path: Path) -> tuple[FeedEntry, ...]:
    """Read the feed catalogue, a TOML file of `[[feed]]` tables with name, url, outlet and rhythm_hours.

    Raises:
        SettingsError: the file cannot be read or is invalid; the message names the feed and the problem.
    """
    try:
        content = tomllib.loads(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
        raise _catalogue_error(path, f"it cannot be read: {error}") from error
    unknown = sorted(set(content) - {"feed"})
    if unknown:
        raise _catalogue_error(path, f"{unknown[0]!r} is unknown; expected only [[feed]] tables")
    tables = content.get("feed", [])
    if not isinstance(tables, list) or not tables:
        raise _catalogue_error(path, "it has no feed; expected one [[feed]] table per feed")
    feeds: list[FeedEntry] = []
    for number, table in enumerate(tables, 1):
        feed = _parse_feed(path, number, table)
        for other in feeds:
            if feed.name == other.name:
                raise _catalogue_error(path, f"feed {number} has the name {feed.name!r} of another feed; rename one")
            if feed.url == other.url:
                raise _catalogue_error(path, f"feed {number} ({feed.name}) has the url of {other.name!r}; remove one")
        feeds.append(feed)
    return tuple(feeds)


def _parse_feed(path: Path, number: int, table: Any) -> FeedEntry:
    if not isinstance(table, dict):
        raise _catalogue_error(path, f"feed {number} is {table!r}; expected a [[feed]] table")
    label = f"feed {number} ({table['name']})" if isinstance(table.get("name"), str) else f"feed {number}"
    for unknown in sorted(set(table) - set(_FIELDS)):
        raise _catalogue_error(path, f"{label} has an unknown key {unknown!r}; expected {', '.join(_FIELDS)}")
    for missing in (field for field in _FIELDS if field not in table):
        raise _catalogue_error(path, f"{label} has no {missing!r}; expected {', '.join(_FIELDS)}")
    name, url, outlet, rhythm = (table[field] for field in _FIELDS)
    if not isinstance(name, str) or not _NAME.match(name):
        raise _catalogue_error(
            path, f"{label} has the name {name!r}; expected up to 40 lower-case letters, digits and _"
        )
    if not isinstance(url, str) or not web_address(url):
        raise _catalogue_error(
            path, f"{label} has the url {url!r}; expected an http or https address without credentials"
        )
    if not isinstance(outlet, str) or not _DOMAIN.match(outlet):
        raise _catalogue_error(path, f"{label} has the outlet {outlet!r}; expected a domain such as 'example.com'")
    is_number = isinstance(rhythm, (int, float)) and not isinstance(rhythm, bool)
    if not is_number or not 0 < rhythm <= MAX_RHYTHM_HOURS:
        raise _catalogue_error(
            path, f"{label} has rhythm_hours {rhythm!r}; expected hours above 0, at most {MAX_RHYTHM_HOURS}"
        )
    return FeedEntry(name, web_address(url), outlet, timedelta(hours=rhythm))


def _catalogue_error(path: Path, problem: str) -> SettingsError:
    return SettingsError(f"The feed catalogue {path}: {problem}. Correct it or set BTC_NEWS_FEEDS to another file.")


# --- the source ------------------------------------------------------------------------------------------
class Feed:
    """Articles of one feed, which holds only its latest articles for any requested span.

    Args:
        entry: the feed's entry in the catalogue.
        limits: limits of its transport; see `feed_limits`.
        cache: SQLite file of HTTP validators and responses; feeds and processes may share it.
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
            base, limits, cache=cache, remedy="correct its address in the catalogue (BTC_NEWS_FEEDS) or remove it"
        )

    def fetch(self, first: datetime, last: datetime, now: datetime) -> Delivery:
        """Return the feed's articles, none if it reports no change; see `TextSource.fetch`.

        Raises:
            SourceError: the feed did not answer, or its response is not a feed.
        """
        # Each span has its own cache entry, because a fetch for other days filed its articles only under those days.
        purpose = f"{first:%Y-%m-%dT%H:%M}/{last:%Y-%m-%dT%H:%M}"
        body = self._api.content_if_changed(self._path, purpose)
        if body is None:
            return Delivery([], unchanged=True)
        try:
            document = read_in_subprocess(body, self._entry.url)
        except FeedError as fault:
            self._api.forget(self._path, purpose)
            raise SourceMalformedError(
                f"{self.name}: expected a feed at {self._entry.url.partition('?')[0]}, but {fault}. None of its "
                f"articles was stored; if this persists, correct its address in the catalogue (BTC_NEWS_FEEDS) or "
                f"remove it."
            ) from fault
        if not document.is_complete:
            self._api.forget(self._path, purpose)
        return delivery_of(document, self._entry, now)


def feed_limits(limits: Limits) -> Limits:
    """Return transport limits for feeds: the given limits, tightened for arbitrary external addresses."""
    return replace(
        limits,
        attempts=min(limits.attempts, _MAX_ATTEMPTS),
        max_wait_s=min(limits.max_wait_s, _MAX_WAIT_S),
        body_bytes=FEED_BYTES,
        redirects=MAX_REDIRECTS,
        total_s=TOTAL_S,
    )


def feeds_of(catalogue: Path, limits: Limits, cache: Path | None) -> tuple[Feed, ...]:
    """Build the sources of a catalogue; nothing is fetched yet.

    Raises:
        SettingsError: as `read_catalogue` does.
    """
    limits = feed_limits(limits)
    return tuple(Feed(entry, limits, cache) for entry in read_catalogue(catalogue))


# --- converting a document to items ------------------------------------------------------------------------
def delivery_of(document: Document, feed: FeedEntry, now: datetime) -> Delivery:
    """Convert a parsed feed to plain items of bounded length.

    An entry without a title or a web address is left out. A date that is unreadable or more than an hour ahead of
    `now` counts as missing. Each kind of fault is reported in one sentence.

    Args:
        document: the parsed feed.
        feed: its entry in the catalogue.
        now: the time of the request, UTC.
    """
    faults = _Faults(feed.name, len(document.entries))
    items = [
        item
        for number, entry in enumerate(document.entries, 1)
        if (item := _item(entry, feed, now, lambda kind, value="", number=number: faults.add(kind, number, value)))
    ]
    sentences = faults.sentences()
    if not document.is_complete:
        sentences.append(f"{feed.name}: the feed is truncated; its {len(document.entries)} complete entries are used.")
    if document.skipped:
        sentences.append(f"{feed.name}: the feed has too many entries; {document.skipped} were not read.")
    return Delivery(items, sentences)


class _Faults:
    """Counts the faults of a feed's entries by kind."""

    def __init__(self, name: str, entries: int) -> None:
        self._name = name
        self._entries = entries
        self._by_kind: dict[str, list[tuple[int, str]]] = defaultdict(list)

    def add(self, kind: str, number: int, value: str) -> None:
        self._by_kind[kind].append((number, value))

    def sentences(self) -> list[str]:
        return [
            f"{self._name}: {len(faults)} of {self._entries} entries {kind}, the first is entry {faults[0][0]}"
            f"{f' ({faults[0][1]})' if faults[0][1] else ''}."
            for kind, faults in self._by_kind.items()
        ]


def _item(entry: DocumentEntry, feed: FeedEntry, now: datetime, report: Callable[..., None]) -> Item | None:
    title, url = plain_title(entry.title), web_address(entry.link)
    if not title:
        report("have no title and were left out")
        return None
    if not url:
        is_too_long = len(entry.link) > MAX_ADDRESS_CHARACTERS
        problem = f"a link of more than {MAX_ADDRESS_CHARACTERS} characters" if is_too_long else "no valid link"
        report(f"have {problem} and were left out", repr(entry.link[:_PREVIEW_CHARACTERS]))
        return None
    if is_taken_down(title, entry.summary):
        report("were taken down and were left out")
        return None
    published, precision = published_at(entry.published)
    if entry.published and published is None:
        report("have an unreadable date, which counts as missing", repr(entry.published[:_PREVIEW_CHARACTERS]))
    if published is not None and published > now + MAX_AHEAD:
        report("have a date in the future, which counts as missing", f"{published:%Y-%m-%d %H:%M} UTC")
        published, precision = None, "none"
    return Item(
        kind="article",
        source=feed.name,
        guid=entry.guid if entry.guid.isprintable() and 0 < len(entry.guid) <= _MAX_GUID_CHARACTERS else url,
        url=url,
        title=title,
        summary=plain_summary(entry.summary),
        published_at=published,
        precision=precision,
        outlet=feed.outlet,
    )


def published_at(text: str) -> tuple[datetime | None, Precision]:
    """Parse the date of a feed entry; a date without a zone is UTC.

    Returns:
        The time, UTC, and its precision; None and "none" if it is missing or ambiguous, because a guess could date an
        article before it existed.
    """
    written = read_time(text)
    return (written.at, written.precision) if written is not None else (None, "none")
