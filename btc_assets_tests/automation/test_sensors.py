import json
from collections.abc import Mapping, Sequence
from datetime import date, timedelta

import dagster as dg
import pytest

from btc_assets.automation import sensors
from btc_assets.automation.jobs import FEATURES, FORECASTS, LABELS, OUTCOMES, PRICES, REPORT, VERDICT
from btc_assets.automation.sensors import Position, carried_assets, forecast_from_new_prices, publish_new_forecasts
from btc_assets.automation.spans import Span
from btc_assets.automation.walk_forward import WALK_TAG
from btc_assets.definitions import defs


@pytest.fixture
def instance() -> dg.DagsterInstance:
    return dg.DagsterInstance.ephemeral()


def tell(instance: dg.DagsterInstance, asset: dg.AssetKey, content: Mapping[str, str]) -> None:
    """Record materialisations: partition key and content digest."""
    for key, digest in content.items():
        event = dg.AssetMaterialization(asset, partition=key, metadata={"partition_digest": digest})
        instance.report_runless_asset_event(event)


def tick(
    sensor: dg.SensorDefinition, instance: dg.DagsterInstance, cursor: str | None = None
) -> tuple[Sequence[dg.RunRequest], str | None]:
    context = dg.build_sensor_context(instance=instance, cursor=cursor, definitions=defs)
    result = sensor.evaluate_tick(context)
    return result.run_requests or [], result.cursor


def test_new_bars_are_carried_to_the_same_day(instance: dg.DagsterInstance) -> None:
    tell(instance, PRICES, {"2018-05-01": "a"})
    requests, _ = tick(forecast_from_new_prices, instance)
    assert [request.partition_key for request in requests] == ["2018-05-01"]


def test_no_event_between_two_ticks_is_lost(instance: dg.DagsterInstance) -> None:
    seen: set[str] = set()
    cursor = None
    for keys in (["2018-05-01"], ["2018-05-03", "2018-05-05", "2018-05-07"], [], ["2018-05-09"]):
        tell(instance, PRICES, dict.fromkeys(keys, "a"))
        requests, cursor = tick(forecast_from_new_prices, instance, cursor)
        seen.update(str(request.partition_key) for request in requests)
    assert seen == {"2018-05-01", "2018-05-03", "2018-05-05", "2018-05-07", "2018-05-09"}


def test_a_tick_reads_at_most_a_batch_and_the_next_goes_on(
    instance: dg.DagsterInstance, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sensors, "BATCH", 2)
    tell(instance, PRICES, {"2018-05-01": "a", "2018-05-03": "a", "2018-05-05": "a"})
    first, cursor = tick(forecast_from_new_prices, instance)
    second, _ = tick(forecast_from_new_prices, instance, cursor)
    assert [r.partition_key for r in (*first, *second)] == ["2018-05-01", "2018-05-03", "2018-05-05"]


def test_unchanged_bars_do_not_ripple(instance: dg.DagsterInstance) -> None:
    tell(instance, PRICES, {"2018-05-01": "a"})
    _, cursor = tick(forecast_from_new_prices, instance)
    tell(instance, PRICES, {"2018-05-01": "a"})
    requests, cursor = tick(forecast_from_new_prices, instance, cursor)
    assert requests == []
    tell(instance, PRICES, {"2018-05-01": "b"})
    requests, _ = tick(forecast_from_new_prices, instance, cursor)
    assert len(requests) == 1


def test_bars_restated_and_put_back_are_carried_both_times(instance: dg.DagsterInstance) -> None:
    cursor, keys = None, []
    for content in ("a", "b", "a"):
        tell(instance, PRICES, {"2018-05-01": content})
        requests, cursor = tick(forecast_from_new_prices, instance, cursor)
        keys += [request.run_key for request in requests]
    assert len(set(keys)) == 3


def test_a_long_backfill_becomes_one_run_not_thousands(instance: dg.DagsterInstance) -> None:
    days = [date(2018, 1, 1) + timedelta(days=i) for i in range(400)]
    tell(instance, PRICES, {str(day): f"digest {day}" for day in days})
    requests, _ = tick(forecast_from_new_prices, instance)
    assert len(requests) == 1
    assert requests[0].tags["dagster/asset_partition_range_start"] == "2018-01-01"
    assert requests[0].tags["dagster/asset_partition_range_end"] == "2019-02-04"


def prices_asset(*, sound: bool) -> list[dg.AssetsDefinition | dg.AssetChecksDefinition]:
    @dg.asset(key=PRICES, partitions_def=dg.StaticPartitionsDefinition(["2018-05-01"]))
    def prices() -> None: ...

    @dg.asset_check(asset=prices, blocking=True)
    def law() -> dg.AssetCheckResult:
        return dg.AssetCheckResult(passed=sound)

    return [prices, law]


