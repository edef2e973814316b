"""From boosters to ONNX graphs, and the parity gate every graph must pass before it may be registered."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from btc_assets.learning.families.protocol import FittedOutput, Inputs
from btc_assets.learning.graph import Graphs

if TYPE_CHECKING:
    import xgboost

PARITY_TOLERANCE = 1e-5
"""Largest |ONNX - library| a graph may show: probabilities, or scaled returns."""
PARITY_ROWS = 2_000
"""Rows the two are compared on, a tenth of them with features knocked out."""


class ParityError(RuntimeError):
    """A graph does not answer as the library it came from does."""


def booster_to_onnx(booster: xgboost.Booster, features: int) -> bytes:
    """Convert one booster to ONNX: input `inputs` float32 (n, features), NaN as missing."""
    from onnxmltools.convert import convert_xgboost
    from onnxmltools.convert.common.data_types import FloatTensorType

    booster.feature_names = None
    graph = convert_xgboost(
        booster, name="booster", initial_types=[("inputs", FloatTensorType([None, features]))], target_opset=15
    )
    for node in graph.graph.node:
        if node.op_type == "TreeEnsembleClassifier":
            # P(up) starts from even odds, a raw score of 0; where the first tree is a bare zero leaf the
            # converter writes the probability 0.5 there instead.
            for attribute in node.attribute:
                if attribute.name == "base_values":
                    attribute.floats[:] = [0.0] * len(attribute.floats)
    graph.doc_string = ""
    return graph.SerializeToString(deterministic=True)


def parity_rows(inputs: Inputs, seed: int) -> Inputs:
    """Draw the rows of the parity gate: real ones, a tenth of them with random features missing."""
    rng = np.random.default_rng(seed)
    rows = inputs[rng.choice(len(inputs), size=min(PARITY_ROWS, len(inputs)), replace=False)].copy()
    holes = rng.random(rows.shape) < 0.3
    holes[rng.random(len(rows)) >= 0.1] = False
    rows[holes] = np.nan
    return rows


def parity_error(output: FittedOutput, graph: bytes, rows: Inputs) -> float:
    """Return the largest |ONNX - library| over the rows.

    Raises:
        ParityError: it is above `PARITY_TOLERANCE`, or either side is not finite.
    """
    opened = Graphs({"the converted graph": graph}, rows.shape[1])
    error = np.abs(output.predict(rows) - opened(rows.astype(np.float32, copy=False))[:, 0])
    worst = float(error.max()) if np.isfinite(error).all() else float("inf")
    if worst > PARITY_TOLERANCE:
        raise ParityError(
            f"an ONNX graph differs from its booster by {worst:.3g} on {len(rows)} rows "
            f"(allowed: {PARITY_TOLERANCE:g}); it is not registered"
        )
    return worst
