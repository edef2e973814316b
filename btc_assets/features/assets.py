"""The feature and label assets: the pure functions of this domain on the daily grid."""

from __future__ import annotations

from datetime import UTC, datetime, time, timedelta

import dagster as dg
import polars as pl

from btc_assets.contracts import HORIZONS, HOURLY_FEATURES, HOURLY_LABELS, dagster_type
from btc_assets.features.catalog import FEATURE_SETS, FEATURES, WARMUP_DAYS
from btc_assets.features.engine import features_between
from btc_assets.features.labels import compute_labels
from btc_assets.lake import stored
from btc_assets.partitions import DAILY, day_of, days_before
from btc_assets.settings import settings

LABEL_DAYS = 2
"""Days of prices before a day that its labels look back on: 1 h + 24 h, rounded up."""
_FRESH = dg.FreshnessPolicy.time_window(fail_window=timedelta(hours=3), warn_window=timedelta(hours=2))


@dg.asset(
    key=["features", "hourly_features"],
    ins={"prices": dg.AssetIn(key=["market", "prices"], partition_mapping=days_before(WARMUP_DAYS, and_today=True))},
    partitions_def=DAILY,
    dagster_type=dagster_type(HOURLY_FEATURES),
    group_name="features",
    kinds={"polars", "parquet"},
    freshness_policy=_FRESH,
    backfill_policy=dg.BackfillPolicy.single_run(),
    code_version="1",
    op_tags={"dagster/max_runtime": 1800},
)
def hourly_features(context: dg.AssetExecutionContext, prices: pl.LazyFrame) -> dg.Output[pl.DataFrame]:
    """Every declared feature of every closed hour: price, order flow, regime and time.

    One row a bar, usable from available_at = open_time + 1 h. A day is computed from its own bars and the
    33 days before it, which settles every indicator to 1e-9; history and the newest hour run through the
    same expressions. Unknown is null, and `flow_hours_24h` and `missing_hours_24h` count what is known.
    """
    days = [day_of(key) for key in context.partition_keys]
    frame = features_between(prices.collect(), min(days), max(days))
    return stored(
        context,
        HOURLY_FEATURES,
        frame,
        {
            "features": len(FEATURES),
            "feature_sets": {name: len(members) for name, members in FEATURE_SETS.items()},
            "warmup_days": WARMUP_DAYS,
            "null_share": {
                name: round(share, 4)
                for name, share in frame.select(pl.col(f.name).is_null().mean() for f in FEATURES)
                .row(0, named=True)
                .items()
                if share
            },
        },
    )


@dg.asset(
    key=["features", "hourly_labels"],
    ins={"prices": dg.AssetIn(key=["market", "prices"], partition_mapping=days_before(LABEL_DAYS, and_today=True))},
    partitions_def=DAILY,
    dagster_type=dagster_type(HOURLY_LABELS),
    group_name="features",
    kinds={"polars", "parquet"},
    freshness_policy=_FRESH,
    backfill_policy=dg.BackfillPolicy.single_run(),
    code_version="1",
    op_tags={"dagster/max_runtime": 1800},
)
def hourly_labels(context: dg.AssetExecutionContext, prices: pl.LazyFrame) -> dg.Output[pl.DataFrame]:
    """What followed each hour: the log return over 1, 4 and 24 h, stored on the day it became known.

    A label of open_time t and horizon h is known at t + 1 h + h, and belongs to the day that ends at or
    after that moment; so a partition rests on the past alone. The return is null when any bar of (t, t+h]
    is missing.
    """
    days = [day_of(key) for key in context.partition_keys]
    end = datetime.combine(max(days) + timedelta(days=1), time(), UTC)
    frame = compute_labels(prices.collect(), min(days), max(days), HORIZONS, until=min(end, settings().now()))
    known = frame.group_by("horizon_hours").agg(pl.col("log_return").count(), pl.len()).sort("horizon_hours")
    return stored(
        context,
        HOURLY_LABELS,
        frame,
        {
            "labelled": {f"{row['horizon_hours']}h": row["log_return"] for row in known.to_dicts()},
            "unlabelled": {f"{row['horizon_hours']}h": row["len"] - row["log_return"] for row in known.to_dicts()},
        },
    )


ASSETS = [hourly_features, hourly_labels]
"""Assets of this domain."""
