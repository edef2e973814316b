"""Fitting: out-of-fold forecasts first, then the model of the cutoff with what they taught.

Everything here sees only rows whose label is known by the cutoff (see `learning.folds`).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from datetime import date
from typing import Any, TypeVar

import numpy as np
import polars as pl

from btc_assets.evaluation import metrics
from btc_assets.learning.calibration import Calibration, conformal_offsets, fit_calibration
from btc_assets.learning.export import parity_error, parity_rows
from btc_assets.learning.families.gradient_boosting import BoostingParameters, GradientBoosting
from btc_assets.learning.families.protocol import FittedOutput, Forecaster, Vector
from btc_assets.learning.folds import Rows, split
from btc_assets.learning.forecast_model import graph_name, row_scale
from btc_assets.learning.tables import FOLD_FORECASTS
from btc_assets.vocabulary import HORIZONS, QUANTILE_NAMES, QUANTILES

Item = TypeVar("Item")
Made = TypeVar("Made")

SEEDS = 5
"""Fits of each side, with the same seeds, that a verdict compares."""
SCALE_FEATURE = "realised_volatility_24h"
"""Feature that scales quantiles: standard deviation of the last 24 one-hour log returns, fraction."""
SCALE_FLOOR = 0.0005
"""Least hourly volatility assumed, fraction."""
SCALE_UNKNOWN = 0.005
"""Hourly volatility assumed where the feature is not known, fraction."""


def up(rows: Rows) -> Vector:
    """Return 1.0 where the return was positive, (n,)."""
    return (rows.log_return > 0).astype(np.float64)


def scales(rows: Rows, horizon: int) -> Vector:
    """Return the scale of each row, (n,), fraction."""
    return scaled_by(rows.column(SCALE_FEATURE), horizon)


def scaled_by(volatility: np.ndarray, horizon: int) -> Vector:
    """Return the scale that values of `SCALE_FEATURE` encode, (n,), fraction; NaN where not known."""
    return row_scale(volatility, horizon, floor=SCALE_FLOOR, unknown=SCALE_UNKNOWN)


def row_weights(rows: Rows, horizon: int, half_life_days: float) -> Vector:
    """Return the weight of each row, (n,): its uniqueness, halved every `half_life_days` back from the newest.

    The labels of neighbouring hours share all but one of their `horizon` hours, so each counts as
    1 / horizon of an independent outcome: without that, trees of 24 h find structure in one long move.
    The edge of hourly features changes over the years, so what happened lately counts for more.

    Source: M. Lopez de Prado (2018), Advances in financial machine learning, chapter 4 (uniqueness).
    """
    seconds = rows.open_time.dt.epoch("s").to_numpy()
    age_hours = (seconds.max() - seconds) / 3600
    return np.power(0.5, age_hours / (24 * half_life_days)) / horizon


def fit(model: Forecaster, rows: Rows, horizon: int, half_life_days: float) -> Forecaster:
    """Fit P(up) and the quantiles of one horizon on labelled rows."""
    weights = row_weights(rows, horizon, half_life_days)
    model.fit_direction(rows.inputs, up(rows), weights)
    return model.fit_quantiles(rows.inputs, rows.log_return / scales(rows, horizon), weights)


def side_by_side(task: Callable[[Item], Made], items: Sequence[Item], threads: int) -> list[Made]:
    """Do a task for every item, `threads` at a time, and return the results in the order of the items.

    One fit on a few thousand rows gains nothing from a second thread, but two fits at a time do, and
    XGBoost lets go of the interpreter while it works.
    """
    with ThreadPoolExecutor(max_workers=threads) as pool:
        return list(pool.map(task, items))


def forecast_folds(
    rows: Mapping[int, Rows],
    folds: pl.DataFrame,
    parameters: Mapping[int, BoostingParameters],
    *,
    seed: int,
    threads: int,
) -> pl.DataFrame:
    """Forecast every fold's test hours with a model of its own training hours.

    Args:
        rows: labelled rows by horizon.
        folds: CV_FOLDS rows of one cutoff.
        parameters: by horizon.
        seed: of the fits.
        threads: fits at a time, one thread each.

    Returns:
        FOLD_FORECASTS rows; probabilities are not calibrated, quantiles are log returns, sorted.
    """

    def forecast(fold: dict[str, Any]) -> pl.DataFrame:
        horizon = fold["horizon_hours"]
        train, test = split(rows[horizon], fold)
        model = GradientBoosting(parameters[horizon], seed=seed, threads=1)
        fit(model, train, horizon, parameters[horizon].half_life_days)
        quantiles = np.sort(model.quantiles(test.inputs), axis=1) * scales(test, horizon)[:, None]
        return pl.DataFrame(
            {
                "cutoff": [fold["cutoff"]] * len(test),
                "horizon_hours": horizon,
                "fold": fold["fold"],
                "open_time": test.open_time,
                "log_return": test.log_return,
                "p_up": model.p_up(test.inputs),
                **{name: quantiles[:, i] for i, name in enumerate(QUANTILE_NAMES)},
            }
        ).cast(FOLD_FORECASTS.columns)

    frames = side_by_side(forecast, list(folds.sort("horizon_hours", "fold").iter_rows(named=True)), threads)
    return pl.concat(frames).select(list(FOLD_FORECASTS.columns)).sort(FOLD_FORECASTS.key)


def seed_name(seed: int) -> str:
    """Return the file name of the primary P(up) fitted with another seed, in the library's own format."""
    return f"p_up_{HORIZONS[0]}h_seed_{seed}.ubj"


