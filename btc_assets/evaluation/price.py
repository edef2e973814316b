"""Errors of price forecasts in USD.

They are reported because people ask for them; they say little about skill. A price an hour ahead is the present price
plus a small move, so the forecast "the price stays" already explains nearly all of the variance of prices over months.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from btc_assets.evaluation.significance import Floats, finite_rows


@dataclass(frozen=True)
class PriceErrors:
    """Errors of price forecasts.

    Attributes:
        rmse: root of the mean squared error, USD.
        mae: mean absolute error, USD.
        r2: 1 - squared error / squared distance of the prices from their mean; None if the prices are all the same.
    """

    rmse: float
    mae: float
    r2: float | None


def price_errors(forecast: npt.ArrayLike, outcome: npt.ArrayLike) -> PriceErrors:
    """Return the errors of price forecasts.

    Args:
        forecast: forecast prices, USD, (n,), at least one row.
        outcome: the prices, USD, (n,).
    """
    expected, price = finite_rows(forecast, outcome)
    error = price - expected
    spread = float(((price - price.mean()) ** 2).mean())
    squared = float((error**2).mean())
    return PriceErrors(float(np.sqrt(squared)), float(np.abs(error).mean()), 1 - squared / spread if spread else None)


def implied_log_return(p_up: npt.ArrayLike, scale: npt.ArrayLike) -> Floats:
    """Return the mean log return that P(up) implies if returns are normal with a known standard deviation, (n,).

    Args:
        p_up: probabilities of a rise, (n,), clipped to [0.001, 0.999].
        scale: standard deviations of the log return, fraction, (n,).
    """
    from scipy.special import ndtri

    clipped = np.clip(np.asarray(p_up, dtype=np.float64), 0.001, 0.999)
    return np.asarray(np.asarray(scale, dtype=np.float64) * ndtri(clipped), dtype=np.float64)
