"""Gaussian naive Bayes: every feature is evidence of its own, which a calibration puts in proportion."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

import numpy as np

from btc_assets.learning.families.linear import (
    LinearOutput,
    Scaling,
    constant_direction,
    fit_sigmoid,
    one_class,
    out_of_block,
)
from btc_assets.learning.families.protocol import Family, Fit, Inputs, Parameters, Vector

if TYPE_CHECKING:
    import optuna


def fit_direction(inputs: Inputs, up: Vector, weights: Vector, _: Parameters, __: Fit) -> LinearOutput:
    """Fit a normal distribution of every scaled feature after a rise and after a fall.

    Features share information, which the method counts several times: its log-odds are far too large. P(up) is a
    sigmoid of the log-odds that it gives to rows not fitted on.
    """
    if one_class(up):
        return constant_direction(inputs, up, weights)
    scaling = Scaling.of(inputs)
    z = scaling(inputs)
    square, linear, constant = _log_odds(z, up, weights)

    def scorer(*train: Vector) -> Callable[[Vector], Vector]:
        squares, slopes, offset = _log_odds(*train)
        return lambda rows: np.square(rows) @ squares + rows @ slopes + offset

    slope, intercept = fit_sigmoid(out_of_block(scorer, z, up, weights), up, weights)
    return LinearOutput.of(scaling, z, slope * linear, slope * constant + intercept, square=slope * square)


def _log_odds(z: Vector, up: Vector, weights: Vector) -> tuple[Vector, Vector, float]:
    """Return the log-odds of a rise as coefficients of squares, (f,), and of values, (f,), and a constant."""
    from sklearn.naive_bayes import GaussianNB

    model = GaussianNB().fit(z, up, sample_weight=weights)
    (mean_fall, mean_rise), (variance_fall, variance_rise) = model.theta_, model.var_
    square = (1 / variance_fall - 1 / variance_rise) / 2
    linear = mean_rise / variance_rise - mean_fall / variance_fall
    offsets = mean_fall**2 / variance_fall - mean_rise**2 / variance_rise + np.log(variance_fall / variance_rise)
    return square, linear, float(offsets.sum() / 2 + np.log(model.class_prior_[1] / model.class_prior_[0]))


def suggest(_: optuna.trial.BaseTrial, incumbent: Parameters) -> Parameters:
    """Return the incumbent: nothing is tuned."""
    return incumbent


FAMILY = Family(
    name="naive_bayes",
    about="Gaussian naive Bayes, calibrated",
    parameters=Parameters,
    suggest=suggest,
    fit_direction=fit_direction,
    read=LinearOutput.read,
    stochastic=False,
)
