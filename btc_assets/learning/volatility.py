"""Fit the volatility model, and judge it against a GARCH model and a rolling standard deviation.

The model is a heterogeneous autoregression of the log variance (HAR; Corsi, 2009, A simple approximate long-memory
model of realized volatility): a ridge regression of the log variance of the coming hours on logs of its means over an
hour to a month, on the variance of the same hour of days before, on implied volatility and on the calendar. The
variance of an hour is estimated from ranges, of quarter bars where they are known and of the hourly bar elsewhere
(`features.volatility`). Ranges are less noisy than squared returns but not on their scale, so a fitted factor makes the
mean of `(return / sigma)^2` one in training.

A row may be used in training if the close of its last coming hour, or its label, is known by then.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import date, datetime, timedelta
from typing import Any

import numpy as np
import numpy.typing as npt
import polars as pl

from btc_assets.clock import HOUR
from btc_assets.evaluation import metrics
from btc_assets.features import volatility as regressors
from btc_assets.learning.folds import MIN_TRAIN_ROWS, NotEnoughHistoryError, matrix
from btc_assets.learning.sigma import (
    CALENDAR,
    CALENDAR_EFFECTS,
    INTERCEPT,
    Floats,
    Sigma,
    calendar_indicators,
    coming_hour_of_week,
)
from btc_assets.learning.tables import VOLATILITY_MODEL
from btc_assets.streams import every_hour
from btc_assets.vocabulary import HORIZONS, QUANTILES, hours_spanned

WINDOW_DAYS = 1461
"""Days of history that the model is fitted on."""
HALF_LIFE_DAYS = 365
"""Age at which a row counts half, days."""
RIDGE = 5.0
"""Penalty on the squared coefficient of a standardised regressor, in rows of mean weight."""
CALIBRATION_DAYS = 180
"""Days before a forecast whose scaled returns give its quantiles."""
GARCH_DAYS = 730
"""Days of returns that the GARCH baseline is fitted on."""
FORECASTERS = ("har", "garch", "rolling")
"""The model and its baselines, in the order of the scores."""

_BARS = tuple(feature.name for feature in regressors.OF_BARS)
_QUARTERS = tuple(feature.name for feature in regressors.OF_QUARTERS)
_DVOL = "dvol_log_variance"
_RETURN, _ROLLING = "returns_1h", "realised_volatility_24h"

MODELS: Mapping[str, tuple[str, ...]] = {
    "quarters_dvol": (*_QUARTERS, _DVOL),
    "quarters": _QUARTERS,
    "bars_dvol": (*_BARS, _DVOL),
    "bars": _BARS,
    "recent": _BARS[:5],
}
"""Features of each linear model in order of preference; the last is for the days after a start or a gap."""
CONSTANT = "constant"
"""The model of rows that no other one can use."""
INPUTS = tuple(dict.fromkeys((*CALENDAR, *_QUARTERS, *_BARS, _DVOL)))
"""Features that a linear model may read."""
COLUMNS = (*INPUTS, _RETURN, _ROLLING)
"""Features that fits and baselines read; one that is not in the table counts as unknown."""


@dataclass(frozen=True)
class _Hours:
    """Every hour of a window, with and without a bar.

    Attributes:
        open_time: (n,) polars Datetime series, UTC.
        values: (n, len(COLUMNS)), NaN where unknown.
        log_return: by horizon in minutes, (n,), NaN where unknown.
    """

    open_time: pl.Series
    values: Floats
    log_return: Mapping[int, Floats]

    def __getitem__(self, name: str) -> Floats:
        """Return a feature, (n,)."""
        return self.values[:, COLUMNS.index(name)]

    def columns(self, names: Sequence[str]) -> Floats:
        """Return features, (n, f)."""
        return self.values[:, [COLUMNS.index(name) for name in names]]

    def known_by(self, end: datetime, span: int) -> npt.NDArray[np.bool_]:
        """Return whether the close `span` hours after each bar's is known at a moment, (n,)."""
        return (self.open_time <= end - (span + 1) * HOUR).to_numpy()


def fit_volatility(
    features: pl.DataFrame, labels: pl.DataFrame, *, end: datetime, horizons: Sequence[int] = HORIZONS
) -> dict[str, Any]:
    """Fit the model of every horizon on the window before a moment.

    Args:
        features: HOURLY_FEATURES rows with `COLUMNS`, at least those of bars.
        labels: HOURLY_LABELS rows.
        end: only what was known then is used, UTC.
        horizons: minutes ahead.

    Returns:
        The document that `sigma.Sigma` reads. A model without enough rows with all its regressors is left out.

    Raises:
        NotEnoughHistoryError: a horizon has too few labels.
    """
    return _fit(_hours_of(features, labels, horizons), end)


