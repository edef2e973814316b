"""Features inside the hour equal plain loops over the quarters, and are null where a quarter is missing."""

from __future__ import annotations

import math
from datetime import UTC, datetime, timedelta
from itertools import pairwise

import numpy as np
import polars as pl
import pytest

from btc_assets.features.catalog import FEATURE_SETS
from btc_assets.features.catalog import FEATURES as ALL_FEATURES
from btc_assets.features.intrahour import FEATURES, GROUP, QUARTER_SET
from btc_assets.market.quarter_grid import quarters_of_hours
from btc_assets.streams import every_hour

START = datetime(2024, 1, 1, tzinfo=UTC)
HOUR, QUARTER = timedelta(hours=1), timedelta(minutes=15)
DAYS = 30
GAP = START + timedelta(days=28, hours=5, minutes=15)
"""Opening of the quarter that is missing."""
BY_NAME = {feature.name: feature for feature in FEATURES}

Quarter = dict[str, float]


def random_quarters() -> pl.DataFrame:
    """Return quarters of a random walk, one of them missing."""
    n = DAYS * 96
    rng = np.random.default_rng(4)
    close = 30_000 * np.exp(rng.normal(0, 0.003, n).cumsum())
    opened = np.concatenate([[30_000.0], close[:-1]])
    volume = rng.lognormal(3, 0.6, n)
    frame = pl.DataFrame(
        {
            "open_time": [START + k * QUARTER for k in range(n)],
            "minutes": [15] * n,
            "high": np.maximum(opened, close) * (1 + rng.random(n) / 1000),
            "low": np.minimum(opened, close) * (1 - rng.random(n) / 1000),
            "close": close,
            "volume": volume,
            "quote_volume": volume * (opened + close) / 2,
            "trades": rng.poisson(500, n),
            "taker_buy_volume": volume * rng.beta(5, 5, n),
        }
    )
    return frame.filter(pl.col("open_time") != GAP)


QUARTERS = random_quarters()
HOURS = every_hour(QUARTERS.select(pl.col("open_time").dt.truncate("1h").unique().sort()))
BY_OPENING = {row["open_time"]: row for row in QUARTERS.iter_rows(named=True)}


@pytest.fixture(scope="module")
def computed() -> pl.DataFrame:
    """Return the group for every hour, without the engine's warm-up."""
    frame = quarters_of_hours(QUARTERS, HOURS)
    return frame.select("open_time", *(feature.expression.alias(feature.name) for feature in FEATURES))


