from datetime import UTC, date, datetime, timedelta
from pathlib import Path

import dagster as dg
import polars as pl
import pytest
from dagster._core.test_utils import create_run_for_test
from hypothesis import given
from hypothesis import strategies as st

from btc_assets.automation import schedules
from btc_assets.automation.jobs import GATHERINGS, PATIENCE_S, refresh_forecast
from btc_assets.automation.schedules import (
    MAX_DAYS_TO_GATHER,
    cron_of,
    days_to_gather,
    days_to_refresh,
    gather_news,
    gathering_of,
    hourly_refresh,
    late_gathering_of,
    weekly_training,
)
from btc_assets.automation.spans import Span
from btc_assets.champion.history import after_verdict
from btc_assets.champion.tables import MODEL_HISTORY, MODEL_VERDICT
from btc_assets.clock import midnight
from btc_assets.definitions import defs
from btc_assets.features.tables import HOURLY_FEATURES
from btc_assets.lake import Lake, by_day
from btc_assets.market.funding_rates import FUNDING, FUNDING_RATES
from btc_assets.market.quarter_bars import QUARTER_BARS, QUARTER_STREAM
from btc_assets.market.synthetic import quarters_of
from btc_assets.market.tables import PRICES
from btc_assets.serving.tables import SERVING_BUNDLE
from btc_assets.settings import Settings, SettingsError
from btc_assets_tests.automation.conftest import HOUR_ASSETS
from btc_assets_tests.conftest import random_walk_bars

MONDAY = datetime(2024, 3, 4, tzinfo=UTC)


@pytest.fixture(autouse=True)
def live(monkeypatch: pytest.MonkeyPatch) -> None:
    """Use the settings of a deployment with a growing history."""
    chosen = Settings(market_source="binance", history_start=date(2024, 1, 1))
    monkeypatch.setattr(schedules, "settings", lambda: chosen)