def _hours_of(features: pl.DataFrame, labels: pl.DataFrame, horizons: Sequence[int]) -> _Hours:
    known = [name for name in COLUMNS if name in features.columns]
    ordered = features.select("open_time", *known).sort("open_time")
    grid = every_hour(ordered).to_frame()
    wide = grid.join(ordered, on="open_time", how="left", maintain_order="left")
    wide = wide.with_columns(pl.lit(None, pl.Float64).alias(name) for name in COLUMNS if name not in known)
    returns = {}
    for horizon in horizons:
        own = labels.filter(pl.col("horizon_minutes") == horizon).select("open_time", "log_return")
        column = grid.join(own, on="open_time", how="left", maintain_order="left")["log_return"]
        returns[horizon] = column.cast(pl.Float64).fill_null(float("nan")).to_numpy()
    return _Hours(wide["open_time"], matrix(wide, COLUMNS).astype(np.float64), returns)


def _fit(hours: _Hours, end: datetime) -> dict[str, Any]:
    from threadpoolctl import threadpool_limits

    with threadpool_limits(1):  # the products are small, and over several threads their last bits could differ
        return _fit_models(hours, end)


def _fit_models(hours: _Hours, end: datetime) -> dict[str, Any]:
    inside = (hours.open_time >= end - timedelta(days=WINDOW_DAYS)).to_numpy()
    age_days = (end - hours.open_time).dt.total_hours().to_numpy() / 24
    weights = np.power(0.5, age_days / HALF_LIFE_DAYS)
    calendar = calendar_indicators()[coming_hour_of_week(*hours.columns(CALENDAR).T)]
    designs = {name: np.hstack([hours.columns(names), calendar]) for name, names in MODELS.items()}
    fitted: dict[str, list[dict[str, float]]] = {name: [] for name in (*MODELS, CONSTANT)}
    for horizon, log_return in hours.log_return.items():
        span = hours_spanned(horizon)
        row_known = inside & hours.known_by(end, span) & np.isfinite(hours[CALENDAR[0]])
        labelled = row_known & np.isfinite(log_return)
        if labelled.sum() < MIN_TRAIN_ROWS:
            raise NotEnoughHistoryError(
                f"{labelled.sum()} labelled hours of the {horizon} min horizon before {end:%Y-%m-%d %H:%M}; the "
                f"volatility model needs at least {MIN_TRAIN_ROWS}. Materialise features and labels of earlier days"
            )
        target = _log_variance_ahead(hours, span)
        fitted[CONSTANT].append({INTERCEPT: _log_factor(log_return, labelled, np.zeros(len(target)), weights)})
        for name, names in MODELS.items():
            design = designs[name]
            rows = row_known & np.isfinite(target) & np.isfinite(design).all(axis=1)
            if rows.sum() < MIN_TRAIN_ROWS or not (rows & labelled).any():
                continue
            intercept, coefficients = _ridge(design[rows], target[rows], weights[rows])
            scored = rows & labelled
            log_variance = np.zeros(len(target))
            log_variance[scored] = intercept + design[scored] @ coefficients
            intercept += _log_factor(log_return, scored, log_variance, weights)
            fitted[name].append(
                {
                    INTERCEPT: intercept,
                    **dict(zip((*names, *CALENDAR_EFFECTS), coefficients.tolist(), strict=True)),
                }
            )
    return {
        "horizons": list(hours.log_return),
        "models": [
            {"name": name, "coefficients": {key: [one[key] for one in by_horizon] for key in by_horizon[0]}}
            for name, by_horizon in fitted.items()
            if len(by_horizon) == len(hours.log_return)
        ],
    }


def _log_variance_ahead(hours: _Hours, span: int) -> Floats:
    """Return the log of the mean variance of the `span` hours after each bar, (n,); NaN unless most are known."""
    by_quarters, by_bars = np.exp(hours["quarter_log_variance_1h"]), np.exp(hours["log_variance_1h"])
    variance = pl.Series(np.where(np.isfinite(by_quarters), by_quarters, by_bars)).fill_nan(None)
    ahead = variance.rolling_mean(span, min_samples=int(np.ceil(0.75 * span))).shift(-span)
    return np.log(ahead.fill_null(float("nan")).to_numpy())


def _ridge(design: Floats, target: Floats, weights: Floats) -> tuple[float, Floats]:
    """Return intercept and coefficients (f,) of a weighted ridge regression on standardised columns."""
    weights = weights / weights.mean()
    weighted, total = design * weights[:, None], weights.sum()
    centre, mean = weighted.sum(axis=0) / total, float(weights @ target) / total
    moments = weighted.T @ design - total * np.outer(centre, centre)
    spread = np.sqrt(np.maximum(np.diag(moments), 0.0) / total)
    spread[spread < _CONSTANT_SPREAD] = 1.0
    moments = moments / np.outer(spread, spread) + RIDGE * np.eye(len(spread))
    coefficients = np.linalg.solve(moments, (weighted.T @ (target - mean)) / spread) / spread
    return float(mean - centre @ coefficients), coefficients


