"""The laws as checks on the feature tables: of the newest day of the run, or of the newest stored day outside a run."""

from datetime import date, timedelta

import dagster as dg
import polars as pl

from btc_assets.clock import HOUR, midnight
from btc_assets.features.assets import LABEL_DAYS, hourly_features, hourly_labels
from btc_assets.features.catalog import FEATURES, WARMUP_DAYS
from btc_assets.features.engine import features_between
from btc_assets.features.inputs import CLOCK, read_inputs
from btc_assets.features.labels import compute_labels
from btc_assets.features.tables import HOURLY_FEATURES, HOURLY_LABELS
from btc_assets.lake import Lake
from btc_assets.laws.laws import TOO_FEW_BARS, feature_failures, largest_change
from btc_assets.market.quarter_bars import QUARTER_BARS
from btc_assets.partitions import day_to_check, nothing_stored
from btc_assets.streams import Inputs

_LAW_DAYS = 2
"""Days after the warm-up on which the engine's laws are tested."""


def feature_differences(inputs: Inputs, stored: pl.DataFrame, day: date) -> list[str]:
    """Recompute a day's features from its own window, with and without a synthetic future, and report differences.

    Args:
        inputs: rows from `WARMUP_DAYS` before the day on.
        stored: the day's HOURLY_FEATURES rows.
        day: the day.

    Returns:
        A sentence for each recomputation that differs from the stored rows; empty if none does.
    """
    if stored.is_empty():
        return []
    start, end = midnight(day), stored["open_time"][-1] + HOUR
    # Up to the newest stored row: rows that arrived since then are not an error.
    known = inputs.between(start - timedelta(days=WARMUP_DAYS), end)
    variants = {"from the rows known at its end": known}
    variants |= {f"with a future that is {name}": future for name, future in known.poisoned(end).items()}
    differences = {
        variant: largest_change(stored, features_between(variant_inputs, start, end))
        for variant, variant_inputs in variants.items()
    }
    return [f"{sentence}, recomputed {variant}" for variant, sentence in differences.items() if sentence]


@dg.asset_check(asset=hourly_features, name="causality")
def causality(context: dg.AssetCheckExecutionContext, lake: dg.ResourceParam[Lake]) -> dg.AssetCheckResult:
    """The day's features follow from its own bars and texts alone, whatever comes later; the engine obeys the laws.

    The laws are prefix invariance, future poisoning, availability and warm-up, on the bars, texts and other streams
    of the day's window. A history that is too short to test them is reported and passes.
    """
    day = day_to_check(context.run.tags, lake.days(HOURLY_FEATURES))
    stored = None if day is None else lake.read(HOURLY_FEATURES, day)
    if day is None or stored is None:
        return nothing_stored(HOURLY_FEATURES.table)
    inputs = read_inputs(lake, day - timedelta(days=WARMUP_DAYS + _LAW_DAYS), day)
    faults = feature_differences(inputs, stored, day)
    broken = feature_failures(inputs)
    tested = broken != [TOO_FEW_BARS]
    stream_names = " and ".join(stream.name for stream in inputs.rows)
    if tested and broken:
        faults.append(f"the engine breaks {', '.join(broken)} on the {stream_names} up to {day}")
    engine_state = "the engine obeys the laws" if tested else "there are too few earlier bars to test the engine's laws"
    return dg.AssetCheckResult(
        passed=not faults,
        description="; ".join(faults)
        or f"{stored.height} rows of {day} follow from their own {stream_names} alone; {engine_state}.",
        metadata={
            "day": str(day),
            "rows": stored.height,
            "features": len(FEATURES),
            "laws_broken": broken if tested else [],
            "laws_tested": tested,
            "texts_tested": "articles" in inputs or "posts" in inputs,
            "streams_tested": [stream.name for stream in inputs.rows],
        },
    )


@dg.asset_check(asset=hourly_labels, name="labels_from_their_own_bars")
def labels_from_their_own_bars(
    context: dg.AssetCheckExecutionContext, lake: dg.ResourceParam[Lake]
) -> dg.AssetCheckResult:
    """The labels that became known on the day follow from the bars closed by its end."""
    day = day_to_check(context.run.tags, lake.days(HOURLY_LABELS))
    stored = None if day is None else lake.read(HOURLY_LABELS, day)
    if day is None or stored is None:
        return nothing_stored(HOURLY_LABELS.table)
    bars = lake.scan(CLOCK.contract, day - timedelta(days=LABEL_DAYS), day).sort("open_time").collect()
    quarters = lake.scan_days(QUARTER_BARS, [day]).collect()
    recomputed = compute_labels(bars, midnight(day), midnight(day + timedelta(days=1)), quarters=quarters)
    if not stored.is_empty():
        recomputed = recomputed.filter(pl.col("known_at") <= stored["known_at"].max())  # later bars are not an error
    fault = largest_change(stored, recomputed)
    return dg.AssetCheckResult(
        passed=not fault,
        description=fault or f"{stored.height} labels of {day} follow from the bars closed by its end.",
        metadata={"day": str(day), "rows": stored.height},
    )


CHECKS = [causality, labels_from_their_own_bars]
