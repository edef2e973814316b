"""Metrics equal independent implementations and have their mathematical properties."""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from btc_assets.evaluation import metrics
from btc_assets.evaluation.metrics import Estimate
from btc_assets_tests.evaluation.builders import SEED, forecasts


@st.composite
def small_samples(draw: st.DrawFn) -> tuple[np.ndarray, np.ndarray]:
    """Draw (p_up, log_return), including ties, extremes and constants."""
    n = draw(st.integers(1, 40))
    p = draw(st.lists(st.sampled_from([0.0, 0.1, 0.4, 0.5, 0.51, 0.8, 1.0]), min_size=n, max_size=n))
    r = draw(st.lists(st.sampled_from([-0.02, -0.001, 0.0, 0.0005, 0.003]), min_size=n, max_size=n))
    return np.array(p), np.array(r)


# --- points against independent implementations ---------------------------------------------------
def test_values_equal_scikit_learn() -> None:
    from sklearn import metrics as sk

    p, r = forecasts()
    p = p.round(2)
    up = r > 0
    assert metrics.accuracy(p, r).value == pytest.approx(sk.accuracy_score(up, p > 0.5))
    assert metrics.auc(p, r).value == pytest.approx(sk.roc_auc_score(up, p))
    assert metrics.log_loss(p, r).value == pytest.approx(sk.log_loss(up, p))
    assert metrics.brier(p, r).value == pytest.approx(sk.brier_score_loss(up, p))
    base = sk.log_loss(up, np.full(len(up), up.mean()))
    assert metrics.log_loss_skill(p, r).value == pytest.approx(1 - sk.log_loss(up, p) / base)
    both = [sk.mean_pinball_loss(r, p / 100, alpha=0.25), sk.mean_pinball_loss(r, p / 50, alpha=0.75)]
    assert metrics.pinball_loss(r, {0.25: p / 100}).value == pytest.approx(both[0])
    assert metrics.pinball_loss(r, {0.25: p / 100, 0.75: p / 50}).value == pytest.approx(np.mean(both))


def test_qlike_is_smallest_at_the_true_volatility() -> None:
    rng = np.random.default_rng(SEED)
    truth = 0.01 * np.exp(0.5 * rng.normal(size=20_000))
    r = truth * rng.standard_t(5, size=20_000) * math.sqrt(3 / 5)
    others = (truth * 0.9, truth * 1.1, truth**0.8 * 0.01**0.2, truth**1.2 / 0.01**0.2, np.full(20_000, 0.01))
    best = metrics.qlike(r, truth).value
    assert best is not None
    assert all((metrics.qlike(r, other).value or 0.0) > best for other in others)
    assert metrics.qlike([0.02], [0.01]).value == pytest.approx(2 * math.log(0.01) + 4)


def test_rank_ic_is_spearmans_correlation() -> None:
    from scipy import stats

    p, r = forecasts()
    assert metrics.rank_ic(p.round(2), r).value == pytest.approx(stats.spearmanr(p.round(2), r).statistic)


def test_calibration_line_is_the_maximum_likelihood_fit() -> None:
    import statsmodels.api as sm

    p, r = forecasts(skill=0.5)
    design = np.column_stack([np.log(p / (1 - p)), np.ones(len(p))])
    fit = sm.Logit((r > 0).astype(float), design).fit(disp=False)
    assert metrics.calibration_line(p, r) == pytest.approx(tuple(fit.params), abs=1e-6)


def test_calibration_error_of_a_small_example() -> None:
    p = np.array([0.1, 0.2, 0.6, 0.8])
    r = np.array([-1.0, 1.0, 1.0, 1.0])
    # Bins of two: |0.5 - 0.15| and |1 - 0.7|, each half of the rows.
    assert metrics.calibration_error(p, r, bins=2).value == pytest.approx(0.5 * 0.35 + 0.5 * 0.3)


def test_accuracy_at_confidence_uses_the_most_confident_rows() -> None:
    p = np.array([0.51, 0.9, 0.2, 0.49])
    r = np.array([-1.0, 1.0, -1.0, 1.0])
    assert metrics.accuracy_at_confidence(p, r, 0.5) == metrics.share([True, True])
    assert metrics.accuracy_at_confidence(p, r, 1.0).value == 0.5
    assert metrics.accuracy_at_confidence(np.full(10, 0.7), np.ones(10), 0.1).n == 1