def window(end: datetime, minutes: int) -> list[Quarter]:
    """Return the quarters of the minutes before `end`, oldest first; KeyError if one is missing."""
    return [BY_OPENING[end - k * QUARTER] for k in range(minutes // 15, 0, -1)]


def total(end: datetime, minutes: int, name: str) -> float:
    return math.fsum(quarter[name] for quarter in window(end, minutes))


def flow(quarter: Quarter) -> float:
    return quarter["taker_buy_volume"] - (quarter["volume"] - quarter["taker_buy_volume"])


def total_flow(end: datetime, minutes: int) -> float:
    return sum(flow(quarter) for quarter in window(end, minutes))


def returns(end: datetime, minutes: int) -> list[float]:
    closes = [quarter["close"] for quarter in window(end, minutes + 15)]
    return [math.log(after / before) for before, after in pairwise(closes)]


def hourly_variances(end: datetime) -> list[float]:
    known = []
    for back in range(24):
        try:
            known.append(sum(step**2 for step in returns(end - back * HOUR, 60)))
        except KeyError:
            continue
    return known


def sigma(end: datetime, minutes: int) -> float:
    return math.sqrt(np.mean(hourly_variances(end)) * minutes / 60)


def vwap(end: datetime, minutes: int) -> float:
    return total(end, minutes, "quote_volume") / total(end, minutes, "volume")


def past_returns(end: datetime, days: int) -> list[float]:
    known = []
    for day in range(1, days + 1):
        try:
            known.append(sum(returns(end + HOUR - day * timedelta(days=1), 60)))
        except KeyError:
            continue
    return known


def slope(end: datetime) -> float:
    products, squares = [], []
    for back in range(1, 169):
        try:
            steps, quarters = returns(end - back * HOUR, 60), window(end - back * HOUR, 60)
        except KeyError:
            continue
        products.append(sum(step * flow(quarter) for step, quarter in zip(steps, quarters, strict=True)))
        squares.append(sum(flow(quarter) ** 2 for quarter in quarters))
    return float(np.mean(products) / np.mean(squares))


def last(end: datetime) -> Quarter:
    return BY_OPENING[end - QUARTER]


LOOPS = {
    **{
        f"quarter_return_{n}m": lambda end, n=n: sum(returns(end, n)) / sigma(end, n)
        for n in (15, 45, 60, 90, 120, 180, 1440)
    },
    "quarter_log_return_30m": lambda end: sum(returns(end, 30)),
    **{
        f"quarter_imbalance_{n}m": lambda end, n=n: total_flow(end, n) / total(end, n, "volume")
        for n in (15, 30, 120, 1440)
    },
    "quarter_imbalance_lag_2": lambda end: total_flow(end - 2 * QUARTER, 15) / total(end - 2 * QUARTER, 15, "volume"),
    "quarter_volume_rate_30m": lambda end: total(end, 30, "volume") / 30 / (total(end, 1440, "volume") / 1440),
    "quarter_signed_flow_60m": lambda end: total_flow(end, 60) / 60 / (total(end, 1440, "volume") / 1440),
    "quarter_trade_size_15m": lambda end: (
        total(end, 15, "volume") / total(end, 15, "trades") / (total(end, 1440, "volume") / total(end, 1440, "trades"))
    ),
    **{
        f"quarter_vwap_distance_{n}m": lambda end, n=n: math.log(last(end)["close"] / vwap(end, n)) / sigma(end, n)
        for n in (15, 30, 240, 1440)
    },
    "quarter_range_position_30m": lambda end: (
        (last(end)["close"] - min(quarter["low"] for quarter in window(end, 30)))
        / (max(quarter["high"] for quarter in window(end, 30)) - min(quarter["low"] for quarter in window(end, 30)))
    ),
    "quarter_path_efficiency_240m": lambda end: sum(returns(end, 240)) / sum(map(abs, returns(end, 240))),
    **{
        f"coming_hour_return_{days}d": lambda end, days=days: float(np.mean(past_returns(end, days))) / sigma(end, 60)
        for days in (1, 7, 28)
    },
    "price_modulo_500": lambda end: math.fmod(last(end)["close"], 500) / 500,
    "minutes_to_funding": lambda end: min(
        m
        for m in range(1, 481)
        if (end + timedelta(minutes=m)).hour % 8 == 0 and (end + timedelta(minutes=m)).minute == 0
    ),
    "quarter_semivariance_1440m": lambda end: (
        (
            sum(step**2 for step in returns(end, 1440) if step > 0)
            - sum(step**2 for step in returns(end, 1440) if step < 0)
        )
        / sum(step**2 for step in returns(end, 1440))
    ),
    "quarter_skewness_1440m": lambda end: (
        math.sqrt(96) * sum(step**3 for step in returns(end, 1440)) / sum(step**2 for step in returns(end, 1440)) ** 1.5
    ),
    "minutes_since_high": lambda end: 45 - 15 * int(np.argmax([quarter["high"] for quarter in window(end, 60)])),
    "minutes_since_low": lambda end: 45 - 15 * int(np.argmin([quarter["low"] for quarter in window(end, 60)])),
    "quarter_flow_residual_15m": lambda end: (returns(end, 15)[0] - slope(end) * total_flow(end, 15)) / sigma(end, 15),
}


@pytest.mark.parametrize("name", LOOPS)
def test_a_feature_equals_a_plain_loop(name: str, computed: pl.DataFrame) -> None:
    """Of the newest hours of a day before the gap and of the days after it."""
    hours = [START + timedelta(days=28), GAP.replace(minute=0) + 26 * HOUR, START + timedelta(days=29, hours=17)]
    values = dict(computed.select("open_time", name).iter_rows())
    for hour in hours:
        assert values[hour] == pytest.approx(LOOPS[name](hour + HOUR), rel=1e-9, abs=1e-12), hour


def test_a_window_with_a_missing_quarter_is_null_and_the_next_one_is_not(computed: pl.DataFrame) -> None:
    known = dict(zip(computed["open_time"], computed["quarter_imbalance_1440m"].is_not_null(), strict=True))
    gap = GAP.replace(minute=0)
    assert known[gap - HOUR]
    assert not any(known[gap + back * HOUR] for back in range(24))
    assert known[gap + 24 * HOUR]


def test_a_return_needs_every_quarter_of_its_window_and_the_close_before(computed: pl.DataFrame) -> None:
    at_gap = computed.row(by_predicate=pl.col("open_time") == GAP.replace(minute=0), named=True)
    assert at_gap["quarter_log_return_15m"] is not None
    assert at_gap["quarter_log_return_30m"] is None  # the second quarter, whose close it starts from, is missing
    assert at_gap["quarter_return_45m"] is None


def test_nothing_is_known_from_bars_of_half_an_hour() -> None:
    halves = QUARTERS.filter(pl.col("open_time").dt.minute() % 30 == 0).with_columns(minutes=pl.lit(30))
    frame = quarters_of_hours(halves, HOURS)
    values = frame.select(feature.expression.alias(feature.name) for feature in FEATURES)
    assert [name for name in values.columns if values[name].is_not_null().any()] == ["minutes_to_funding"]


@pytest.mark.parametrize("name", BY_NAME)
def test_a_value_is_known_after_the_declared_warm_up(name: str, computed: pl.DataFrame) -> None:
    assert computed[name].is_not_null().arg_max() <= BY_NAME[name].warmup_hours


def test_the_extended_set_has_no_feature_of_the_group() -> None:
    own = {feature.name for feature in ALL_FEATURES if feature.group == GROUP}
    assert own == set(BY_NAME)
    assert not own & set(FEATURE_SETS["extended"])
    assert set(FEATURE_SETS["intrahour"]) - set(FEATURE_SETS["extended"]) == {feature.name for feature in QUARTER_SET}
    assert set(FEATURE_SETS["complete"]) == {feature.name for feature in ALL_FEATURES}
