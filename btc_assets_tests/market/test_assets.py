"""Materialisations of `market/prices`."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from datetime import UTC, date, datetime, timedelta
from typing import Any

import dagster as dg
import polars as pl
import pytest

from btc_assets.lake import Lake
from btc_assets.market.assets import closed_span, prices
from btc_assets.market.resources import CLOCK_SKEW, Market
from btc_assets.market.sources.answer import closed_between
from btc_assets.market.sources.auto import AutoSource
from btc_assets.market.sources.choose import source_of
from btc_assets.market.tables import PRICES
from btc_assets.reads import lake_resources
from btc_assets.settings import Settings
from btc_assets.transport import SourceMalformedError, SourceRefusedError
from btc_assets_tests.market.conftest import DAY, bars, hours

HOUR = timedelta(hours=1)
LATER = DAY + timedelta(days=30)
KEY = "2018-05-05"
RANGE = ("dagster/asset_partition_range_start", "dagster/asset_partition_range_end")


class FixedBars:
    """A source that returns given bars and records its requests."""

    venue = "binance"
    venues: tuple[str, ...] = ("binance",)
    step = HOUR

    def __init__(self, frame: pl.DataFrame) -> None:
        self.frame = frame
        self.requests: list[tuple[datetime, datetime]] = []

    def fetch(self, first: datetime, last: datetime, now: datetime) -> pl.DataFrame:
        self.requests.append((first, last))
        return closed_between(self.frame, first, last, now)


class Refusing(FixedBars):
    """A source that does not serve this location."""

    def __init__(self) -> None:
        super().__init__(bars([]))

    def fetch(self, first: datetime, last: datetime, now: datetime) -> pl.DataFrame:
        raise SourceRefusedError("HTTP 451")


def materialise(
    lake: Lake, source: FixedBars, now: datetime = LATER, *, key: str = KEY, to: str | None = None
) -> dict[str, Any]:
    """Materialise one day, or the days up to `to`, and return the metadata of the first."""
    tags = {} if to is None else dict(zip(RANGE, (key, to), strict=True))
    result = dg.materialize(
        [prices],
        resources={**lake_resources(lake), "market": Market(source, lambda: now)},
        partition_key=key if to is None else None,
        tags=tags,
    )
    assert result.success
    event = result.asset_materializations_for_node("market__prices")[-1]
    return {name: value.value for name, value in event.metadata.items()}


def stored(lake: Lake, day: date = date(2018, 5, 5)) -> pl.DataFrame:
    frame = lake.read(PRICES, day)
    assert frame is not None
    return frame


def test_a_run_over_many_days_makes_one_request_and_stores_each_day(lake: Lake) -> None:
    source = FixedBars(bars(hours(DAY, 72)))
    metadata = materialise(lake, source, to="2018-05-07")
    assert source.requests == [(DAY, DAY + timedelta(days=3))]
    assert lake.days(PRICES) == [date(2018, 5, day) for day in (5, 6, 7)]
    assert stored(lake, date(2018, 5, 6))["open_time"].to_list() == hours(DAY + timedelta(days=1), 24)
    assert (metadata["bars"], metadata["added_hours"], metadata["missing_hours"]) == (72, 72, 0)
    assert metadata["venues"] == {"binance": 72}


def test_an_open_day_holds_its_closed_span_and_misses_none(lake: Lake) -> None:
    source = FixedBars(bars(hours(DAY, 24)))
    metadata = materialise(lake, source, DAY + 7 * HOUR + timedelta(minutes=5))
    assert stored(lake)["open_time"].to_list() == hours(DAY, 7)
    assert metadata["missing_hours"] == 0
    metadata = materialise(lake, source, DAY + 8 * HOUR)
    assert metadata["added_hours"] == 1
    assert metadata["restated_hours"] == 0


def test_a_day_without_a_closed_hour_requests_nothing(lake: Lake) -> None:
    source = FixedBars(bars([]))
    materialise(lake, source, DAY + timedelta(minutes=5))
    assert source.requests == []
    assert stored(lake).is_empty()


def test_a_gap_is_reported_and_stays_a_gap(lake: Lake) -> None:
    times = hours(DAY, 24)
    metadata = materialise(lake, FixedBars(bars(times[:3] + times[6:])))
    assert stored(lake).height == 21
    assert metadata["missing_hours"] == 3
    assert "| 2018-05-05 03:00 | 2018-05-05 05:00 | 3 |" in metadata["gaps"]


def test_a_whole_day_missing_inside_a_range_is_an_empty_partition(lake: Lake) -> None:
    metadata = materialise(lake, FixedBars(bars(hours(DAY, 24) + hours(DAY + timedelta(days=2), 24))), to="2018-05-07")
    assert stored(lake, date(2018, 5, 6)).is_empty()
    assert metadata["missing_hours"] == 24


def test_a_single_day_without_a_bar_is_an_error(lake: Lake) -> None:
    with pytest.raises(SourceMalformedError, match=r"binance has no bar from 2018-05-05 00:00 .* expected 24"):
        materialise(lake, FixedBars(bars([])))
    assert lake.days(PRICES) == []


def test_a_shorter_answer_loses_nothing(lake: Lake) -> None:
    materialise(lake, FixedBars(bars(hours(DAY, 24))))
    before = lake.fingerprint(PRICES, date(2018, 5, 5))
    metadata = materialise(lake, FixedBars(bars(hours(DAY, 5))))
    assert lake.fingerprint(PRICES, date(2018, 5, 5)) == before
    assert (metadata["kept_hours"], metadata["restated_hours"]) == (19, 0)
    materialise(lake, FixedBars(bars([])))
    assert lake.fingerprint(PRICES, date(2018, 5, 5)) == before


def test_restated_history_updates_its_partition_and_is_listed(lake: Lake) -> None:
    materialise(lake, FixedBars(bars(hours(DAY, 24), trades=7)))
    metadata = materialise(lake, FixedBars(bars(hours(DAY, 24), trades=[7] * 10 + [8] + [7] * 13)))
    assert metadata["restated_hours"] == 1
    assert "2018-05-05 10:00" in metadata["restated"]
    assert stored(lake)["trades"].to_list()[9:12] == [7, 8, 7]


def test_the_same_bars_again_are_the_same_data_version(lake: Lake) -> None:
    first = materialise(lake, FixedBars(bars(hours(DAY, 24))))
    again = materialise(lake, FixedBars(bars(hours(DAY, 24)[::-1])))
    assert again["partition_digest"] == first["partition_digest"]


def test_conflicting_rows_are_resolved_and_counted(lake: Lake) -> None:
    frame = pl.concat([bars(hours(DAY, 24), trades=5), bars(hours(DAY, 2), trades=6)])
    metadata = materialise(lake, FixedBars(frame))
    assert (metadata["duplicates_dropped"], metadata["conflicting_hours"]) == (2, 2)
    assert stored(lake)["trades"].to_list() == [6, 6] + [5] * 22


@pytest.mark.parametrize(
    ("now", "expected"),
    [
        (DAY, 0),
        (DAY - HOUR, 0),
        (DAY + timedelta(minutes=59), 0),
        (DAY + HOUR, 1),
        (DAY + timedelta(hours=23, minutes=59), 23),
        (DAY + timedelta(days=1), 24),
        (DAY + timedelta(days=9), 24),
    ],
)
def test_an_hour_is_expected_once_it_is_closed(now: datetime, expected: int) -> None:
    first, last = closed_span([DAY.date()], now)
    assert (last - first) // HOUR == expected


def test_the_asset_has_a_group_a_freshness_policy_and_a_description() -> None:
    spec = prices.specs_by_key[dg.AssetKey(["market", "prices"])]
    assert spec.group_name == "market"
    assert spec.freshness_policy is not None
    assert "missing hour stays missing" in (spec.description or "")


@pytest.mark.parametrize(
    ("name", "venues"),
    [
        ("sample", ("bitfinex",)),
        ("files", ("files",)),
        ("binance", ("binance",)),
        ("coinbase", ("coinbase",)),
        ("kraken", ("kraken",)),
        ("auto", ("binance", "coinbase", "kraken")),
    ],
)
def test_the_settings_choose_the_source(name: Any, venues: Sequence[str]) -> None:
    config = Settings(
        market_source=name, market_files="x.csv", history_start=date(2018, 1, 1), history_end=date(2019, 10, 1)
    )
    source = source_of(config)
    assert source.venues == venues
    assert isinstance(source, AutoSource) == (name == "auto")


def test_choosing_a_source_makes_no_request() -> None:
    market = Market.from_settings(Settings(market_source="auto", binance_url="http://127.0.0.1:9"))
    assert market.source.venue == "auto"


# --- the hour that has just closed -------------------------------------------------------------------
class Venue:
    """An exchange whose clock is behind by `behind`, and which returns its open hour as well."""

    venue = "binance"
    venues: tuple[str, ...] = ("binance",)
    step = HOUR

    def __init__(self, clock: Callable[[], datetime], behind: timedelta, late: timedelta) -> None:
        self._clock, self._behind, self._late = clock, behind, late

    def fetch(self, first: datetime, last: datetime, now: datetime) -> pl.DataFrame:
        here = self._clock() - self._behind
        times = [at for at in hours(DAY, 24) if at + self._late <= here]
        closes = [150.0 if at + HOUR <= here else 100.0 for at in times]
        metadata = bars(times, close=closes, high=[close + 1 for close in closes])
        return closed_between(metadata, first, last, now)


def closing(lake: Lake, behind_s: float, late_s: float, patience_s: float, eager: int = 1) -> list[float]:
    """Refresh at the stroke of an hour, the wait included, and return the stored closes."""
    began = datetime.now(tz=UTC)

    def clock() -> datetime:
        return DAY + 2 * HOUR + (datetime.now(tz=UTC) - began)

    venue = Venue(clock, timedelta(seconds=behind_s), timedelta(seconds=late_s))
    market = Market(venue, clock, eager=[venue] * eager, skew=timedelta(seconds=0.4))
    result = dg.materialize(
        [prices],
        resources={**lake_resources(lake), "market": market},
        partition_key=KEY,
        run_config={"ops": {"market__prices": {"config": {"patience_s": patience_s}}}},
        raise_on_error=False,
    )
    frame = lake.read(PRICES, DAY.date()) if result.success else None
    return [] if frame is None else frame["close"].to_list()


def test_an_hour_that_is_still_open_at_the_exchange_is_not_stored(lake: Lake) -> None:
    assert closing(lake, behind_s=0.3, late_s=0.0, patience_s=2.0) == [150.0, 150.0]


def test_a_bar_that_comes_late_is_waited_for(lake: Lake) -> None:
    assert closing(lake, behind_s=0.0, late_s=3601.0, patience_s=5.0) == [150.0, 150.0]


def test_what_is_there_is_taken_when_patience_ends(lake: Lake) -> None:
    assert closing(lake, behind_s=0.0, late_s=3630.0, patience_s=0.5) == [150.0]


@pytest.mark.parametrize(("patience_s", "eager", "key"), [(0.0, 1, KEY), (60.0, 0, KEY), (60.0, 1, "2018-05-04")])
def test_a_backfill_a_history_of_files_and_another_day_do_not_wait(
    lake: Lake, patience_s: float, eager: int, key: str
) -> None:
    source = FixedBars(bars(hours(DAY - 24 * HOUR, 25)))
    never = FixedBars(bars([]))
    market = Market(source, lambda: DAY + 2 * HOUR, eager=[never] * eager)
    dg.materialize(
        [prices],
        resources={**lake_resources(lake), "market": market},
        partition_key=key,
        run_config={"ops": {"market__prices": {"config": {"patience_s": patience_s}}}},
    )
    assert never.requests == []


def test_venues_that_never_had_the_bar_are_left_out_of_that_run() -> None:
    first, second = FixedBars(bars([])), FixedBars(bars(hours(DAY, 2)))
    market = Market(AutoSource([first, second]), lambda: DAY + 2 * HOUR, eager=[Refusing(), second])
    arrival, source = market.await_newest(5.0)
    assert arrival is not None
    assert arrival.venue == 1
    source.fetch(DAY, DAY + 2 * HOUR, DAY + 2 * HOUR)
    assert first.requests == []
    assert market.source.venues == ("binance", "binance")


def test_a_growing_history_counts_an_hour_as_closed_five_seconds_late() -> None:
    live = Market.from_settings(Settings(market_source="binance"))
    assert live.now() + CLOCK_SKEW <= datetime.now(tz=UTC)
    closed = Settings(market_source="sample")
    assert Market.from_settings(closed).now() == closed.now()