def test_every_move_belongs_to_exactly_one_class() -> None:
    p, r = forecasts()
    r[:3] = 0.0, 5e-4, 50e-4
    by_move = metrics.accuracy_by_move(p, r)
    assert sum(found.n for found in by_move.values()) == len(p)
    weighted = sum(found.n * found.value for found in by_move.values() if found.value is not None)
    assert weighted / len(p) == pytest.approx(metrics.accuracy(p, r).value)


def test_return_weighted_accuracy_weights_large_moves() -> None:
    assert metrics.return_weighted_accuracy([0.6, 0.6], [0.03, -0.01]).value == pytest.approx(0.75)


def test_the_causal_base_rate_uses_only_closed_windows() -> None:
    r = np.array([1.0, 1.0, -1.0, 1.0, 1.0])
    assert metrics.causal_base_rate(r, horizon=60) == pytest.approx([1 / 2, 2 / 3, 3 / 4, 3 / 5, 4 / 6])
    assert metrics.causal_base_rate(r, horizon=240) == pytest.approx([1 / 2, 1 / 2, 1 / 2, 1 / 2, 2 / 3])


@pytest.mark.parametrize("horizon", [60, 240, 1440])
def test_unknown_outcomes_do_not_change_causal_benchmarks(horizon: int) -> None:
    _, r = forecasts(200)
    signal = np.sign(np.random.default_rng(1).normal(size=200))
    poisoned = r.copy()
    poisoned[100:] = -poisoned[100:]
    for rival in (metrics.causal_base_rate, lambda x, horizon: metrics.causal_persistence(signal, x, horizon=horizon)):
        before, after = rival(r, horizon=horizon), rival(poisoned, horizon=horizon)
        assert np.array_equal(before[: 100 + horizon // 60], after[: 100 + horizon // 60])
        assert not np.array_equal(before, after)


# --- laws ----------------------------------------------------------------------------------------
@given(small_samples())
def test_auc_does_not_change_under_a_monotone_transform(sample: tuple[np.ndarray, np.ndarray]) -> None:
    p, r = sample
    assert metrics.auc(p, r).value == metrics.auc(np.exp(3 * p), r).value


@given(small_samples())
def test_auc_of_the_reversed_forecast_is_its_complement(sample: tuple[np.ndarray, np.ndarray]) -> None:
    p, r = sample
    area = metrics.auc(p, r).value
    if area is not None:
        assert metrics.auc(1 - p, r).value == pytest.approx(1 - area)


@given(small_samples())
def test_the_base_rate_itself_has_no_skill(sample: tuple[np.ndarray, np.ndarray]) -> None:
    _, r = sample
    rate = float((r > 0).mean())
    found = metrics.log_loss_skill(np.full(len(r), rate), r).value
    assert found is None or found == pytest.approx(0, abs=1e-9)


METRICS: list[Callable[[np.ndarray, np.ndarray], Estimate]] = [
    metrics.accuracy,
    metrics.auc,
    metrics.log_loss,
    metrics.log_loss_skill,
    metrics.brier,
    metrics.return_weighted_accuracy,
    metrics.rank_ic,
    lambda p, r: metrics.accuracy_at_confidence(p, r, 0.1),
    lambda p, r: metrics.calibration_error(p, r, seed=SEED),
    lambda p, r: metrics.pinball_loss(r, {0.5: p}),
    lambda p, r: metrics.interval_coverage(r, -p, p),
    lambda p, r: metrics.interval_width(r - p, r + p),
]


@pytest.mark.parametrize("metric", METRICS)
@settings(max_examples=40)
@given(sample=small_samples(), horizon=st.sampled_from([60, 1440]))
def test_a_metric_is_within_its_interval_and_never_nan(
    metric: Callable[..., Estimate], sample: tuple[np.ndarray, np.ndarray], horizon: int
) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        found = metric(*sample)
    ends = [end for end in (found.value, found.lower, found.upper) if end is not None]
    assert all(math.isfinite(end) for end in ends)
    if found.value is not None and found.lower is not None and found.upper is not None:
        assert found.lower <= found.value <= found.upper


@pytest.mark.parametrize("metric", METRICS)
@pytest.mark.parametrize("rows", [[], [np.nan, np.nan]])
def test_metrics_without_rows_are_none(metric: Callable[..., Estimate], rows: list[float]) -> None:
    assert metric(np.array(rows), np.array(rows)) == Estimate(None, None, None, 0)


def test_rows_with_nan_are_dropped() -> None:
    p, r = forecasts(100)
    holed = np.concatenate([p, [np.nan, 0.9]]), np.concatenate([r, [0.1, np.nan]])
    for metric in METRICS[:7]:
        assert metric(*holed) == metric(p, r)


def test_columns_of_unequal_length_are_refused() -> None:
    with pytest.raises(ValueError, match="equally long"):
        metrics.accuracy([0.5], [0.1, 0.2])


def test_a_perfect_quantile_forecast_has_its_nominal_coverage() -> None:
    from scipy import stats

    r = np.random.default_rng(SEED).normal(0, 0.005, 20_000)
    for level in (0.5, 0.9):
        half = stats.norm.ppf(0.5 + level / 2) * 0.005
        found = metrics.interval_coverage(r, np.full(len(r), -half), np.full(len(r), half))
        assert found.lower is not None
        assert found.upper is not None
        assert found.lower - 0.005 < level < found.upper + 0.005


def test_the_true_quantile_minimises_the_pinball_loss() -> None:
    from scipy import stats

    r = np.random.default_rng(SEED).normal(0, 0.005, 20_000)
    true = stats.norm.ppf(0.05) * 0.005
    losses = [metrics.pinball_loss(r, {0.05: np.full(len(r), true * factor)}).value for factor in (0.7, 1.0, 1.3)]
    assert losses[1] == min(losses)


@given(st.lists(st.floats(-1, 1).map(lambda x: round(x, 3)), min_size=4, max_size=30, unique=True))
def test_a_perfect_rank_correlation_is_exactly_one(values: list[float]) -> None:
    found = metrics.rank_ic(np.linspace(0.1, 0.9, len(values)), np.sort(values))
    assert found.value == pytest.approx(1)
    assert found.value <= found.upper <= 1


# --- intervals ---------------------------------------------------------------------------------
def test_a_share_of_independent_rows_has_wilsons_interval() -> None:
    from statsmodels.stats.proportion import proportion_confint

    for hits in (0, 9):  # without variation there is nothing to correct for
        found = metrics.share(np.arange(9) < hits)
        assert (found.lower, found.upper) == pytest.approx(proportion_confint(hits, 9, method="wilson"), abs=1e-12)


def test_the_interval_of_auc_is_delongs_when_rows_are_independent() -> None:
    p, r = forecasts(2000)
    up = r > 0
    wins = (p[up][:, None] > p[~up][None, :]) + 0.5 * (p[up][:, None] == p[~up][None, :])
    delong = wins.mean(1).var(ddof=1) / up.sum() + wins.mean(0).var(ddof=1) / (~up).sum()
    found = metrics.auc(p, r)
    assert found.lower is not None
    assert found.upper is not None
    assert (found.upper - found.lower) / (2 * 1.96) == pytest.approx(math.sqrt(delong), rel=0.15)


@pytest.mark.parametrize(
    ("metric", "truth"),
    [
        (metrics.accuracy, lambda p: np.where(p > 0.5, p, 1 - p).mean()),
        (metrics.brier, lambda p: (p * (1 - p)).mean()),
        (metrics.log_loss, lambda p: -(p * np.log(p) + (1 - p) * np.log(1 - p)).mean()),
    ],
)
def test_95_percent_of_intervals_contain_the_truth(
    metric: Callable[..., Estimate], truth: Callable[..., float]
) -> None:
    wanted = truth(np.random.default_rng(0).beta(20, 20, 1_000_000))
    found = [metric(*forecasts(1500, seed=seed)) for seed in range(300)]
    held = sum(one.lower <= wanted <= one.upper for one in found)
    assert 0.90 <= held / 300 <= 0.985


def test_overlapping_windows_widen_the_interval() -> None:
    rng = np.random.default_rng(SEED)
    hourly = rng.normal(0, 0.005, 5023)
    daily = np.convolve(hourly, np.ones(24), "valid")
    p = np.full(len(daily), 0.6)
    overlapping, naive = (metrics.accuracy(p, daily, horizon=1440), metrics.accuracy(p, hourly[:5000]))
    width = [found.upper - found.lower for found in (overlapping, naive)]
    assert width[0] > 3 * width[1]
