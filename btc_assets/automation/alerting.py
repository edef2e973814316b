"""Sensors that store findings in the outbox, deliver them and record them as `alerts/alerts`."""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from datetime import UTC, datetime, timedelta

import dagster as dg
import polars as pl

from btc_assets.alerts import watch
from btc_assets.alerts.outbox import Finding
from btc_assets.alerts.resources import AlertDesk
from btc_assets.alerts.rules import Rule, Rulebook
from btc_assets.automation.failures import why_failed
from btc_assets.automation.jobs import record_alerts
from btc_assets.automation.sensors import (
    PARTITION_TAG,
    RUNNING_WHEN_LIVE,
    Position,
    new_content,
    positions_of,
    positions_text,
    tick_result,
)
from btc_assets.automation.spans import DAY, RANGE_START_TAG
from btc_assets.champion.tables import MODEL_HISTORY
from btc_assets.features.inputs import BESIDE_THE_CLOCK
from btc_assets.forecasting.tables import FORECASTS
from btc_assets.lake import Lake
from btc_assets.market.tables import PRICES
from btc_assets.monitoring.tables import DRIFT_REPORT, PERFORMANCE_REPORT
from btc_assets.partitions import DAILY, day_of, key_of
from btc_assets.serving.assets import newest_champion
from btc_assets.settings import settings

_REASONS = {dg.DagsterEventType.ASSET_CHECK_EVALUATION, dg.DagsterEventType.STEP_FAILURE}
NEWEST_DAYS = 3
"""Reports and changes older than this many days come from a backfill and raise no alert."""
MAX_MESSAGE_CHARACTERS = 300
ALERTING_FAULT = Rule("alerting", "alerting", "high", timedelta(hours=24))
"""Rule of alerts about an invalid rule or a failed evaluation; the other rules still apply."""
SILENT_SOURCES = "silent_sources"
"""Metadata of news materializations: the sources that were silent for longer than their rhythm."""


def on_latest_hour(book: Rulebook, lake: Lake, now: datetime) -> list[Finding]:
    """Apply the rules to the latest bars and forecasts.

    Args:
        book: the rules.
        lake: where the tables are.
        now: the project's clock, UTC.
    """
    today = now.date()
    bars = lake.scan(PRICES, today - watch.PRICE_DAYS * DAY, today).sort("open_time").collect()
    latest = newest_champion(lake.scan(FORECASTS, today - DAY, today).collect())
    recent = latest.filter(pl.col("made_at") > now - timedelta(hours=2))
    return [*watch.on_prices(book, bars, now), *watch.on_forecasts(book, recent)]


def on_new_events(
    book: Rulebook, lake: Lake, instance: dg.DagsterInstance, positions: dict[str, Position], now: datetime
) -> list[Finding]:
    """Apply the rules to new reports and history changes; advances the positions.

    Args:
        book: the rules.
        lake: where the tables are.
        instance: the Dagster instance with the events.
        positions: position of each asset in the event log.
        now: the project's clock, UTC.
    """
    findings: list[Finding] = []
    for asset, contract, find_in in (
        (DRIFT_REPORT.asset_key, DRIFT_REPORT, watch.on_drift),
        (PERFORMANCE_REPORT.asset_key, PERFORMANCE_REPORT, watch.on_report),
        (MODEL_HISTORY.asset_key, MODEL_HISTORY, watch.on_history),
    ):
        name = asset.to_user_string()
        position = positions.get(name, Position())
        positions[name], changed = new_content(instance, asset, position, even_failed=contract.append_only)
        for day in sorted(map(day_of, changed)):
            report = lake.read(contract, day) if day > now.date() - NEWEST_DAYS * DAY else None
            if report is not None:
                findings += find_in(book, report)
    return findings


