"""Random forests: the mean of the shares of rises in the leaves of trees grown on samples of rows and features."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, TypeVar

import numpy as np

from btc_assets.learning.families.protocol import Family, Fit, Inputs, Parameters, Vector
from btc_assets.learning.families.tree_ensemble import Tree, TreeEnsemble, rounded_down

if TYPE_CHECKING:
    import optuna


@dataclass(frozen=True)
class ForestParameters(Parameters):
    """Parameters of one horizon's forest.

    Attributes:
        trees: number of trees.
        max_depth: maximum depth of a tree.
        min_leaf_weight: minimum weight of the rows of a leaf.
        max_features: share of features tried at a split.
        max_samples: share of rows drawn, with replacement, per tree.
    """

    trees: int = 150
    max_depth: int = 9
    min_leaf_weight: float = 20.0
    max_features: float = 0.3
    max_samples: float = 0.5


F = TypeVar("F", bound=ForestParameters)


def fit_direction(inputs: Inputs, up: Vector, weights: Vector, parameters: ForestParameters, fit: Fit) -> TreeEnsemble:
    """Fit P(up); splits minimise the Gini impurity."""
    from sklearn.ensemble import RandomForestClassifier

    return fit_forest(RandomForestClassifier, inputs, up, weights, parameters, fit)


def fit_forest(
    kind: type, inputs: Inputs, up: Vector, weights: Vector, parameters: ForestParameters, fit: Fit
) -> TreeEnsemble:
    """Fit P(up) by a forest of scikit-learn.

    Args:
        kind: its classifier.
        inputs: rows, (n, f).
        up: 1.0 where the return was positive, (n,).
        weights: row weights, (n,).
        parameters: of the forest.
        fit: circumstances of the fit.
    """
    model = kind(
        n_estimators=parameters.trees,
        max_depth=parameters.max_depth,
        min_weight_fraction_leaf=min(0.5, parameters.min_leaf_weight / (parameters.max_samples * weights.sum())),
        max_features=parameters.max_features,
        bootstrap=True,
        max_samples=parameters.max_samples,
        random_state=fit.seed,
        n_jobs=fit.threads,
    ).fit(inputs, up > 0, sample_weight=weights)
    rise = list(model.classes_).index(True) if True in model.classes_ else None

    def library(rows: Inputs) -> Vector:
        return np.zeros(len(rows)) if rise is None else model.predict_proba(rows)[:, rise]

    members = tuple(_tree(estimator.tree_, rise, parameters.trees) for estimator in model.estimators_)
    return TreeEnsemble(members, 0.0, "probability", inputs.shape[1], library)


def _tree(fitted: Any, rise: int | None, trees: int) -> Tree:
    """Return a fitted tree whose leaves are its part of the mean over the trees."""
    leaf = fitted.children_left < 0
    share = np.zeros(len(leaf)) if rise is None else fitted.value[:, 0, rise]
    return Tree(
        feature=np.where(leaf, -1, fitted.feature),
        threshold=rounded_down(np.where(leaf, 0.0, fitted.threshold)),
        missing_left=fitted.missing_go_to_left.astype(bool),
        left=fitted.children_left,
        right=fitted.children_right,
        value=share / trees,
        cover=fitted.weighted_n_node_samples,
    )


def suggest(trial: optuna.trial.BaseTrial, incumbent: F) -> F:
    """Suggest depth, leaves and the share of features; the number of trees is a matter of time."""
    return replace(
        incumbent,
        max_depth=trial.suggest_int("max_depth", 3, 14),
        min_leaf_weight=trial.suggest_float("min_leaf_weight", 5.0, 200.0, log=True),
        max_features=trial.suggest_float("max_features", 0.05, 1.0, log=True),
    )


FAMILY = Family(
    name="random_forest",
    about="a random forest of scikit-learn",
    parameters=ForestParameters,
    suggest=suggest,
    fit_direction=fit_direction,
    read=TreeEnsemble.read,
    suffix="npz",
    exact_contributions=False,
)
