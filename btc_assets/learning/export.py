"""Convert boosters to ONNX graphs, and check the parity that registration requires."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from btc_assets.learning.families.protocol import FittedOutput, Inputs
from btc_assets.learning.graph import Graphs

if TYPE_CHECKING:
    import xgboost

PARITY_TOLERANCE = 1e-5
"""Maximum |ONNX - library| of a graph, as probability or scaled return."""
PARITY_ROWS = 2_000
"""Number of compared rows; a tenth of them have features set to missing."""


class ParityError(RuntimeError):
    """The output of a graph differs from that of its library."""


def booster_to_onnx(booster: xgboost.Booster, features: int) -> bytes:
    """Convert a booster to ONNX with input `inputs`, float32 (n, features), NaN as missing."""
    from onnxmltools.convert import convert_xgboost
    from onnxmltools.convert.common.data_types import FloatTensorType

    booster.feature_names = None
    graph = convert_xgboost(
        booster, name="booster", initial_types=[("inputs", FloatTensorType([None, features]))], target_opset=15
    )
    for node in graph.graph.node:
        if node.op_type == "TreeEnsembleClassifier":
            # The base score is a raw score of 0 (P(up) = 0.5); if the first tree is a single zero leaf, the converter
            # writes the probability 0.5 instead.
            for attribute in node.attribute:
                if attribute.name == "base_values":
                    attribute.floats[:] = [0.0] * len(attribute.floats)
    graph.doc_string = ""
    return graph.SerializeToString(deterministic=True)


def parity_rows(inputs: Inputs, seed: int) -> Inputs:
    """Sample the rows of the parity check; a tenth of them have random features set to missing."""
    rng = np.random.default_rng(seed)
    rows = inputs[rng.choice(len(inputs), size=min(PARITY_ROWS, len(inputs)), replace=False)].copy()
    missing = rng.random(rows.shape) < 0.3
    missing[rng.random(len(rows)) >= 0.1] = False
    rows[missing] = np.nan
    return rows


def parity_error(output: FittedOutput, graph: bytes, rows: Inputs) -> float:
    """Return the largest |ONNX - library| over the rows.

    Raises:
        ParityError: the difference exceeds `PARITY_TOLERANCE`, or a value is not finite.
    """
    run_graph = Graphs({"the converted graph": graph}, rows.shape[1])
    error = np.abs(output.predict(rows) - run_graph(rows.astype(np.float32, copy=False))[:, 0])
    worst = float(error.max()) if np.isfinite(error).all() else float("inf")
    if worst > PARITY_TOLERANCE:
        raise ParityError(
            f"an ONNX graph differs from its booster by {worst:.3g} on {len(rows)} rows "
            f"(allowed: {PARITY_TOLERANCE:g}); it is not registered"
        )
    return worst
