"""Calibrate probabilities and intervals on out-of-fold forecasts."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from btc_assets.learning.families.protocol import Vector
from btc_assets.learning.forecast_model import calibrated, log_odds
from btc_assets.vocabulary import PRIMARY, QUANTILE_NAMES, QUANTILES, hours_spanned

SLOPE_SPREAD = 0.25
"""Prior standard deviation of the slope around 1."""
INTERCEPT_SPREAD = 0.05
"""Prior standard deviation of the intercept around 0, log-odds."""
SIZE_SLOPE_SPREAD = 1.0
"""Prior standard deviation of the slope of the size around 1."""


@dataclass(frozen=True)
class Calibration:
    """P(up) after calibration is sigmoid(slope * logit(p) + intercept)."""

    slope: float = 1.0
    intercept: float = 0.0

    def __call__(self, p_up: Vector) -> Vector:
        """Return calibrated probabilities, (n,)."""
        return calibrated(p_up, self.slope, self.intercept)

    def document(self) -> dict[str, float]:
        """Return the calibration in the format of `model.json`."""
        return {"slope": self.slope, "intercept": self.intercept}


def fit_calibration(p_up: Vector, up: Vector, *, horizon: int = PRIMARY) -> Calibration:
    """Fit Platt scaling with a prior at the identity.

    An hourly edge is small compared with its noise, so an unregularised slope fitted on a few thousand hours is mostly
    noise. Normal priors on slope and intercept shrink both towards no change.

    Source: J. Platt (1999), Probabilistic outputs for support vector machines; maximum a posteriori here.

    Args:
        p_up: out-of-fold probabilities, (n,).
        up: 1.0 where the return was positive, (n,).
        horizon: minutes each outcome spans; outcomes that overlap for h hours count as 1 / h of a row each.
    """
    from scipy.optimize import minimize

    logit, span = log_odds(p_up), hours_spanned(horizon)

    def loss(theta: npt.NDArray[np.float64]) -> tuple[float, npt.NDArray[np.float64]]:
        slope, intercept = theta
        score = slope * logit + intercept
        prior = 0.5 * ((slope - 1) / SLOPE_SPREAD) ** 2 + 0.5 * (intercept / INTERCEPT_SPREAD) ** 2
        residual = 1 / (1 + np.exp(-score)) - up
        gradient = np.array(
            [
                residual @ logit / span + (slope - 1) / SLOPE_SPREAD**2,
                residual.sum() / span + intercept / INTERCEPT_SPREAD**2,
            ]
        )
        return float((np.logaddexp(0, score).sum() - up @ score) / span + prior), gradient

    slope, intercept = minimize(loss, np.array([1.0, 0.0]), jac=True, method="BFGS").x
    return Calibration(float(slope), float(intercept))


def conformal_offsets(
    scaled: Vector, quantiles: npt.NDArray[np.float64], *, horizon: int = PRIMARY
) -> dict[str, float]:
    """Return the offset of each scaled quantile that gives intervals their nominal coverage.

    Conformalised quantile regression: the score of a row is the distance of the outcome outside its interval (negative
    inside), and the interval is widened or narrowed by a quantile of the score.

    Source: Y. Romano, E. Patterson, E. Candes (2019), Conformalized quantile regression.

    Args:
        scaled: out-of-fold outcomes in scaled units, (n,).
        quantiles: out-of-fold scaled quantiles, (n, 5), in the order of `vocabulary.QUANTILES`.
        horizon: minutes each outcome spans; outcomes that overlap for h hours count as 1 / h of a row each.
    """
    offsets = {}
    n, span = len(scaled), hours_spanned(horizon)
    for low in range(len(QUANTILES) // 2):
        high = len(QUANTILES) - 1 - low
        coverage = QUANTILES[high] - QUANTILES[low]
        score = np.maximum(quantiles[:, low] - scaled, scaled - quantiles[:, high])
        rank = min(1.0, np.ceil((n + span) * coverage) / n)  # (m + 1) / m of the coverage with m = n / span outcomes
        shift = float(np.quantile(score, rank, method="higher"))
        offsets[QUANTILE_NAMES[low]] = -shift
        offsets[QUANTILE_NAMES[high]] = shift
    return offsets


def fit_size_slope(size: Vector, scaled: Vector, *, horizon: int = PRIMARY) -> float:
    """Return the slope, 0 or more, of the expected scaled return in the forecast of its signed root.

    Least squares with a normal prior around 1: the mean of a normal variable with a small edge in its sign is about as
    large as that of its signed root.

    Args:
        size: out-of-fold forecasts of the signed root, (n,).
        scaled: returns in units of their scale, (n,).
        horizon: minutes each outcome spans; outcomes that overlap for h hours count as 1 / h of a row each.
    """
    span, prior = hours_spanned(horizon), 1 / SIZE_SLOPE_SPREAD**2
    return max(0.0, float((size @ scaled / span + prior) / (size @ size / span + prior)))
