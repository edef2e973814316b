"""Plots of the challenger in shadow."""

from __future__ import annotations

import numpy as np
import polars as pl

from btc_assets.display import empty_figure, render_png
from btc_assets.evaluation.metrics import log_losses
from btc_assets.vocabulary import CHALLENGER, CHAMPION, PRIMARY


def shadow(outcomes: pl.DataFrame, *, version: int) -> bytes | None:
    """Plot the cumulative log-loss gain of a challenger over the champion, by hour, 60 min horizon.

    Args:
        outcomes: FORECAST_OUTCOMES rows of both roles.
        version: registry version of the challenger.

    Returns:
        A PNG, or None if they share no hour.
    """
    challenger = _primary(outcomes.filter(pl.col("model_version") == version), CHALLENGER)
    both = challenger.join(_primary(outcomes, CHAMPION), on="open_time", suffix="_champion").sort("open_time")
    if both.is_empty():
        return None
    rose = both["log_return"].to_numpy() > 0
    gains = log_losses(both["p_up_champion"].to_numpy(), rose) - log_losses(both["p_up"].to_numpy(), rose)
    figure, axes = empty_figure(
        f"Version {version} in shadow: cumulative gain in log-loss, n = {both.height:,}", "nats"
    )
    axes.plot(both["open_time"].to_list(), np.cumsum(gains), linewidth=1.2)
    axes.axhline(0, color="grey", linewidth=0.8)
    return render_png(figure)


def _primary(outcomes: pl.DataFrame, role: str) -> pl.DataFrame:
    """Return a role's outcomes of the primary horizon, oldest first."""
    return outcomes.filter((pl.col("role") == role) & (pl.col("horizon_minutes") == PRIMARY)).sort("open_time")
