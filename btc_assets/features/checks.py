"""Checks on the feature tables, of the newest day a run made or else the newest stored."""

import dagster as dg
import polars as pl

from btc_assets.features.assets import hourly_features
from btc_assets.features.catalog import FEATURES, JOINED_GROUPS, WARMUP_DAYS
from btc_assets.features.tables import HOURLY_FEATURES
from btc_assets.lake import Lake
from btc_assets.partitions import day_to_check, nothing_stored

MOST_UNKNOWN = 0.25
"""Share of a day's values that may be unknown before a warning, those of `OPTIONAL_GROUPS` aside."""
OPTIONAL_GROUPS = ("flow", *JOINED_GROUPS)
"""Groups that may well be unknown: many venues publish no order flow, and the other streams need not be gathered."""


def unknown_shares(features: pl.DataFrame) -> dict[str, float]:
    """Return the share of unknown values of each feature outside `OPTIONAL_GROUPS` that has any."""
    counts = {f.name: features[f.name].null_count() for f in FEATURES if f.group not in OPTIONAL_GROUPS}
    return {name: count / features.height for name, count in counts.items() if count}


@dg.asset_check(asset=hourly_features, name="values_known")
def values_known(context: dg.AssetCheckExecutionContext, lake: dg.ResourceParam[Lake]) -> dg.AssetCheckResult:
    """Most features of the day are known; order flow and texts, which not everybody has, are not counted."""
    day = day_to_check(context.run.tags, lake.days(HOURLY_FEATURES))
    stored = None if day is None else lake.read(HOURLY_FEATURES, day)
    if stored is None or stored.is_empty():
        return nothing_stored(HOURLY_FEATURES.table)
    shares = unknown_shares(stored)
    judged = sum(feature.group not in OPTIONAL_GROUPS for feature in FEATURES)
    share = sum(shares.values()) / judged
    most = max(shares, key=lambda name: shares[name], default=None)
    return dg.AssetCheckResult(
        passed=share <= MOST_UNKNOWN,
        severity=dg.AssetCheckSeverity.WARN,
        description=f"{share:.1%} of the values of {day}, order flow and texts aside, are unknown"
        + (
            f", most often {most} ({shares[most]:.0%}); the first {WARMUP_DAYS} days of a history are." if most else "."
        ),
        metadata={"day": str(day), "unknown": {name: round(value, 4) for name, value in shares.items()}},
    )


CHECKS = [
    values_known,
]
