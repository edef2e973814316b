"""Retraining on evidence: a broken promise or proven degradation asks for a new cutoff, within safe limits.

A tick says in a sentence why it asked, or why it did not. A cool-down and a daily budget keep an alarm that goes on
from training all day; the gate still decides who serves, so a training that was not needed costs time and nothing else.
"""

from collections.abc import Callable, Iterable
from datetime import UTC, date, datetime, timedelta

import dagster as dg
import polars as pl

from btc_assets.automation.jobs import train_cutoff
from btc_assets.automation.sensors import (
    PARTITION_TAG,
    RUNNING_WHEN_LIVE,
    SENSOR_TAG,
    Position,
    answered,
    asked_again,
    new_content,
)
from btc_assets.automation.spans import DAY
from btc_assets.champion.tables import MODEL_VERDICT
from btc_assets.features.tables import HOURLY_FEATURES
from btc_assets.lake import Lake
from btc_assets.monitoring.degradation import broken_promises, significant_degradation
from btc_assets.monitoring.tables import DRIFT_REPORT, PERFORMANCE_REPORT
from btc_assets.partitions import day_of, key_of
from btc_assets.schema import Contract
from btc_assets.settings import settings

NEWEST_DAYS = 3
"""Reports older than this many days tell of history that was filled in, and ask for nothing."""
RETRAINERS = ("retrain_on_drift", "retrain_on_degradation")
"""The sensors that share one cool-down and one budget."""
_REASON_TAG = "btc/reason"


def broken(report: pl.DataFrame) -> list[str]:
    """Say which promises a drift report found broken; moved inputs alone are a warning and ask for nothing.

    Args:
        report: DRIFT_REPORT rows of one day.
    """
    return [f"{one.promise} is broken: {one.proof}" for one in broken_promises(report)]


def why_not(instance: dg.DagsterInstance, lake: Lake, cutoff: date, now: datetime) -> str | None:
    """Say why no training of a cutoff may be asked for now, or None when it may.

    Args:
        instance: whose runs and events are read.
        lake: where the features of the day before must be.
        cutoff: the cutoff asked for.
        now: UTC.
    """
    config = settings()
    asked = [
        run
        for name in RETRAINERS
        for run in instance.get_runs(dg.RunsFilter(tags={SENSOR_TAG: name}, created_after=now - timedelta(days=1)))
    ]
    if len({run.tags.get(PARTITION_TAG) for run in asked}) >= config.retrain_budget_per_day:
        return f"the budget of {config.retrain_budget_per_day} a day (BTC_RETRAIN_BUDGET_PER_DAY) is spent"
    of_cutoff = dg.RunsFilter(job_name=train_cutoff.name, tags={PARTITION_TAG: key_of(cutoff)})
    if runs := instance.get_runs(of_cutoff, limit=1):
        return f"the cutoff {key_of(cutoff)} was asked for already (run {runs[0].run_id})"
    newest = instance.get_latest_materialization_event(MODEL_VERDICT.asset_key)
    if newest is not None:
        rested = now - datetime.fromtimestamp(newest.timestamp, tz=UTC)
        if rested < timedelta(hours=config.retrain_cooldown_hours):
            return (
                f"the last model was judged {rested / timedelta(hours=1):.1f} h ago, within the cool-down of "
                f"{config.retrain_cooldown_hours} h (BTC_RETRAIN_COOLDOWN_HOURS)"
            )
    yesterday = lake.read(HOURLY_FEATURES, cutoff - DAY)
    if yesterday is None or yesterday.is_empty():
        return f"no features of {key_of(cutoff - DAY)} are stored yet"
    return None


def _retrain(
    context: dg.SensorEvaluationContext,
    lake: Lake,
    asset: dg.AssetKey,
    contract: Contract,
    reasons_in: Callable[[pl.DataFrame], Iterable[str]],
) -> dg.SensorResult | dg.SkipReason:
    """Read every new report, and ask for today's cutoff where one gives a reason."""
    position = Position.parse(context.cursor)
    moved, changed = new_content(context.instance, asset, position)
    now, wall = settings().now(), datetime.now(tz=UTC)
    requests = asked_again(context.instance, context.sensor_name, wall)
    newest = [day for day in map(day_of, changed) if day > now.date() - NEWEST_DAYS * DAY]
    reports = {day: report for day in sorted(newest) if (report := lake.read(contract, day)) is not None}
    reasons = [f"{key_of(day)}: {reason}" for day, report in reports.items() for reason in reasons_in(report)]
    if not changed:
        message = f"no new {asset.to_user_string()}"
    elif not reasons:
        message = f"{len(changed)} new reports, none of the last {NEWEST_DAYS} days asks for a training"
    else:
        hindrance = why_not(context.instance, lake, now.date(), wall)
        message = f"{'; '.join(reasons)}. "
        if hindrance is None:
            message += f"Asked for the cutoff {key_of(now.date())}."
            requests.append(
                dg.RunRequest(
                    run_key=f"retrain|{key_of(now.date())}",
                    partition_key=key_of(now.date()),
                    tags={_REASON_TAG: "; ".join(reasons)[:1000]},
                )
            )
        else:
            message += f"No training was requested: {hindrance}."
    context.log.info(message)
    return answered(context, requests, str(moved), message)


@dg.sensor(
    name="retrain_on_drift",
    job=train_cutoff,
    minimum_interval_seconds=30,
    default_status=RUNNING_WHEN_LIVE,
    description="Ask for a new model where a drift report finds a promise of the forecasts broken.",
)
def retrain_on_drift(
    context: dg.SensorEvaluationContext, lake: dg.ResourceParam[Lake]
) -> dg.SensorResult | dg.SkipReason:
    """Read every drift report since the last tick; broken promises act, moved inputs only warn."""
    return _retrain(context, lake, DRIFT_REPORT.asset_key, DRIFT_REPORT, broken)


@dg.sensor(
    name="retrain_on_degradation",
    job=train_cutoff,
    minimum_interval_seconds=30,
    default_status=RUNNING_WHEN_LIVE,
    description="Ask for a new model where the performance report proves the forecasts of the last 90 days bad.",
)
def retrain_on_degradation(
    context: dg.SensorEvaluationContext, lake: dg.ResourceParam[Lake]
) -> dg.SensorResult | dg.SkipReason:
    """Read every performance report since the last tick; only an interval wholly on the wrong side counts."""
    return _retrain(context, lake, PERFORMANCE_REPORT.asset_key, PERFORMANCE_REPORT, significant_degradation)


SENSORS = [retrain_on_drift, retrain_on_degradation]
