"""Metrics of forecasts with 95 % intervals.

Pure functions on numpy arrays, used by folds, the gate and the performance report. A row is one forecast, oldest first:
`p_up` (n,) is the probability of a rise, `log_return` (n,) the outcome, fraction. "Up" is `log_return > 0`; an
unchanged price is not up. A forecast predicts up if `p_up > 0.5`.

Rows with NaN in either array are dropped. A metric that is undefined (no rows, one class, a constant series) has the
value None; it is never NaN and raises no exception.

Intervals use the metric's influence values (delta method) with a Newey-West variance (Newey & West, 1987), because
neighbouring hours, and in particular overlapping windows, are not independent. The number of lags is the larger of the
other rows whose windows an outcome overlaps and n^(1/3). Shares use Wilson's interval (1927) with the effective number
of rows implied by that variance, so that the interval is within [0, 1]. A horizon is in minutes.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
import numpy.typing as npt

from btc_assets.evaluation.significance import Floats, finite_rows, hac_variance_of_mean, resampled_means
from btc_assets.vocabulary import PRIMARY, hours_spanned

Bools = npt.NDArray[np.bool_]

CALIBRATION_BINS = 10
"""Number of bins of the calibration error; each has the same number of forecasts."""
MOVE_EDGES_BPS = (0.0, 5.0, 10.0, 20.0, 50.0, math.inf)
"""Edges of the classes of |return| in basis points; upper edges are inclusive."""
CONFIDENCE_SHARES = (0.5, 0.2, 0.1)
"""Shares of the most confident forecasts for which accuracy is reported too."""

_Z95 = 1.959963984540054
_MIN_PROBABILITY = 1e-15


@dataclass(frozen=True)
class Estimate:
    """A metric with its 95 % interval.

    Attributes:
        value: the metric; None if it is undefined.
        lower: lower end of the interval; None without an interval.
        upper: upper end of the interval.
        n: number of rows.
    """

    value: float | None
    lower: float | None
    upper: float | None
    n: int


def accuracy(p_up: npt.ArrayLike, log_return: npt.ArrayLike, *, horizon: int = PRIMARY) -> Estimate:
    """Return the share of rows with the right direction; a p_up of exactly 0.5 predicts "not up"."""
    p, r = finite_rows(p_up, log_return)
    return share((p > 0.5) == (r > 0), horizon=horizon)


def auc(p_up: npt.ArrayLike, log_return: npt.ArrayLike, *, horizon: int = PRIMARY) -> Estimate:
    """Return the area under the ROC curve: P(a rise had the higher p_up than a fall), ties count half.

    With DeLong's interval (DeLong et al., 1988; midranks of Sun & Xu, 2014), HAC over rows.
    """
    p, r = finite_rows(p_up, log_return)
    up = r > 0
    m, k = int(up.sum()), int((~up).sum())
    if not m or not k:
        return Estimate(None, None, None, len(p))
    ranks = _midranks(p)
    components = np.empty(len(p))  # DeLong's structural components: share of correctly ranked rows of the other class
    components[up] = (ranks[up] - _midranks(p[up])) / k
    components[~up] = 1 - (ranks[~up] - _midranks(p[~up])) / m
    area = float(components[up].mean())
    influence = np.where(up, (components - area) * (len(p) / m), (components - area) * (len(p) / k))
    return with_interval(area, influence, horizon, within=(0.0, 1.0))


def log_loss(p_up: npt.ArrayLike, log_return: npt.ArrayLike, *, horizon: int = PRIMARY) -> Estimate:
    """Return the mean negative log-likelihood, nats per row."""
    p, r = finite_rows(p_up, log_return)
    return mean(log_losses(p, r > 0), horizon=horizon)


def log_losses(p_up: Floats, up: Bools) -> Floats:
    """Return each row's negative log-likelihood (n,), nats; p_up is clipped to [1e-15, 1 - 1e-15]."""
    p = np.clip(p_up, _MIN_PROBABILITY, 1 - _MIN_PROBABILITY)
    return -np.where(up, np.log(p), np.log1p(-p))


