"""The interface of a model family: fit on rows, predict and export ONNX graphs."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Protocol, Self

import numpy as np
import numpy.typing as npt

Inputs = npt.NDArray[np.float32]
Vector = npt.NDArray[np.float64]


class Forecaster(Protocol):
    """One model of one horizon: P(up) and the quantiles of the scaled return.

    Targets are *scaled* returns (log return divided by the volatility of the row), so that one set of quantiles is
    valid for low and high volatility; see `learning.forecast_model.row_scale`.
    """

    def fit_direction(self, inputs: Inputs, up: Vector, weights: Vector) -> Self:
        """Fit P(up) on inputs (n, f), `up` (n,), 1.0 where the return was positive, and row weights (n,)."""
        ...

    def fit_quantiles(self, inputs: Inputs, scaled: Vector, weights: Vector) -> Self:
        """Fit the quantiles on inputs (n, f), scaled returns (n,) and row weights (n,)."""
        ...

    def p_up(self, inputs: Inputs) -> Vector:
        """Return the probability of a rise, (n,)."""
        ...

    def quantiles(self, inputs: Inputs) -> npt.NDArray[np.float64]:
        """Return the quantiles of the scaled return, (n, 5), in the order of `vocabulary.QUANTILES`."""
        ...

    def outputs(self) -> Mapping[str, FittedOutput]:
        """Return every fitted output by name: p_up, q05, q25, q50, q75, q95."""
        ...


class FittedOutput(Protocol):
    """One fitted output that can be exported."""

    @property
    def trees(self) -> int:
        """Number of trees."""
        ...

    def predict(self, inputs: Inputs) -> Vector:
        """Return the library's output, (n,)."""
        ...

    def onnx(self) -> bytes:
        """Return the ONNX graph: float32 input (n, f) with NaN as missing."""
        ...

    def native(self) -> bytes:
        """Return the output in the library's portable format; never a pickle."""
        ...
