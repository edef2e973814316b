"""Significance tests of directional accuracy, equal losses and the best of many forecasts; and their HAC variance.

Pure functions on numpy arrays with one row per forecast, oldest first. A test without result (no rows, no variation)
has a p-value of None; it is never NaN and raises no exception.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from btc_assets.vocabulary import PRIMARY, hours_spanned

Floats = npt.NDArray[np.float64]

_MIN_DIFFERENCE = 1e-15
"""Smaller differences count as zero."""


@dataclass(frozen=True)
class Significance:
    """The outcome of a test.

    Attributes:
        statistic: test statistic; None without result (no rows, no variation).
        p_value: p-value within [0, 1], or None.
        effect: effect size as documented by the test, or None.
        n: number of rows, blocks or folds.
    """

    statistic: float | None
    p_value: float | None
    effect: float | None
    n: int


def pesaran_timmermann(p_up: npt.ArrayLike, log_return: npt.ArrayLike) -> Significance:
    """Test whether predicted and realised directions are independent (Pesaran & Timmermann, 1992).

    One-sided, with statsmodels' implementation: a small p means that the predictions are better than chance. Target
    windows must not overlap: thin out horizons above one hour first. The effect is accuracy minus its expected value
    under independence.
    """
    from statsmodels.stats.diagnostic import pesaran_timmermann as test

    p, r = finite_rows(p_up, log_return)
    predicted_up, rose = p > 0.5, r > 0
    if len(p) < 2 or predicted_up.min() == predicted_up.max() or rose.min() == rose.max():
        return Significance(None, None, None, len(p))
    result = test(np.where(rose, 1.0, -1.0), np.where(predicted_up, 1.0, -1.0), alternative="larger")
    chance = predicted_up.mean() * rose.mean() + (1 - predicted_up.mean()) * (1 - rose.mean())
    excess = float((predicted_up == rose).mean() - chance)
    if not math.isfinite(result.statistic):
        return Significance(None, None, excess, len(p))
    return Significance(float(result.statistic), float(result.pvalue), excess, len(p))


@dataclass(frozen=True)
class LossDifference:
    """The mean loss difference of two forecasts and its standard error.

    Attributes:
        value: mean loss of the first minus that of the second, in the unit of the losses; None without rows.
        standard_error: HAC standard error of the mean with small-sample correction; None if it cannot be estimated.
        lags: number of Newey-West lags.
        n: rows.
    """

    value: float | None
    standard_error: float | None
    lags: int
    n: int

    def statistic(self, null: float = 0.0) -> float | None:
        """Return (value - null) / standard error; None without variation."""
        if self.value is None or not self.standard_error:
            return None
        return (self.value - null) / self.standard_error

    def p_value(self, null: float = 0.0) -> float | None:
        """Return the two-sided p-value of a mean difference of `null`; 1 if the difference is constantly `null`."""
        from scipy.special import stdtr

        statistic = self.statistic(null)
        if statistic is None:
            is_null = self.value is not None and self.standard_error == 0 and abs(self.value - null) < _MIN_DIFFERENCE
            return 1.0 if is_null else None
        return float(2 * stdtr(self.n - 1, -abs(statistic)))

    def p_above(self, null: float = 0.0) -> float | None:
        """Return the one-sided p-value for a null hypothesis of at most `null`; small if the difference is above."""
        two_sided = self.p_value(null)
        if two_sided is None or self.value is None:
            return None
        return two_sided / 2 if self.value > null else 1 - two_sided / 2

    def p_below(self, null: float = 0.0) -> float | None:
        """Return the one-sided p-value for a null hypothesis of at least `null`; small if the difference is below."""
        p_above = self.p_above(null)
        return None if p_above is None else 1 - p_above

    def interval(self, level: float = 0.95) -> tuple[float | None, float | None]:
        """Return the confidence interval of the mean difference; it excludes 0 if `p_value` is below 1 - level."""
        from scipy.special import stdtrit

        if self.value is None or self.standard_error is None:
            return None, None
        half = float(stdtrit(self.n - 1, (1 + level) / 2)) * self.standard_error
        return self.value - half, self.value + half


def diebold_mariano(losses: npt.ArrayLike, rival_losses: npt.ArrayLike, *, horizon: int = PRIMARY) -> LossDifference:
    """Compare the mean losses of two forecasts (Diebold & Mariano, 1995).

    The variance is Newey-West's with a data-driven bandwidth (Newey & West, 1994, arch's implementation) and at least
    the horizon's rows - 1 lags: differences of two models are autocorrelated beyond the overlap of their outcomes,
    because features change slowly. The small-sample correction is that of Harvey, Leybourne & Newbold (1997) with
    lags + 1 instead of the horizon, and the reference distribution is Student's t with n - 1 degrees of freedom.
    `python -m benchmarks.significance` measures the size of the test.

    Args:
        losses: losses of the first forecast, oldest first, (n,).
        rival_losses: losses of the second forecast on the same rows, (n,).
        horizon: minutes ahead.
    """
    ours, theirs = finite_rows(losses, rival_losses)
    difference, n = ours - theirs, len(ours)
    if not n:
        return LossDifference(None, None, 0, 0)
    value = float(difference.mean())
    span = hours_spanned(horizon)
    if n <= max(2, span):
        return LossDifference(value, None, 0, n)
    if np.ptp(difference) < _MIN_DIFFERENCE:
        return LossDifference(value, 0.0, 0, n)
    lags = max(span - 1, _bandwidth(difference))
    width = lags + 1
    correction = (n + 1 - 2 * width + width * (width - 1) / n) / n
    variance = hac_variance_of_mean(difference, lags=lags)
    if variance <= 0 or correction <= 0:
        return LossDifference(value, None, lags, n)
    return LossDifference(value, math.sqrt(variance / correction), lags, n)


def _bandwidth(values: Floats) -> int:
    """Return the data-driven number of Newey-West lags for values (n,), at most n / 3."""
    from arch.covariance.kernel import Bartlett

    limit = len(values) // 3
    try:
        result = float(Bartlett(values[:, None]).opt_bandwidth)
    except ZeroDivisionError:  # a long-run variance of zero, for example a few alternating rows
        return limit
    return int(min(result, limit)) if math.isfinite(result) else limit


def paired_folds(scores: npt.ArrayLike, rival_scores: npt.ArrayLike) -> Significance:
    """Test whether two forecasts have the same score over folds: paired t-test, two-sided.

    The effect is Cohen's d of the differences: their mean divided by their standard deviation.
    """
    from scipy.stats import ttest_rel

    ours, theirs = finite_rows(scores, rival_scores)
    difference = ours - theirs
    if len(ours) < 2 or difference.std(ddof=1) < 1e-15:
        return Significance(None, None, None, len(ours))
    result = ttest_rel(ours, theirs)
    return Significance(
        float(result.statistic), float(result.pvalue), float(difference.mean() / difference.std(ddof=1)), len(ours)
    )


def holm(p_values: Sequence[float | None]) -> list[float | None]:
    """Return p-values with Holm's correction (1979); None stays None and does not count."""
    from statsmodels.stats.multitest import multipletests

    known = [p for p in p_values if p is not None]
    corrected = iter(multipletests(known, method="holm")[1].tolist() if known else ())
    return [None if p is None else next(corrected) for p in p_values]


