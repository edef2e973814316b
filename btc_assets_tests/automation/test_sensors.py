import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from datetime import UTC, date, datetime, timedelta
from pathlib import Path
from typing import Any

import dagster as dg
import polars as pl
import pytest
from dagster._core.instance.config import dagster_instance_config
from dagster._core.test_utils import create_run_for_test

from btc_assets.automation import sensors
from btc_assets.automation.jobs import JOBS, ONE_AT_A_TIME
from btc_assets.automation.sensors import (
    ATTEMPT_TAG,
    FOLLOWING,
    MAX_ATTEMPTS,
    RETRY_AFTER,
    Position,
    affected_days,
    forecast_from,
    forecast_from_new_models,
    forecast_from_new_prices,
    positions_of,
    publish_new_forecasts,
    report_on_closed_days,
    retry_requests,
    score_new_texts,
    settle_shadows,
)
from btc_assets.automation.spans import Span
from btc_assets.automation.walk_forward import BACKGROUND, WALK_TAG
from btc_assets.champion.assets import DECISIONS
from btc_assets.champion.tables import MODEL_HISTORY, SHADOW_REPORT
from btc_assets.clock import midnight
from btc_assets.definitions import defs
from btc_assets.features.catalog import WARMUP_DAYS
from btc_assets.features.tables import HOURLY_FEATURES, HOURLY_LABELS
from btc_assets.forecasting.tables import FORECAST_OUTCOMES, FORECASTS
from btc_assets.lake import Lake
from btc_assets.market.perpetual import BASIS, PERPETUAL
from btc_assets.market.quarter_bars import QUARTER_BARS
from btc_assets.market.synthetic import quarters_of, random_walk
from btc_assets.market.tables import PRICES
from btc_assets.news.tables import ARTICLES, POSTS, SENTIMENT_SCORES
from btc_assets.serving.tables import SERVING_BUNDLE
from btc_assets.settings import PROJECT_ROOT
from btc_assets_tests.automation.conftest import HOUR_ASSETS

HOT_PATH_JOBS = {
    "refresh_forecast", "refresh_prices", "gather_quarter_bars", "build_features", "prepare_days", "forecast_days",
    "publish_bundle",
}  # fmt: skip
"""The jobs between bars and bundle."""


