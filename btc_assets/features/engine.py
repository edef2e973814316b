"""Feature engine: the same code for all of history and for the newest hour."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime

import polars as pl

from btc_assets.features.catalog import FEATURES, GAP_SLACK_HOURS
from btc_assets.streams import Feature, Inputs, every_hour


def compute_features(inputs: Inputs, features: Sequence[Feature] = FEATURES) -> pl.DataFrame:
    """Compute features for every row of the clock.

    Args:
        inputs: the clock's rows, (n, ...), in time order, one per hour, with gaps; and the other streams of the same
            span. Features of an absent stream are null.
        features: the features to compute.

    Returns:
        HOURLY_FEATURES rows, (n, 2 + f): open_time, available_at and one Float64 column per feature. A feature is null
        for the first `warmup_hours` (plus the slack for gaps) after the first row.
    """
    clock_features = [feature for feature in features if not feature.streams]
    joined_features = [
        feature for feature in features if feature.streams and all(name in inputs for name in feature.streams)
    ]
    unknown = [feature.name for feature in features if feature.streams and feature not in joined_features]
    table = _values(inputs.clock, clock_features)
    if joined_features:
        table = table.join(_joined(inputs, joined_features), on="open_time", how="left", maintain_order="left")
    table = table.with_columns(pl.lit(None, pl.Float64).alias(name) for name in unknown)
    available_at = pl.col("open_time").dt.offset_by("1h").alias("available_at")
    return table.select("open_time", available_at, *(feature.name for feature in features))


def features_between(inputs: Inputs, first: datetime, last: datetime) -> pl.DataFrame:
    """Compute the features of the hours with first <= open_time < last; earlier rows are only for the warm-up.

    Args:
        inputs: from `WARMUP_DAYS` before `first` on, as far as history reaches.
        first: first open_time, UTC.
        last: end, exclusive, UTC.
    """
    return compute_features(inputs).filter(pl.col("open_time").is_between(first, last, closed="left"))


def _joined(inputs: Inputs, features: Sequence[Feature]) -> pl.DataFrame:
    """Compute the features of other streams for every hour between the clock's first and last row, gaps included.

    An expression may use features and columns of the clock; these are null in hours without a row of the clock.
    """
    hours = inputs.joined({name for feature in features for name in feature.streams}, every_hour(inputs.clock))
    named = {name for feature in features for name in feature.expression.meta.root_names()} - set(hours.columns)
    if named:
        clock_features = [feature for feature in FEATURES if feature.name in named]
        columns = [name for name in inputs.clock.columns if name in named]
        clock_values = compute_features(inputs, clock_features).drop("available_at")
        clock_values = clock_values.join(
            inputs.clock.select("open_time", *columns), on="open_time", maintain_order="left"
        )
        hours = hours.join(clock_values, on="open_time", how="left", maintain_order="left")
    return _values(hours, features)


def _values(rows: pl.DataFrame, features: Sequence[Feature]) -> pl.DataFrame:
    """Return open_time and a column per feature, null where the value is not finite or its warm-up is not over."""
    # Eager on purpose: lazy planning of so many expressions costs a quarter more than it saves. Two steps, because an
    # expression that is named twice is computed twice.
    values = rows.select(
        "open_time", *(feature.expression.cast(pl.Float64).alias(feature.name) for feature in features)
    )
    return values.with_columns(
        pl.when(_is_warm(feature) & pl.col(feature.name).is_finite()).then(pl.col(feature.name)).alias(feature.name)
        for feature in features
    )


def _is_warm(feature: Feature) -> pl.Expr:
    hours = feature.warmup_hours + GAP_SLACK_HOURS if feature.warmup_hours else 0
    return pl.col("open_time") >= pl.col("open_time").min() + pl.duration(hours=hours)
