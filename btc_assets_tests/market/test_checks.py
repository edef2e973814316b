"""The checks on prices, run with the asset."""

from __future__ import annotations

from datetime import datetime, timedelta

import dagster as dg
import polars as pl
import pytest

from btc_assets.lake import Lake
from btc_assets.market.assets import prices
from btc_assets.market.checks import CHECKS
from btc_assets.market.resources import Market
from btc_assets.market.tables import PRICES
from btc_assets.reads import lake_resources
from btc_assets_tests.market.conftest import DAY, bars, hours
from btc_assets_tests.market.test_assets import LATER, RANGE, FixedBars

HOUR = timedelta(hours=1)


def write(lake: Lake, frame: pl.DataFrame, days: int = 1) -> None:
    for n in range(days):
        day = DAY.date() + timedelta(days=n)
        lake.write(PRICES, day, frame.filter(PRICES.day == day))


def check(
    lake: Lake, name: str, now: datetime = LATER, days: int = 1, *, grows: bool = True
) -> dg.AssetCheckEvaluation:
    """Run one check on what is stored of the days from DAY on."""
    last = DAY.date() + timedelta(days=days - 1)
    tags = dict(zip(RANGE, (str(DAY.date()), str(last)), strict=True))
    result = dg.materialize(
        [prices, *CHECKS],
        selection=dg.AssetSelection.checks(dg.AssetCheckKey(dg.AssetKey(["market", "prices"]), name)),
        resources={**lake_resources(lake), "market": Market(FixedBars(bars([])), lambda: now, grows=grows)},
        tags=tags,
        raise_on_error=False,
    )
    (evaluation,) = result.get_asset_check_evaluations()
    return evaluation


def walk(count: int) -> pl.DataFrame:
    return bars(hours(DAY, count))


def test_a_whole_history_passes_every_check(lake: Lake) -> None:
    write(lake, walk(72), 3)
    for name in ("hours_present", "ohlc_laws", "newest_bar_age", "continuity"):
        assert check(lake, name, DAY + 72 * HOUR, 3).passed, name


# --- hours_present ---------------------------------------------------------------------------------
def test_a_gap_is_a_warning(lake: Lake) -> None:
    write(lake, walk(24).filter(pl.col("open_time") != DAY + 4 * HOUR))
    found = check(lake, "hours_present")
    assert (found.passed, found.severity) == (False, dg.AssetCheckSeverity.WARN)
    assert (found.description or "").startswith("1 of 24 closed hours from 2018-05-05 00:00")
    assert "the longest gap has 1, from 2018-05-05 04:00 on" in (found.description or "")


def test_a_day_without_a_bar_is_an_error(lake: Lake) -> None:
    write(lake, walk(72).filter(pl.col("open_time").dt.day() != 6), 3)
    found = check(lake, "hours_present", days=3)
    assert (found.passed, found.severity) == (False, dg.AssetCheckSeverity.ERROR)
    assert "1 day has no bar at all, the first 2018-05-06: materialise market/prices of them again" in (
        found.description or ""
    )
    assert "or begin after them with BTC_HISTORY_START=2018-05-07" in (found.description or "")


def test_days_before_the_first_bar_are_a_warning(lake: Lake) -> None:
    write(lake, walk(72).filter(pl.col("open_time").dt.day() > 5), 3)
    assert check(lake, "hours_present", days=3).severity == dg.AssetCheckSeverity.WARN


def test_todays_newest_hour_missing_is_an_error(lake: Lake) -> None:
    write(lake, walk(6))
    found = check(lake, "hours_present", DAY + 7 * HOUR + timedelta(minutes=10))
    assert (found.passed, found.severity) == (False, dg.AssetCheckSeverity.ERROR)
    assert "the newest closed hour, 2018-05-05 06:00, is missing" in (found.description or "")
    assert check(lake, "hours_present", DAY + 6 * HOUR + timedelta(minutes=59)).passed


def test_files_end_in_the_middle_of_a_day_and_miss_nothing_after_it(lake: Lake) -> None:
    write(lake, walk(48 + 13), 3)
    closed = DAY + 72 * HOUR
    assert not check(lake, "hours_present", closed, 3).passed, "an exchange keeps growing"
    assert check(lake, "hours_present", closed, 3, grows=False).passed
    age = check(lake, "newest_bar_age", closed, 3, grows=False)
    assert (age.passed, age.description) == (True, "The files end at 2018-05-07 13:00 UTC.")


