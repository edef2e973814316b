"""Metrics against independent implementations, and the laws they obey."""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats
from sklearn import metrics as sk
from statsmodels.tsa.stattools import diebold_mariano_test

from btc_assets.evaluation import metrics as ev

SEED = 7


def forecasts(n: int = 3000, *, skill: float = 1.0, seed: int = SEED) -> tuple[np.ndarray, np.ndarray]:
    """Return (p_up, log_return) of forecasts that are calibrated at skill 1 and empty at skill 0."""
    rng = np.random.default_rng(seed)
    p = rng.beta(20, 20, n)
    rises = rng.random(n) < 0.5 + skill * (p - 0.5)
    return p, np.where(rises, 1, -1) * rng.exponential(0.004, n)


@st.composite
def small_samples(draw: st.DrawFn) -> tuple[np.ndarray, np.ndarray]:
    """Draw (p_up, log_return) with ties, extremes and constants among them."""
    n = draw(st.integers(1, 40))
    p = draw(st.lists(st.sampled_from([0.0, 0.1, 0.4, 0.5, 0.51, 0.8, 1.0]), min_size=n, max_size=n))
    r = draw(st.lists(st.sampled_from([-0.02, -0.001, 0.0, 0.0005, 0.003]), min_size=n, max_size=n))
    return np.array(p), np.array(r)


# --- points against independent implementations ---------------------------------------------------
def test_points_equal_scikit_learn() -> None:
    p, r = forecasts()
    p = p.round(2)
    up = r > 0
    assert ev.accuracy(p, r) == pytest.approx(sk.accuracy_score(up, p > 0.5))
    assert ev.auc(p, r) == pytest.approx(sk.roc_auc_score(up, p))
    assert ev.log_loss(p, r) == pytest.approx(sk.log_loss(up, p))
    assert ev.brier(p, r) == pytest.approx(sk.brier_score_loss(up, p))
    base = sk.log_loss(up, np.full(len(up), up.mean()))
    assert ev.log_loss_skill(p, r) == pytest.approx(1 - sk.log_loss(up, p) / base)
    both = [sk.mean_pinball_loss(r, p / 100, alpha=0.25), sk.mean_pinball_loss(r, p / 50, alpha=0.75)]
    assert ev.quantile_loss(r, {0.25: p / 100}).value == pytest.approx(both[0])
    assert ev.quantile_loss(r, {0.25: p / 100, 0.75: p / 50}).value == pytest.approx(np.mean(both))


def test_rank_ic_is_spearmans_correlation() -> None:
    p, r = forecasts()
    assert ev.rank_ic(p.round(2), r).value == pytest.approx(stats.spearmanr(p.round(2), r).statistic)


def test_calibration_line_is_the_maximum_likelihood_fit() -> None:
    import statsmodels.api as sm

    p, r = forecasts(skill=0.5)
    design = np.column_stack([np.log(p / (1 - p)), np.ones(len(p))])
    fit = sm.Logit((r > 0).astype(float), design).fit(disp=False)
    assert ev.calibration_line(p, r) == pytest.approx(tuple(fit.params), abs=1e-6)


def test_calibration_error_by_hand() -> None:
    p = np.array([0.1, 0.2, 0.6, 0.8])
    r = np.array([-1.0, 1.0, 1.0, 1.0])
    # Bins of two: |0.5 - 0.15| and |1 - 0.7|, each half of the rows.
    assert ev.calibration_error(p, r, bins=2) == pytest.approx(0.5 * 0.35 + 0.5 * 0.3)


def test_accuracy_at_confidence_takes_the_rows_furthest_from_a_half() -> None:
    p = np.array([0.51, 0.9, 0.2, 0.49])
    r = np.array([-1.0, 1.0, -1.0, 1.0])
    assert ev.accuracy_at_confidence(p, r, 0.5) == ev.share([True, True])
    assert ev.accuracy_at_confidence(p, r, 1.0).value == 0.5
    assert ev.accuracy_at_confidence(np.full(10, 0.7), np.ones(10), 0.1).n == 1


