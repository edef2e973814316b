"""Expressions that several groups of features share."""

from __future__ import annotations

import math

import polars as pl

_TINY = 1e-12


def over(numerator: pl.Expr, denominator: pl.Expr) -> pl.Expr:
    """Divide; null where the denominator is zero."""
    return pl.when(denominator.abs() > _TINY).then(numerator / denominator)


def min_samples(rows: int) -> int:
    """Return the smallest number of known values in a window: the two null returns of a gap must not blank a day."""
    return max(2, math.ceil(0.75 * rows))
