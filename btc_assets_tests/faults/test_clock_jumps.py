"""A clock that jumps a day ahead, or back: no hour is made up, none is lost, and nobody is told or asked twice."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from datetime import UTC, date, datetime, timedelta
from itertools import pairwise
from pathlib import Path

import dagster as dg
import polars as pl
import pytest

from btc_assets.alerts.channels import DeliveryError
from btc_assets.alerts.deliver import deliver
from btc_assets.alerts.outbox import Finding, Outbox
from btc_assets.alerts.rules import Rule
from btc_assets.automation.sensors import SENSOR_TAG, SENSORS, publish_new_forecasts, retry_requests
from btc_assets.automation.spans import Span
from btc_assets.definitions import defs
from btc_assets.digest import digest
from btc_assets.forecasting.tables import FORECAST_OUTCOMES, FORECASTS
from btc_assets.lake import Lake
from btc_assets.market.tables import PRICES
from btc_assets.news.tables import ARTICLES, SENTIMENT_SCORES
from btc_assets.settings import Settings
from btc_assets_tests.faults.venue import Refresher, Venue
from btc_assets_tests.market.conftest import Exchange

pytestmark = pytest.mark.slow

TODAY = datetime(2019, 8, 6, tzinfo=UTC)
NOW = TODAY + timedelta(hours=10, minutes=5)
DAY = timedelta(days=1)
JUMPS = pytest.mark.parametrize("jump", [DAY, -DAY], ids=["ahead", "back"])


@pytest.fixture
def venue() -> Iterator[Venue]:
    exchange = Exchange()
    yield Venue(exchange, NOW)
    exchange.close()


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Callable[[datetime], None]:
    """Set the project's clock."""

    def put(now: datetime) -> None:
        monkeypatch.setattr(Settings, "now", lambda _: now)

    return put


DAYS = [(TODAY + n * DAY).date() for n in (-1, 0, 1)]


def refreshed(venue: Venue, root: Path, monkeypatch: pytest.MonkeyPatch, off: timedelta) -> Refresher:
    """Tick once an hour with a clock that is off for three ticks of seven; what is stored is looked at after each."""
    venue.now = NOW - DAY
    refresher = Refresher(venue, Lake(root=str(root)), monkeypatch)

    def hours_stored() -> set[datetime]:
        return {hour for day in DAYS for hour in refresher.bars(day)["open_time"]}

    for hour in range(7):
        before = hours_stored()
        refresher.now = venue.now + (off if hour in (2, 3, 4) else timedelta())
        first, second = refresher.asked(), refresher.asked()
        assert isinstance(first, dg.RunRequest)
        assert isinstance(second, dg.RunRequest)
        assert first.run_key == second.run_key
        refresher.run(first.partition_key, first.tags)
        assert hours_stored() >= before
        assert all(opened <= venue.now for opened in hours_stored())
        venue.now += timedelta(hours=1) if hour else DAY
    return refresher


