"""Labels: the log return over each horizon, in the partition of the day on which it became known."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime

import polars as pl

from btc_assets.features.tables import HOURLY_LABELS
from btc_assets.vocabulary import HORIZONS, SUB_HOUR, hours_spanned


def compute_labels(
    bars: pl.DataFrame,
    first: datetime,
    last: datetime,
    horizons: Sequence[int] = HORIZONS,
    *,
    quarters: pl.DataFrame | None = None,
) -> pl.DataFrame:
    """Compute the labels that became known in (first, last].

    A label of horizon h at hour t is `ln(close[t+h] / close[t])`. It is known when the bar t+h closes, at t + h + 1 h:
    a forecast made at t + 1 h is about the time from then to t + 1 h + h. The label of `SUB_HOUR` minutes ends with the
    bar inside the hour, of the same venue, that closes then; there is none where there is no such bar.

    Args:
        bars: PRICES rows from the longest horizon and an hour before `first` on.
        first: start of the span in which the labels became known, exclusive, UTC.
        last: end of the span, inclusive, UTC.
        horizons: minutes ahead, whole hours.
        quarters: QUARTER_BARS rows of the span; None for no label of `SUB_HOUR` minutes.

    Returns:
        HOURLY_LABELS rows, one for each bar and horizon whose last hour has a bar. `log_return` is null if any hour
        between the two closes is missing.
    """
    parts = [] if quarters is None else [_sub_hour(bars, quarters)]
    ordered = bars.lazy().sort("open_time").select("open_time", "close")
    for horizon in horizons:
        end = pl.col("open_time") + pl.duration(minutes=horizon)
        rows = hours_spanned(horizon)
        gapless = pl.col("open_time").shift(-rows) - pl.col("open_time") == pl.duration(minutes=horizon)
        parts.append(
            ordered.with_columns(ends=end.is_in(pl.col("open_time").implode()))
            .select(
                "open_time",
                pl.lit(horizon, dtype=pl.Int64).alias("horizon_minutes"),
                (pl.col("open_time") + pl.duration(minutes=horizon + 60)).alias("known_at"),
                pl.when(gapless).then((pl.col("close").shift(-rows) / pl.col("close")).log()).alias("log_return"),
                "ends",
            )
            .filter("ends")
            .drop("ends")
        )
    return (
        pl.concat(parts)
        .filter((pl.col("known_at") > first) & (pl.col("known_at") <= last))
        .sort(HOURLY_LABELS.key)
        .collect()
    )


def _sub_hour(bars: pl.DataFrame, quarters: pl.DataFrame) -> pl.LazyFrame:
    """Return the label of `SUB_HOUR` minutes of each bar with a quarter bar that closes then."""
    late = SUB_HOUR + 60
    closes = pl.col("open_time") + pl.duration(minutes="minutes")
    ends = (
        quarters.lazy()
        .sort("open_time")
        .select((closes - pl.duration(minutes=late)).alias("open_time"), "venue", pl.col("close").alias("end"))
    )
    return (
        bars.lazy()
        .join(ends.unique(["open_time", "venue"], keep="last"), on=["open_time", "venue"])
        .select(
            "open_time",
            pl.lit(SUB_HOUR, dtype=pl.Int64).alias("horizon_minutes"),
            (pl.col("open_time") + pl.duration(minutes=late)).alias("known_at"),
            (pl.col("end") / pl.col("close")).log().alias("log_return"),
        )
    )
