"""Parse an exchange's answers into bars: every value is read strictly, and an error names the first invalid one."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime, timedelta
from typing import Any

import polars as pl

from btc_assets.clock import HOUR
from btc_assets.market.bars import first_fault
from btc_assets.market.tables import PRICES
from btc_assets.transport import SourceMalformedError

REMEDY = "If this persists, check the venue's status page or choose another BTC_MARKET_SOURCE."
"""What to do if an exchange returns invalid answers."""
CLOCK_SKEW = timedelta(minutes=5)
"""How far a venue's clock may be ahead of ours before its newest bar counts as from the future."""


def wall_clock() -> datetime:
    """Return the current time, UTC."""
    return datetime.now(tz=UTC)


def number(venue: str, name: str, value: Any) -> float:
    """Parse one value of an answer, a JSON number or a string that contains one.

    Raises:
        SourceMalformedError: the value is not a finite number.
    """
    if isinstance(value, (int, float, str)) and not isinstance(value, bool):
        try:
            parsed = float(value)
        except ValueError:
            parsed = math.nan
        if math.isfinite(parsed):
            return parsed
    raise SourceMalformedError(
        f"{venue} answered with a row whose {name} is {value!r}; expected a finite number. Nothing was stored. {REMEDY}"
    )


def whole(venue: str, name: str, value: Any) -> int:
    """Parse one whole number of an answer, such as an epoch or a count.

    Raises:
        SourceMalformedError: the value is not a whole number.
    """
    parsed = number(venue, name, value)
    if parsed != int(parsed):
        raise SourceMalformedError(
            f"{venue} answered with a row whose {name} is {value!r}; expected a whole number. {REMEDY}"
        )
    return int(value) if isinstance(value, (int, str)) and str(value).lstrip("-").isdigit() else int(parsed)


def bars_of(venue: str, columns: Mapping[str, Sequence[Any]]) -> pl.DataFrame:
    """Build a PRICES frame from columns of values; `open_time` in epoch microseconds, absent columns are null."""
    frame = pl.DataFrame(
        {name: columns.get(name, [None] * len(columns["open_time"])) for name in PRICES.columns if name != "venue"},
        schema={
            name: pl.Int64 if name == "open_time" else dtype
            for name, dtype in PRICES.columns.items()
            if name != "venue"
        },
    )
    return frame.with_columns(
        pl.from_epoch("open_time", time_unit="us").dt.replace_time_zone("UTC"), pl.lit(venue).alias("venue")
    ).select(list(PRICES.columns))


def valid_bars(
    venue: str, frame: pl.DataFrame, wall: datetime, remedy: str = REMEDY, step: timedelta = HOUR
) -> pl.DataFrame:
    """Return the frame if every bar is valid and none is from the future.

    Args:
        venue: name of the venue, for the message.
        frame: PRICES columns; more are allowed.
        wall: the current time, UTC.
        remedy: sentence that says what to do about an invalid bar.
        step: length of a bar.

    Raises:
        SourceMalformedError: the message names the first invalid bar and the remedy.
    """
    if fault := first_fault(frame, step):
        raise SourceMalformedError(f"{venue} returned an invalid bar: {fault}. Nothing was stored. {remedy}")
    newest = frame.get_column("open_time").max()
    if isinstance(newest, datetime) and newest > wall + CLOCK_SKEW:
        raise SourceMalformedError(
            f"{venue} returned a bar from the future: expected none that opens after {wall:%Y-%m-%d %H:%M} UTC, got "
            f"{newest:%Y-%m-%d %H:%M} UTC. Its times may not be in UTC (KST is 9 hours "
            f"ahead), or this machine's clock is behind; nothing was stored."
        )
    return frame


def in_order(venue: str, frame: pl.DataFrame, *, descending: bool = False) -> pl.DataFrame:
    """Return the frame, without equal rows and oldest first, if its rows are in the venue's order.

    Raises:
        SourceMalformedError: rows are out of order, or a bar has two rows with different values.
    """
    distinct = frame.unique(maintain_order=True)
    steps = distinct.get_column("open_time").diff().drop_nulls()
    if (steps == timedelta(0)).any():
        twice = distinct.filter(pl.col("open_time").is_duplicated())["open_time"][0]
        raise SourceMalformedError(
            f"{venue} returned the bar of {twice} twice with different values; expected it once. "
            f"Nothing was stored; try again later."
        )
    wrong = steps > timedelta(0) if descending else steps < timedelta(0)
    if wrong.any():
        at = distinct["open_time"][(wrong.arg_max() or 0) + 1]
        raise SourceMalformedError(
            f"{venue} returned rows out of order at {at}; expected {'newest' if descending else 'oldest'} first. "
            f"Nothing was stored; try again later."
        )
    return distinct.sort("open_time")


def closed_between(
    frame: pl.DataFrame, first: datetime, last: datetime, now: datetime, step: timedelta = HOUR
) -> pl.DataFrame:
    """Return the bars of length `step` with `first` <= open_time < `last` that are closed at `now`."""
    return frame.filter(
        (pl.col("open_time") >= first) & (pl.col("open_time") < last) & (pl.col("open_time") + step <= now)
    )


def rows_of(
    venue: str, answer: Any, fields: dict[str, int], *, micros: int, width: int | None = None
) -> dict[str, list[Any]]:
    """Parse an exchange's list of rows into columns.

    Args:
        venue: name of the venue, for messages.
        answer: parsed JSON; a list of lists.
        fields: index of each PRICES column in a row.
        micros: microseconds in one unit of `open_time`.
        width: smallest number of values in a row; default: as `fields` needs.

    Raises:
        SourceMalformedError: the answer is not a list of such rows, or a value is not a finite number.
    """
    least = width or max(fields.values()) + 1
    if not isinstance(answer, list):
        raise SourceMalformedError(f"{venue}: expected a list of bars, got {str(answer)[:80]!r}. {REMEDY}")
    for row in answer:
        if not isinstance(row, list) or len(row) < least:
            raise SourceMalformedError(f"{venue}: expected rows of {least} values, got {str(row)[:80]!r}. {REMEDY}")
    parsed: dict[str, list[Any]] = {}
    for name, place in fields.items():
        reader = whole if name in ("open_time", "trades") else number
        parsed[name] = [reader(venue, name, row[place]) for row in answer]
    parsed["open_time"] = [time * micros for time in parsed["open_time"]]
    return parsed


def expect_bars(
    venue: str, bars: pl.DataFrame, first: datetime, last: datetime, now: datetime, step: timedelta = HOUR
) -> pl.DataFrame:
    """Return the bars of length `step`; refuse an empty frame if a bar of the span is closed.

    Raises:
        SourceMalformedError: the answer has no bar of the span.
    """
    if bars.is_empty() and first + step <= min(last, now):
        raise SourceMalformedError(
            f"{venue} returned no bar from {first:%Y-%m-%d %H:%M} to {last:%Y-%m-%d %H:%M} UTC, an empty "
            f"list; expected {(min(last, now) - first) // step}. {REMEDY}"
        )
    return bars
