"""Scores that are a sum over columns, and the scaling of columns that they share.

Every column is winsorised and standardised by constants of the training rows, and a missing value becomes 0, its mean:

    z_i = (clip(x_i, low_i, high_i) - mean_i) / spread_i
    score = intercept + sum_i (linear_i * z_i + square_i * z_i^2)

The ONNX graph computes in float64, so that neither the size of a batch nor the place of a row in it changes a forecast.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import asdict, dataclass
from functools import cache
from typing import Any, Self

import numpy as np

from btc_assets.learning.families.protocol import Inputs, Vector
from btc_assets.learning.forecast_model import log_odds
from btc_assets.learning.graph import OPSET

TAILS = (0.01, 0.99)
"""Quantiles of a column at which its values are winsorised."""
BLOCKS = 4
"""Number of blocks of time for scores of rows not fitted on."""


@dataclass(frozen=True, eq=False)
class Scaling:
    """The scaling of columns, learnt from training rows.

    Attributes:
        low: lower winsorising bound, (f,).
        high: upper winsorising bound, (f,).
        mean: mean of the known winsorised values, (f,).
        spread: their standard deviation, 1 for a column without variation, (f,).
    """

    low: Vector
    high: Vector
    mean: Vector
    spread: Vector

    @classmethod
    def of(cls, inputs: Inputs) -> Self:
        """Learn the scaling of the columns of training rows, (n, f); a column without values becomes 0."""
        columns = inputs.T.astype(np.float64)
        known = [column[~np.isnan(column)] for column in columns]
        known = [values if len(values) else np.zeros(1) for values in known]
        low, high = np.array([np.quantile(values, TAILS) for values in known]).T
        clipped = [np.clip(*bounds) for bounds in zip(known, low, high, strict=True)]
        spread = np.array([values.std() for values in clipped])
        return cls(low, high, np.array([values.mean() for values in clipped]), np.where(spread > 0, spread, 1.0))

    def __call__(self, inputs: Inputs) -> Vector:
        """Return the scaled columns, (n, f), without missing values."""
        z = (np.clip(inputs.astype(np.float64), self.low, self.high) - self.mean) / self.spread
        z[np.isnan(z)] = 0.0
        return z


@dataclass(frozen=True, eq=False)
class LinearOutput:
    """A fitted output whose score is a sum over columns.

    Attributes:
        scaling: scaling of the columns.
        linear: coefficients of the scaled columns, (f,).
        square: coefficients of their squares, (f,).
        centre: mean of each column's term over the training rows, (f,): what its contribution is measured from.
        intercept: score of a row of zeros.
        probability: whether the output is the sigmoid of the score.
    """

    scaling: Scaling
    linear: Vector
    square: Vector
    centre: Vector
    intercept: float
    probability: bool

    @classmethod
    def of(
        cls,
        scaling: Scaling,
        scaled: Vector,
        linear: Vector,
        intercept: float,
        *,
        square: Vector | None = None,
        probability: bool = True,
    ) -> Self:
        """Return an output for coefficients fitted on scaled training rows, (n, f)."""
        square = np.zeros_like(linear) if square is None else square
        centre = linear * scaled.mean(axis=0) + square * np.square(scaled).mean(axis=0)
        return cls(scaling, linear, square, centre, float(intercept), probability)

    @classmethod
    def constant(cls, inputs: Inputs, score: float, *, probability: bool = True) -> Self:
        """Return an output with the same score for every row of (n, f) inputs."""
        zeros = np.zeros(inputs.shape[1])
        scaling = Scaling(zeros, zeros, zeros, zeros + 1)
        return cls(scaling, zeros, zeros, zeros, float(score), probability)

    @classmethod
    def read(cls, content: bytes, width: int) -> Self:
        """Read the output of `native`.

        Raises:
            ValueError: it has another number of columns.
        """
        stored: dict[str, Any] = json.loads(content)
        scaling = Scaling(**{name: np.array(values) for name, values in stored.pop("scaling").items()})
        if len(scaling.mean) != width:
            raise ValueError(f"expected an output of {width} columns, got one of {len(scaling.mean)}")
        arrays: dict[str, Any] = {name: np.array(v) if isinstance(v, list) else v for name, v in stored.items()}
        return cls(scaling, **arrays)

    @property
    def trees(self) -> int:
        """Number of trees: none."""
        return 0

    @property
    def base(self) -> float:
        """Mean score of the training rows."""
        return self.intercept + float(self.centre.sum())

    def predict(self, inputs: Inputs) -> Vector:
        """Return the output, (n,)."""
        score = self._terms(inputs).sum(axis=1) + self.intercept
        return 1 / (1 + np.exp(-score)) if self.probability else score

    def contributions(self, inputs: Inputs) -> Vector:
        """Return the SHAP values, (n, f): of a sum, each term less its mean over the training rows.

        Source: S. Lundberg, S. Lee (2017), A unified approach to interpreting model predictions, corollary 1.
        """
        return self._terms(inputs) - self.centre

    def _terms(self, inputs: Inputs) -> Vector:
        z = self.scaling(inputs)
        return z * (self.linear + self.square * z)

    def onnx(self) -> bytes:
        """Return the ONNX graph with input `inputs`."""
        from onnx import TensorProto, helper, numpy_helper

        node, width, scaling = helper.make_node, len(self.linear), self.scaling
        constants = {
            "low": scaling.low,
            "high": scaling.high,
            "mean": scaling.mean,
            "linear": (self.linear / scaling.spread)[:, None],
            "intercept": np.array([self.intercept]),
        }
        nodes = [
            node("Cast", ["inputs"], ["x"], to=TensorProto.DOUBLE),
            node("IsNaN", ["x"], ["missing"]),
            node("Where", ["missing", "mean", "x"], ["known"]),
            node("Max", ["known", "low"], ["raised"]),
            node("Min", ["raised", "high"], ["clipped"]),
            node("Sub", ["clipped", "mean"], ["centred"]),
            node("MatMul", ["centred", "linear"], ["terms"]),
        ]
        total = "terms"
        if self.square.any():
            constants["square"] = (self.square / scaling.spread**2)[:, None]
            nodes += [
                node("Mul", ["centred", "centred"], ["squares"]),
                node("MatMul", ["squares", "square"], ["square_terms"]),
                node("Add", ["terms", "square_terms"], ["all_terms"]),
            ]
            total = "all_terms"
        nodes.append(node("Add", [total, "intercept"], ["score"]))
        if self.probability:
            nodes.append(node("Sigmoid", ["score"], ["probability"]))
        nodes.append(node("Cast", [nodes[-1].output[0]], ["output"], to=TensorProto.FLOAT))
        graph = helper.make_graph(
            nodes,
            "linear",
            [helper.make_tensor_value_info("inputs", TensorProto.FLOAT, [None, width])],
            [helper.make_tensor_value_info("output", TensorProto.FLOAT, [None, 1])],
            [numpy_helper.from_array(values, name) for name, values in constants.items()],
        )
        model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", OPSET)], ir_version=8)
        return model.SerializeToString(deterministic=True)

    def native(self) -> bytes:
        """Return the output as JSON."""
        return json.dumps(asdict(self), sort_keys=True, default=np.ndarray.tolist).encode()


def base_rate(up: Vector, weights: Vector) -> float:
    """Return the weighted share of rises, with a rise and a fall of mean weight added so that it is never 0 or 1."""
    return float((weights @ up / weights.mean() + 1) / (len(up) + 2))


def constant_direction(inputs: Inputs, up: Vector, weights: Vector) -> LinearOutput:
    """Return P(up) without features: the base rate."""
    return LinearOutput.constant(inputs, float(log_odds(np.array([base_rate(up, weights)]))[0]))


def one_class(up: Vector) -> bool:
    """Return whether all rows rise or none does, so that there is nothing to separate."""
    return bool(up.min() == up.max())


@cache
def use_one_blas_thread() -> None:
    """Make matrix products of this process use one thread from now on.

    Fits run next to each other, one thread each, and the number of threads would change the last digits of their
    coefficients. A limit for the time of a fit would be lifted by the first of several fits that ends.
    """
    from threadpoolctl import threadpool_limits

    threadpool_limits(limits=1, user_api="blas")


def out_of_block(
    fit: Callable[[Vector, Vector, Vector], Callable[[Vector], Vector]], z: Vector, up: Vector, weights: Vector
) -> Vector:
    """Return the score of every row by a fit on the other blocks of time, (n,).

    Args:
        fit: (rows, up, weights) -> the score of rows.
        z: rows in time order, (n, f).
        up: 1.0 where the return was positive, (n,).
        weights: row weights, (n,).
    """
    score = np.zeros(len(z))
    for block in np.array_split(np.arange(len(z)), BLOCKS):
        others = np.delete(np.arange(len(z)), block)
        if len(block) and not one_class(up[others]):
            score[block] = fit(z[others], up[others], weights[others])(z[block])
    return score


def fit_sigmoid(score: Vector, up: Vector, weights: Vector) -> tuple[float, float]:
    """Return slope (at least 0) and intercept of P(up) = sigmoid(slope * score + intercept).

    Source: J. Platt (1999), Probabilistic outputs for support vector machines.
    """
    from sklearn.linear_model import LogisticRegression

    spread = float(score.std()) or 1.0
    model = LogisticRegression(solver="newton-cholesky")
    model.fit((score / spread)[:, None], up, sample_weight=weights)
    return max(0.0, float(model.coef_[0, 0]) / spread), float(model.intercept_[0])
