"""Every branch of the two retraining sensors, without a daemon."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, date, datetime, timedelta
from pathlib import Path

import dagster as dg
import polars as pl
import pytest
from dagster._core.test_utils import create_run_for_test

from btc_assets.automation import retraining
from btc_assets.automation.retraining import (
    RETRAINERS,
    broken_promise_reasons,
    retrain_on_degradation,
    retrain_on_drift,
)
from btc_assets.automation.sensors import PARTITION_TAG, SENSOR_TAG
from btc_assets.champion.tables import MODEL_VERDICT
from btc_assets.definitions import defs
from btc_assets.features.tables import HOURLY_FEATURES
from btc_assets.lake import Lake
from btc_assets.monitoring import drift
from btc_assets.monitoring.tables import DRIFT_REPORT, PERFORMANCE_REPORT
from btc_assets.partitions import key_of
from btc_assets.schema import CONTRACTS
from btc_assets.settings import Settings, settings

TODAY = date(2019, 6, 5)
NOW = datetime(2019, 6, 5, 9, 30, tzinfo=UTC)


@pytest.fixture
def lake(tmp_path: Path) -> Lake:
    chosen = Lake(root=str(tmp_path / "lake"))
    schema = HOURLY_FEATURES.columns
    row = dict.fromkeys(schema) | {"open_time": datetime(2019, 6, 4, 23, tzinfo=UTC)}
    chosen.write(HOURLY_FEATURES, TODAY - timedelta(days=1), pl.DataFrame([row], schema=schema))
    return chosen


@pytest.fixture(autouse=True)
def clock(monkeypatch: pytest.MonkeyPatch) -> None:
    """Fix the project's clock at `NOW`, with a budget of one training a day and a cool-down of 48 hours."""
    chosen = settings().model_copy()
    monkeypatch.setattr(Settings, "now", lambda _: NOW)
    monkeypatch.setattr(retraining, "settings", lambda: chosen)


def drift_report(day: date, *, broken_promise_reasons: bool, moved: bool = True) -> pl.DataFrame:
    shared = {"day": day, "n": 4320, "model_version": 1, "model_cutoff": day, "measure": "wealth", "bound": 100.0}
    rows = [
        shared
        | {
            "kind": "concept",
            "subject": "calibration",
            "value": 1e5 if broken_promise_reasons else 2.0,
            "alarm": broken_promise_reasons,
        },
        shared | {"kind": "input", "subject": "rsi", "measure": "psi", "value": 3.0, "alarm": moved},
    ]
    return pl.DataFrame(rows, schema=DRIFT_REPORT.columns)


def performance_report(day: date, *, bad: bool) -> pl.DataFrame:
    shared = {"day": day, "role": "champion", "horizon_minutes": 60, "period": "last_90_days", "n": 2160}
    skill = {"value": -0.02, "lower": -0.03, "upper": -0.01} if bad else {"value": 0.01, "lower": 0.0, "upper": 0.02}
    cover = {"value": 0.9, "lower": 0.88, "upper": 0.92}
    rows = [shared | {"metric": "log_loss_skill"} | skill, shared | {"metric": "coverage_90"} | cover]
    return pl.DataFrame(rows, schema=PERFORMANCE_REPORT.columns)


def store_report(instance: dg.DagsterInstance, lake: Lake, asset: dg.AssetKey, day: date, report: pl.DataFrame) -> None:
    contract = CONTRACTS[asset.to_user_string()]
    lake.write(contract, day, report)
    event = dg.AssetMaterialization(
        asset, partition=key_of(day), metadata={"partition_digest": str(report.hash_rows())}
    )
    instance.report_runless_asset_event(event)


def tick(
    sensor: dg.SensorDefinition, instance: dg.DagsterInstance, lake: Lake, cursor: str | None = None
) -> tuple[Sequence[dg.RunRequest], str, str | None]:
    context = dg.build_sensor_context(
        instance=instance, cursor=cursor, definitions=defs, resources={"lake": lake}, sensor_name=sensor.name
    )
    result = sensor.evaluate_tick(context)
    return result.run_requests or [], result.skip_message or "", result.cursor


def test_a_broken_promise_requests_the_cutoff_of_today(instance: dg.DagsterInstance, lake: Lake) -> None:
    store_report(
        instance,
        lake,
        DRIFT_REPORT.asset_key,
        TODAY - timedelta(days=1),
        drift_report(TODAY - timedelta(days=1), broken_promise_reasons=True),
    )
    requests, _, cursor = tick(retrain_on_drift, instance, lake)
    assert [(request.run_key, request.partition_key) for request in requests] == [("retrain|2019-06-05", "2019-06-05")]
    assert "calibration" in requests[0].tags["btc/reason"]
    assert tick(retrain_on_drift, instance, lake, cursor)[0] == []


def test_drifted_inputs_alone_request_nothing(instance: dg.DagsterInstance, lake: Lake) -> None:
    store_report(
        instance, lake, DRIFT_REPORT.asset_key, TODAY, drift_report(TODAY, broken_promise_reasons=False, moved=True)
    )
    requests, message, _ = tick(retrain_on_drift, instance, lake)
    assert requests == []
    assert "none of the last 3 days gives a reason for a training" in message


