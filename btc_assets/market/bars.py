"""Pure functions on bars: rules, duplicates, gaps, restatements. A gap is reported and never filled.

Frames hold the columns of the PRICES contract: open_time (start of the bar, UTC), prices in USD, volumes in BTC. A bar
spans an hour unless a shorter `step` is given.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import date, datetime, timedelta

import polars as pl

from btc_assets.clock import HALF_HOUR, HOUR, QUARTER, midnight
from btc_assets.market.tables import PRICES

_PRICES = ("open", "high", "low", "close")
_NUMBERS = (*_PRICES, "volume")
_FLOW = ("quote_volume", "trades", "taker_buy_volume", "taker_buy_quote_volume")
_DAY = timedelta(days=1)
_ROUNDING = timedelta(seconds=1)
"""A bar whose close_time is at most this much before its end covers the whole step."""
_MAX_ZONE_OFFSET_HOURS = 14
_MIN_EQUAL_BARS = 6
"""Equal bars from which a time-zone shift between two histories is reported."""
_NAMES = {HOUR: "hour", HALF_HOUR: "half hour", QUARTER: "quarter"}
"""The lengths of a bar, in words."""


class BarsError(ValueError):
    """Bars break a rule of bars."""


@dataclass(frozen=True)
class Cleaned:
    """Bars in time order, one per step.

    Attributes:
        frame: the bars.
        duplicates: rows dropped because their open_time had another row.
        conflicts: open times whose rows differed.
    """

    frame: pl.DataFrame
    duplicates: int
    conflicts: int


@dataclass(frozen=True)
class Merged:
    """Stored bars merged with fetched bars.

    Attributes:
        frame: the bars in time order, one per step.
        added: number of bars that were not stored.
        kept: number of stored bars that were not fetched, or were fetched from a less preferred venue.
        restated: open times whose stored values changed.
    """

    frame: pl.DataFrame
    added: int
    kept: int
    restated: list[datetime]


def first_fault(frame: pl.DataFrame, step: timedelta = HOUR) -> str | None:
    """Return the first broken rule as "expected <a>, got <b> at <open_time>", or None.

    The rules: open_time on a whole step; prices finite and positive; volumes and counts finite and not negative;
    low <= open, close <= high.
    """
    time = pl.col("open_time")
    rules = [
        (f"a bar that opens on the {_NAMES[step]}", time.is_null() | (time != time.dt.truncate(step)), None),
        *((f"{n} to be a finite number", pl.col(n).is_null() | ~pl.col(n).is_finite(), n) for n in _NUMBERS),
        *((f"{n} above zero", pl.col(n) <= 0, n) for n in _PRICES),
        ("volume not below zero", pl.col("volume") < 0, "volume"),
        *((f"{n} to be absent, or finite and not below zero", _broken_flow(n), n) for n in _FLOW),
        ("high to be the highest price of the bar", pl.col("high") < pl.max_horizontal(*_PRICES), "high"),
        ("low to be the lowest price of the bar", pl.col("low") > pl.min_horizontal(*_PRICES), "low"),
    ]
    # One pass over all rules is enough in nearly every case; the broken rule is searched for only if one is broken.
    if not frame.lazy().select(pl.any_horizontal(broken.any() for _, broken, _ in rules)).collect().item():
        return None
    for expected, broken, column in rules:
        faulty = frame.filter(broken)
        if faulty.height:
            row = faulty.row(0, named=True)
            return f"expected {expected}, got {'one' if column is None else row[column]} at {row['open_time']}"
    return None


def _broken_flow(name: str) -> pl.Expr:
    value = pl.col(name).cast(pl.Float64)
    return (~value.is_finite() | (value < 0)).fill_null(value=False)


def clean(frame: pl.DataFrame, step: timedelta = HOUR) -> Cleaned:
    """Sort bars and keep one per step: prefer a complete bar, then more trades, then more volume.

    Args:
        frame: PRICES columns, rows in any order, times may repeat; an optional `close_time` (UTC)
            distinguishes a complete bar from a truncated one.
        step: length of a bar.

    Returns:
        The bars, the number of dropped rows and the number of bars with conflicting rows. The result does not
        depend on the order of the rows.

    Raises:
        BarsError: a bar breaks a rule, see `first_fault`.
    """
    if fault := first_fault(frame, step):
        raise BarsError(f"Bars cannot be used: {fault}.")
    if "close_time" in frame.columns:
        complete = (pl.col("close_time") - pl.col("open_time") >= step - _ROUNDING).fill_null(value=True)
    else:
        complete = pl.lit(value=True)
    bars = frame.with_columns(complete.alias("complete")).select(*PRICES.columns, "complete")
    rank = ["open_time", "complete", "trades", "volume"]
    ordered = bars.sort([*rank, *(name for name in PRICES.columns if name not in rank)]).drop("complete")
    kept = ordered.unique("open_time", keep="last", maintain_order=True)
    if kept.height == ordered.height:
        return Cleaned(frame=kept, duplicates=0, conflicts=0)
    differing = ordered.unique().filter(pl.col("open_time").is_duplicated())
    return Cleaned(
        frame=kept, duplicates=ordered.height - kept.height, conflicts=differing.get_column("open_time").n_unique()
    )


def find_gaps(frame: pl.DataFrame, first: datetime, last: datetime, step: timedelta = HOUR) -> pl.DataFrame:
    """Return the steps without a bar in [`first`, `last`), grouped into gaps.

    Returns:
        first_missing, last_missing (open times, UTC) and bars (how many, Int64), one row per gap, in time order.
    """
    times = pl.datetime_range(first, last, step, closed="left", time_unit="us", eager=True).alias("open_time")
    expected = pl.DataFrame({"open_time": times.cast(PRICES.columns["open_time"])})
    missing = expected.join(frame.select("open_time"), on="open_time", how="anti").sort("open_time")
    begins = (pl.col("open_time").diff() != step).fill_null(value=True)
    return (
        missing.with_columns(begins.cum_sum().alias("gap"))
        .group_by("gap", maintain_order=True)
        .agg(
            pl.col("open_time").first().alias("first_missing"),
            pl.col("open_time").last().alias("last_missing"),
            pl.len().cast(pl.Int64).alias("bars"),
        )
        .drop("gap")
    )


def coverage_fault(frame: pl.DataFrame, days: Sequence[date], last: datetime, *, grows: bool) -> str | None:
    """Return which days have closed hours but no bar, and what to do; None if every day has a bar.

    Days before the first bar do not count: a history may start later than the partition grid.

    Args:
        frame: the bars.
        days: the days to check, in order.
        last: end of the closed hours, UTC.
        grows: whether the source keeps growing; files do not.
    """
    present = set(frame.select(PRICES.day.unique()).to_series())
    earliest = min(present, default=days[0])
    empty = [day for day in days if earliest <= day and midnight(day) < last and day not in present]
    if not empty:
        return None
    newest = max(present, default=None)
    gap = f"{len(empty)} {'day has' if len(empty) == 1 else 'days have'} no bar at all, the first {empty[0]}"
    if newest is not None and empty[0] > newest and not grows:
        return (
            f"the files end on {newest}, and {gap}: set BTC_HISTORY_END={newest + _DAY}, or add files with the days "
            f"from {empty[0]} on"
        )
    remedy = "materialise market/prices of them again" if grows else "add files with them"
    return f"{gap}: {remedy}, or begin after them with BTC_HISTORY_START={empty[-1] + _DAY}"


def restated(old: pl.DataFrame, new: pl.DataFrame) -> list[datetime]:
    """Return the open times that both frames hold with different values, in order; a changed venue counts."""
    both = old.join(new, on="open_time", how="inner", suffix="_new")
    changed = pl.any_horizontal(pl.col(c).ne_missing(pl.col(f"{c}_new")) for c in old.columns if c != "open_time")
    return both.filter(changed).sort("open_time")["open_time"].to_list()


def merge(stored: pl.DataFrame, fresh: pl.DataFrame, venues: tuple[str, ...] = ()) -> Merged:
    """Merge fetched bars into stored ones: absent bars stay stored, restated bars are updated.

    Args:
        stored: bars, one per step.
        fresh: bars of the same columns, one per step.
        venues: the source's venues, in order of preference. A stored bar of a listed venue is replaced only by a bar
            of the same or a more preferred venue, so that a failover does not replace better bars; a bar of any other
            venue is always replaced.

    Returns:
        The merged bars, in time order, and what changed.
    """
    ranks = {venue: place for place, venue in enumerate(venues)}
    rank = pl.col("venue").replace_strict(ranks, default=len(venues), return_dtype=pl.Int64)
    stored_ranks = stored.select("open_time", rank.alias("stored_rank"))
    worse = (
        fresh.with_columns(rank.alias("rank"))
        .join(stored_ranks, on="open_time")
        .filter(pl.col("rank") > pl.col("stored_rank"))
    )
    taken = fresh.join(worse, on="open_time", how="anti")
    kept = stored.join(taken, on="open_time", how="anti")
    return Merged(
        frame=pl.concat([kept, taken]).sort("open_time"),
        added=taken.join(stored, on="open_time", how="anti").height,
        kept=kept.height,
        restated=restated(stored, taken),
    )


def zone_shift(stored: pl.DataFrame, fresh: pl.DataFrame) -> int:
    """Return by how many hours the times of `fresh` are later than those of `stored`; 0 if equal or not comparable.

    Bars that differ from the stored bars of the same hour but equal those of another hour have times in another time
    zone: no market repeats an hour to the cent.
    """

    def agreeing(hours: int) -> tuple[int, int]:
        moved = fresh.select(pl.col("open_time") - timedelta(hours=hours), *(pl.col(p).alias(f"{p}_") for p in _PRICES))
        both = stored.join(moved, on="open_time")
        return both.filter(pl.all_horizontal(pl.col(p) == pl.col(f"{p}_") for p in _PRICES)).height, both.height

    same, shared = agreeing(0)
    if shared == 0 or same > shared // 10:
        return 0
    for size in range(1, _MAX_ZONE_OFFSET_HOURS + 1):
        for hours in (size, -size):
            same, shared = agreeing(hours)
            if same >= _MIN_EQUAL_BARS and same > shared * 9 // 10:
                return hours
    return 0
