"""From an exchange's rows to bars: every value is read strictly, and the first wrong one is named."""

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

REMEDY = "If it stays so, look at the venue's status page or choose another BTC_MARKET_SOURCE."
"""What a person does about an exchange that answers nonsense."""
CLOCK_SKEW = timedelta(minutes=5)
"""How far a venue's clock may be ahead of ours before its newest bar counts as one from the future."""


def wall_clock() -> datetime:
    """Return the present moment, UTC."""
    return datetime.now(tz=UTC)


def number(venue: str, name: str, value: Any) -> float:
    """Read one value of an answer, a JSON number or a string that holds one.

    Raises:
        SourceMalformedError: it is neither, or not finite.
    """
    if isinstance(value, (int, float, str)) and not isinstance(value, bool):
        try:
            read = float(value)
        except ValueError:
            read = math.nan
        if math.isfinite(read):
            return read
    raise SourceMalformedError(
        f"{venue} answered with a row whose {name} is {value!r}; expected a finite number. Nothing was stored. {REMEDY}"
    )


def whole(venue: str, name: str, value: Any) -> int:
    """Read one whole number of an answer, such as an epoch or a count.

    Raises:
        SourceMalformedError: it is no whole number.
    """
    read = number(venue, name, value)
    if read != int(read):
        raise SourceMalformedError(
            f"{venue} answered with a row whose {name} is {value!r}; expected a whole number. {REMEDY}"
        )
    return int(value) if isinstance(value, (int, str)) and str(value).lstrip("-").isdigit() else int(read)


def bars_of(venue: str, columns: Mapping[str, Sequence[Any]]) -> pl.DataFrame:
    """Build a PRICES frame from columns of plain values; `open_time` in epoch microseconds, absent columns null."""
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


def lawful(venue: str, frame: pl.DataFrame, wall: datetime, remedy: str = REMEDY) -> pl.DataFrame:
    """Return the frame if every bar keeps the laws and none is from the future.

    Args:
        venue: whose bars they are, for the message.
        frame: PRICES columns, more are allowed.
        wall: the present moment, UTC.
        remedy: the sentence that says what to do about a broken bar.

    Raises:
        SourceMalformedError: the sentence names the first bar that does not, and what to do.
    """
    if fault := first_fault(frame):
        raise SourceMalformedError(f"{venue} gave a bar that cannot be one: {fault}. Nothing was stored. {remedy}")
    newest = frame.get_column("open_time").max()
    if isinstance(newest, datetime) and newest > wall + CLOCK_SKEW:
        raise SourceMalformedError(
            f"{venue} gave a bar from the future: expected none that opens after {wall:%Y-%m-%d %H:%M} UTC, got "
            f"{newest:%Y-%m-%d %H:%M} UTC. Its times may be stamped in another zone than UTC (KST is 9 hours "
            f"ahead), or this machine's clock is behind; nothing was stored."
        )
    return frame


def in_order(venue: str, frame: pl.DataFrame, *, descending: bool = False) -> pl.DataFrame:
    """Return the frame if its rows keep the venue's order, equal rows once.

    Raises:
        SourceMalformedError: rows are out of order, or an hour comes twice with different values.
    """
    once = frame.unique(maintain_order=True)
    steps = once.get_column("open_time").diff().drop_nulls()
    if (steps == timedelta(0)).any():
        twice = once.filter(pl.col("open_time").is_duplicated())["open_time"][0]
        raise SourceMalformedError(
            f"{venue} answered with the hour {twice} twice and with different values; expected one bar an hour. "
            f"Nothing was stored; try again later."
        )
    wrong = steps > timedelta(0) if descending else steps < timedelta(0)
    if wrong.any():
        at = once["open_time"][(wrong.arg_max() or 0) + 1]
        raise SourceMalformedError(
            f"{venue} answered with rows out of order at {at}; expected {'newest' if descending else 'oldest'} first. "
            f"Nothing was stored; try again later."
        )
    return once.sort("open_time")


def closed_between(frame: pl.DataFrame, first: datetime, last: datetime, now: datetime) -> pl.DataFrame:
    """Return the bars with `first` <= open_time < `last` that are closed at `now`."""
    return frame.filter(
        (pl.col("open_time") >= first) & (pl.col("open_time") < last) & (pl.col("open_time") + HOUR <= now)
    )


def rows_of(
    venue: str, answer: Any, fields: dict[str, int], *, micros: int, width: int | None = None
) -> dict[str, list[Any]]:
    """Read an exchange's list of rows into columns.

    Args:
        venue: whose answer it is.
        answer: parsed JSON; a list of lists.
        fields: place of each PRICES column in a row.
        micros: microseconds in one unit of `open_time`.
        width: fewest values a row has; default the last place asked for.

    Raises:
        SourceMalformedError: it is no list of such rows, or a value is no finite number.
    """
    least = width or max(fields.values()) + 1
    if not isinstance(answer, list):
        raise SourceMalformedError(f"{venue}: expected a list of bars, got {str(answer)[:80]!r}. {REMEDY}")
    for row in answer:
        if not isinstance(row, list) or len(row) < least:
            raise SourceMalformedError(f"{venue}: expected rows of {least} values, got {str(row)[:80]!r}. {REMEDY}")
    read: dict[str, list[Any]] = {}
    for name, place in fields.items():
        reader = whole if name in ("open_time", "trades") else number
        read[name] = [reader(venue, name, row[place]) for row in answer]
    read["open_time"] = [time * micros for time in read["open_time"]]
    return read


def expect_some(venue: str, bars: pl.DataFrame, first: datetime, last: datetime, now: datetime) -> pl.DataFrame:
    """Return the bars unless there are none although an hour of the span is closed.

    Raises:
        SourceMalformedError: the answer was an empty list, or held only other hours.
    """
    if bars.is_empty() and first + HOUR <= min(last, now):
        raise SourceMalformedError(
            f"{venue} answered without a single bar from {first:%Y-%m-%d %H:%M} to {last:%Y-%m-%d %H:%M} UTC, an empty "
            f"list; expected {(min(last, now) - first) // HOUR}. {REMEDY}"
        )
    return bars
