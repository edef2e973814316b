"""Alerts from the sensors: found, stored, delivered and asked to be recorded, without a daemon."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path

import dagster as dg
import polars as pl
import pytest

from btc_assets.alerts.outbox import DELIVERED, Alert, Outbox
from btc_assets.alerts.resources import AlertDesk
from btc_assets.automation import alerting
from btc_assets.automation.alerting import alert_on_failed_run, raise_alerts
from btc_assets.definitions import defs
from btc_assets.lake import Lake, by_day
from btc_assets.market.tables import PRICES
from btc_assets.monitoring.tables import DRIFT_REPORT
from btc_assets.news.tables import ARTICLES
from btc_assets.partitions import key_of
from btc_assets.settings import Settings, settings
from btc_assets_tests.conftest import random_walk_bars

START = datetime(2019, 5, 1, tzinfo=UTC)
HOURS = 24 * 32
NOW = START + timedelta(hours=HOURS, minutes=7)


@pytest.fixture
def instance() -> dg.DagsterInstance:
    return dg.DagsterInstance.ephemeral()


@pytest.fixture
def lake(tmp_path: Path) -> Lake:
    """A lake with a month of bars (synthetic) whose close hardly moves."""
    chosen = Lake(root=str(tmp_path / "lake"))
    bars = random_walk_bars(HOURS, start=START)
    flat = bars.with_columns(pl.lit(10_000.0).alias("close") + pl.int_range(pl.len()).mod(7))
    days = [START.date() + timedelta(days=n) for n in range(HOURS // 24)]
    for day, part in by_day(PRICES, flat, days):
        chosen.write(PRICES, day, part)
    return chosen


@pytest.fixture
def desk(tmp_path: Path) -> AlertDesk:
    return AlertDesk(Outbox(tmp_path / "outbox.db"), settings())


@pytest.fixture(autouse=True)
def clock(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Settings, "now", lambda _: NOW)


def tick(
    instance: dg.DagsterInstance, lake: Lake, desk: AlertDesk, cursor: str | None = None
) -> tuple[Sequence[dg.RunRequest], str, str | None]:
    context = dg.build_sensor_context(
        instance=instance,
        cursor=cursor,
        definitions=defs,
        resources={"lake": lake, "alert_desk": desk},
        sensor_name="raise_alerts",
    )
    result = raise_alerts.evaluate_tick(context)
    return result.run_requests or [], result.skip_message or "", result.cursor


def told(desk: AlertDesk) -> list[Alert]:
    wall = datetime.now(tz=UTC)
    return desk.outbox.between(wall - timedelta(hours=1), wall + timedelta(hours=1))


def test_a_calm_hour_tells_nobody(instance: dg.DagsterInstance, lake: Lake, desk: AlertDesk) -> None:
    requests, said, _ = tick(instance, lake, desk)
    assert requests == []
    assert said.startswith("0 findings")
    assert told(desk) == []


def fall(lake: Lake) -> None:
    """Let the newest bar close 12 % lower."""
    day = (START + timedelta(hours=HOURS - 1)).date()
    bars = lake.read(PRICES, day)
    newest = pl.col("open_time") == pl.col("open_time").max()
    lake.write(PRICES, day, bars.with_columns(pl.when(newest).then(8_800.0).otherwise("close").alias("close")))


def test_a_fall_is_told_once_and_delivered_at_once(instance: dg.DagsterInstance, lake: Lake, desk: AlertDesk) -> None:
    fall(lake)
    _, _, cursor = tick(instance, lake, desk)
    found = told(desk)
    assert {alert.rule for alert in found} == {"price_move_24h", "drawdown", "volatility"}
    assert {alert.state for alert in found} == {DELIVERED}
    _, said, _ = tick(instance, lake, desk, cursor)
    assert "0 of them new" in said
    assert len(told(desk)) == len(found)


def test_the_day_of_new_alerts_is_asked_to_be_recorded(
    instance: dg.DagsterInstance, lake: Lake, desk: AlertDesk, monkeypatch: pytest.MonkeyPatch
) -> None:
    today = key_of(datetime.now(tz=UTC).date())
    live = dg.DailyPartitionsDefinition("2019-01-01", end_offset=1)  # of a deployment whose grid grows with the clock
    monkeypatch.setattr(alerting, "DAILY", live)
    fall(lake)
    context = dg.build_sensor_context(
        instance=instance, resources={"lake": lake, "alert_desk": desk}, repository_def=defs.get_repository_def()
    )
    result = raise_alerts(context)
    assert isinstance(result, dg.SensorResult)
    assert [request.partition_key for request in result.run_requests or []] == [today]


def test_a_broken_promise_of_a_new_report_is_told(instance: dg.DagsterInstance, lake: Lake, desk: AlertDesk) -> None:
    day = NOW.date()
    row = {"day": day, "kind": "concept", "subject": "coverage_90", "measure": "wealth", "value": 1e5, "bound": 1e4}
    row |= {"alarm": True, "n": 4000, "model_version": 1, "model_cutoff": day}
    lake.write(DRIFT_REPORT, day, pl.DataFrame([row], schema=DRIFT_REPORT.columns))
    event = dg.AssetMaterialization(DRIFT_REPORT.asset_key, partition=key_of(day), metadata={"partition_digest": "a"})
    instance.report_runless_asset_event(event)
    _, _, cursor = tick(instance, lake, desk)
    assert [(alert.rule, alert.severity) for alert in told(desk)] == [("broken_promise", "high")]
    tick(instance, lake, desk, cursor)
    assert len(told(desk)) == 1


def test_a_silent_source_is_told(instance: dg.DagsterInstance, lake: Lake, desk: AlertDesk) -> None:
    silent = {"a | desk\\n": "gave nothing new since 2019-06-01"}
    event = dg.AssetMaterialization(ARTICLES.asset_key, partition="2019-06-01", metadata={"silent_sources": silent})
    instance.report_runless_asset_event(event)
    tick(instance, lake, desk)
    [alert] = told(desk)
    assert alert.rule == "silent_source"
    assert "gave nothing new" in alert.message


@pytest.mark.parametrize(
    ("rules", "sentence"),
    [
        ('[[rule]]\nname = "x"\nkind = "weather"\nseverity = "high"\n', "rule 1: kind is 'weather'; choose from"),
        ("[[rule]\n", "cannot be read"),
    ],
)
def test_a_fault_in_the_rules_is_reported_and_costs_nothing_else(
    instance: dg.DagsterInstance, lake: Lake, tmp_path: Path, rules: str, sentence: str
) -> None:
    path = tmp_path / "rules.toml"
    sound = '[[rule]]\nname = "fall"\nkind = "drawdown"\nbound = 0.1\nseverity = "high"\n'
    path.write_text(rules + sound)
    fall(lake)
    desk = AlertDesk(Outbox(tmp_path / "outbox.db"), settings().model_copy(update={"alert_rules": path}))
    tick(instance, lake, desk)
    messages = {alert.rule: alert.message for alert in told(desk)}
    assert sentence in messages["alerting"]
    assert {"fall", "drawdown"} & set(messages)
    assert {alert.state for alert in told(desk)} == {DELIVERED}


def test_a_table_that_cannot_be_read_keeps_no_other_alert_back(
    instance: dg.DagsterInstance, lake: Lake, desk: AlertDesk, tmp_path: Path
) -> None:
    for path in (tmp_path / "lake" / "market").rglob("*.parquet"):
        path.write_bytes(b"no parquet")
    event = dg.AssetMaterialization(
        ARTICLES.asset_key, partition="2019-06-01", metadata={"silent_sources": {"desk": "is silent"}}
    )
    instance.report_runless_asset_event(event)
    tick(instance, lake, desk)
    messages = {alert.rule: alert.message for alert in told(desk)}
    assert set(messages) == {"silent_source", "alerting"}
    assert "could not look at the newest hour" in messages["alerting"]


def test_a_failed_run_is_told_with_its_job_its_day_and_its_reason(
    instance: dg.DagsterInstance, desk: AlertDesk
) -> None:
    @dg.op
    def break_down() -> None:
        raise ValueError("the disk is full")

    @dg.job
    def refresh() -> None:
        break_down()

    failed = refresh.execute_in_process(
        instance=instance, raise_on_error=False, tags={"dagster/partition": "2019-06-01"}
    )
    context = dg.build_run_status_sensor_context(
        sensor_name="alert_on_failed_run",
        dagster_event=failed.get_run_failure_event(),
        dagster_instance=instance,
        dagster_run=failed.dagster_run,
        resources={"alert_desk": desk},
    ).for_run_failure()
    alert_on_failed_run(context)
    [alert] = told(desk)
    assert (alert.rule, alert.subject) == ("failed_run", "refresh 2019-06-01")
    assert failed.run_id in alert.message
    assert "the disk is full" in alert.message
    assert alert.state == DELIVERED