def on_dagster(book: Rulebook, instance: dg.DagsterInstance, keys: Sequence[dg.AssetKey]) -> Iterator[Finding]:
    """Find assets whose freshness policy fails and news sources that the last materialization reported silent.

    Args:
        book: the rules.
        instance: the Dagster instance with the records.
        keys: the assets with a freshness policy.
    """
    rules = book.of("freshness")
    if rules:
        for key, record in instance.get_freshness_state_records(keys).items():
            if record.freshness_state.value == "FAIL":
                name = key.to_user_string()
                for rule in rules:
                    yield Finding(rule, name, f"{name} is older than its freshness policy allows")
    for key in (stream.contract.asset_key for stream in BESIDE_THE_CLOCK):
        event = instance.get_latest_materialization_event(key)
        silent_metadata = (
            event.asset_materialization.metadata.get(SILENT_SOURCES) if event and event.asset_materialization else None
        )
        if silent_metadata is not None and isinstance(silent_metadata.value, Mapping):
            silent = [
                (str(name), f"{name} {status}"[:MAX_MESSAGE_CHARACTERS])
                for name, status in silent_metadata.value.items()
            ]
            yield from watch.on_silence(book, silent)


@dg.sensor(
    name="raise_alerts",
    job=record_alerts,
    minimum_interval_seconds=15,
    default_status=RUNNING_WHEN_LIVE,
    description="Apply the alert rules, then store, deliver and record the alerts.",
)
def raise_alerts(
    context: dg.SensorEvaluationContext, lake: dg.ResourceParam[Lake], alert_desk: dg.ResourceParam[AlertDesk]
) -> dg.SensorResult | dg.SkipReason:
    """Apply the rules to the latest hour and every new report; request the record of the days with new alerts."""
    now, book = settings().now(), alert_desk.book
    positions = positions_of(context.cursor)
    faults, findings = list(book.faults), list[Finding]()
    new_positions = dict(positions)
    evaluations: dict[str, Callable[[], Iterable[Finding]]] = {
        "the latest hour": lambda: on_latest_hour(book, lake, now),
        "new reports": lambda: on_new_events(book, lake, context.instance, new_positions, now),
        "freshness and silent sources": lambda: on_dagster(book, context.instance, _watched_assets(context)),
    }
    for name, evaluate in evaluations.items():
        try:
            findings += evaluate()
        except Exception as error:
            context.log.exception(f"the rules could not be applied to {name}")
            faults.append(f"the rules could not be applied to {name}: {type(error).__name__}: {error}")
            new_positions = positions if name == "new reports" else new_positions
    findings += [Finding(ALERTING_FAULT, fault[:80], fault[:MAX_MESSAGE_CHARACTERS]) for fault in faults]
    raised = alert_desk.raise_alerts(findings, book)
    deliveries = alert_desk.deliver()
    message = f"{len(findings)} findings, {len(raised)} of them new; {deliveries}"
    context.log.info(message)
    cursor = positions_text(new_positions)
    today = key_of(datetime.now(tz=UTC).date())
    requests = []
    if (raised or deliveries.delivered) and DAILY.has_partition_key(today):
        requests = [dg.RunRequest(run_key=f"alerts|{datetime.now(tz=UTC).isoformat()}", partition_key=today)]
    return tick_result(context, requests, cursor, message)


def _watched_assets(context: dg.SensorEvaluationContext) -> list[dg.AssetKey]:
    """Return the assets with a freshness policy."""
    repository = context.repository_def
    if repository is None:
        return []
    graph = repository.asset_graph
    return sorted(key for key in graph.get_all_asset_keys() if graph.get(key).freshness_policy)


@dg.run_failure_sensor(
    name="alert_on_failed_run",
    minimum_interval_seconds=15,
    default_status=RUNNING_WHEN_LIVE,
    description="Send an alert about a failed run.",
)
def alert_on_failed_run(context: dg.RunFailureSensorContext, alert_desk: dg.ResourceParam[AlertDesk]) -> None:
    """Store and deliver an alert about a run that failed."""
    book, run = alert_desk.book, context.dagster_run
    partition = run.tags.get(PARTITION_TAG) or run.tags.get(RANGE_START_TAG) or "no partition"
    records = context.instance.get_records_for_run(run.run_id, of_type=_REASONS).records
    events = [event for record in records if (event := record.event_log_entry.dagster_event) is not None]
    reasons = " ".join(why_failed(events)) or context.failure_event.message or "no reason was recorded"
    message = f"{run.job_name} of {partition} failed (run {run.run_id}): {reasons}"[:MAX_MESSAGE_CHARACTERS]
    alert_desk.raise_alerts(
        [Finding(rule, f"{run.job_name} {partition}", message) for rule in book.of("failed_run")], book
    )
    alert_desk.deliver()


SENSORS = [raise_alerts, alert_on_failed_run]
