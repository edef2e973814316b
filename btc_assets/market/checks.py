"""Checks on `market/prices` and `market/quarter_bars`: of the days of the run, or of the newest stored day."""

from collections.abc import Sequence
from datetime import date, datetime, timedelta

import dagster as dg
import polars as pl

from btc_assets.clock import HOUR
from btc_assets.lake import Lake
from btc_assets.markdown import markdown_rows
from btc_assets.market.assets import ROWS_SHOWN, closed_span, gap_table, prices, quarter_bars
from btc_assets.market.bars import coverage_fault, find_gaps, first_fault
from btc_assets.market.quarter_bars import COMPARED, QUARTER_BARS, hours_that_differ, hours_without_quarters
from btc_assets.market.resources import Market
from btc_assets.market.tables import PRICES
from btc_assets.partitions import days_to_check, nothing_stored

MAX_AGE = timedelta(hours=2)
"""Largest age of the newest bar, from its close."""
MAX_STEP = 0.01
"""Largest |log return| from the last close of a day to the first open of the next day, fraction."""


def _days(context: dg.AssetCheckExecutionContext, lake: Lake) -> list[date]:
    return days_to_check(context.run.tags, lake.days(PRICES))


def _bars(lake: Lake, days: Sequence[date], *, before: int = 0) -> pl.DataFrame:
    """Return the stored bars of the days and of `before` days before them, in one scan."""
    return lake.scan(PRICES, days[0] - timedelta(days=before), days[-1]).collect()


@dg.asset_check(asset=prices, name="hours_present", blocking=True)
def hours_present(
    context: dg.AssetCheckExecutionContext, lake: dg.ResourceParam[Lake], market: dg.ResourceParam[Market]
) -> dg.AssetCheckResult:
    """Every closed hour has a bar.

    An error if a day after the first stored bar has no bar, or if the newest closed hour is missing; a warning for
    other gaps, which stay gaps. Hours after the end of the files do not count.
    """
    days = _days(context, lake)
    if not days:
        return nothing_stored(PRICES.table)
    now = market.now()
    first, last = closed_span(days, now)
    frame = _bars(lake, days)
    newest = frame.get_column("open_time").max()
    if not market.grows and isinstance(newest, datetime) and newest.date() == days[-1]:
        last = min(last, newest + HOUR)
    gaps = find_gaps(frame, first, last)
    missing = int(gaps.get_column("bars").sum())
    expected = (last - first) // HOUR
    description = (
        f"{missing} of {expected} closed hours from {first:%Y-%m-%d %H:%M} to {last:%Y-%m-%d %H:%M} UTC are missing"
    )
    if missing:
        longest_start, longest_end, _ = gaps.sort("bars", "first_missing", descending=[True, False]).row(0)
        description += (
            f"; the longest gap has {(longest_end - longest_start) // HOUR + 1}, from {longest_start:%Y-%m-%d %H:%M} on"
        )
    stale = market.grows and expected > 0 and last + HOUR > now and last - HOUR not in frame.get_column("open_time")
    fault = coverage_fault(frame, days, last, grows=market.grows)
    if fault:
        description += f"; {fault}"
    if stale:
        description += (
            f"; the newest closed hour, {last - HOUR:%Y-%m-%d %H:%M}, is missing: materialise market/prices of "
            f"{days[-1]} again, or choose another BTC_MARKET_SOURCE if the venue stays late"
        )
    return dg.AssetCheckResult(
        passed=missing == 0,
        severity=dg.AssetCheckSeverity.ERROR if fault or stale else dg.AssetCheckSeverity.WARN,
        description=f"{description}.",
        metadata={"missing_hours": missing, "gaps": dg.MetadataValue.md(gap_table(gaps))},
    )


@dg.asset_check(asset=prices, name="ohlc_laws", blocking=True)
def ohlc_laws(context: dg.AssetCheckExecutionContext, lake: dg.ResourceParam[Lake]) -> dg.AssetCheckResult:
    """Every stored bar opens on the hour, once; prices are above zero, low is lowest and high is highest."""
    days = _days(context, lake)
    if not days:
        return nothing_stored(PRICES.table)
    frame = _bars(lake, days)
    fault = first_fault(frame)
    if fault is None and frame.get_column("open_time").is_duplicated().any():
        twice = frame.filter(pl.col("open_time").is_duplicated())["open_time"][0]
        fault = f"expected one bar an hour, got two at {twice}"
    return dg.AssetCheckResult(
        passed=fault is None,
        description=f"All {frame.height} bars are valid."
        if fault is None
        else f"A stored bar is invalid: {fault}; materialise market/prices of its day again.",
        metadata={"bars": frame.height},
    )


