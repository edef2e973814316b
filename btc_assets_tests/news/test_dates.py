"""Unambiguous times are parsed; all others are rejected."""

from __future__ import annotations

import calendar
from collections.abc import Callable
from datetime import UTC, datetime, timedelta, timezone
from email.utils import format_datetime

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from btc_assets.news.dates import read_time

no_deadline = settings(deadline=None)
AT = datetime(2025, 5, 2, 17, 4, 57, tzinfo=UTC)
MONTHS = tuple(calendar.month_name)[1:]
DAYS = tuple(calendar.day_name)

# --- accepted spellings --------------------------------------------------------------------------------
DATES: tuple[Callable[[datetime], str], ...] = (
    lambda at: f"{DAYS[at.weekday()][:3]}, {at:%d} {MONTHS[at.month - 1][:3]} {at:%Y} ",
    lambda at: f"{DAYS[at.weekday()]}, {at.day} {MONTHS[at.month - 1]} {at:%Y} ",
    lambda at: f"{DAYS[at.weekday()][:3]},{at:%d} {MONTHS[at.month - 1][:3].lower()}. {at:%Y}, ",
    lambda at: f"{DAYS[(at.weekday() + 3) % 7][:3]} , {at:%d} {MONTHS[at.month - 1][:3].upper()} {at:%y} ",
    lambda at: f"{at.day}-{MONTHS[at.month - 1][:3]}-{at:%y} ",
    lambda at: f"{MONTHS[at.month - 1]} {at.day}, {at:%Y} at ",
    lambda at: f"{DAYS[at.weekday()]}, {MONTHS[at.month - 1]} {at.day}, {at:%Y} - ",
    lambda at: f"{DAYS[at.weekday()][:3]} {MONTHS[at.month - 1][:3]} {at:%d} {at:%Y} ",
    lambda at: f"{at:%Y-%m-%d}T",
    lambda at: f"{at:%Y-%m-%d}t",
    lambda at: f"{at:%Y/%m/%d} ",
    lambda at: f"{at.year}-{at.month}-{at.day}  ",
    lambda at: f"{at:%G-W%V-%u}T",
    lambda at: f"{at:%Y-%j}T",
)
CLOCKS: tuple[Callable[[datetime], str], ...] = (
    lambda at: f"{at:%H:%M:%S}",
    lambda at: f"{at.hour}:{at:%M:%S}",
    lambda at: f"{at:%I:%M:%S %p}",
    lambda at: f"{at:%I:%M:%S}{'a.m.' if at.hour < 12 else 'p.m.'}",
    lambda at: f"{at:%H:%M:%S},000",
    lambda at: f"{at:%H : %M : %S}.000000000",
)


def offset_of(at: datetime) -> timedelta:
    offset = at.utcoffset()
    assert offset is not None
    return offset


def signed(at: datetime, colon: str = ":", minus: str = "-") -> str:
    minutes = int(offset_of(at) / timedelta(minutes=1))
    return f"{minus if minutes < 0 else '+'}{abs(minutes) // 60:02}{colon}{abs(minutes) % 60:02}"


ZONES: tuple[Callable[[datetime], str], ...] = (
    lambda at: f" {signed(at, '')}",
    lambda at: f" {signed(at)}",
    signed,
    lambda at: signed(at, minus="\u2212"),
    lambda at: signed(at, minus="\u2013"),
    lambda at: f" GMT{signed(at, '')} (Some Local Time)",
    lambda at: f" UTC{signed(at)}",
    lambda at: f" utc {signed(at)}",
    lambda at: f"{signed(at)}[Europe/Berlin]",
)
moments = st.datetimes(datetime(1971, 1, 2), datetime(2049, 12, 30)).map(
    lambda at: at.replace(microsecond=0, tzinfo=UTC)
)
offsets = st.integers(-14 * 60, 14 * 60).map(lambda minutes: timezone(timedelta(minutes=minutes)))


@no_deadline
@given(moments, offsets, st.sampled_from(DATES), st.sampled_from(CLOCKS), st.sampled_from(ZONES))
def test_every_spelling_and_offset_is_read(
    at: datetime,
    zone: timezone,
    date: Callable[[datetime], str],
    clock: Callable[[datetime], str],
    offset: Callable[[datetime], str],
) -> None:
    local = at.astimezone(zone)
    text = date(local) + clock(local) + offset(local)
    read = read_time(text)
    assert read is not None, text
    assert (read.at, read.precision, read.has_zone) == (at, "second", True), text


@no_deadline
@given(
    moments,
    st.sampled_from(
        [("EST", -5), ("EDT", -4), ("cst", -6), ("CDT", -5), ("MST", -7), ("MDT", -6), ("PST", -8), ("pdt", -7),
         ("Z", 0), ("z", 0), ("UT", 0), ("GMT", 0), ("UTC", 0), ("-0000", 0), ("-00:00", 0), ("GMT+2", 2),
         ("GMT-11", -11), ("UTC+9", 9), ("+05", 5), ("-5", -5), ("-500", -5), ("+0000 UTC", 0), ("-0400 EDT", -4)]
    ),
    st.sampled_from(DATES),
)  # fmt: skip
def test_every_zone_name_is_read(at: datetime, zone: tuple[str, int], date: Callable[[datetime], str]) -> None:
    local = at.astimezone(timezone(timedelta(hours=zone[1])))
    read = read_time(f"{date(local)}{local:%H:%M:%S} {zone[0]}")
    assert read is not None
    assert read.at == at


