"""One engine for all of history and for the newest hour: the same declarations, the same numbers."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime

import polars as pl

from btc_assets.features.catalog import FEATURES, GAP_SLACK_HOURS, Feature


def compute_features(bars: pl.DataFrame, features: Sequence[Feature] = FEATURES) -> pl.DataFrame:
    """Compute features for every bar given.

    Args:
        bars: PRICES rows, (n, 11), in time order, one an hour, gaps left as gaps.
        features: the ones to compute.

    Returns:
        HOURLY_FEATURES rows, (n, 2 + f): open_time, available_at and one Float64 column a feature. A
        feature is null for the first `warmup_hours` (and the slack for gaps) after the first bar.
    """
    # Eager on purpose: planning so many expressions costs a quarter more than it saves.
    return bars.select(
        "open_time", pl.col("open_time").dt.offset_by("1h").alias("available_at"), *map(_column, features)
    )


def features_between(bars: pl.DataFrame, first: datetime, last: datetime) -> pl.DataFrame:
    """Compute the features of the bars with first <= open_time < last; earlier bars only warm them up.

    Args:
        bars: PRICES rows in time order, reaching `WARMUP_DAYS` before `first` where history does.
        first: first open_time wanted, UTC.
        last: end, not included, UTC.
    """
    return compute_features(bars).filter(pl.col("open_time").is_between(first, last, closed="left"))


def _column(feature: Feature) -> pl.Expr:
    value = feature.expression.cast(pl.Float64)
    warm = feature.warmup_hours + GAP_SLACK_HOURS if feature.warmup_hours else 0
    known = value.is_finite() & (pl.col("open_time") >= pl.col("open_time").min() + pl.duration(hours=warm))
    return pl.when(known).then(value).alias(feature.name)
