"""The alert sensors find, store and deliver alerts and request their record, without a daemon."""

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
def lake(tmp_path: Path) -> Lake:
    """Return a lake with a month of synthetic bars with a nearly constant close."""
    lake = Lake(root=str(tmp_path / "lake"))
    bars = random_walk_bars(HOURS, start=START)
    flat = bars.with_columns(pl.lit(10_000.0).alias("close") + pl.int_range(pl.len()).mod(7))
    days = [START.date() + timedelta(days=n) for n in range(HOURS // 24)]
    for day, part in by_day(PRICES, flat, days):
        lake.write(PRICES, day, part)
    return lake


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


def alerts_of(desk: AlertDesk) -> list[Alert]:
    wall = datetime.now(tz=UTC)
    return desk.outbox.between(wall - timedelta(hours=1), wall + timedelta(hours=1))


def test_a_calm_hour_raises_no_alert(instance: dg.DagsterInstance, lake: Lake, desk: AlertDesk) -> None:
    requests, message, _ = tick(instance, lake, desk)
    assert requests == []
    assert message.startswith("0 findings")
    assert alerts_of(desk) == []


def lower_newest_close(lake: Lake) -> None:
    """Lower the close of the newest bar by 12 %."""
    day = (START + timedelta(hours=HOURS - 1)).date()
    bars = lake.read(PRICES, day)
    newest = pl.col("open_time") == pl.col("open_time").max()
    lake.write(PRICES, day, bars.with_columns(pl.when(newest).then(8_800.0).otherwise("close").alias("close")))


def test_a_fall_is_reported_once_and_delivered_in_the_same_tick(
    instance: dg.DagsterInstance, lake: Lake, desk: AlertDesk
) -> None:
    lower_newest_close(lake)
    _, _, cursor = tick(instance, lake, desk)
    alerts = alerts_of(desk)
    assert {alert.rule for alert in alerts} == {"price_move_24h", "drawdown", "volatility"}
    assert {alert.state for alert in alerts} == {DELIVERED}
    _, message, _ = tick(instance, lake, desk, cursor)
    assert "0 of them new" in message
    assert len(alerts_of(desk)) == len(alerts)


def test_new_alerts_request_the_record_of_their_day(
    instance: dg.DagsterInstance, lake: Lake, desk: AlertDesk, monkeypatch: pytest.MonkeyPatch
) -> None:
    today = key_of(datetime.now(tz=UTC).date())
    growing_grid = dg.DailyPartitionsDefinition("2019-01-01", end_offset=1)  # as in a live deployment
    monkeypatch.setattr(alerting, "DAILY", growing_grid)
    lower_newest_close(lake)
    context = dg.build_sensor_context(
        instance=instance, resources={"lake": lake, "alert_desk": desk}, repository_def=defs.get_repository_def()
    )
    result = raise_alerts(context)
    assert isinstance(result, dg.SensorResult)
    assert [request.partition_key for request in result.run_requests or []] == [today]


def test_a_broken_promise_of_a_new_report_is_reported(
    instance: dg.DagsterInstance, lake: Lake, desk: AlertDesk
) -> None:
    day = NOW.date()
    row = {"day": day, "kind": "concept", "subject": "coverage_90", "measure": "wealth", "value": 1e5, "bound": 1e4}
    row |= {"alarm": True, "n": 4000, "model_version": 1, "model_cutoff": day}
    lake.write(DRIFT_REPORT, day, pl.DataFrame([row], schema=DRIFT_REPORT.columns))
    event = dg.AssetMaterialization(DRIFT_REPORT.asset_key, partition=key_of(day), metadata={"partition_digest": "a"})
    instance.report_runless_asset_event(event)
    _, _, cursor = tick(instance, lake, desk)
    assert [(alert.rule, alert.severity) for alert in alerts_of(desk)] == [("broken_promise", "high")]
    tick(instance, lake, desk, cursor)
    assert len(alerts_of(desk)) == 1


def test_a_silent_source_is_reported(instance: dg.DagsterInstance, lake: Lake, desk: AlertDesk) -> None:
    silent = {"a | desk\\n": "gave nothing new since 2019-06-01"}
    event = dg.AssetMaterialization(ARTICLES.asset_key, partition="2019-06-01", metadata={"silent_sources": silent})
    instance.report_runless_asset_event(event)
    tick(instance, lake, desk)
    [alert] = alerts_of(desk)
    assert alert.rule == "silent_source"
    assert "gave nothing new" in alert.message


@pytest.mark.parametrize(
    ("rules", "sentence"),
    [
        ('[[rule]]\nname = "x"\nkind = "weather"\nseverity = "high"\n', "rule 1: kind is 'weather'; expected one of"),
        ("[[rule]\n", "cannot be read"),
    ],
)
def test_a_fault_in_the_rules_is_reported_and_other_rules_apply(
    instance: dg.DagsterInstance, lake: Lake, tmp_path: Path, rules: str, sentence: str
) -> None:
    path = tmp_path / "rules.toml"
    sound = '[[rule]]\nname = "fall"\nkind = "drawdown"\nbound = 0.1\nseverity = "high"\n'
    path.write_text(rules + sound)
    lower_newest_close(lake)
    desk = AlertDesk(Outbox(tmp_path / "outbox.db"), settings().model_copy(update={"alert_rules": path}))
    tick(instance, lake, desk)
    messages = {alert.rule: alert.message for alert in alerts_of(desk)}
    assert sentence in messages["alerting"]
    assert {"fall", "drawdown"} & set(messages)
    assert {alert.state for alert in alerts_of(desk)} == {DELIVERED}


def test_an_unreadable_table_does_not_stop_other_alerts(
    instance: dg.DagsterInstance, lake: Lake, desk: AlertDesk, tmp_path: Path
) -> None:
    for path in (tmp_path / "lake" / "market").rglob("*.parquet"):
        path.write_bytes(b"no parquet")
    event = dg.AssetMaterialization(
        ARTICLES.asset_key, partition="2019-06-01", metadata={"silent_sources": {"desk": "is silent"}}
    )
    instance.report_runless_asset_event(event)
    tick(instance, lake, desk)
    messages = {alert.rule: alert.message for alert in alerts_of(desk)}
    assert set(messages) == {"silent_source", "alerting"}
    assert "could not be applied to the latest hour" in messages["alerting"]


def test_a_failed_run_is_reported_with_its_job_day_and_reason(instance: dg.DagsterInstance, desk: AlertDesk) -> None:
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
    [alert] = alerts_of(desk)
    assert (alert.rule, alert.subject) == ("failed_run", "refresh 2019-06-01")
    assert failed.run_id in alert.message
    assert "the disk is full" in alert.message
    assert alert.state == DELIVERED
