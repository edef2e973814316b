"""An exchange that is down for a day: the schedule and the sensors fill the hole once it is back, and nobody helps."""

from __future__ import annotations

import shutil
from collections.abc import Iterator, Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path

import dagster as dg
import pytest
from polars.testing import assert_frame_equal

from btc_assets.automation.sensors import forecast_from_new_prices, publish_new_forecasts
from btc_assets.automation.spans import RANGE_END_TAG, RANGE_START_TAG, Span
from btc_assets.definitions import defs
from btc_assets.digest import digest
from btc_assets.forecasting.tables import FORECAST_OUTCOMES, FORECASTS
from btc_assets.lake import Lake
from btc_assets.market.tables import PRICES
from btc_assets.partitions import day_of
from btc_assets.schema import CONTRACTS
from btc_assets_tests.faults import tasks
from btc_assets_tests.faults.conftest import Forge
from btc_assets_tests.faults.venue import Refresher, Venue
from btc_assets_tests.market.conftest import Exchange

pytestmark = pytest.mark.slow

BEFORE, DAY, AFTER = (datetime(2019, 8, day, tzinfo=UTC) for day in (5, 6, 7))
RIGHT = timedelta(minutes=5)


@pytest.fixture
def venue() -> Iterator[Venue]:
    exchange = Exchange()
    yield Venue(exchange, BEFORE + timedelta(hours=21) + RIGHT)
    exchange.close()


def sensed(
    sensor: dg.SensorDefinition, instance: dg.DagsterInstance, lake: Lake, cursor: str | None
) -> tuple[Sequence[dg.RunRequest], str | None]:
    context = dg.build_sensor_context(instance=instance, cursor=cursor, definitions=defs, resources={"lake": lake})
    result = sensor.evaluate_tick(context)
    return result.run_requests or [], result.cursor


def span_of(request: dg.RunRequest) -> Span:
    if request.partition_key is not None:
        return Span(day_of(request.partition_key), day_of(request.partition_key))
    return Span(day_of(request.tags[RANGE_START_TAG]), day_of(request.tags[RANGE_END_TAG]))


def test_the_hole_of_a_day_is_filled_and_carried_on_to_forecasts(
    venue: Venue, made_project: Path, forge: Forge, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Shown by digests of two lakes, one of which had no outage.

    The exchange answers 503 from 22:05 of one day to 22:05 of the next; the tick of every fifth hour asks, and every
    run fails and stores nothing. At 23:05 it answers again: that tick's run stores every missed hour, and the digests
    of both days are those of a lake whose exchange was never down. `forecast_from_new_prices` asks for both days, its
    run gives the features, forecasts and outcomes of the undisturbed lake, and `publish_new_forecasts` asks for the
    bundle. Then neither asks for more.
    """
    data, calm = tmp_path / "data", tmp_path / "calm"
    for folder in (data, calm):
        shutil.copytree(made_project, folder)
        for table in ("market/prices", "forecasting/forecasts", "forecasting/forecast_outcomes"):
            shutil.rmtree(folder / "lake" / table / f"day={DAY.date()}")
        before = tasks.lake_of(folder).read(PRICES, BEFORE.date())
        tasks.lake_of(folder).write(PRICES, BEFORE.date(), before.head(20))
    refresher = Refresher(venue, tasks.lake_of(data), monkeypatch)
    assert refresher.tick()
    cursors: dict[str, str | None] = {}
    _, cursors["prices"] = sensed(forecast_from_new_prices, refresher.instance, refresher.lake, None)
    stored = digest(refresher.bars(BEFORE.date()))

    venue.down = True
    for _ in range(5):
        refresher.hour_later(5)
        assert not refresher.tick()
    assert digest(refresher.bars(BEFORE.date())) == stored
    assert refresher.bars(DAY.date()).is_empty()
    requests, cursors["prices"] = sensed(
        forecast_from_new_prices, refresher.instance, refresher.lake, cursors["prices"]
    )
    assert requests == []

    venue.down = False
    refresher.hour_later()
    assert refresher.now == DAY + timedelta(hours=23) + RIGHT
    assert refresher.tick()
    undisturbed = Refresher(venue, tasks.lake_of(calm), monkeypatch)
    undisturbed.now = refresher.now
    assert undisturbed.run(None, Span(BEFORE.date(), DAY.date()).tags)
    for day, hours in ((BEFORE.date(), 24), (DAY.date(), 23)):
        assert refresher.bars(day).height == hours
        assert digest(refresher.bars(day)) == digest(undisturbed.bars(day))

    (request,), cursors["prices"] = sensed(
        forecast_from_new_prices, refresher.instance, refresher.lake, cursors["prices"]
    )
    assert span_of(request) == Span(BEFORE.date(), DAY.date())
    assert {FORECASTS.asset_key, FORECAST_OUTCOMES.asset_key} <= set(request.asset_selection or ())
    for folder in (data, calm):
        forge.succeed(tasks.made, folder, list(request.asset_selection or ()), BEFORE.date(), DAY.date())
    for key in request.asset_selection or ():
        contract = CONTRACTS[key.to_user_string()]
        found, expected = (
            tasks.lake_of(folder).scan(contract, BEFORE.date(), DAY.date()).collect() for folder in (data, calm)
        )
        assert found.height
        assert_frame_equal(found, expected, rel_tol=1e-9)
    told = digest(refresher.lake.read(CONTRACTS["forecasting/forecasts"], DAY.date()))
    refresher.instance.report_runless_asset_event(
        dg.AssetMaterialization(FORECASTS.asset_key, partition=str(DAY.date()), metadata={"partition_digest": told})
    )
    (publication,), cursors["forecasts"] = sensed(publish_new_forecasts, refresher.instance, refresher.lake, None)
    assert publication.partition_key == str(DAY.date())
    for sensor, name in ((forecast_from_new_prices, "prices"), (publish_new_forecasts, "forecasts")):
        assert sensed(sensor, refresher.instance, refresher.lake, cursors[name])[0] == []


def test_hours_an_exchange_that_was_stuck_tells_late_are_fetched_though_days_without_a_bar_are_stored(
    venue: Venue, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Shown by digests of two lakes, one of which was filled in one go.

    The exchange answers, and tells nothing after 20:00 of one day until noon of the day after the next: the runs in
    between succeed and store a whole day without a bar. The first tick after that stores every missed hour: the
    digests are those of a lake that was filled in one go.
    """
    refresher = Refresher(venue, Lake(root=str(tmp_path / "lake")), monkeypatch)
    venue.stuck_at = BEFORE + timedelta(hours=20)
    for _ in range(5):
        refresher.tick()
        refresher.hour_later(8)
    assert refresher.bars(DAY.date()).is_empty()
    assert DAY.date() in refresher.lake.days(PRICES)
    venue.stuck_at = venue.now
    assert refresher.now == AFTER + timedelta(hours=13) + RIGHT
    assert refresher.tick()
    undisturbed = Refresher(venue, Lake(root=str(tmp_path / "calm")), monkeypatch)
    undisturbed.now = refresher.now
    days = Span(BEFORE.date(), AFTER.date())
    assert undisturbed.run(None, days.tags)
    assert [digest(refresher.bars(day)) for day in days.days] == [digest(undisturbed.bars(day)) for day in days.days]
    assert [refresher.bars(day).height for day in days.days] == [24, 24, 13]
