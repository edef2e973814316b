"""The stream `quarter_bars`: bars of 15 minutes (of 30 in the embedded sample), four or two of which make an hour."""

from __future__ import annotations

from datetime import timedelta
from functools import partial

import polars as pl

from btc_assets.clock import HALF_HOUR, HOUR, QUARTER
from btc_assets.columns import price
from btc_assets.market.quarter_grid import quarters_of_hours
from btc_assets.market.synthetic import quarters_of, random_walk, stressed
from btc_assets.schema import FINITE, UTC_TIME, Column, check, column_check, declare, row_check, schema
from btc_assets.streams import Rows, Stream, around_the_widest_gap, number_futures, same_columns

MINUTE = timedelta(minutes=1)
LENGTHS = (QUARTER // MINUTE, HALF_HOUR // MINUTE)
"""Lengths of a bar, minutes."""
SAME_SUM = 1e-9
"""Largest relative difference of a sum of volumes that is rounding."""
_CLOSES = pl.col("open_time") + pl.duration(minutes="minutes")
_HOUR_OF = pl.col("open_time").dt.truncate("1h")
_PRICES = ("open", "high", "low", "close")
COMPARED = (*_PRICES, "volume")
"""Columns of an hour that its quarter bars make."""

QUARTER_BARS = declare(
    table="market/quarter_bars",
    schema=schema(
        {
            "open_time": Column(
                UTC_TIME,
                column_check("on the quarter", lambda column: pl.col(column) == pl.col(column).dt.truncate(QUARTER)),
                about="start of the bar, UTC",
            ),
            "minutes": Column(pl.Int64, check("isin", LENGTHS), about="length of the bar, minutes"),
            "open": price("first trade of the bar, USD"),
            "high": price("highest trade, USD"),
            "low": price("lowest trade, USD"),
            "close": price("last trade, USD"),
            "volume": Column(pl.Float64, check("ge", 0), FINITE, about="traded, BTC"),
            "quote_volume": Column(pl.Float64, check("ge", 0), nullable=True, about="traded, USD; null where unknown"),
            "trades": Column(pl.Int64, check("ge", 0), nullable=True, about="number of trades; null where unknown"),
            "taker_buy_volume": Column(
                pl.Float64, check("ge", 0), nullable=True, about="bought by takers, BTC; null where unknown"
            ),
            "venue": Column(pl.String, check("str_length", min_value=1), about="where the bar was traded"),
        },
        row_check(
            "low <= open, close <= high",
            (pl.col("low") <= pl.min_horizontal("open", "close"))
            & (pl.col("high") >= pl.max_horizontal("open", "close")),
        ),
    ),
    day=pl.col("open_time").dt.date(),
    key=("open_time",),
)


def as_quarter_bars(bars: pl.DataFrame, step: timedelta) -> pl.DataFrame:
    """Return bars of one length (PRICES columns) as rows of the table."""
    return bars.with_columns(pl.lit(step // MINUTE, pl.Int64).alias("minutes")).select(list(QUARTER_BARS.columns))


def whole_hours(quarters: pl.DataFrame) -> pl.DataFrame:
    """Make hourly bars of the hours whose quarter bars are all there and of one venue.

    Args:
        quarters: QUARTER_BARS rows.

    Returns:
        open_time, open, high, low, close, volume (BTC) and venue, one row per whole hour, in time order.
    """
    return (
        quarters.sort("open_time")
        .group_by(_HOUR_OF.alias("hour"), maintain_order=True)
        .agg(
            pl.col("open").first(),
            pl.col("high").max(),
            pl.col("low").min(),
            pl.col("close").last(),
            pl.col("volume").sum(),
            pl.col("venue").first(),
            (pl.col("venue").n_unique() == 1).alias("of one venue"),
            pl.col("minutes").sum().alias("minutes"),
        )
        .filter((pl.col("minutes") == HOUR // MINUTE) & "of one venue")
        .drop("minutes", "of one venue")
        .rename({"hour": "open_time"})
    )


def hours_that_differ(quarters: pl.DataFrame, hours: pl.DataFrame) -> pl.DataFrame:
    """Compare hourly bars with those that quarter bars of the same venue make.

    Prices must be equal; volumes may differ by the rounding of a sum.

    Args:
        quarters: QUARTER_BARS rows.
        hours: PRICES rows.

    Returns:
        open_time and `differs` (the names of the columns that differ), one row per hour that was compared, in time
        order; an hour that agrees has an empty list.
    """
    both = whole_hours(quarters).join(hours, on=["open_time", "venue"], suffix=" of the hour").sort("open_time")
    differs = [
        *(pl.when(pl.col(name) != pl.col(f"{name} of the hour")).then(pl.lit(name)) for name in _PRICES),
        pl.when((pl.col("volume") - pl.col("volume of the hour")).abs() > SAME_SUM * pl.col("volume of the hour")).then(
            pl.lit("volume")
        ),
    ]
    return both.select("open_time", pl.concat_list(differs).list.drop_nulls().alias("differs"))


def hours_without_quarters(quarters: pl.DataFrame, hours: pl.DataFrame) -> pl.Series:
    """Return the open_time of each hourly bar that lacks a quarter bar, in time order."""
    covered = quarters.group_by(_HOUR_OF.alias("open_time")).agg(pl.col("minutes").sum())
    whole = covered.filter(pl.col("minutes") == HOUR // MINUTE)
    return hours.join(whole, on="open_time", how="anti").get_column("open_time").sort()


QUARTER_STREAM = Stream(
    name="quarter_bars",
    about="Bars of 15 minutes",
    tables=(QUARTER_BARS,),
    rows=same_columns([name for name in QUARTER_BARS.columns if name != "venue"]),
    available_at=_CLOSES,
    hour=_HOUR_OF,
    join=lambda rows, hours: quarters_of_hours(rows.frame, hours),
    futures=partial(number_futures, unchanged=("minutes",)),
    synthetic=lambda hours, seed: Rows(
        quarters_of(random_walk(hours.len(), seed=seed, start=hours[0]), seed=seed).drop("venue")
    ),
    cadence=QUARTER,
    warn_after=timedelta(hours=2),
    fail_after=timedelta(hours=3),
    stressed=stressed,
    critical_moments=around_the_widest_gap(_CLOSES),
    is_gathered=lambda settings: settings.has_quarters,
    with_the_clock=True,
)
"""Declaration of the stream."""