@dg.asset_check(asset=prices, name="newest_bar_age", blocking=True)
def newest_bar_age(
    context: dg.AssetCheckExecutionContext, lake: dg.ResourceParam[Lake], market: dg.ResourceParam[Market]
) -> dg.AssetCheckResult:
    """The newest bar closed less than two hours ago; checked only for the newest day."""
    days = _days(context, lake)
    if not days:
        return nothing_stored(PRICES.table)
    now = market.now()
    if days[-1] < (now - HOUR).date():
        return dg.AssetCheckResult(
            passed=True, description=f"{days[-1]} is not the newest day, so its age does not matter."
        )
    newest = _bars(lake, days[-1:], before=3).get_column("open_time").max()
    if not isinstance(newest, datetime):
        return dg.AssetCheckResult(
            passed=False,
            description=f"No bar of the four days to {days[-1]} is stored: materialise market/prices of them again, or "
            f"choose another BTC_MARKET_SOURCE.",
        )
    if not market.grows and newest.date() == days[-1]:
        return dg.AssetCheckResult(passed=True, description=f"The files end at {newest + HOUR:%Y-%m-%d %H:%M} UTC.")
    age = now - newest - HOUR
    old = age > MAX_AGE
    return dg.AssetCheckResult(
        passed=not old,
        description=f"The newest bar opened at {newest:%Y-%m-%d %H:%M} UTC and closed {age / HOUR:.1f} h ago; at most "
        f"{MAX_AGE / HOUR:.0f} h are expected"
        + (f": materialise market/prices of {days[-1]} again, or choose another BTC_MARKET_SOURCE." if old else "."),
        metadata={"age_hours": age / HOUR},
    )


@dg.asset_check(asset=prices, name="continuity")
def continuity(context: dg.AssetCheckExecutionContext, lake: dg.ResourceParam[Lake]) -> dg.AssetCheckResult:
    """Each day opens within 1 % of the close of the hour before it; a day after a gap is not checked."""
    days = _days(context, lake)
    if not days:
        return nothing_stored(PRICES.table)
    frame = _bars(lake, days, before=1).sort("open_time")
    steps = (
        frame.with_columns(pl.col("close").shift(1).alias("close_before"), pl.col("open_time").diff().alias("apart"))
        .filter((pl.col("apart") == HOUR) & (pl.col("open_time").dt.hour() == 0) & (PRICES.day >= pl.lit(days[0])))
        .with_columns((pl.col("open") / pl.col("close_before")).log().alias("step"))
    )
    large = steps.filter(pl.col("step").abs() > MAX_STEP)
    return dg.AssetCheckResult(
        passed=large.is_empty(),
        severity=dg.AssetCheckSeverity.WARN,
        description=f"{large.height} of {steps.height} days open more than {MAX_STEP:.0%} away from the previous close"
        + (f", the first on {large['open_time'][0]:%Y-%m-%d} by {large['step'][0]:+.1%}." if large.height else "."),
        metadata={"days": steps.height, "large_steps": large.height},
    )


def _quarters(lake: Lake, days: Sequence[date]) -> pl.DataFrame:
    return lake.scan(QUARTER_BARS, days[0], days[-1]).collect()


@dg.asset_check(asset=quarter_bars, name="quarters_present")
def quarters_present(
    context: dg.AssetCheckExecutionContext, lake: dg.ResourceParam[Lake], market: dg.ResourceParam[Market]
) -> dg.AssetCheckResult:
    """Every stored hour has its quarter bars; only a warning, as forecasts are made without them too."""
    days = days_to_check(context.run.tags, lake.days(QUARTER_BARS))
    if not days:
        return nothing_stored(QUARTER_BARS.table)
    if market.quarters is None:
        return dg.AssetCheckResult(passed=True, description="The chosen source has no quarter bars.")
    hours = _bars(lake, days)
    missing = hours_without_quarters(_quarters(lake, days), hours)
    return dg.AssetCheckResult(
        passed=missing.is_empty(),
        severity=dg.AssetCheckSeverity.WARN,
        description=f"{missing.len()} of {hours.height} stored hours from {days[0]} to {days[-1]} lack a quarter bar"
        + (f", the first {missing[0]:%Y-%m-%d %H:%M} UTC." if missing.len() else "."),
        metadata={"missing_hours": missing.len()},
    )


@dg.asset_check(asset=quarter_bars, name="quarters_make_the_hour")
def quarters_make_the_hour(context: dg.AssetCheckExecutionContext, lake: dg.ResourceParam[Lake]) -> dg.AssetCheckResult:
    """The quarter bars of an hour make the stored hour: equal prices, and the volume up to rounding.

    Only a warning, which lists the hours that differ. Hours that lack a quarter bar or are of another venue are not
    compared.
    """
    days = days_to_check(context.run.tags, lake.days(QUARTER_BARS))
    if not days:
        return nothing_stored(QUARTER_BARS.table)
    compared = hours_that_differ(_quarters(lake, days), _bars(lake, days))
    wrong = compared.filter(pl.col("differs").list.len() > 0)
    rows = [(f"{at:%Y-%m-%d %H:%M}", ", ".join(names)) for at, names in wrong.head(ROWS_SHOWN).iter_rows()]
    more = f"\n\n… and {wrong.height - ROWS_SHOWN} more." if wrong.height > ROWS_SHOWN else ""
    return dg.AssetCheckResult(
        passed=wrong.is_empty(),
        severity=dg.AssetCheckSeverity.WARN,
        description=f"{compared.height - wrong.height} of {compared.height} hours equal what their quarter bars make"
        + (f"; the first that differs is {rows[0][0]} UTC ({rows[0][1]})." if rows else "."),
        metadata={
            "hours_compared": compared.height,
            "hours_that_differ": wrong.height,
            **{f"{name}_differs": wrong.filter(pl.col("differs").list.contains(name)).height for name in COMPARED},
            "differing": dg.MetadataValue.md(markdown_rows(("hour, UTC", "differs"), rows) + more if rows else "None."),
        },
    )


CHECKS = [hours_present, ohlc_laws, newest_bar_age, continuity, quarters_present, quarters_make_the_hour]
