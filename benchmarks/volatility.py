"""Judge the volatility model and its intervals against GARCH(1,1)-t and the standard deviation of a rolling day.

    python -m benchmarks.volatility --bars HOURLY --quarters QUARTERS --dvol DVOL [--first DAY] [--last DAY]

The files are Parquet files of hourly bars, 15-minute bars and hourly DVOL closes. Every 28 days, every forecaster is
fitted on what was known then and forecasts the hours up to the next fit. Its quantiles are made conformal every day on
the outcomes of the 180 days before. The table has the QLIKE of each volatility, and for each set of quantiles the
pinball loss, its difference to that of GARCH with a HAC interval on the same hours, and the coverage of the 90 %
interval, also by tercile of the volatility forecast.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, date, datetime, timedelta

import numpy as np
import numpy.typing as npt
import polars as pl

from btc_assets.clock import HOUR, midnight
from btc_assets.evaluation import metrics
from btc_assets.features.catalog import FEATURES
from btc_assets.features.engine import compute_features
from btc_assets.features.inputs import CLOCK
from btc_assets.features.labels import compute_labels
from btc_assets.features.volatility import OF_QUARTERS
from btc_assets.learning.calibration import conformal_offsets
from btc_assets.learning.families.protocol import Fit
from btc_assets.learning.families.xgboost import XgboostParameters, fit_quantiles
from btc_assets.learning.folds import matrix
from btc_assets.learning.sigma import Sigma
from btc_assets.learning.volatility import (
    CALIBRATION_DAYS,
    COLUMNS,
    GARCH_DAYS,
    HALF_LIFE_DAYS,
    WINDOW_DAYS,
    fit_garch,
    fit_volatility,
    scaled_quantiles,
)
from btc_assets.markdown import markdown_rows
from btc_assets.market.implied_volatility import DVOL
from btc_assets.market.quarter_bars import QUARTER_STREAM
from btc_assets.streams import Inputs, Rows
from btc_assets.vocabulary import HORIZONS, QUANTILE_NAMES, QUANTILES, display, hours_spanned

Floats = npt.NDArray[np.float64]

REFIT_DAYS = 28
SPLIT = date(2024, 8, 1)
"""Nothing was chosen on the days from here on."""
SEED = 7
LEAST_SIGMA = 0.0005
"""Smallest hourly standard deviation of the rolling day, as quantiles are scaled at present."""
VOLATILITIES = ("HAR", "GARCH(1,1)-t", "rolling day")
SETS = (*VOLATILITIES, "HAR, boosted", "rolling day, boosted")
"""Sets of quantiles: empirical ones of the scaled returns, and those of the boosters of a model."""
BASELINE = SETS.index("GARCH(1,1)-t")


@dataclass(frozen=True)
class Hours:
    """The hours that are known, oldest first.

    Attributes:
        features: `COLUMNS` and the features of bars, one row per bar.
        inputs: features of bars, (n, f).
        log_return: (n, horizons), NaN where unknown.
        labels: HOURLY_LABELS rows.
    """

    features: pl.DataFrame
    inputs: npt.NDArray[np.float32]
    log_return: Floats
    labels: pl.DataFrame

    @property
    def open_time(self) -> pl.Series:
        """Opening of each bar, (n,)."""
        return self.features["open_time"]

    def between(self, first: datetime, last: datetime) -> npt.NDArray[np.bool_]:
        """Return whether first <= open_time < last, (n,)."""
        return self.open_time.is_between(first, last, closed="left").to_numpy()

    def known_by(self, moment: datetime, horizon: int) -> npt.NDArray[np.bool_]:
        """Return whether the return over a horizon is known at a moment, (n,)."""
        return (self.open_time <= moment - (hours_spanned(horizon) + 1) * HOUR).to_numpy()


def read(bars: str, quarters: str, dvol: str, end: datetime) -> Hours:
    """Read the files up to a moment and compute features and labels."""

    def rows(path: str) -> pl.DataFrame:
        frame = pl.read_parquet(path).with_columns(pl.col("open_time").cast(pl.Datetime("us", "UTC")))
        return frame.filter(pl.col("open_time") < end).sort("open_time")

    clock = rows(bars)
    inputs = Inputs({CLOCK: Rows(clock), QUARTER_STREAM: Rows(rows(quarters)), DVOL: Rows(rows(dvol))})
    of_bars = [feature for feature in FEATURES if not feature.streams]
    others = [feature for feature in (*OF_QUARTERS, *DVOL.features) if feature.name in COLUMNS]
    features = compute_features(inputs, [*of_bars, *others])
    labels = compute_labels(clock, clock["open_time"][0], end)
    returns = [
        features.select("open_time").join(
            labels.filter(pl.col("horizon_minutes") == horizon), on="open_time", how="left", maintain_order="left"
        )["log_return"]
        for horizon in HORIZONS
    ]
    return Hours(
        features=features,
        inputs=matrix(features, [feature.name for feature in of_bars]),
        log_return=np.column_stack([column.fill_null(float("nan")).to_numpy() for column in returns]),
        labels=labels,
    )


def fits(first: date, last: date) -> Iterator[tuple[datetime, datetime]]:
    """Yield the start and the end of the hours forecast by each fit."""
    start, end = midnight(first), midnight(last) + timedelta(days=1)
    while start < end:
        yield start, min(start + timedelta(days=REFIT_DAYS), end)
        start += timedelta(days=REFIT_DAYS)


def walk(hours: Hours, first: date, last: date) -> tuple[Floats, Floats]:
    """Return the volatilities (n, horizons, volatilities), and boosted quantiles over them (n, horizons, 2, 5)."""
    n = len(hours.features)
    sigmas = np.full((n, len(HORIZONS), len(VOLATILITIES)), np.nan)
    boosted = np.full((n, len(HORIZONS), 2, len(QUANTILES)), np.nan)
    hourly = hours.features["realised_volatility_24h"].fill_null(float("nan")).to_numpy()
    rolling = np.maximum(hourly, LEAST_SIGMA)[:, None] * np.sqrt(np.array(HORIZONS) / 60)
    returns = hours.features["returns_1h"].fill_null(float("nan")).to_numpy()
    for start, end in fits(first, last):
        inside = hours.between(start, end)
        har = Sigma(fit_volatility(hours.features, hours.labels, end=start, horizons=HORIZONS))
        by_har = har(matrix(hours.features, har.inputs))
        garch = fit_garch(returns[hours.between(start - timedelta(days=GARCH_DAYS), start)])
        for place, every in enumerate((by_har, garch.sigma(returns, HORIZONS), rolling)):
            sigmas[inside, :, place] = every[inside]
        window = hours.between(start - timedelta(days=WINDOW_DAYS), start)
        age = (start - hours.open_time).dt.total_hours().to_numpy() / 24
        for column, horizon in enumerate(HORIZONS):
            for place, every in enumerate((by_har, rolling)):
                sigma, target = every[:, column], hours.log_return[:, column]
                train = window & hours.known_by(start, horizon) & np.isfinite(target) & np.isfinite(sigma)
                rows = np.column_stack([hours.inputs, np.log(sigma)])
                weights = np.power(0.5, age[train] / HALF_LIFE_DAYS) / hours_spanned(horizon)
                boosted[inside, column, place] = boosted_quantiles(
                    rows[train], (target / sigma)[train], weights, rows[inside]
                )
        print(f"fitted {start:%Y-%m-%d}", file=sys.stderr, flush=True)
    return sigmas, boosted


def boosted_quantiles(train: Floats, scaled: Floats, weights: Floats, test: Floats) -> Floats:
    """Fit the head of intervals to scaled returns and return the quantiles of other rows, (n, 5), sorted."""
    circumstances = Fit(names=tuple(map(str, range(train.shape[1]))), seed=SEED)
    fitted = fit_quantiles(train.astype(np.float32), scaled, weights, XgboostParameters(), circumstances)
    columns = [fitted[name].predict(test.astype(np.float32)) for name in QUANTILE_NAMES]
    return np.sort(np.column_stack(columns), axis=1)


def conformal(hours: Hours, sigmas: Floats, boosted: Floats, first: date, last: date) -> Floats:
    """Return the quantiles of every set, (n, horizons, sets, 5), made conformal at the start of each day."""
    quantiles = np.full((len(hours.features), len(HORIZONS), len(SETS), len(QUANTILES)), np.nan)
    for number in range((last - first).days + 1):
        day = midnight(first + timedelta(days=number))
        today = hours.between(day, day + timedelta(days=1))
        for column, horizon in enumerate(HORIZONS):
            scaled = hours.log_return[:, column, None] / sigmas[:, column]
            before = hours.between(day - timedelta(days=CALIBRATION_DAYS), day) & hours.known_by(day, horizon)
            before &= np.isfinite(scaled).all(axis=1)
            empirical = scaled_quantiles(scaled[before], horizon)
            for place in range(len(SETS)):
                if place < len(VOLATILITIES):
                    sigma, values = sigmas[today, column, place], empirical[place]
                else:
                    own = place - len(VOLATILITIES)
                    sigma = sigmas[today, column, 2 * own]
                    offsets = conformal_offsets(scaled[before, 2 * own], boosted[before, column, own], horizon=horizon)
                    shift = np.array([offsets.get(name, 0.0) for name in QUANTILE_NAMES])
                    values = np.sort(boosted[today, column, own] + shift, axis=1)
                quantiles[today, column, place] = sigma[:, None] * values
    return quantiles


def report(hours: Hours, sigmas: Floats, quantiles: Floats, first: date, last: date) -> str:
    """Return the table of one stretch."""
    inside = hours.between(midnight(first), midnight(last) + timedelta(days=1))
    lines = []
    for column, horizon in enumerate(HORIZONS):
        log_return = hours.log_return[:, column]
        rows = inside & np.isfinite(log_return) & np.isfinite(quantiles[:, column]).all(axis=(1, 2))
        outcome, sigma = log_return[rows], sigmas[rows, column]
        losses = np.stack([pinball(outcome, quantiles[rows, column, place]) for place in range(len(SETS))])
        tercile = np.digitize(sigma[:, 0], np.quantile(sigma[:, 0], [1 / 3, 2 / 3]))
        for place, name in enumerate(SETS):
            covered = (quantiles[rows, column, place, 0] <= outcome) & (outcome <= quantiles[rows, column, place, -1])
            lines.append(
                (
                    display(horizon),
                    name,
                    f"{metrics.qlike(outcome, sigma[:, place]).value:.4f}" if place < len(VOLATILITIES) else "",
                    f"{losses[place].mean() * 1e4:.3f}",
                    against(losses[place], losses[BASELINE], horizon),
                    f"{covered.mean():.1%}",
                    " ".join(f"{covered[tercile == third].mean():.1%}" for third in range(3)),
                    f"{rows.sum():,}",
                )
            )
    return f"{first} to {last}\n\n" + markdown_rows(_HEADINGS, lines)


_HEADINGS = (
    "horizon",
    "quantiles",
    "QLIKE",
    "pinball, bp",
    "against GARCH [95 %]",
    "90 % covers",
    "by tercile of sigma",
    "n",
)


def pinball(outcome: Floats, quantiles: Floats) -> Floats:
    """Return the pinball loss of each row, (n,), the mean over the quantiles (n, 5)."""
    levels = np.array(QUANTILES)
    misses = outcome[:, None] - quantiles
    return np.asarray(np.maximum(levels * misses, (levels - 1) * misses).mean(axis=1))


def against(losses: Floats, baseline: Floats, horizon: int) -> str:
    """Return the mean difference as a share of the baseline's loss, with its HAC interval."""
    difference = metrics.mean(losses - baseline, horizon=horizon)
    values = [
        100 * (value or 0.0) / baseline.mean() for value in (difference.value, difference.lower, difference.upper)
    ]
    return "{:+.2f} % [{:+.2f}, {:+.2f}]".format(*values)