def fit_seeds(
    rows: Rows, parameters: BoostingParameters, *, horizon: int, seeds: Sequence[int], threads: int
) -> list[FittedOutput]:
    """Fit P(up) of one horizon once for each seed, in the order of the seeds.

    Args:
        rows: labelled rows of the horizon.
        parameters: of the boosters.
        horizon: hours ahead.
        seeds: of the fits.
        threads: fits at a time, one thread each.
    """
    weights, rose = row_weights(rows, horizon, parameters.half_life_days), up(rows)

    def fit_some(own: Sequence[int]) -> dict[int, FittedOutput]:
        fitted: dict[int, FittedOutput] = {}
        model = GradientBoosting(parameters, seed=0, threads=1)
        for seed in own:  # one forecaster, so that the seeds share the binned rows
            model.seed = seed
            fitted[seed] = model.fit_direction(rows.inputs, rose, weights).outputs()["p_up"]
        return fitted

    parts = side_by_side(fit_some, [seeds[i::threads] for i in range(threads)], threads)
    return [next(part[seed] for part in parts if seed in part) for seed in seeds]


def out_of_sample_metrics(forecasts: pl.DataFrame) -> dict[str, float]:
    """Return the metrics of one horizon's out-of-sample forecasts by name; what cannot be computed is left out.

    Args:
        forecasts: FOLD_FORECASTS rows of one horizon.
    """
    p_up, happened = forecasts["p_up"].to_numpy(), forecasts["log_return"].to_numpy()
    low, lower, _, upper, high = (forecasts[name].to_numpy() for name in QUANTILE_NAMES)
    scores = {
        "accuracy": metrics.accuracy(p_up, happened),
        "auc": metrics.auc(p_up, happened),
        "log_loss": metrics.log_loss(p_up, happened),
        "log_loss_skill": metrics.log_loss_skill(p_up, happened),
        "brier": metrics.brier(p_up, happened),
        "calibration_error": metrics.calibration_error(p_up, happened),
        "coverage_50": metrics.interval_coverage(happened, lower, upper),
        "coverage_90": metrics.interval_coverage(happened, low, high),
    }
    values = {name: score.value for name, score in scores.items() if score.value is not None}
    return {**values, "n": float(len(forecasts))}


