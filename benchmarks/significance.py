"""How often the Diebold-Mariano test rejects where there is nothing to find: its size, one-sided at 5 %.

    python -m benchmarks.significance [--draws 4000]

Three kinds of null: autoregressions; losses of two models of one quality whose errors move slowly, by simulation; and,
where the lake of the `BTC_*` settings holds outcomes, the real hourly difference of the champion's and the newest
model's losses with the sign of each day turned at random, which keeps what hours of a day have in common. Beside it the
size with horizon - 1 lags, which is what the differences of two models are often tested with.
"""

from __future__ import annotations

import argparse
import math
from collections.abc import Callable, Iterator, Sequence

import numpy as np
import polars as pl

from btc_assets.evaluation.metrics import log_losses
from btc_assets.evaluation.significance import Floats, diebold_mariano, hac_variance_of_mean
from btc_assets.forecasting.tables import FORECAST_OUTCOMES
from btc_assets.lake import Lake
from btc_assets.markdown import markdown_rows
from btc_assets.settings import settings

HOURS = (312, 672, 2160)
"""Rows of a sample: the hours of a shadow, of a fold, and of 90 days."""
LEVEL = 0.05
SEED = 7
Null = Callable[[np.random.Generator, int], Floats]


def autoregression(memory: float) -> Null:
    """Return draws of a first-order autoregression."""

    def draw(rng: np.random.Generator, n: int) -> Floats:
        from scipy.signal import lfilter

        return np.asarray(lfilter([1.0], [1.0, -memory], rng.normal(size=n + 200))[200:])

    return draw


def two_models(memory: float, error: float) -> Null:
    """Return draws of the difference in log-loss of two models.

    Each answers the true log-odds of an hour plus an error of its own that keeps `memory` from hour to hour and has a
    standard deviation of `error`.
    """
    slow = autoregression(memory)

    def draw(rng: np.random.Generator, n: int) -> Floats:
        truth = 0.2 * autoregression(0.9)(rng, n) * math.sqrt(1 - 0.9**2)
        scale = error * math.sqrt(1 - memory**2)
        rose = rng.random(n) < 1 / (1 + np.exp(-truth))
        ours, theirs = (1 / (1 + np.exp(-(truth + scale * slow(rng, n)))) for _ in range(2))
        return log_losses(ours, rose) - log_losses(theirs, rose)

    return draw


def turned_days(difference: Floats) -> Null:
    """Return draws of stretches of a real difference, the sign of each day turned at random."""

    def draw(rng: np.random.Generator, n: int) -> Floats:
        first = int(rng.integers(0, len(difference) - n + 1))
        stretch = difference[first : first + n]
        signs = rng.choice([-1.0, 1.0], n // 24 + 2)
        return stretch * signs[(np.arange(n) + int(rng.integers(0, 24))) // 24]

    return draw


def nulls() -> Iterator[tuple[str, Null, bool]]:
    """Yield each null: its name, its draws, and whether it is within what real models show."""
    for memory in (0.0, 0.1, 0.2, 0.4):
        yield f"autoregression, {memory:g}", autoregression(memory), memory <= 0.2
    for memory, error in ((0.9, 0.05), (0.95, 0.05), (0.95, 0.1), (0.99, 0.2)):
        yield (
            f"two models, errors of {error:g} in log-odds, memory {memory:g}",
            two_models(memory, error),
            memory < 0.99,
        )
    real = real_difference()
    if real is not None and len(real) > max(HOURS):
        yield f"champion less newest model, {len(real):,} real hours, days turned", turned_days(real), True


def real_difference() -> Floats | None:
    """Return the hourly difference in 1 h log-loss of champion and newest model, of hours in which they are two."""
    outcomes = Lake(root=settings().lake_root).scan(FORECAST_OUTCOMES).filter(pl.col("horizon_hours") == 1)
    wide = outcomes.select("open_time", "role", "p_up", "log_return", "model_version").collect()
    ours, theirs = (wide.filter(pl.col("role") == role) for role in ("champion", "newest"))
    both = ours.join(theirs, on="open_time", suffix="_newest").sort("open_time")
    both = both.filter(pl.col("model_version") != pl.col("model_version_newest"))
    if both.is_empty():
        return None
    rose = both["log_return"].to_numpy() > 0
    return log_losses(both["p_up"].to_numpy(), rose) - log_losses(both["p_up_newest"].to_numpy(), rose)


def plain_p(difference: Floats) -> float:
    """Return the one-sided p-value without lags, which is horizon - 1 of 1 h."""
    from scipy.special import ndtr

    return float(ndtr(-difference.mean() / math.sqrt(hac_variance_of_mean(difference, lags=0))))


def size(null: Null, n: int, draws: int) -> tuple[float, float, float]:
    """Return the share of draws rejected by our test and by the one without lags, and the mean number of lags."""
    rng = np.random.default_rng(SEED)
    ours = plain = lags = 0.0
    for _ in range(draws):
        difference = null(rng, n)
        found = diebold_mariano(difference, np.zeros(n))
        p_value = found.p_above()
        ours += p_value is not None and p_value <= LEVEL
        plain += plain_p(difference) <= LEVEL
        lags += found.lags
    return ours / draws, plain / draws, lags / draws


def main(arguments: Sequence[str] | None = None) -> None:
    """Print the size of the test under each null."""
    description, _, notes = (__doc__ or "").partition("\n\n")
    parser = argparse.ArgumentParser(prog="python -m benchmarks.significance", description=description, epilog=notes)
    parser.add_argument("--draws", type=int, default=4000, help="samples of each null and length")
    draws = parser.parse_args(arguments).draws
    error = 1.96 * math.sqrt(LEVEL * (1 - LEVEL) / draws)
    print(f"{draws:,} draws each, seed {SEED}: a share of 5 % is known to within {error:.1%}\n")
    rows = []
    for name, null, real in nulls():
        beside = name if real else f"{name} (more than real models show)"
        for n in HOURS:
            ours, plain, lags = size(null, n, draws)
            rows.append((beside, f"{n:,}", f"{ours:.1%}", f"{lags:.0f}", f"{plain:.1%}"))
    print(markdown_rows(("null", "rows", "rejected", "lags", "rejected without lags"), rows))


if __name__ == "__main__":
    main()
