"""Gradient-boosted trees (XGBoost, histogram method): one booster for P(up) and one per quantile.

There is one booster per quantile because the ONNX conversion of a multi-quantile booster silently gives wrong values.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import TYPE_CHECKING, Self

import numpy as np
import numpy.typing as npt

from btc_assets.learning.families.protocol import Inputs, Vector
from btc_assets.vocabulary import QUANTILE_NAMES, QUANTILES

if TYPE_CHECKING:
    import xgboost


@dataclass(frozen=True)
class BoostingParameters:
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
        half_life_days: age at which the weight of an hour is half that of the newest one.
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
    half_life_days: float = 365.0

    def to_json(self) -> str:
        """Return the parameters as a JSON object with sorted keys."""
        return json.dumps(asdict(self), sort_keys=True)

    @classmethod
    def from_json(cls, text: str) -> BoostingParameters:
        """Parse the output of `to_json`.

        Raises:
            ValueError: a name is unknown.
        """
        stored = json.loads(text)
        unknown = set(stored) - {field.name for field in fields(cls)}
        if unknown:
            raise ValueError(f"unknown boosting parameters {sorted(unknown)}: tune this cutoff again")
        return cls(**stored)


@dataclass(frozen=True)
class BoostedOutput:
    """One fitted booster."""

    booster: xgboost.Booster
    features: int

    @classmethod
    def read(cls, path: Path, features: int) -> Self:
        """Read a file with the output of `native`."""
        import xgboost

        return cls(xgboost.Booster({"nthread": 1}, model_file=str(path)), features)

    @property
    def trees(self) -> int:
        """Number of trees."""
        return self.booster.num_boosted_rounds()

    def predict(self, inputs: Inputs) -> Vector:
        """Return the booster's output, (n,)."""
        return self.booster.inplace_predict(inputs).astype(np.float64)

    def onnx(self) -> bytes:
        """Return the ONNX graph."""
        from btc_assets.learning.export import booster_to_onnx

        return booster_to_onnx(self.booster, self.features)

    def native(self) -> bytes:
        """Return the booster as universal binary JSON."""
        return bytes(self.booster.save_raw("ubj"))


class GradientBoosting:
    """XGBoost forecaster of one horizon; deterministic for a seed and a thread count."""

    def __init__(self, parameters: BoostingParameters, *, seed: int, threads: int) -> None:
        """Store the options shared by every fit."""
        self.parameters = parameters
        self.seed = seed
        self.threads = threads
        self._outputs: dict[str, BoostedOutput] = {}
        self._binned: tuple[Inputs, Vector, xgboost.QuantileDMatrix] | None = None

    def fit_direction(self, inputs: Inputs, up: Vector, weights: Vector) -> Self:
        """Fit P(up) by logistic loss."""
        p = self.parameters
        self._outputs["p_up"] = self._fit(
            inputs,
            up,
            weights,
            {
                "objective": "binary:logistic",
                "base_score": 0.5,
                "max_depth": p.max_depth,
                "eta": p.eta,
                "min_child_weight": p.min_child_weight,
            },
            p.rounds,
        )
        return self

    def fit_quantiles(self, inputs: Inputs, scaled: Vector, weights: Vector) -> Self:
        """Fit each quantile by pinball loss."""
        p = self.parameters
        for name, level in zip(QUANTILE_NAMES, QUANTILES, strict=True):
            self._outputs[name] = self._fit(
                inputs,
                scaled,
                weights,
                {
                    "objective": "reg:quantileerror",
                    "quantile_alpha": level,
                    "base_score": float(np.quantile(scaled, level)),
                    "max_depth": p.quantile_depth,
                    "eta": p.quantile_eta,
                },
                p.quantile_rounds,
            )
        return self

    def _fit(
        self, inputs: Inputs, target: Vector, weights: Vector, objective: Mapping[str, object], rounds: int
    ) -> BoostedOutput:
        import xgboost

        p = self.parameters
        data = self._matrix(inputs, weights)
        data.set_label(target)
        booster = xgboost.train(
            {
                "tree_method": "hist",
                "max_bin": p.max_bin,
                "subsample": p.subsample,
                "colsample_bytree": p.colsample_bytree,
                "reg_lambda": p.reg_lambda,
                "seed": self.seed,
                "nthread": self.threads,
                "verbosity": 0,
                **objective,
            },
            data,
            rounds,
        )
        return BoostedOutput(booster, inputs.shape[1])

    def _matrix(self, inputs: Inputs, weights: Vector) -> xgboost.QuantileDMatrix:
        """Return the binned rows; outputs fitted on the same rows share them, as binning takes as long as a fit."""
        import xgboost

        if self._binned is None or self._binned[0] is not inputs or self._binned[1] is not weights:
            data = xgboost.QuantileDMatrix(
                inputs, weight=weights, max_bin=self.parameters.max_bin, nthread=self.threads
            )
            self._binned = (inputs, weights, data)
        return self._binned[2]

    def p_up(self, inputs: Inputs) -> Vector:
        """Return the probability of a rise, (n,)."""
        return self._outputs["p_up"].predict(inputs)

    def quantiles(self, inputs: Inputs) -> npt.NDArray[np.float64]:
        """Return the quantiles of the scaled return, (n, 5)."""
        return np.column_stack([self._outputs[name].predict(inputs) for name in QUANTILE_NAMES])

    def outputs(self) -> Mapping[str, BoostedOutput]:
        """Return every fitted output by name."""
        return self._outputs
