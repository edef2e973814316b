"""Broken promises: found soon, and seldom cried where there are none."""

from __future__ import annotations

from datetime import UTC, date, datetime, timedelta

import numpy as np
import polars as pl
import pytest
from hypothesis import given
from hypothesis import strategies as st

from btc_assets.monitoring import degradation
from btc_assets.monitoring.tables import DRIFT_REPORT
from btc_assets.vocabulary import QUANTILE_NAMES, QUANTILES

START = datetime(2018, 1, 1, tzinfo=UTC)
MEAN_HOURS = 24.0 * 365
HOURS = 24 * 90


def honest_outcomes(seed: int, hours: int = HOURS, edge: float = 0.06) -> pl.DataFrame:
    """Return outcomes (synthetic) of forecasts that keep every promise."""
    rng = np.random.default_rng(seed)
    p_up = np.clip(0.5 + rng.normal(0, edge, hours), 0.05, 0.95)
    size = np.abs(rng.normal(0, 0.006, hours))
    happened = np.where(rng.random(hours) < p_up, size, -size)
    reach = 0.006 * np.array([-1.6449, -0.6745, 0.0, 0.6745, 1.6449])
    assert len(reach) == len(QUANTILES)
    return pl.DataFrame(
        {
            "open_time": pl.datetime_range(START, START + timedelta(hours=hours - 1), "1h", eager=True, time_unit="us"),
            "p_up": p_up,
            "log_return": happened,
            **{name: np.full(hours, reach[i]) for i, name in enumerate(QUANTILE_NAMES)},
        }
    )


def alarms(outcomes: pl.DataFrame, mean_hours: float = MEAN_HOURS) -> set[str]:
    watched = degradation.watch(outcomes, alarm_hours=outcomes.height, mean_hours=mean_hours)
    return {one.name for one in watched if one.alarm}


def test_a_detector_cries_wolf_no_oftener_than_it_says() -> None:
    # Within n hours a detector with mean time m to a false alarm is allowed about n / m of them.
    cried = sum(len(alarms(honest_outcomes(seed, hours=500), mean_hours=2_000)) for seed in range(60))
    assert cried / (60 * 3) <= 500 / 2_000


def test_a_bet_that_is_better_than_fair_breaks_the_stated_rate(monkeypatch: pytest.MonkeyPatch) -> None:
    fair = degradation.calibration_gains
    monkeypatch.setattr(degradation, "calibration_gains", lambda p, up: fair(p, up) * 1.02)
    cried = sum("calibration" in alarms(honest_outcomes(seed, hours=500), mean_hours=2_000) for seed in range(20))
    assert cried / 20 > 500 / 2_000


def broken(outcomes: pl.DataFrame, how: str) -> pl.DataFrame:
    half = outcomes.height // 2
    later = pl.int_range(pl.len()) >= half
    changes = {
        "flipped": (1 - pl.col("p_up")).alias("p_up"),
        "biased": (pl.col("p_up") * 0.8 + 0.18).alias("p_up"),
        "overconfident": (pl.when(pl.col("p_up") > 0.5).then(0.75).otherwise(0.25)).alias("p_up"),
        "wilder": (pl.col("log_return") * 1.7).alias("log_return"),
    }
    change = changes[how]
    return outcomes.with_columns(pl.when(later).then(change).otherwise(pl.col(change.meta.output_name())))


@pytest.mark.parametrize(
    ("how", "promise"),
    [
        ("flipped", "calibration"),
        ("biased", "calibration"),
        ("overconfident", "log_loss"),
        ("wilder", "coverage_90"),
    ],
)
def test_a_broken_promise_is_found_and_dated(how: str, promise: str) -> None:
    outcomes = broken(honest_outcomes(11), how)
    watched = {one.name: one for one in degradation.watch(outcomes, alarm_hours=HOURS, mean_hours=MEAN_HOURS)}
    assert watched[promise].alarm
    assert abs(watched[promise].since - HOURS // 2) < 24 * 21
    assert promise not in alarms(outcomes.head(HOURS // 2))


def test_an_old_alarm_is_told_once() -> None:
    outcomes = pl.concat(
        [
            broken(honest_outcomes(11), "wilder"),
            honest_outcomes(12).with_columns(pl.col("open_time") + pl.duration(days=90)),
        ]
    )
    newest = {one.name: one.alarm for one in degradation.watch(outcomes, alarm_hours=24, mean_hours=MEAN_HOURS)}
    assert not newest["coverage_90"]
    assert "coverage_90" in alarms(outcomes)


@given(
    gains=st.lists(st.lists(st.floats(0.5, 1.6), min_size=2, max_size=2), min_size=1, max_size=40),
)
def test_the_detector_equals_plain_arithmetic(gains: list[list[float]]) -> None:
    path, since = degradation.e_detector(np.array(gains), bound=50.0)
    wealth = [1.0, 1.0]
    for hour, factors in enumerate(gains):
        wealth = [max(one, 1.0) * factor for one, factor in zip(wealth, factors, strict=True)]
        assert path[hour] == pytest.approx(sum(wealth) / 2)
        assert 0 <= since[hour] <= hour
        if path[hour] >= 50:
            wealth = [1.0, 1.0]


@given(seed=st.integers(0, 200), p=st.floats(0.05, 0.95))
def test_every_bet_is_fair_while_the_promise_holds(seed: int, p: float) -> None:
    up, down = (degradation.calibration_gains(np.array([p]), np.array([outcome]))[0] for outcome in (1.0, 0.0))
    assert np.allclose(p * up + (1 - p) * down, 1)
    inside, outside = (degradation.coverage_gains(np.array([outcome]), 0.9)[0] for outcome in (1.0, 0.0))
    assert np.allclose(0.9 * inside + 0.1 * outside, 1)
    rng = np.random.default_rng(seed)
    loss = rng.exponential(1, 50)
    gains = degradation.loss_gains(loss, loss + rng.exponential(0.1, 50))
    assert (gains <= 1).all()
    assert (gains >= 0).all()


def test_the_rows_keep_their_contract_and_no_outcomes_give_none() -> None:
    outcomes = honest_outcomes(1, hours=200)
    watched = degradation.watch(outcomes, alarm_hours=24, mean_hours=MEAN_HOURS)
    rows = degradation.concept_rows(watched, day=date(2018, 1, 9), version=1, cutoff=date(2018, 1, 1))
    assert DRIFT_REPORT.faults(rows) == []
    assert degradation.watch(outcomes.clear(), alarm_hours=24, mean_hours=MEAN_HOURS) == []
