"""Feature importance for P(up) from the SHAP values of the booster."""

from __future__ import annotations

import io
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import date
from pathlib import Path

import numpy as np
import numpy.typing as npt
import polars as pl

from btc_assets.learning.families.protocol import Inputs
from btc_assets.learning.tables import MODEL_EXPLANATION

EXPLAINED_ROWS = 1_000
"""Number of newest rows of the window to explain."""
BEESWARM_FEATURES = 15
"""Number of features in the plot."""


@dataclass(frozen=True)
class Explanation:
    """SHAP values of one booster.

    Attributes:
        values: (n, f), log-odds.
        inputs: (n, f), the explained rows.
        names: the f features.
    """

    values: npt.NDArray[np.float64]
    inputs: Inputs
    names: tuple[str, ...]

    def importance(self, cutoff: date, horizon: int) -> pl.DataFrame:
        """Return MODEL_EXPLANATION rows: mean |SHAP value|, most important feature first."""
        weight = np.abs(self.values).mean(axis=0)
        order = np.lexsort((np.arange(len(weight)), -weight))
        return pl.DataFrame(
            {
                "cutoff": [cutoff] * len(order),
                "horizon_hours": horizon,
                "feature": [self.names[i] for i in order],
                "mean_abs_shap": weight[order],
                "rank": np.arange(1, len(order) + 1),
            }
        ).cast(MODEL_EXPLANATION.columns)

    def beeswarm(self, title: str) -> bytes:
        """Return a beeswarm plot as PNG."""
        import matplotlib as mpl

        mpl.use("Agg")
        import matplotlib.pyplot as plt
        import shap

        figure = plt.figure()
        try:
            shap.plots.beeswarm(
                shap.Explanation(
                    values=self.values,
                    base_values=np.zeros(len(self.values)),
                    data=self.inputs,
                    feature_names=list(self.names),
                ),
                max_display=BEESWARM_FEATURES,
                show=False,
            )
            figure = plt.gcf()
            figure.axes[0].set_title(title)
            figure.set_size_inches(7, 5)
            png = io.BytesIO()
            figure.savefig(png, format="png", dpi=70, bbox_inches="tight")
            return png.getvalue()
        finally:
            plt.close(figure)


def explain(native: Path, inputs: Inputs, names: Sequence[str]) -> Explanation:
    """Compute exact SHAP values of a stored booster.

    Source: S. Lundberg et al. (2020), From local explanations to global understanding with explainable AI for trees.

    Args:
        native: file of the booster in XGBoost's format.
        inputs: rows, (n, f); only the newest `EXPLAINED_ROWS` are explained.
        names: the f features.
    """
    import shap
    import xgboost

    booster = xgboost.Booster()
    booster.load_model(bytearray(native.read_bytes()))
    rows = inputs[-EXPLAINED_ROWS:]
    values = shap.TreeExplainer(booster).shap_values(rows)
    return Explanation(np.asarray(values, dtype=np.float64), rows, tuple(names))
