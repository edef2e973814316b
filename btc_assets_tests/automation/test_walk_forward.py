from datetime import UTC, date, datetime, timedelta
from pathlib import Path

import dagster as dg
import pytest
from hypothesis import given
from hypothesis import strategies as st

from btc_assets.automation import command, walk_forward
from btc_assets.automation.walk_forward import (
    Leg,
    Span,
    WalkError,
    WalkForwardConfig,
    days_lacking,
    days_to_fetch,
    period,
    plan,
)
from btc_assets.contracts import PRICES
from btc_assets.lake import Lake, by_day
from btc_assets.settings import Settings
from btc_assets_tests.conftest import random_walk_bars

SAMPLE = Settings(market_source="sample")


@given(st.dates(date(2018, 1, 1), date(2019, 1, 1)), st.integers(0, 300), st.integers(1, 60))
def test_every_day_is_forecast_once_and_never_before_its_cutoff(first: date, length: int, every: int) -> None:
    last = first + timedelta(days=length)
    legs = plan(first, last, every)
    days = [day for leg in legs for day in leg.days.days]
    assert days == [first + timedelta(days=i) for i in range(length + 1)]
    assert all(leg.cutoff == leg.days.first for leg in legs)


def test_an_empty_period_is_refused() -> None:
    with pytest.raises(WalkError, match="before its first cutoff"):
        plan(date(2018, 1, 2), date(2018, 1, 1), 7)


@pytest.mark.parametrize("cutoff", [None, date(2018, 10, 1), date(2019, 9, 30)])
def test_a_single_training_trains_exactly_one_cutoff(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, cutoff: date | None
) -> None:
    walked: list[list[Leg]] = []
    monkeypatch.setattr(walk_forward.Walk, "run", lambda _, legs: walked.append(list(legs)))
    monkeypatch.setattr(dg.DagsterInstance, "get", dg.DagsterInstance.ephemeral)
    monkeypatch.setattr(Lake, "days", lambda *_: [date(2019, 9, 30)])
    monkeypatch.setattr(Lake, "read", lambda *_: None)
    assert command.train(SAMPLE, cutoff) == 0
    chosen = cutoff or date(2019, 9, 30)
    assert walked == [[Leg(chosen, Span(chosen, date(2019, 9, 30)))]]


@pytest.mark.parametrize(
    ("cutoff", "days"),
    [
        (None, (date(2024, 3, 4), date(2024, 3, 5))),
        (date(2024, 1, 1), (date(2024, 1, 1), date(2024, 3, 5))),
        (date(2024, 3, 6), (date(2024, 3, 6), date(2024, 3, 6))),
        (date(2024, 3, 9), (date(2024, 3, 9), date(2024, 3, 6))),  # refused by the plan
    ],
)
def test_a_cutoff_forecasts_to_the_newest_closed_day(cutoff: date | None, days: tuple[date, date]) -> None:
    class Wednesday(Settings):
        def now(self) -> datetime:
            return datetime(2024, 3, 6, 13, 30, tzinfo=UTC)

    assert command.days_of_one_cutoff(Wednesday(market_source="kraken"), cutoff) == days


def test_the_default_period_starts_on_the_first_monday_with_a_full_window() -> None:
    start, end = period(WalkForwardConfig(), SAMPLE)
    assert start.weekday() == 0
    assert timedelta(0) <= start - (SAMPLE.first_day + timedelta(days=SAMPLE.window_days)) < timedelta(days=7)
    assert end == date(2019, 9, 30)


@pytest.mark.parametrize(
    ("config", "said"),
    [
        (WalkForwardConfig(start="spring"), "dates like 2024-01-01"),
        (WalkForwardConfig(start="2017-10-01"), "no history before it"),
        (WalkForwardConfig(end="2019-10-01"), "BTC_HISTORY_END"),
    ],
)
def test_a_period_outside_the_history_is_refused_with_a_reason(config: WalkForwardConfig, said: str) -> None:
    with pytest.raises(WalkError, match=said):
        period(config, SAMPLE)


def test_a_partition_with_other_columns_than_today_counts_as_lacking(tmp_path: Path) -> None:
    lake = Lake(root=str(tmp_path))
    days = [date(2018, 1, 1), date(2018, 1, 2), date(2018, 1, 3)]
    lake.write(PRICES, days[0], random_walk_bars(24))
    lake.write(PRICES, days[1], random_walk_bars(24).drop("venue"))
    assert days_lacking(lake, PRICES, days) == days[1:]


def test_half_a_day_is_fetched_again_if_it_is_the_newest_one_stored(tmp_path: Path) -> None:
    lake = Lake(root=str(tmp_path))
    days = [date(2018, 1, d) for d in (1, 2, 3, 4)]
    for day, part in by_day(PRICES, random_walk_bars(60), days[:3]):
        lake.write(PRICES, day, part if day != days[0] else part.head(20))  # the first day has a gap at its end
    noon = datetime(2018, 1, 3, 12, 30, tzinfo=UTC)
    assert days_to_fetch(lake, days[:3], noon) == []  # all that has closed by then is stored
    assert days_to_fetch(lake, days[:3], noon + timedelta(hours=1)) == [days[2]]
    assert days_to_fetch(lake, days, noon + timedelta(days=2)) == days[2:]
    assert days_to_fetch(lake, days[:2], noon + timedelta(days=2)) == []
