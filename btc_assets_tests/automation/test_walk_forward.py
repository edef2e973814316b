from datetime import date, timedelta
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from btc_assets.automation.walk_forward import WalkError, WalkForwardConfig, days_lacking, period, plan
from btc_assets.contracts import PRICES
from btc_assets.lake import Lake
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
