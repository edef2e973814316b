"""Trading a forecast: hourly strategies, their costs and Sharpe ratios, and the luck of the best of many.

Pure functions on numpy arrays, one row an hour, oldest first. A measure that cannot be computed has the value None;
intervals are those of `metrics`.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from btc_assets.evaluation.metrics import Estimate, mean, share, standardised, with_interval
from btc_assets.evaluation.significance import Floats, finite_or_none, finite_rows

HOURS_PER_YEAR = 8760


@dataclass(frozen=True)
class Strategy:
    """What a rule earned, hour by hour, at a fixed notional of one.

    Gains are not reinvested, so they add: returns are log returns of the price times the position.

    Attributes:
        position: held over each hour, within [-1, 1], (n,).
        gross: position * log return of the hour, fraction, (n,).
        traded: |change of position|, (n,); the last hour also closes what is open.
        fee_bps: one-way cost in basis points of what is traded.
    """

    position: Floats
    gross: Floats
    traded: Floats
    fee_bps: float

    @property
    def net(self) -> Floats:
        """Return of each hour after costs, fraction, (n,)."""
        return self.gross - self.traded * self.fee_bps / 1e4

    def at(self, fee_bps: float) -> Strategy:
        """Return the same trades at another cost."""
        return Strategy(self.position, self.gross, self.traded, fee_bps)

    def total_return(self) -> Estimate:
        """Return the sum of the net returns, fraction."""
        return _scaled(mean(self.net), len(self.net))

    def annual_return(self) -> Estimate:
        """Return the net return of a year of 8,760 such hours, fraction."""
        return _scaled(mean(self.net), HOURS_PER_YEAR)

    def sharpe(self) -> Estimate:
        """Return the annualised Sharpe ratio of the hourly net returns, with Lo's interval (2002), HAC."""
        net = self.net
        if len(net) < 3 or net.std() < 1e-15:
            return Estimate(None, None, None, len(net))
        return _scaled(with_interval(*_sharpe_influence(net), 1), math.sqrt(HOURS_PER_YEAR))

    def max_drawdown(self) -> Estimate:
        """Return the deepest fall of the summed net return below its highest so far, fraction of the notional.

        The extreme of one path: it has no interval.
        """
        if not len(self.net):
            return Estimate(None, None, None, 0)
        equity = np.concatenate([[0.0], np.cumsum(self.net)])
        return Estimate(float((np.maximum.accumulate(equity) - equity).max()), None, None, len(self.net))

    def win_rate(self) -> Estimate:
        """Return the share of hours with a position that ended above zero after costs."""
        return share(self.net[self.position != 0] > 0)

    def turnover(self) -> Estimate:
        """Return what is traded an hour, in units of the notional; 2 is a full reversal every hour."""
        return mean(self.traded)


def strategy(
    signal: npt.ArrayLike, hourly_return: npt.ArrayLike, *, horizon: int = 1, fee_bps: float = 0.0, lag: int = 0
) -> Strategy:
    """Trade a signal on the hourly grid.

    A forecast over h hours overlaps the next h - 1. Each therefore moves 1/h of the notional and holds it
    for h hours: the position is the mean of the last h signals (Jegadeesh & Titman, 1993). With `lag` the
    trade is done that many bars after the forecast was made.

    Args:
        signal: +1 long, -1 short, 0 or NaN nothing; row i is known when hour i begins, (n,).
        hourly_return: log return over hour i, fraction; NaN (a gap) earns nothing, (n,).
        horizon: hours each signal is held.
        fee_bps: one-way cost, basis points.
        lag: bars between the forecast and the trade.
    """
    wanted = np.nan_to_num(np.asarray(signal, dtype=np.float64))
    earned = np.nan_to_num(np.asarray(hourly_return, dtype=np.float64))
    if wanted.shape != earned.shape or wanted.ndim != 1:
        raise ValueError(f"signal and returns must be equally long, got {wanted.shape} and {earned.shape}")
    n = len(wanted)
    delayed = np.concatenate([np.zeros(lag), wanted])[:n]
    held = np.concatenate([np.zeros(horizon), np.cumsum(delayed)])
    position = np.round((held[horizon:] - held[:-horizon]) / horizon, 12) if n else delayed
    traded = np.abs(np.diff(position, prepend=0.0))
    if n:
        traded[-1] += abs(position[-1])
    return Strategy(position, position * earned, traded, fee_bps)


