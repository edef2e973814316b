"""Parse a service's JSON into items: invalid entries are left out and reported, an invalid response is refused."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from fractions import Fraction
from typing import Any
from urllib.parse import quote, quote_plus

from btc_assets.clock import midnight
from btc_assets.news.addresses import web_address
from btc_assets.news.dates import Precision, WrittenTime, read_time
from btc_assets.news.plain_text import plain_title
from btc_assets.news.sources.protocol import Item
from btc_assets.news.taken_down import is_taken_down
from btc_assets.transport import SourceError, SourceMalformedError, SourceRefusedError

CLOCK_SKEW = timedelta(minutes=5)
"""How far a service's clock may be ahead of ours; later dates are in the future and count as missing."""

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_EPOCHS = ((10**11, 10**9), (10**14, 10**6), (10**17, 10**3), (10**20, 1))
"""Upper limits of epoch times in s, ms, µs and ns, with the unit's size in ns."""
_MAX_ID_CHARACTERS = 200
_PREVIEW_CHARACTERS = 60


class EntryError(ValueError):
    """One entry of a response cannot become an item.

    Args:
        reason: completes a sentence that begins with `entries`; equal for all entries with the same fault.
        value: the invalid value.
    """

    def __init__(self, reason: str, value: Any) -> None:
        super().__init__(f"entries {reason}: {preview(value)}")
        self.reason = reason
        self.preview = preview(value)


class Entry:
    """One object of a response with strict access to its values.

    Args:
        fields: parsed JSON; any field may be missing, null or of another type.
        now: the time of the request, UTC; a later date counts as missing.
    """

    def __init__(self, fields: Mapping[str, Any], now: datetime) -> None:
        self._fields = fields
        self._now = now

    def value(self, name: str) -> Any:
        """Return a raw value; None if it is missing."""
        return self._fields.get(name)

    def has(self, name: str) -> bool:
        """Return whether a value is present and not empty, zero or false."""
        return bool(self._fields.get(name))

    def title(self, name: str) -> str:
        """Return a title as plain text.

        Raises:
            EntryError: the title is missing, is not text or has no readable character.
        """
        if not (title := plain_title(self.text(name))):
            raise EntryError(f"have no readable {name}", self._fields.get(name))
        return title

    def text(self, name: str) -> str:
        """Return a raw text; empty if it is missing.

        Raises:
            EntryError: the value is not text.
        """
        value = self._fields.get(name)
        if value is None:
            return ""
        if not isinstance(value, str):
            raise EntryError(f"have a {name} that is not text", value)
        return value

    def identifier(self, *names: str, default: str = "") -> str:
        """Return the first valid id among several fields: a short text or an integer.

        Args:
            names: fields that may hold the id.
            default: id to use if none of the fields holds one.

        Raises:
            EntryError: there is neither an id nor a default.
        """
        for name in names:
            value = self._fields.get(name)
            if isinstance(value, int) and not isinstance(value, bool):
                return str(value)[:_MAX_ID_CHARACTERS]
            if isinstance(value, str) and 0 < len(value.strip()) <= _MAX_ID_CHARACTERS:
                return value.strip()
        if not default:
            raise EntryError(f"have no valid id in {' or '.join(names)}", self._fields.get(names[0]))
        return default

    def count(self, name: str) -> int | None:
        """Return a number as an integer; None if it is missing, not a number or too large."""
        value = self._fields.get(name)
        if isinstance(value, bool) or not isinstance(value, (int, float)):
            return None
        return int(value) if abs(value) < 2**63 else None

    def url(self, *names: str) -> str:
        """Return the first valid http or https address among several fields; empty if there is none."""
        values = (self._fields.get(name) for name in names)
        return next((url for value in values if isinstance(value, str) and (url := web_address(value))), "")

    def nested(self, name: str) -> Entry:
        """Return a nested object; an entry without fields if there is none."""
        value = self._fields.get(name)
        return Entry(value if isinstance(value, Mapping) else {}, self._now)

    def time(self, name: str) -> tuple[datetime | None, Precision]:
        """Return a time and its precision; None and "none" if it is not a time or in the future."""
        written = parse_time(self._fields.get(name))
        if written is None or self.unless_future(written.at) is None:
            return None, "none"
        return written.at, written.precision

    def unless_future(self, at: datetime | None) -> datetime | None:
        """Return a time; None if it is missing or in the future by more than CLOCK_SKEW."""
        return at if at is not None and at <= self._now + CLOCK_SKEW else None


