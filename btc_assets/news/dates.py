"""Parse publication times in every unambiguous spelling; reject times that would need a guess.

Accepted are RFC 822, 2822, 5322, 3339 and 9557, ISO 8601, asctime, and common deviations in feeds: full month names,
AM and PM, `GMT+2`, `+05`, missing seconds, a missing or wrong weekday, `24:00`, leap seconds, typographic minus signs.
Rejected are numeric days next to numeric months (`03/04/2025`), ambiguous zone names and contradictions.

Existing libraries guess: `email.utils` ignores what it does not know, including PM and an offset with a colon, and
`dateutil` reads an unknown zone as local time and picks any month that fits.
"""

from __future__ import annotations

import re
import unicodedata
from dataclasses import dataclass
from datetime import UTC, date, datetime, time, timedelta
from typing import Literal

Precision = Literal["second", "minute", "day", "none"]

MAX_CHARACTERS = 80
"""A longer text is not parsed."""

_MONTHS = ("JAN", "FEB", "MAR", "APR", "MAY", "JUN", "JUL", "AUG", "SEP", "OCT", "NOV", "DEC")
_FULL_MONTHS = (
    "JANUARY", "FEBRUARY", "MARCH", "APRIL", "MAY", "JUNE", "JULY", "AUGUST", "SEPTEMBER", "OCTOBER", "NOVEMBER",
    "DECEMBER",
)  # fmt: skip
_MONTH_NUMBERS = {"SEPT": 9} | {
    name: number for names in (_MONTHS, _FULL_MONTHS) for number, name in enumerate(names, 1)
}
_ZONES_H = {
    "Z": 0, "UTC": 0, "UT": 0, "GMT": 0,
    "EST": -5, "EDT": -4, "CST": -6, "CDT": -5, "MST": -7, "MDT": -6, "PST": -8, "PDT": -7, "AST": -4, "ADT": -3,
}  # fmt: skip
"""Zones that RFC 822 defines, and the Atlantic ones, in hours ahead of UTC.

Military letters are excluded: RFC 822 printed their signs the wrong way round, so RFC 5322 leaves them undefined.
"""
_UNIVERSAL = ("UTC", "UT", "GMT")
"""Zone names that an offset may follow."""
_MINUS = re.compile("[\u2010-\u2015\u2212\ufe58\ufe63\uff0d]")
_COMMENT = re.compile(r"\([^()]*\)")
_LOOSE_COLON = re.compile(r"(?<=\d) ?: ?(?=\d)")
_REGION = re.compile(r"\[[\w/+-]+\]$")

_WEEKDAY = r"(?:(?:MON|TUES?|WED(?:NES)?|THU(?:RS?)?|FRI|SAT(?:UR)?|SUN)(?:DAY)?\.?(?: ?, ?| ))?"
_MONTH = rf"(?P<month>{'|'.join(sorted(_MONTH_NUMBERS, key=len, reverse=True))})\.?"
_DAY = r"(?P<day>\d{1,2})"
_NTH = rf"{_DAY}(?:ST|ND|RD|TH)?"
_CLOCK = (
    r"(?P<hour>\d{1,2})(?::(?P<minute>\d{2})(?::(?P<second>\d{2})(?:[.,](?P<fraction>\d+))?)?)?"
    r"(?: ?(?P<meridiem>[AP])\.?M\.?(?![A-Z]))?"
)
_PLAIN_CLOCK = r"(?P<hour>\d{2})(?:(?P<minute>\d{2})(?:(?P<second>\d{2})(?:[.,](?P<fraction>\d+))?)?)?"
_OFFSET = r"(?P<sign>[+-])(?P<ahead>\d{1,2}:\d{2}|\d{1,4})"
_ZONE = rf"(?: ?(?P<name>[A-Z]{{1,5}}))?(?: ?{_OFFSET}(?: ?(?P<zone_after>[A-Z]{{1,5}}))?)?"
_AT = r"(?:, ?| | - |,? AT )"

_FORMS = tuple(
    re.compile(form, re.ASCII)
    for form in (
        # ISO 8601 and similar: 2025-05-02T07:04:57+02:00, 2025/5/2 05:04 UTC
        (
            rf"{_WEEKDAY}(?P<year>\d{{4}})(?P<separator>[-/.])(?P<month>\d{{1,2}})(?P=separator){_DAY}"
            rf"(?:(?:T|_| T?){_CLOCK})?{_ZONE}"
        ),
        rf"(?P<year>\d{{4}})(?P<month>\d{{2}})(?P<day>\d{{2}})T{_PLAIN_CLOCK}{_ZONE}",
        rf"(?P<year>\d{{4}})-(?P<month>\d{{2}})-(?P<day>\d{{2}})T{_PLAIN_CLOCK}{_ZONE}",
        (
            rf"(?P<year>\d{{4}})-?(?:W(?P<week>\d{{2}})-?(?P<weekday>[1-7])|(?P<ordinal>\d{{3}}))"
            rf"(?:T{_CLOCK}{_ZONE})?"
        ),
        # RFC 822 and its successors: Fri, 02 May 2025 05:04:57 -0000, 2-May-25 5:04 AM EST
        rf"{_WEEKDAY}{_NTH}(?: |-|/|\. ?| OF )?{_MONTH}(?:, ?| |-|/)?(?P<year>\d{{2,4}})(?:{_AT}{_CLOCK})?{_ZONE}",
        # May 2nd, 2025 at 5:04 a.m. EST, Fri May 02 2025 05:04:57 GMT+0200
        rf"{_WEEKDAY}{_MONTH} ?{_NTH}(?:, ?| )(?P<year>\d{{4}})(?:{_AT}{_CLOCK})?{_ZONE}",
        # asctime, date(1) and Twitter: Fri May  2 05:04:57 UTC 2025
        rf"{_WEEKDAY}{_MONTH} {_DAY} {_CLOCK}{_ZONE} (?P<year>\d{{4}})",
    )
)


