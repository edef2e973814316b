"""Training: out-of-fold forecasts, then the model of the cutoff, calibrated on these forecasts.

All functions use only rows whose label is known at the cutoff (see `learning.folds`).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from datetime import date
from typing import Any, TypeVar

import numpy as np
import polars as pl

from btc_assets.evaluation import metrics
from btc_assets.learning.calibration import Calibration, conformal_offsets, fit_calibration
from btc_assets.learning.export import parity_error, parity_rows
from btc_assets.learning.families.protocol import Family, Fit, FittedOutput, Inputs, P, Vector
from btc_assets.learning.folds import Rows, split
from btc_assets.learning.forecast_model import graph_name, row_scale
from btc_assets.learning.tables import FOLD_FORECASTS
from btc_assets.vocabulary import HORIZONS, PRIMARY, QUANTILE_NAMES, QUANTILES, hours_spanned

Item = TypeVar("Item")
Result = TypeVar("Result")

SEEDS = 5
"""Number of seeds per side that a verdict compares; both sides use the same seeds."""
SCALE_FEATURE = "realised_volatility_24h"
"""Feature that scales quantiles: standard deviation of the last 24 one-hour log returns, fraction."""
SCALE_FLOOR = 0.0005
"""Minimum hourly volatility, fraction."""
SCALE_UNKNOWN = 0.005
"""Hourly volatility for an unknown value of the feature, fraction."""


def up(rows: Rows) -> Vector:
    """Return 1.0 where the return was positive, (n,)."""
    return (rows.log_return > 0).astype(np.float64)


def scales(rows: Rows, horizon: int) -> Vector:
    """Return the scale of each row, (n,), fraction."""
    return scale_of(rows.column(SCALE_FEATURE), horizon)


def scale_of(volatility: np.ndarray, horizon: int) -> Vector:
    """Return the scale for values of `SCALE_FEATURE` (NaN where unknown), (n,), fraction."""
    return row_scale(volatility, horizon, floor=SCALE_FLOOR, unknown=SCALE_UNKNOWN)


def row_weights(rows: Rows, horizon: int, half_life_days: float) -> Vector:
    """Return the weight of each row, (n,): its uniqueness with an exponential decay of half-life `half_life_days`.

    Labels of neighbouring hours share all but one of the h hours of their horizon, so each counts as 1 / h of an
    independent outcome; otherwise 24 h trees overfit to single long moves. The edge of hourly features changes over the
    years, so recent hours have a larger weight.

    Source: M. Lopez de Prado (2018), Advances in financial machine learning, chapter 4 (uniqueness).
    """
    seconds = rows.open_time.dt.epoch("s").to_numpy()
    age_hours = (seconds.max() - seconds) / 3600
    return np.power(0.5, age_hours / (24 * half_life_days)) / hours_spanned(horizon)


def fit(family: Family[P], rows: Rows, parameters: P, horizon: int, *, seed: int) -> dict[str, FittedOutput]:
    """Fit P(up) and, if the family has them, the quantiles of one horizon on labelled rows with one thread.

    Returns:
        The fitted outputs by name: p_up, q05, q25, q50, q75, q95.
    """
    options = Fit(rows.names, seed=seed)
    weights = row_weights(rows, horizon, parameters.half_life_days)
    outputs = {"p_up": family.fit_direction(rows.inputs, up(rows), weights, parameters, options)}
    if family.fit_quantiles is not None:
        scaled = rows.log_return / scales(rows, horizon)
        outputs |= family.fit_quantiles(rows.inputs, scaled, weights, parameters, options)
    return outputs


def quantiles_of(outputs: Mapping[str, FittedOutput], inputs: Inputs) -> np.ndarray:
    """Return the quantiles of the scaled return, (n, 5), in the order of `vocabulary.QUANTILES`."""
    return np.column_stack([outputs[name].predict(inputs) for name in QUANTILE_NAMES])


def run_parallel(task: Callable[[Item], Result], items: Sequence[Item], threads: int) -> list[Result]:
    """Run a task for every item with `threads` threads; return the results in the order of the items.

    A single fit on a few thousand rows is not faster with a second thread, but two concurrent fits are: XGBoost
    releases the interpreter lock.
    """
    with ThreadPoolExecutor(max_workers=threads) as pool:
        return list(pool.map(task, items))


def forecast_folds(
    family: Family[P],
    rows: Mapping[int, Rows],
    folds: pl.DataFrame,
    parameters: Mapping[int, P],
    *,
    seed: int,
    threads: int,
) -> pl.DataFrame:
    """Forecast every fold's test hours with a model trained on the fold's training hours.

    Args:
        family: family of the models; it must have quantiles.
        rows: labelled rows by horizon.
        folds: CV_FOLDS rows of one cutoff.
        parameters: parameters by horizon.
        seed: seed of the fits.
        threads: concurrent fits, one thread each.

    Returns:
        FOLD_FORECASTS rows; probabilities are not calibrated, quantiles are log returns, sorted.
    """

    def forecast(fold: dict[str, Any]) -> pl.DataFrame:
        horizon = fold["horizon_minutes"]
        train, test = split(rows[horizon], fold)
        outputs = fit(family, train, parameters[horizon], horizon, seed=seed)
        quantiles = np.sort(quantiles_of(outputs, test.inputs), axis=1) * scales(test, horizon)[:, None]
        return pl.DataFrame(
            {
                "cutoff": [fold["cutoff"]] * len(test),
                "horizon_minutes": horizon,
                "fold": fold["fold"],
                "open_time": test.open_time,
                "log_return": test.log_return,
                "p_up": outputs["p_up"].predict(test.inputs),
                **{name: quantiles[:, i] for i, name in enumerate(QUANTILE_NAMES)},
            }
        ).cast(FOLD_FORECASTS.columns)

    frames = run_parallel(forecast, list(folds.sort("horizon_minutes", "fold").iter_rows(named=True)), threads)
    return pl.concat(frames).select(list(FOLD_FORECASTS.columns)).sort(FOLD_FORECASTS.key)


def native_name(family: Family[Any], horizon: int) -> str:
    """Return the file name of P(up) in the library's format."""
    return f"p_up_{horizon}m.{family.suffix}"


