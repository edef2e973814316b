"""Detect bars from files that are not one series: bars longer than a step, and several instruments.

A daily bar stored as an hour leaks the close of the day into its first hour, so bars that look longer than the
step of the series, usually an hour, are refused and not repaired. Each rule returns a sentence that names the file and
line, or None.

Frames hold open_time, open, high, low, close and volume, and the origin of each row in `FILE` and `LINE`.
"""

from __future__ import annotations

import re
from datetime import datetime, timedelta

import polars as pl

from btc_assets.clock import HOUR
from btc_assets.table_files import FILE, LINE

_EVEN_STEPS = 3
"""Equal consecutive steps of `_LONG_STEP` or more that prove bars of that span: outages are not that regular."""
_LONG_STEP = 4 * HOUR
_WIDE_STEPS = 12
"""Consecutive steps longer than an hour that an hourly history does not have."""
_NEARLY_WHOLE = 55 / 60
"""Share of its step that a bar spans at least."""
_GAPS_JUDGED = timedelta(days=32)
"""Longest gap that may be the span of one bar: monthly bars are the longest in use."""
_USUAL_HOURS = 48
_TIMES_THE_VOLUME, _VOLUME_AN_HOUR, _TIMES_THE_RANGE = 6.0, 0.3, 1.5
"""Multiples of a usual hour from which a bar before a gap counts as a bar of the whole gap.

On eight years of Bitcoin hours these thresholds detect 93 of 100 daily bars, 90 of 100 half-day bars and all weekly
bars, and flag no hour before any of the 28 outages.
"""
_SAME_PRICE = 3e-4
"""Largest |log ratio| of two prices that count as equal."""
_OTHER_PRICE = 0.5
"""Smallest |log ratio| within an hour that proves two instruments; the largest real step between hours is 0.03."""
_OTHER_PRICES = 0.02
"""Median |log ratio| of prices of the same hours from which on they are of two instruments."""
_ENOUGH_HOURS = 6
_SPANS_H = (2, 3, 4, 6, 8, 12, 24, 72, 168)

_HOURLY_WORDS = r"(1|0?1)H(R|OUR)?|H1|60|60M(IN)?|HOURLY|HOUR"
_OTHER_WORDS = (
    r"(?!1H)\d{1,3}(MIN|MN|HR|MO|H|D|W)|[1-9]\d?M|M\d{1,2}|H[2-9]|H\d\d|[DW]1?|MN1|DAILY|DAY|WEEKLY|WEEK|MINUTE|MINUTES"
)
_KRAKEN_MINUTES = r"[A-Z]{5,9}_(\d{1,4})"


def span_fault(bars: pl.DataFrame, step: timedelta = HOUR) -> str | None:
    """Return the first sign that the rows of one file are not bars of a step.

    Args:
        bars: rows in the order of the file, with `close_time` if the file has it.
        step: length of a bar.
    """
    ordered = bars.unique("open_time", keep="first", maintain_order=True).sort("open_time")
    return (
        _closes_late(bars, step)
        or _opens_off_the_step(bars, step)
        or _usual_step(ordered, step)
        or _even_steps(ordered, step)
        # Daily rows mixed with their own hours are visible in file order only.
        or (_even_steps(bars, step) if ordered.height < bars.height else None)
        or _no_single_step(ordered, step)
        or (_named_otherwise(ordered) if step == HOUR else None)
    )


def series_fault(bars: pl.DataFrame, step: timedelta = HOUR) -> str | None:
    """Return the first sign that the rows of several files are not one series.

    Args:
        bars: rows of all files, in any order.
        step: length of a bar.
    """
    ordered = bars.sort("open_time", maintain_order=True)
    single = ordered.unique("open_time", keep="first", maintain_order=True)
    return (
        _other_price_of_the_hour(ordered)
        or _even_steps(single, step)
        or _no_single_step(single, step)
        # Shorter bars are compared with the stored hours instead.
        or (_contains_later_hours(ordered) or _fills_the_gap(single) if step == HOUR else None)
        or _jumps(single, step)
    )