def resampled_means(values: Floats, *, block: int, reps: int, seed: int) -> Floats:
    """Return the column means of circular block bootstrap samples (Politis & Romano, 1992), (reps, k).

    Args:
        values: rows in time order, (n, k).
        block: length of a block, rows, at most n.
        reps: bootstrap draws.
        seed: seed of the draws.
    """
    n = len(values)
    summed = np.cumsum(np.vstack([np.zeros((1, values.shape[1])), values, values[:block]]), axis=0)
    sums = summed[block : n + block] - summed[:n]  # sum of the block that starts at each row
    starts = np.random.default_rng(seed).integers(0, n, (reps, n // block))
    return np.asarray(sums[starts].sum(axis=1) / (n // block * block))


def superior_ability(
    benchmark: npt.ArrayLike, rivals: npt.ArrayLike, *, block: int, reps: int = 500, seed: int
) -> float | None:
    """Return the p-value of Hansen's SPA test (2005): small if some rival has a lower expected loss than the benchmark.

    arch's implementation with a stationary bootstrap.

    Args:
        benchmark: losses of the benchmark, (n,).
        rivals: losses of the rivals, (n, k).
        block: mean length of a bootstrap block, rows.
        reps: bootstrap draws.
        seed: seed of the draws.
    """
    from arch.bootstrap import SPA

    base, others = np.asarray(benchmark, dtype=np.float64), np.asarray(rivals, dtype=np.float64)
    varying = others[:, np.ptp(others - base[:, None], axis=0) > 1e-15] if len(base) > 2 else others[:, :0]
    if not varying.shape[1]:
        return None
    test = SPA(base, varying, block_size=block, reps=reps, bootstrap="stationary", seed=seed)
    test.compute()
    return finite_or_none(float(test.pvalues["consistent"]))


def model_confidence_set(
    losses: Mapping[str, npt.ArrayLike], *, block: int, reps: int = 500, seed: int
) -> dict[str, float]:
    """Return each forecaster's p-value in the model confidence set (Hansen, Lunde & Nason, 2011).

    arch's implementation with the R statistic and a stationary bootstrap. Forecasters with p-values above 0.1 form the
    90 % confidence set. Empty for fewer than two different forecasters or fewer than three rows.

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


def hac_lags(n: int, horizon: int) -> int:
    """Return the number of Newey-West lags for n rows: the horizon's rows - 1 or n^(1/3) if larger, less than n."""
    return max(0, min(n - 1, max(hours_spanned(horizon) - 1, math.ceil(n ** (1 / 3)))))


def hac_variance_of_mean(values: Floats, *, horizon: int = PRIMARY, lags: int | None = None) -> float:
    """Return the Newey-West variance (Bartlett kernel) of the mean of values (n,)."""
    n = len(values)
    if n < 2:
        return 0.0
    centred = values - values.mean()
    lags = hac_lags(n, horizon) if lags is None else lags
    total = float(centred @ centred)
    for lag in range(1, lags + 1):
        total += 2 * (1 - lag / (lags + 1)) * float(centred[lag:] @ centred[:-lag])
    return max(total, 0.0) / n**2


def finite_rows(*columns: npt.ArrayLike) -> tuple[Floats, ...]:
    """Return the columns as float64, restricted to rows that are finite in every column."""
    arrays = [np.asarray(column, dtype=np.float64) for column in columns]
    shapes = {array.shape for array in arrays}
    if len(shapes) != 1 or arrays[0].ndim != 1:
        raise ValueError(f"the columns must be one-dimensional and equally long, got shapes {sorted(shapes)}")
    kept = np.logical_and.reduce([np.isfinite(array) for array in arrays])
    return tuple(array[kept] for array in arrays)


def finite_or_none(number: float | np.floating[Any]) -> float | None:
    """Return the number as a float, or None if it is NaN or infinite."""
    return float(number) if math.isfinite(number) else None