@pytest.fixture(autouse=True)
def lake(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Lake:
    """Provide an empty lake to every tick of a test."""
    lake = Lake(root=str(tmp_path / "lake"))
    monkeypatch.setitem(RESOURCES, "lake", lake)
    return lake


RESOURCES: dict[str, object] = {}
forecast_from_new_quarter_bars, forecast_from_new_scores = FOLLOWING


def set_champion(lake: Lake, cutoff: date, *, champion: int | None) -> None:
    """Record a version, or None, as champion from a day on."""
    at = midnight(cutoff)
    row: dict[str, object] = {"effective_from": at, "recorded_at": at, "role": "champion", "event": "promoted"}
    if champion is not None:
        row |= {"model_version": champion, "model_cutoff": cutoff, "model_digest": "a"}
    schema = MODEL_HISTORY.columns
    lake.write(MODEL_HISTORY, cutoff, pl.DataFrame([dict.fromkeys(schema) | row], schema=schema))


def forecast(lake: Lake, day: date, role: str) -> None:
    """Store one forecast of a role."""
    schema = FORECASTS.columns
    row = {"role": role, "horizon_minutes": 60, "made_at": datetime(day.year, day.month, day.day, 1, tzinfo=UTC)}
    lake.write(FORECASTS, day, pl.DataFrame([dict.fromkeys(schema) | row], schema=schema))


def report_content(instance: dg.DagsterInstance, asset: dg.AssetKey, content: Mapping[str, str]) -> None:
    """Report materialisations with a content digest per partition key."""
    for key, digest in content.items():
        event = dg.AssetMaterialization(asset, partition=key, metadata={"partition_digest": digest})
        instance.report_runless_asset_event(event)


def tick(
    sensor: dg.SensorDefinition, instance: dg.DagsterInstance, cursor: str | None = None
) -> tuple[Sequence[dg.RunRequest], str | None]:
    context = dg.build_sensor_context(instance=instance, cursor=cursor, definitions=defs, resources=RESOURCES)
    result = sensor.evaluate_tick(context)
    return result.run_requests or [], result.cursor


def test_new_bars_request_their_day(instance: dg.DagsterInstance) -> None:
    report_content(instance, PRICES.asset_key, {"2018-05-01": "a"})
    requests, _ = tick(forecast_from_new_prices, instance)
    assert [request.partition_key for request in requests] == ["2018-05-01"]


def test_every_event_between_two_ticks_is_read(instance: dg.DagsterInstance) -> None:
    seen: set[str] = set()
    cursor = None
    for keys in (["2018-05-01"], ["2018-05-03", "2018-05-05", "2018-05-07"], [], ["2018-05-09"]):
        report_content(instance, PRICES.asset_key, dict.fromkeys(keys, "a"))
        requests, cursor = tick(forecast_from_new_prices, instance, cursor)
        seen.update(str(request.partition_key) for request in requests)
    assert seen == {"2018-05-01", "2018-05-03", "2018-05-05", "2018-05-07", "2018-05-09"}


def test_a_tick_reads_at_most_one_batch_and_the_next_continues(
    instance: dg.DagsterInstance, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sensors, "BATCH", 2)
    report_content(instance, PRICES.asset_key, {"2018-05-01": "a", "2018-05-03": "a", "2018-05-05": "a"})
    first, cursor = tick(forecast_from_new_prices, instance)
    second, _ = tick(forecast_from_new_prices, instance, cursor)
    assert [r.partition_key for r in (*first, *second)] == ["2018-05-01", "2018-05-03", "2018-05-05"]


def test_unchanged_bars_request_nothing(instance: dg.DagsterInstance) -> None:
    report_content(instance, PRICES.asset_key, {"2018-05-01": "a"})
    _, cursor = tick(forecast_from_new_prices, instance)
    report_content(instance, PRICES.asset_key, {"2018-05-01": "a"})
    requests, cursor = tick(forecast_from_new_prices, instance, cursor)
    assert requests == []
    report_content(instance, PRICES.asset_key, {"2018-05-01": "b"})
    requests, _ = tick(forecast_from_new_prices, instance, cursor)
    assert len(requests) == 1


def test_restated_and_restored_bars_each_request_a_run(instance: dg.DagsterInstance) -> None:
    cursor, keys = None, []
    for content in ("a", "b", "a"):
        report_content(instance, PRICES.asset_key, {"2018-05-01": content})
        requests, cursor = tick(forecast_from_new_prices, instance, cursor)
        keys += [request.run_key for request in requests]
    assert len(set(keys)) == 3


def test_a_long_backfill_requests_one_run(instance: dg.DagsterInstance) -> None:
    days = [date(2018, 1, 1) + timedelta(days=i) for i in range(100)]
    report_content(instance, PRICES.asset_key, {str(day): f"digest {day}" for day in days})
    requests, _ = tick(forecast_from_new_prices, instance)
    assert len(requests) == 1
    assert requests[0].tags["dagster/asset_partition_range_start"] == "2018-01-01"
    assert requests[0].tags["dagster/asset_partition_range_end"] == "2018-04-10"


def prices_asset(*, passed: bool) -> list[dg.AssetsDefinition | dg.AssetChecksDefinition]:
    @dg.asset(key=PRICES.asset_key, partitions_def=dg.StaticPartitionsDefinition(["2018-05-01"]))
    def prices() -> None: ...

    @dg.asset_check(asset=prices, blocking=True)
    def bars_are_valid() -> dg.AssetCheckResult:
        return dg.AssetCheckResult(passed=passed)

    return [prices, bars_are_valid]


def materialise(instance: dg.DagsterInstance, *, passed: bool = True, tags: dict[str, str] | None = None) -> None:
    dg.materialize(
        prices_asset(passed=passed), instance=instance, partition_key="2018-05-01", tags=tags, raise_on_error=False
    )


def test_bars_of_a_successful_run_are_processed(instance: dg.DagsterInstance) -> None:
    materialise(instance)
    assert len(tick(forecast_from_new_prices, instance)[0]) == 1


def test_bars_that_fail_a_blocking_check_are_not_processed(instance: dg.DagsterInstance) -> None:
    materialise(instance, passed=False)
    requests, cursor = tick(forecast_from_new_prices, instance)
    assert requests == []
    materialise(instance)
    assert len(tick(forecast_from_new_prices, instance, cursor)[0]) == 1


def test_bars_of_an_unfinished_run_are_processed_after_its_end(instance: dg.DagsterInstance) -> None:
    seen: list[tuple[Sequence[dg.RunRequest], str | None]] = []
    prices, _ = prices_asset(passed=True)

    @dg.asset(deps=[PRICES.asset_key], partitions_def=dg.StaticPartitionsDefinition(["2018-05-01"]))
    def while_it_runs() -> None:
        seen.append(tick(forecast_from_new_prices, instance))

    dg.materialize([prices, while_it_runs], instance=instance, partition_key="2018-05-01")
    ((requests, cursor),) = seen
    assert (requests, Position.parse(cursor).after) == ([], 0)
    assert len(tick(forecast_from_new_prices, instance, cursor)[0]) == 1


def test_bars_of_a_walk_forward_are_skipped(instance: dg.DagsterInstance) -> None:
    materialise(instance, tags={WALK_TAG: "some walk"})
    assert tick(forecast_from_new_prices, instance)[0] == []


def test_days_outside_the_partitions_are_skipped(instance: dg.DagsterInstance) -> None:
    report_content(instance, PRICES.asset_key, {"2031-01-01": "a"})
    requests, cursor = tick(forecast_from_new_prices, instance)
    assert requests == []
    assert Position.parse(cursor).after > 0


def test_before_the_first_model_only_features_and_labels_are_requested(instance: dg.DagsterInstance) -> None:
    report_content(instance, PRICES.asset_key, {"2018-05-01": "a"})
    requests, _ = tick(forecast_from_new_prices, instance)
    assert set(requests[0].asset_selection or ()) == {HOURLY_FEATURES.asset_key, HOURLY_LABELS.asset_key}


def test_without_a_champion_no_forecasts_are_requested(instance: dg.DagsterInstance, lake: Lake) -> None:
    set_champion(lake, date(2018, 4, 30), champion=None)
    report_content(instance, PRICES.asset_key, {"2018-05-01": "a"})
    requests, _ = tick(forecast_from_new_prices, instance)
    assert set(requests[0].asset_selection or ()) == {HOURLY_FEATURES.asset_key, HOURLY_LABELS.asset_key}


def test_with_a_champion_forecasts_and_outcomes_are_requested(instance: dg.DagsterInstance, lake: Lake) -> None:
    set_champion(lake, date(2018, 4, 30), champion=1)
    report_content(instance, PRICES.asset_key, {"2018-05-01": "a"})
    requests, _ = tick(forecast_from_new_prices, instance)
    assert set(requests[0].asset_selection or ()) == {
        HOURLY_FEATURES.asset_key,
        HOURLY_LABELS.asset_key,
        FORECASTS.asset_key,
        FORECAST_OUTCOMES.asset_key,
    }


def test_an_ordinary_hour_affects_its_day_only() -> None:
    today = date(2018, 5, 9)
    assert affected_days([today], [today - timedelta(days=i) for i in range(60)]) == [today]


def test_a_restated_past_day_affects_the_days_within_the_warm_up(instance: dg.DagsterInstance, lake: Lake) -> None:
    stored = [date(2018, 5, 1) + timedelta(days=i) for i in range(WARMUP_DAYS + 5)]
    for day in stored:
        lake.write(PRICES, day, PRICES.empty())
    report_content(instance, PRICES.asset_key, {"2018-05-02": "restated"})
    (request,), _ = tick(forecast_from_new_prices, instance)
    assert request.tags["dagster/asset_partition_range_start"] == "2018-05-02"
    assert request.tags["dagster/asset_partition_range_end"] == str(date(2018, 5, 2) + timedelta(days=WARMUP_DAYS))


# --- reports -----------------------------------------------------------------------------------------
def test_a_closed_day_is_reported_in_a_separate_run(instance: dg.DagsterInstance) -> None:
    report_content(instance, FORECAST_OUTCOMES.asset_key, {"2018-05-01": "a"})
    requests, cursor = tick(report_on_closed_days, instance)
    assert [request.partition_key for request in requests] == ["2018-05-01"]
    assert tick(report_on_closed_days, instance, cursor)[0] == []
    assert report_on_closed_days.job_name == "report_performance"


def test_after_a_backfill_only_the_newest_days_are_reported(instance: dg.DagsterInstance) -> None:
    report_content(
        instance, FORECAST_OUTCOMES.asset_key, {str(date(2018, 1, 1) + timedelta(days=i)): str(i) for i in range(100)}
    )
    (request,), _ = tick(report_on_closed_days, instance)
    assert request.tags["dagster/asset_partition_range_start"] == "2018-04-04"
    assert request.tags["dagster/asset_partition_range_end"] == "2018-04-10"


def test_an_open_day_is_not_reported(instance: dg.DagsterInstance, monkeypatch: pytest.MonkeyPatch) -> None:
    class Now:
        def now(self) -> datetime:
            return datetime(2018, 5, 1, 12, tzinfo=UTC)

    monkeypatch.setattr(sensors, "settings", Now)
    report_content(instance, FORECAST_OUTCOMES.asset_key, {"2018-05-01": "a"})
    assert tick(report_on_closed_days, instance)[0] == []


# --- models ----------------------------------------------------------------------------------------
class Noon:
    """Settings whose clock is fixed at noon of 2018-05-02."""

    def now(self) -> datetime:
        return datetime(2018, 5, 2, 12, tzinfo=UTC)


TODAY = date(2018, 5, 2)


@pytest.fixture
def noon(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sensors, "settings", Noon)


@pytest.mark.usefixtures("noon")
def test_a_new_champion_of_today_forecasts_today(instance: dg.DagsterInstance, lake: Lake) -> None:
    set_champion(lake, TODAY, champion=3)
    lake.write(PRICES, TODAY, PRICES.empty())
    report_content(instance, MODEL_HISTORY.asset_key, {"2018-05-02": "a"})
    (request,), cursor = tick(forecast_from_new_models, instance)
    assert request.partition_key == "2018-05-02"
    assert request.asset_selection == [FORECASTS.asset_key, FORECAST_OUTCOMES.asset_key]
    assert forecast_from_new_models.job_name == "forecast_days"
    assert tick(forecast_from_new_models, instance, cursor)[0] == []
    report_content(instance, MODEL_HISTORY.asset_key, {"2018-05-02": "a"})
    assert tick(forecast_from_new_models, instance, cursor)[0] == [], "nothing was added"
    report_content(instance, MODEL_HISTORY.asset_key, {"2018-05-02": "b"})
    assert len(tick(forecast_from_new_models, instance, cursor)[0]) == 1


@pytest.mark.usefixtures("noon")
def test_a_recorded_change_counts_although_its_run_failed_later(instance: dg.DagsterInstance, lake: Lake) -> None:
    """A rollback whose publication failed is still in the history."""
    set_champion(lake, TODAY, champion=3)
    lake.write(PRICES, TODAY, PRICES.empty())
    grid = dg.StaticPartitionsDefinition(["2018-05-02"])

    @dg.asset(key=MODEL_HISTORY.asset_key, partitions_def=grid)
    def history() -> dg.MaterializeResult[None]:
        return dg.MaterializeResult(metadata={"partition_digest": "a"})

    @dg.asset(deps=[history], partitions_def=grid)
    def published() -> None:
        raise ValueError("the disk is full")

    result = dg.materialize([history, published], instance=instance, partition_key="2018-05-02", raise_on_error=False)
    assert not result.success
    assert len(tick(forecast_from_new_models, instance)[0]) == 1


@pytest.mark.usefixtures("noon")
def test_an_old_change_re_forecasts_nothing(instance: dg.DagsterInstance, lake: Lake) -> None:
    set_champion(lake, TODAY, champion=3)
    lake.write(PRICES, TODAY, PRICES.empty())
    report_content(instance, MODEL_HISTORY.asset_key, {"2018-04-20": "a"})
    assert tick(forecast_from_new_models, instance)[0] == []


@pytest.mark.usefixtures("noon")
@pytest.mark.parametrize("decision", ["wait", "promote", "dismiss", None])
def test_the_report_of_the_closed_day_settles_the_shadow(
    instance: dg.DagsterInstance, lake: Lake, decision: str | None
) -> None:
    challenger = {"challenger_version": 4, "challenger_cutoff": date(2018, 4, 2), "challenger_digest": "d"}
    row = dict.fromkeys(SHADOW_REPORT.columns) | {"day": date(2018, 5, 1), "decision": decision, **challenger}
    row |= {"criterion": "log_loss", "passed": decision == "promote"}
    rows = [] if decision is None else [row]
    lake.write(SHADOW_REPORT, date(2018, 5, 1), pl.DataFrame(rows, schema=SHADOW_REPORT.columns))
    report_content(instance, SHADOW_REPORT.asset_key, {"2018-04-28": "x", "2018-05-01": "a"})
    requests, cursor = tick(settle_shadows, instance)
    assert [request.partition_key for request in requests] == (
        ["2018-05-02"] if decision in ("promote", "dismiss") else []
    )
    assert tick(settle_shadows, instance, cursor)[0] == []
    assert settle_shadows.job_name == "settle_shadow"
    for one in requests:
        change = one.run_config["ops"][DECISIONS]["config"]
        assert (change["event"], change["decision"]) == ("shadow", decision)
        assert (change["version"], change["cutoff"], change["digest"]) == (4, "2018-04-02", "d")


# --- publication -------------------------------------------------------------------------------------
def test_the_newest_forecast_is_published_once(instance: dg.DagsterInstance, lake: Lake) -> None:
    forecast(lake, date(2018, 5, 2), "champion")
    report_content(instance, FORECASTS.asset_key, {"2018-05-01": "a", "2018-05-02": "b"})
    requests, cursor = tick(publish_new_forecasts, instance)
    assert [request.partition_key for request in requests] == ["2018-05-02"]
    assert tick(publish_new_forecasts, instance, cursor)[0] == []


def test_without_a_champion_forecast_nothing_is_published(instance: dg.DagsterInstance, lake: Lake) -> None:
    forecast(lake, date(2018, 5, 2), "challenger")
    report_content(instance, FORECASTS.asset_key, {"2018-05-02": "b"})
    assert tick(publish_new_forecasts, instance)[0] == []


def test_an_older_day_is_not_published_over_a_newer_one(instance: dg.DagsterInstance, lake: Lake) -> None:
    forecast(lake, date(2018, 5, 1), "champion")
    report_content(instance, FORECASTS.asset_key, {"2018-05-02": "b"})
    _, cursor = tick(publish_new_forecasts, instance)
    report_content(instance, FORECASTS.asset_key, {"2018-05-01": "a"})
    assert tick(publish_new_forecasts, instance, cursor)[0] == []


# --- retries -----------------------------------------------------------------------------------------
NAME = "forecast_from_new_prices"


def run_request(instance: dg.DagsterInstance, request: dg.RunRequest, *, passed: bool) -> None:
    """Execute the request of a sensor with the tags of the daemon, with success or failure."""
    grid = dg.StaticPartitionsDefinition(["2018-05-01", "2018-05-02", "2018-05-03"])

    @dg.asset(key=HOURLY_FEATURES.asset_key, partitions_def=grid, backfill_policy=dg.BackfillPolicy.single_run())
    def features() -> None:
        if not passed:
            raise ValueError("the disk is full")

    tags = {**request.tags, "dagster/sensor_name": NAME, "dagster/run_key": str(request.run_key)}
    dg.materialize([features], instance=instance, partition_key=request.partition_key, tags=tags, raise_on_error=False)


def after_retry_delay() -> datetime:
    return datetime.now(tz=UTC) + RETRY_AFTER + timedelta(seconds=1)


def test_a_failed_run_is_retried_up_to_the_maximum_number_of_attempts(instance: dg.DagsterInstance) -> None:
    report_content(instance, PRICES.asset_key, {"2018-05-01": "a"})
    (request,), _ = tick(forecast_from_new_prices, instance)
    requested = [request.run_key]
    wait = RETRY_AFTER
    while True:
        run_request(instance, request, passed=False)
        ended = datetime.now(tz=UTC)
        assert retry_requests(instance, NAME, ended + 0.9 * wait) == []
        retries = retry_requests(instance, NAME, ended + wait + timedelta(seconds=1))
        if not retries:
            break
        wait *= 2  # each failure doubles the delay
        (request,) = retries
        assert request.partition_key == "2018-05-01"
        requested.append(request.run_key)
    assert len(set(requested)) == len(requested) == MAX_ATTEMPTS


def test_a_successful_attempt_is_the_last(instance: dg.DagsterInstance) -> None:
    first = dg.RunRequest(run_key="k", partition_key="2018-05-01")
    run_request(instance, first, passed=False)
    (second,) = retry_requests(instance, NAME, after_retry_delay())
    assert (second.run_key, second.tags[ATTEMPT_TAG]) == ("k|attempt 2", "2")
    run_request(instance, second, passed=True)
    assert retry_requests(instance, NAME, after_retry_delay()) == []


def test_a_retry_selects_the_same_assets(instance: dg.DagsterInstance) -> None:
    run = create_run_for_test(
        instance,
        job_name="forecast_days",
        tags={"dagster/sensor_name": NAME, "dagster/run_key": "k", "dagster/partition": "2018-05-01"},
        asset_selection=frozenset({HOURLY_FEATURES.asset_key, HOURLY_LABELS.asset_key}),
        status=dg.DagsterRunStatus.STARTED,
    )
    assert retry_requests(instance, NAME, after_retry_delay()) == []  # still running
    instance.report_run_failed(run)
    (retries,) = retry_requests(instance, NAME, after_retry_delay())
    assert set(retries.asset_selection or ()) == {HOURLY_FEATURES.asset_key, HOURLY_LABELS.asset_key}


def test_a_superseded_or_cancelled_request_is_not_retried(instance: dg.DagsterInstance) -> None:
    run_request(instance, dg.RunRequest(run_key="older", partition_key="2018-05-01"), passed=False)
    run_request(instance, dg.RunRequest(run_key="newer", partition_key="2018-05-01"), passed=True)
    tags = {"dagster/sensor_name": NAME, "dagster/run_key": "k", "dagster/partition": "2018-05-02"}
    run = create_run_for_test(instance, tags=tags, status=dg.DagsterRunStatus.STARTED)
    instance.report_run_canceled(run)
    assert retry_requests(instance, NAME, after_retry_delay()) == []


def test_a_failed_run_is_retried_only_between_the_delay_and_half_a_day(instance: dg.DagsterInstance) -> None:
    run_request(instance, dg.RunRequest(run_key="k", partition_key="2018-05-01"), passed=False)
    assert retry_requests(instance, NAME, datetime.now(tz=UTC)) == []
    assert retry_requests(instance, NAME, after_retry_delay() + sensors.RETRY_WITHIN) == []
    assert retry_requests(instance, "publish_new_forecasts", after_retry_delay()) == []


def test_every_sensor_retries_failed_runs(instance: dg.DagsterInstance, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sensors, "RETRY_AFTER", timedelta(0))
    for sensor in sensors.SENSORS:
        monkeypatch.setattr("btc_assets_tests.automation.test_sensors.NAME", sensor.name)
        run_request(instance, dg.RunRequest(run_key="k", partition_key="2018-05-01"), passed=False)
        requests, _ = tick(sensor, instance)
        assert [request.run_key for request in requests] == ["k|attempt 2"]


def test_a_range_is_retried_as_a_range(instance: dg.DagsterInstance) -> None:
    span = Span(date(2018, 5, 1), date(2018, 5, 3))
    run_request(instance, dg.RunRequest(run_key="k", tags=span.tags), passed=False)
    (retries,) = retry_requests(instance, NAME, after_retry_delay())
    assert retries.partition_key is None
    assert retries.tags == {**span.tags, ATTEMPT_TAG: "2"}


# --- runs that write the same tables -----------------------------------------------------------------
def test_runs_that_write_the_same_tables_do_not_overlap() -> None:
    config, _ = dagster_instance_config(str(PROJECT_ROOT))  # validated against Dagster's schema
    limits = config["concurrency"]["runs"]["tag_concurrency_limits"]
    assert {"key": ONE_AT_A_TIME, "value": {"applyLimitPerUniqueValue": True}, "limit": 1} in limits
    lanes = {job.name: job.tags[ONE_AT_A_TIME] for job in JOBS if job.name != "walk_forward"}
    assert {name for name, value in lanes.items() if value == lanes["refresh_forecast"]} == HOT_PATH_JOBS
    assert lanes.pop("settle_shadow") == lanes["train_cutoff"]
    assert lanes.pop("compare_families") == lanes["study_groups"]  # both are long and on request
    others = [value for name, value in lanes.items() if name not in HOT_PATH_JOBS]
    assert len(set(others)) == len(others) == 7


def test_background_runs_leave_capacity_for_the_forecast_of_the_hour() -> None:
    config, _ = dagster_instance_config(str(PROJECT_ROOT))
    runs = config["concurrency"]["runs"]
    limits = {limit["key"]: limit["limit"] for limit in runs["tag_concurrency_limits"]}
    background = {job.name for job in JOBS if BACKGROUND in (job.tags or {})}
    assert background == {job.name for job in JOBS} - HOT_PATH_JOBS
    assert limits[BACKGROUND] < runs["max_concurrent_runs"]


def test_a_position_keeps_the_newest_days_only() -> None:
    content = {str(date(2024, 1, 1) + timedelta(days=i)): "x" for i in range(100)}
    position = Position().advance(7, content)
    assert sorted(position.seen) == sorted(content)[-sensors.REMEMBERED_DAYS :]
    assert Position.parse(str(position)) == position
    assert json.loads(str(position))["after"] == 7


# --- texts -----------------------------------------------------------------------------------------
def test_articles_and_posts_of_one_day_are_scored_in_one_run(instance: dg.DagsterInstance) -> None:
    report_content(instance, ARTICLES.asset_key, {"2018-05-01": "a"})
    report_content(instance, POSTS.asset_key, {"2018-05-01": "p"})
    requests, cursor = tick(score_new_texts, instance)
    assert [request.partition_key for request in requests] == ["2018-05-01"]
    assert set(positions_of(cursor)) == {"articles", "posts"}
    assert tick(score_new_texts, instance, cursor)[0] == []


def test_new_posts_are_scored_without_new_articles_and_unchanged_texts_are_not(instance: dg.DagsterInstance) -> None:
    report_content(instance, ARTICLES.asset_key, {"2018-05-01": "a"})
    _, cursor = tick(score_new_texts, instance)
    report_content(instance, ARTICLES.asset_key, {"2018-05-01": "a"})
    requests, cursor = tick(score_new_texts, instance, cursor)
    assert requests == []
    report_content(instance, POSTS.asset_key, {"2018-05-01": "p"})
    assert len(tick(score_new_texts, instance, cursor)[0]) == 1


def score(lake: Lake, available_at: Sequence[datetime]) -> None:
    """Store one score for each of these times of one day."""
    schema = SENTIMENT_SCORES.columns
    rows = [
        dict.fromkeys(schema) | {"kind": "post", "item_id": f"{n:064x}", "scorer": "vader", "available_at": at}
        for n, at in enumerate(available_at)
    ]
    lake.write(SENTIMENT_SCORES, available_at[0].date(), pl.DataFrame(rows, schema=schema))


def bars_of(lake: Lake, *days: date) -> None:
    schema = PRICES.columns
    for day in days:
        row = dict.fromkeys(schema) | {"open_time": datetime(day.year, day.month, day.day, tzinfo=UTC)}
        lake.write(PRICES, day, pl.DataFrame([row], schema=schema))


def test_scores_of_a_day_with_bars_request_features_and_forecasts(instance: dg.DagsterInstance, lake: Lake) -> None:
    bars_of(lake, date(2018, 5, 1))
    set_champion(lake, date(2018, 4, 30), champion=1)
    report_content(instance, SENTIMENT_SCORES.asset_key, {"2018-05-01": "s"})
    (request,), _ = tick(forecast_from_new_scores, instance)
    assert request.partition_key == "2018-05-01"
    assert request.asset_selection == [
        HOURLY_FEATURES.asset_key,
        HOURLY_LABELS.asset_key,
        FORECASTS.asset_key,
        FORECAST_OUTCOMES.asset_key,
    ]


def test_scores_of_a_day_without_bars_request_nothing(instance: dg.DagsterInstance) -> None:
    report_content(instance, SENTIMENT_SCORES.asset_key, {"2018-05-01": "s"})
    assert tick(forecast_from_new_scores, instance)[0] == []


def test_late_scores_of_a_closed_hour_request_a_forecast(
    instance: dg.DagsterInstance, lake: Lake, clock: Callable[[datetime], None]
) -> None:
    """The forecast of an hour includes the scores stored before the hour has closed."""
    bars_of(lake, date(2018, 5, 1))
    requested, cursor, texts = [], None, []
    for scored_at, available_at in (
        ("09:41", "09:40"),
        ("10:11", "10:10"),
        ("11:03", "10:56"),  # scored after the forecast of its hour
        ("11:11", "11:10"),
        ("11:56", "11:55"),
        ("12:11", "12:10"),
    ):
        clock(datetime.fromisoformat(f"2018-05-01T{scored_at}+00:00"))
        texts.append(datetime.fromisoformat(f"2018-05-01T{available_at}+00:00"))
        score(lake, texts)
        report_content(instance, SENTIMENT_SCORES.asset_key, {"2018-05-01": scored_at})
        requests, cursor = tick(forecast_from_new_scores, instance, cursor)
        requested += [(scored_at, request.partition_key) for request in requests]
    assert requested == [("11:03", "2018-05-01")]


def test_a_late_score_of_yesterday_requests_both_days_once(
    instance: dg.DagsterInstance, lake: Lake, clock: Callable[[datetime], None]
) -> None:
    bars_of(lake, date(2018, 5, 1), date(2018, 5, 2))
    score(lake, [datetime(2018, 5, 1, 23, 55, tzinfo=UTC)])
    clock(datetime(2018, 5, 2, 1, 3, tzinfo=UTC))
    cursor = None
    for content in ("a", "b"):  # the second time only the order has changed
        report_content(instance, SENTIMENT_SCORES.asset_key, {"2018-05-01": content})
        requests, cursor = tick(forecast_from_new_scores, instance, cursor)
        assert len(requests) == (content == "a")
        for request in requests:
            assert request.tags.items() >= Span(date(2018, 5, 1), date(2018, 5, 2)).tags.items()


def test_scores_request_nothing_while_the_forecast_of_the_hour_runs(
    instance: dg.DagsterInstance, lake: Lake, clock: Callable[[datetime], None]
) -> None:
    bars_of(lake, date(2018, 5, 1))
    score(lake, [datetime(2018, 5, 1, 10, 59, tzinfo=UTC)])
    clock(datetime(2018, 5, 1, 11, 0, 20, tzinfo=UTC))
    run = create_run_for_test(instance, job_name="refresh_forecast", status=dg.DagsterRunStatus.STARTED)
    report_content(instance, SENTIMENT_SCORES.asset_key, {"2018-05-01": "s"})
    requests, cursor = tick(forecast_from_new_scores, instance)
    assert requests == []
    instance.report_run_canceled(run)
    assert len(tick(forecast_from_new_scores, instance, cursor)[0]) == 1


def test_a_row_of_a_stream_is_carried_to_the_day_of_the_hour_it_counts_for(
    instance: dg.DagsterInstance, lake: Lake, clock: Callable[[datetime], None]
) -> None:
    """The future's bar of 23:00 is known at midnight and counts for the first hour of the next day."""
    bars_of(lake, date(2018, 5, 1), date(2018, 5, 2))
    row = {"open_time": datetime(2018, 5, 1, 23, tzinfo=UTC), "close": 9_000.0, "volume": 1.0}
    lake.write(PERPETUAL, date(2018, 5, 1), pl.DataFrame([row], schema=PERPETUAL.columns))
    sensor, cursor = forecast_from(BASIS), None
    assert sensor.name == "forecast_from_new_basis"
    for now, content, days in (("00:51", "a", []), ("01:51", "b", ["2018-05-02"]), ("02:51", "c", [])):
        clock(datetime.fromisoformat(f"2018-05-02T{now}+00:00"))
        report_content(instance, PERPETUAL.asset_key, {"2018-05-01": content})
        requests, cursor = tick(sensor, instance, cursor)
        assert [request.partition_key for request in requests] == days
        if content == "a":  # restated after its hour has closed
            row["close"] = 9_001.0
            lake.write(PERPETUAL, date(2018, 5, 1), pl.DataFrame([row], schema=PERPETUAL.columns))


# --- the forecast of the hour ------------------------------------------------------------------------
GRID = dg.StaticPartitionsDefinition(["2018-05-01", "2018-05-02"])


class HourlyRun:
    """Runs of the job `refresh_forecast` with stub assets that succeed or fail as configured."""

    def __init__(self, instance: dg.DagsterInstance) -> None:
        self._instance = instance

    def run(
        self,
        assets: Sequence[dg.AssetKey] = HOUR_ASSETS,
        *,
        fails_at: dg.AssetKey | None = None,
        check_fails: bool = False,
        content: str = "a",
        key: str = "2018-05-01",
    ) -> None:
        """Execute the job with the tags of the schedule, until an asset or a blocking check fails."""

        def asset(index: int) -> dg.AssetsDefinition:
            name = assets[index]

            @dg.asset(key=name, partitions_def=GRID, deps=[assets[index - 1]] if index else [])
            def made() -> dg.MaterializeResult:
                if name == fails_at:
                    raise ValueError("the disk is full")
                return dg.MaterializeResult(metadata={"partition_digest": f"{content} of {name.path[-1]}"})

            return made

        @dg.multi_asset_check(
            specs=[dg.AssetCheckSpec(check, asset=key, blocking=True) for key, check in sensors._BLOCKING]
        )
        def checks() -> Iterator[dg.AssetCheckResult]:
            for key, check in sensors._BLOCKING:
                yield dg.AssetCheckResult(passed=not check_fails, asset_key=key, check_name=check)

        job = dg.Definitions(
            assets=[asset(index) for index in range(len(assets))],
            asset_checks=[checks],
            jobs=[dg.define_asset_job("refresh_forecast")],
        ).resolve_job_def("refresh_forecast")
        tags = {"dagster/schedule_name": "hourly_refresh", "dagster/run_key": f"hour|{key}"}
        job.execute_in_process(instance=self._instance, partition_key=key, tags=tags, raise_on_error=False)

    def requested(self, cursors: dict[str, str | None]) -> dict[str, list[list[str]]]:
        """Tick the safety-net sensors; return the requested assets of each sensor with requests."""
        requested = {}
        for sensor in (
            forecast_from_new_prices,
            forecast_from_new_quarter_bars,
            publish_new_forecasts,
            forecast_from_new_models,
            score_new_texts,
        ):
            requests, cursors[sensor.name] = tick(sensor, self._instance, cursors.get(sensor.name))
            if requests:
                requested[sensor.name] = [
                    [key.path[-1] for key in request.asset_selection or ()] for request in requests
                ]
        return requested


@pytest.fixture
def hourly(instance: dg.DagsterInstance, lake: Lake, clock: Callable[[datetime], None]) -> HourlyRun:
    """Return a deployment with a champion, with the clock at 11:00:30."""
    clock(datetime(2018, 5, 1, 11, 0, 30, tzinfo=UTC))
    bars_of(lake, date(2018, 5, 1))
    set_champion(lake, date(2018, 4, 30), champion=1)
    forecast(lake, date(2018, 5, 1), "champion")
    return HourlyRun(instance)


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Callable[[datetime], None]:
    """Return a function that sets the project's clock."""

    def at(now: datetime) -> None:
        monkeypatch.setattr(type(sensors.settings()), "now", lambda _: now)

    return at


def test_sensors_request_nothing_after_the_forecast_of_the_hour(hourly: HourlyRun) -> None:
    cursors: dict[str, str | None] = {}
    for content in ("ten o'clock", "eleven o'clock"):
        hourly.run(content=content)
        assert hourly.requested(cursors) == {}


def test_sensors_request_nothing_after_a_refresh_without_a_champion(hourly: HourlyRun, lake: Lake) -> None:
    set_champion(lake, date(2018, 4, 30), champion=None)
    hourly.run([PRICES.asset_key, HOURLY_FEATURES.asset_key, HOURLY_LABELS.asset_key])
    assert hourly.requested({}) == {}


def test_bars_that_change_after_the_forecast_of_the_hour_are_processed(
    hourly: HourlyRun, instance: dg.DagsterInstance
) -> None:
    cursors: dict[str, str | None] = {}
    report_content(instance, PRICES.asset_key, {"2018-05-01": "as they were"})
    hourly.requested(cursors)
    hourly.run()
    report_content(instance, PRICES.asset_key, {"2018-05-01": "a of prices"})  # fetched again manually, unchanged
    assert hourly.requested(cursors) == {}
    report_content(instance, PRICES.asset_key, {"2018-05-01": "as they were"})
    assert list(hourly.requested(cursors)) == ["forecast_from_new_prices"]


def test_quarter_bars_that_were_late_for_the_forecast_of_the_hour_repeat_it(
    hourly: HourlyRun, instance: dg.DagsterInstance, lake: Lake
) -> None:
    cursors: dict[str, str | None] = {}
    hourly.run()
    assert hourly.requested(cursors) == {}
    day = date(2018, 5, 1)
    lake.write(QUARTER_BARS, day, quarters_of(random_walk(11, seed=1, start=midnight(day)), seed=1))
    report_content(instance, QUARTER_BARS.asset_key, {str(day): "with the last quarter"})
    assert hourly.requested(cursors) == {
        "forecast_from_new_quarter_bars": [["hourly_features", "hourly_labels", "forecasts", "forecast_outcomes"]]
    }


@pytest.mark.parametrize(
    ("fails_at", "sensor", "made"),
    [
        (
            HOURLY_FEATURES.asset_key,
            "forecast_from_new_prices",
            ["hourly_features", "hourly_labels", "forecasts", "forecast_outcomes"],
        ),
        (
            FORECASTS.asset_key,
            "forecast_from_new_prices",
            ["hourly_features", "hourly_labels", "forecasts", "forecast_outcomes"],
        ),
        (SERVING_BUNDLE.asset_key, "publish_new_forecasts", []),
    ],
    ids=["at the features", "at the forecasts", "at the bundle"],
)
def test_a_sensor_continues_from_the_step_at_which_the_run_failed(
    hourly: HourlyRun, instance: dg.DagsterInstance, fails_at: dg.AssetKey, sensor: str, made: list[str]
) -> None:
    hourly.run(fails_at=fails_at)
    assert hourly.requested({}) == {sensor: [made]}
    assert retry_requests(instance, "refresh_late_bars", after_retry_delay(), schedule="hourly_refresh") == []


@pytest.mark.parametrize(
    "how", [{"fails_at": PRICES.asset_key}, {"check_fails": True}], ids=["the venue is down", "the bars are refused"]
)
def test_a_run_without_bars_is_retried_and_nothing_else_is_requested(
    hourly: HourlyRun, instance: dg.DagsterInstance, how: dict[str, Any]
) -> None:
    hourly.run(**how)
    assert hourly.requested({}) == {}
    late_bar_retries = lambda at: retry_requests(instance, "refresh_late_bars", at, schedule="hourly_refresh")  # noqa: E731
    assert late_bar_retries(datetime.now(tz=UTC)) == []
    (retries,) = late_bar_retries(after_retry_delay())
    assert (retries.run_key, retries.partition_key) == ("hour|2018-05-01|attempt 2", "2018-05-01")
    hourly.run()  # the next hour, of the same day
    assert late_bar_retries(after_retry_delay()) == []


def test_a_manual_refresh_is_not_retried(instance: dg.DagsterInstance) -> None:
    run = create_run_for_test(instance, job_name="refresh_forecast", status=dg.DagsterRunStatus.STARTED)
    instance.report_run_failed(run)
    assert retry_requests(instance, "refresh_late_bars", after_retry_delay(), schedule="hourly_refresh") == []