def log_loss_skill(
    p_up: npt.ArrayLike, log_return: npt.ArrayLike, base_rate: npt.ArrayLike | None = None, *, horizon: int = PRIMARY
) -> Estimate:
    """Return 1 - log-loss / log-loss of a base rate, fraction; 0 is no skill.

    Args:
        p_up: forecasts, (n,).
        log_return: outcomes, (n,).
        base_rate: probabilities of the benchmark, (n,), see `causal_base_rate`; by default the share of rises in these
            rows, which is not known in advance, so the skill is slightly underestimated.
        horizon: minutes ahead.
    """
    benchmark = np.full(np.shape(p_up), 0.0) if base_rate is None else np.asarray(base_rate, dtype=np.float64)
    p, r, benchmark = finite_rows(p_up, log_return, benchmark)
    up = r > 0
    if not len(p) or (base_rate is None and up.min() == up.max()):
        return Estimate(None, None, None, len(p))
    if base_rate is None:
        benchmark = np.full(len(p), up.mean())
    ours, theirs = log_losses(p, up), log_losses(benchmark, up)
    our_loss, their_loss = float(ours.mean()), float(theirs.mean())
    if their_loss <= 0:
        return Estimate(None, None, None, len(p))
    influence = -(ours - our_loss) / their_loss + (theirs - their_loss) * our_loss / their_loss**2
    return with_interval(1 - our_loss / their_loss, influence, horizon)


def brier(p_up: npt.ArrayLike, log_return: npt.ArrayLike, *, horizon: int = PRIMARY) -> Estimate:
    """Return the mean squared error of p_up (Brier, 1950)."""
    p, r = finite_rows(p_up, log_return)
    return mean((p - (r > 0)) ** 2, horizon=horizon)


def calibration_error(
    p_up: npt.ArrayLike,
    log_return: npt.ArrayLike,
    *,
    horizon: int = PRIMARY,
    bins: int = CALIBRATION_BINS,
    seed: int | None = None,
    reps: int = 500,
) -> Estimate:
    """Return the expected calibration error over equal-count bins of p_up.

    It is the mean over bins of |share of rises - mean p_up|, weighted by rows. The bins have equal counts because
    hourly probabilities are concentrated around 0.5 and bins of equal width would be mostly empty. Under perfect
    calibration its expected value is not 0 but about 0.8 * sqrt(bins * p (1 - p) / n).

    The interval is given by the percentiles of a circular block bootstrap with blocks of a day, or of the horizon if it
    is longer (Politis & Romano, 1992). Resampling noise increases an error near 0, so the interval is biased upwards.

    Args:
        p_up: forecasts, (n,).
        log_return: outcomes, (n,).
        horizon: minutes ahead.
        bins: number of bins.
        seed: seed of the bootstrap; None for no interval.
        reps: bootstrap draws.
    """
    p, r = finite_rows(p_up, log_return)
    n, block = len(p), max(24, hours_spanned(horizon))
    if not n:
        return Estimate(None, None, None, 0)
    gaps = _calibration_gaps(p, r > 0, bins)
    point = float(np.abs(gaps.sum(axis=0)).sum() / n)
    if seed is None or n < 4 * block:
        return Estimate(point, None, None, n)
    drawn = np.abs(resampled_means(gaps, block=block, reps=reps, seed=seed)).sum(axis=1)
    low, high = np.quantile(drawn, [0.025, 0.975])
    return Estimate(point, float(min(low, point)), float(max(high, point)), n)


def calibration_line(p_up: npt.ArrayLike, log_return: npt.ArrayLike) -> tuple[float, float] | None:
    """Return (slope, intercept) of the logistic regression of "up" on the log-odds of p_up (Cox, 1958).

    (1, 0) is perfect calibration; a slope below 1 is overconfidence. None for a single class, a constant probability or
    separable classes.
    """
    p, r = finite_rows(p_up, log_return)
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


def interval_coverage(
    log_return: npt.ArrayLike, low: npt.ArrayLike, high: npt.ArrayLike, *, horizon: int = PRIMARY
) -> Estimate:
    """Return the share of outcomes within [low, high]."""
    r, lower, upper = finite_rows(log_return, low, high)
    return share((lower <= r) & (r <= upper), horizon=horizon)


def interval_width(low: npt.ArrayLike, high: npt.ArrayLike, *, horizon: int = PRIMARY) -> Estimate:
    """Return the mean width of the intervals, in their unit."""
    lower, upper = finite_rows(low, high)
    return mean(upper - lower, horizon=horizon)


