"""The parity of ONNX graphs with their libraries, which registration requires."""

from __future__ import annotations

import numpy as np

from btc_assets.learning.families.protocol import FittedOutput, Inputs
from btc_assets.learning.graph import Graphs

PARITY_ROWS = 2_000
"""Number of compared rows; a tenth of them have features set to missing."""


class ParityError(RuntimeError):
    """The output of a graph differs from that of its library."""


def parity_rows(inputs: Inputs, seed: int) -> Inputs:
    """Sample the rows of the parity check; a tenth of them have random features set to missing."""
    rng = np.random.default_rng(seed)
    rows = inputs[rng.choice(len(inputs), size=min(PARITY_ROWS, len(inputs)), replace=False)].copy()
    missing = rng.random(rows.shape) < 0.3
    missing[rng.random(len(rows)) >= 0.1] = False
    rows[missing] = np.nan
    return rows


def parity_error(output: FittedOutput, graph: bytes, rows: Inputs, tolerance: float) -> float:
    """Return the largest |ONNX - library| over the rows.

    Raises:
        ParityError: the difference exceeds the tolerance, or a value is not finite.
    """
    run_graph = Graphs({"the converted graph": graph}, rows.shape[1])
    error = np.abs(output.predict(rows) - run_graph(rows.astype(np.float32, copy=False))[:, 0])
    worst = float(error.max()) if np.isfinite(error).all() else float("inf")
    if worst > tolerance:
        raise ParityError(
            f"an ONNX graph differs from its library by {worst:.3g} on {len(rows)} rows "
            f"(allowed: {tolerance:g}); it is not registered"
        )
    return worst