def parse_items(
    source: str, entries: Sequence[Any], now: datetime, read: Callable[[Entry], Item | None]
) -> tuple[list[Item], list[str]]:
    """Convert the entries of a response to items.

    Args:
        source: name of the source, for the messages.
        entries: parsed JSON.
        now: the time of the request, UTC.
        read: converts an entry to an item; returns None for an unwanted entry and raises EntryError for an invalid one.

    Returns:
        The items, in order, and one sentence per reason for which entries were left out.
    """
    items: list[Item] = []
    faults: dict[str, list[str]] = {}
    for number, fields in enumerate(entries, 1):
        try:
            if not isinstance(fields, Mapping):
                raise EntryError("are not objects", fields)
            item = read(Entry(fields, now))
            if item is not None and is_taken_down(item.title, item.summary):
                raise EntryError("were taken down", item.title)
        except EntryError as fault:
            faults.setdefault(fault.reason, []).append(f"entry {number}: {fault.preview}")
        else:
            if item is not None:
                items.append(item)
    return items, [
        f"{source}: {len(examples)} of {len(entries)} entries {reason} and were left out, the first is {examples[0]}."
        for reason, examples in faults.items()
    ]


def list_at(source: str, answer: Any, *path: str) -> list[Any]:
    """Return the list at a path of a response.

    Raises:
        SourceMalformedError: there is no list; the message shows field names of the response, never values.
    """
    value = answer
    for name in path:
        value = value.get(name) if isinstance(value, Mapping) else None
    if not isinstance(value, list):
        raise SourceMalformedError(
            f"{source}: expected a list of entries in {'.'.join(path)!r}, got {preview(answer)}. Nothing was stored; "
            f"if this persists, the service has changed its response format."
        )
    return value


def drop_repeats(entries: Sequence[Any], name: str) -> list[Any]:
    """Return the entries in order without repeated ids; pages of a changing list overlap."""
    seen: set[Any] = set()
    kept: list[Any] = []
    for fields in entries:
        key = fields.get(name) if isinstance(fields, Mapping) else None
        if isinstance(key, (str, int)):
            if key in seen:
                continue
            seen.add(key)
        kept.append(fields)
    return kept


def parse_time(value: Any) -> WrittenTime | None:
    """Parse a JSON time: an epoch in s, ms, µs or ns, distinguished by its size, or a text with a zone.

    Returns:
        The time; None if the value is not a time or has no zone.
    """
    if isinstance(value, str):
        try:
            value = int(value) if value.strip().isdecimal() else float(value)
        except ValueError:
            written = read_time(value)
            return written if written is not None and written.has_zone else None
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        return None
    for limit, unit_ns in _EPOCHS:
        if 0 < value < limit:
            at = _EPOCH + timedelta(microseconds=round(Fraction(value) * unit_ns / 1_000))
            return WrittenTime(at, "second", has_zone=True) if at.year > 1970 else None
    return None


def preview(value: Any) -> str:
    """Return a short representation of a value for messages, without terminal control characters."""
    if isinstance(value, Mapping):
        return f"an object with {', '.join(repr(str(key)[:20]) for key in list(value)[:5]) or 'nothing'}"
    if isinstance(value, list):
        return f"a list of {len(value)}"
    return repr(value[:_PREVIEW_CHARACTERS] if isinstance(value, str) else value)[:_PREVIEW_CHARACTERS]


def redact(text: str, secret: str) -> str:
    """Replace a secret in a text, plain or percent-encoded, by `***`."""
    for spelling in {secret, quote(secret, safe=""), quote_plus(secret)} - {""}:
        text = text.replace(spelling, "***")
    return text


@contextmanager
def redacting(secret: str) -> Iterator[None]:
    """Remove a secret from every SourceError raised in the block: services and libraries may repeat it."""
    try:
        yield
    except SourceError as error:
        raise type(error)(redact(str(error), secret)) from None


def is_seen_now(published: datetime | None, lag: timedelta, last: datetime, now: datetime) -> bool:
    """Return whether a text becomes available now, as current texts of the running day do.

    Votes and comments are current counts; they were not known on the past day on which an older text became available.
    """
    return now < last and (published is None or published + lag >= midnight(now.astimezone(UTC).date()))


def missing_history(
    source: str, oldest: datetime | None, first: datetime, last: datetime, now: datetime, remedy: str
) -> list[str]:
    """Describe what is missing if a list of the latest entries does not reach back to the start of a past span.

    The running span never lacks entries: earlier runs have fetched the earlier ones.

    Args:
        source: name of the list.
        oldest: time of its oldest entry, UTC; None if the list is empty.
        first: start of the requested span, UTC.
        last: its end, UTC, exclusive.
        now: the time of the request, UTC.
        remedy: where to get older days, a sentence.

    Returns:
        One sentence, or none if the list reaches back to `first`.

    Raises:
        SourceRefusedError: the list has no entry of the span.
    """
    if last > now or (oldest is not None and oldest <= first):
        return []
    reach = f"{oldest:%Y-%m-%d %H:%M} UTC" if oldest is not None else "no entry at all"
    if oldest is None or oldest >= last:
        raise SourceRefusedError(
            f"{source} lists only its latest entries, back to {reach}; the requested span is {first:%Y-%m-%d %H:%M} to "
            f"{last:%Y-%m-%d %H:%M} UTC. {remedy}"
        )
    return [f"{source}: its list goes back only to {reach}; earlier entries are missing. {remedy}"]
