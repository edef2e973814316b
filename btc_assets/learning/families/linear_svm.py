"""A linear support vector machine whose margin is calibrated to P(up)."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from btc_assets.learning.families.linear import (
    LinearOutput,
    Scaling,
    constant_direction,
    fit_sigmoid,
    one_class,
    out_of_block,
    use_one_blas_thread,
)
from btc_assets.learning.families.protocol import Family, Fit, Inputs, Parameters, Vector

if TYPE_CHECKING:
    import optuna


@dataclass(frozen=True)
class LinearSvmParameters(Parameters):
    """Parameters of one horizon's machine.

    Attributes:
        inverse_penalty: inverse strength C of the penalty: the weighted hinge losses are multiplied by it.
    """

    inverse_penalty: float = 1e-3


def fit_direction(
    inputs: Inputs, up: Vector, weights: Vector, parameters: LinearSvmParameters, fit: Fit
) -> LinearOutput:
    """Fit the machine by squared hinge loss, and P(up) as a sigmoid of margins that it gives to rows not fitted on."""
    from sklearn.svm import LinearSVC

    if one_class(up):
        return constant_direction(inputs, up, weights)
    use_one_blas_thread()
    scaling = Scaling.of(inputs)
    z = scaling(inputs)

    def machine(rows: Vector, rose: Vector, weight: Vector) -> LinearSVC:
        model = LinearSVC(C=parameters.inverse_penalty, dual=False, random_state=fit.seed)
        return model.fit(rows, rose, sample_weight=weight)

    model = machine(z, up, weights)
    margins = out_of_block(lambda *train: machine(*train).decision_function, z, up, weights)
    slope, intercept = fit_sigmoid(margins, up, weights)
    return LinearOutput.of(scaling, z, slope * model.coef_[0], slope * model.intercept_[0] + intercept)


def suggest(trial: optuna.trial.BaseTrial, incumbent: LinearSvmParameters) -> LinearSvmParameters:
    """Suggest the penalty."""
    return replace(incumbent, inverse_penalty=trial.suggest_float("inverse_penalty", 1e-6, 1e-1, log=True))


FAMILY = Family(
    name="linear_svm",
    about="a linear support vector machine with calibrated margins",
    parameters=LinearSvmParameters,
    suggest=suggest,
    fit_direction=fit_direction,
    read=LinearOutput.read,
    stochastic=False,
)
