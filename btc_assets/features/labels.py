"""Labels: the log return over each horizon, in the partition of the day on which it became known."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime

import polars as pl

from btc_assets.features.tables import HOURLY_LABELS
from btc_assets.vocabulary import HORIZONS, hours_spanned


def compute_labels(
    bars: pl.DataFrame, first: datetime, last: datetime, horizons: Sequence[int] = HORIZONS
) -> pl.DataFrame:
    """Compute the labels that became known in (first, last].

    A label of horizon h at hour t is `ln(close[t+h] / close[t])`. It is known when the bar t+h closes, at t + h + 1 h:
    a forecast made at t + 1 h is about the time from then to t + 1 h + h.

    Args:
        bars: PRICES rows from the longest horizon and an hour before `first` on.
        first: start of the span in which the labels became known, exclusive, UTC.
        last: end of the span, inclusive, UTC.
        horizons: minutes ahead, whole hours.

    Returns:
        HOURLY_LABELS rows, one for each bar and horizon whose last hour has a bar. `log_return` is null if any hour
        between the two closes is missing.
    """
    ordered = bars.lazy().sort("open_time").select("open_time", "close")
    parts = []
    for horizon in horizons:
        end = pl.col("open_time") + pl.duration(minutes=horizon)
        rows = hours_spanned(horizon)
        gapless = pl.col("open_time").shift(-rows) - pl.col("open_time") == pl.duration(minutes=horizon)
        parts.append(
            ordered.with_columns(ends=end.is_in(pl.col("open_time").implode())).select(
                "open_time",
                pl.lit(horizon, dtype=pl.Int64).alias("horizon_minutes"),
                (pl.col("open_time") + pl.duration(minutes=horizon + 60)).alias("known_at"),
                pl.when(gapless).then((pl.col("close").shift(-rows) / pl.col("close")).log()).alias("log_return"),
                "ends",
            )
        )
    return (
        pl.concat(parts)
        .filter(pl.col("ends") & (pl.col("known_at") > first) & (pl.col("known_at") <= last))
        .drop("ends")
        .sort(HOURLY_LABELS.key)
        .collect()
    )
