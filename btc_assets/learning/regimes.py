"""Market regimes: four named states of the price, and the probability of high volatility.

The states are clusters (K-means) of hours in the principal components of features of trend and level. The probability
is that of the second state of a two-state Gaussian hidden Markov model (Hamilton, 1989, A new approach to the economic
analysis of nonstationary time series) of the log variance of an hour, filtered: it uses the hour and the hours before
it, never later ones. Both are fitted inside a window; their parameters are numbers in MARKET_REGIMES.

Clusters are named by their means: that with the highest `trend_regime` is the uptrend and that with the lowest the
downtrend; of the other two, the one nearer to the highest price of a month (`drawdown_720h`) is the distribution, the
other the accumulation.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import date, datetime, timedelta
from typing import Self

import numpy as np
import numpy.typing as npt
import polars as pl

from btc_assets.clock import HOUR
from btc_assets.learning.folds import NotEnoughHistoryError
from btc_assets.learning.tables import MARKET_REGIMES
from btc_assets.streams import every_hour
from btc_assets.vocabulary import REGIMES

Floats = npt.NDArray[np.float64]

WINDOW_DAYS = 1461
"""Days of history that the regimes are fitted on."""
TREND, LEVEL = "trend_regime", "drawdown_720h"
"""Features that name the clusters."""
INPUTS = (
    TREND,
    LEVEL,
    "sma_50_distance",
    "sma_200_distance",
    "close_zscore_72",
    "range_position_168h",
    "drawdown_168h",
    "realised_volatility_24h",
    "realised_volatility_168h",
    "volatility_ratio",
    "volume_ratio_168h",
    "adx",
    "rsi",
)
"""Features of the clusters, of bars alone."""
VARIANCE = "log_variance_1h"
"""Observation of the hidden Markov model."""
COLUMNS = (*INPUTS, VARIANCE)
"""Features that the regimes read."""
COMPONENTS = 5
"""Number of principal components."""
EXTREMES = (0.01, 0.99)
"""Quantiles of the window beyond which a feature counts as the quantile."""
MIN_HOURS = 168
"""Fewest hours with every feature that the regimes are fitted on."""
FILTER_HOURS = 168
"""Hours that the filter reads, so that a state can be computed again from a week of features."""
_SEED = 7
_PERSISTENCE = 0.95
"""Probability to stay in a state from which the fit starts, so that its states last."""


@dataclass(frozen=True)
class Regimes:
    """Fitted regimes.

    Attributes:
        low, high: bounds of the features, (f,).
        mean, spread: of the bounded features in the window, (f,).
        components: principal axes of the scaled features, (c, f).
        centres: of the clusters in the components, (4, c), in the order of `REGIMES`.
        means, deviations: of the log variance in the calm and the turbulent state, (2,).
        stay: probability to stay in each of them for an hour, (2,).
    """

    low: Floats
    high: Floats
    mean: Floats
    spread: Floats
    components: Floats
    centres: Floats
    means: Floats
    deviations: Floats
    stay: Floats

    def names(self, inputs: Floats) -> list[str | None]:
        """Return the regime of each row of `INPUTS`, (n, f); None where a feature is unknown (NaN)."""
        scores = scaled(inputs, self.low, self.high, self.mean, self.spread) @ self.components.T
        distances = ((scores[:, None] - self.centres) ** 2).sum(axis=2)
        known = np.isfinite(distances).all(axis=1)
        nearest = np.argmin(np.where(known[:, None], distances, 0.0), axis=1)
        return [REGIMES[place] if row_known else None for place, row_known in zip(nearest, known, strict=True)]

    def turbulence(self, log_variance: Floats) -> Floats:
        """Return the filtered probability of the turbulent state in each hour, (n,).

        The filter starts `FILTER_HOURS` earlier, or with the first hour, from the stationary distribution. In an hour
        whose variance is unknown (NaN), the probability only moves towards the stationary one.
        """
        log_density = -0.5 * ((log_variance[:, None] - self.means) / self.deviations) ** 2 - np.log(self.deviations)
        # The likelihood ratio is all that the filter needs; 1 where the variance is unknown.
        ratio = np.exp(np.clip(np.nan_to_num(log_density[:, 1] - log_density[:, 0]), -_LARGEST_LOG, _LARGEST_LOG))
        leave_calm, leave_turbulent = 1 - self.stay
        stationary = leave_calm / (leave_calm + leave_turbulent)
        padded = np.concatenate([np.full(FILTER_HOURS - 1, np.nan), ratio])
        probability = np.full(len(ratio), stationary)
        for back in reversed(range(FILTER_HOURS)):
            known = padded[FILTER_HOURS - 1 - back : len(padded) - back]
            before = probability * self.stay[1] + (1 - probability) * leave_calm
            after = before * known / (before * known + 1 - before)
            probability = np.where(np.isnan(known), stationary, after)
        return probability

    def rows(self, cutoff: date) -> pl.DataFrame:
        """Return the parameters as MARKET_REGIMES rows of a cutoff."""
        parameters: dict[str, tuple[Sequence[str], Floats]] = {
            "low": (INPUTS, self.low),
            "high": (INPUTS, self.high),
            "mean": (INPUTS, self.mean),
            "spread": (INPUTS, self.spread),
            **{f"component_{n}": (INPUTS, axis) for n, axis in enumerate(self.components, 1)},
            **{name: (_AXES, centre) for name, centre in zip(REGIMES, self.centres, strict=True)},
            **{
                state: (_OF_STATE, np.array(values))
                for state, *values in zip(_STATES, self.means, self.deviations, self.stay, strict=True)
            },
        }
        records = [
            {"cutoff": cutoff, "part": part, "name": name, "value": float(value)}
            for part, (names, values) in parameters.items()
            for name, value in zip(names, values, strict=True)
        ]
        return pl.DataFrame(records, schema=MARKET_REGIMES.columns).sort(MARKET_REGIMES.key)

    @classmethod
    def of(cls, rows: pl.DataFrame) -> Self:
        """Read the MARKET_REGIMES rows of one cutoff."""
        value = {(part, name): value for part, name, value in rows.select("part", "name", "value").iter_rows()}

        def table(parts: Sequence[str], names: Sequence[str]) -> Floats:
            return np.array([[value[part, name] for name in names] for part in parts])

        low, high, mean, spread = table(("low", "high", "mean", "spread"), INPUTS)
        of_states = table(_STATES, _OF_STATE).T
        return cls(
            low=low,
            high=high,
            mean=mean,
            spread=spread,
            components=table([f"component_{n}" for n in range(1, COMPONENTS + 1)], INPUTS),
            centres=table(REGIMES, _AXES),
            means=of_states[0],
            deviations=of_states[1],
            stay=of_states[2],
        )


_AXES = tuple(f"component_{n}" for n in range(1, COMPONENTS + 1))
_STATES = ("calm", "turbulent")
_OF_STATE = ("mean", "deviation", "stay")
_LARGEST_LOG = 50.0


def scaled(inputs: Floats, low: Floats, high: Floats, mean: Floats, spread: Floats) -> Floats:
    """Return features within their bounds, centred and scaled, (n, f)."""
    return np.asarray((np.clip(inputs, low, high) - mean) / spread)


def fit_regimes(features: pl.DataFrame, *, end: datetime) -> Regimes:
    """Fit the regimes on the window before a moment.

    Args:
        features: HOURLY_FEATURES rows with `COLUMNS`.
        end: only rows available then are used, UTC.

    Raises:
        NotEnoughHistoryError: too few hours with all features.
    """
    from sklearn.cluster import KMeans
    from sklearn.decomposition import PCA
    from threadpoolctl import threadpool_limits

    window = features.sort("open_time").filter(
        pl.col("open_time").is_between(end - timedelta(days=WINDOW_DAYS), end - HOUR)
    )
    inputs = _matrix(window, INPUTS)
    inputs = inputs[np.isfinite(inputs).all(axis=1)]
    if len(inputs) < MIN_HOURS:
        raise NotEnoughHistoryError(
            f"{len(inputs)} hours with every feature of the regimes before {end:%Y-%m-%d %H:%M}; at least "
            f"{MIN_HOURS} are needed. Materialise features of earlier days"
        )
    low, high = np.quantile(inputs, EXTREMES, axis=0)
    bounded = np.clip(inputs, low, high)
    mean, spread = bounded.mean(axis=0), np.maximum(bounded.std(axis=0), _SMALLEST_SPREAD)
    standard = scaled(inputs, low, high, mean, spread)
    with threadpool_limits(1):  # sums over several threads differ in the last bits from run to run
        components = PCA(COMPONENTS, svd_solver="covariance_eigh").fit(standard).components_
        clusters = KMeans(len(REGIMES), n_init=4, random_state=_SEED).fit(standard @ components.T)
    by_name = name_clusters(np.stack([inputs[clusters.labels_ == label].mean(axis=0) for label in range(len(REGIMES))]))
    means, deviations, stay = _fit_volatility_states(_matrix(window, (VARIANCE,))[:, 0])
    return Regimes(
        low,
        high,
        mean,
        spread,
        components,
        clusters.cluster_centers_[[by_name[name] for name in REGIMES]],
        means,
        deviations,
        stay,
    )


_SMALLEST_SPREAD = 1e-12


def name_clusters(centres: Floats) -> dict[str, int]:
    """Return the place of each named cluster, by the rule of the module.

    Args:
        centres: mean of `INPUTS` in each cluster, (4, f).
    """
    trend, level = centres[:, INPUTS.index(TREND)], centres[:, INPUTS.index(LEVEL)]
    downtrend, *between, uptrend = (int(place) for place in np.lexsort((level, trend)))
    accumulation, distribution = sorted(between, key=lambda place: (level[place], trend[place]))
    return {
        "accumulation": accumulation,
        "uptrend": uptrend,
        "distribution": distribution,
        "downtrend": downtrend,
    }


def _fit_volatility_states(log_variance: Floats) -> tuple[Floats, Floats, Floats]:
    """Return means, deviations and probabilities to stay of the calm and the turbulent state, by the EM algorithm."""
    from hmmlearn.hmm import GaussianHMM

    known = log_variance[np.isfinite(log_variance)]
    model = GaussianHMM(2, covariance_type="diag", n_iter=200, tol=0.1, random_state=_SEED, init_params="c")
    model.startprob_ = np.array([0.5, 0.5])
    model.transmat_ = np.array([[_PERSISTENCE, 1 - _PERSISTENCE], [1 - _PERSISTENCE, _PERSISTENCE]])
    model.means_ = np.quantile(known, [[0.25], [0.75]])
    model.fit(known[:, None])
    order = np.argsort(model.means_[:, 0])
    return model.means_[order, 0], np.sqrt(model.covars_[order, 0, 0]), np.diag(model.transmat_)[order]


def regimes_of_hours(regimes: Regimes, features: pl.DataFrame) -> pl.DataFrame:
    """Return the regime of each hour.

    Args:
        regimes: fitted regimes.
        features: HOURLY_FEATURES rows with `COLUMNS`, from `FILTER_HOURS` before the first hour of interest on.

    Returns:
        One row per row of the features, in time order: open_time, regime (null where a feature is unknown) and
        turbulence, the filtered probability of the turbulent state.
    """
    ordered = features.sort("open_time")
    hours = every_hour(ordered).to_frame().join(ordered, on="open_time", how="left", maintain_order="left")
    turbulence = hours.select("open_time", turbulence=regimes.turbulence(_matrix(hours, (VARIANCE,))[:, 0]))
    return ordered.select("open_time", regime=pl.Series(regimes.names(_matrix(ordered, INPUTS)), dtype=pl.String)).join(
        turbulence, on="open_time", how="left", maintain_order="left"
    )


def shares(regimes: Regimes, features: pl.DataFrame) -> pl.DataFrame:
    """Return the share of the hours in each regime, and their mean turbulence, trend and level."""
    hours = regimes_of_hours(regimes, features)
    with_returns = hours.join(features.select("open_time", TREND, LEVEL), on="open_time")
    return (
        with_returns.drop_nulls("regime")
        .group_by("regime")
        .agg(
            (pl.len() / pl.lit(hours["regime"].count())).alias("share"),
            pl.col("turbulence").mean(),
            pl.col(TREND).mean(),
            pl.col(LEVEL).mean(),
        )
        .sort("regime")
    )


def _matrix(features: pl.DataFrame, names: Sequence[str]) -> Floats:
    values = features.select(pl.col(list(names)).cast(pl.Float64)).fill_null(float("nan"))
    return values.to_numpy().reshape(features.height, len(names))
