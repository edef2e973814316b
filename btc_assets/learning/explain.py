"""Feature importance for P(up) from SHAP values."""

from __future__ import annotations

import io
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import date

import numpy as np
import numpy.typing as npt
import polars as pl

from btc_assets.learning.attribution import attribute
from btc_assets.learning.ensemble import ensemble_of
from btc_assets.learning.families.protocol import FittedOutput, Inputs
from btc_assets.learning.forecast_model import ForecastModel
from btc_assets.learning.tables import MODEL_EXPLANATION

EXPLAINED_ROWS = 1_000
"""Number of newest rows of the window to explain."""
BEESWARM_FEATURES = 15
"""Number of features in the plot."""


@dataclass(frozen=True)
class Explanation:
    """SHAP values of one output.

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
                "horizon_minutes": horizon,
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


def explain(model: ForecastModel, members: Mapping[str, FittedOutput], inputs: Inputs, horizon: int) -> Explanation:
    """Compute the SHAP values of an ensemble's P(up), in log-odds, as if no member abstained.

    A member whose family has no such values is left out; of the weights of the terciles the mean counts.

    Args:
        model: the ensemble.
        members: P(up) of each member by name, in its library.
        inputs: rows, (n, f), columns in the order of the model's features; only the newest `EXPLAINED_ROWS` are
            explained.
        horizon: minutes ahead.
    """
    rows = inputs[-EXPLAINED_ROWS:]
    weights = np.repeat(ensemble_of(model.document, horizon).weights.mean(axis=0)[:, None], len(rows), axis=1)
    return Explanation(attribute(model.document, members, rows, weights, horizon).values, rows, model.features)
