"""Measure the size of the Diebold-Mariano test: its rejection rate under the null, one-sided at 5 %.

    python -m benchmarks.significance [--draws 4000]

There are three kinds of null: autoregressions; simulated losses of two equally good models with autocorrelated errors;
and, if the lake of the `BTC_*` settings has outcomes, the real hourly loss difference of champion and newest model with
a random sign per day, which preserves the dependence within a day. The size with the horizon's rows - 1 lags is
reported too.
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
"""Sample sizes: the hours of a shadow period, of a fold and of 90 days."""
LEVEL = 0.05
SEED = 7
Null = Callable[[np.random.Generator, int], Floats]


def autoregression(coefficient: float) -> Null:
    """Return a sampler of a first-order autoregression."""

    def draw(rng: np.random.Generator, n: int) -> Floats:
        from scipy.signal import lfilter

        return np.asarray(lfilter([1.0], [1.0, -coefficient], rng.normal(size=n + 200))[200:])

    return draw


def two_models(coefficient: float, error: float) -> Null:
    """Return a sampler of the log-loss difference of two models.

    Each model forecasts the true log-odds of an hour plus an independent autoregressive error with the given
    coefficient and the standard deviation `error`.
    """
    errors = autoregression(coefficient)

    def draw(rng: np.random.Generator, n: int) -> Floats:
        truth = 0.2 * autoregression(0.9)(rng, n) * math.sqrt(1 - 0.9**2)
        scale = error * math.sqrt(1 - coefficient**2)
        rose = rng.random(n) < 1 / (1 + np.exp(-truth))
        ours, theirs = (1 / (1 + np.exp(-(truth + scale * errors(rng, n)))) for _ in range(2))
        return log_losses(ours, rose) - log_losses(theirs, rose)

    return draw


def random_day_signs(difference: Floats) -> Null:
    """Return a sampler of ranges of a real difference with a random sign per day."""

    def draw(rng: np.random.Generator, n: int) -> Floats:
        first = int(rng.integers(0, len(difference) - n + 1))
        sample = difference[first : first + n]
        signs = rng.choice([-1.0, 1.0], n // 24 + 2)
        return sample * signs[(np.arange(n) + int(rng.integers(0, 24))) // 24]

    return draw


def nulls() -> Iterator[tuple[str, Null, bool]]:
    """Yield the name, the sampler and whether the autocorrelation is realistic, for each null."""
    for coefficient in (0.0, 0.1, 0.2, 0.4):
        yield f"autoregression, {coefficient:g}", autoregression(coefficient), coefficient <= 0.2
    for coefficient, error in ((0.9, 0.05), (0.95, 0.05), (0.95, 0.1), (0.99, 0.2)):
        yield (
            f"two models, errors of {error:g} in log-odds, memory {coefficient:g}",
            two_models(coefficient, error),
            coefficient < 0.99,
        )
    real = real_difference()
    if real is not None and len(real) > max(HOURS):
        yield f"champion less newest model, {len(real):,} real hours, days turned", random_day_signs(real), True


def real_difference() -> Floats | None:
    """Return the hourly 60 min log-loss difference of champion and newest model, for hours in which they differ."""
    outcomes = Lake(root=settings().lake_root).scan(FORECAST_OUTCOMES).filter(pl.col("horizon_minutes") == 60)
    wide = outcomes.select("open_time", "role", "p_up", "log_return", "model_version").collect()
    ours, theirs = (wide.filter(pl.col("role") == role) for role in ("champion", "newest"))
    both = ours.join(theirs, on="open_time", suffix="_newest").sort("open_time")
    both = both.filter(pl.col("model_version") != pl.col("model_version_newest"))
    if both.is_empty():
        return None
    rose = both["log_return"].to_numpy() > 0
    return log_losses(both["p_up"].to_numpy(), rose) - log_losses(both["p_up_newest"].to_numpy(), rose)


def plain_p(difference: Floats) -> float:
    """Return the one-sided p-value without lags (the horizon's rows - 1 for 60 min)."""
    from scipy.special import ndtr

    return float(ndtr(-difference.mean() / math.sqrt(hac_variance_of_mean(difference, lags=0))))


def size(null: Null, n: int, draws: int) -> tuple[float, float, float]:
    """Return the rejection rates of our test and of the test without lags, and the mean number of lags."""
    rng = np.random.default_rng(SEED)
    ours = plain = lags = 0.0
    for _ in range(draws):
        difference = null(rng, n)
        result = diebold_mariano(difference, np.zeros(n))
        p_value = result.p_above()
        ours += p_value is not None and p_value <= LEVEL
        plain += plain_p(difference) <= LEVEL
        lags += result.lags
    return ours / draws, plain / draws, lags / draws


def main(arguments: Sequence[str] | None = None) -> None:
    """Print the size of the test for each null."""
    description, _, notes = (__doc__ or "").partition("\n\n")
    parser = argparse.ArgumentParser(prog="python -m benchmarks.significance", description=description, epilog=notes)
    parser.add_argument("--draws", type=int, default=4000, help="samples of each null and length")
    draws = parser.parse_args(arguments).draws
    error = 1.96 * math.sqrt(LEVEL * (1 - LEVEL) / draws)
    print(f"{draws:,} draws each, seed {SEED}: a share of 5 % is known to within {error:.1%}\n")
    rows = []
    for name, null, real in nulls():
        label = name if real else f"{name} (more than real models show)"
        for n in HOURS:
            ours, plain, lags = size(null, n, draws)
            rows.append((label, f"{n:,}", f"{ours:.1%}", f"{lags:.0f}", f"{plain:.1%}"))
    print(markdown_rows(("null", "rows", "rejected", "lags", "rejected without lags"), rows))


if __name__ == "__main__":
    main()