def test_files_that_end_days_before_the_history_are_an_error_with_their_last_day(lake: Lake) -> None:
    write(lake, walk(13), 3)
    found = check(lake, "hours_present", DAY + 72 * HOUR, 3, grows=False)
    assert (found.passed, found.severity) == (False, dg.AssetCheckSeverity.ERROR)
    assert "the files end on 2018-05-05, and 2 days have no bar at all, the first 2018-05-06: set " in (
        found.description or ""
    )
    assert "BTC_HISTORY_END=2018-05-06" in (found.description or "")


def test_an_hour_that_is_missing_in_files_is_a_warning(lake: Lake) -> None:
    write(lake, walk(20).filter(pl.col("open_time") != DAY + 4 * HOUR))
    found = check(lake, "hours_present", DAY + 24 * HOUR, grows=False)
    assert (found.passed, found.severity) == (False, dg.AssetCheckSeverity.WARN)
    assert (found.description or "").startswith("1 of 20 closed hours")


def test_a_day_that_has_not_begun_misses_nothing(lake: Lake) -> None:
    write(lake, walk(0))
    assert check(lake, "hours_present", DAY + timedelta(minutes=5)).passed


# --- ohlc_laws -------------------------------------------------------------------------------------
@pytest.mark.parametrize(
    ("bad", "sentence"),
    [
        (bars([DAY], high=99.5), "expected high to be the highest price of the bar, got 99.5"),
        (bars([DAY], low=-1.0), "expected low above zero, got -1.0"),
        (bars([DAY, DAY]), "expected one bar an hour, got two"),
    ],
)
def test_an_invalid_stored_bar_is_an_error(bad: pl.DataFrame, sentence: str, lake: Lake) -> None:
    write(lake, bad)
    found = check(lake, "ohlc_laws")
    assert (found.passed, found.severity) == (False, dg.AssetCheckSeverity.ERROR)
    assert sentence in (found.description or "")


# --- newest_bar_age --------------------------------------------------------------------------------
@pytest.mark.parametrize(
    ("after", "passed"),
    [(timedelta(hours=12), True), (timedelta(hours=14), True), (timedelta(hours=14, minutes=1), False)],
)
def test_the_newest_bar_may_have_closed_two_hours_ago(after: timedelta, passed: bool, lake: Lake) -> None:
    write(lake, walk(12))
    found = check(lake, "newest_bar_age", DAY + after)
    assert found.passed is passed
    assert passed or "materialise market/prices of 2018-05-05 again" in (found.description or "")


def test_an_old_day_is_not_judged_by_its_age(lake: Lake) -> None:
    write(lake, walk(24))
    found = check(lake, "newest_bar_age", LATER)
    assert found.passed
    assert "not the newest day" in (found.description or "")


def test_just_after_midnight_yesterdays_last_bar_is_the_newest(lake: Lake) -> None:
    write(lake, walk(24), 2)
    assert check(lake, "newest_bar_age", DAY + timedelta(days=1, minutes=5), 2).passed


# --- continuity ------------------------------------------------------------------------------------
def test_a_day_that_opens_far_from_the_previous_close_is_a_warning(lake: Lake) -> None:
    write(lake, bars(hours(DAY, 48), open=[100.0] * 24 + [105.0] + [100.0] * 23, high=110.0), 2)
    found = check(lake, "continuity", days=2)
    assert (found.passed, found.severity) == (False, dg.AssetCheckSeverity.WARN)
    assert "the first on 2018-05-06 by +4.9%" in (found.description or "")


def test_a_step_across_a_gap_is_not_judged(lake: Lake) -> None:
    frame = bars(hours(DAY, 48), open=[100.0] * 24 + [105.0] + [100.0] * 23, high=110.0)
    write(lake, frame.filter(pl.col("open_time") != DAY + 23 * HOUR), 2)
    assert check(lake, "continuity", days=2).passed


# --- blocking --------------------------------------------------------------------------------------
@pytest.mark.parametrize("name", ["hours_present", "ohlc_laws", "newest_bar_age"])
def test_checks_of_validity_block(name: str) -> None:
    (spec,) = [spec for one in CHECKS for spec in one.check_specs if spec.name == name]
    assert spec.blocking
