"""Moved inputs: found where they moved, not where hours merely follow each other."""

from __future__ import annotations

from datetime import date

import numpy as np
import polars as pl
import pytest
from hypothesis import given
from hypothesis import strategies as st

from btc_assets.monitoring import drift, plots
from btc_assets.monitoring.tables import DRIFT_REPORT

HOURS = 24 * 200
WEEK = 24 * 7
COLUMNS = [f"x{i}" for i in range(12)]


def slow(hours: int, rng: np.random.Generator, memory: float) -> np.ndarray:
    """Return a stationary AR(1) series with unit variance."""
    from scipy.signal import lfilter

    noise = rng.normal(0, np.sqrt(1 - memory**2), hours)
    noise[0] = rng.normal()
    return lfilter([1], [1, -memory], noise)


def history(seed: int, memory: float = 0.97) -> pl.DataFrame:
    rng = np.random.default_rng(seed)
    return pl.DataFrame({name: slow(HOURS + WEEK, rng, memory) for name in COLUMNS})


def found(frame: pl.DataFrame) -> dict[str, drift.FeatureDrift]:
    compared = drift.input_drift(frame.head(HOURS), frame.tail(WEEK), COLUMNS)
    return {one.name: one for one in compared}


def false_alarms(repeats: int) -> float:
    """Return the share of quiet weeks in which any column is called drifted."""
    return sum(any(one.drifted for one in found(history(seed)).values()) for seed in range(repeats)) / repeats


def test_quiet_weeks_of_slow_columns_seldom_alarm() -> None:
    assert false_alarms(30) <= 0.15


def test_counting_every_hour_as_new_would_alarm_in_most_weeks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(drift, "effective_size", lambda hours, _: float(hours))
    assert false_alarms(10) >= 0.9


@pytest.mark.parametrize(
    ("planted", "move"),
    [
        ("mean", pl.col("x0") + 4),
        ("variance", pl.col("x0") * 6),
        ("dead", pl.lit(None, dtype=pl.Float64)),
        ("stuck", pl.lit(5.0)),
    ],
)
def test_a_planted_move_is_found_and_named(planted: str, move: pl.Expr) -> None:
    frame = history(3, memory=0.5).with_row_index("hour")
    moved = frame.with_columns(pl.when(pl.col("hour") >= HOURS).then(move).otherwise("x0").alias("x0"))
    compared = found(moved)
    assert compared["x0"].drifted, planted
    assert not any(compared[name].drifted for name in COLUMNS[1:])


@pytest.mark.parametrize("memory", [0.0, 0.6, 0.9])
def test_memory_is_that_of_a_first_order_series(memory: float) -> None:
    values = slow(50_000, np.random.default_rng(5), memory)
    assert drift.memory(values) == pytest.approx(memory, abs=0.03)


def test_the_mean_of_a_slow_series_scatters_as_that_of_so_many_independent_draws() -> None:
    means = [slow(1_000, np.random.default_rng(seed), 0.8).mean() for seed in range(300)]
    assert np.var(means) == pytest.approx(1 / drift.effective_size(1_000, 0.8), rel=0.25)


def test_a_constant_column_has_moved_nowhere() -> None:
    frame = history(4).with_columns(pl.lit(1.0).alias("x0"))
    one = found(frame)["x0"]
    assert (one.psi, one.ks, one.drifted, one.wasserstein) == (0.0, 0.0, False, None)


@given(seed=st.integers(0, 1000), n=st.integers(30, 200), m=st.integers(30, 200))
def test_the_largest_gap_is_the_kolmogorov_smirnov_statistic(seed: int, n: int, m: int) -> None:
    from scipy.stats import ks_2samp

    rng = np.random.default_rng(seed)
    one, other = rng.integers(0, 20, n).astype(float), rng.integers(2, 25, m).astype(float)
    compared = drift.input_drift(pl.DataFrame({"x": one}), pl.DataFrame({"x": other}), ["x"])[0]
    assert compared.ks == pytest.approx(ks_2samp(one, other).statistic)


@given(seed=st.integers(0, 1000), shift=st.floats(-3, 3), missing=st.floats(0, 0.9))
def test_the_stability_index_is_never_negative_and_zero_for_the_same_values(
    seed: int, shift: float, missing: float
) -> None:
    rng = np.random.default_rng(seed)
    values = rng.normal(size=300)
    other = np.where(rng.random(300) < missing, np.nan, values + shift)
    assert drift.Reference.of("x", values).stability_index(values) == 0
    assert drift.Reference.of("x", values).stability_index(other) >= 0


def test_the_stability_index_equals_plain_arithmetic() -> None:
    before = np.arange(1, 101, dtype=float)
    now = np.concatenate([np.full(50, 5.0), np.full(50, 95.0)])
    shares = np.array([0.5, *[1e-4] * 8, 0.5])
    expected = ((shares - 0.1) * np.log(shares / 0.1)).sum()
    assert drift.Reference.of("x", before).stability_index(now) == pytest.approx(expected)


def test_the_rows_keep_their_contract_and_the_picture_is_one() -> None:
    compared = list(found(history(6)).values())
    rows = drift.drift_rows(compared, day=date(2018, 5, 5), version=3, cutoff=date(2018, 5, 1))
    assert DRIFT_REPORT.faults(rows) == []
    assert rows["subject"].n_unique() == len(COLUMNS)
    assert plots.drift(compared).startswith(b"\x89PNG")
    assert drift.markdown(compared).count("\n") == len(COLUMNS) + 1
