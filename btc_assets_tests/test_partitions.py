from __future__ import annotations

import importlib
from datetime import UTC, date, datetime, timedelta

import dagster as dg
import pytest
from hypothesis import given
from hypothesis import strategies as st

from btc_assets.partitions import daily_grid, day_of, day_to_check, days_before, days_to_check, key_of, previous_monday
from btc_assets.settings import Settings


def upstream(mapping: dg.TimeWindowPartitionMapping, grid: dg.DailyPartitionsDefinition, key: str) -> list[str]:
    found = mapping.get_upstream_mapped_partitions_result_for_partitions(
        grid.subset_with_partition_keys([key]),
        grid,
        grid,
        current_time=datetime(2030, 1, 1, tzinfo=UTC),
    )
    return sorted(found.partitions_subset.get_partition_keys())


@pytest.fixture
def grid() -> dg.DailyPartitionsDefinition:
    return daily_grid(Settings(market_source="binance", history_start=date(2024, 1, 1)))


def test_todays_partition_exists(grid: dg.DailyPartitionsDefinition) -> None:
    today = datetime.now(tz=UTC).date()
    assert grid.get_last_partition_key() == key_of(today)


def test_a_closed_history_ends_with_the_cutoff_after_its_last_day() -> None:
    grid = daily_grid(Settings(market_source="sample"))
    keys = grid.get_partition_keys()
    assert (keys[0], keys[-1]) == ("2017-10-01", "2019-10-01")


def test_before_without_today_never_reaches_the_cutoffs_own_day(grid: dg.DailyPartitionsDefinition) -> None:
    assert upstream(days_before(3, and_today=False), grid, "2024-02-01") == ["2024-01-29", "2024-01-30", "2024-01-31"]


def test_before_with_today_ends_today(grid: dg.DailyPartitionsDefinition) -> None:
    assert upstream(days_before(2, and_today=True), grid, "2024-02-01") == ["2024-01-30", "2024-01-31", "2024-02-01"]


def test_days_before_the_grid_are_not_asked_for(grid: dg.DailyPartitionsDefinition) -> None:
    assert upstream(days_before(5, and_today=True), grid, "2024-01-02") == ["2024-01-01", "2024-01-02"]


@given(st.dates())
def test_the_previous_monday_is_a_monday_within_the_week(day: date) -> None:
    if day < date(1, 1, 8):
        return
    monday = previous_monday(day)
    assert monday.weekday() == 0
    assert timedelta(0) <= day - monday < timedelta(days=7)


@given(st.dates(date(1990, 1, 1), date(2100, 1, 1)))
def test_a_key_and_its_day_are_one(day: date) -> None:
    assert day_of(key_of(day)) == day


def test_every_day_of_a_run_or_else_the_newest_stored_day_is_checked() -> None:
    stored = [date(2018, 1, 1), date(2018, 1, 3)]
    first, last = "dagster/asset_partition_range_start", "dagster/asset_partition_range_end"
    made = {first: "2018-05-05", last: "2018-05-07"}
    assert days_to_check(made, stored) == [date(2018, 5, day) for day in (5, 6, 7)]
    assert days_to_check({"dagster/partition": "2018-01-02"}, stored) == [date(2018, 1, 2)]
    assert days_to_check({}, stored) == [date(2018, 1, 3)]
    assert days_to_check({}, []) == []


def test_the_newest_day_of_a_run_or_else_the_newest_stored_day_is_checked() -> None:
    stored = [date(2018, 1, 1), date(2018, 1, 3)]
    first, last = "dagster/asset_partition_range_start", "dagster/asset_partition_range_end"
    assert day_to_check({"dagster/partition": "2018-01-02"}, stored) == date(2018, 1, 2)
    assert day_to_check({first: "2018-01-02", last: "2018-01-05"}, stored) == date(2018, 1, 5)
    assert day_to_check({last: "2018-01-05"}, stored) == date(2018, 1, 5)
    assert day_to_check({}, stored) == date(2018, 1, 3)
    assert day_to_check({}, []) is None


@pytest.mark.parametrize("domain", ["market", "features", "monitoring"])
def test_every_domain_asks_the_one_rule_of_which_day_to_check(domain: str) -> None:
    checks = importlib.import_module(f"btc_assets.{domain}.checks")
    functions = [getattr(checks, name) for name in ("day_to_check", "days_to_check") if hasattr(checks, name)]
    assert functions
    assert {function.__module__ for function in (*functions, checks.nothing_stored)} == {"btc_assets.partitions"}
