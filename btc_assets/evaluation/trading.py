"""Trading on forecasts: hourly strategies, their costs, Sharpe ratios and the deflated Sharpe ratio.

Pure functions on numpy arrays with one row per hour, oldest first. An undefined metric has the value None; intervals
are computed as in `metrics`.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from btc_assets.evaluation.metrics import Estimate, mean, share, standardised, with_interval
from btc_assets.evaluation.significance import Floats, finite_or_none, finite_rows
from btc_assets.vocabulary import PRIMARY, hours_spanned

HOURS_PER_YEAR = 8760
FEES_BPS = (0.0, 2.0, 5.0, 10.0)
"""One-way costs at which strategies are reported, basis points."""


@dataclass(frozen=True)
class Strategy:
    """The hourly returns of a trading rule with a fixed notional of one.

    Gains are not reinvested, so returns are additive: the log return of the price times the position.

    Attributes:
        position: position in each hour, within [-1, 1], (n,).
        gross: position * log return of the hour, fraction, (n,).
        traded: |change of position|, (n,); the last hour also closes the position.
        fee_bps: one-way cost in basis points of the traded amount.
    """

    position: Floats
    gross: Floats
    traded: Floats
    fee_bps: float

    @property
    def net(self) -> Floats:
        """Net return of each hour, fraction, (n,)."""
        return self.gross - self.traded * self.fee_bps / 1e4

    def at(self, fee_bps: float) -> Strategy:
        """Return the same strategy with another cost."""
        return Strategy(self.position, self.gross, self.traded, fee_bps)

    def total_return(self) -> Estimate:
        """Return the sum of the net returns, fraction."""
        return _scaled(mean(self.net), len(self.net))

    def annual_return(self) -> Estimate:
        """Return the annualised net return (8,760 hours), fraction."""
        return _scaled(mean(self.net), HOURS_PER_YEAR)

    def sharpe(self) -> Estimate:
        """Return the annualised Sharpe ratio of the hourly net returns with Lo's HAC interval (2002)."""
        net = self.net
        if len(net) < 3 or net.std() < 1e-15:
            return Estimate(None, None, None, len(net))
        return _scaled(with_interval(*_sharpe_influence(net), PRIMARY), math.sqrt(HOURS_PER_YEAR))

    def max_drawdown(self) -> Estimate:
        """Return the maximum drawdown of the cumulative net return, fraction of the notional.

        It has no interval, as it is the extreme of a single path.
        """
        if not len(self.net):
            return Estimate(None, None, None, 0)
        equity = np.concatenate([[0.0], np.cumsum(self.net)])
        return Estimate(float((np.maximum.accumulate(equity) - equity).max()), None, None, len(self.net))

    def win_rate(self) -> Estimate:
        """Return the share of hours with a position whose net return is positive."""
        return share(self.net[self.position != 0] > 0)

    def turnover(self) -> Estimate:
        """Return the mean traded amount per hour in units of the notional; 2 is a full reversal every hour."""
        return mean(self.traded)


def strategy(
    signal: npt.ArrayLike, hourly_return: npt.ArrayLike, *, horizon: int = PRIMARY, fee_bps: float = 0.0, lag: int = 0
) -> Strategy:
    """Trade a signal on the hourly grid.

    A forecast over h hours overlaps the next h - 1 forecasts. Each forecast therefore trades 1/h of the notional for h
    hours: the position is the mean of the last h signals (Jegadeesh & Titman, 1993). With `lag`, the trade is executed
    that many bars after the forecast.

    Args:
        signal: +1 long, -1 short, 0 or NaN no position; row i is known at the start of hour i, (n,).
        hourly_return: log return over hour i, fraction; NaN (a gap) counts as 0, (n,).
        horizon: minutes for which each signal is held, rounded up to hours.
        fee_bps: one-way cost, basis points.
        lag: bars between the forecast and the trade.
    """
    signals = np.nan_to_num(np.asarray(signal, dtype=np.float64))
    returns = np.nan_to_num(np.asarray(hourly_return, dtype=np.float64))
    if signals.shape != returns.shape or signals.ndim != 1:
        raise ValueError(f"signal and returns must be equally long, got {signals.shape} and {returns.shape}")
    n = len(signals)
    delayed = np.concatenate([np.zeros(lag), signals])[:n]
    span = hours_spanned(horizon)
    cumulative = np.concatenate([np.zeros(span), np.cumsum(delayed)])
    position = np.round((cumulative[span:] - cumulative[:-span]) / span, 12) if n else delayed
    traded = np.abs(np.diff(position, prepend=0.0))
    if n:
        traded[-1] += abs(position[-1])
    return Strategy(position, position * returns, traded, fee_bps)


