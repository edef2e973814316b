"""Gradient-boosted trees (LightGBM): one booster for P(up) and one per quantile.

LightGBM needs the system's OpenMP library (`libgomp.so.1`, package `libgomp1`).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import cached_property
from typing import TYPE_CHECKING, Any, Self

import numpy as np

from btc_assets.learning.families.protocol import LOG_LOSS, Family, Fit, Inputs, Parameters, Vector
from btc_assets.learning.families.tree_ensemble import Tree, TreeEnsemble, rounded_down
from btc_assets.vocabulary import QUANTILE_NAMES, QUANTILES

if TYPE_CHECKING:
    import lightgbm
    import optuna


@dataclass(frozen=True)
class LightgbmParameters(Parameters):
    """Parameters of one horizon's boosters.

    Attributes:
        rounds: number of trees of P(up).
        max_depth: maximum depth of a tree of P(up).
        learning_rate: learning rate of P(up).
        bagging_fraction: share of rows sampled per tree.
        feature_fraction: share of features sampled per tree.
        min_sum_hessian: minimum sum of hessians in a leaf of P(up); a row contributes about 0.25.
        lambda_l2: L2 regularisation of leaf values.
        max_bin: maximum number of histogram bins per feature.
        quantile_rounds: number of trees of a quantile.
        quantile_depth: maximum depth of a tree of a quantile.
        quantile_learning_rate: learning rate of a quantile.
    """

    rounds: int = 150
    max_depth: int = 6
    learning_rate: float = 0.02
    bagging_fraction: float = 0.5
    feature_fraction: float = 0.3
    min_sum_hessian: float = 50.0
    lambda_l2: float = 10.0
    max_bin: int = 64
    quantile_rounds: int = 40
    quantile_depth: int = 3
    quantile_learning_rate: float = 0.1


@dataclass(frozen=True)
class Booster:
    """One fitted booster.

    Attributes:
        library: LightGBM's booster.
        width: number of columns of its inputs.
    """

    library: lightgbm.Booster
    width: int

    @classmethod
    def read(cls, content: bytes, width: int) -> Self:
        """Read the output of `native`."""
        import lightgbm

        return cls(lightgbm.Booster(model_str=content.decode()), width)

    @property
    def trees(self) -> int:
        """Number of trees."""
        return int(self.library.num_trees())

    @cached_property
    def base(self) -> float:
        """Mean score over the training rows that reach the leaves."""
        return float(self._shap(np.zeros((1, self.width), dtype=np.float32))[0, -1])

    def predict(self, inputs: Inputs) -> Vector:
        """Return the booster's output, (n,)."""
        return np.asarray(self.library.predict(inputs, num_threads=1), dtype=np.float64)

    def contributions(self, inputs: Inputs) -> Vector:
        """Return the SHAP values, (n, width).

        Source: S. Lundberg et al. (2020), From local explanations to global understanding with explainable AI for
        trees.
        """
        return self._shap(inputs)[:, :-1]

    def _shap(self, inputs: Inputs) -> Vector:
        values = self.library.predict(inputs, pred_contrib=True, num_threads=1)
        return np.asarray(values, dtype=np.float64)

    def onnx(self) -> bytes:
        """Return the ONNX graph with input `inputs`."""
        content = self.library.dump_model()
        members = tuple(_tree(tree["tree_structure"]) for tree in content["tree_info"])
        output: Any = "log_odds" if content["objective"].startswith("binary") else "value"
        return TreeEnsemble(members, 0.0, output, self.width).onnx()

    def native(self) -> bytes:
        """Return the booster as LightGBM's text."""
        return str(self.library.model_to_string()).encode()


def _tree(root: Mapping[str, Any]) -> Tree:
    """Return the tree of a nested dump."""
    rows: list[tuple[int, float, bool, int, int, float, float]] = []

    def add(node: Mapping[str, Any]) -> int:
        place = len(rows)
        if "split_feature" not in node:
            rows.append((-1, 0.0, False, -1, -1, node["leaf_value"], node.get("leaf_weight", 1.0)))
            return place
        threshold = float(node["threshold"])
        # A column without missing values in training has no side for them: they count as 0.
        missing_left = node["default_left"] if node["missing_type"] == "NaN" else threshold >= 0
        rows.append((0, 0.0, False, 0, 0, 0.0, 0.0))
        left, right = add(node["left_child"]), add(node["right_child"])
        rows[place] = (node["split_feature"], threshold, missing_left, left, right, 0.0, node["internal_weight"])
        return place

    add(root)
    feature, threshold, missing_left, left, right, value, cover = map(np.array, zip(*rows, strict=True))
    return Tree(feature, rounded_down(threshold), missing_left, left, right, value, cover)