def materialise(instance: dg.DagsterInstance, *, sound: bool = True, tags: dict[str, str] | None = None) -> None:
    dg.materialize(
        prices_asset(sound=sound), instance=instance, partition_key="2018-05-01", tags=tags, raise_on_error=False
    )


def test_bars_of_a_run_that_succeeded_are_carried(instance: dg.DagsterInstance) -> None:
    materialise(instance)
    assert len(tick(forecast_from_new_prices, instance)[0]) == 1


def test_bars_that_fail_a_blocking_check_are_not_carried(instance: dg.DagsterInstance) -> None:
    materialise(instance, sound=False)
    requests, cursor = tick(forecast_from_new_prices, instance)
    assert requests == []
    materialise(instance)
    assert len(tick(forecast_from_new_prices, instance, cursor)[0]) == 1


def test_bars_of_an_unfinished_run_wait_for_its_end(instance: dg.DagsterInstance) -> None:
    seen: list[tuple[Sequence[dg.RunRequest], str | None]] = []
    prices, _ = prices_asset(sound=True)

    @dg.asset(deps=[PRICES], partitions_def=dg.StaticPartitionsDefinition(["2018-05-01"]))
    def while_it_runs() -> None:
        seen.append(tick(forecast_from_new_prices, instance))

    dg.materialize([prices, while_it_runs], instance=instance, partition_key="2018-05-01")
    ((requests, cursor),) = seen
    assert (requests, Position.parse(cursor).after) == ([], 0)
    assert len(tick(forecast_from_new_prices, instance, cursor)[0]) == 1


def test_what_a_walk_forward_fetched_is_left_to_it(instance: dg.DagsterInstance) -> None:
    materialise(instance, tags={WALK_TAG: "some walk"})
    assert tick(forecast_from_new_prices, instance)[0] == []


def test_days_of_another_history_are_passed_over(instance: dg.DagsterInstance) -> None:
    tell(instance, PRICES, {"2031-01-01": "a"})
    requests, cursor = tick(forecast_from_new_prices, instance)
    assert requests == []
    assert Position.parse(cursor).after > 0


def test_before_the_first_model_only_features_and_labels_are_made(instance: dg.DagsterInstance) -> None:
    tell(instance, PRICES, {"2018-05-01": "a"})
    requests, _ = tick(forecast_from_new_prices, instance)
    assert set(requests[0].asset_selection or ()) == {FEATURES, LABELS}


def test_with_a_model_forecasts_and_outcomes_follow(instance: dg.DagsterInstance) -> None:
    tell(instance, VERDICT, {"2018-04-30": "v"})
    tell(instance, PRICES, {"2018-05-01": "a"})
    requests, _ = tick(forecast_from_new_prices, instance)
    assert set(requests[0].asset_selection or ()) == {FEATURES, LABELS, FORECASTS, OUTCOMES, REPORT}


def test_the_report_is_made_when_a_day_closes_and_not_for_a_filled_in_history() -> None:
    today = date(2024, 3, 4)
    yesterday = Span(date(2024, 3, 3), date(2024, 3, 3))
    history = Span(date(2023, 1, 1), date(2024, 3, 3))
    assert REPORT in carried_assets(yesterday, today=today, has_model=True)
    assert REPORT not in carried_assets(Span(today, today), today=today, has_model=True)
    assert REPORT not in carried_assets(history, today=today, has_model=True)


def test_the_newest_forecast_is_published_once(instance: dg.DagsterInstance) -> None:
    tell(instance, FORECASTS, {"2018-05-01": "a", "2018-05-02": "b"})
    requests, cursor = tick(publish_new_forecasts, instance)
    assert [request.partition_key for request in requests] == ["2018-05-02"]
    assert tick(publish_new_forecasts, instance, cursor)[0] == []


def test_an_older_day_is_not_published_over_a_newer_one(instance: dg.DagsterInstance) -> None:
    tell(instance, FORECASTS, {"2018-05-02": "b"})
    _, cursor = tick(publish_new_forecasts, instance)
    tell(instance, FORECASTS, {"2018-05-01": "a"})
    assert tick(publish_new_forecasts, instance, cursor)[0] == []


def test_a_position_remembers_the_newest_days_only() -> None:
    content = {str(date(2024, 1, 1) + timedelta(days=i)): "x" for i in range(100)}
    moved = Position().moved(7, content)
    assert sorted(moved.seen) == sorted(content)[-sensors.REMEMBERED_DAYS :]
    assert Position.parse(str(moved)) == moved
    assert json.loads(str(moved))["after"] == 7