@dataclass(frozen=True)
class Lesson:
    """What the out-of-fold forecasts of one horizon teach its model."""

    calibration: Calibration
    offsets: dict[str, float]


def learn(forecasts: pl.DataFrame, rows: Rows, horizon: int) -> Lesson:
    """Fit calibration and conformal offsets of one horizon on its out-of-fold forecasts.

    Args:
        forecasts: FOLD_FORECASTS rows.
        rows: the labelled rows they were made on, for their scales.
        horizon: hours ahead.
    """
    own = forecasts.filter(pl.col("horizon_hours") == horizon).sort("open_time")
    at = rows.open_time.search_sorted(own["open_time"]).to_numpy()
    scale = scales(rows, horizon)[at]
    returns = own["log_return"].to_numpy()
    return Lesson(
        calibration=fit_calibration(own["p_up"].to_numpy(), (returns > 0).astype(np.float64), horizon=horizon),
        offsets=conformal_offsets(returns / scale, own.select(QUANTILE_NAMES).to_numpy() / scale[:, None]),
    )


@dataclass(frozen=True)
class FittedModel:
    """The model of a cutoff, ready to be written.

    Attributes:
        document: content of `model.json`, less what `write_model` fills in.
        graphs: ONNX graphs by file name.
        natives: boosters of P(up) in the library's own format, by file name; those of other seeds among them.
        trees: number of trees by file name of the graph.
        parity: largest |ONNX - library| by file name of the graph.
    """

    document: dict[str, Any]
    graphs: dict[str, bytes]
    natives: dict[str, bytes]
    trees: dict[str, int]
    parity: dict[str, float]


def fit_model(
    rows: Mapping[int, Rows],
    forecasts: pl.DataFrame,
    parameters: Mapping[int, BoostingParameters],
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
        rows: labelled rows by horizon.
        forecasts: FOLD_FORECASTS rows of the same window: calibration and intervals are learnt from them.
        parameters: by horizon.
        cutoff: the cutoff.
        feature_set: name of the feature set.
        features: name, unit, group and about of each feature, in column order.
        metrics: out-of-fold metrics by horizon, carried for people to read.
        seed: of the fits.
        other_seeds: seeds of further fits of the primary P(up), which a later verdict compares with a candidate's.
        threads: fits at a time, one thread each.

    Raises:
        ParityError: a graph does not answer as its booster.
    """
    graphs: dict[str, bytes] = {}
    natives: dict[str, bytes] = {}
    trees: dict[str, int] = {}
    parity: dict[str, float] = {}
    lessons: dict[int, Lesson] = {}

    def fit_horizon(horizon: int) -> None:
        own = rows[horizon]
        model = GradientBoosting(parameters[horizon], seed=seed, threads=1)
        fit(model, own, horizon, parameters[horizon].half_life_days)
        check = parity_rows(own.inputs, seed)
        for output, fitted in model.outputs().items():
            name = graph_name(output, horizon)
            graphs[name] = fitted.onnx()
            trees[name] = fitted.trees
            parity[name] = parity_error(fitted, graphs[name], check)
        natives[f"p_up_{horizon}h.ubj"] = model.outputs()["p_up"].native()
        lessons[horizon] = learn(forecasts, own, horizon)

    side_by_side(fit_horizon, HORIZONS, threads)
    first, primary = HORIZONS[0], rows[HORIZONS[0]]
    others = fit_seeds(primary, parameters[first], horizon=first, seeds=other_seeds, threads=threads)
    natives |= {seed_name(other): fitted.native() for other, fitted in zip(other_seeds, others, strict=True)}
    document = {
        "cutoff": cutoff.isoformat(),
        "horizons": list(HORIZONS),
        "quantiles": list(QUANTILES),
        "feature_set": feature_set,
        "features": [dict(feature) for feature in features],
        "calibration": {str(h): lessons[h].calibration.document() for h in HORIZONS},
        "conformal": {str(h): lessons[h].offsets for h in HORIZONS},
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
