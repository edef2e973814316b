"""Drift is detected in columns that changed and not in autocorrelated columns that did not."""

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


def autoregressive(hours: int, rng: np.random.Generator, coefficient: float) -> np.ndarray:
    """Return a stationary AR(1) series with unit variance."""
    from scipy.signal import lfilter

    noise = rng.normal(0, np.sqrt(1 - coefficient**2), hours)
    noise[0] = rng.normal()
    return lfilter([1], [1, -coefficient], noise)


def history(seed: int, coefficient: float = 0.97) -> pl.DataFrame:
    rng = np.random.default_rng(seed)
    return pl.DataFrame({name: autoregressive(HOURS + WEEK, rng, coefficient) for name in COLUMNS})


def compared_columns(frame: pl.DataFrame) -> dict[str, drift.FeatureDrift]:
    compared = drift.input_drift(frame.head(HOURS), frame.tail(WEEK), COLUMNS)
    return {column.name: column for column in compared}


def false_alarms(repeats: int) -> float:
    """Return the share of weeks without a change in which any column counts as drifted."""
    return (
        sum(any(column.drifted for column in compared_columns(history(seed)).values()) for seed in range(repeats))
        / repeats
    )


def test_unchanged_autocorrelated_columns_rarely_alarm() -> None:
    assert false_alarms(30) <= 0.15


def test_without_effective_sample_sizes_most_weeks_would_alarm(monkeypatch: pytest.MonkeyPatch) -> None:
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
def test_a_planted_change_is_detected_in_its_column_only(planted: str, move: pl.Expr) -> None:
    frame = history(3, coefficient=0.5).with_row_index("hour")
    moved = frame.with_columns(pl.when(pl.col("hour") >= HOURS).then(move).otherwise("x0").alias("x0"))
    compared = compared_columns(moved)
    assert compared["x0"].drifted, planted
    assert not any(compared[name].drifted for name in COLUMNS[1:])


@pytest.mark.parametrize("coefficient", [0.0, 0.6, 0.9])
def test_rank_autocorrelation_estimates_the_coefficient_of_an_autoregressive_series(coefficient: float) -> None:
    values = autoregressive(50_000, np.random.default_rng(5), coefficient)
    assert drift.rank_autocorrelation(values) == pytest.approx(coefficient, abs=0.03)


def test_the_variance_of_the_mean_matches_the_effective_sample_size() -> None:
    means = [autoregressive(1_000, np.random.default_rng(seed), 0.8).mean() for seed in range(300)]
    assert np.var(means) == pytest.approx(1 / drift.effective_size(1_000, 0.8), rel=0.25)


def test_a_constant_column_has_not_drifted() -> None:
    frame = history(4).with_columns(pl.lit(1.0).alias("x0"))
    column = compared_columns(frame)["x0"]
    assert (column.psi, column.ks, column.drifted, column.wasserstein) == (0.0, 0.0, False, None)


@given(seed=st.integers(0, 1000), n=st.integers(30, 200), m=st.integers(30, 200))
def test_the_largest_gap_is_the_kolmogorov_smirnov_statistic(seed: int, n: int, m: int) -> None:
    from scipy.stats import ks_2samp

    rng = np.random.default_rng(seed)
    column, other = rng.integers(0, 20, n).astype(float), rng.integers(2, 25, m).astype(float)
    compared = drift.input_drift(pl.DataFrame({"x": column}), pl.DataFrame({"x": other}), ["x"])[0]
    assert compared.ks == pytest.approx(ks_2samp(column, other).statistic)


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
    compared = list(compared_columns(history(6)).values())
    rows = drift.drift_rows(compared, day=date(2018, 5, 5), version=3, cutoff=date(2018, 5, 1))
    assert DRIFT_REPORT.faults(rows) == []
    assert rows["subject"].n_unique() == len(COLUMNS)
    assert plots.drift(compared).startswith(b"\x89PNG")
    assert drift.markdown(compared).count("\n") == len(COLUMNS) + 1
