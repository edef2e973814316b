"""One engine for all of history and for the newest hour: the same declarations, the same numbers."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime

import polars as pl

from btc_assets.features.catalog import FEATURES, GAP_SLACK_HOURS, TEXT_GROUPS, Feature
from btc_assets.features.texts import Texts, every_hour


def compute_features(
    bars: pl.DataFrame, texts: Texts | None = None, features: Sequence[Feature] = FEATURES
) -> pl.DataFrame:
    """Compute features for every bar given.

    Args:
        bars: PRICES rows, (n, 11), in time order, one an hour, gaps left as gaps.
        texts: articles, posts and scores of the same span; None where there are none, and what is made of texts is
            null.
        features: the ones to compute.

    Returns:
        HOURLY_FEATURES rows, (n, 2 + f): open_time, available_at and one Float64 column a feature. A
        feature is null for the first `warmup_hours` (and the slack for gaps) after the first bar.
    """
    of_bars = [feature for feature in features if feature.group not in TEXT_GROUPS]
    of_texts = [feature for feature in features if feature.group in TEXT_GROUPS]
    # Eager on purpose: planning so many expressions costs a quarter more than it saves.
    made = bars.select(
        "open_time", pl.col("open_time").dt.offset_by("1h").alias("available_at"), *map(_column, of_bars)
    )
    if texts is None:
        made = made.with_columns(pl.lit(None, pl.Float64).alias(feature.name) for feature in of_texts)
    elif of_texts:
        hourly = _text_features(bars, texts, of_texts)
        made = made.join(hourly, on="open_time", how="left", maintain_order="left")
    return made.select("open_time", "available_at", *(feature.name for feature in features))


def features_between(bars: pl.DataFrame, first: datetime, last: datetime, texts: Texts | None = None) -> pl.DataFrame:
    """Compute the features of the bars with first <= open_time < last; earlier bars and texts only warm them up.

    Args:
        bars: PRICES rows in time order, reaching `WARMUP_DAYS` before `first` where history does.
        first: first open_time wanted, UTC.
        last: end, not included, UTC.
        texts: articles, posts and scores that reach as far back, or None.
    """
    return compute_features(bars, texts).filter(pl.col("open_time").is_between(first, last, closed="left"))


def _text_features(bars: pl.DataFrame, texts: Texts, features: Sequence[Feature]) -> pl.DataFrame:
    """Compute features of texts for every hour, with or without a bar, from the first bar to the last."""
    hours = texts.hourly(every_hour(bars))
    named = {name for feature in features for name in feature.expression.meta.root_names()} - set(hours.columns)
    if named:
        read = compute_features(bars, features=[feature for feature in FEATURES if feature.name in named])
        hours = hours.join(read.drop("available_at"), on="open_time", how="left", maintain_order="left")
    return hours.select("open_time", *map(_column, features))


def _column(feature: Feature) -> pl.Expr:
    value = feature.expression.cast(pl.Float64)
    warm = feature.warmup_hours + GAP_SLACK_HOURS if feature.warmup_hours else 0
    known = value.is_finite() & (pl.col("open_time") >= pl.col("open_time").min() + pl.duration(hours=warm))
    return pl.when(known).then(value).alias(feature.name)
