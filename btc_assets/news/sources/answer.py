"""From a service's JSON to items: an entry that cannot be one is left out and named, a wrong answer is refused."""

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
"""How far a service's clock may be ahead of ours before a date counts as one from the future, and as no date."""

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_EPOCHS = ((10**11, 10**9), (10**14, 10**6), (10**17, 10**3), (10**20, 1))
"""Below which a number is a time in s, ms, µs and ns, and how many ns its unit has."""
_LONGEST_ID = 200
_SHOWN = 60


class EntryError(ValueError):
    """One entry of an answer cannot become an item.

    Args:
        what: the end of a sentence that begins with `entries`; the same for all that have the same fault.
        value: what stands there.
    """

    def __init__(self, what: str, value: Any) -> None:
        super().__init__(f"entries {what}: {shown(value)}")
        self.what = what
        self.shown = shown(value)


class Entry:
    """One object of an answer, every value read strictly.

    Args:
        fields: as parsed; anything may be absent, null or of another type.
        now: the moment asked at, UTC; a date after it is none.
    """

    def __init__(self, fields: Mapping[str, Any], now: datetime) -> None:
        self._fields = fields
        self._now = now

    def value(self, name: str) -> Any:
        """Return a value as it came; None where it is absent."""
        return self._fields.get(name)

    def has(self, name: str) -> bool:
        """Tell whether a value is there and says something."""
        return bool(self._fields.get(name))

    def title(self, name: str) -> str:
        """Read a title and make it plain.

        Raises:
            EntryError: it is absent, no text, or nothing of it can be read.
        """
        if not (title := plain_title(self.text(name))):
            raise EntryError(f"have no {name} that can be read", self._fields.get(name))
        return title

    def text(self, name: str) -> str:
        """Read a text as it came; empty where it is absent.

        Raises:
            EntryError: there is something else in its place.
        """
        value = self._fields.get(name)
        if value is None:
            return ""
        if not isinstance(value, str):
            raise EntryError(f"have something else than a text in {name}", value)
        return value

    def identifier(self, *names: str, otherwise: str = "") -> str:
        """Read the first of several names that holds an id, a short text or a whole number.

        Args:
            names: where it may be.
            otherwise: what names the entry where none does.

        Raises:
            EntryError: nothing names the entry.
        """
        for name in names:
            value = self._fields.get(name)
            if isinstance(value, int) and not isinstance(value, bool):
                return str(value)[:_LONGEST_ID]
            if isinstance(value, str) and 0 < len(value.strip()) <= _LONGEST_ID:
                return value.strip()
        if not otherwise:
            raise EntryError(f"have no {' or '.join(names)} that could be their id", self._fields.get(names[0]))
        return otherwise

    def count(self, name: str) -> int | None:
        """Read a whole number; None where it is absent or something else."""
        value = self._fields.get(name)
        if isinstance(value, bool) or not isinstance(value, (int, float)):
            return None
        return int(value) if abs(value) < 2**63 else None

    def url(self, *names: str) -> str:
        """Return the first of several names that holds an http or https address; empty where none does."""
        told = (self._fields.get(name) for name in names)
        return next((url for value in told if isinstance(value, str) and (url := web_address(value))), "")

    def inner(self, name: str) -> Entry:
        """Return an object inside this one; where there is none, one without fields."""
        value = self._fields.get(name)
        return Entry(value if isinstance(value, Mapping) else {}, self._now)

    def time(self, name: str) -> tuple[datetime | None, Precision]:
        """Read a time and how exactly it is given; None and "none" where it is no time or in the future."""
        written = told_time(self._fields.get(name))
        if written is None or self.past(written.at) is None:
            return None, "none"
        return written.at, written.precision

    def past(self, at: datetime | None) -> datetime | None:
        """Return a time unless it is in the future, by more than clocks differ."""
        return at if at is not None and at <= self._now + CLOCK_SKEW else None


def items_of(
    source: str, entries: Sequence[Any], now: datetime, read: Callable[[Entry], Item | None]
) -> tuple[list[Item], list[str]]:
    """Turn the entries of an answer into items.

    Args:
        source: whose they are, for the sentences.
        entries: as parsed.
        now: the moment asked at, UTC.
        read: how an entry becomes an item; it returns None for one that is not wanted, and raises EntryError.

    Returns:
        The items, in order, and one sentence about each fault for which entries were left out.
    """
    items: list[Item] = []
    faults: dict[str, list[str]] = {}
    for place, fields in enumerate(entries, 1):
        try:
            if not isinstance(fields, Mapping):
                raise EntryError("are no objects", fields)
            item = read(Entry(fields, now))
            if item is not None and is_taken_down(item.title, item.summary):
                raise EntryError("were taken down", item.title)
        except EntryError as fault:
            faults.setdefault(fault.what, []).append(f"entry {place}: {fault.shown}")
        else:
            if item is not None:
                items.append(item)
    return items, [
        f"{source}: {len(found)} of {len(entries)} entries {what} and were left out, the first is {found[0]}."
        for what, found in faults.items()
    ]


