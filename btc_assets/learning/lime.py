"""A local linear model of a forecast: LIME, as a second opinion on its SHAP contributions.

Random sets of a row's values are replaced by training medians. A linear model of which values are kept is fitted to the
model's log-odds, with more weight for rows that keep more. Nothing about the kind of the model is used.

Source: M. Ribeiro, S. Singh, C. Guestrin (2016), "Why should I trust you?": explaining the predictions of any
classifier; sampling and kernel are theirs for inputs that are present or absent.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from btc_assets.learning.families.protocol import Vector

SAMPLES = 1_000
"""Number of rows that the model forecasts, the explained one first."""
KERNEL_WIDTH = 0.25
"""Width of the kernel exp(-(distance / width)^2); the distance is one less the cosine between kept and all values."""
PENALTY = 1.0
"""Strength of the L2 penalty of the coefficients, the intercept excepted."""


@dataclass(frozen=True)
class LocalFits:
    """The local linear models of the h scores of one row.

    Attributes:
        base: score of the row with every value replaced, as the fit has it, (h,).
        values: what keeping each value adds to the score, (h, f); 0 for values that were not replaced.
        r_squared: weighted share of the variance of the scores that the fit explains, (h,).
    """

    base: Vector
    values: Vector
    r_squared: Vector


def fit_locally(score: Callable[[Vector], Vector], row: Vector, medians: Vector, *, seed: int = 0) -> LocalFits:
    """Fit linear models around one row.

    Args:
        score: log-odds of rows, (n, f) -> (n, h).
        row: the row, (f,), NaN if unknown; an unknown value is never replaced.
        medians: training medians, (f,), NaN if there is none.
        seed: seed of the random sets.
    """
    free = np.flatnonzero(~np.isnan(row) & ~np.isnan(medians) & (row != medians))
    if not len(free):
        base = score(row[None, :])[0]
        return LocalFits(base, np.zeros((len(base), len(row))), np.ones(len(base)))
    rng = np.random.default_rng(seed)
    replaced = rng.integers(1, len(free), size=SAMPLES, endpoint=True)
    replaced[0] = 0
    kept = rng.permuted(np.tile(np.arange(len(free)), (SAMPLES, 1)), axis=1) >= replaced[:, None]
    rows = np.repeat(row[None, :], SAMPLES, axis=0)
    rows[:, free] = np.where(kept, row[free], medians[free])
    scores = score(rows)
    weights = np.exp(-np.square((1 - np.sqrt(kept.mean(axis=1))) / KERNEL_WIDTH))
    design = np.column_stack([np.ones(SAMPLES), kept])
    penalty = np.diag([0.0, *[PENALTY] * len(free)])
    weighted = weights[:, None] * design
    solution = np.linalg.solve(design.T @ weighted + penalty, weighted.T @ scores)
    values = np.zeros((scores.shape[1], len(row)))
    values[:, free] = solution[1:].T
    error = weights @ np.square(scores - design @ solution)
    variance = weights @ np.square(scores - np.average(scores, axis=0, weights=weights))
    return LocalFits(solution[0], values, 1 - error / np.where(variance > 0, variance, np.inf))