@dataclass(frozen=True)
class WrittenTime:
    """A parsed time.

    Attributes:
        at: the moment, UTC; the start of a day without a time or of an hour without minutes.
        precision: second, minute or day; an hour without minutes counts as day.
        has_zone: whether the text names a zone; otherwise `at` assumes UTC.
    """

    at: datetime
    precision: Precision
    has_zone: bool


def read_time(text: str) -> WrittenTime | None:
    """Parse a time; None if the text is not a time, is ambiguous or lies before 1971.

    A weekday that does not match the date is ignored. Fractions of a second keep six digits. Two- and three-digit
    years follow RFC 5322: 00 to 49 mean 2000 to 2049, all others count from 1900. A date without a time is a UTC day;
    a date with another zone is rejected, because that day may end later.
    """
    if len(text) > 4 * MAX_CHARACTERS:
        return None
    plain = _MINUS.sub("-", unicodedata.normalize("NFKC", text).upper())
    comments = 1
    while comments:
        plain, comments = _COMMENT.subn(" ", plain)
    plain = _LOOSE_COLON.sub(":", " ".join(plain.split()))
    if len(plain) > MAX_CHARACTERS:
        return None
    region = _REGION.search(plain)
    plain = _REGION.sub("", plain)
    for form in _FORMS:
        if match := form.fullmatch(plain):
            try:
                written = _written_time(match.groupdict())
            except (ValueError, OverflowError):
                return None
            if written is None or (region and not written.has_zone):
                return None  # a region alone has no fixed offset
            return written if written.at.year > 1970 else None
    return None


def _written_time(parts: dict[str, str | None]) -> WrittenTime | None:
    """Build a time from its parsed parts; None if they are ambiguous or contradict each other.

    Raises:
        ValueError: the day or clock time does not exist.
        OverflowError: the moment is outside the supported calendar.
    """
    zone = _zone(parts)
    if zone is None:
        return None
    ahead, has_zone = zone
    day = _day(parts)
    if parts.get("hour") is None:
        return WrittenTime(datetime.combine(day, time(), UTC), "day", has_zone) if not ahead else None
    minute, second, meridiem = parts.get("minute"), parts.get("second"), parts.get("meridiem")
    hour = int(parts["hour"] or 0)
    if meridiem is not None:
        if not 1 <= hour <= 12:
            return None
        hour = hour % 12 + (12 if meridiem == "P" else 0)
    clock = (hour, int(minute or 0), int(second or 0))
    micros = int((parts.get("fraction") or "0")[:6].ljust(6, "0"))
    ends_day, leaps = clock == (24, 0, 0) and not micros, clock[2] == 60
    start = time(0 if ends_day else clock[0], clock[1], 59 if leaps else clock[2], tzinfo=UTC)
    at = datetime.combine(day, start) - ahead + timedelta(days=int(ends_day))
    if leaps:
        if (at.hour, at.minute) != (23, 59):
            return None  # leap seconds occur only at the end of a UTC day
        at, micros = at + timedelta(seconds=1), 0
    precision: Precision = "second" if second else "minute" if minute else "day"
    return WrittenTime(at.replace(microsecond=micros), precision, has_zone)


def _day(parts: dict[str, str | None]) -> date:
    written = parts["year"] or ""
    year = int(written)
    if len(written) < 4:
        year += 2000 if len(written) == 2 and year < 50 else 1900
    if week := parts.get("week"):
        return date.fromisocalendar(year, int(week), int(parts["weekday"] or 0))
    if ordinal := parts.get("ordinal"):
        day = date(year, 1, 1) + timedelta(days=int(ordinal) - 1)
        if day.year != year:
            raise ValueError("the year has no such day")
        return day
    month = parts["month"] or ""
    return date(year, _MONTH_NUMBERS.get(month) or int(month), int(parts["day"] or 0))


def _zone(parts: dict[str, str | None]) -> tuple[timedelta, bool] | None:
    """Return a zone's offset ahead of UTC and whether a zone is named; None for an unknown or contradictory zone."""
    names = [name for name in (parts.get("name"), parts.get("zone_after")) if name]
    if any(name not in _ZONES_H for name in names):
        return None
    offsets = [timedelta(hours=_ZONES_H[name]) for name in names]
    if offset := parts.get("ahead"):
        hours, minutes = offset.split(":") if ":" in offset else (offset[:-2] or "0", offset[-2:])
        if len(offset) <= 2:
            hours, minutes = offset, "0"
        ahead = timedelta(hours=int(hours), minutes=int(minutes))
        if int(minutes) >= 60 or ahead >= timedelta(days=1):
            return None
        # GMT+2 is two hours ahead of GMT; EST+2 or +0200 EST would be a contradiction.
        offsets = [ahead if parts.get("sign") == "+" else -ahead] + [
            timedelta(hours=_ZONES_H[name]) for name in names if not (name in _UNIVERSAL and name == parts.get("name"))
        ]
    if len(set(offsets)) > 1:
        return None
    return (offsets[0] if offsets else timedelta()), bool(offsets)