@pytest.mark.parametrize("expression", ["every hour", "99 * * * *", "*/0 * * * *", "5 * * *", "- - - - -"])
def test_a_cron_expression_that_dagster_refuses_fails_by_the_name_of_its_variable(
    expression: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(schedules, "settings", lambda: Settings(refresh_cron=expression))
    with pytest.raises(SettingsError, match=r"BTC_REFRESH_CRON='.*': expected a cron expression of five fields"):
        cron_of("refresh_cron")


@pytest.fixture(autouse=True)
def instance(instance: dg.DagsterInstance, monkeypatch: pytest.MonkeyPatch) -> dg.DagsterInstance:
    """Provide an ephemeral instance to every tick; Dagster builds schedule contexts for stored instances only."""
    monkeypatch.setattr(dg.ScheduleEvaluationContext, "instance", instance)
    return instance


@pytest.fixture
def lake(tmp_path: Path) -> Lake:
    return Lake(root=str(tmp_path))


def store_prices(lake: Lake, start: datetime, hours: int) -> pl.DataFrame:
    bars = random_walk_bars(hours, start=start)
    days = [start.date() + timedelta(days=i) for i in range(hours // 24 + 2)]
    for day, part in by_day(PRICES, bars, days):
        if part.height:
            lake.write(PRICES, day, part)
    return bars


def store_features(lake: Lake, start: datetime, hours: int) -> None:
    times = [start + timedelta(hours=i) for i in range(hours)]
    frame = pl.DataFrame({"open_time": times}, schema={"open_time": HOURLY_FEATURES.columns["open_time"]})
    lake.write(HOURLY_FEATURES, start.date(), frame)


def refresh(lake: Lake, now: datetime) -> dg.RunRequest | dg.SkipReason:
    context = dg.build_schedule_context(scheduled_execution_time=now, resources={"lake": lake})
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Settings, "now", lambda _: now)
        return hourly_refresh(context)


def train(lake: Lake, now: datetime) -> dg.RunRequest | dg.SkipReason:
    context = dg.build_schedule_context(scheduled_execution_time=now, resources={"lake": lake})
    return weekly_training(context)


def record_training(instance: dg.DagsterInstance, cutoff: str, status: dg.DagsterRunStatus) -> None:
    """Record a training run of a cutoff with a status."""
    create_run_for_test(instance, job_name="train_cutoff", tags={"dagster/partition": cutoff}, status=status)


def test_at_midday_only_today_is_refreshed(lake: Lake) -> None:
    store_prices(lake, MONDAY - timedelta(days=1), 24 + 11)
    request = refresh(lake, MONDAY.replace(hour=12, minute=5))
    assert isinstance(request, dg.RunRequest)
    assert request.partition_key == "2024-03-04"
    assert request.run_key == "2024-03-04T12:05:00+00:00|2024-03-04"


def test_just_after_midnight_only_yesterday_is_refreshed(lake: Lake) -> None:
    store_prices(lake, MONDAY - timedelta(days=1), 23)
    request = refresh(lake, MONDAY.replace(minute=5))
    assert isinstance(request, dg.RunRequest)
    assert request.partition_key == "2024-03-03"


def test_in_the_first_hours_yesterday_is_refreshed_too(lake: Lake) -> None:
    store_prices(lake, MONDAY - timedelta(days=1), 24)
    request = refresh(lake, MONDAY.replace(hour=2, minute=5))
    assert isinstance(request, dg.RunRequest)
    assert request.tags["dagster/asset_partition_range_start"] == "2024-03-03"
    assert request.tags["dagster/asset_partition_range_end"] == "2024-03-04"


def test_an_incomplete_yesterday_is_refreshed_at_any_hour(lake: Lake) -> None:
    store_prices(lake, MONDAY - timedelta(days=1), 20)
    request = refresh(lake, MONDAY.replace(hour=15, minute=5))
    assert isinstance(request, dg.RunRequest)
    assert request.tags["dagster/asset_partition_range_start"] == "2024-03-03"


def test_one_run_catches_up_after_an_outage(lake: Lake) -> None:
    store_prices(lake, MONDAY - timedelta(days=9), 30)
    request = refresh(lake, MONDAY.replace(hour=15, minute=5))
    assert isinstance(request, dg.RunRequest)
    assert request.tags["dagster/asset_partition_range_start"] == "2024-02-25"
    assert request.tags["dagster/asset_partition_range_end"] == "2024-03-04"


def test_a_repeated_tick_requests_one_run(lake: Lake) -> None:
    now = MONDAY.replace(hour=12, minute=5)
    first, second = refresh(lake, now), refresh(lake, now)
    assert isinstance(first, dg.RunRequest)
    assert isinstance(second, dg.RunRequest)
    assert first.run_key == second.run_key


def test_a_closed_history_is_not_refreshed(lake: Lake, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(schedules, "settings", lambda: Settings(market_source="sample"))
    skipped = refresh(lake, MONDAY.replace(hour=12, minute=5))
    assert isinstance(skipped, dg.SkipReason)
    assert "closed" in (skipped.skip_message or "")


@given(st.datetimes(datetime(2024, 1, 2), datetime(2026, 1, 1)), st.integers(0, 40), st.booleans())
def test_a_refresh_never_requests_future_days_or_days_before_the_first_partition(
    now: datetime, days_off: int, anything_stored: bool
) -> None:
    now = now.replace(tzinfo=UTC)
    newest = now - timedelta(days=days_off)
    span = days_to_refresh(now, [newest.date()] if anything_stored else [], newest if anything_stored else None)
    if span is not None:
        assert date(2024, 1, 1) <= span.first <= span.last <= now.date()


def test_monday_trains_its_cutoff_once_sunday_is_complete(lake: Lake) -> None:
    store_features(lake, MONDAY - timedelta(days=1), 24)
    request = train(lake, MONDAY.replace(minute=20))
    assert isinstance(request, dg.RunRequest)
    assert request.partition_key == "2024-03-04"
    assert request.run_key == "weekly|2024-03-04T00:20:00+00:00"


def test_training_waits_for_an_incomplete_sunday(lake: Lake) -> None:
    store_features(lake, MONDAY - timedelta(days=1), 22)
    skipped = train(lake, MONDAY.replace(minute=20))
    assert isinstance(skipped, dg.SkipReason)
    assert skipped.skip_message == "2024-03-03 is incomplete: its newest hour is 21:00"


def test_after_six_hours_training_uses_an_incomplete_sunday(lake: Lake) -> None:
    store_features(lake, MONDAY - timedelta(days=1), 22)
    assert isinstance(train(lake, MONDAY.replace(hour=6, minute=20)), dg.RunRequest)


def test_without_features_no_training_is_requested(lake: Lake) -> None:
    assert isinstance(train(lake, MONDAY.replace(hour=6, minute=20)), dg.SkipReason)


def test_a_later_tick_retries_a_failed_training(lake: Lake, instance: dg.DagsterInstance) -> None:
    store_features(lake, MONDAY - timedelta(days=1), 24)
    record_training(instance, "2024-03-04", dg.DagsterRunStatus.FAILURE)
    requests = [train(lake, MONDAY.replace(hour=hour, minute=20)) for hour in (1, 1, 2)]
    keys = [request.run_key for request in requests if isinstance(request, dg.RunRequest)]
    assert len(keys) == 3
    assert keys[0] == keys[1] != keys[2]  # a repeated tick requests one run


def test_a_cutoff_with_a_recorded_verdict_is_not_trained_again(lake: Lake) -> None:
    store_features(lake, MONDAY - timedelta(days=1), 24)
    schema = MODEL_VERDICT.columns
    row = {"cutoff": MONDAY.date(), "decision": "promoted", "kind": "first", "passed": True}
    candidate = {"candidate_version": 1, "candidate_digest": "a"}
    verdict = pl.DataFrame([dict.fromkeys(schema) | row | candidate], schema=schema)
    lake.write(MODEL_VERDICT, MONDAY.date(), verdict)
    assert isinstance(train(lake, MONDAY.replace(hour=1, minute=20)), dg.RunRequest), (
        "has a verdict that is not recorded"
    )
    at = midnight(MONDAY.date())
    written = after_verdict(MODEL_HISTORY.empty(), verdict, effective_from=at, recorded_at=at)
    lake.append(MODEL_HISTORY, MONDAY.date(), written)
    skipped = train(lake, MONDAY.replace(hour=1, minute=20))
    assert isinstance(skipped, dg.SkipReason)
    assert skipped.skip_message == "the model of 2024-03-04 is trained and has a verdict"


@pytest.mark.parametrize("status", [dg.DagsterRunStatus.STARTING, dg.DagsterRunStatus.STARTED])
def test_no_second_training_of_a_cutoff_starts_during_the_first(
    lake: Lake, instance: dg.DagsterInstance, status: dg.DagsterRunStatus
) -> None:
    store_features(lake, MONDAY - timedelta(days=1), 24)
    record_training(instance, "2024-02-26", status)
    assert isinstance(train(lake, MONDAY.replace(hour=1, minute=20)), dg.RunRequest)
    record_training(instance, "2024-03-04", status)
    skipped = train(lake, MONDAY.replace(hour=2, minute=20))
    assert isinstance(skipped, dg.SkipReason)
    assert "is being trained" in (skipped.skip_message or "")
    assert dg.DagsterRunStatus.QUEUED in schedules.UNFINISHED


def make_champion(lake: Lake, since: datetime) -> None:
    """Record a champion from an hour on."""
    row = {"effective_from": since, "recorded_at": since, "role": "champion", "event": "promoted"}
    row |= {"model_version": 1, "model_cutoff": since.date(), "model_digest": "a"}
    schema = MODEL_HISTORY.columns
    lake.write(MODEL_HISTORY, since.date(), pl.DataFrame([dict.fromkeys(schema) | row], schema=schema))


@pytest.mark.parametrize(
    ("champion_since", "made"),
    [
        (None, HOUR_ASSETS[:4]),
        (MONDAY, HOUR_ASSETS),
        (MONDAY.replace(hour=11), HOUR_ASSETS),
        (MONDAY.replace(hour=12), HOUR_ASSETS[:-2]),  # the hour after this one
    ],
    ids=["no champion", "since midnight", "since this hour", "from the next hour on"],
)
def test_the_champion_determines_the_assets_of_a_run(
    lake: Lake, champion_since: datetime | None, made: list[dg.AssetKey]
) -> None:
    store_prices(lake, MONDAY - timedelta(days=1), 24 + 11)
    if champion_since is not None:
        make_champion(lake, champion_since)
    request = refresh(lake, MONDAY.replace(hour=12))
    assert isinstance(request, dg.RunRequest)
    assert request.asset_selection == made
    assert request.partition_key == "2024-03-04"


def test_at_midnight_the_last_hour_of_yesterday_is_forecast(lake: Lake) -> None:
    make_champion(lake, MONDAY - timedelta(days=1))
    store_prices(lake, MONDAY - timedelta(days=1), 23)
    request = refresh(lake, MONDAY)
    assert isinstance(request, dg.RunRequest)
    assert request.partition_key == "2024-03-03"
    assert SERVING_BUNDLE.asset_key in (request.asset_selection or ())


def test_the_forecast_of_the_hour_is_one_run_with_priority_that_waits_for_its_bar() -> None:
    job = defs.resolve_job_def("refresh_forecast")
    made = set(job.asset_layer.selected_asset_keys)
    assert made == set(HOUR_ASSETS)
    assert refresh_forecast.config == {
        "ops": {
            "market__prices": {"config": {"patience_s": PATIENCE_S}},
            "market__quarter_bars": {"config": {"required": False}},
        }
    }
    assert int(job.run_tags["dagster/priority"]) > 0
    for key in made:
        assert int(defs.resolve_asset_graph().get(key).assets_def.op.tags["dagster/priority"]) > 0  # before its checks


def test_the_refresh_runs_at_the_full_hour_and_the_training_on_mondays() -> None:
    assert hourly_refresh.cron_schedule == "0 * * * *"
    assert str(weekly_training.cron_schedule).endswith("* * 1")
    assert {hourly_refresh.execution_timezone, weekly_training.execution_timezone} == {"UTC"}


# --- texts -----------------------------------------------------------------------------------------
def test_texts_of_today_and_of_an_outage_are_gathered() -> None:
    today, now = date(2024, 5, 10), datetime(2024, 5, 10, 9, 15, tzinfo=UTC)
    assert days_to_gather(now, []) == Span(today, today)
    assert days_to_gather(now, [today - timedelta(days=1), today]) == Span(today, today)
    assert days_to_gather(now, [today - timedelta(days=3)]) == Span(today - timedelta(days=3), today)
    assert days_to_gather(now, [date(2024, 1, 5)]).first == today - timedelta(days=MAX_DAYS_TO_GATHER)
    assert days_to_gather(now, [today + timedelta(days=4)]) == Span(today, today)


def gather(lake: Lake, now: datetime) -> dg.RunRequest | dg.SkipReason:
    return gather_news(dg.build_schedule_context(scheduled_execution_time=now, resources={"lake": lake}))


def test_a_tick_requests_todays_texts(lake: Lake) -> None:
    request = gather(lake, datetime(2024, 5, 10, 9, 15, tzinfo=UTC))
    assert isinstance(request, dg.RunRequest)
    assert request.partition_key == "2024-05-10"


def test_a_stream_of_its_own_is_gathered_by_its_own_schedule(lake: Lake) -> None:
    job = dg.define_asset_job("gather_funding", dg.AssetSelection.assets(FUNDING_RATES.asset_key))
    schedule = gathering_of(FUNDING, job)
    assert (schedule.name, schedule.cron_schedule) == ("gather_funding", "50 * * * *")
    lake.write(FUNDING_RATES, date(2024, 5, 9), FUNDING_RATES.empty())
    now = datetime(2024, 5, 10, 9, 50, tzinfo=UTC)
    request = schedule(dg.build_schedule_context(scheduled_execution_time=now, resources={"lake": lake}))
    assert isinstance(request, dg.RunRequest)
    assert request.tags.items() >= Span(date(2024, 5, 9), date(2024, 5, 10)).tags.items()


def late_quarters(lake: Lake, now: datetime) -> dg.RunRequest | dg.SkipReason:
    """Tick the schedule of late quarter bars."""
    schedule = late_gathering_of(QUARTER_STREAM, GATHERINGS[QUARTER_STREAM])
    return schedule(dg.build_schedule_context(scheduled_execution_time=now, resources={"lake": lake}))


@pytest.mark.parametrize(
    ("quarters", "requested"),
    [(4 * 11, None), (4 * 11 - 1, ("2024-03-04", "2024-03-04")), (-8, ("2024-03-03", "2024-03-04"))],
    ids=["complete", "one is late", "none since yesterday"],
)
def test_quarter_bars_are_fetched_again_only_if_one_of_a_stored_hour_is_missing(
    lake: Lake, monkeypatch: pytest.MonkeyPatch, quarters: int, requested: tuple[str, str] | None
) -> None:
    now = MONDAY + timedelta(hours=11, minutes=5)
    monkeypatch.setattr(Settings, "now", lambda _: now)
    yesterday = MONDAY - timedelta(days=1)
    bars = store_prices(lake, yesterday, 24 + 11)
    rows = quarters_of(bars, seed=1).head(4 * 24 + quarters)
    for day, part in by_day(QUARTER_BARS, rows, [yesterday.date(), MONDAY.date()]):
        lake.write(QUARTER_BARS, day, part)
    request = late_quarters(lake, now)
    if requested is None:
        assert isinstance(request, dg.SkipReason)
        return
    assert isinstance(request, dg.RunRequest)
    first = request.tags.get("dagster/asset_partition_range_start", request.partition_key)
    assert (first, request.partition_key or request.tags["dagster/asset_partition_range_end"]) == requested


@pytest.mark.parametrize(
    ("values", "why"),
    [
        ({"market_source": "binance"}, "no bars are stored"),
        (
            {"market_source": "files", "market_files": "x", "history_start": MONDAY.date(),
             "history_end": MONDAY.date() + timedelta(days=1)},
            "the chosen source has no quarter_bars",
        ),
    ],
)  # fmt: skip
def test_a_tick_without_quarter_bars_to_gather_is_skipped_with_a_reason(
    lake: Lake, monkeypatch: pytest.MonkeyPatch, values: dict[str, object], why: str
) -> None:
    chosen = Settings(**values)
    monkeypatch.setattr(schedules, "settings", lambda: chosen)
    result = late_quarters(lake, MONDAY)
    assert isinstance(result, dg.SkipReason)
    assert why in str(result.skip_message)


def test_no_second_gathering_starts_during_the_first(lake: Lake, instance: dg.DagsterInstance) -> None:
    create_run_for_test(instance, job_name="gather_texts", status=dg.DagsterRunStatus.STARTED)
    result = gather(lake, datetime(2024, 5, 10, 9, 15, tzinfo=UTC))
    assert isinstance(result, dg.SkipReason)
    assert "is still running" in str(result.skip_message)


@pytest.mark.parametrize(
    ("values", "why"),
    [
        ({"market_source": "binance", "news_sources": "none"}, "BTC_NEWS_SOURCES is none"),
        ({"market_source": "sample"}, "the history is closed"),
        ({"market_source": "binance", "history_start": date(2025, 1, 1)}, "the history begins"),
    ],
)
def test_a_tick_without_texts_to_gather_is_skipped_with_a_reason(
    lake: Lake, monkeypatch: pytest.MonkeyPatch, values: dict[str, object], why: str
) -> None:
    chosen = Settings(**values)
    monkeypatch.setattr(schedules, "settings", lambda: chosen)
    result = gather(lake, datetime(2024, 5, 10, 9, 15, tzinfo=UTC))
    assert isinstance(result, dg.SkipReason)
    assert why in str(result.skip_message)
