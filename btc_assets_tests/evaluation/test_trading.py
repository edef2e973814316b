"""Strategies equal a loop and closed forms; Sharpe ratios have the right intervals."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from btc_assets.evaluation import trading
from btc_assets_tests.evaluation.builders import SEED, forecasts


def test_without_costs_or_delay_a_strategy_earns_the_sum_of_signed_returns() -> None:
    p, r = forecasts(500)
    found = trading.strategy(trading.sign_signal(p), r)
    assert found.total_return().value == pytest.approx((np.sign(p - 0.5) * r).sum())


@settings(max_examples=30, deadline=None)
@given(horizon=st.sampled_from([60, 240, 1440]), seed=st.integers(0, 99))
def test_overlapping_tranches_earn_the_mean_of_the_signed_window_returns(horizon: int, seed: int) -> None:
    p, hourly = forecasts(200 + horizon // 60 - 1, seed=seed)
    window = np.convolve(hourly, np.ones(horizon // 60), "valid")
    signal = trading.sign_signal(p)
    signal[200:] = 0
    found = trading.strategy(signal, hourly, horizon=horizon)
    assert found.total_return().value == pytest.approx((signal[:200] * window).sum() / (horizon // 60))
    assert np.abs(found.position).max() <= 1


def test_a_strategy_equals_a_loop() -> None:
    p, hourly = forecasts(60)
    signal, tranches, fee, lag = trading.sign_signal(p), 4, 5.0, 1
    held, total, hours = 0.0, 0.0, []
    for hour in range(60):
        sources = [hour - lag - k for k in range(tranches)]
        position = sum(signal[source] for source in sources if source >= 0) / tranches
        net = position * hourly[hour] - abs(position - held) * fee / 1e4
        if hour == 59:
            net -= abs(position) * fee / 1e4
        held, total = position, total + net
        hours.append(net)
    found = trading.strategy(signal, hourly, horizon=60 * tranches, fee_bps=fee, lag=lag)
    assert found.net == pytest.approx(np.array(hours))
    equity = np.concatenate([[0], np.cumsum(hours)])
    deepest = max(equity[i] - equity[j] for i in range(61) for j in range(i, 61))
    assert found.max_drawdown().value == pytest.approx(deepest)
    assert found.total_return().value == pytest.approx(total)
    assert found.annual_return().value == pytest.approx(total / 60 * 8760)
    assert found.sharpe().value == pytest.approx(np.mean(hours) / np.std(hours) * math.sqrt(8760))
    assert found.win_rate().value == pytest.approx(np.mean(np.array(hours)[found.position != 0] > 0))


def test_a_delayed_trade_misses_the_first_hour() -> None:
    _, r = forecasts(300)
    foresight = np.sign(r)
    at_once, late = trading.strategy(foresight, r), trading.strategy(foresight, r, lag=1)
    assert at_once.total_return().value == pytest.approx(np.abs(r).sum())
    assert late.gross[1:] == pytest.approx(foresight[:-1] * r[1:])


@given(fee=st.floats(0, 50))
def test_costs_are_the_traded_amount_times_the_fee(fee: float) -> None:
    p, r = forecasts(100)
    free = trading.strategy(trading.sign_signal(p), r)
    assert (free.net - free.at(fee).net).sum() == pytest.approx(free.traded.sum() * fee / 1e4, abs=1e-12)


def test_buy_and_hold_trades_twice() -> None:
    found = trading.strategy(np.ones(50), np.full(50, 0.001), fee_bps=5)
    assert found.traded.sum() == 2
    assert found.total_return().value == pytest.approx(50 * 0.001 - 2 * 5e-4)


def test_a_gap_has_no_return_and_no_persistence_signal() -> None:
    r = np.array([0.01, np.nan, 0.02, 0.03, -0.1])
    assert trading.strategy(np.ones(5), r).gross == pytest.approx([0.01, 0, 0.02, 0.03, -0.1])
    assert list(trading.persistence_signal(r)) == [0, 1, 0, 1, 1]
    assert list(trading.persistence_signal(r, horizon=120)) == [0, 0, 0, 0, 1]


@pytest.mark.parametrize("n", [0, 1, 2])
def test_a_strategy_without_enough_hours_has_no_metrics(n: int) -> None:
    found = trading.strategy(np.zeros(n), np.zeros(n), horizon=1440, fee_bps=5, lag=1)
    assert found.sharpe().value is None
    assert found.win_rate().value is None
    assert (found.total_return().value is None) == (n == 0)


def test_sharpe_intervals_contain_the_true_value() -> None:
    rng = np.random.default_rng(SEED)
    held = 0
    for _ in range(200):
        found = trading.strategy(np.ones(1000), rng.normal(0.0005, 0.01, 1000)).sharpe()
        held += found.lower <= 0.05 * math.sqrt(8760) <= found.upper
    assert 0.88 <= held / 200 <= 0.99


def test_the_deflated_sharpe_of_one_trial_is_the_probabilistic_sharpe() -> None:
    from scipy import stats

    r = np.random.default_rng(SEED).normal(0.0005, 0.01, 2000)
    ratio = r.mean() / r.std(ddof=1)
    moments = 1 - stats.skew(r) * ratio + (stats.kurtosis(r, fisher=False) - 1) / 4 * ratio**2
    wanted = stats.norm.cdf(ratio * math.sqrt(1999) / math.sqrt(moments))
    assert trading.deflated_sharpe(r, [ratio]) == pytest.approx(wanted)


def test_the_deflated_sharpe_decreases_with_the_number_of_trials() -> None:
    rng = np.random.default_rng(SEED)
    r = rng.normal(0.0005, 0.01, 2000)
    trials = list(rng.normal(0, 0.02, 100))
    found = [trading.deflated_sharpe(r, trials[:count]) for count in (2, 10, 100)]
    assert found[0] > found[2] > trading.deflated_sharpe(r, trials, 1000)
    assert trading.deflated_sharpe(np.zeros(10), [0.0]) is None


def test_the_best_of_many_random_strategies_has_a_low_deflated_sharpe() -> None:
    rng = np.random.default_rng(SEED)
    called = 0
    for _ in range(60):
        trials = rng.normal(0, 0.01, (50, 500))
        ratios = trials.mean(1) / trials.std(1, ddof=1)
        called += trading.deflated_sharpe(trials[ratios.argmax()], list(ratios)) > 0.95
    assert called <= 6  # the plain 95 % test would call nearly every one
