"""Alerts: what the rules find is stored in the outbox, then delivered, then recorded as `alerts/alerts`."""

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
    answered,
    new_content,
    positions_of,
    positions_text,
)
from btc_assets.automation.spans import DAY, RANGE_START_TAG
from btc_assets.champion.tables import MODEL_HISTORY
from btc_assets.forecasting.tables import FORECASTS
from btc_assets.lake import Lake
from btc_assets.market.tables import PRICES
from btc_assets.monitoring.tables import DRIFT_REPORT, PERFORMANCE_REPORT
from btc_assets.news.tables import ARTICLES, POSTS
from btc_assets.partitions import DAILY, day_of, key_of
from btc_assets.serving.assets import newest_champion
from btc_assets.settings import settings

_REASONS = {dg.DagsterEventType.ASSET_CHECK_EVALUATION, dg.DagsterEventType.STEP_FAILURE}
NEWEST_DAYS = 3
"""Reports and changes older than this many days tell of history that was filled in, and alert nobody."""
LONGEST_MESSAGE = 300
BROKEN = Rule("alerting", "alerting", "high", timedelta(hours=24))
"""Rule of alerts about a rule, or what the rules look at, that is broken; the other rules still apply."""
SILENT_SOURCES = "silent_sources"
"""Metadata of a gathering that names the sources which were silent for longer than their rhythm."""


def on_the_newest_hour(book: Rulebook, lake: Lake, now: datetime) -> list[Finding]:
    """Find what the newest bars and forecasts are worth telling.

    Args:
        book: the rules.
        lake: where the tables are.
        now: the project's clock, UTC.
    """
    today = now.date()
    bars = lake.scan(PRICES, today - watch.PRICE_DAYS * DAY, today).sort("open_time").collect()
    newest = newest_champion(lake.scan(FORECASTS, today - DAY, today).collect())
    recent = newest.filter(pl.col("made_at") > now - timedelta(hours=2))
    return [*watch.on_prices(book, bars, now), *watch.on_forecasts(book, recent)]


def on_new_events(
    book: Rulebook, lake: Lake, instance: dg.DagsterInstance, positions: dict[str, Position], now: datetime
) -> list[Finding]:
    """Find what new reports and changes of the history are worth telling; moves the positions on.

    Args:
        book: the rules.
        lake: where the tables are.
        instance: whose events are read.
        positions: by asset, how far events were read.
        now: the project's clock, UTC.
    """
    found: list[Finding] = []
    for asset, contract, on in (
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
                found += on(book, report)
    return found


def on_dagster(book: Rulebook, instance: dg.DagsterInstance, keys: Sequence[dg.AssetKey]) -> Iterator[Finding]:
    """Find assets whose freshness policy fails, and news sources that their last gathering called silent.

    Args:
        book: the rules.
        instance: whose records are read.
        keys: the assets that have a freshness policy.
    """
    rules = book.of("freshness")
    if rules:
        for key, record in instance.get_freshness_state_records(keys).items():
            if record.freshness_state.value == "FAIL":
                name = key.to_user_string()
                for rule in rules:
                    yield Finding(rule, name, f"{name} is older than its freshness policy allows")
    for key in (ARTICLES.asset_key, POSTS.asset_key):
        event = instance.get_latest_materialization_event(key)
        silence = (
            event.asset_materialization.metadata.get(SILENT_SOURCES) if event and event.asset_materialization else None
        )
        if silence is not None and isinstance(silence.value, Mapping):
            silent = [(str(name), f"{name} {status}"[:LONGEST_MESSAGE]) for name, status in silence.value.items()]
            yield from watch.on_silence(book, silent)


@dg.sensor(
    name="raise_alerts",
    job=record_alerts,
    minimum_interval_seconds=15,
    default_status=RUNNING_WHEN_LIVE,
    description="Find what the rules say is worth telling, store it, deliver it and record it.",
)
def raise_alerts(
    context: dg.SensorEvaluationContext, lake: dg.ResourceParam[Lake], alert_desk: dg.ResourceParam[AlertDesk]
) -> dg.SensorResult | dg.SkipReason:
    """Look at the newest hour and at every new report; ask for the record of the days with new alerts."""
    now, book = settings().now(), alert_desk.book
    positions = positions_of(context.cursor)
    faults, findings = list(book.faults), list[Finding]()
    moved = dict(positions)
    looks: dict[str, Callable[[], Iterable[Finding]]] = {
        "the newest hour": lambda: on_the_newest_hour(book, lake, now),
        "new reports": lambda: on_new_events(book, lake, context.instance, moved, now),
        "freshness and silent sources": lambda: on_dagster(book, context.instance, _watched_assets(context)),
    }
    for what, look in looks.items():
        try:
            findings += look()
        except Exception as error:
            context.log.exception(f"the rules could not look at {what}")
            faults.append(f"the rules could not look at {what}: {type(error).__name__}: {error}")
            moved = positions if what == "new reports" else moved
    findings += [Finding(BROKEN, fault[:80], fault[:LONGEST_MESSAGE]) for fault in faults]
    raised = alert_desk.tell(findings, book)
    deliveries = alert_desk.deliver()
    message = f"{len(findings)} findings, {len(raised)} of them new; {deliveries}"
    context.log.info(message)
    cursor = positions_text(moved)
    today = key_of(datetime.now(tz=UTC).date())
    requests = []
    if (raised or deliveries.delivered) and DAILY.has_partition_key(today):
        requests = [dg.RunRequest(run_key=f"alerts|{datetime.now(tz=UTC).isoformat()}", partition_key=today)]
    return answered(context, requests, cursor, message)


def _watched_assets(context: dg.SensorEvaluationContext) -> list[dg.AssetKey]:
    """Return the assets that have a freshness policy."""
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
    message = f"{run.job_name} of {partition} failed (run {run.run_id}): {reasons}"[:LONGEST_MESSAGE]
    alert_desk.tell([Finding(rule, f"{run.job_name} {partition}", message) for rule in book.of("failed_run")], book)
    alert_desk.deliver()


SENSORS = [raise_alerts, alert_on_failed_run]