@no_deadline
@given(st.datetimes(datetime(1971, 1, 2), datetime(9998, 12, 30)), offsets)
def test_times_written_by_the_standard_library_are_read(at: datetime, zone: timezone) -> None:
    local = at.replace(tzinfo=UTC).astimezone(zone)
    for text, has_microseconds in ((local.isoformat(), True), (format_datetime(local), False)):
        read = read_time(text)
        assert read is not None
        assert read.at == (local if has_microseconds else local.replace(microsecond=0))


@no_deadline
@given(st.one_of(st.text(max_size=90), st.text("0123456789-:TZ +/.,GMTAPug(Sa)tW", max_size=45)))
def test_no_text_raises(text: str) -> None:
    read = read_time(text)
    assert read is None or (read.at.tzinfo is UTC and read.at.year > 1970)


@pytest.mark.parametrize(
    ("text", "at", "precision"),
    [
        ("Fri, 02 May 2025 12:04:57 -05:00", AT, "second"),
        ("Fri, 02 May 2025 05:04:57 PM", AT, "second"),
        ("Fri, 02 May 2025 12:04:57 AM", AT.replace(hour=0), "second"),
        ("May 2nd, 2025 12:04 p.m. EST", AT.replace(second=0), "minute"),
        ("Fri May  2 17:04:57 2025", AT, "second"),
        ("Fri May  2 13:04:57 EDT 2025", AT, "second"),
        ("Fri May 02 17:04:57 +0000 2025", AT, "second"),
        ("Fri, 02 May 125 17:04:57 GMT", AT, "second"),
        ("20250502T170457Z", AT, "second"),
        ("20250502T1704+00", AT.replace(second=0), "minute"),
        ("2025-05-02T17:04:57.123456789Z", AT.replace(microsecond=123_456), "second"),
        ("2025-05-02T24:00:00Z", datetime(2025, 5, 3, tzinfo=UTC), "second"),
        ("Fri, 02 May 2025 24:00 -0100", datetime(2025, 5, 3, 1, tzinfo=UTC), "minute"),
        ("2016-12-31T23:59:60Z", datetime(2017, 1, 1, tzinfo=UTC), "second"),
        ("Sat, 31 Dec 2016 18:59:60 EST", datetime(2017, 1, 1, tzinfo=UTC), "second"),
        ("2 May 2025", datetime(2025, 5, 2, tzinfo=UTC), "day"),
        ("2025-05-02Z", datetime(2025, 5, 2, tzinfo=UTC), "day"),
        ("2025-05-02T17-04:00", datetime(2025, 5, 2, 21, tzinfo=UTC), "day"),
        ("\uff12\uff10\uff12\uff15-05-02\u00a017:04:57", AT, "second"),
    ],
)  # fmt: skip
def test_precision_follows_the_spelling(text: str, at: datetime, precision: str) -> None:
    read = read_time(text)
    assert read is not None
    assert (read.at, read.precision) == (at, precision)


# --- rejected spellings ----------------------------------------------------------------------------------
@pytest.mark.parametrize(
    "text",
    [
        # day or month first
        "03/04/2025", "03/04/2025 17:04", "03.04.2025 17:04:57", "25-12-2025", "12/25/25", "Fri, 05/02/2025 - 17:04",
        # ambiguous or unknown zones
        "Fri, 02 May 2025 17:04:57 IST", "Fri, 02 May 2025 17:04:57 BST", "Fri, 02 May 2025 17:04:57 A",
        "2025-05-02T17:04:57 Etc/GMT+2", "2025-05-02T17:04:57 EST5EDT", "2025-05-02T17:04:57[Europe/Berlin]",
        # contradictions
        "Fri, 02 May 2025 17:04:57 -0400 EST", "2025-05-02T17:04:57Z+02:00", "Fri, 02 May 2025 17:04 PM",
        "Fri, 02 May 2025 00:30 PM", "2025-05-02T24:00:01Z", "2025-05-02T17:04:60Z", "2016-12-31T23:59:60+02:00",
        # nonexistent moments
        "2025-02-30T00:00:00Z", "2025-05-02T25:00:00Z", "2025-05-02T17:60:00Z", "2025-366T00:00:00Z",
        "2025-W54-1T00:00Z", "2025-05-02T17:04:57+25:00", "2025-05-02T17:04:57+05:75", "9999-12-31T23:59:59-14:00",
        "0001-01-01T00:00:00+14:00", "0000-00-00 00:00:00",
        # a day outside UTC ends at another time
        "2025-05-02-05:00", "2025-05-02+02:00", "Fri, 02 May 2025 EST",
        # no day, or an ambiguous number
        "May 2025", "2025-05", "17:04:57", "20250502", "1746205497", "yesterday", "", "Fri, 02 Mai 2025 17:04:57 +0200",
        "1970-01-01T00:00:00Z", "(" * 300, "9" * 300, "2025-05-02T17:04:57Z" + " " * 400,
    ],
)  # fmt: skip
def test_an_ambiguous_or_invalid_time_is_none(text: str) -> None:
    assert read_time(text) is None