def place(row: dict[str, object]) -> str:
    """Return the origin of a row, such as `bars.csv, line 7`."""
    return f"{row[FILE]} {row[LINE]}"


# --- one file ----------------------------------------------------------------------------------------
def _closes_late(bars: pl.DataFrame, step: timedelta) -> str | None:
    if "close_time" not in bars.columns:
        return None
    spans = bars.select(pl.col("close_time") - pl.col("open_time")).to_series()
    if (spans > step).any():
        row = bars.row((spans > step).arg_max() or 0, named=True)
        expected = _expected(row["open_time"], step)
        return f"{place(row)}: {expected}, got one that closes at {row['close_time']:%Y-%m-%d %H:%M}"
    usual = spans.drop_nulls().mode().max()
    if isinstance(usual, timedelta) and timedelta(0) < usual < _NEARLY_WHOLE * step:
        row = bars.row((spans == usual).arg_max() or 0, named=True)
        return f"{place(row)}: {_expected(row['open_time'], step)}, got one that closes at {row['close_time']:%H:%M:%S}"
    return None


def _opens_off_the_step(bars: pl.DataFrame, step: timedelta) -> str | None:
    off = bars.filter(pl.col("open_time") != pl.col("open_time").dt.truncate(step))
    if off.is_empty():
        return None
    row = off.row(0, named=True)
    grid = "the hour" if step == HOUR else f"a multiple of {_in_words(step)}"
    return f"{place(row)}: expected a bar that opens on {grid}, got {row['open_time']:%Y-%m-%d %H:%M:%S}"


def _even_steps(bars: pl.DataFrame, step: timedelta) -> str | None:
    """Find consecutive bars with equal steps of several hours."""
    steps = bars.select(pl.col("open_time").diff().abs().alias("step")).with_row_index("row")
    even = (
        steps.with_columns(run=pl.col("step").rle_id())
        .group_by("run", maintain_order=True)
        .agg(pl.col("row").first(), pl.col("step").first(), pl.len().alias("steps"))
        .filter((pl.col("steps") >= _EVEN_STEPS) & (pl.col("step") >= _LONG_STEP))
    )
    if even.height:
        run = even.row(0, named=True)
        row = bars.row(run["row"] - 1, named=True)
        return (
            f"{place(row)}: {_expected(row['open_time'], step)}, but it and the {run['steps']} bars after it follow "
            f"each other every {_in_words(run['step'])}"
        )
    return None


def _no_single_step(bars: pl.DataFrame, step: timedelta) -> str | None:
    """Find consecutive bars (in time order, no duplicates), none of which opens a step after the previous one."""
    steps = bars.select(pl.col("open_time").diff().alias("step")).with_row_index("row")
    wide = (
        steps.with_columns(wide=(pl.col("step") > step).fill_null(value=False))
        .with_columns(run=pl.col("wide").rle_id())
        .filter("wide")
        .group_by("run", maintain_order=True)
        .agg(pl.col("row").first(), pl.len().alias("steps"), pl.col("step").median())
        .filter(pl.col("steps") >= _WIDE_STEPS)
    )
    if wide.is_empty():
        return None
    run = wide.row(0, named=True)
    row = bars.row(run["row"] - 1, named=True)
    later = "an hour" if step == HOUR else _in_words(step)
    return (
        f"{place(row)}: {_expected(row['open_time'], step)}, but none of the {run['steps']} bars after it opens "
        f"{later} after the previous one; their usual step is {_in_words(run['step'])}"
    )


def _usual_step(bars: pl.DataFrame, step: timedelta) -> str | None:
    steps = bars.get_column("open_time").diff().drop_nulls()
    usual = steps.mode().min() if steps.len() else step
    if usual == step or not isinstance(usual, timedelta):
        return None
    row = bars.row(0, named=True)
    expected = _expected(row["open_time"], step)
    return f"{place(row)}: {expected}, but the usual step between the file's times is {_in_words(usual)}"