def test_every_move_belongs_to_one_class_and_the_classes_add_up() -> None:
    p, r = forecasts()
    r[:3] = 0.0, 5e-4, 50e-4
    by_move = ev.accuracy_by_move(p, r)
    assert sum(found.n for found in by_move.values()) == len(p)
    weighted = sum(found.n * found.value for found in by_move.values() if found.value is not None)
    assert weighted / len(p) == pytest.approx(ev.accuracy(p, r))


def test_return_weighted_accuracy_counts_the_large_moves() -> None:
    assert ev.return_weighted_accuracy([0.6, 0.6], [0.03, -0.01]).value == pytest.approx(0.75)


def test_the_causal_base_rate_knows_only_closed_windows() -> None:
    r = np.array([1.0, 1.0, -1.0, 1.0, 1.0])
    assert ev.causal_base_rate(r, horizon=1) == pytest.approx([1 / 2, 2 / 3, 3 / 4, 3 / 5, 4 / 6])
    assert ev.causal_base_rate(r, horizon=4) == pytest.approx([1 / 2, 1 / 2, 1 / 2, 1 / 2, 2 / 3])


@pytest.mark.parametrize("horizon", [1, 4, 24])
def test_poisoning_what_is_not_yet_known_changes_no_causal_rival(horizon: int) -> None:
    _, r = forecasts(200)
    signal = np.sign(np.random.default_rng(1).normal(size=200))
    poisoned = r.copy()
    poisoned[100:] = -poisoned[100:]
    for rival in (ev.causal_base_rate, lambda x, horizon: ev.causal_persistence(signal, x, horizon=horizon)):
        before, after = rival(r, horizon=horizon), rival(poisoned, horizon=horizon)
        assert np.array_equal(before[: 100 + horizon], after[: 100 + horizon])
        assert not np.array_equal(before, after)


# --- laws ----------------------------------------------------------------------------------------
@given(small_samples())
def test_auc_does_not_change_under_a_monotone_transform(sample: tuple[np.ndarray, np.ndarray]) -> None:
    p, r = sample
    assert ev.auc(p, r) == ev.auc(np.exp(3 * p), r)


@given(small_samples())
def test_auc_of_the_reversed_forecast_is_its_complement(sample: tuple[np.ndarray, np.ndarray]) -> None:
    p, r = sample
    area = ev.auc(p, r)
    if area is not None:
        assert ev.auc(1 - p, r) == pytest.approx(1 - area)


@given(small_samples())
def test_the_base_rate_itself_has_no_skill(sample: tuple[np.ndarray, np.ndarray]) -> None:
    _, r = sample
    rate = float((r > 0).mean())
    found = ev.log_loss_skill(np.full(len(r), rate), r)
    assert found is None or found == pytest.approx(0, abs=1e-9)


METRICS: list[Callable[[np.ndarray, np.ndarray], ev.Estimate]] = [
    ev.directional_accuracy,
    ev.area_under_curve,
    ev.mean_log_loss,
    ev.skill_over_base_rate,
    ev.brier_score,
    ev.return_weighted_accuracy,
    ev.rank_ic,
    lambda p, r: ev.accuracy_at_confidence(p, r, 0.1),
    lambda p, r: ev.calibration_error_estimate(p, r, seed=SEED),
    lambda p, r: ev.quantile_loss(r, {0.5: p}),
    lambda p, r: ev.interval_coverage(r, -p, p),
    lambda p, r: ev.interval_width(r - p, r + p),
]


