"""Sequential tests detect broken promises and keep the stated false-alarm rate."""

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
    """Return synthetic outcomes of forecasts that keep every promise."""
    rng = np.random.default_rng(seed)
    p_up = np.clip(0.5 + rng.normal(0, edge, hours), 0.05, 0.95)
    size = np.abs(rng.normal(0, 0.006, hours))
    log_return = np.where(rng.random(hours) < p_up, size, -size)
    bounds = 0.006 * np.array([-1.6449, -0.6745, 0.0, 0.6745, 1.6449])
    assert len(bounds) == len(QUANTILES)
    return pl.DataFrame(
        {
            "open_time": pl.datetime_range(START, START + timedelta(hours=hours - 1), "1h", eager=True, time_unit="us"),
            "p_up": p_up,
            "log_return": log_return,
            **{name: np.full(hours, bounds[i]) for i, name in enumerate(QUANTILE_NAMES)},
        }
    )


def alarms(outcomes: pl.DataFrame, mean_hours: float = MEAN_HOURS) -> set[str]:
    results = degradation.watch(outcomes, alarm_hours=outcomes.height, mean_hours=mean_hours)
    return {result.name for result in results if result.alarm}


def test_a_detector_keeps_its_stated_false_alarm_rate() -> None:
    # A detector with a mean time of m hours to a false alarm may raise about n / m of them in n hours.
    false_alarms = sum(len(alarms(honest_outcomes(seed, hours=500), mean_hours=2_000)) for seed in range(60))
    assert false_alarms / (60 * 3) <= 500 / 2_000


def test_an_unfair_bet_exceeds_the_stated_false_alarm_rate(monkeypatch: pytest.MonkeyPatch) -> None:
    fair = degradation.calibration_gains
    monkeypatch.setattr(degradation, "calibration_gains", lambda p, up: fair(p, up) * 1.02)
    false_alarms = sum(
        "calibration" in alarms(honest_outcomes(seed, hours=500), mean_hours=2_000) for seed in range(20)
    )
    assert false_alarms / 20 > 500 / 2_000


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
def test_a_broken_promise_is_detected_and_dated(how: str, promise: str) -> None:
    outcomes = broken(honest_outcomes(11), how)
    results = {result.name: result for result in degradation.watch(outcomes, alarm_hours=HOURS, mean_hours=MEAN_HOURS)}
    assert results[promise].alarm
    assert abs(results[promise].since - HOURS // 2) < 24 * 21
    assert promise not in alarms(outcomes.head(HOURS // 2))


def test_an_old_alarm_is_not_repeated() -> None:
    outcomes = pl.concat(
        [
            broken(honest_outcomes(11), "wilder"),
            honest_outcomes(12).with_columns(pl.col("open_time") + pl.duration(days=90)),
        ]
    )
    newest = {
        result.name: result.alarm for result in degradation.watch(outcomes, alarm_hours=24, mean_hours=MEAN_HOURS)
    }
    assert not newest["coverage_90"]
    assert "coverage_90" in alarms(outcomes)


@given(
    gains=st.lists(st.lists(st.floats(0.5, 1.6), min_size=2, max_size=2), min_size=1, max_size=40),
)
def test_the_detector_equals_a_sequential_loop(gains: list[list[float]]) -> None:
    path, since = degradation.e_detector(np.array(gains), bound=50.0)
    wealth = [1.0, 1.0]
    for hour, factors in enumerate(gains):
        wealth = [max(result, 1.0) * factor for result, factor in zip(wealth, factors, strict=True)]
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


def test_the_rows_satisfy_their_contract_and_no_outcomes_give_no_results() -> None:
    outcomes = honest_outcomes(1, hours=200)
    results = degradation.watch(outcomes, alarm_hours=24, mean_hours=MEAN_HOURS)
    rows = degradation.concept_rows(results, day=date(2018, 1, 9), version=1, cutoff=date(2018, 1, 1))
    assert DRIFT_REPORT.faults(rows) == []
    assert degradation.watch(outcomes.clear(), alarm_hours=24, mean_hours=MEAN_HOURS) == []
