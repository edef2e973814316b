"""A row's volatility comes from the first model that knows its regressors, alone or among others."""

from __future__ import annotations

import math

import numpy as np
import pytest

from btc_assets.learning.sigma import Sigma, coming_hour_of_week

DOCUMENT = {
    "horizons": [60, 240],
    "models": [
        {"name": "full", "coefficients": {"intercept": [-1.0, -0.5], "a": [0.3, 0.1], "b": [0.7, 0.9]}},
        {
            "name": "short",
            "coefficients": {
                "intercept": [-2.0, -1.5],
                "a": [0.5, 0.25],
                "hour_00": [1.0, 2.0],
                "weekend_hour_00": [0.5, 0.5],
                "day_6": [0.125, 0.25],
            },
        },
        {"name": "constant", "coefficients": {"intercept": [-8.0, -6.0]}},
    ],
}
SIGMA = Sigma(DOCUMENT)


def volatility(hour_of_day: float, day_of_week: float, a: float, b: float) -> list[float]:
    return SIGMA(np.array([[hour_of_day, day_of_week, a, b]])).tolist()[0]


def test_the_calendar_and_the_features_of_all_models_are_inputs() -> None:
    assert SIGMA.inputs == ("hour_of_day", "day_of_week", "a", "b")


def test_a_row_with_every_feature_uses_the_first_model() -> None:
    expected = [math.exp((-1 + 0.3 * 2 - 0.7 * 3) / 2), math.exp((-0.5 + 0.1 * 2 - 0.9 * 3) / 2)]
    assert volatility(5, 1, 2.0, -3.0) == pytest.approx(expected)


def test_a_row_without_a_feature_uses_the_next_model() -> None:
    assert volatility(5, 1, 2.0, math.nan) == pytest.approx([math.exp((-2 + 1) / 2), math.exp((-1.5 + 0.5) / 2)])


def test_a_row_without_features_has_the_constant_volatility() -> None:
    assert volatility(5, 1, math.nan, -3.0) == pytest.approx([math.exp(-4), math.exp(-3)])


@pytest.mark.parametrize(("hour_of_day", "day_of_week", "effect"), [(23, 5, 1.625), (23, 4, 1.0), (0, 6, 0.125)])
def test_the_calendar_is_that_of_the_coming_hour(hour_of_day: float, day_of_week: float, effect: float) -> None:
    assert volatility(hour_of_day, day_of_week, 0.0, math.nan)[0] == pytest.approx(math.exp((-2 + effect) / 2))


def test_the_week_starts_after_its_last_hour() -> None:
    assert coming_hour_of_week(np.array([23.0, 0.0]), np.array([7.0, 1.0])).tolist() == [0, 1]


def test_a_row_has_the_same_numbers_alone_and_among_others() -> None:
    rng = np.random.default_rng(1)
    rows = np.column_stack([rng.integers(0, 24, 500), rng.integers(1, 8, 500), rng.normal(-11, 2, (500, 2))])
    rows[rng.random(500) < 0.3, 3] = np.nan
    together = SIGMA(rows.astype(np.float32))
    assert np.array_equal(np.vstack([SIGMA(row[None].astype(np.float32)) for row in rows]), together)
