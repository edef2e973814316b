"""How forecasts are judged: point metrics, their 95 % intervals, strategies and tests of significance.

Pure functions on numpy arrays, used alike by folds, the gate and the performance report. A row is one
forecast, oldest first: `p_up` (n,) the probability of a rise, `log_return` (n,) what happened, fraction.
"Up" is `log_return > 0`; an unchanged price is not up. A forecast calls up when `p_up > 0.5`.

Rows with NaN in either array are left out. What cannot be computed (no rows, one class, a constant
series) has the value None, never NaN and never an exception.

Intervals follow one rule: the metric's influence values (delta method) with a Newey-West variance
(Newey & West, 1987), because neighbouring hours, and overlapping windows most of all, are not
independent. Lags: the larger of `horizon - 1` and n^(1/3). Shares use Wilson's interval (1927) at the
effective number of rows that variance implies, so that they stay within 0 and 1.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.float64]
Bools = npt.NDArray[np.bool_]

HOURS_PER_YEAR = 8760
CALIBRATION_BINS = 10
"""Bins of the calibration error; each holds the same number of forecasts."""
MOVE_EDGES_BPS = (0.0, 5.0, 10.0, 20.0, 50.0, math.inf)
"""Classes of |return| in basis points; a move belongs to the class whose upper edge it does not exceed."""
CONFIDENCE_SHARES = (0.5, 0.2, 0.1)
"""Shares of the forecasts furthest from 0.5 on which accuracy is also given."""

_Z95 = 1.959963984540054
_CERTAIN = 1e-15
_NOTHING = 1e-15
"""A difference smaller than this is none."""


@dataclass(frozen=True)
class Estimate:
    """A metric with its 95 % interval.

    Attributes:
        value: the metric; None when it cannot be computed.
        lower: lower end of the interval; None when it has none.
        upper: upper end.
        n: rows it rests on.
    """

    value: float | None
    lower: float | None
    upper: float | None
    n: int


# --- points: one number each ---------------------------------------------------------------------
def accuracy(p_up: npt.ArrayLike, log_return: npt.ArrayLike) -> float | None:
    """Return the share of rows whose direction was called right."""
    return directional_accuracy(p_up, log_return).value


def auc(p_up: npt.ArrayLike, log_return: npt.ArrayLike) -> float | None:
    """Return the area under the ROC curve: P(a rise had the higher p_up than a fall), ties count half."""
    return area_under_curve(p_up, log_return).value


def log_loss(p_up: npt.ArrayLike, log_return: npt.ArrayLike) -> float | None:
    """Return the mean negative log-likelihood, nats a row."""
    p, r = _rows(p_up, log_return)
    return _value(np.mean(log_losses(p, r > 0))) if len(p) else None


def log_losses(p_up: Floats, up: Bools) -> Floats:
    """Return each row's negative log-likelihood (n,), nats; p_up is kept 1e-15 away from 0 and 1."""
    p = np.clip(p_up, _CERTAIN, 1 - _CERTAIN)
    return -np.where(up, np.log(p), np.log1p(-p))


def log_loss_skill(p_up: npt.ArrayLike, log_return: npt.ArrayLike) -> float | None:
    """Return 1 - log-loss / log-loss of the base rate, fraction; 0 is no skill.

    The base rate is the share of rises in these very rows, which no forecaster could have known: the
    comparison is a little harsh, and the usual one. `causal_base_rate` gives the one that could be known.
    """
    return skill_over_base_rate(p_up, log_return).value


def brier(p_up: npt.ArrayLike, log_return: npt.ArrayLike) -> float | None:
    """Return the mean squared error of p_up (Brier, 1950)."""
    p, r = _rows(p_up, log_return)
    return _value(np.mean((p - (r > 0)) ** 2)) if len(p) else None


def calibration_error(p_up: npt.ArrayLike, log_return: npt.ArrayLike, bins: int = CALIBRATION_BINS) -> float | None:
    """Return the expected calibration error over equal-count bins of p_up.

    The mean over bins of |share of rises - mean p_up|, weighted by rows. Equal counts, because hourly
    probabilities crowd around 0.5 and equal widths would leave most bins empty. Under perfect calibration
    it is not 0 but about 0.8 * sqrt(bins * p (1 - p) / n).
    """
    p, r = _rows(p_up, log_return)
    if not len(p):
        return None
    return _value(np.abs(_calibration_gaps(p, r > 0, bins).sum(axis=0)).sum() / len(p))


