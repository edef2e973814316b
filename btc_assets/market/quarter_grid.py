"""The four quarters of each hour, side by side: how 15-minute bars join the hours."""

from __future__ import annotations

import polars as pl

from btc_assets.schema import UTC_TIME

QUARTERS = (1, 2, 3, 4)
"""Numbers of an hour's quarters; the last one closes with the hour."""
VALUES = ("high", "low", "close", "volume", "quote_volume", "trades", "taker_buy_volume")
"""Columns of a quarter bar that the hours get."""
RETURN = "return"
"""Log return of a quarter: of its close over that of the quarter before, which may be of another hour."""
_MINUTES = 15
_FOLLOWS = pl.col("open_time").diff() == pl.duration(minutes=_MINUTES)


def column(quarter: int, value: str) -> str:
    """Return the name of a quarter's value among the columns of an hour."""
    return f"quarter_{quarter}_{value}"


def quarters_of_hours(rows: pl.DataFrame, hours: pl.Series) -> pl.DataFrame:
    """Return the values of each hour's own quarters; all of them are closed by the close of the hour.

    Args:
        rows: bars with open_time (UTC), minutes (length of the bar) and `VALUES`, in time order.
        hours: open_times, one per hour, UTC.

    Returns:
        One row per hour: open_time and, for each of `QUARTERS`, a Float64 column for each of `VALUES` and `RETURN`.
        Null where the hour has no 15-minute bar that opens with the quarter; a return also after a missing quarter.
    """
    frame = pl.DataFrame({"open_time": hours}, schema={"open_time": UTC_TIME})
    change = (pl.col("close") / pl.col("close").shift(1)).log()
    quarters = rows.filter(pl.col("minutes") == _MINUTES).with_columns(pl.when(_FOLLOWS).then(change).alias(RETURN))
    for quarter in QUARTERS:
        opens = pl.col("open_time").dt.offset_by(f"-{_MINUTES * (quarter - 1)}m")
        own = quarters.select(
            opens.cast(UTC_TIME).alias("open_time"),
            *(pl.col(value).cast(pl.Float64).alias(column(quarter, value)) for value in (*VALUES, RETURN)),
        )
        frame = frame.join(own, on="open_time", how="left", maintain_order="left")
    return frame
