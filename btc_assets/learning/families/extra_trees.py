"""Extremely randomised trees: a forest whose thresholds are drawn at random."""

from __future__ import annotations

from btc_assets.learning.families.protocol import Family, Fit, Inputs, Vector
from btc_assets.learning.families.random_forest import ForestParameters, fit_forest, suggest
from btc_assets.learning.families.tree_ensemble import TreeEnsemble


def fit_direction(inputs: Inputs, up: Vector, weights: Vector, parameters: ForestParameters, fit: Fit) -> TreeEnsemble:
    """Fit P(up); of random thresholds, a split takes the one with the smallest Gini impurity."""
    from sklearn.ensemble import ExtraTreesClassifier

    return fit_forest(ExtraTreesClassifier, inputs, up, weights, parameters, fit)


FAMILY = Family(
    name="extra_trees",
    about="extremely randomised trees of scikit-learn",
    parameters=ForestParameters,
    suggest=suggest,
    fit_direction=fit_direction,
    read=TreeEnsemble.read,
    suffix="npz",
    exact_contributions=False,
)
