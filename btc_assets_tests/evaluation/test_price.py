"""Price errors equal their formulas, and P(up) implies a return on its side of zero."""

from __future__ import annotations

import numpy as np
import pytest

from btc_assets.evaluation.price import implied_log_return, price_errors


def test_errors_equal_their_formulas() -> None:
    errors = price_errors([10.0, 20.0], [11.0, 18.0])
    assert errors.rmse == pytest.approx(2.5**0.5)
    assert errors.mae == pytest.approx(1.5)
    assert errors.r2 == pytest.approx(1 - 2.5 / 3.5**2)


def test_r2_is_near_one_without_any_skill() -> None:
    price = 30_000 * np.exp(np.random.default_rng(5).normal(0, 0.005, 5000).cumsum())
    r2 = price_errors(price[:-1], price[1:]).r2
    assert r2 is not None
    assert r2 > 0.99


def test_constant_prices_have_no_r2() -> None:
    assert price_errors([9.0, 11.0], [10.0, 10.0]).r2 is None


def test_a_coin_implies_no_move_and_certainty_a_finite_one() -> None:
    implied = implied_log_return([0.5, 0.6, 0.4, 1.0], [0.01] * 4)
    assert implied[0] == 0
    assert implied[1] == pytest.approx(-implied[2]) == pytest.approx(0.01 * 0.25335, rel=1e-4)
    assert np.isfinite(implied[3])