def _named_otherwise(bars: pl.DataFrame) -> str | None:
    """Use a file's name where the steps between rows are inconclusive."""
    steps = bars.get_column("open_time").diff()
    if bars.is_empty() or (steps == HOUR).any():
        return None
    row = bars.row(0, named=True)
    name = str(row[FILE]).rpartition(",")[0].rpartition("/")[2]
    stem = re.sub(r"(\.(csv|gz|zip|parquet|txt))+$", "", name, flags=re.IGNORECASE)
    words = re.split(r"[^A-Z0-9]+", stem.upper())
    minutes = re.fullmatch(_KRAKEN_MINUTES, stem.upper())
    if any(re.fullmatch(_HOURLY_WORDS, word) for word in words):
        return None
    other = next((word for word in words if re.fullmatch(_OTHER_WORDS, word)), minutes and minutes[1])
    if not other:
        return None
    return f"{place(row)}: {_expected(row['open_time'])}, but the file's name says {other.lower()!r}"


# --- several files -----------------------------------------------------------------------------------
def _other_price_of_the_hour(ordered: pl.DataFrame) -> str | None:
    """Find hours with several bars whose prices cannot be of one instrument."""
    twice = (
        ordered.filter(pl.col("open_time").is_duplicated())
        .group_by("open_time", maintain_order=True)
        .agg(
            pl.col("close").min().alias("low"), pl.col("close").max().alias("high"),
            *(pl.col(name).get(pl.col("close").arg_min()).alias(f"low {name}") for name in (FILE, LINE)),
            *(pl.col(name).get(pl.col("close").arg_max()).alias(f"high {name}") for name in (FILE, LINE)),
        )
        .with_columns(apart=(pl.col("high") / pl.col("low")).log())
        .filter(pl.col("apart") > 0)
    )  # fmt: skip
    if twice.is_empty():
        return None
    far = twice.filter(pl.col("apart") > _OTHER_PRICE)
    median = twice.get_column("apart").median()
    if far.is_empty() and twice.height >= _ENOUGH_HOURS and isinstance(median, float) and median > _OTHER_PRICES:
        far = twice.filter(pl.col("apart") > _OTHER_PRICES)
    if far.is_empty():
        return None
    row = far.row(0, named=True)
    return (
        f"{row[f'low {FILE}']} {row[f'low {LINE}']} and {row[f'high {FILE}']} {row[f'high {LINE}']}: expected one "
        f"price of the hour {row['open_time']:%Y-%m-%d %H:%M}, got {row['low']:g} and {row['high']:g}; these are two "
        f"instruments or currencies"
    )


def _contains_later_hours(ordered: pl.DataFrame) -> str | None:
    """Find an hour with two bars, one of which has the prices of several hours from it on."""
    twice = ordered.filter(pl.col("open_time").is_duplicated() & pl.struct("open_time", "close").is_unique())
    if twice.is_empty():
        return None
    hours = ordered.sort("volume").unique("open_time", keep="first", maintain_order=True).sort("open_time")
    for span in _SPANS_H:
        ends = hours.select(pl.col("open_time") - (span - 1) * HOUR, end=pl.col("close"))
        for row in twice.join(ends, on="open_time").filter(_same("close", "end")).iter_rows(named=True):
            until = row["open_time"] + span * HOUR
            inside = hours.filter((pl.col("open_time") >= row["open_time"]) & (pl.col("open_time") < until))
            extremes = inside.select(pl.col("high").max(), pl.col("low").min(), pl.col("volume").max()).row(0)
            if (
                inside.height > 1
                and row["high"] >= extremes[0] > 0
                and row["low"] <= extremes[1]
                and row["volume"] > extremes[2]
            ):
                return (
                    f"{place(row)}: {_expected(row['open_time'])}, got one with the prices of the {span} hours from it"
                )
    return None