def test_significant_degradation_requests_a_training_and_a_good_report_does_not(
    instance: dg.DagsterInstance, lake: Lake
) -> None:
    store_report(instance, lake, PERFORMANCE_REPORT.asset_key, TODAY, performance_report(TODAY, bad=False))
    requests, _, cursor = tick(retrain_on_degradation, instance, lake)
    assert requests == []
    store_report(instance, lake, PERFORMANCE_REPORT.asset_key, TODAY, performance_report(TODAY, bad=True))
    assert len(tick(retrain_on_degradation, instance, lake, cursor)[0]) == 1


def test_every_event_of_a_tick_counts(instance: dg.DagsterInstance, lake: Lake) -> None:
    store_report(
        instance,
        lake,
        DRIFT_REPORT.asset_key,
        TODAY - timedelta(days=1),
        drift_report(TODAY - timedelta(days=1), broken_promise_reasons=True),
    )
    store_report(instance, lake, DRIFT_REPORT.asset_key, TODAY, drift_report(TODAY, broken_promise_reasons=False))
    assert len(tick(retrain_on_drift, instance, lake)[0]) == 1


def test_an_old_report_requests_nothing(instance: dg.DagsterInstance, lake: Lake) -> None:
    old = TODAY - timedelta(days=30)
    store_report(instance, lake, DRIFT_REPORT.asset_key, old, drift_report(old, broken_promise_reasons=True))
    assert tick(retrain_on_drift, instance, lake)[0] == []


def record_training(instance: dg.DagsterInstance, sensor: str, cutoff: date) -> None:
    """Record a training run of a retraining sensor."""
    create_run_for_test(
        instance,
        job_name="train_cutoff",
        tags={SENSOR_TAG: sensor, PARTITION_TAG: key_of(cutoff)},
        status=dg.DagsterRunStatus.SUCCESS,
    )


@pytest.mark.parametrize("other", RETRAINERS)
def test_both_sensors_share_the_daily_budget(instance: dg.DagsterInstance, lake: Lake, other: str) -> None:
    record_training(instance, other, TODAY - timedelta(days=1))
    store_report(instance, lake, DRIFT_REPORT.asset_key, TODAY, drift_report(TODAY, broken_promise_reasons=True))
    requests, message, _ = tick(retrain_on_drift, instance, lake)
    assert requests == []
    assert "budget" in message
    assert "calibration is broken" in message


def test_a_requested_cutoff_is_not_requested_again(instance: dg.DagsterInstance, lake: Lake) -> None:
    create_run_for_test(instance, job_name="train_cutoff", tags={PARTITION_TAG: key_of(TODAY)})
    store_report(instance, lake, PERFORMANCE_REPORT.asset_key, TODAY, performance_report(TODAY, bad=True))
    requests, message, _ = tick(retrain_on_degradation, instance, lake)
    assert requests == []
    assert "was requested already" in message


def test_no_training_is_requested_within_the_cool_down(instance: dg.DagsterInstance, lake: Lake) -> None:
    instance.report_runless_asset_event(dg.AssetMaterialization(MODEL_VERDICT.asset_key, partition="2019-06-03"))
    store_report(instance, lake, DRIFT_REPORT.asset_key, TODAY, drift_report(TODAY, broken_promise_reasons=True))
    requests, message, _ = tick(retrain_on_drift, instance, lake)
    assert requests == []
    assert "cool-down of 48 h" in message


def test_no_training_is_requested_without_yesterdays_features(instance: dg.DagsterInstance, tmp_path: Path) -> None:
    empty = Lake(root=str(tmp_path / "empty"))
    store_report(instance, empty, DRIFT_REPORT.asset_key, TODAY, drift_report(TODAY, broken_promise_reasons=True))
    requests, message, _ = tick(retrain_on_drift, instance, empty)
    assert requests == []
    assert "no features of 2019-06-04" in message


@pytest.mark.parametrize(("hours", "requested"), [(24, False), (25, True)])
def test_inputs_missing_for_more_than_a_day_request_a_training(
    instance: dg.DagsterInstance, lake: Lake, hours: int, requested: bool
) -> None:
    lost = {"taker_imbalance_1h": hours, "trades_ratio": hours, "body_1h": 3}
    report = drift.lost_rows(lost, n=168, day=TODAY, version=1, cutoff=TODAY)
    store_report(instance, lake, DRIFT_REPORT.asset_key, TODAY, report)
    requests, _, _ = tick(retrain_on_drift, instance, lake)
    reason = (
        "2019-06-05: inputs_known is broken: for up to 25 of 168 hours taker_imbalance_1h, trades_ratio were missing"
    )
    assert [request.tags["btc/reason"] for request in requests] == [reason] * requested


def test_only_broken_promises_are_reasons() -> None:
    assert broken_promise_reasons(drift_report(TODAY, broken_promise_reasons=False)) == []
    [reason] = broken_promise_reasons(drift_report(TODAY, broken_promise_reasons=True))
    assert "1e+05" in reason
