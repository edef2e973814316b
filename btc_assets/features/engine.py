"""One engine for all of history and for the newest hour: the same declarations, the same numbers."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime

import polars as pl

from btc_assets.features.catalog import FEATURES, GAP_SLACK_HOURS
from btc_assets.streams import Feature, Inputs, every_hour


def compute_features(inputs: Inputs, features: Sequence[Feature] = FEATURES) -> pl.DataFrame:
    """Compute features for every row of the clock.

    Args:
        inputs: the clock's rows, (n, ...), in time order, one an hour, gaps left as gaps; and the other streams of the
            same span. What is made of a stream that is absent is null.
        features: the ones to compute.

    Returns:
        HOURLY_FEATURES rows, (n, 2 + f): open_time, available_at and one Float64 column a feature. A
        feature is null for the first `warmup_hours` (and the slack for gaps) after the first row.
    """
    of_the_clock = [feature for feature in features if not feature.streams]
    joined = [feature for feature in features if feature.streams and all(name in inputs for name in feature.streams)]
    lacking = [feature.name for feature in features if feature.streams and feature not in joined]
    # Eager on purpose: planning so many expressions costs a quarter more than it saves.
    made = inputs.clock.select(
        "open_time", pl.col("open_time").dt.offset_by("1h").alias("available_at"), *map(_column, of_the_clock)
    )
    if joined:
        made = made.join(_joined(inputs, joined), on="open_time", how="left", maintain_order="left")
    made = made.with_columns(pl.lit(None, pl.Float64).alias(name) for name in lacking)
    return made.select("open_time", "available_at", *(feature.name for feature in features))


def features_between(inputs: Inputs, first: datetime, last: datetime) -> pl.DataFrame:
    """Compute the features of the hours with first <= open_time < last; earlier rows only warm them up.

    Args:
        inputs: reaching `WARMUP_DAYS` before `first` where history does.
        first: first open_time wanted, UTC.
        last: end, not included, UTC.
    """
    return compute_features(inputs).filter(pl.col("open_time").is_between(first, last, closed="left"))


def _joined(inputs: Inputs, features: Sequence[Feature]) -> pl.DataFrame:
    """Compute features of other streams for every hour, with or without a row of the clock, from its first to its last.

    An expression may name features of the clock and columns of it, unknown where the hour has none.
    """
    hours = inputs.joined({name for feature in features for name in feature.streams}, every_hour(inputs.clock))
    named = {name for feature in features for name in feature.expression.meta.root_names()} - set(hours.columns)
    if named:
        read = [feature for feature in FEATURES if feature.name in named]
        columns = [name for name in inputs.clock.columns if name in named]
        beside = compute_features(inputs, read).drop("available_at")
        beside = beside.join(inputs.clock.select("open_time", *columns), on="open_time", maintain_order="left")
        hours = hours.join(beside, on="open_time", how="left", maintain_order="left")
    return hours.select("open_time", *map(_column, features))


def _column(feature: Feature) -> pl.Expr:
    value = feature.expression.cast(pl.Float64)
    warm = feature.warmup_hours + GAP_SLACK_HOURS if feature.warmup_hours else 0
    known = value.is_finite() & (pl.col("open_time") >= pl.col("open_time").min() + pl.duration(hours=warm))
    return pl.when(known).then(value).alias(feature.name)