def seed_name(family: Family[Any], seed: int) -> str:
    """Return the file name of the primary P(up) fitted with another seed, in the library's format."""
    return f"p_up_{PRIMARY}m_seed_{seed}.{family.suffix}"


def fit_seeds(
    family: Family[P], rows: Rows, parameters: P, *, horizon: int, seeds: Sequence[int], threads: int
) -> list[FittedOutput]:
    """Fit P(up) of one horizon once per seed, in the order of the seeds.

    Args:
        family: family of the models.
        rows: labelled rows of the horizon.
        parameters: parameters of the fits.
        horizon: minutes ahead.
        seeds: seeds of the fits.
        threads: concurrent fits, one thread each.
    """
    weights, rose = row_weights(rows, horizon, parameters.half_life_days), up(rows)

    def fit_some(some: Sequence[int]) -> dict[int, FittedOutput]:
        options = Fit(rows.names)  # the same for every seed, so that they share the prepared rows
        return {
            seed: family.fit_direction(rows.inputs, rose, weights, parameters, replace(options, seed=seed))
            for seed in some
        }

    parts = run_parallel(fit_some, [seeds[i::threads] for i in range(threads)], threads)
    return [next(part[seed] for part in parts if seed in part) for seed in seeds]


def out_of_sample_metrics(forecasts: pl.DataFrame) -> dict[str, float]:
    """Return the metrics of one horizon's out-of-sample forecasts by name, without undefined metrics.

    Args:
        forecasts: FOLD_FORECASTS rows of one horizon.
    """
    p_up, log_return = forecasts["p_up"].to_numpy(), forecasts["log_return"].to_numpy()
    low, lower, _, upper, high = (forecasts[name].to_numpy() for name in QUANTILE_NAMES)
    scores = {
        "accuracy": metrics.accuracy(p_up, log_return),
        "auc": metrics.auc(p_up, log_return),
        "log_loss": metrics.log_loss(p_up, log_return),
        "log_loss_skill": metrics.log_loss_skill(p_up, log_return),
        "brier": metrics.brier(p_up, log_return),
        "calibration_error": metrics.calibration_error(p_up, log_return),
        "coverage_50": metrics.interval_coverage(log_return, lower, upper),
        "coverage_90": metrics.interval_coverage(log_return, low, high),
    }
    values = {name: score.value for name, score in scores.items() if score.value is not None}
    return {**values, "n": float(len(forecasts))}


@dataclass(frozen=True)
class OutputCalibration:
    """Calibration and conformal offsets of one horizon, fitted on its out-of-fold forecasts."""

    calibration: Calibration
    offsets: dict[str, float]


