"""Checks on the feature tables: of the newest day of the run, or of the newest stored day outside a run."""

import dagster as dg
import polars as pl

from btc_assets.features.assets import hourly_features
from btc_assets.features.catalog import FEATURES, JOINED_GROUPS, WARMUP_DAYS
from btc_assets.features.tables import HOURLY_FEATURES
from btc_assets.lake import Lake
from btc_assets.partitions import day_to_check, nothing_stored

MAX_UNKNOWN = 0.25
"""Largest share of unknown values of a day without a warning; `OPTIONAL_GROUPS` do not count."""
OPTIONAL_GROUPS = ("flow", *JOINED_GROUPS)
"""Groups that may be unknown: many venues publish no order flow, and the other streams are optional."""


def unknown_shares(features: pl.DataFrame) -> dict[str, float]:
    """Return the share of unknown values of each feature outside `OPTIONAL_GROUPS` with unknown values."""
    counts = {f.name: features[f.name].null_count() for f in FEATURES if f.group not in OPTIONAL_GROUPS}
    return {name: count / features.height for name, count in counts.items() if count}


@dg.asset_check(asset=hourly_features, name="values_known")
def values_known(context: dg.AssetCheckExecutionContext, lake: dg.ResourceParam[Lake]) -> dg.AssetCheckResult:
    """Most features of the day are known; order flow and texts, which are optional, do not count."""
    day = day_to_check(context.run.tags, lake.days(HOURLY_FEATURES))
    stored = None if day is None else lake.read(HOURLY_FEATURES, day)
    if stored is None or stored.is_empty():
        return nothing_stored(HOURLY_FEATURES.table)
    shares = unknown_shares(stored)
    checked = sum(feature.group not in OPTIONAL_GROUPS for feature in FEATURES)
    share = sum(shares.values()) / checked
    worst = max(shares, key=lambda name: shares[name], default=None)
    return dg.AssetCheckResult(
        passed=share <= MAX_UNKNOWN,
        severity=dg.AssetCheckSeverity.WARN,
        description=f"{share:.1%} of the values of {day} are unknown, without order flow and texts"
        + (
            f", most often {worst} ({shares[worst]:.0%}); expected in the first {WARMUP_DAYS} days of a history."
            if worst
            else "."
        ),
        metadata={"day": str(day), "unknown": {name: round(value, 4) for name, value in shares.items()}},
    )


CHECKS = [
    values_known,
]