def pinball_loss(
    log_return: npt.ArrayLike, quantiles: Mapping[float, npt.ArrayLike], *, horizon: int = PRIMARY
) -> Estimate:
    """Return the pinball loss (Koenker & Bassett, 1978) averaged over rows and quantiles, in the unit of the returns.

    Args:
        log_return: outcomes, (n,).
        quantiles: forecast quantiles by level within (0, 1), (n,) each.
        horizon: minutes ahead.
    """
    r, *forecast = finite_rows(log_return, *quantiles.values())
    losses = [np.maximum(level * (r - q), (level - 1) * (r - q)) for level, q in zip(quantiles, forecast, strict=True)]
    return mean(np.mean(losses, axis=0), horizon=horizon)


def qlike(log_return: npt.ArrayLike, sigma: npt.ArrayLike, *, horizon: int = PRIMARY) -> Estimate:
    """Return the mean of `ln sigma^2 + log_return^2 / sigma^2`: the QLIKE loss of a volatility, up to a constant.

    It is smallest in expectation where `sigma` is the true volatility, though a squared return is a noisy measure of it
    (Patton, 2011, Volatility forecast comparison using imperfect volatility proxies).

    Args:
        log_return: outcomes, (n,).
        sigma: forecast standard deviations, (n,), above 0, in the unit of the returns.
        horizon: minutes ahead.
    """
    r, s = finite_rows(log_return, sigma)
    return mean(2 * np.log(s) + (r / s) ** 2, horizon=horizon)


def accuracy_at_confidence(
    p_up: npt.ArrayLike, log_return: npt.ArrayLike, top: float, *, horizon: int = PRIMARY
) -> Estimate:
    """Return the accuracy of the `top` share of rows with the largest |p_up - 0.5|; of ties the oldest are used."""
    p, r = finite_rows(p_up, log_return)
    kept = math.ceil(round(top * len(p), 9))
    order = np.sort(np.argsort(-np.abs(p - 0.5), kind="stable")[:kept])
    return share((p[order] > 0.5) == (r[order] > 0), horizon=horizon)


def accuracy_by_move(
    p_up: npt.ArrayLike, log_return: npt.ArrayLike, *, horizon: int = PRIMARY
) -> dict[tuple[float, float], Estimate]:
    """Return the accuracy in each class of |return|, keyed by its edges in basis points, lower < move <= upper.

    The first class includes unchanged prices.
    """
    p, r = finite_rows(p_up, log_return)
    moved, right = np.abs(r) * 1e4, (p > 0.5) == (r > 0)
    estimates = {}
    for low, high in pairwise(MOVE_EDGES_BPS):
        inside = (moved <= high) & ((moved > low) | (low == 0))
        estimates[(low, high)] = share(right[inside], horizon=horizon)
    return estimates


def return_weighted_accuracy(p_up: npt.ArrayLike, log_return: npt.ArrayLike, *, horizon: int = PRIMARY) -> Estimate:
    """Return the share of the total |log_return| in the predicted direction."""
    p, r = finite_rows(p_up, log_return)
    weight = np.abs(r)
    if not len(p) or weight.sum() == 0:
        return Estimate(None, None, None, len(p))
    right = (p > 0.5) == (r > 0)
    ratio = float((weight * right).sum() / weight.sum())
    return with_interval(ratio, weight * (right - ratio) / weight.mean(), horizon, within=(0.0, 1.0))


def rank_ic(p_up: npt.ArrayLike, log_return: npt.ArrayLike, *, horizon: int = PRIMARY) -> Estimate:
    """Return the rank information coefficient: Spearman's correlation of p_up and the return.

    The interval treats the ranks as the data (the influence values of Pearson's correlation).
    """
    p, r = finite_rows(p_up, log_return)
    if len(p) < 3 or np.ptp(p) == 0 or np.ptp(r) == 0:
        return Estimate(None, None, None, len(p))
    a, b = standardised(_midranks(p)), standardised(_midranks(r))
    correlation = float((a * b).mean())
    return with_interval(correlation, a * b - correlation * (a**2 + b**2) / 2, horizon, within=(-1.0, 1.0))


