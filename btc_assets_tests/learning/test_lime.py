"""A local linear fit finds what a linear score is made of, and says how much of another score it misses."""

from __future__ import annotations

import numpy as np
import pytest

from btc_assets.learning.lime import fit_locally

FREE = 12
ROW = np.append(np.linspace(-1.0, 1.2, FREE), [np.nan, 0.5])
MEDIANS = np.append(np.full(FREE, 0.05), [0.0, np.nan])
SLOPES = np.linspace(0.5, -0.3, FREE)


def test_a_linear_score_is_found() -> None:
    fits = fit_locally(lambda rows: (rows[:, :FREE] @ SLOPES + 0.1)[:, None], ROW, MEDIANS)
    assert fits.values[0, :FREE] == pytest.approx(SLOPES * (ROW - MEDIANS)[:FREE], abs=0.03)
    assert fits.base[0] == pytest.approx(SLOPES @ MEDIANS[:FREE] + 0.1, abs=0.05)
    assert fits.r_squared[0] > 0.98


def test_values_without_a_substitute_are_not_replaced() -> None:
    seen = []

    def score(rows: np.ndarray) -> np.ndarray:
        seen.append(rows)
        return np.zeros((len(rows), 1))

    fits = fit_locally(score, ROW, MEDIANS)
    assert np.isnan(seen[0][:, -2]).all()
    assert set(seen[0][:, -1]) == {0.5}
    assert seen[0][0].tobytes() == ROW.tobytes(), "the row itself comes first"
    assert not fits.values.any()


def test_an_interaction_is_missed() -> None:
    fits = fit_locally(lambda rows: rows[:, :1] * rows[:, 1:2], np.array([1.0, 1.0]), np.array([0.0, 0.0]))
    assert fits.r_squared[0] < 0.95


def test_a_row_of_medians_has_no_contributions() -> None:
    fits = fit_locally(lambda rows: rows[:, :1] + 0.3, np.zeros(2), np.zeros(2))
    assert (fits.base.tolist(), fits.values.any()) == ([0.3], False)
