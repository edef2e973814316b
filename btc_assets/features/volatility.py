"""Features of past variance, the regressors of the volatility model: the groups `volatility` and `quarter_volatility`.

The variance of an hour is Parkinson's (1980) range estimate, `(ln high/low)^2 / (4 ln 2)`, of the hour's bar, or summed
over its four 15-minute bars. Like every return variance it is per hour. The regressors are logs of its means over hours
to months (Corsi, 2009, A simple approximate long-memory model of realized volatility) and the logs of the variance that
the coming hour of the day had on days before.
"""

from __future__ import annotations

import math

import polars as pl

from btc_assets.features.expressions import min_samples
from btc_assets.market.quarter_grid import QUARTERS, column
from btc_assets.streams import Feature

GROUP, QUARTER_GROUP = "volatility", "quarter_volatility"
MEAN_HOURS = (1, 2, 4, 8, 24, 72, 168, 720)
"""Hours over which the variance is averaged, up to and including the current one."""
DAYS_AGO = (1, 2, 7)
"""Days before, for the variance of the coming hour of the day."""
FLOOR = 1e-8
"""Smallest variance of an hour, that of a move of one basis point: an hour without trades has no usable log."""


def parkinson(high: pl.Expr, low: pl.Expr) -> pl.Expr:
    """Return the variance of a bar from its range, squared log fraction."""
    return (high / low).log().pow(2) / (4 * math.log(2))


def _log(variance: pl.Expr) -> pl.Expr:
    return variance.clip(lower_bound=FLOOR).log()


def _mean(variance: pl.Expr, hours: int) -> pl.Expr:
    return variance if hours == 1 else variance.rolling_mean(hours, min_samples=min_samples(hours))


def _regressors(
    group: str, prefix: str, variance: pl.Expr, of: str, streams: tuple[str, ...] = ()
) -> tuple[Feature, ...]:
    """Declare the regressors of one estimate of the hourly variance, shortest mean first."""

    def before(hours: int) -> pl.Expr:
        gapless = pl.col("open_time") - pl.col("open_time").shift(hours) == pl.duration(hours=hours)
        return pl.when(gapless).then(_log(variance).shift(hours))

    return (
        *(
            Feature(
                f"{prefix}log_variance_{hours}h",
                group,
                "log of squared fraction an hour",
                f"log of the mean variance of the last {hours} h, from the range of {of}",
                hours if hours > 1 else 0,
                _log(_mean(variance, hours)),
                streams,
            )
            for hours in MEAN_HOURS
        ),
        *(
            Feature(
                f"{prefix}log_variance_{days}d_ago",
                group,
                "log of squared fraction an hour",
                f"log variance of the coming hour of the day, {days} d ago, from the range of {of}",
                24 * days,
                before(24 * days - 1),
                streams,
            )
            for days in DAYS_AGO
        ),
    )


OF_BARS = _regressors(GROUP, "", parkinson(pl.col("high"), pl.col("low")), "hourly bars")
"""Regressors that need hourly bars only."""
OF_QUARTERS = _regressors(
    QUARTER_GROUP,
    "quarter_",
    pl.sum_horizontal(
        (parkinson(pl.col(column(quarter, "high")), pl.col(column(quarter, "low"))) for quarter in QUARTERS),
        ignore_nulls=False,
    ),
    "15-minute bars",
    ("quarter_bars",),
)
"""The same regressors from the four quarters of each hour; an hour with a missing quarter has no variance."""