def _fills_the_gap(single: pl.DataFrame) -> str | None:
    """Find a bar that spans the gap after it: it closes where the next bar opens, and is too large for an hour.

    The thresholds are lower for two such bars in a row, and higher for the last bar, which must open a UTC day.
    """
    spread = (pl.col("high") / pl.col("low")).log()
    step = pl.col("open_time").diff().shift(-1)
    hourly = pl.col("open_time").diff() == HOUR
    usual = [
        pl.when(hourly)
        .then(value)
        .rolling_median(_USUAL_HOURS, min_samples=6)
        .forward_fill()
        .backward_fill()
        .alias(name)
        for name, value in (("usual volume", pl.col("volume")), ("usual spread", spread))
    ]
    hours = step.dt.total_minutes() / 60
    large = single.with_columns(*usual, step=step, next=pl.col("open").shift(-1)).with_columns(
        volumes=pl.col("volume") / pl.col("usual volume"), spreads=spread / pl.col("usual spread")
    )
    joins = (step > HOUR) & (step <= _GAPS_JUDGED) & _same("close", "next", _SAME_PRICE)
    alone = (pl.col("volumes") > pl.max_horizontal(_TIMES_THE_VOLUME, hours * _VOLUME_AN_HOUR)) & (
        pl.col("spreads") > _TIMES_THE_RANGE
    )
    one_of_two = joins & (step >= _LONG_STEP) & (pl.col("volumes") > _TIMES_THE_RANGE) & (pl.col("spreads") > 1)
    pair = one_of_two & (one_of_two & (step == step.shift(1))).shift(-1)
    newest = pl.col("next").is_null() & (pl.col("volumes") > 2 * _TIMES_THE_VOLUME)
    newest &= (pl.col("spreads") > 2 * _TIMES_THE_RANGE) & (pl.col("open_time").dt.hour() == 0)
    spanning = large.filter((joins & alone) | pair | newest)
    if spanning.is_empty():
        return None
    row = spanning.row(0, named=True)
    after = "and nothing after it"
    if row["next"] is not None:
        after = f"that closes where the next bar opens, {_in_words(row['step'])} later"
    large_bar = f"{row['volumes']:.0f} times the volume of an hour"
    return f"{place(row)}: {_expected(row['open_time'])}, got one with {large_bar} {after}"


def _jumps(single: pl.DataFrame, step: timedelta) -> str | None:
    """Find a bar whose price is far from that of the previous bar."""
    steps = single.with_columns(
        before=pl.col("close").shift(1),
        step=pl.col("open_time").diff(),
        **{f"{name} before": pl.col(name).shift(1) for name in (FILE, LINE)},
    )
    jumps = steps.filter((pl.col("step") == step) & ((pl.col("open") / pl.col("before")).log().abs() > _OTHER_PRICE))
    if jumps.is_empty():
        return None
    row = jumps.row(0, named=True)
    return (
        f"{row[f'{FILE} before']} {row[f'{LINE} before']} and {place(row)}: expected the bar of "
        f"{row['open_time']:%Y-%m-%d %H:%M} UTC to open near {row['before']:g}, the previous close, got "
        f"{row['open']:g}; these are two instruments or currencies"
    )


def _same(one: str, other: str, within: float = 1e-9) -> pl.Expr:
    return (pl.col(one) / pl.col(other)).log().abs() <= within


def _expected(at: object, step: timedelta = HOUR) -> str:
    assert isinstance(at, datetime)
    return f"expected a bar of the {'hour' if step == HOUR else _in_words(step)} from {at:%Y-%m-%d %H:%M} UTC"


def _in_words(step: timedelta) -> str:
    for unit, size in (("day", timedelta(days=1)), ("hour", HOUR), ("minute", timedelta(minutes=1))):
        if step >= size and step % size == timedelta(0):
            return f"{step // size} {unit}{'s' if step > size else ''}"
    return f"{step.total_seconds():g} seconds"
