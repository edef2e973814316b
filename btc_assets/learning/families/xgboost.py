"""Gradient-boosted trees (XGBoost, histogram method): one booster for P(up) and one per quantile.

There is one booster per quantile because the ONNX conversion of a multi-quantile booster silently gives wrong values.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import cached_property
from typing import TYPE_CHECKING, Self

import numpy as np

from btc_assets.learning.families.protocol import LOG_LOSS, Family, Fit, Inputs, Parameters, Vector
from btc_assets.vocabulary import QUANTILE_NAMES, QUANTILES

if TYPE_CHECKING:
    import optuna
    import xgboost


@dataclass(frozen=True)
class XgboostParameters(Parameters):
    """Parameters of one horizon's boosters.

    Attributes:
        rounds: number of trees of P(up).
        max_depth: maximum depth of a tree of P(up).
        eta: learning rate of P(up).
        subsample: share of rows sampled per tree.
        colsample_bytree: share of features sampled per tree.
        min_child_weight: minimum sum of hessians in a leaf of P(up); a row contributes about 0.25.
        reg_lambda: L2 regularisation of leaf values.
        max_bin: maximum number of histogram bins per feature.
        quantile_rounds: number of trees of a quantile.
        quantile_depth: maximum depth of a tree of a quantile.
        quantile_eta: learning rate of a quantile.
    """

    rounds: int = 150
    max_depth: int = 6
    eta: float = 0.02
    subsample: float = 0.5
    colsample_bytree: float = 0.3
    min_child_weight: float = 50.0
    reg_lambda: float = 10.0
    max_bin: int = 64
    quantile_rounds: int = 40
    quantile_depth: int = 3
    quantile_eta: float = 0.1


@dataclass(frozen=True)
class Booster:
    """One fitted booster.

    Attributes:
        library: XGBoost's booster.
        width: number of columns of its inputs.
    """

    library: xgboost.Booster
    width: int

    @classmethod
    def read(cls, content: bytes, width: int) -> Self:
        """Read the output of `native`."""
        import xgboost

        library = xgboost.Booster({"nthread": 1})
        library.load_model(bytearray(content))
        return cls(library, width)

    @property
    def trees(self) -> int:
        """Number of trees."""
        return self.library.num_boosted_rounds()

    @cached_property
    def base(self) -> float:
        """Mean score over the training rows that reach the leaves."""
        return float(self._shap(np.zeros((1, self.width), dtype=np.float32))[0, -1])

    def predict(self, inputs: Inputs) -> Vector:
        """Return the booster's output, (n,)."""
        return self.library.inplace_predict(inputs).astype(np.float64)

    def contributions(self, inputs: Inputs) -> Vector:
        """Return the SHAP values, (n, width).

        Source: S. Lundberg et al. (2020), From local explanations to global understanding with explainable AI for
        trees.
        """
        return self._shap(inputs)[:, :-1]

    def _shap(self, inputs: Inputs) -> Vector:
        import xgboost

        rows = xgboost.DMatrix(inputs, nthread=1)
        values = self.library.predict(rows, pred_contribs=True, validate_features=False)
        return np.asarray(values, dtype=np.float64)

    def onnx(self) -> bytes:
        """Return the ONNX graph with input `inputs`."""
        from onnxmltools.convert import convert_xgboost
        from onnxmltools.convert.common.data_types import FloatTensorType

        self.library.feature_names = None
        graph = convert_xgboost(
            self.library,
            name="booster",
            initial_types=[("inputs", FloatTensorType([None, self.width]))],
            target_opset=15,
        )
        for node in graph.graph.node:
            if node.op_type == "TreeEnsembleClassifier":
                # The base score is a raw score of 0 (P(up) = 0.5); if the first tree is a single zero leaf, the
                # converter writes the probability 0.5 instead.
                for attribute in node.attribute:
                    if attribute.name == "base_values":
                        attribute.floats[:] = [0.0] * len(attribute.floats)
        graph.doc_string = ""
        return graph.SerializeToString(deterministic=True)

    def native(self) -> bytes:
        """Return the booster as universal binary JSON."""
        return bytes(self.library.save_raw("ubj"))


