"""What each input adds to a forecast: SHAP values of an ensemble, in log-odds.

The log-odds of an ensemble are a weighted mean of its members' calibrated log-odds. The value of an input is the same
mean of its values in the members, each times the slope of its calibration. The server uses this module too: it needs
numpy and the libraries of the members only.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from btc_assets.learning.families.protocol import FittedOutput, Inputs, Vector
from btc_assets.learning.forecast_model import log_odds


@dataclass(frozen=True)
class Attribution:
    """The parts of n forecasts of P(up); they add up to its log-odds.

    Attributes:
        base: log-odds without any contribution, (n,).
        values: contribution of each of the f inputs, log-odds, (n, f).
        unexplained: log-odds of the members whose family has no SHAP values, (n,); 0 if every family has.
    """

    base: Vector
    values: Vector
    unexplained: Vector

    @property
    def score(self) -> Vector:
        """Log-odds of the forecasts, (n,)."""
        return self.base + self.values.sum(axis=1) + self.unexplained


def attribute(
    document: Mapping[str, Any], members: Mapping[str, FittedOutput], rows: Inputs, weights: Vector, horizon: int
) -> Attribution:
    """Attribute the forecasts of an ensemble to its inputs.

    Args:
        document: `model.json`.
        members: P(up) of each member by name, in its library.
        rows: float32, (n, f), columns in the order of the document's features.
        weights: weight of each member, (m, n) or (m, 1), 0 where it abstains, see `ForecastModel.weigh`.
        horizon: minutes ahead.
    """
    n, width, key = *rows.shape, str(horizon)
    base, values, unexplained = np.zeros(n), np.zeros((n, width)), np.zeros(n)
    mass = weights.sum(axis=0) + document["weights"]["coin"][key]
    shares = weights / np.where(mass > 0, mass, 1.0)
    for member, share in zip(document["members"], shares, strict=True):
        output, columns = members[member["name"]], member["features"]
        slope, intercept = (float(member["calibration"][key][part]) for part in ("slope", "intercept"))
        own = np.ascontiguousarray(rows[:, columns])
        contributions = output.contributions(own)
        if contributions is None:
            unexplained += share * (slope * log_odds(output.predict(own)) + intercept)
        else:
            base += share * (slope * output.base + intercept)
            values[:, columns] += share[:, None] * slope * contributions
    return Attribution(base, values, unexplained)