def fit_direction(inputs: Inputs, up: Vector, weights: Vector, parameters: LightgbmParameters, fit: Fit) -> Booster:
    """Fit P(up) by logistic loss."""
    objective = {
        "objective": "binary",
        "max_depth": parameters.max_depth,
        "num_leaves": 2**parameters.max_depth,
        "learning_rate": parameters.learning_rate,
        "min_sum_hessian_in_leaf": parameters.min_sum_hessian,
    }
    return _train(inputs, up, weights, parameters, fit, objective, parameters.rounds)


def fit_quantiles(
    inputs: Inputs, scaled: Vector, weights: Vector, parameters: LightgbmParameters, fit: Fit
) -> dict[str, Booster]:
    """Fit each quantile by pinball loss."""
    boosters = {}
    for name, level in zip(QUANTILE_NAMES, QUANTILES, strict=True):
        objective = {
            "objective": "quantile",
            "alpha": level,
            "max_depth": parameters.quantile_depth,
            "num_leaves": 2**parameters.quantile_depth,
            "learning_rate": parameters.quantile_learning_rate,
        }
        boosters[name] = _train(
            inputs, scaled, weights, parameters, replace(fit, curve=None), objective, parameters.quantile_rounds
        )
    return boosters


def _train(
    inputs: Inputs,
    target: Vector,
    weights: Vector,
    parameters: LightgbmParameters,
    fit: Fit,
    objective: Mapping[str, object],
    rounds: int,
) -> Booster:
    import lightgbm

    options = {
        "max_bin": parameters.max_bin,
        "num_threads": fit.threads,
        "deterministic": True,
        "force_row_wise": True,
        "feature_pre_filter": False,
        "verbosity": -1,
    }
    data = lightgbm.Dataset(inputs, target, weight=weights, params=options)
    curves: dict[str, dict[str, list[float]]] = {}
    library = lightgbm.train(
        {
            "bagging_fraction": parameters.bagging_fraction,
            "bagging_freq": 1,
            "feature_fraction": parameters.feature_fraction,
            "lambda_l2": parameters.lambda_l2,
            "seed": fit.seed,
            **options,
            **objective,
        },
        data,
        rounds,
        valid_sets=[data] if fit.curve else None,
        valid_names=["train"] if fit.curve else None,
        callbacks=[lightgbm.record_evaluation(curves)] if fit.curve else None,
    )
    fit.draw(LOG_LOSS, curves["train"]["binary_logloss"] if curves else ())
    return Booster(library, inputs.shape[1])


def suggest(trial: optuna.trial.BaseTrial, incumbent: LightgbmParameters) -> LightgbmParameters:
    """Suggest the parameters of P(up); those of the quantiles are the incumbent's."""
    return replace(
        incumbent,
        rounds=trial.suggest_int("rounds", 60, 300),
        max_depth=trial.suggest_int("max_depth", 2, 6),
        learning_rate=trial.suggest_float("learning_rate", 0.01, 0.08, log=True),
        bagging_fraction=trial.suggest_float("bagging_fraction", 0.4, 1.0),
        feature_fraction=trial.suggest_float("feature_fraction", 0.2, 1.0),
        min_sum_hessian=trial.suggest_float("min_sum_hessian", 1.0, 200.0, log=True),
        lambda_l2=trial.suggest_float("lambda_l2", 0.5, 50.0, log=True),
    )


FAMILY = Family(
    name="lightgbm",
    about="gradient-boosted trees of LightGBM; P(up) and quantiles",
    parameters=LightgbmParameters,
    suggest=suggest,
    fit_direction=fit_direction,
    fit_quantiles=fit_quantiles,
    read=Booster.read,
    suffix="txt",
)
