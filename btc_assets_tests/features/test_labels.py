"""What happened next: by hand, across gaps, and in the day it became known."""

from __future__ import annotations

import math
from datetime import UTC, datetime, timedelta

import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from btc_assets.features.labels import compute_labels
from btc_assets.features.tables import HOURLY_LABELS
from btc_assets.laws.laws import poisons
from btc_assets.market.quarter_bars import QUARTER_BARS
from btc_assets.market.synthetic import quarters_of, stressed
from btc_assets.vocabulary import HORIZONS, SUB_HOUR
from btc_assets_tests.conftest import random_walk_bars

START = datetime(2018, 1, 1, tzinfo=UTC)
HOUR, DAY = timedelta(hours=1), timedelta(days=1)


def every_label(bars: pl.DataFrame) -> pl.DataFrame:
    """Return all labels the bars know."""
    return compute_labels(bars, bars["open_time"][0] - HOUR, bars["open_time"][-1] + HOUR)


def test_a_label_is_the_log_return_to_the_close_a_horizon_later() -> None:
    bars = random_walk_bars(100, start=START)
    labels = every_label(bars)
    assert HOURLY_LABELS.faults(labels) == []
    close = bars["close"].to_list()
    for horizon in HORIZONS:
        own = labels.filter(pl.col("horizon_minutes") == horizon)
        assert own.height == 100 - horizon // 60
        for row, (t, value) in enumerate(own.select("open_time", "log_return").iter_rows()):
            assert t == START + row * HOUR
            assert value == pytest.approx(math.log(close[row + horizon // 60] / close[row]), rel=1e-12)


def test_a_label_is_known_when_the_bar_that_ends_it_has_closed() -> None:
    labels = every_label(random_walk_bars(60, start=START))
    late = labels["known_at"] - labels["open_time"]
    assert late.dt.total_minutes().equals((labels["horizon_minutes"] + 60).rename("known_at"))
    assert labels["known_at"].max() == START + 60 * HOUR


def test_a_return_across_a_gap_is_null() -> None:
    """Hours 30 to 32 are missing."""
    bars = random_walk_bars(80, start=START).filter(
        ~pl.col("open_time").is_between(START + 30 * HOUR, START + 32 * HOUR)
    )
    labels = every_label(bars)
    for horizon in HORIZONS:
        own = labels.filter(pl.col("horizon_minutes") == horizon)
        unknown = {int((t - START) / HOUR) for t in own.filter(pl.col("log_return").is_null())["open_time"]}
        assert unknown == {t for t in range(30) if t + horizon // 60 > 32}
        assert not own["open_time"].is_in([START + t * HOUR for t in range(30) if 30 <= t + horizon // 60 <= 32]).any()


def test_a_window_is_open_before_and_closed_after() -> None:
    bars = random_walk_bars(24 * 5, start=START)
    day = compute_labels(bars, START + 2 * DAY, START + 3 * DAY)
    assert day["known_at"].min() == START + 2 * DAY + HOUR
    assert day["known_at"].max() == START + 3 * DAY
    assert day.group_by("horizon_minutes").len()["len"].to_list() == [24] * len(HORIZONS)
    assert day.select(HOURLY_LABELS.day.unique()).to_series().to_list() == [(START + 2 * DAY).date()]


def test_the_last_hours_of_a_history_have_no_label_yet() -> None:
    bars = random_walk_bars(48, start=START)
    labels = compute_labels(bars, START, START + 10 * DAY)
    assert labels["known_at"].max() == START + 2 * DAY
    assert labels["log_return"].null_count() == 0


def test_no_bars_give_no_labels() -> None:
    empty = compute_labels(random_walk_bars(3).head(0), START, START + DAY)
    assert empty.is_empty()
    assert empty.schema == HOURLY_LABELS.empty().schema


def test_bars_in_any_order_give_the_same_labels() -> None:
    bars = random_walk_bars(72, start=START)
    assert every_label(bars).equals(compute_labels(bars.reverse(), START - HOUR, START + 3 * DAY))


@settings(max_examples=25, deadline=None)
@given(seed=st.integers(0, 1_000), gaps=st.sets(st.integers(1, 143), max_size=30))
def test_days_from_their_own_bars_equal_the_whole(seed: int, gaps: set[int]) -> None:
    bars = random_walk_bars(144, seed=seed, start=START).filter(~pl.int_range(pl.len()).is_in(sorted(gaps)))
    whole = compute_labels(bars, START, START + 6 * DAY)
    days = [
        compute_labels(bars.filter(pl.col("open_time").is_between(start - 2 * DAY, start + DAY, closed="left")), *span)
        for start, span in ((START + n * DAY, (START + n * DAY, START + (n + 1) * DAY)) for n in range(6))
    ]
    assert pl.concat(days).sort(HOURLY_LABELS.key).equals(whole)


@settings(max_examples=20, deadline=None)
@given(seed=st.integers(0, 1_000), row=st.integers(30, 160))
def test_known_labels_do_not_change_with_later_bars(seed: int, row: int) -> None:
    bars = stressed(random_walk_bars(200, seed=seed, start=START))
    cut = bars["open_time"][min(row, bars.height - 2)]
    known = every_label(bars).filter(pl.col("known_at") <= cut + HOUR)
    for poisoned in poisons(bars, cut).values():
        assert every_label(poisoned).filter(pl.col("known_at") <= cut + HOUR).equals(known)


BARS = random_walk_bars(60, start=START)
QUARTERS = quarters_of(BARS, seed=1)


def sub_hour(quarters: pl.DataFrame, bars: pl.DataFrame = BARS, *, until: datetime = START + 9 * DAY) -> pl.DataFrame:
    """Return the labels of 30 minutes."""
    return compute_labels(bars, START - HOUR, until, quarters=quarters).filter(pl.col("horizon_minutes") == SUB_HOUR)


def halves_of(quarters: pl.DataFrame) -> pl.DataFrame:
    """Return the second of each pair of quarters as the bar of its half hour, with its close."""
    return quarters.gather_every(2, 1).with_columns(
        pl.col("open_time") - timedelta(minutes=15), pl.lit(30, pl.Int64).alias("minutes")
    )


@pytest.mark.parametrize("bars_inside", [QUARTERS, halves_of(QUARTERS)], ids=["quarters", "half hours"])
def test_a_label_of_half_an_hour_ends_with_the_bar_that_closes_then(bars_inside: pl.DataFrame) -> None:
    labels = sub_hour(bars_inside)
    assert HOURLY_LABELS.faults(labels) == []
    assert labels.height == BARS.height - 1, "the newest hour's half hour is not there yet"
    closes = dict(QUARTERS.select(pl.col("open_time") + timedelta(minutes=15), "close").iter_rows())
    for (t, value, known), close in zip(
        labels.select("open_time", "log_return", "known_at").iter_rows(), BARS["close"], strict=False
    ):
        assert known == t + timedelta(minutes=90)
        assert value == pytest.approx(math.log(closes[known] / close), abs=1e-12)


def test_without_a_bar_of_the_venue_there_is_no_label_of_half_an_hour() -> None:
    missing = START + timedelta(hours=10, minutes=15)
    labels = sub_hour(QUARTERS.filter(pl.col("open_time") != missing))
    assert set(BARS["open_time"]) - set(labels["open_time"]) == {START + 9 * HOUR, START + 59 * HOUR}
    assert sub_hour(QUARTERS.with_columns(pl.lit("another").alias("venue"))).is_empty()
    assert sub_hour(QUARTER_BARS.empty()).is_empty()


def test_a_label_of_half_an_hour_depends_on_no_bar_that_closes_after_it() -> None:
    cut = START + timedelta(hours=20, minutes=30)
    later = pl.col("open_time") >= cut
    poisoned = QUARTERS.with_columns(pl.when(later).then(pl.col("close") * 2).otherwise("close").alias("close"))
    hours = BARS.with_columns(
        pl.when(pl.col("open_time") >= START + 20 * HOUR).then(1.0).otherwise("close").alias("close")
    )
    known = sub_hour(QUARTERS, until=cut)
    assert known["known_at"].max() == cut
    assert sub_hour(poisoned, hours, until=cut).equals(known)
    earlier = QUARTERS.with_columns(pl.when(~later).then(pl.col("close") * 2).otherwise("close").alias("close"))
    assert not sub_hour(earlier, until=cut).equals(known)
