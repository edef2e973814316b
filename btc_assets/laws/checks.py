"""The laws as asset checks on the feature tables, of the newest day a run made or else the newest stored."""

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
from btc_assets.laws.laws import TOO_FEW_BARS, feature_failures, moved
from btc_assets.partitions import day_to_check, nothing_stored
from btc_assets.streams import Inputs

_LAW_DAYS = 2
"""Days beyond the warm-up that the engine's laws are judged on."""


def features_that_move(inputs: Inputs, stored: pl.DataFrame, day: date) -> list[str]:
    """Make a day's features again from its own window, with and without a made-up future; name what differs.

    Args:
        inputs: from `WARMUP_DAYS` before the day on.
        stored: the day's HOURLY_FEATURES rows.
        day: the day.

    Returns:
        A sentence for each way of making it that does not give the stored rows; empty is a pass.
    """
    if stored.is_empty():
        return []
    start, end = midnight(day), stored["open_time"][-1] + HOUR
    # Up to the newest row stored: what came in since is no fault of it.
    known = inputs.between(start - timedelta(days=WARMUP_DAYS), end)
    ways = {"from what was known at its end": known}
    ways |= {f"with a made-up future that is {name}": future for name, future in known.poisoned(end).items()}
    found = {way: moved(stored, features_between(some, start, end)) for way, some in ways.items()}
    return [f"{sentence}, made again {way}" for way, sentence in found.items() if sentence]


@dg.asset_check(asset=hourly_features, name="causality")
def causality(context: dg.AssetCheckExecutionContext, lake: dg.ResourceParam[Lake]) -> dg.AssetCheckResult:
    """The day's features equal what its own bars and texts give, whatever comes after them; the engine keeps its laws.

    The laws are prefix invariance, future poisoning, availability and warm-up, on the bars, texts and other streams
    behind the day; a history too short to judge them on says so and is no fault.
    """
    day = day_to_check(context.run.tags, lake.days(HOURLY_FEATURES))
    stored = None if day is None else lake.read(HOURLY_FEATURES, day)
    if day is None or stored is None:
        return nothing_stored(HOURLY_FEATURES.table)
    inputs = read_inputs(lake, day - timedelta(days=WARMUP_DAYS + _LAW_DAYS), day)
    faults = features_that_move(inputs, stored, day)
    broken = feature_failures(inputs)
    judged = broken != [TOO_FEW_BARS]
    own = " and ".join(stream.name for stream in inputs.rows)
    if judged and broken:
        faults.append(f"the engine breaks {', '.join(broken)} on the {own} up to {day}")
    kept = "the engine keeps its laws on them" if judged else "too few bars lie before it to judge the engine's laws"
    return dg.AssetCheckResult(
        passed=not faults,
        description="; ".join(faults)
        or f"{stored.height} rows of {day} equal what their own {own} give, whatever comes after them; {kept}.",
        metadata={
            "day": str(day),
            "rows": stored.height,
            "features": len(FEATURES),
            "laws_broken": broken if judged else [],
            "laws_judged": judged,
            "texts_judged": "articles" in inputs or "posts" in inputs,
            "streams_judged": [stream.name for stream in inputs.rows],
        },
    )


@dg.asset_check(asset=hourly_labels, name="labels_from_their_own_bars")
def labels_from_their_own_bars(
    context: dg.AssetCheckExecutionContext, lake: dg.ResourceParam[Lake]
) -> dg.AssetCheckResult:
    """The labels that became known on the day are those that the bars closed by its end give."""
    day = day_to_check(context.run.tags, lake.days(HOURLY_LABELS))
    stored = None if day is None else lake.read(HOURLY_LABELS, day)
    if day is None or stored is None:
        return nothing_stored(HOURLY_LABELS.table)
    bars = lake.scan(CLOCK.contract, day - timedelta(days=LABEL_DAYS), day).sort("open_time").collect()
    made = compute_labels(bars, midnight(day), midnight(day + timedelta(days=1)))
    if not stored.is_empty():
        made = made.filter(pl.col("known_at") <= stored["known_at"].max())  # bars that came in since are no fault
    fault = moved(stored, made)
    return dg.AssetCheckResult(
        passed=not fault,
        description=fault or f"{stored.height} labels of {day} equal what the bars closed by its end give.",
        metadata={"day": str(day), "rows": stored.height},
    )


CHECKS = [causality, labels_from_their_own_bars]