_CONSTANT_SPREAD = 1e-6
"""Standard deviation up to which a column is a constant with rounding errors."""


def _log_factor(log_return: Floats, rows: npt.NDArray[np.bool_], log_variance: Floats, weights: Floats) -> float:
    """Return the log of the factor with which the variance has the smallest QLIKE against squared returns."""
    scaled = log_return[rows] ** 2 / np.exp(log_variance[rows])
    return float(np.log(max(np.average(scaled, weights=weights[rows]), regressors.FLOOR)))


# --- baselines ------------------------------------------------------------------------------------
@dataclass(frozen=True)
class Garch:
    """A GARCH(1,1) model of hourly log returns (Bollerslev, 1986).

    Attributes:
        mean: mean return, fraction.
        omega: constant of the variance, squared fraction.
        alpha: weight of the squared deviation of the last return.
        beta: weight of the last variance.
    """

    mean: float
    omega: float
    alpha: float
    beta: float

    def sigma(self, returns: Floats, horizons: Sequence[int]) -> Floats:
        """Return the volatility of the coming return after each row, (n, horizons), fraction.

        Args:
            returns: hourly log returns, (n,), NaN where unknown; such a return counts as its expectation.
            horizons: minutes ahead.
        """
        squares = (returns - self.mean) ** 2
        variance = np.empty(len(returns))
        current = self.omega / max(1 - self.alpha - self.beta, _LEAST_REVERSION)
        for row, square in enumerate(squares):
            current = self.omega + self.alpha * (current if np.isnan(square) else square) + self.beta * current
            variance[row] = current
        columns = []
        for horizon in horizons:
            step, total = variance, variance.copy()
            for _ in range(hours_spanned(horizon) - 1):
                step = self.omega + (self.alpha + self.beta) * step
                total = total + step
            columns.append(np.sqrt(total * min(1.0, horizon / 60)))
        return np.column_stack(columns)


_LEAST_REVERSION = 0.001


def fit_garch(returns: Floats) -> Garch:
    """Fit a GARCH(1,1) model with Student's t errors to hourly log returns, by maximum likelihood.

    Args:
        returns: (n,), fraction, oldest first, NaN where unknown; these are left out.
    """
    from arch import arch_model

    percent = 100 * returns[np.isfinite(returns)]
    model = arch_model(percent, mean="Constant", vol="GARCH", p=1, q=1, dist="t", rescale=False)
    fitted = model.fit(disp="off", show_warning=False).params
    return Garch(
        mean=float(fitted["mu"]) / 100,
        omega=float(fitted["omega"]) / 1e4,
        alpha=float(fitted["alpha[1]"]),
        beta=float(fitted["beta[1]"]),
    )


# --- scores ---------------------------------------------------------------------------------------
def score_volatility(features: pl.DataFrame, labels: pl.DataFrame, folds: pl.DataFrame) -> pl.DataFrame:
    """Score the model and its baselines on the test hours of walk-forward folds.

    The model is fitted at the start of every test, GARCH at the start of the oldest one and filtered on. Every
    forecaster's quantiles are those of the returns over its volatility in the `CALIBRATION_DAYS` before the test.

    Args:
        features: HOURLY_FEATURES rows with `COLUMNS`, from `WINDOW_DAYS` before the oldest test on.
        labels: HOURLY_LABELS rows.
        folds: CV_FOLDS rows of one cutoff.

    Returns:
        One row per horizon and forecaster: horizon_minutes, forecaster, qlike, pinball (fraction), coverage_90 and n,
        the hours in which all forecasters know the volatility.
    """
    horizons = folds["horizon_minutes"].unique().sort().to_list()
    hours = _hours_of(features, labels, horizons)
    parts: dict[int, list[tuple[Floats, Floats, Floats]]] = {horizon: [] for horizon in horizons}
    garch = _garch_before(hours, min(folds["test_start"])).sigma(hours[_RETURN], horizons)
    rolling = _rolling(hours, horizons)
    for start, fold in folds.sort("test_start").group_by("test_start", maintain_order=True):
        har = Sigma(_fit(hours, start[0]))
        forecasts = (har(hours.columns(har.inputs)), garch, rolling)
        for row in fold.iter_rows(named=True):
            horizon = row["horizon_minutes"]
            place, log_return = horizons.index(horizon), hours.log_return[horizon]
            test = hours.open_time.is_between(row["test_start"], row["test_end"]).to_numpy()
            since = hours.open_time >= row["test_start"] - timedelta(days=CALIBRATION_DAYS)
            before = since.to_numpy() & hours.known_by(row["test_start"], hours_spanned(horizon))
            sigmas = np.column_stack([sigma[:, place] for sigma in forecasts])
            known = np.isfinite(log_return) & np.isfinite(sigmas).all(axis=1)
            test, before = test & known, before & known
            quantiles = scaled_quantiles(log_return[before, None] / sigmas[before], horizon)
            parts[horizon].append((log_return[test], sigmas[test], sigmas[test, :, None] * quantiles))
    return pl.DataFrame(
        [
            {"horizon_minutes": horizon, "forecaster": forecaster, **_scores(place, parts[horizon])}
            for horizon in horizons
            for place, forecaster in enumerate(FORECASTERS)
        ]
    )