def causal_base_rate(log_return: npt.ArrayLike, *, horizon: int = PRIMARY) -> Floats:
    """Return, for each row, the share of rises among the outcomes known at the time of its forecast.

    Row i uses the rows whose windows closed by then, with at most one row per hour. One rise and one fall are added
    (Laplace's rule of succession), so the first rows have 0.5.
    """
    r = np.asarray(log_return, dtype=np.float64)
    known = np.isfinite(r)
    rises = np.concatenate([[0], np.cumsum(known & (r > 0))])
    counted = np.concatenate([[0], np.cumsum(known)])
    end = np.maximum(np.arange(len(r)) - hours_spanned(horizon) + 1, 0)
    return (rises[end] + 1) / (counted[end] + 2)


def causal_persistence(signal: npt.ArrayLike, log_return: npt.ArrayLike, *, horizon: int = PRIMARY) -> Floats:
    """Return, for each row, the share of rises among known outcomes that followed the same signal.

    This is the probability for a persistence forecast, estimated from the outcomes known by then, with Laplace's rule
    as in `causal_base_rate`.

    Args:
        signal: sign of the last move at each row, see `trading.persistence_signal`, (n,).
        log_return: outcomes, fraction, (n,).
        horizon: minutes ahead.
    """
    sign = np.asarray(signal, dtype=np.float64)
    r = np.asarray(log_return, dtype=np.float64)
    rate = np.empty(len(r))
    for value in np.unique(sign):
        same = sign == value
        rate[same] = causal_base_rate(np.where(same, r, np.nan), horizon=horizon)[same]
    return rate


def mean(values: npt.ArrayLike, *, horizon: int = PRIMARY) -> Estimate:
    """Return the mean with its HAC interval."""
    (kept,) = finite_rows(values)
    if not len(kept):
        return Estimate(None, None, None, 0)
    return with_interval(float(kept.mean()), kept - kept.mean(), horizon)


def share(hits: npt.ArrayLike, *, horizon: int = PRIMARY) -> Estimate:
    """Return the share of true rows with Wilson's interval for the effective number of rows."""
    estimates = np.asarray(hits, dtype=np.float64)
    n = len(estimates)
    if not n:
        return Estimate(None, None, None, 0)
    rate = float(estimates.mean())
    variance = hac_variance_of_mean(estimates - rate, horizon=horizon)
    spread = rate * (1 - rate)
    effective = min(spread / variance, float(n)) if variance > 0 and spread > 0 else float(n)
    centre = (rate + _Z95**2 / (2 * effective)) / (1 + _Z95**2 / effective)
    half = _Z95 * math.sqrt(spread / effective + _Z95**2 / (4 * effective**2)) / (1 + _Z95**2 / effective)
    return Estimate(rate, max(0.0, min(centre - half, rate)), min(1.0, max(centre + half, rate)), n)


def with_interval(
    value: float, influence: Floats, horizon: int, within: tuple[float, float] = (-math.inf, math.inf)
) -> Estimate:
    """Return an estimate with a normal 95 % interval from influence values."""
    n = len(influence)
    if not math.isfinite(value):
        return Estimate(None, None, None, n)
    value = min(max(value, within[0]), within[1])  # rounding may give a perfect correlation slightly above one
    if n < 2:
        return Estimate(value, None, None, n)
    half = _Z95 * math.sqrt(hac_variance_of_mean(influence, horizon=horizon))
    return Estimate(value, max(value - half, within[0]), min(value + half, within[1]), n)


def _midranks(values: Floats) -> Floats:
    """Return ranks 1..n (n,); ties have their mean rank."""
    _, inverse, counts = np.unique(values, return_inverse=True, return_counts=True)
    last = np.cumsum(counts)
    return (last - (counts - 1) / 2)[inverse]


def standardised(values: Floats) -> Floats:
    """Return values (n,) minus their mean, divided by their standard deviation."""
    return (values - values.mean()) / values.std()


def _calibration_gaps(p: Floats, up: Bools, bins: int) -> Floats:
    """Return up - p of each row in the column of its equal-count bin, 0 elsewhere, (n, bins)."""
    order = np.argsort(p, kind="stable")
    bin_of = np.empty(len(p), dtype=np.int64)
    bin_of[order] = np.arange(len(p)) * bins // len(p)
    gaps = np.zeros((len(p), bins))
    gaps[np.arange(len(p)), bin_of] = up - p
    return gaps
