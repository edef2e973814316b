"""Parse columns of epochs and ISO 8601 times as UTC; `btc_assets.news.dates` parses single times in other spellings."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import polars as pl

from btc_assets.schema import UTC_TIME

_EPOCHS = ((1e8, 1e11, 1_000_000), (1e11, 1e14, 1_000), (1e14, 1e17, 1))
"""Bounds of an epoch in s, ms and µs, and the microseconds per unit; larger values are nanoseconds."""
_OFFSET = r"([+-])(0\d|1[0-4])(?::?([0-5]\d))?$"
_FORMATS = ("%Y-%m-%d %H:%M:%S%.f", "%Y-%m-%d %H:%M", "%Y/%m/%d %H:%M:%S%.f", "%Y/%m/%d %H:%M")
RARE_FORMATS = tuple(
    f"{day} {clock}"
    for day in ("%Y-%m-%d", "%Y.%m.%d", "%d.%m.%Y")
    for clock in ("%H:%M:%S%.f", "%H:%M", "%I:%M:%S %p", "%I:%M %p")
)
"""Further formats; days before months only with dots, where the order is unambiguous."""


def time_of(column: pl.Expr, dtype: pl.DataType, parse: Callable[[pl.Expr], pl.Expr]) -> pl.Expr | None:
    """Parse epochs, dates, datetimes or text as UTC; `parse` parses texts that are not epochs.

    Null for an unreadable value; None if the type cannot be a time.
    """
    if isinstance(dtype, pl.Datetime):
        read = column.dt.replace_time_zone("UTC") if dtype.time_zone is None else column.dt.convert_time_zone("UTC")
    elif isinstance(dtype, pl.Date):
        read = column.cast(pl.Datetime("us")).dt.replace_time_zone("UTC")
    elif dtype.is_numeric():
        read = epoch_time(column)
    elif isinstance(dtype, pl.String):
        text = column.str.strip_chars()
        read = pl.when(text.cast(pl.Float64, strict=False).is_null()).then(parse(text)).otherwise(epoch_time(text))
    elif isinstance(dtype, pl.Null):
        read = column
    else:
        return None
    return read.cast(UTC_TIME)


def epoch_time(time: pl.Expr) -> pl.Expr:
    """Parse epochs by their size: 1e9 is seconds, 1e12 milliseconds, 1e15 microseconds, 1e18 nanoseconds."""
    value = time.cast(pl.Float64, strict=False)
    exact = pl.coalesce(time.cast(pl.Int64, strict=False), value.cast(pl.Int64, strict=False))
    micros = pl.coalesce(
        *(pl.when((value >= low) & (value < high)).then(exact * scale) for low, high, scale in _EPOCHS),
        pl.when((value >= 1e17) & (value < 1e20)).then(exact // 1_000),
    )
    return pl.from_epoch(micros, time_unit="us").dt.replace_time_zone("UTC")


def iso_time(time: pl.Expr, formats: Sequence[str] = _FORMATS) -> pl.Expr:
    """Parse ISO 8601 and its common variants, or other formats; a time without an offset is UTC."""
    # A zone name before an offset is redundant; without an offset it means UTC.
    text = time.str.strip_chars().str.replace(r"(?i)\s*(UTC|GMT|Z)([+-]|$)", "$2").str.replace("T", " ", literal=True)
    text = text.str.replace(r"(?i)-([AP]M)$", ":00 $1")
    # An offset can only follow a clock time; the end of a bare date looks like an offset.
    timed = text.str.contains(":")
    groups = [pl.when(timed).then(text.str.extract(_OFFSET, group)) for group in (1, 2, 3)]
    minutes = groups[1].cast(pl.Int64) * 60 + groups[2].cast(pl.Int64).fill_null(0)
    ahead = pl.when(groups[0] == "-").then(-minutes).otherwise(minutes).fill_null(0)
    bare = pl.when(timed).then(text.str.replace(r"\s*" + _OFFSET, "")).otherwise(pl.concat_str(text, pl.lit(" 00:00")))
    read = pl.coalesce(bare.str.to_datetime(form, time_unit="us", strict=False) for form in formats)
    return (read - pl.duration(minutes=ahead)).dt.replace_time_zone("UTC")