def scaled_quantiles(scaled: Floats, horizon: int) -> Floats:
    """Return the quantiles of returns over their volatility, (..., 5) in the order of `QUANTILES`.

    The empirical quantiles of earlier outcomes are those of split conformal prediction with the scaled return as the
    score (Lei et al., 2018, Distribution-free predictive inference for regression).

    Args:
        scaled: earlier outcomes, (n, ...).
        horizon: minutes each outcome spans; outcomes that overlap for h hours count as 1 / h of a row each.
    """
    wider = 1 + hours_spanned(horizon) / len(scaled)  # as with (m + 1) / m of the coverage for m outcomes
    levels = np.clip(0.5 + wider * (np.array(QUANTILES) - 0.5), 0.0, 1.0)
    return np.moveaxis(np.quantile(scaled, levels, axis=0), 0, -1)


def _garch_before(hours: _Hours, end: datetime) -> Garch:
    window = hours.open_time.is_between(end - timedelta(days=GARCH_DAYS), end - HOUR).to_numpy()
    return fit_garch(hours[_RETURN][window])


def _rolling(hours: _Hours, horizons: Sequence[int]) -> Floats:
    hourly = np.maximum(hours[_ROLLING], np.sqrt(regressors.FLOOR))
    return hourly[:, None] * np.sqrt(np.array(horizons) / 60)


def _scores(place: int, parts: Sequence[tuple[Floats, Floats, Floats]]) -> dict[str, float | None]:
    log_return, sigmas, quantiles = (np.concatenate(arrays) for arrays in zip(*parts, strict=True))
    sigma, by_level = sigmas[:, place], quantiles[:, place].T
    return {
        "qlike": metrics.qlike(log_return, sigma).value,
        "pinball": metrics.pinball_loss(log_return, dict(zip(QUANTILES, by_level, strict=True))).value,
        "coverage_90": metrics.interval_coverage(log_return, by_level[0], by_level[-1]).value,
        "n": len(log_return),
    }


# --- the table ------------------------------------------------------------------------------------
def volatility_rows(document: Mapping[str, Any], scores: pl.DataFrame, cutoff: date) -> pl.DataFrame:
    """Return the model of a cutoff as VOLATILITY_MODEL rows.

    Args:
        document: what `fit_volatility` returns.
        scores: what `score_volatility` returns.
        cutoff: the cutoff.
    """
    coefficients = pl.DataFrame(
        [
            {
                "cutoff": cutoff,
                "horizon_minutes": horizon,
                "preference": preference,
                "model": model["name"],
                "regressor": regressor,
                "coefficient": values[place],
            }
            for preference, model in enumerate(document["models"])
            for regressor, values in model["coefficients"].items()
            for place, horizon in enumerate(document["horizons"])
        ]
    )
    judged = scores.filter(pl.col("forecaster") == FORECASTERS[0]).drop("forecaster")
    for baseline in FORECASTERS[1:]:
        own = scores.filter(pl.col("forecaster") == baseline).select("horizon_minutes", "qlike", "pinball")
        judged = judged.join(own, on="horizon_minutes", suffix=f"_{baseline}")
    joined = coefficients.join(judged, on="horizon_minutes", how="left")
    return joined.select(list(VOLATILITY_MODEL.columns)).cast(VOLATILITY_MODEL.columns).sort(VOLATILITY_MODEL.key)


def document_of(rows: pl.DataFrame) -> dict[str, Any]:
    """Return the document of one cutoff's VOLATILITY_MODEL rows, for `sigma.Sigma`."""
    horizons = rows["horizon_minutes"].unique().sort().to_list()
    models = []
    for (_, name), part in rows.sort("preference", "regressor", "horizon_minutes").group_by(
        "preference", "model", maintain_order=True
    ):
        by_regressor = part.group_by("regressor", maintain_order=True).agg("coefficient")
        models.append({"name": name, "coefficients": dict(by_regressor.iter_rows())})
    return {"horizons": horizons, "models": models}
