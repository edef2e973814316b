"""Significance tests equal independent implementations and have the right size and power."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from btc_assets.evaluation import significance
from btc_assets.evaluation.significance import diebold_mariano
from btc_assets_tests.evaluation.builders import SEED, forecasts


def test_the_variance_of_the_mean_equals_statsmodels_hac() -> None:
    import statsmodels.api as sm

    x = np.random.default_rng(SEED).normal(size=500).cumsum()
    for lags in (0, 3, 23):
        fit = sm.OLS(x, np.ones(500)).fit(cov_type="HAC", cov_kwds={"maxlags": lags})
        assert significance.hac_variance_of_mean(x, lags=lags) == pytest.approx(fit.bse[0] ** 2)


def test_an_unknown_p_value_is_not_counted() -> None:
    assert significance.holm([0.01, None, 0.04]) == [0.02, None, 0.04]
    assert significance.holm([None]) == [None]


def test_resampled_means_are_of_whole_blocks_that_wrap_around() -> None:
    values = np.arange(6.0)[:, None]
    drawn = significance.resampled_means(values, block=3, reps=200, seed=SEED)
    blocks = [np.roll(values, -start)[:3].mean() for start in range(6)]
    assert set(drawn[:, 0]) <= {(one + other) / 2 for one in blocks for other in blocks}
    assert significance.resampled_means(values, block=6, reps=3, seed=SEED) == pytest.approx(2.5)


def test_pesaran_timmermann_equals_its_formula() -> None:
    p, r = forecasts(800)
    x, y = (p > 0.5).mean(), (r > 0).mean()
    hit, chance = ((p > 0.5) == (r > 0)).mean(), x * y + (1 - x) * (1 - y)
    spread = chance * (1 - chance) / 800
    spread -= ((2 * y - 1) ** 2 * x * (1 - x) + (2 * x - 1) ** 2 * y * (1 - y)) / 800
    found = significance.pesaran_timmermann(p, r)
    assert found.effect == pytest.approx(hit - chance)
    assert found.statistic == pytest.approx((hit - chance) / math.sqrt(spread), rel=0.01)


def test_pesaran_timmermann_is_uniform_without_skill_and_small_with_it() -> None:
    from scipy import stats

    empty = [significance.pesaran_timmermann(*forecasts(1000, skill=0, seed=seed)).p_value for seed in range(300)]
    assert stats.kstest(empty, "uniform").pvalue > 0.01
    skilled = [significance.pesaran_timmermann(*forecasts(3000, seed=seed)).p_value for seed in range(20)]
    assert max(skilled) < 0.01


def test_predicting_a_single_direction_gives_no_result() -> None:
    _, r = forecasts(100)
    assert significance.pesaran_timmermann(np.full(100, 0.7), r).p_value is None


def test_a_forecast_does_not_differ_from_itself() -> None:
    losses = np.random.default_rng(SEED).random(100)
    found = diebold_mariano(losses, losses)
    assert (found.value, found.statistic(), found.p_value(), found.interval()) == (0.0, None, 1.0, (0.0, 0.0))


def test_a_constant_loss_difference_gives_no_standard_error() -> None:
    found = diebold_mariano(np.full(50, 0.1), np.zeros(50))
    assert found.value == pytest.approx(0.1)
    assert found.p_value() is None


@given(st.integers(0, 10_000), st.floats(0, 0.9), st.floats(-0.3, 0.3), st.sampled_from([60, 240, 1440]))
@settings(max_examples=30, deadline=None)
def test_diebold_mariano_equals_statsmodels_with_data_driven_lags(
    seed: int, memory: float, shift: float, horizon: int
) -> None:
    from statsmodels.tsa.stattools import diebold_mariano_test

    difference = autocorrelated(300, memory, seed) + shift
    found = diebold_mariano(difference, np.zeros(300), horizon=horizon)
    theirs = diebold_mariano_test(
        np.zeros(300),
        difference,
        np.zeros(300),
        lags=found.lags,
        criterion=lambda _, loss: loss,
        harvey_adj=True,
        horizon=found.lags + 1,
    )
    assert found.lags >= horizon // 60 - 1
    assert found.statistic() == pytest.approx(float(theirs.statistic))
    assert found.p_value() == pytest.approx(float(theirs.pvalue))
    low, high = found.interval()
    assert low is not None
    assert high is not None
    assert (low > 0 or high < 0) == (theirs.pvalue < 0.05)


def autocorrelated(n: int, memory: float, seed: int) -> significance.Floats:
    """Return n rows of a first-order autoregression."""
    rows = np.random.default_rng(seed).normal(size=n)
    for i in range(1, n):
        rows[i] += memory * rows[i - 1]
    return rows


def test_autocorrelation_increases_the_lags() -> None:
    short, long = (diebold_mariano(autocorrelated(2000, memory, 1), np.zeros(2000)) for memory in (0.0, 0.9))
    assert long.lags > short.lags


def test_one_sided_p_values_refer_to_the_given_difference() -> None:
    rng = np.random.default_rng(SEED)
    ours, theirs = rng.random(500) + 0.1, rng.random(500)
    found = diebold_mariano(ours, theirs)
    above, below = found.p_above(), found.p_below()
    assert above is not None
    assert below is not None
    assert above < 0.001
    assert above + below == pytest.approx(1)
    assert found.value is not None
    assert found.p_above(found.value) == pytest.approx(0.5)
    assert (found.p_above(0.3) or 0) > 0.99


@pytest.mark.parametrize("n", [0, 1, 2, 4])
def test_diebold_mariano_of_too_few_rows_has_no_result(n: int) -> None:
    assert diebold_mariano(np.zeros(n), np.arange(n), horizon=240).p_value() is None


@pytest.mark.parametrize("memory", [0.0, 0.2])
def test_diebold_mariano_has_its_nominal_size(memory: float) -> None:
    """Four weeks of hours; `python -m benchmarks.significance` measures the autocorrelation of real models."""
    draws = [diebold_mariano(autocorrelated(672, memory, seed), np.zeros(672)).p_above() for seed in range(1000)]
    assert np.mean([p is not None and p < 0.05 for p in draws]) == pytest.approx(0.05, abs=0.02)


def test_paired_folds_give_the_t_test_and_cohens_d() -> None:
    from scipy import stats

    a, b = np.array([0.69, 0.68, 0.70]), np.array([0.70, 0.70, 0.705])
    found = significance.paired_folds(a, b)
    wanted = stats.ttest_1samp(a - b, 0)
    assert (found.statistic, found.p_value) == pytest.approx((wanted.statistic, wanted.pvalue))
    assert found.effect == pytest.approx((a - b).mean() / (a - b).std(ddof=1))
    assert significance.paired_folds([0.1], [0.2]).p_value is None


def test_superior_ability_detects_a_better_rival_only() -> None:
    rng = np.random.default_rng(SEED)
    benchmark = rng.random(400)
    better, equal = benchmark - 0.1 + rng.normal(0, 0.1, 400), rng.random((400, 2))
    assert significance.superior_ability(benchmark, np.column_stack([better, equal]), block=5, seed=1) < 0.01
    assert significance.superior_ability(benchmark, benchmark[:, None] + rng.random((400, 1)), block=5, seed=1) >= 0.5
    assert significance.superior_ability(benchmark, benchmark[:, None], block=5, seed=1) is None


def test_the_confidence_set_drops_the_worst_and_is_reproducible() -> None:
    rng = np.random.default_rng(SEED)
    losses = {"good": rng.random(300), "as good": rng.random(300), "bad": rng.random(300) + 0.5}
    found = significance.model_confidence_set(losses, block=5, seed=1)
    assert found["bad"] < 0.1 < min(found["good"], found["as good"])
    assert found == significance.model_confidence_set(losses, block=5, seed=1)
    assert significance.model_confidence_set({"a": losses["good"], "b": losses["good"]}, block=5, seed=1) == {}
