"""Gradient-boosted trees of scikit-learn (histogram method): P(up), and one model per quantile.

Of scikit-learn's two implementations this one converts with missing values; `GradientBoostingClassifier` has none.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np

from btc_assets.evaluation.metrics import log_losses
from btc_assets.learning.families.linear import constant_direction, one_class
from btc_assets.learning.families.protocol import LOG_LOSS, Family, Fit, Inputs, Parameters, Vector
from btc_assets.learning.families.tree_ensemble import Output, Tree, TreeEnsemble, leaf, rounded_down
from btc_assets.vocabulary import QUANTILE_NAMES, QUANTILES

if TYPE_CHECKING:
    import optuna


@dataclass(frozen=True)
class GradientBoostingParameters(Parameters):
    """Parameters of one horizon's models.

    Attributes:
        rounds: number of trees of P(up).
        max_depth: maximum depth of a tree of P(up).
        learning_rate: learning rate of P(up).
        max_features: share of features tried at a split.
        min_leaf_weight: minimum weight of the rows of a leaf, as rows of mean weight.
        l2: L2 regularisation of leaf values.
        max_bins: maximum number of histogram bins per feature.
        quantile_rounds: number of trees of a quantile.
        quantile_depth: maximum depth of a tree of a quantile.
        quantile_learning_rate: learning rate of a quantile.
    """

    rounds: int = 150
    max_depth: int = 6
    learning_rate: float = 0.02
    max_features: float = 0.3
    min_leaf_weight: float = 200.0
    l2: float = 10.0
    max_bins: int = 64
    quantile_rounds: int = 40
    quantile_depth: int = 3
    quantile_learning_rate: float = 0.1


def fit_direction(
    inputs: Inputs, up: Vector, weights: Vector, parameters: GradientBoostingParameters, fit: Fit
) -> TreeEnsemble:
    """Fit P(up) by logistic loss."""
    from sklearn.ensemble import HistGradientBoostingClassifier

    if one_class(up):
        constant = constant_direction(inputs, up, weights)
        return TreeEnsemble((leaf(0.0),), constant.base, "log_odds", inputs.shape[1], constant.predict)
    model = HistGradientBoostingClassifier(
        max_iter=parameters.rounds,
        max_depth=parameters.max_depth,
        learning_rate=parameters.learning_rate,
        **_options(parameters, weights, fit),
    )
    _train(model, inputs, up > 0, weights, fit)
    stages = model.staged_predict_proba(inputs)
    fit.draw(LOG_LOSS, (np.average(log_losses(stage[:, 1], up > 0), weights=weights) for stage in stages))
    return _ensemble(model, inputs, "log_odds", lambda rows: model.predict_proba(rows)[:, 1])


def fit_quantiles(
    inputs: Inputs, scaled: Vector, weights: Vector, parameters: GradientBoostingParameters, fit: Fit
) -> dict[str, TreeEnsemble]:
    """Fit each quantile by pinball loss."""
    from sklearn.ensemble import HistGradientBoostingRegressor

    outputs = {}
    for name, level in zip(QUANTILE_NAMES, QUANTILES, strict=True):
        model = HistGradientBoostingRegressor(
            loss="quantile",
            quantile=level,
            max_iter=parameters.quantile_rounds,
            max_depth=parameters.quantile_depth,
            learning_rate=parameters.quantile_learning_rate,
            **_options(parameters, weights, fit),
        )
        _train(model, inputs, scaled, weights, fit)
        outputs[name] = _ensemble(model, inputs, "value", model.predict)
    return outputs


def _options(parameters: GradientBoostingParameters, weights: Vector, fit: Fit) -> dict[str, Any]:
    return {
        "max_leaf_nodes": None,
        "max_features": parameters.max_features,
        "min_samples_leaf": max(1, round(parameters.min_leaf_weight / weights.mean())),
        "l2_regularization": parameters.l2,
        "max_bins": parameters.max_bins,
        "early_stopping": False,
        "random_state": fit.seed,
    }


def _train(model: Any, inputs: Inputs, target: np.ndarray, weights: Vector, fit: Fit) -> None:
    from threadpoolctl import threadpool_limits

    # A column without any value has no bins; it is never split either way.
    inputs = np.where(np.isnan(inputs).all(axis=0), np.float32(0), inputs)
    with threadpool_limits(limits=fit.threads, user_api="openmp"):  # a limit of the calling thread only
        model.fit(inputs, target, sample_weight=weights)


def _ensemble(model: Any, inputs: Inputs, output: Output, library: Any) -> TreeEnsemble:
    fitted = vars(model)  # scikit-learn has no public name for the trees of this model
    members = tuple(_tree(predictor.nodes) for (predictor,) in fitted["_predictors"])
    return TreeEnsemble(members, float(fitted["_baseline_prediction"].item()), output, inputs.shape[1], library)


def _tree(nodes: np.ndarray) -> Tree:
    is_leaf = nodes["is_leaf"].astype(bool)
    return Tree(
        feature=np.where(is_leaf, -1, nodes["feature_idx"]).astype(np.int64),
        threshold=rounded_down(np.where(is_leaf, 0.0, nodes["num_threshold"])),
        missing_left=nodes["missing_go_to_left"].astype(bool),
        left=np.where(is_leaf, -1, nodes["left"]).astype(np.int64),
        right=np.where(is_leaf, -1, nodes["right"]).astype(np.int64),
        value=nodes["value"],
        cover=nodes["count"].astype(np.float64),
    )


def suggest(trial: optuna.trial.BaseTrial, incumbent: GradientBoostingParameters) -> GradientBoostingParameters:
    """Suggest the parameters of P(up); those of the quantiles are the incumbent's."""
    return replace(
        incumbent,
        rounds=trial.suggest_int("rounds", 60, 300),
        max_depth=trial.suggest_int("max_depth", 2, 6),
        learning_rate=trial.suggest_float("learning_rate", 0.01, 0.08, log=True),
        max_features=trial.suggest_float("max_features", 0.1, 1.0),
        min_leaf_weight=trial.suggest_float("min_leaf_weight", 20.0, 800.0, log=True),
        l2=trial.suggest_float("l2", 0.5, 50.0, log=True),
    )


FAMILY = Family(
    name="gradient_boosting",
    about="gradient-boosted trees of scikit-learn; P(up) and quantiles",
    parameters=GradientBoostingParameters,
    suggest=suggest,
    fit_direction=fit_direction,
    fit_quantiles=fit_quantiles,
    read=TreeEnsemble.read,
    suffix="npz",
)