def fit_direction(inputs: Inputs, up: Vector, weights: Vector, parameters: XgboostParameters, fit: Fit) -> Booster:
    """Fit P(up) by logistic loss."""
    objective = {
        "objective": "binary:logistic",
        "base_score": 0.5,
        "max_depth": parameters.max_depth,
        "eta": parameters.eta,
        "min_child_weight": parameters.min_child_weight,
    }
    return _train(inputs, up, weights, parameters, fit, objective, parameters.rounds)


def fit_quantiles(
    inputs: Inputs, scaled: Vector, weights: Vector, parameters: XgboostParameters, fit: Fit
) -> dict[str, Booster]:
    """Fit each quantile by pinball loss."""
    boosters = {}
    for name, level in zip(QUANTILE_NAMES, QUANTILES, strict=True):
        objective = {
            "objective": "reg:quantileerror",
            "quantile_alpha": level,
            "base_score": float(np.quantile(scaled, level)),
            "max_depth": parameters.quantile_depth,
            "eta": parameters.quantile_eta,
        }
        boosters[name] = _train(
            inputs, scaled, weights, parameters, replace(fit, curve=None), objective, parameters.quantile_rounds
        )
    return boosters


def _train(
    inputs: Inputs,
    target: Vector,
    weights: Vector,
    parameters: XgboostParameters,
    fit: Fit,
    objective: Mapping[str, object],
    rounds: int,
) -> Booster:
    import xgboost

    data = _binned(inputs, weights, parameters.max_bin, fit)
    data.set_label(target)
    curves: dict[str, dict[str, list[float]]] = {}
    library = xgboost.train(
        {
            "tree_method": "hist",
            "max_bin": parameters.max_bin,
            "subsample": parameters.subsample,
            "colsample_bytree": parameters.colsample_bytree,
            "reg_lambda": parameters.reg_lambda,
            "seed": fit.seed,
            "nthread": fit.threads,
            "verbosity": 0,
            **objective,
        },
        data,
        rounds,
        evals=[(data, "train")] if fit.curve else (),
        evals_result=curves,
        verbose_eval=False,
    )
    fit.draw(LOG_LOSS, curves["train"]["logloss"] if curves else ())
    return Booster(library, inputs.shape[1])


def _binned(inputs: Inputs, weights: Vector, max_bin: int, fit: Fit) -> xgboost.QuantileDMatrix:
    """Return the binned rows; fits on the same rows share them, as binning takes as long as a fit."""
    import xgboost

    shared = fit.prepared.get("xgboost")
    if shared is None or shared[0] is not inputs or shared[1] is not weights or shared[2] != max_bin:
        data = xgboost.QuantileDMatrix(inputs, weight=weights, max_bin=max_bin, nthread=fit.threads)
        shared = fit.prepared["xgboost"] = (inputs, weights, max_bin, data)
    return shared[3]


def suggest(trial: optuna.trial.BaseTrial, incumbent: XgboostParameters) -> XgboostParameters:
    """Suggest the parameters of P(up); those of the quantiles are the incumbent's."""
    return replace(
        incumbent,
        rounds=trial.suggest_int("rounds", 60, 300),
        max_depth=trial.suggest_int("max_depth", 2, 6),
        eta=trial.suggest_float("eta", 0.01, 0.08, log=True),
        subsample=trial.suggest_float("subsample", 0.4, 1.0),
        colsample_bytree=trial.suggest_float("colsample_bytree", 0.2, 1.0),
        min_child_weight=trial.suggest_float("min_child_weight", 1.0, 200.0, log=True),
        reg_lambda=trial.suggest_float("reg_lambda", 0.5, 50.0, log=True),
    )


FAMILY = Family(
    name="xgboost",
    about="gradient-boosted trees of XGBoost; P(up) and quantiles",
    parameters=XgboostParameters,
    suggest=suggest,
    fit_direction=fit_direction,
    fit_quantiles=fit_quantiles,
    read=Booster.read,
    suffix="ubj",
)