def list_in(source: str, answer: Any, *path: str) -> list[Any]:
    """Return the list at a place of an answer.

    Raises:
        SourceMalformedError: there is none; the message tells names of the answer, never its values.
    """
    value = answer
    for name in path:
        value = value.get(name) if isinstance(value, Mapping) else None
    if not isinstance(value, list):
        raise SourceMalformedError(
            f"{source}: expected a list of entries in {'.'.join(path)!r}, got {shown(answer)}. Nothing was stored; if "
            f"it stays so, the service has changed its answers."
        )
    return value


def once(entries: Sequence[Any], name: str) -> list[Any]:
    """Return the entries in order, those with an id that came before left out; pages of a moving list overlap."""
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


def told_time(value: Any) -> WrittenTime | None:
    """Read a time as JSON holds it: since 1970 in s, ms, µs or ns, by its size, or written with its zone.

    None where it is none, or names no zone.
    """
    if isinstance(value, str):
        try:
            value = int(value) if value.strip().isdecimal() else float(value)
        except ValueError:
            written = read_time(value)
            return written if written is not None and written.has_zone else None
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        return None
    for most, unit_ns in _EPOCHS:
        if 0 < value < most:
            at = _EPOCH + timedelta(microseconds=round(Fraction(value) * unit_ns / 1_000))
            return WrittenTime(at, "second", has_zone=True) if at.year > 1970 else None
    return None


def shown(value: Any) -> str:
    """Return a value as a message may show it: short, and without anything that acts on a terminal."""
    if isinstance(value, Mapping):
        return f"an object with {', '.join(repr(str(key)[:20]) for key in list(value)[:5]) or 'nothing'}"
    if isinstance(value, list):
        return f"a list of {len(value)}"
    return repr(value[:_SHOWN] if isinstance(value, str) else value)[:_SHOWN]


def hidden(text: str, secret: str) -> str:
    """Return a text without a secret, as it is or as an address spells it."""
    for spelt in {secret, quote(secret, safe=""), quote_plus(secret)} - {""}:
        text = text.replace(spelt, "***")
    return text


@contextmanager
def without(secret: str) -> Iterator[None]:
    """Take a secret out of every error raised within: a service may tell it back, and so may a library."""
    try:
        yield
    except SourceError as error:
        raise type(error)(hidden(str(error), secret)) from None


def is_seen_now(published: datetime | None, lag: timedelta, last: datetime, now: datetime) -> bool:
    """Tell whether a text becomes available now, as the newest of the running day do.

    Votes and comments that are counted now are known now, and say nothing of the day on which an older text was seen.
    """
    return now < last and (published is None or published + lag >= midnight(now.astimezone(UTC).date()))


def shortfall(
    source: str, oldest: datetime | None, first: datetime, last: datetime, now: datetime, remedy: str
) -> list[str]:
    """Say what is missing where a list of the newest entries ended before it reached a span that is over.

    The running span is never said to lack anything: what was listed earlier was gathered earlier.

    Args:
        source: whose list it is.
        oldest: its last entry's time, UTC; None where the list is empty.
        first: start of the span asked for, UTC.
        last: its end, UTC, exclusive.
        now: the moment asked at, UTC.
        remedy: where older days can be had, a sentence.

    Returns:
        One sentence, or none where the list reaches back to `first`.

    Raises:
        SourceRefusedError: the list holds nothing of the span.
    """
    if last > now or (oldest is not None and oldest <= first):
        return []
    reach = f"{oldest:%Y-%m-%d %H:%M} UTC" if oldest is not None else "no entry at all"
    if oldest is None or oldest >= last:
        raise SourceRefusedError(
            f"{source} lists only its newest entries, back to {reach}, and {first:%Y-%m-%d %H:%M} to "
            f"{last:%Y-%m-%d %H:%M} UTC was asked for. {remedy}"
        )
    return [f"{source}: its list goes back to {reach} only; what came before is missing. {remedy}"]
