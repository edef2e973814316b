"""Tests of significance: directional accuracy, equal losses, the best of many; and the HAC variance they rest on.

Pure functions on numpy arrays, one row a forecast, oldest first. A test that says nothing (no rows, no variation)
has a p-value of None, never NaN and never an exception.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.float64]

_NOTHING = 1e-15
"""A difference smaller than this is none."""


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

    p, r = finite_rows(p_up, log_return)
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
    ours, theirs = finite_rows(losses, rival_losses)
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

    ours, theirs = finite_rows(scores, rival_scores)
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
    return finite_or_none(float(test.pvalues["consistent"]))


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


def finite_rows(*columns: npt.ArrayLike) -> tuple[Floats, ...]:
    """Return the columns as float64 with the rows that are finite in all of them."""
    arrays = [np.asarray(column, dtype=np.float64) for column in columns]
    shapes = {array.shape for array in arrays}
    if len(shapes) != 1 or arrays[0].ndim != 1:
        raise ValueError(f"the columns must be one-dimensional and equally long, got shapes {sorted(shapes)}")
    kept = np.logical_and.reduce([np.isfinite(array) for array in arrays])
    return tuple(array[kept] for array in arrays)


def finite_or_none(number: float | np.floating[Any]) -> float | None:
    """Return the number as a float, None where it is NaN or infinite."""
    return float(number) if math.isfinite(number) else None
