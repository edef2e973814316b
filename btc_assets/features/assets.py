"""Features and labels of each hour."""

from datetime import datetime, timedelta
from typing import Any

import dagster as dg
import polars as pl

from btc_assets import freshness
from btc_assets.clock import midnight
from btc_assets.features.catalog import FEATURES, GROUPS, WARMUP_DAYS
from btc_assets.features.engine import features_between
from btc_assets.features.inputs import TABLES, read_inputs
from btc_assets.features.labels import compute_labels
from btc_assets.features.tables import HOURLY_FEATURES, HOURLY_LABELS
from btc_assets.lake import output_of
from btc_assets.partitions import DAILY, day_of, days_before
from btc_assets.reads import Tables
from btc_assets.schema import dagster_type
from btc_assets.vocabulary import HORIZONS

LABEL_DAYS = -(-(max(HORIZONS) + 60) // 1440)
"""Days of bars before a day that its labels need."""
_COMMON: dict[str, Any] = {
    "partitions_def": DAILY,
    "group_name": "features",
    "freshness_policy": freshness.HOURLY,
    "backfill_policy": dg.BackfillPolicy.single_run(),
    "code_version": "4",
    # The priority runs these assets before the non-blocking checks.
    "op_tags": {"dagster/max_runtime": "3600", "dagster/priority": "1"},
}
"""Options shared by every asset of this domain."""


def _back(table: str, days: int) -> dg.AssetIn:
    return dg.AssetIn(key=table.split("/"), partition_mapping=days_before(days, and_today=True))


def _span(context: dg.AssetExecutionContext) -> tuple[datetime, datetime]:
    """Return the start of the run's first day and the end of its last day, UTC."""
    first, last = (day_of(key) for key in (context.partition_keys[0], context.partition_keys[-1]))
    return midnight(first), midnight(last + timedelta(days=1))


@dg.asset(
    key=["features", "hourly_features"],
    **_COMMON,
    dagster_type=dagster_type(HOURLY_FEATURES),
    deps=[dg.AssetDep(table.asset_key, partition_mapping=days_before(WARMUP_DAYS, and_today=True)) for table in TABLES],
    kinds={"polars"},
)
def hourly_features(context: dg.AssetExecutionContext, tables: dg.ResourceParam[Tables]) -> dg.Output[pl.DataFrame]:
    """Every declared feature of each closed hour, from bars up to that hour and texts available in it.

    A row is available one hour after its open_time. Earlier rows of every stream are read only for the warm-up, so the
    cost of a day does not depend on the length of history. An unknown value is null; features of articles or posts are
    null on days that were not gathered.
    """
    first, end = _span(context)
    reads = tables.of(context)
    frame = features_between(read_inputs(reads), first, end)
    unknown = {
        feature.name: round(frame[feature.name].null_count() / max(frame.height, 1), 4)
        for feature in FEATURES
        if frame[feature.name].null_count()
    }
    return output_of(
        context,
        HOURLY_FEATURES,
        frame,
        {
            "features": {group: sum(feature.group == group for feature in FEATURES) for group in GROUPS},
            "share_unknown": unknown,
        },
    )


@dg.asset(
    key=["features", "hourly_labels"],
    **_COMMON,
    dagster_type=dagster_type(HOURLY_LABELS),
    ins={"prices": _back("market/prices", LABEL_DAYS), "quarter_bars": dg.AssetIn(key=["market", "quarter_bars"])},
    kinds={"polars"},
)
def hourly_labels(
    context: dg.AssetExecutionContext, prices: pl.LazyFrame, quarter_bars: pl.LazyFrame
) -> dg.Output[pl.DataFrame]:
    """Log return over the next 30 and 60 min, 4 h and 24 h, in the partition of the day on which it became known.

    A label is stored under the day on which its window closed, so a partition needs no later price and a model of a
    cutoff reads earlier partitions only. Returns across a gap are null; those over 30 min need quarter bars.
    """
    frame = compute_labels(prices.sort("open_time").collect(), *_span(context), quarters=quarter_bars.collect())
    return output_of(
        context,
        HOURLY_LABELS,
        frame,
        {"unknown_across_gaps": frame["log_return"].null_count(), "mean_log_return": frame["log_return"].mean()},
    )


ASSETS = [hourly_features, hourly_labels]
