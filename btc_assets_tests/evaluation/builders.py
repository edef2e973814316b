"""Forecasts with a known skill."""

from __future__ import annotations

import numpy as np

SEED = 7


def forecasts(n: int = 3000, *, skill: float = 1.0, seed: int = SEED) -> tuple[np.ndarray, np.ndarray]:
    """Return (p_up, log_return): calibrated forecasts for skill 1, without information for skill 0."""
    rng = np.random.default_rng(seed)
    p = rng.beta(20, 20, n)
    rises = rng.random(n) < 0.5 + skill * (p - 0.5)
    return p, np.where(rises, 1, -1) * rng.exponential(0.004, n)