@pytest.fixture(scope="module")
def calm(tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    """The digests of two days that are filled in one go, by a clock that is right, when the last tick is over."""
    exchange = Exchange()
    with pytest.MonkeyPatch.context() as patch:
        venue = Venue(exchange, NOW + timedelta(hours=5))
        refresher = Refresher(venue, Lake(root=str(tmp_path_factory.mktemp("calm"))), patch)
        assert refresher.run(None, Span(*DAYS[:2]).tags)
    exchange.close()
    assert all(refresher.bars(day).height for day in DAYS[:2])
    return [digest(refresher.bars(day)) for day in DAYS[:2]]


@JUMPS
def test_bars_survive_a_clock_that_jumps(
    jump: timedelta, calm: list[str], venue: Venue, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Shown by the hours stored after every tick, and by digests at the end.

    The refresh of a real local exchange, whose own clock is right, ticks once an hour; after the second tick the
    project's clock is a day off for three. While it is, no stored hour is lost and no hour is stored that the
    exchange has not begun. The hour it is in the middle of cannot be told from a closed one by a clock that is
    ahead; an hour after the clock is right again it is replaced, and every day has the digest of a lake that was
    filled in one go. A tick that is evaluated twice asks under one key.
    """
    jumped = refreshed(venue, tmp_path, monkeypatch, jump)
    assert [digest(jumped.bars(day)) for day in DAYS[:2]] == calm
    assert jumped.bars(DAYS[2]).is_empty()


def tell(instance: dg.DagsterInstance, asset: dg.AssetKey, content: Mapping[date, str]) -> None:
    for day, told in content.items():
        event = dg.AssetMaterialization(asset, partition=str(day), metadata={"partition_digest": told})
        instance.report_runless_asset_event(event)


def store_forecast(lake: Lake, day: date) -> None:
    columns = FORECASTS.columns
    row = {"role": "champion", "horizon_minutes": 60, "made_at": datetime(day.year, day.month, day.day, 1, tzinfo=UTC)}
    lake.write(FORECASTS, day, pl.DataFrame([dict.fromkeys(columns) | row], schema=columns))


def test_forecasts_are_published_on_after_a_clock_was_ahead(
    instance: dg.DagsterInstance, tmp_path: Path, clock: Callable[[datetime], None]
) -> None:
    """Shown by what the sensor asks for.

    A clock that was a day ahead had tomorrow's partition made, without a row. When it is right again, each new
    forecast of today is asked to be published, once; and tomorrow's when its time has come.
    """
    lake = Lake(root=str(tmp_path))
    today, tomorrow = TODAY.date(), (TODAY + DAY).date()
    store_forecast(lake, today)
    cursor = None

    def published() -> list[str | None]:
        nonlocal cursor
        context = dg.build_sensor_context(instance=instance, cursor=cursor, definitions=defs, resources={"lake": lake})
        result = publish_new_forecasts.evaluate_tick(context)
        cursor = result.cursor
        return [request.partition_key for request in result.run_requests or []]

    clock(NOW + DAY)
    tell(instance, FORECASTS.asset_key, {today: "an hour", tomorrow: "nothing"})
    published()
    clock(NOW)
    tell(instance, FORECASTS.asset_key, {today: "another hour"})
    assert published() == [str(today)]
    assert published() == []
    store_forecast(lake, tomorrow)
    clock(NOW + DAY)
    tell(instance, FORECASTS.asset_key, {tomorrow: "its first hour"})
    assert published() == [str(tomorrow)]


@JUMPS
def test_no_sensor_asks_without_end_when_the_clock_jumps(
    jump: timedelta, instance: dg.DagsterInstance, tmp_path: Path, clock: Callable[[datetime], None]
) -> None:
    """Shown by the requests of nine ticks of every sensor.

    Every sensor that carries data on is ticked three times at each of: the right time, a day off, the right time
    again; the events that it follows are told once, before. Whatever it asks for it asks for at its first tick, as
    each later request has been asked for before under the same key, or is none.
    """
    lake = Lake(root=str(tmp_path))
    today = TODAY.date()
    lake.write(PRICES, today, PRICES.empty())
    store_forecast(lake, today)
    for asset in (
        PRICES.asset_key,
        ARTICLES.asset_key,
        SENTIMENT_SCORES.asset_key,
        FORECASTS.asset_key,
        FORECAST_OUTCOMES.asset_key,
    ):
        tell(instance, asset, {today: "an hour"})
    for sensor in SENSORS:
        cursor, keys = None, []
        for now in (NOW, NOW + jump, NOW):
            clock(now)
            for _ in range(3):
                context = dg.build_sensor_context(
                    instance=instance, cursor=cursor, definitions=defs, resources={"lake": lake}
                )
                result = sensor.evaluate_tick(context)
                cursor = result.cursor
                keys.append([request.run_key for request in result.run_requests or []])
        assert not any(keys[1:]), (sensor.name, keys)


@pytest.mark.parametrize(("jump", "asked"), [(DAY, 0), (-DAY, 1), (timedelta(), 1)], ids=["ahead", "back", "right"])
def test_a_failed_run_is_asked_for_again_once_whatever_the_clock_says(
    jump: timedelta, asked: int, instance: dg.DagsterInstance
) -> None:
    """Shown by the requests of three clocks.

    A run of a sensor fails. Six minutes later it is asked for again by a clock that is right, and by one that was
    put back a day since. One that is a day ahead asks when it is right again; what is asked for carries its
    attempt, so that it ends after three whatever the clock does.
    """

    @dg.asset
    def fails() -> None:
        raise ValueError("the disk is full")

    tags = {SENSOR_TAG: "a sensor", "dagster/run_key": "a key"}
    dg.materialize([fails], instance=instance, tags=tags, raise_on_error=False)
    soon = datetime.now(tz=UTC) + timedelta(minutes=6)
    requests = retry_requests(instance, "a sensor", soon + jump)
    assert [request.run_key for request in requests] == ["a key|attempt 2"] * asked
    assert len(retry_requests(instance, "a sensor", soon)) == 1


RULE = Rule("fall", "drawdown", "high", timedelta(hours=6), 0.1)


@pytest.mark.parametrize("back", [timedelta(hours=1), DAY, timedelta(days=3650)], ids=["an hour", "a day", "a decade"])
def test_the_quiet_period_of_an_alert_survives_a_clock_that_is_put_back(back: timedelta, tmp_path: Path) -> None:
    """Shown by when the same fall is told in a day of ticks.

    A fall is told, the clock is put back, and the rule looks every ten minutes for a day. The subject is told at
    most once in any six hours of the clock, and it is told: a jump silences it for no longer than its quiet period
    twice.
    """
    outbox = Outbox(tmp_path / "outbox.db")

    def told(at: datetime) -> bool:
        return bool(outbox.raise_alerts([Finding(RULE, "drawdown", "it fell", 0.2)], {"high": ("log",)}, at))

    assert told(NOW)
    ticks = [NOW - back + n * timedelta(minutes=10) for n in range(144)]
    times = [at for at in ticks if told(at)]
    assert times
    assert times[0] - ticks[0] <= 2 * RULE.quiet
    for at, later in pairwise(times):
        assert RULE.quiet <= later - at <= 2 * RULE.quiet
    assert all(abs(at - NOW) >= RULE.quiet for at in times)


def test_a_delivery_waits_no_longer_because_the_clock_is_put_back(tmp_path: Path) -> None:
    """Shown by what reaches a webhook in two hours of tries.

    A webhook is down when an alert is raised; then the clock is put back a day. The next try comes within the hour
    that is the longest wait, and the alert is delivered once.
    """
    outbox, at = Outbox(tmp_path / "outbox.db"), NOW
    outbox.raise_alerts([Finding(RULE, "drawdown", "it fell", 0.2)], {"high": ("webhook",)}, at)

    def down(_alert: object) -> None:
        raise DeliveryError("no answer")

    deliver(outbox, {"webhook": down}, lambda: at)
    reached: list[str] = []
    for minutes in range(0, 120, 10):
        deliver(
            outbox,
            {"webhook": lambda alert: reached.append(alert.alert_id)},
            lambda minutes=minutes: at - DAY + timedelta(minutes=minutes),
        )
    assert len(reached) == 1