def calibration_error_estimate(
    p_up: npt.ArrayLike, log_return: npt.ArrayLike, *, horizon: int = 1, seed: int, reps: int = 500
) -> Estimate:
    """Return the calibration error with a percentile interval of the circular block bootstrap.

    Blocks of max(24, horizon) rows (Politis & Romano, 1992). Resampling noise adds to an error that is near
    0, so the interval leans upwards.
    """
    p, r = _rows(p_up, log_return)
    n, block = len(p), max(24, horizon)
    point = calibration_error(p, r)
    if point is None or n < 4 * block:
        return Estimate(point, None, None, n)
    gaps = _calibration_gaps(p, r > 0, CALIBRATION_BINS)
    summed = np.cumsum(np.vstack([np.zeros((1, CALIBRATION_BINS)), gaps, gaps[:block]]), axis=0)
    sums = summed[block : n + block] - summed[:n]  # of the block that starts at each row
    starts = np.random.default_rng(seed).integers(0, n, (reps, n // block))
    drawn = np.abs(sums[starts].sum(axis=1)).sum(axis=1) / (n // block * block)
    low, high = np.quantile(drawn, [0.025, 0.975])
    return Estimate(point, float(min(low, point)), float(max(high, point)), n)


def calibration_line(p_up: npt.ArrayLike, log_return: npt.ArrayLike) -> tuple[float, float] | None:
    """Return (slope, intercept) of the logistic regression of "up" on the log-odds of p_up (Cox, 1958).

    (1, 0) is perfect; a slope below 1 is overconfidence. None when one class or one probability is all
    there is, or when the classes separate.
    """
    p, r = _rows(p_up, log_return)
    up = (r > 0).astype(float)
    x = np.log(np.clip(p, 1e-6, 1 - 1e-6)) - np.log1p(-np.clip(p, 1e-6, 1 - 1e-6))
    if len(p) < 3 or up.min() == up.max() or np.ptp(x) < 1e-9:
        return None
    design = np.column_stack([x, np.ones_like(x)])
    beta = np.array([1.0, 0.0])
    for _ in range(50):
        fitted = 1 / (1 + np.exp(-np.clip(design @ beta, -500, 500)))
        weight = np.maximum(fitted * (1 - fitted), 1e-12)
        try:
            step = np.linalg.solve(design.T @ (design * weight[:, None]), design.T @ (up - fitted))
        except np.linalg.LinAlgError:
            return None
        beta = beta + step
        if np.abs(beta).max() > 1e4:
            return None
        if np.abs(step).max() < 1e-10:
            return float(beta[0]), float(beta[1])
    return None


def coverage(log_return: npt.ArrayLike, low: npt.ArrayLike, high: npt.ArrayLike) -> float | None:
    """Return the share of outcomes within [low, high]."""
    return interval_coverage(log_return, low, high).value


# --- points with their intervals -----------------------------------------------------------------
def directional_accuracy(p_up: npt.ArrayLike, log_return: npt.ArrayLike, *, horizon: int = 1) -> Estimate:
    """Return the share of rows whose direction was called right; p_up of exactly 0.5 calls "not up"."""
    p, r = _rows(p_up, log_return)
    return share((p > 0.5) == (r > 0), horizon=horizon)


def area_under_curve(p_up: npt.ArrayLike, log_return: npt.ArrayLike, *, horizon: int = 1) -> Estimate:
    """Return the AUC with DeLong's interval (DeLong et al., 1988; midranks of Sun & Xu, 2014), HAC over rows."""
    p, r = _rows(p_up, log_return)
    up = r > 0
    m, k = int(up.sum()), int((~up).sum())
    if not m or not k:
        return Estimate(None, None, None, len(p))
    ranks = _midranks(p)
    placed = np.empty(len(p))  # DeLong's structural components: each row's share of the other class on its right side
    placed[up] = (ranks[up] - _midranks(p[up])) / k
    placed[~up] = 1 - (ranks[~up] - _midranks(p[~up])) / m
    area = float(placed[up].mean())
    influence = np.where(up, (placed - area) * (len(p) / m), (placed - area) * (len(p) / k))
    return _around(area, influence, horizon, within=(0.0, 1.0))


def mean_log_loss(p_up: npt.ArrayLike, log_return: npt.ArrayLike, *, horizon: int = 1) -> Estimate:
    """Return the log-loss, nats a row."""
    p, r = _rows(p_up, log_return)
    return mean(log_losses(p, r > 0), horizon=horizon)


def skill_over_base_rate(
    p_up: npt.ArrayLike, log_return: npt.ArrayLike, base_rate: npt.ArrayLike | None = None, *, horizon: int = 1
) -> Estimate:
    """Return 1 - log-loss / log-loss of a base rate, fraction.

    Args:
        p_up: forecasts, (n,).
        log_return: outcomes, (n,).
        base_rate: the rival's probabilities, (n,); by default the share of rises in these rows.
        horizon: hours ahead.
    """
    rival = np.full(np.shape(p_up), 0.0) if base_rate is None else np.asarray(base_rate, dtype=np.float64)
    p, r, rival = _rows(p_up, log_return, rival)
    up = r > 0
    if not len(p) or (base_rate is None and up.min() == up.max()):
        return Estimate(None, None, None, len(p))
    if base_rate is None:
        rival = np.full(len(p), up.mean())
    ours, theirs = log_losses(p, up), log_losses(rival, up)
    own, base = float(ours.mean()), float(theirs.mean())
    if base <= 0:
        return Estimate(None, None, None, len(p))
    influence = -(ours - own) / base + (theirs - base) * own / base**2
    return _around(1 - own / base, influence, horizon)


def brier_score(p_up: npt.ArrayLike, log_return: npt.ArrayLike, *, horizon: int = 1) -> Estimate:
    """Return the Brier score."""
    p, r = _rows(p_up, log_return)
    return mean((p - (r > 0)) ** 2, horizon=horizon)


def interval_coverage(
    log_return: npt.ArrayLike, low: npt.ArrayLike, high: npt.ArrayLike, *, horizon: int = 1
) -> Estimate:
    """Return the share of outcomes within [low, high]."""
    r, lower, upper = _rows(log_return, low, high)
    return share((lower <= r) & (r <= upper), horizon=horizon)


def interval_width(low: npt.ArrayLike, high: npt.ArrayLike, *, horizon: int = 1) -> Estimate:
    """Return the mean width of the intervals, in the unit given."""
    lower, upper = _rows(low, high)
    return mean(upper - lower, horizon=horizon)


def quantile_loss(log_return: npt.ArrayLike, quantiles: Mapping[float, npt.ArrayLike], *, horizon: int = 1) -> Estimate:
    """Return the pinball loss (Koenker & Bassett, 1978) averaged over rows and quantiles, in the unit of the returns.

    Args:
        log_return: outcomes, (n,).
        quantiles: forecast quantiles by level within (0, 1), (n,) each.
        horizon: hours ahead.
    """
    r, *forecast = _rows(log_return, *quantiles.values())
    losses = [np.maximum(level * (r - q), (level - 1) * (r - q)) for level, q in zip(quantiles, forecast, strict=True)]
    return mean(np.mean(losses, axis=0), horizon=horizon)


def accuracy_at_confidence(p_up: npt.ArrayLike, log_return: npt.ArrayLike, top: float, *, horizon: int = 1) -> Estimate:
    """Return accuracy on the `top` share of rows with the largest |p_up - 0.5|; ties go to the older row."""
    p, r = _rows(p_up, log_return)
    kept = math.ceil(round(top * len(p), 9))
    order = np.sort(np.argsort(-np.abs(p - 0.5), kind="stable")[:kept])
    return share((p[order] > 0.5) == (r[order] > 0), horizon=horizon)


def accuracy_by_move(
    p_up: npt.ArrayLike, log_return: npt.ArrayLike, *, horizon: int = 1
) -> dict[tuple[float, float], Estimate]:
    """Return accuracy in each class of |return|, keyed by its edges in basis points, lower < move <= upper.

    The first class holds the unchanged price as well.
    """
    p, r = _rows(p_up, log_return)
    moved, right = np.abs(r) * 1e4, (p > 0.5) == (r > 0)
    found = {}
    for low, high in pairwise(MOVE_EDGES_BPS):
        inside = (moved <= high) & ((moved > low) | (low == 0))
        found[(low, high)] = share(right[inside], horizon=horizon)
    return found


def return_weighted_accuracy(p_up: npt.ArrayLike, log_return: npt.ArrayLike, *, horizon: int = 1) -> Estimate:
    """Return the share of all movement |log_return| that lay in the direction called."""
    p, r = _rows(p_up, log_return)
    weight = np.abs(r)
    if not len(p) or weight.sum() == 0:
        return Estimate(None, None, None, len(p))
    right = (p > 0.5) == (r > 0)
    ratio = float((weight * right).sum() / weight.sum())
    return _around(ratio, weight * (right - ratio) / weight.mean(), horizon, within=(0.0, 1.0))


def rank_ic(p_up: npt.ArrayLike, log_return: npt.ArrayLike, *, horizon: int = 1) -> Estimate:
    """Return the rank information coefficient: Spearman's correlation of p_up and the return.

    The interval treats the ranks as the data (the influence values of Pearson's correlation).
    """
    p, r = _rows(p_up, log_return)
    if len(p) < 3 or np.ptp(p) == 0 or np.ptp(r) == 0:
        return Estimate(None, None, None, len(p))
    a, b = _standardised(_midranks(p)), _standardised(_midranks(r))
    correlation = float((a * b).mean())
    return _around(correlation, a * b - correlation * (a**2 + b**2) / 2, horizon, within=(-1.0, 1.0))


def causal_base_rate(log_return: npt.ArrayLike, *, horizon: int = 1) -> Floats:
    """Return, for each row, the share of rises among the outcomes known when it was forecast.

    Row i knows rows 0 .. i - horizon, one row an hour at most; one rise and one fall are assumed before
    the first (Laplace's rule), so the first rows say 0.5.
    """
    r = np.asarray(log_return, dtype=np.float64)
    known = np.isfinite(r)
    rises = np.concatenate([[0], np.cumsum(known & (r > 0))])
    counted = np.concatenate([[0], np.cumsum(known)])
    end = np.maximum(np.arange(len(r)) - horizon + 1, 0)
    return (rises[end] + 1) / (counted[end] + 2)


# --- strategies ------------------------------------------------------------------------------------
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
        return _scaled(_around(*_sharpe_influence(net), 1), math.sqrt(HOURS_PER_YEAR))

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
    return _scaled(_around(ratios[0] - ratios[1], influences[0] - influences[1], 1), math.sqrt(HOURS_PER_YEAR))


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

    (r,) = _rows(net)
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
    return _value(ndtr((ratio - luck) * math.sqrt(len(r) - 1) / math.sqrt(variance))) if variance > 0 else None


# --- significance -------------------------------------------------------------------------------------
@dataclass(frozen=True)
class Significance:
    """The outcome of a test.

    Attributes:
        statistic: None when the test says nothing (no rows, no variation).
        p_value: within [0, 1], or None.
        effect: size of the effect in the unit the test's docstring states, or None.
        n: rows, blocks or folds it rests on.
    """

    statistic: float | None
    p_value: float | None
    effect: float | None
    n: int


def pesaran_timmermann(p_up: npt.ArrayLike, log_return: npt.ArrayLike) -> Significance:
    """Test whether the directions called and the directions taken are independent (Pesaran & Timmermann, 1992).

    One-sided, statsmodels' implementation: a small p says that the calls are better than chance. Rows must not
    overlap: thin out horizons above one hour first. The effect is accuracy minus what independence gives.
    """
    from statsmodels.stats.diagnostic import pesaran_timmermann as test

    p, r = _rows(p_up, log_return)
    called, rose = p > 0.5, r > 0
    if len(p) < 2 or called.min() == called.max() or rose.min() == rose.max():
        return Significance(None, None, None, len(p))
    found = test(np.where(rose, 1.0, -1.0), np.where(called, 1.0, -1.0), alternative="larger")
    chance = called.mean() * rose.mean() + (1 - called.mean()) * (1 - rose.mean())
    excess = float((called == rose).mean() - chance)
    if not math.isfinite(found.statistic):
        return Significance(None, None, excess, len(p))
    return Significance(float(found.statistic), float(found.pvalue), excess, len(p))


@dataclass(frozen=True)
class LossDifference:
    """How much more one forecast loses than another on average, and how sure that is.

    Attributes:
        value: mean of the first's losses less the other's, in the unit of the losses; None without rows.
        standard_error: of that mean, HAC with the small-sample correction; None where it cannot be estimated.
        lags: Newey-West lags it rests on.
        n: rows.
    """

    value: float | None
    standard_error: float | None
    lags: int
    n: int

    def statistic(self, null: float = 0.0) -> float | None:
        """Return (value - null) / standard error; None where nothing varies."""
        if self.value is None or not self.standard_error:
            return None
        return (self.value - null) / self.standard_error

    def p_value(self, null: float = 0.0) -> float | None:
        """Return the two-sided p-value of a mean difference of `null`; 1 where the difference always equals it."""
        from scipy.special import stdtr

        statistic = self.statistic(null)
        if statistic is None:
            never = self.value is not None and self.standard_error == 0 and abs(self.value - null) < _NOTHING
            return 1.0 if never else None
        return float(2 * stdtr(self.n - 1, -abs(statistic)))

    def p_above(self, null: float = 0.0) -> float | None:
        """Return the one-sided p-value against a mean difference of at most `null`: small when it is above."""
        two_sided = self.p_value(null)
        if two_sided is None or self.value is None:
            return None
        return two_sided / 2 if self.value > null else 1 - two_sided / 2

    def p_below(self, null: float = 0.0) -> float | None:
        """Return the one-sided p-value against a mean difference of at least `null`: small when it is below."""
        above = self.p_above(null)
        return None if above is None else 1 - above

    def interval(self, level: float = 0.95) -> tuple[float | None, float | None]:
        """Return the interval of the mean difference that leaves out 0 where `p_value` is below 1 - level."""
        from scipy.special import stdtrit

        if self.value is None or self.standard_error is None:
            return None, None
        half = float(stdtrit(self.n - 1, (1 + level) / 2)) * self.standard_error
        return self.value - half, self.value + half


def diebold_mariano(losses: npt.ArrayLike, rival_losses: npt.ArrayLike, *, horizon: int = 1) -> LossDifference:
    """Compare the mean losses of two forecasts (Diebold & Mariano, 1995); the one such test of the project.

    The variance is Newey-West's, with the bandwidth that the data ask for (Newey & West, 1994, arch's implementation)
    and at least horizon - 1 lags: differences of two models are autocorrelated beyond the overlap of their outcomes,
    because features move slowly. It is corrected for the rows that so many lags cost (Harvey, Leybourne & Newbold,
    1997, with lags + 1 in the place of the horizon), and compared with Student's t of n - 1 degrees of freedom.
    `python -m benchmarks.significance` shows its size.

    Args:
        losses: of the first forecast, oldest first, (n,).
        rival_losses: of the other on the same rows, (n,).
        horizon: hours ahead.
    """
    ours, theirs = _rows(losses, rival_losses)
    difference, n = ours - theirs, len(ours)
    if not n:
        return LossDifference(None, None, 0, 0)
    value = float(difference.mean())
    if n <= max(2, horizon):
        return LossDifference(value, None, 0, n)
    if np.ptp(difference) < _NOTHING:
        return LossDifference(value, 0.0, 0, n)
    lags = max(horizon - 1, _bandwidth(difference))
    width = lags + 1
    correction = (n + 1 - 2 * width + width * (width - 1) / n) / n
    variance = hac_variance_of_mean(difference, lags=lags)
    if variance <= 0 or correction <= 0:
        return LossDifference(value, None, lags, n)
    return LossDifference(value, math.sqrt(variance / correction), lags, n)


def _bandwidth(values: Floats) -> int:
    """Return the Newey-West lags that values (n,) ask for, at most a third of them."""
    from arch.covariance.kernel import Bartlett

    most = len(values) // 3
    try:
        found = float(Bartlett(values[:, None]).opt_bandwidth)
    except ZeroDivisionError:  # a long-run variance of zero, as of few rows that alternate
        return most
    return int(min(found, most)) if math.isfinite(found) else most


def paired_folds(scores: npt.ArrayLike, rival_scores: npt.ArrayLike) -> Significance:
    """Test whether two forecasts score the same over folds: paired t-test, two-sided.

    The effect is Cohen's d of the differences, their mean over their standard deviation.
    """
    from scipy.stats import ttest_rel

    ours, theirs = _rows(scores, rival_scores)
    difference = ours - theirs
    if len(ours) < 2 or difference.std(ddof=1) < 1e-15:
        return Significance(None, None, None, len(ours))
    found = ttest_rel(ours, theirs)
    return Significance(
        float(found.statistic), float(found.pvalue), float(difference.mean() / difference.std(ddof=1)), len(ours)
    )


def superior_ability(
    benchmark: npt.ArrayLike, rivals: npt.ArrayLike, *, block: int, reps: int = 500, seed: int
) -> float | None:
    """Return Hansen's SPA p-value (2005): small when some rival truly loses less than the benchmark.

    arch's implementation with the stationary bootstrap.

    Args:
        benchmark: losses of the benchmark, (n,).
        rivals: losses of the rivals, (n, k).
        block: mean length of a bootstrap block, rows.
        reps: bootstrap draws.
        seed: seed of the draws.
    """
    from arch.bootstrap import SPA

    base, others = np.asarray(benchmark, dtype=np.float64), np.asarray(rivals, dtype=np.float64)
    moving = others[:, np.ptp(others - base[:, None], axis=0) > 1e-15] if len(base) > 2 else others[:, :0]
    if not moving.shape[1]:
        return None
    test = SPA(base, moving, block_size=block, reps=reps, bootstrap="stationary", seed=seed)
    test.compute()
    return _value(float(test.pvalues["consistent"]))


def model_confidence_set(
    losses: Mapping[str, npt.ArrayLike], *, block: int, reps: int = 500, seed: int
) -> dict[str, float]:
    """Return each forecaster's p-value of belonging to the set of the best (Hansen, Lunde & Nason, 2011).

    arch's implementation, R statistic, stationary bootstrap. Those above 0.1 form the 90 % confidence set.
    Empty when there are fewer than two forecasters that differ or fewer than three rows.

    Args:
        losses: (n,) losses by forecaster.
        block: mean length of a bootstrap block, rows.
        reps: bootstrap draws.
        seed: seed of the draws.
    """
    from arch.bootstrap import MCS

    names = list(losses)
    table = np.column_stack([np.asarray(losses[name], dtype=np.float64) for name in names])
    differs = [np.ptp(table[:, i] - table[:, j]) > 1e-15 for i in range(len(names)) for j in range(i)]
    if len(table) < 3 or not differs or not all(differs):
        return {}
    test = MCS(table, size=0.1, block_size=block, reps=reps, method="R", bootstrap="stationary", seed=seed)
    test.compute()
    return {names[int(index)]: float(p) for index, p in test.pvalues["Pvalue"].items()}


def causal_persistence(signal: npt.ArrayLike, log_return: npt.ArrayLike, *, horizon: int = 1) -> Floats:
    """Return, for each row, the share of rises among known outcomes that followed the same signal.

    What "the last move goes on" is worth as a probability, learnt only from rows 0 .. i - horizon; Laplace's
    rule as in `causal_base_rate`.

    Args:
        signal: sign of the last move at each row, see `persistence_signal`, (n,).
        log_return: outcomes, fraction, (n,).
        horizon: hours ahead.
    """
    sign = np.asarray(signal, dtype=np.float64)
    r = np.asarray(log_return, dtype=np.float64)
    rate = np.empty(len(r))
    for value in np.unique(sign):
        same = sign == value
        rate[same] = causal_base_rate(np.where(same, r, np.nan), horizon=horizon)[same]
    return rate


# --- intervals ---------------------------------------------------------------------------------
def mean(values: npt.ArrayLike, *, horizon: int = 1) -> Estimate:
    """Return the mean with its HAC interval."""
    (kept,) = _rows(values)
    if not len(kept):
        return Estimate(None, None, None, 0)
    return _around(float(kept.mean()), kept - kept.mean(), horizon)


def share(hits: npt.ArrayLike, *, horizon: int = 1) -> Estimate:
    """Return the share of true rows, with Wilson's interval at the effective number of rows."""
    found = np.asarray(hits, dtype=np.float64)
    n = len(found)
    if not n:
        return Estimate(None, None, None, 0)
    rate = float(found.mean())
    variance = hac_variance_of_mean(found - rate, horizon=horizon)
    spread = rate * (1 - rate)
    effective = min(spread / variance, float(n)) if variance > 0 and spread > 0 else float(n)
    centre = (rate + _Z95**2 / (2 * effective)) / (1 + _Z95**2 / effective)
    half = _Z95 * math.sqrt(spread / effective + _Z95**2 / (4 * effective**2)) / (1 + _Z95**2 / effective)
    return Estimate(rate, max(0.0, min(centre - half, rate)), min(1.0, max(centre + half, rate)), n)


def hac_lags(n: int, horizon: int) -> int:
    """Return the Newey-West lags used for n rows: the larger of horizon - 1 and n^(1/3), below n."""
    return max(0, min(n - 1, max(horizon - 1, math.ceil(n ** (1 / 3)))))


def hac_variance_of_mean(values: Floats, *, horizon: int = 1, lags: int | None = None) -> float:
    """Return the Newey-West variance of the mean of values (n,), Bartlett kernel."""
    n = len(values)
    if n < 2:
        return 0.0
    centred = values - values.mean()
    lags = hac_lags(n, horizon) if lags is None else lags
    total = float(centred @ centred)
    for lag in range(1, lags + 1):
        total += 2 * (1 - lag / (lags + 1)) * float(centred[lag:] @ centred[:-lag])
    return max(total, 0.0) / n**2


def _around(
    value: float, influence: Floats, horizon: int, within: tuple[float, float] = (-math.inf, math.inf)
) -> Estimate:
    """Put a normal 95 % interval around a value from its influence values."""
    n = len(influence)
    if not math.isfinite(value):
        return Estimate(None, None, None, n)
    value = min(max(value, within[0]), within[1])  # rounding may put a perfect correlation a bit above one
    if n < 2:
        return Estimate(value, None, None, n)
    half = _Z95 * math.sqrt(hac_variance_of_mean(influence, horizon=horizon))
    return Estimate(value, max(value - half, within[0]), min(value + half, within[1]), n)


def _rows(*columns: npt.ArrayLike) -> tuple[Floats, ...]:
    """Return the columns as float64 with the rows that are finite in all of them."""
    arrays = [np.asarray(column, dtype=np.float64) for column in columns]
    shapes = {array.shape for array in arrays}
    if len(shapes) != 1 or arrays[0].ndim != 1:
        raise ValueError(f"the columns must be one-dimensional and equally long, got shapes {sorted(shapes)}")
    kept = np.logical_and.reduce([np.isfinite(array) for array in arrays])
    return tuple(array[kept] for array in arrays)


def _scaled(estimate: Estimate, factor: float) -> Estimate:
    """Multiply a metric and its interval by a positive factor."""
    if estimate.value is None:
        return estimate
    low, high = (None if end is None else end * factor for end in (estimate.lower, estimate.upper))
    return Estimate(estimate.value * factor, low, high, estimate.n)


def _value(number: float | np.floating[Any]) -> float | None:
    return float(number) if math.isfinite(number) else None


def _midranks(values: Floats) -> Floats:
    """Return ranks 1..n (n,), ties sharing their mean."""
    _, inverse, counts = np.unique(values, return_inverse=True, return_counts=True)
    last = np.cumsum(counts)
    return (last - (counts - 1) / 2)[inverse]


def _sharpe_influence(net: Floats) -> tuple[float, Floats]:
    """Return the Sharpe ratio of returns (n,) an hour, and the influence of each hour on it, (n,)."""
    score, ratio = _standardised(net), float(net.mean() / net.std())
    return ratio, score - ratio / 2 * (score**2 - 1)


def _standardised(values: Floats) -> Floats:
    return (values - values.mean()) / values.std()


def _calibration_gaps(p: Floats, up: Bools, bins: int) -> Floats:
    """Return up - p of each row in the column of its equal-count bin, 0 elsewhere, (n, bins)."""
    order = np.argsort(p, kind="stable")
    bin_of = np.empty(len(p), dtype=np.int64)
    bin_of[order] = np.arange(len(p)) * bins // len(p)
    gaps = np.zeros((len(p), bins))
    gaps[np.arange(len(p)), bin_of] = up - p
    return gaps
