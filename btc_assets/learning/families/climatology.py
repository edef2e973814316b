"""The baseline without features: the share of rises, and the quantiles of the scaled returns, of the training rows."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from btc_assets.learning.families.linear import LinearOutput, constant_direction
from btc_assets.learning.families.protocol import Family, Fit, Inputs, Parameters, Vector
from btc_assets.vocabulary import QUANTILE_NAMES, QUANTILES

if TYPE_CHECKING:
    import optuna


def fit_direction(inputs: Inputs, up: Vector, weights: Vector, _: Parameters, __: Fit) -> LinearOutput:
    """Return the weighted share of rises."""
    return constant_direction(inputs, up, weights)


def fit_quantiles(inputs: Inputs, scaled: Vector, weights: Vector, _: Parameters, __: Fit) -> dict[str, LinearOutput]:
    """Return the weighted quantiles of the scaled returns."""
    levels = np.quantile(scaled, QUANTILES, weights=weights, method="inverted_cdf")
    return {
        name: LinearOutput.constant(inputs, level, probability=False)
        for name, level in zip(QUANTILE_NAMES, levels, strict=True)
    }


def fit_size(inputs: Inputs, target: Vector, weights: Vector, _: Parameters, __: Fit) -> LinearOutput:
    """Return the weighted mean of the target."""
    return LinearOutput.constant(inputs, np.average(target, weights=weights), probability=False)


def suggest(_: optuna.trial.BaseTrial, incumbent: Parameters) -> Parameters:
    """Return the incumbent: nothing is tuned."""
    return incumbent


FAMILY = Family(
    name="climatology",
    about="the base rate and the quantiles of the training rows; a baseline",
    parameters=Parameters,
    suggest=suggest,
    fit_direction=fit_direction,
    fit_quantiles=fit_quantiles,
    fit_size=fit_size,
    read=LinearOutput.read,
    stochastic=False,
)
