"""Checks on the monitoring tables, for the newest day of the run or else the newest stored day."""

from datetime import date

import dagster as dg
import polars as pl

from btc_assets.lake import Lake
from btc_assets.monitoring.assets import drift_report
from btc_assets.monitoring.tables import DRIFT_REPORT
from btc_assets.partitions import day_to_check, nothing_stored
from btc_assets.schema import Contract
from btc_assets.settings import settings


def _one_day(lake: Lake, contract: Contract, day: date) -> pl.DataFrame:
    return lake.scan_days(contract, [day]).collect()


def _newest_drift(context: dg.AssetCheckExecutionContext, lake: Lake) -> tuple[date | None, pl.DataFrame]:
    """Return the day to check and its drift report."""
    day = day_to_check(context.run.tags, lake.days(DRIFT_REPORT))
    return day, DRIFT_REPORT.empty() if day is None else _one_day(lake, DRIFT_REPORT, day)


@dg.asset_check(asset=drift_report, name="few_inputs_moved")
def few_inputs_moved(context: dg.AssetCheckExecutionContext, lake: dg.ResourceParam[Lake]) -> dg.AssetCheckResult:
    """The share of the champion's inputs that drifted from its training window is below `BTC_DRIFT_SHARE` (warning)."""
    day, report = _newest_drift(context, lake)
    if day is None:
        return nothing_stored(DRIFT_REPORT.table)
    inputs = report.filter((pl.col("kind") == "input") & (pl.col("measure") == "psi"))
    moved = inputs.filter(pl.col("alarm"))["subject"].to_list()
    share, named = len(moved) / max(inputs.height, 1), ", ".join(moved[:8]) or "none"
    return dg.AssetCheckResult(
        passed=share < settings().drift_share,
        severity=dg.AssetCheckSeverity.WARN,
        description=f"{len(moved)} of {inputs.height} inputs drifted by {day}: {named}.",
        metadata={"day": str(day), "share": share},
    )


@dg.asset_check(asset=drift_report, name="promises_hold")
def promises_hold(context: dg.AssetCheckExecutionContext, lake: dg.ResourceParam[Lake]) -> dg.AssetCheckResult:
    """Calibration, coverage and log-loss of the champion's 60 min forecasts hold, its inputs are known (warning)."""
    day, report = _newest_drift(context, lake)
    if day is None:
        return nothing_stored(DRIFT_REPORT.table)
    broken = report.filter((pl.col("kind") == "concept") & pl.col("alarm"))["subject"].unique().sort().to_list()
    return dg.AssetCheckResult(
        passed=not broken,
        severity=dg.AssetCheckSeverity.WARN,
        description=f"By {day}, " + (f"{', '.join(broken)} no longer hold." if broken else "every promise holds."),
        metadata={"day": str(day), "broken": broken},
    )


CHECKS = [
    few_inputs_moved,
    promises_hold,
]
