"""Linear models with an L2 penalty: logistic regression for P(up), ridge regression for the size of a move."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from btc_assets.learning.families.linear import (
    LinearOutput,
    Scaling,
    constant_direction,
    one_class,
    use_one_blas_thread,
)
from btc_assets.learning.families.protocol import Family, Fit, Inputs, Parameters, Vector

if TYPE_CHECKING:
    import optuna


@dataclass(frozen=True)
class RidgeLogisticParameters(Parameters):
    """Parameters of one horizon's linear models.

    Attributes:
        inverse_penalty: inverse strength C of the penalty of P(up): the weighted log-losses are multiplied by it. The
            default is 7e-4 in units of the mean weight of six years with a half-life of one.
        size_penalty: strength of the penalty of the size. The default shrinks as much as that of P(up), as the squared
            error of a row has four times the curvature of its log-loss.
    """

    inverse_penalty: float = 3e-3
    size_penalty: float = 1300.0


def fit_direction(
    inputs: Inputs, up: Vector, weights: Vector, parameters: RidgeLogisticParameters, _: Fit
) -> LinearOutput:
    """Fit P(up) by penalised logistic loss; the intercept is not penalised."""
    from sklearn.linear_model import LogisticRegression

    if one_class(up):
        return constant_direction(inputs, up, weights)
    use_one_blas_thread()
    scaling = Scaling.of(inputs)
    z = scaling(inputs)
    model = LogisticRegression(C=parameters.inverse_penalty, solver="newton-cholesky", tol=1e-8)
    model.fit(z, up, sample_weight=weights)
    return LinearOutput.of(scaling, z, model.coef_[0], model.intercept_[0])


def fit_size(
    inputs: Inputs, target: Vector, weights: Vector, parameters: RidgeLogisticParameters, _: Fit
) -> LinearOutput:
    """Fit the mean of a target by penalised squared error; the intercept is not penalised."""
    from sklearn.linear_model import Ridge

    use_one_blas_thread()
    scaling = Scaling.of(inputs)
    z = scaling(inputs)
    model = Ridge(alpha=parameters.size_penalty, solver="cholesky").fit(z, target, sample_weight=weights)
    return LinearOutput.of(scaling, z, model.coef_, model.intercept_, probability=False)


def suggest(trial: optuna.trial.BaseTrial, incumbent: RidgeLogisticParameters) -> RidgeLogisticParameters:
    """Suggest the penalty of P(up)."""
    return replace(incumbent, inverse_penalty=trial.suggest_float("inverse_penalty", 1e-5, 1e-1, log=True))


FAMILY = Family(
    name="ridge_logistic",
    about="logistic regression for P(up) and ridge regression for the size, both with an L2 penalty",
    parameters=RidgeLogisticParameters,
    suggest=suggest,
    fit_direction=fit_direction,
    fit_size=fit_size,
    read=LinearOutput.read,
    stochastic=False,
)