def main(arguments: Sequence[str] | None = None) -> int:
    """Print the tables of both stretches."""
    description, _, notes = (__doc__ or "").partition("\n\n")
    parser = argparse.ArgumentParser(prog="python -m benchmarks.volatility", description=description, epilog=notes)
    for name in ("bars", "quarters", "dvol"):
        parser.add_argument(f"--{name}", required=True)
    parser.add_argument("--first", type=date.fromisoformat, default=date(2023, 1, 2))
    parser.add_argument("--last", type=date.fromisoformat, default=date(2025, 7, 31))
    options = parser.parse_args(arguments)
    end = datetime.combine(options.last, datetime.min.time(), tzinfo=UTC) + timedelta(days=1)
    hours = read(options.bars, options.quarters, options.dvol, end)
    lead = options.first - timedelta(days=REFIT_DAYS * -(-CALIBRATION_DAYS // REFIT_DAYS))
    sigmas, boosted = walk(hours, lead, options.last)
    quantiles = conformal(hours, sigmas, boosted, options.first, options.last)
    ends = [SPLIT - timedelta(days=1), options.last] if options.first < SPLIT <= options.last else [options.last]
    print("\n\n".join(report(hours, sigmas, quantiles, options.first, last) for last in ends))
    return 0


if __name__ == "__main__":
    sys.exit(main())
