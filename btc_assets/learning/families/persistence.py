"""The baseline that repeats the last hour's direction: P(up) depends on the sign of the return of the hour only."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from btc_assets.learning.families.linear import LinearOutput, Scaling, base_rate
from btc_assets.learning.families.protocol import Family, Fit, Inputs, Parameters, Vector
from btc_assets.learning.forecast_model import log_odds

if TYPE_CHECKING:
    import optuna

COLUMN = "returns_1h"
"""Feature whose sign is repeated: the log return of the hour."""
_TINY = 1e-12
"""Return, log fraction, from which on a move has a sign."""


def fit_direction(inputs: Inputs, up: Vector, weights: Vector, _: Parameters, fit: Fit) -> LinearOutput:
    """Fit the probability that a rise follows a rise, and that it follows a fall.

    An hour without a move or without a value gets the probability between both, in log-odds.

    Raises:
        ValueError: the inputs have no `COLUMN`.
    """
    if COLUMN not in fit.names:
        raise ValueError(f"persistence needs the feature {COLUMN}; the inputs are {', '.join(fit.names)}")
    place = fit.names.index(COLUMN)
    last = inputs[:, place]
    rates = [base_rate(up[part], weights[part]) if part.any() else 0.5 for part in (last < -_TINY, last > _TINY)]
    after_fall, after_rise = log_odds(np.array(rates))
    # The sign is the column winsorised at a tiny return, over that return.
    spread, linear = np.ones(inputs.shape[1]), np.zeros(inputs.shape[1])
    spread[place], linear[place] = _TINY, (after_rise - after_fall) / 2
    bound = np.where(linear != 0, _TINY, 0.0)
    scaling = Scaling(-bound, bound, np.zeros_like(bound), spread)
    return LinearOutput.of(scaling, scaling(inputs), linear, (after_rise + after_fall) / 2)


def suggest(_: optuna.trial.BaseTrial, incumbent: Parameters) -> Parameters:
    """Return the incumbent: nothing is tuned."""
    return incumbent


FAMILY = Family(
    name="persistence",
    about="repeats the direction of the last hour with a fitted probability; a baseline",
    parameters=Parameters,
    suggest=suggest,
    fit_direction=fit_direction,
    read=LinearOutput.read,
    stochastic=False,
)
