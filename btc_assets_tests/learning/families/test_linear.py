"""Scaling of columns, and the families built on sums over columns."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest

from btc_assets.learning.families import climatology, naive_bayes, persistence, ridge_logistic
from btc_assets.learning.families.linear import LinearOutput, Scaling, fit_sigmoid, out_of_block
from btc_assets.learning.families.protocol import Fit, Parameters, Vector
from btc_assets.learning.families.ridge_logistic import RidgeLogisticParameters
from btc_assets.vocabulary import QUANTILE_NAMES

NAMES = ("returns_1h", "other")


def test_scaling_winsorises_standardises_and_takes_a_missing_value_for_the_mean() -> None:
    column = np.arange(1, 101, dtype=np.float32)
    column[-1] = 1e6
    inputs = np.column_stack([column, np.full(100, 5.0), np.full(100, np.nan)]).astype(np.float32)
    scaling = Scaling.of(inputs)
    z = scaling(inputs)
    assert z[:, 0].mean() == pytest.approx(0)
    assert z[:, 0].std() == pytest.approx(1)
    assert scaling.low[0] == pytest.approx(np.quantile(column.astype(np.float64), 0.01))
    assert scaling(np.array([[np.nan, 5.0, 3.0], [1e9, 6.0, -3.0]])).tolist() == [[0, 0, 0], [z[:, 0].max(), 0, 0]]


def test_an_output_of_another_width_is_refused() -> None:
    output = LinearOutput.constant(np.zeros((1, 2), dtype=np.float32), 0.0)
    with pytest.raises(ValueError, match="expected an output of 3 columns, got one of 2"):
        LinearOutput.read(output.native(), 3)


def test_a_row_is_scored_by_a_fit_without_its_block() -> None:
    z, up = np.arange(12.0)[:, None], np.tile([0.0, 1.0], 6)
    fits: list[list[float]] = []

    def fit(rows: Vector, *_: Vector) -> Callable[[Vector], Vector]:
        fits.append(rows[:, 0].tolist())
        return lambda others: others[:, 0] + 100 * len(fits)

    scores = out_of_block(fit, z, up, np.ones(12))
    for row, score in enumerate(scores):
        assert row not in fits[int(score // 100) - 1]


def test_a_sigmoid_recovers_its_slope_and_never_turns_a_score_around() -> None:
    rng = np.random.default_rng(1)
    score = 10 * rng.normal(size=20_000)
    up = (rng.random(20_000) < 1 / (1 + np.exp(-(0.1 * score + 0.3)))).astype(np.float64)
    assert fit_sigmoid(score, up, np.ones(20_000)) == pytest.approx((0.1, 0.3), abs=0.05)
    assert fit_sigmoid(-score, up, np.ones(20_000))[0] == 0


def test_persistence_gives_the_share_of_rises_after_a_rise_and_after_a_fall() -> None:
    last = np.array([0.01, 0.02, 0.03, 0.04, -0.01, -0.02, -0.03, -0.04] * 100)
    up = np.array([1.0, 1.0, 1.0, 0.0, 1.0, 0.0, 0.0, 0.0] * 100)
    inputs = np.column_stack([last, last]).astype(np.float32)
    output = persistence.fit_direction(inputs, up, np.ones(800), Parameters(), Fit(NAMES))
    fresh = np.array([[1e-5, 0.0], [-1e-5, 0.0], [0.0, 0.0], [np.nan, 1.0]], dtype=np.float32)
    assert output.predict(fresh) == pytest.approx([0.75, 0.25, 0.5, 0.5], abs=0.002)


def test_persistence_without_the_return_of_the_hour_is_refused() -> None:
    inputs = np.zeros((4, 1), dtype=np.float32)
    with pytest.raises(ValueError, match="persistence needs the feature returns_1h; the inputs are other"):
        persistence.fit_direction(inputs, np.ones(4), np.ones(4), Parameters(), Fit(("other",)))


def test_climatology_has_the_weighted_share_quantiles_and_mean() -> None:
    inputs, weights = np.zeros((1_000, 2), dtype=np.float32), np.repeat([3.0, 1.0], 500)
    up, scaled = np.repeat([1.0, 0.0], 500), np.repeat([1.0, -1.0], 500)
    arguments = (weights, Parameters(), Fit(NAMES))
    one = inputs[:1]
    assert climatology.fit_direction(inputs, up, *arguments).predict(one) == pytest.approx([0.75], abs=0.001)
    quantiles = climatology.fit_quantiles(inputs, scaled, *arguments)
    assert [float(quantiles[name].predict(one)[0]) for name in QUANTILE_NAMES] == [-1, -1, 1, 1, 1]
    assert climatology.fit_size(inputs, scaled, *arguments).predict(one) == pytest.approx([0.5])


def test_naive_bayes_counts_a_feature_given_twice_little_more_than_once() -> None:
    rng = np.random.default_rng(2)
    signal = rng.normal(size=4_000).astype(np.float32)
    up = (rng.random(4_000) < 1 / (1 + np.exp(-signal))).astype(np.float64)
    once, twice = (
        naive_bayes.fit_direction(np.tile(signal[:, None], copies), up, np.ones(4_000), Parameters(), Fit(NAMES))
        for copies in (1, 8)
    )
    assert twice.predict(np.full((1, 8), 2.0, dtype=np.float32)) == pytest.approx(
        once.predict(np.full((1, 1), 2.0, dtype=np.float32)), abs=0.01
    )


def test_a_penalty_shrinks_p_up_and_the_size_alike() -> None:
    rng = np.random.default_rng(3)
    inputs = rng.normal(size=(3_000, 2)).astype(np.float32)
    target = inputs[:, 0] * 0.2 + rng.normal(size=3_000)
    free = RidgeLogisticParameters(inverse_penalty=1e6, size_penalty=1e-6)
    shares = []
    for head, y in ((ridge_logistic.fit_direction, (target > 0).astype(np.float64)), (ridge_logistic.fit_size, target)):
        strong, weak = (head(inputs, y, np.ones(3_000), p, Fit(NAMES)) for p in (RidgeLogisticParameters(), free))
        shares.append(strong.linear[0] / weak.linear[0])
    assert 0.4 < shares[0] < 0.9
    assert shares[0] == pytest.approx(shares[1], abs=0.05)
