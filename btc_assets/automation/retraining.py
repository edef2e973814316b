"""Retraining on evidence: a broken promise or significant degradation requests a training, within limits.

The message of a tick says why it requested a training or why it did not. A cool-down and a daily budget limit the
trainings during a persistent alarm. The gate still decides which model serves, so an unnecessary training costs time
only.
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
    new_content,
    retry_requests,
    tick_result,
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
"""Reports older than this many days come from a backfill and request no training."""
RETRAINERS = ("retrain_on_drift", "retrain_on_degradation")
"""The sensors that share one cool-down and one budget."""
_REASON_TAG = "btc/reason"


def broken_promise_reasons(report: pl.DataFrame) -> list[str]:
    """Describe the broken promises of a drift report; drifted inputs alone are no reason for a training.

    Args:
        report: DRIFT_REPORT rows of one day.
    """
    return [f"{broken.promise} is broken: {broken.proof}" for broken in broken_promises(report)]


def reason_against_training(instance: dg.DagsterInstance, lake: Lake, cutoff: date, now: datetime) -> str | None:
    """Return why no training of a cutoff may be requested now, or None if it may.

    Args:
        instance: the Dagster instance with the runs and events.
        lake: the lake with the features of the previous day.
        cutoff: the cutoff to train.
        now: UTC.
    """
    config = settings()
    retraining_runs = [
        run
        for name in RETRAINERS
        for run in instance.get_runs(dg.RunsFilter(tags={SENSOR_TAG: name}, created_after=now - timedelta(days=1)))
    ]
    if len({run.tags.get(PARTITION_TAG) for run in retraining_runs}) >= config.retrain_budget_per_day:
        return f"the budget of {config.retrain_budget_per_day} a day (BTC_RETRAIN_BUDGET_PER_DAY) is spent"
    of_cutoff = dg.RunsFilter(job_name=train_cutoff.name, tags={PARTITION_TAG: key_of(cutoff)})
    if runs := instance.get_runs(of_cutoff, limit=1):
        return f"the cutoff {key_of(cutoff)} was requested already (run {runs[0].run_id})"
    newest = instance.get_latest_materialization_event(MODEL_VERDICT.asset_key)
    if newest is not None:
        age = now - datetime.fromtimestamp(newest.timestamp, tz=UTC)
        if age < timedelta(hours=config.retrain_cooldown_hours):
            return (
                f"the last model was evaluated {age / timedelta(hours=1):.1f} h ago, within the cool-down of "
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
    """Read every new report and request the training of today's cutoff if one gives a reason."""
    position = Position.parse(context.cursor)
    new_position, changed = new_content(context.instance, asset, position)
    now, wall = settings().now(), datetime.now(tz=UTC)
    requests = retry_requests(context.instance, context.sensor_name, wall)
    newest = [day for day in map(day_of, changed) if day > now.date() - NEWEST_DAYS * DAY]
    reports = {day: report for day in sorted(newest) if (report := lake.read(contract, day)) is not None}
    reasons = [f"{key_of(day)}: {reason}" for day, report in reports.items() for reason in reasons_in(report)]
    if not changed:
        message = f"no new {asset.to_user_string()}"
    elif not reasons:
        message = f"{len(changed)} new reports, none of the last {NEWEST_DAYS} days gives a reason for a training"
    else:
        obstacle = reason_against_training(context.instance, lake, now.date(), wall)
        message = f"{'; '.join(reasons)}. "
        if obstacle is None:
            message += f"Requested a training of the cutoff {key_of(now.date())}."
            requests.append(
                dg.RunRequest(
                    run_key=f"retrain|{key_of(now.date())}",
                    partition_key=key_of(now.date()),
                    tags={_REASON_TAG: "; ".join(reasons)[:1000]},
                )
            )
        else:
            message += f"No training was requested: {obstacle}."
    context.log.info(message)
    return tick_result(context, requests, str(new_position), message)


@dg.sensor(
    name="retrain_on_drift",
    job=train_cutoff,
    minimum_interval_seconds=30,
    default_status=RUNNING_WHEN_LIVE,
    description="Request a training if a drift report shows a broken promise of the forecasts.",
)
def retrain_on_drift(
    context: dg.SensorEvaluationContext, lake: dg.ResourceParam[Lake]
) -> dg.SensorResult | dg.SkipReason:
    """Read every drift report since the last tick; broken promises request a training, drifted inputs do not."""
    return _retrain(context, lake, DRIFT_REPORT.asset_key, DRIFT_REPORT, broken_promise_reasons)


@dg.sensor(
    name="retrain_on_degradation",
    job=train_cutoff,
    minimum_interval_seconds=30,
    default_status=RUNNING_WHEN_LIVE,
    description="Request a training if the performance report shows significant degradation over the last 90 days.",
)
def retrain_on_degradation(
    context: dg.SensorEvaluationContext, lake: dg.ResourceParam[Lake]
) -> dg.SensorResult | dg.SkipReason:
    """Read every performance report since the last tick; see `significant_degradation`."""
    return _retrain(context, lake, PERFORMANCE_REPORT.asset_key, PERFORMANCE_REPORT, significant_degradation)


SENSORS = [retrain_on_drift, retrain_on_degradation]