def sharpe_difference(ours: Strategy, theirs: Strategy) -> Estimate:
    """Return the difference of two annualised Sharpe ratios over the same hours.

    A strategy that never trades has a ratio of 0. The interval is that of a difference of paired ratios (delta method,
    HAC).

    Source: O. Ledoit & M. Wolf (2008), Robust performance hypothesis testing with the Sharpe ratio.
    """
    returns = ours.net, theirs.net
    if len(returns[0]) != len(returns[1]):
        raise ValueError(f"the strategies trade {len(returns[0])} and {len(returns[1])} hours")
    if len(returns[0]) < 3:
        return Estimate(None, None, None, len(returns[0]))
    idle = 0.0, np.zeros_like(returns[0])
    ratios, influences = zip(*(_sharpe_influence(net) if net.std() > 1e-15 else idle for net in returns), strict=True)
    difference = with_interval(ratios[0] - ratios[1], influences[0] - influences[1], PRIMARY)
    return _scaled(difference, math.sqrt(HOURS_PER_YEAR))


def sign_signal(p_up: npt.ArrayLike) -> Floats:
    """Return +1 for p_up > 0.5, -1 for p_up < 0.5, and 0 for 0.5 or NaN, (n,)."""
    return np.nan_to_num(np.sign(np.asarray(p_up, dtype=np.float64) - 0.5))


def persistence_signal(hourly_return: npt.ArrayLike, *, horizon: int = PRIMARY) -> Floats:
    """Return the sign of the return over the `horizon` minutes before each hour, (n,).

    It is 0 if one of those hours is missing. Part of an hour counts as the hour.
    """
    r = np.asarray(hourly_return, dtype=np.float64)
    summed = np.concatenate([[0.0], np.cumsum(np.nan_to_num(r))])
    missing = np.concatenate([[0], np.cumsum(np.isnan(r))])
    signal, span = np.zeros(len(r)), hours_spanned(horizon)
    if len(r) > span:
        back = summed[span:-1] - summed[: -span - 1]
        complete = missing[span:-1] == missing[: -span - 1]
        signal[span:] = np.where(complete & (np.abs(back) > 1e-15), np.sign(back), 0.0)
    return signal


def distinct_sharpes(nets: Iterable[Floats]) -> list[float]:
    """Return the hourly Sharpe ratio, not annualised, of each distinct series of net returns that varies.

    Args:
        nets: hourly net returns of the trials, (n,) each.
    """
    distinct = {net.tobytes(): net for net in nets}
    return [float(net.mean() / net.std(ddof=1)) for net in distinct.values() if len(net) > 1 and net.std() > 1e-15]


def deflated_sharpe(net: npt.ArrayLike, trial_sharpes: Sequence[float], tried: int | None = None) -> float | None:
    """Return the probability that a strategy's Sharpe ratio exceeds the expected maximum of the trials under chance.

    Bailey & Lopez de Prado (2014), "The deflated Sharpe ratio", equations 1 and 2, with skewness and kurtosis of the
    returns.

    Args:
        net: hourly net returns of the selected strategy, (n,).
        trial_sharpes: hourly Sharpe ratios (not annualised) of trials, including the selected strategy; their spread
            is that of all trials.
        tried: number of all trials, if more than these.
    """
    from scipy.special import ndtr, ndtri

    (r,) = finite_rows(net)
    if len(r) < 3 or r.std() < 1e-15 or not len(trial_sharpes):
        return None
    ratio = float(r.mean() / r.std(ddof=1))
    score = (r - r.mean()) / r.std()
    trials, spread = (
        tried or len(trial_sharpes),
        float(np.std(trial_sharpes, ddof=1)) if len(trial_sharpes) > 1 else 0.0,
    )
    expected_maximum = 0.0
    if trials > 1:
        expected_maximum = spread * (
            (1 - np.euler_gamma) * ndtri(1 - 1 / trials) + np.euler_gamma * ndtri(1 - 1 / (trials * math.e))
        )
    variance = 1 - float((score**3).mean()) * ratio + (float((score**4).mean()) - 1) / 4 * ratio**2
    if variance <= 0:
        return None
    return finite_or_none(ndtr((ratio - expected_maximum) * math.sqrt(len(r) - 1) / math.sqrt(variance)))


def _sharpe_influence(net: Floats) -> tuple[float, Floats]:
    """Return the hourly Sharpe ratio of returns (n,) and the influence of each hour, (n,)."""
    score, ratio = standardised(net), float(net.mean() / net.std())
    return ratio, score - ratio / 2 * (score**2 - 1)


def _scaled(estimate: Estimate, factor: float) -> Estimate:
    """Return an estimate with value and interval multiplied by a positive factor."""
    if estimate.value is None:
        return estimate
    low, high = (None if end is None else end * factor for end in (estimate.lower, estimate.upper))
    return Estimate(estimate.value * factor, low, high, estimate.n)
