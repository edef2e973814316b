"""The laws as asset checks on the feature tables, of the newest day a run made or else the newest stored."""

from datetime import date, datetime, timedelta

import dagster as dg
import polars as pl

from btc_assets.clock import HOUR, midnight
from btc_assets.features.assets import LABEL_DAYS, hourly_features, hourly_labels, stored_texts
from btc_assets.features.catalog import FEATURES, WARMUP_DAYS
from btc_assets.features.engine import features_between
from btc_assets.features.labels import compute_labels
from btc_assets.features.tables import HOURLY_FEATURES, HOURLY_LABELS
from btc_assets.features.texts import Texts
from btc_assets.lake import Lake
from btc_assets.laws.laws import TOO_FEW_BARS, feature_failures, moved, poisons, text_poisons
from btc_assets.market.tables import PRICES
from btc_assets.partitions import day_to_check, nothing_stored

_LAW_DAYS = 2
"""Days of bars beyond the warm-up that the engine's laws are judged on."""


_MADE_UP_HOURS = 48
"""Hours of made-up future set after a day: twice the longest span a bug of a day would reach for."""


def with_made_up_future(bars: pl.DataFrame, end: datetime) -> pl.DataFrame:
    """Return the bars before `end` and, after it, bars of a price that could never be.

    Args:
        bars: PRICES rows in time order.
        end: first hour made up, UTC.
    """
    past = bars.filter(pl.col("open_time") < end)
    ahead = past.tail(_MADE_UP_HOURS)
    hours = pl.int_range(pl.len()).cast(pl.Int64)
    ahead = ahead.with_columns(
        (pl.lit(end) + pl.duration(hours=hours)).cast(pl.Datetime("us", "UTC")).alias("open_time")
    )
    return poisons(pl.concat([past, ahead]), end - HOUR)["x1e6"]


def features_that_move(bars: pl.DataFrame, stored: pl.DataFrame, day: date, texts: Texts | None = None) -> list[str]:
    """Make a day's features again from its own window, with and without a made-up future; name what differs.

    Args:
        bars: PRICES rows in time order, from `WARMUP_DAYS` before the day on.
        stored: the day's HOURLY_FEATURES rows.
        day: the day.
        texts: articles, posts and scores that reach as far back; None where none were gathered.

    Returns:
        A sentence for each way of making it that does not give the stored rows; empty is a pass.
    """
    if stored.is_empty():
        return []
    start, end = midnight(day), stored["open_time"][-1] + HOUR
    first = start - timedelta(days=WARMUP_DAYS)
    window = bars.filter(pl.col("open_time") >= first)
    said = None if texts is None else texts.between(first, end)
    ways = {  # up to the newest row stored: bars and texts that came in since are no fault of it
        "from what was known at its end": (window.filter(pl.col("open_time") < end), said),
        "with a made-up future": (
            with_made_up_future(window, end),
            None if said is None else text_poisons(said, end)["absurd"],
        ),
    }
    found = {way: moved(stored, features_between(some, start, end, told)) for way, (some, told) in ways.items()}
    return [f"{sentence}, made again {way}" for way, sentence in found.items() if sentence]


@dg.asset_check(asset=hourly_features, name="causality")
def causality(context: dg.AssetCheckExecutionContext, lake: dg.ResourceParam[Lake]) -> dg.AssetCheckResult:
    """The day's features equal what its own bars and texts give, whatever comes after them; the engine keeps its laws.

    The laws are prefix invariance, future poisoning and warm-up, on the bars and texts behind the day; a history too
    short to judge them on says so and is no fault.
    """
    day = day_to_check(context.run.tags, lake.days(HOURLY_FEATURES))
    stored = None if day is None else lake.read(HOURLY_FEATURES, day)
    if day is None or stored is None:
        return nothing_stored(HOURLY_FEATURES.table)
    first = day - timedelta(days=WARMUP_DAYS + _LAW_DAYS)
    bars = lake.scan(PRICES, first, day).sort("open_time").collect()
    texts = stored_texts(lake, first, day)
    faults = features_that_move(bars, stored, day, texts)
    broken = feature_failures(bars, texts)
    judged = broken != [TOO_FEW_BARS]
    if judged and broken:
        faults.append(f"the engine breaks {', '.join(broken)} on the bars and texts up to {day}")
    own = "bars" if texts is None else "bars and texts"
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
            "texts_judged": texts is not None,
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
    bars = lake.scan(PRICES, day - timedelta(days=LABEL_DAYS), day).sort("open_time").collect()
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