def sharpe_difference(ours: Strategy, theirs: Strategy) -> Estimate:
    """Return how much higher one annualised Sharpe ratio is than another's over the same hours.

    One that never trades has a ratio of 0. The interval is that of a difference of paired ratios by the delta method,
    HAC.

    Source: O. Ledoit & M. Wolf (2008), Robust performance hypothesis testing with the Sharpe ratio.
    """
    returns = ours.net, theirs.net
    if len(returns[0]) != len(returns[1]):
        raise ValueError(f"the strategies trade {len(returns[0])} and {len(returns[1])} hours")
    if len(returns[0]) < 3:
        return Estimate(None, None, None, len(returns[0]))
    idle = 0.0, np.zeros_like(returns[0])
    ratios, influences = zip(*(_sharpe_influence(net) if net.std() > 1e-15 else idle for net in returns), strict=True)
    return _scaled(with_interval(ratios[0] - ratios[1], influences[0] - influences[1], 1), math.sqrt(HOURS_PER_YEAR))


def sign_signal(p_up: npt.ArrayLike) -> Floats:
    """Return +1 where p_up > 0.5, -1 where it is below, 0 where it is 0.5 or unknown, (n,)."""
    return np.nan_to_num(np.sign(np.asarray(p_up, dtype=np.float64) - 0.5))


def persistence_signal(hourly_return: npt.ArrayLike, *, horizon: int = 1) -> Floats:
    """Return the sign of the return over the last `horizon` hours known when each hour begins, (n,).

    0 where one of those hours is missing.
    """
    r = np.asarray(hourly_return, dtype=np.float64)
    summed = np.concatenate([[0.0], np.cumsum(np.nan_to_num(r))])
    missing = np.concatenate([[0], np.cumsum(np.isnan(r))])
    found = np.zeros(len(r))
    if len(r) > horizon:
        back = summed[horizon:-1] - summed[: -horizon - 1]
        whole = missing[horizon:-1] == missing[: -horizon - 1]
        found[horizon:] = np.where(whole & (np.abs(back) > 1e-15), np.sign(back), 0.0)
    return found


def deflated_sharpe(net: npt.ArrayLike, trial_sharpes: Sequence[float]) -> float | None:
    """Return the probability that a strategy's Sharpe ratio is above what luck gives the best of the trials.

    Bailey & Lopez de Prado (2014), "The deflated Sharpe ratio", equations 1 and 2, skewness and kurtosis
    of the returns included.

    Args:
        net: returns of the chosen strategy, one an hour, (n,).
        trial_sharpes: Sharpe ratios an hour (not annualised) of every strategy that was tried, it included.
    """
    from scipy.special import ndtr, ndtri

    (r,) = finite_rows(net)
    if len(r) < 3 or r.std() < 1e-15 or not len(trial_sharpes):
        return None
    ratio = float(r.mean() / r.std(ddof=1))
    score = (r - r.mean()) / r.std()
    trials, spread = len(trial_sharpes), float(np.std(trial_sharpes, ddof=1)) if len(trial_sharpes) > 1 else 0.0
    luck = 0.0
    if trials > 1:
        luck = spread * (
            (1 - np.euler_gamma) * ndtri(1 - 1 / trials) + np.euler_gamma * ndtri(1 - 1 / (trials * math.e))
        )
    variance = 1 - float((score**3).mean()) * ratio + (float((score**4).mean()) - 1) / 4 * ratio**2
    return finite_or_none(ndtr((ratio - luck) * math.sqrt(len(r) - 1) / math.sqrt(variance))) if variance > 0 else None


def _sharpe_influence(net: Floats) -> tuple[float, Floats]:
    """Return the Sharpe ratio of returns (n,) an hour, and the influence of each hour on it, (n,)."""
    score, ratio = standardised(net), float(net.mean() / net.std())
    return ratio, score - ratio / 2 * (score**2 - 1)


def _scaled(estimate: Estimate, factor: float) -> Estimate:
    """Multiply a metric and its interval by a positive factor."""
    if estimate.value is None:
        return estimate
    low, high = (None if end is None else end * factor for end in (estimate.lower, estimate.upper))
    return Estimate(estimate.value * factor, low, high, estimate.n)