@pytest.mark.parametrize("metric", METRICS)
@settings(max_examples=40)
@given(sample=small_samples(), horizon=st.sampled_from([1, 24]))
def test_a_metric_is_within_its_interval_and_never_nan(
    metric: Callable[..., ev.Estimate], sample: tuple[np.ndarray, np.ndarray], horizon: int
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
def test_no_rows_give_null_and_no_crash(metric: Callable[..., ev.Estimate], rows: list[float]) -> None:
    assert metric(np.array(rows), np.array(rows)) == ev.Estimate(None, None, None, 0)


def test_rows_that_are_not_known_are_left_out() -> None:
    p, r = forecasts(100)
    holed = np.concatenate([p, [np.nan, 0.9]]), np.concatenate([r, [0.1, np.nan]])
    for metric in METRICS[:7]:
        assert metric(*holed) == metric(p, r)


def test_columns_of_unequal_length_are_refused() -> None:
    with pytest.raises(ValueError, match="equally long"):
        ev.accuracy([0.5], [0.1, 0.2])


def test_a_perfect_quantile_forecast_covers_what_it_says() -> None:
    r = np.random.default_rng(SEED).normal(0, 0.005, 20_000)
    for level in (0.5, 0.9):
        half = stats.norm.ppf(0.5 + level / 2) * 0.005
        found = ev.interval_coverage(r, np.full(len(r), -half), np.full(len(r), half))
        assert found.lower is not None
        assert found.upper is not None
        assert found.lower - 0.005 < level < found.upper + 0.005


def test_no_constant_beats_the_true_quantile() -> None:
    r = np.random.default_rng(SEED).normal(0, 0.005, 20_000)
    true = stats.norm.ppf(0.05) * 0.005
    losses = [ev.quantile_loss(r, {0.05: np.full(len(r), true * factor)}).value for factor in (0.7, 1.0, 1.3)]
    assert losses[1] == min(losses)


# --- intervals ---------------------------------------------------------------------------------
def test_a_share_of_independent_rows_has_wilsons_interval() -> None:
    from statsmodels.stats.proportion import proportion_confint

    for hits in (0, 9):  # without variation there is nothing to correct for
        found = ev.share(np.arange(9) < hits)
        assert (found.lower, found.upper) == pytest.approx(proportion_confint(hits, 9, method="wilson"), abs=1e-12)


def test_the_variance_of_a_mean_is_statsmodels_hac() -> None:
    import statsmodels.api as sm

    x = np.random.default_rng(SEED).normal(size=500).cumsum()
    for lags in (0, 3, 23):
        fit = sm.OLS(x, np.ones(500)).fit(cov_type="HAC", cov_kwds={"maxlags": lags})
        assert ev.hac_variance_of_mean(x, lags=lags) == pytest.approx(fit.bse[0] ** 2)


def test_the_interval_of_auc_is_delongs_when_rows_are_independent() -> None:
    p, r = forecasts(2000)
    up = r > 0
    wins = (p[up][:, None] > p[~up][None, :]) + 0.5 * (p[up][:, None] == p[~up][None, :])
    delong = wins.mean(1).var(ddof=1) / up.sum() + wins.mean(0).var(ddof=1) / (~up).sum()
    found = ev.area_under_curve(p, r)
    assert found.lower is not None
    assert found.upper is not None
    assert (found.upper - found.lower) / (2 * 1.96) == pytest.approx(math.sqrt(delong), rel=0.15)


@pytest.mark.parametrize(
    ("metric", "truth"),
    [
        (ev.directional_accuracy, lambda p: np.where(p > 0.5, p, 1 - p).mean()),
        (ev.brier_score, lambda p: (p * (1 - p)).mean()),
        (ev.mean_log_loss, lambda p: -(p * np.log(p) + (1 - p) * np.log(1 - p)).mean()),
    ],
)
def test_95_of_100_intervals_hold_the_truth(metric: Callable[..., ev.Estimate], truth: Callable[..., float]) -> None:
    wanted = truth(np.random.default_rng(0).beta(20, 20, 1_000_000))
    found = [metric(*forecasts(1500, seed=seed)) for seed in range(300)]
    held = sum(one.lower <= wanted <= one.upper for one in found)
    assert 0.90 <= held / 300 <= 0.985


def test_overlapping_windows_widen_the_interval() -> None:
    rng = np.random.default_rng(SEED)
    hourly = rng.normal(0, 0.005, 5023)
    daily = np.convolve(hourly, np.ones(24), "valid")
    p = np.full(len(daily), 0.6)
    overlapping, naive = (ev.directional_accuracy(p, daily, horizon=24), ev.directional_accuracy(p, hourly[:5000]))
    width = [found.upper - found.lower for found in (overlapping, naive)]
    assert width[0] > 3 * width[1]


# --- strategies --------------------------------------------------------------------------------
def test_without_costs_or_delay_a_strategy_earns_the_sum_of_signed_returns() -> None:
    p, r = forecasts(500)
    found = ev.strategy(ev.sign_signal(p), r)
    assert found.total_return().value == pytest.approx((np.sign(p - 0.5) * r).sum())


@settings(max_examples=30, deadline=None)
@given(horizon=st.sampled_from([1, 4, 24]), seed=st.integers(0, 99))
def test_overlapping_tranches_earn_the_mean_of_the_signed_window_returns(horizon: int, seed: int) -> None:
    p, hourly = forecasts(200 + horizon - 1, seed=seed)
    window = np.convolve(hourly, np.ones(horizon), "valid")
    signal = ev.sign_signal(p)
    signal[200:] = 0
    found = ev.strategy(signal, hourly, horizon=horizon)
    assert found.total_return().value == pytest.approx((signal[:200] * window).sum() / horizon)
    assert np.abs(found.position).max() <= 1


def test_a_strategy_against_a_loop() -> None:
    p, hourly = forecasts(60)
    signal, horizon, fee, lag = ev.sign_signal(p), 4, 5.0, 1
    held, total, hours = 0.0, 0.0, []
    for hour in range(60):
        sources = [hour - lag - k for k in range(horizon)]
        position = sum(signal[source] for source in sources if source >= 0) / horizon
        net = position * hourly[hour] - abs(position - held) * fee / 1e4
        if hour == 59:
            net -= abs(position) * fee / 1e4
        held, total = position, total + net
        hours.append(net)
    found = ev.strategy(signal, hourly, horizon=horizon, fee_bps=fee, lag=lag)
    assert found.net == pytest.approx(np.array(hours))
    equity = np.concatenate([[0], np.cumsum(hours)])
    deepest = max(equity[i] - equity[j] for i in range(61) for j in range(i, 61))
    assert found.max_drawdown().value == pytest.approx(deepest)
    assert found.total_return().value == pytest.approx(total)
    assert found.annual_return().value == pytest.approx(total / 60 * 8760)
    assert found.sharpe().value == pytest.approx(np.mean(hours) / np.std(hours) * math.sqrt(8760))
    assert found.win_rate().value == pytest.approx(np.mean(np.array(hours)[found.position != 0] > 0))


def test_a_later_trade_cannot_use_the_hour_it_missed() -> None:
    _, r = forecasts(300)
    foresight = np.sign(r)
    at_once, late = ev.strategy(foresight, r), ev.strategy(foresight, r, lag=1)
    assert at_once.total_return().value == pytest.approx(np.abs(r).sum())
    assert late.gross[1:] == pytest.approx(foresight[:-1] * r[1:])


@given(fee=st.floats(0, 50))
def test_costs_are_what_was_traded_times_the_fee(fee: float) -> None:
    p, r = forecasts(100)
    free = ev.strategy(ev.sign_signal(p), r)
    assert (free.net - free.at(fee).net).sum() == pytest.approx(free.traded.sum() * fee / 1e4, abs=1e-12)


def test_buying_and_holding_trades_twice() -> None:
    found = ev.strategy(np.ones(50), np.full(50, 0.001), fee_bps=5)
    assert found.traded.sum() == 2
    assert found.total_return().value == pytest.approx(50 * 0.001 - 2 * 5e-4)


def test_a_gap_earns_nothing_and_persistence_does_not_look_across_it() -> None:
    r = np.array([0.01, np.nan, 0.02, 0.03, -0.1])
    assert ev.strategy(np.ones(5), r).gross == pytest.approx([0.01, 0, 0.02, 0.03, -0.1])
    assert list(ev.persistence_signal(r)) == [0, 1, 0, 1, 1]
    assert list(ev.persistence_signal(r, horizon=2)) == [0, 0, 0, 0, 1]


@given(st.lists(st.floats(-1, 1).map(lambda x: round(x, 3)), min_size=4, max_size=30, unique=True))
def test_a_perfect_rank_correlation_is_one_and_no_more(values: list[float]) -> None:
    found = ev.rank_ic(np.linspace(0.1, 0.9, len(values)), np.sort(values))
    assert found.value == pytest.approx(1)
    assert found.value <= found.upper <= 1


@pytest.mark.parametrize("n", [0, 1, 2])
def test_a_strategy_of_no_hours_has_no_metrics(n: int) -> None:
    found = ev.strategy(np.zeros(n), np.zeros(n), horizon=24, fee_bps=5, lag=1)
    assert found.sharpe().value is None
    assert found.win_rate().value is None
    assert (found.total_return().value is None) == (n == 0)


def test_the_sharpe_interval_holds_the_truth() -> None:
    rng = np.random.default_rng(SEED)
    held = 0
    for _ in range(200):
        found = ev.strategy(np.ones(1000), rng.normal(0.0005, 0.01, 1000)).sharpe()
        held += found.lower <= 0.05 * math.sqrt(8760) <= found.upper
    assert 0.88 <= held / 200 <= 0.99


def test_the_deflated_sharpe_of_one_trial_is_the_probabilistic_sharpe() -> None:
    r = np.random.default_rng(SEED).normal(0.0005, 0.01, 2000)
    ratio = r.mean() / r.std(ddof=1)
    moments = 1 - stats.skew(r) * ratio + (stats.kurtosis(r, fisher=False) - 1) / 4 * ratio**2
    wanted = stats.norm.cdf(ratio * math.sqrt(1999) / math.sqrt(moments))
    assert ev.deflated_sharpe(r, [ratio]) == pytest.approx(wanted)


def test_the_deflated_sharpe_falls_with_the_number_of_trials() -> None:
    rng = np.random.default_rng(SEED)
    r = rng.normal(0.0005, 0.01, 2000)
    trials = list(rng.normal(0, 0.02, 100))
    found = [ev.deflated_sharpe(r, trials[:count]) for count in (2, 10, 100)]
    assert found[0] > found[2]
    assert ev.deflated_sharpe(np.zeros(10), [0.0]) is None


def test_the_best_of_many_lucky_strategies_is_not_called_skilled() -> None:
    rng = np.random.default_rng(SEED)
    called = 0
    for _ in range(60):
        trials = rng.normal(0, 0.01, (50, 500))
        ratios = trials.mean(1) / trials.std(1, ddof=1)
        called += ev.deflated_sharpe(trials[ratios.argmax()], list(ratios)) > 0.95
    assert called <= 6  # the plain 95 % test would call nearly every one


# --- significance --------------------------------------------------------------------------------
def test_pesaran_timmermann_by_its_formula() -> None:
    p, r = forecasts(800)
    x, y = (p > 0.5).mean(), (r > 0).mean()
    hit, chance = ((p > 0.5) == (r > 0)).mean(), x * y + (1 - x) * (1 - y)
    spread = chance * (1 - chance) / 800
    spread -= ((2 * y - 1) ** 2 * x * (1 - x) + (2 * x - 1) ** 2 * y * (1 - y)) / 800
    found = ev.pesaran_timmermann(p, r)
    assert found.effect == pytest.approx(hit - chance)
    assert found.statistic == pytest.approx((hit - chance) / math.sqrt(spread), rel=0.01)


def test_pesaran_timmermann_is_uniform_without_skill_and_small_with_it() -> None:
    empty = [ev.pesaran_timmermann(*forecasts(1000, skill=0, seed=seed)).p_value for seed in range(300)]
    assert stats.kstest(empty, "uniform").pvalue > 0.01
    skilled = [ev.pesaran_timmermann(*forecasts(3000, seed=seed)).p_value for seed in range(20)]
    assert max(skilled) < 0.01


def test_calling_one_direction_only_proves_nothing() -> None:
    _, r = forecasts(100)
    assert ev.pesaran_timmermann(np.full(100, 0.7), r).p_value is None


def test_a_forecast_does_not_differ_from_itself() -> None:
    losses = np.random.default_rng(SEED).random(100)
    found = ev.diebold_mariano(losses, losses)
    assert (found.value, found.statistic(), found.p_value(), found.interval()) == (0.0, None, 1.0, (0.0, 0.0))


def test_losses_that_always_differ_by_the_same_say_nothing_of_chance() -> None:
    found = ev.diebold_mariano(np.full(50, 0.1), np.zeros(50))
    assert found.value == pytest.approx(0.1)
    assert found.p_value() is None


@given(st.integers(0, 10_000), st.floats(0, 0.9), st.floats(-0.3, 0.3), st.sampled_from([1, 4, 24]))
@settings(max_examples=30, deadline=None)
def test_diebold_mariano_equals_statsmodels_at_the_lags_the_data_ask_for(
    seed: int, memory: float, shift: float, horizon: int
) -> None:
    difference = autocorrelated(300, memory, seed) + shift
    found = ev.diebold_mariano(difference, np.zeros(300), horizon=horizon)
    theirs = diebold_mariano_test(
        np.zeros(300),
        difference,
        np.zeros(300),
        lags=found.lags,
        criterion=lambda _, loss: loss,
        harvey_adj=True,
        horizon=found.lags + 1,
    )
    assert found.lags >= horizon - 1
    assert found.statistic() == pytest.approx(float(theirs.statistic))
    assert found.p_value() == pytest.approx(float(theirs.pvalue))
    low, high = found.interval()
    assert low is not None
    assert high is not None
    assert (low > 0 or high < 0) == (theirs.pvalue < 0.05)


def autocorrelated(n: int, memory: float, seed: int) -> ev.Floats:
    """Return a first-order autoregression of n rows."""
    rows = np.random.default_rng(seed).normal(size=n)
    for i in range(1, n):
        rows[i] += memory * rows[i - 1]
    return rows


def test_memory_asks_for_lags() -> None:
    short, long = (ev.diebold_mariano(autocorrelated(2000, memory, 1), np.zeros(2000)) for memory in (0.0, 0.9))
    assert long.lags > short.lags


def test_one_sided_p_values_are_about_the_given_difference() -> None:
    rng = np.random.default_rng(SEED)
    ours, theirs = rng.random(500) + 0.1, rng.random(500)
    found = ev.diebold_mariano(ours, theirs)
    above, below = found.p_above(), found.p_below()
    assert above is not None
    assert below is not None
    assert above < 0.001
    assert above + below == pytest.approx(1)
    assert found.value is not None
    assert found.p_above(found.value) == pytest.approx(0.5)
    assert (found.p_above(0.3) or 0) > 0.99


@pytest.mark.parametrize("n", [0, 1, 2, 4])
def test_diebold_mariano_of_too_few_rows_says_nothing(n: int) -> None:
    assert ev.diebold_mariano(np.zeros(n), np.arange(n), horizon=4).p_value() is None


@pytest.mark.parametrize("memory", [0.0, 0.2])
def test_diebold_mariano_rejects_a_true_null_as_often_as_it_says(memory: float) -> None:
    """Four weeks of hours; what real models show is within these (`python -m benchmarks.significance`)."""
    draws = [ev.diebold_mariano(autocorrelated(672, memory, seed), np.zeros(672)).p_above() for seed in range(1000)]
    assert np.mean([p is not None and p < 0.05 for p in draws]) == pytest.approx(0.05, abs=0.02)


def test_paired_folds_give_the_t_test_and_cohens_d() -> None:
    a, b = np.array([0.69, 0.68, 0.70]), np.array([0.70, 0.70, 0.705])
    found = ev.paired_folds(a, b)
    wanted = stats.ttest_1samp(a - b, 0)
    assert (found.statistic, found.p_value) == pytest.approx((wanted.statistic, wanted.pvalue))
    assert found.effect == pytest.approx((a - b).mean() / (a - b).std(ddof=1))
    assert ev.paired_folds([0.1], [0.2]).p_value is None


def test_superior_ability_sees_a_better_rival_and_not_an_equal_one() -> None:
    rng = np.random.default_rng(SEED)
    benchmark = rng.random(400)
    better, equal = benchmark - 0.1 + rng.normal(0, 0.1, 400), rng.random((400, 2))
    assert ev.superior_ability(benchmark, np.column_stack([better, equal]), block=5, seed=1) < 0.01
    assert ev.superior_ability(benchmark, benchmark[:, None] + rng.random((400, 1)), block=5, seed=1) >= 0.5
    assert ev.superior_ability(benchmark, benchmark[:, None], block=5, seed=1) is None


def test_the_confidence_set_drops_the_worst_and_is_reproducible() -> None:
    rng = np.random.default_rng(SEED)
    losses = {"good": rng.random(300), "as good": rng.random(300), "bad": rng.random(300) + 0.5}
    found = ev.model_confidence_set(losses, block=5, seed=1)
    assert found["bad"] < 0.1 < min(found["good"], found["as good"])
    assert found == ev.model_confidence_set(losses, block=5, seed=1)
    assert ev.model_confidence_set({"a": losses["good"], "b": losses["good"]}, block=5, seed=1) == {}
