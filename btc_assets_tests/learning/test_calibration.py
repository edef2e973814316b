"""Calibration of probabilities and intervals."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from btc_assets.learning.calibration import Calibration, conformal_offsets, fit_calibration
from btc_assets.learning.forecast_model import calibrated, log_odds
from btc_assets.vocabulary import QUANTILE_NAMES


def simulate(n: int, slope: float, intercept: float, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    p_raw = 1 / (1 + np.exp(-rng.normal(0, 1, n)))
    return p_raw, (rng.random(n) < calibrated(p_raw, slope, intercept)).astype(float)


def test_a_strong_miscalibration_is_estimated() -> None:
    calibration = fit_calibration(*simulate(200_000, 0.5, 0.2))
    assert calibration.slope == pytest.approx(0.5, abs=0.03)
    assert calibration.intercept == pytest.approx(0.2, abs=0.03)


def test_a_few_noisy_hours_hardly_change_the_calibration() -> None:
    calibration = fit_calibration(*simulate(20, 0.0, 0.0))
    assert abs(calibration.slope - 1) < 0.3
    assert abs(calibration.intercept) < 0.05


def test_the_fit_is_the_posterior_mode() -> None:
    p_raw, up = simulate(500, 0.8, 0.0)
    best = fit_calibration(p_raw, up)

    def loss(slope: float, intercept: float) -> float:
        score = slope * log_odds(p_raw) + intercept
        return float(
            (np.logaddexp(0, score) - up * score).sum()
            + 0.5 * ((slope - 1) / 0.25) ** 2
            + 0.5 * (intercept / 0.05) ** 2
        )

    at = loss(best.slope, best.intercept)
    for slope, intercept in ((0.02, 0), (-0.02, 0), (0, 0.01), (0, -0.01)):
        assert loss(best.slope + slope, best.intercept + intercept) > at


@given(st.floats(0.2, 3), st.floats(-1, 1))
def test_calibration_preserves_the_order_of_forecasts(slope: float, intercept: float) -> None:
    p = np.linspace(0.01, 0.99, 50)
    assert (np.diff(Calibration(slope, intercept)(p)) > 0).all()


@settings(max_examples=20, deadline=None)
@given(st.floats(0.3, 3.0), st.integers(0, 100))
def test_conformal_intervals_have_their_nominal_coverage(width: float, seed: int) -> None:
    rng = np.random.default_rng(seed)
    claimed = np.tile(width * np.array([-1.645, -0.674, 0.0, 0.674, 1.645]), (4000, 1))
    offsets = conformal_offsets(rng.normal(size=4000), claimed)
    fresh = rng.normal(size=20_000)
    for low, high, share in ((0, 4, 0.9), (1, 3, 0.5)):
        below = claimed[0, low] + offsets[QUANTILE_NAMES[low]]
        above = claimed[0, high] + offsets[QUANTILE_NAMES[high]]
        assert ((below <= fresh) & (fresh <= above)).mean() == pytest.approx(share, abs=0.03)


@pytest.mark.parametrize(("horizon", "rank"), [(60, 901), (240, 904), (1440, 922)])
def test_an_interval_is_wider_for_outcomes_that_overlap(horizon: int, rank: int) -> None:
    offsets = conformal_offsets(np.arange(1000.0), np.zeros((1000, 5)), horizon=horizon)
    assert offsets["q95"] == pytest.approx(rank, abs=1)


def test_the_median_has_no_offset() -> None:
    offsets = conformal_offsets(np.linspace(-3, 3, 100), np.zeros((100, 5)))
    assert "q50" not in offsets
