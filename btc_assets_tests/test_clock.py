"""The clock: days begin at 00:00 UTC, and pure modules may ask it without loading Dagster or the settings."""

import subprocess
import sys
from datetime import UTC, date, timedelta

from hypothesis import given
from hypothesis import strategies as st

from btc_assets.clock import HOUR, midnight
from btc_assets.settings import PROJECT_ROOT


@given(st.dates(min_value=date(2, 1, 1), max_value=date(9998, 1, 1)))
def test_a_day_begins_with_its_own_first_moment_in_utc(day: date) -> None:
    begin = midnight(day)
    assert begin.tzinfo is UTC
    assert begin.date() == day
    assert (begin - timedelta(microseconds=1)).date() == day - timedelta(days=1)
    assert midnight(day + timedelta(days=1)) - begin == 24 * HOUR


def loaded_with(*modules: str) -> set[str]:
    """Return every module that a fresh process has after importing some."""
    code = f"import sys, {', '.join(modules)}; print(*sys.modules)"
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=PROJECT_ROOT)
    return set(found.stdout.split())


def test_the_clock_does_not_load_dagster() -> None:
    assert "dagster" not in loaded_with("btc_assets.clock")


def test_pure_modules_tell_the_time_without_the_grid() -> None:
    pure = ("btc_assets.learning.folds", "btc_assets.market.bars", "btc_assets.market.sources.binance")
    assert loaded_with(*pure).isdisjoint({"btc_assets.partitions", "btc_assets.settings"})