def fit_output_calibration(forecasts: pl.DataFrame, rows: Rows, horizon: int) -> OutputCalibration:
    """Fit calibration and conformal offsets of one horizon on its out-of-fold forecasts.

    Args:
        forecasts: FOLD_FORECASTS rows.
        rows: the labelled rows of these forecasts, for their scales.
        horizon: minutes ahead.
    """
    horizon_rows = forecasts.filter(pl.col("horizon_minutes") == horizon).sort("open_time")
    at = rows.open_time.search_sorted(horizon_rows["open_time"]).to_numpy()
    scale = scales(rows, horizon)[at]
    returns = horizon_rows["log_return"].to_numpy()
    return OutputCalibration(
        calibration=fit_calibration(horizon_rows["p_up"].to_numpy(), (returns > 0).astype(np.float64), horizon=horizon),
        offsets=conformal_offsets(returns / scale, horizon_rows.select(QUANTILE_NAMES).to_numpy() / scale[:, None]),
    )


@dataclass(frozen=True)
class FittedModel:
    """The model of a cutoff, ready to be saved.

    Attributes:
        document: contents of `model.json`, without the parts that `save_model` adds.
        graphs: ONNX graphs by file name.
        natives: P(up) in the library's format by file name, including those of other seeds.
        trees: number of trees by file name of the graph.
        parity: largest |ONNX - library| by file name of the graph.
    """

    document: dict[str, Any]
    graphs: dict[str, bytes]
    natives: dict[str, bytes]
    trees: dict[str, int]
    parity: dict[str, float]


def fit_model(
    family: Family[P],
    rows: Mapping[int, Rows],
    forecasts: pl.DataFrame,
    parameters: Mapping[int, P],
    *,
    cutoff: date,
    feature_set: str,
    features: Sequence[Mapping[str, str]],
    metrics: Mapping[int, Mapping[str, float]],
    seed: int,
    other_seeds: Sequence[int] = (),
    threads: int,
) -> FittedModel:
    """Fit the model of a cutoff on its whole window and export it.

    Args:
        family: family of the models; it must have quantiles.
        rows: labelled rows by horizon.
        forecasts: FOLD_FORECASTS rows of the same window, for calibration and intervals.
        parameters: by horizon.
        cutoff: the cutoff.
        feature_set: name of the feature set.
        features: name, unit, group and about of each feature, in column order.
        metrics: out-of-fold metrics by horizon, stored in the document.
        seed: of the fits.
        other_seeds: seeds of additional fits of the primary P(up), which a later verdict compares with a candidate.
        threads: fits at a time, one thread each.

    Raises:
        ParityError: the output of a graph differs from that of its library.
    """
    graphs: dict[str, bytes] = {}
    natives: dict[str, bytes] = {}
    trees: dict[str, int] = {}
    parity: dict[str, float] = {}
    calibrations: dict[int, OutputCalibration] = {}

    def fit_horizon(horizon: int) -> None:
        horizon_rows = rows[horizon]
        outputs = fit(family, horizon_rows, parameters[horizon], horizon, seed=seed)
        check = parity_rows(horizon_rows.inputs, seed)
        for output, fitted in outputs.items():
            name = graph_name(output, horizon)
            graphs[name] = fitted.onnx()
            trees[name] = fitted.trees
            parity[name] = parity_error(fitted, graphs[name], check, family.parity_tolerance)
        natives[native_name(family, horizon)] = outputs["p_up"].native()
        calibrations[horizon] = fit_output_calibration(forecasts, horizon_rows, horizon)

    run_parallel(fit_horizon, HORIZONS, threads)
    primary = rows[PRIMARY]
    others = fit_seeds(family, primary, parameters[PRIMARY], horizon=PRIMARY, seeds=other_seeds, threads=threads)
    natives |= {seed_name(family, other): fitted.native() for other, fitted in zip(other_seeds, others, strict=True)}
    document = {
        "cutoff": cutoff.isoformat(),
        "horizons": list(HORIZONS),
        "quantiles": list(QUANTILES),
        "feature_set": feature_set,
        "features": [dict(feature) for feature in features],
        "calibration": {str(h): calibrations[h].calibration.document() for h in HORIZONS},
        "conformal": {str(h): calibrations[h].offsets for h in HORIZONS},
        "scale": {"feature": SCALE_FEATURE, "floor": SCALE_FLOOR, "null": SCALE_UNKNOWN},
        "metrics": {str(h): dict(metrics[h]) for h in HORIZONS},
        "training": {
            "first": primary.open_time[0].isoformat(),
            "last": primary.open_time[-1].isoformat(),
            "rows": len(primary),
            "seed": seed,
            "parameters": {str(h): parameters[h].to_json() for h in HORIZONS},
        },
    }
    return FittedModel(document, graphs, natives, trees, parity)
