"""Training: out-of-fold forecasts of every member and head, then the model of the cutoff, calibrated on them.

All functions use only rows whose label is known at the cutoff (see `learning.folds`).
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from datetime import date, datetime, timedelta
from typing import Any, TypeVar

import numpy as np
import numpy.typing as npt
import polars as pl

from btc_assets.clock import midnight
from btc_assets.evaluation import metrics
from btc_assets.learning.ensemble import Ensemble
from btc_assets.learning.export import ParityError, parity_error, parity_rows
from btc_assets.learning.families.protocol import (
    PARITY_TOLERANCE,
    Curve,
    Family,
    Fit,
    FittedOutput,
    Inputs,
    Parameters,
    Vector,
)
from btc_assets.learning.folds import MIN_TRAIN_ROWS, NotEnoughHistoryError, Rows, split
from btc_assets.learning.forecast_model import INTERVALS, SIZE, ForecastModel, graph_name
from btc_assets.learning.members import Member
from btc_assets.learning.natives import library_p_up, native_name
from btc_assets.learning.sigma import Sigma
from btc_assets.learning.tables import FOLD_FORECASTS
from btc_assets.vocabulary import PRIMARY, QUANTILE_NAMES, QUANTILES, hours_spanned

Item = TypeVar("Item")
Result = TypeVar("Result")
Bools = npt.NDArray[np.bool_]
Scale = Callable[[Rows, int], Vector]
"""(rows with every feature, minutes ahead) -> forecast standard deviation of the log return of each row, (n,)."""

SEEDS = 5
"""Number of seeds per side that a verdict compares; both sides use the same seeds."""
REQUIRED_SHARE = 0.99
"""Share of a member's training hours in which an input must be known for the member to require it."""


@dataclass(frozen=True)
class Trainee:
    """A member or head with everything that its fits need.

    Attributes:
        member: its declaration.
        family: its model family.
        features: names of the features it is trained on.
        parameters: parameters by horizon.
    """

    member: Member
    family: Family[Any]
    features: tuple[str, ...]
    parameters: Mapping[int, Parameters]

    def rows(self, rows: Rows, cutoff: date) -> Rows:
        """Return its inputs in its own window before a cutoff, of rows with every feature."""
        start = midnight(cutoff - timedelta(days=self.member.window_days))
        return rows.between(start, midnight(cutoff)).select(self.features)

    def lookback(self, horizon: int) -> int:
        """Return the hours of a row of its inputs."""
        return self.family.lookback(self.parameters[horizon])

    def graph(self, output: str, horizon: int) -> str:
        """Return the file name of a graph."""
        return graph_name(self.member.name, output, horizon)

    def native(self, horizon: int, seed: int | None = None) -> str:
        """Return the file name of P(up) in the library's format, of the model's seed or of another one."""
        return native_name(self.member.name, horizon, self.family, seed)


def up(rows: Rows) -> Vector:
    """Return 1.0 where the return was positive, (n,)."""
    return (rows.log_return > 0).astype(np.float64)


def scale_of(volatility: Mapping[str, Any]) -> Scale:
    """Return the scale of rows by a volatility model.

    Args:
        volatility: its document, see `sigma`.
    """
    sigma = Sigma(volatility)

    def scale(rows: Rows, horizon: int) -> Vector:
        return sigma(rows.select(sigma.inputs).inputs)[:, sigma.horizons.index(horizon)]

    return scale


def signed_root(scaled: Vector) -> Vector:
    """Return sign(z) * sqrt(|z|), (n,): a target in which single large moves do not outweigh all others."""
    return np.asarray(np.sign(scaled) * np.sqrt(np.abs(scaled)))


def with_log_sigma(inputs: Inputs, scale: Vector) -> Inputs:
    """Return the inputs of a head of quantiles, (n, f + 1): those of its rows and the log of their scale."""
    return np.column_stack([inputs, np.log(scale)]).astype(np.float32)


def required_inputs(rows: Rows) -> Bools:
    """Return which inputs a member trained on these rows requires, (f,).

    A family learns to do without an input that is often missing, but not without one that it always had.
    """
    return np.asarray(np.isnan(rows.inputs).mean(axis=0) <= 1 - REQUIRED_SHARE)


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


def fit(
    trainee: Trainee, rows: Rows, scale: Vector, horizon: int, *, seed: int, curve: Curve | None = None
) -> dict[str, FittedOutput]:
    """Fit the outputs of a member or head of one horizon with one thread.

    Args:
        trainee: the member or head.
        rows: its labelled rows.
        scale: scale of each row, (n,), fraction.
        horizon: minutes ahead.
        seed: seed of the fits.
        curve: receives the training curves of P(up).

    Returns:
        The fitted outputs by name: p_up, the quantiles, or size.

    Raises:
        NotEnoughHistoryError: there are fewer than `folds.MIN_TRAIN_ROWS` rows.
        ValueError: the family has no such output.
    """
    if len(rows) < MIN_TRAIN_ROWS:
        raise NotEnoughHistoryError(f"{len(rows)} labelled hours to train on; at least {MIN_TRAIN_ROWS} are needed")
    parameters, options = trainee.parameters[horizon], Fit(rows.names, seed=seed)
    weights = row_weights(rows, horizon, parameters.half_life_days)
    if trainee.member.target == "direction":
        inputs, options = rows.sequences(trainee.lookback(horizon)), replace(options, curve=curve)
        return {"p_up": trainee.family.fit_direction(inputs, up(rows), weights, parameters, options)}
    if trainee.member.target == "size":
        if trainee.family.fit_size is None:
            raise ValueError(f"the family {trainee.family.name} has no size")
        inputs, target = rows.sequences(trainee.lookback(horizon)), signed_root(rows.log_return / scale)
        return {"size": trainee.family.fit_size(inputs, target, weights, parameters, options)}
    if trainee.family.fit_quantiles is None:
        raise ValueError(f"the family {trainee.family.name} has no quantiles")
    inputs, options = with_log_sigma(rows.inputs, scale), replace(options, names=(*rows.names, "log_sigma"))
    return dict(trainee.family.fit_quantiles(inputs, rows.log_return / scale, weights, parameters, options))


def run_parallel(task: Callable[[Item], Result], items: Sequence[Item], threads: int) -> list[Result]:
    """Run a task for every item with `threads` threads; return the results in the order of the items.

    A single fit on a few thousand rows is not faster with a second thread, but two concurrent fits are: XGBoost
    releases the interpreter lock.
    """
    with ThreadPoolExecutor(max_workers=threads) as pool:
        return list(pool.map(task, items))


def forecast_folds(
    trainees: Sequence[Trainee],
    rows: Mapping[int, Rows],
    folds: pl.DataFrame,
    scales: Mapping[datetime, Scale],
    *,
    cutoff: date,
    seed: int,
    threads: int,
    curves: dict[str, list[float]] | None = None,
) -> pl.DataFrame:
    """Forecast every fold's test hours with members and heads trained on the fold's training hours.

    A member that cannot be fitted has no probabilities, and rows that name the reason; the others stand.

    Args:
        trainees: members and heads.
        rows: labelled rows with every feature, by horizon.
        folds: CV_FOLDS rows of the cutoff.
        scales: by start of a test, the scale that was fitted before it.
        cutoff: end of every member's window.
        seed: seed of the fits.
        threads: concurrent fits, one thread each.
        curves: receives the training curves of P(up) by member, horizon, fold and name, a value a step.

    Returns:
        FOLD_FORECASTS rows; probabilities are not calibrated, quantiles are log returns, sorted.
    """

    def forecast(job: tuple[Trainee, dict[str, Any]]) -> pl.DataFrame:
        trainee, fold = job
        horizon = fold["horizon_minutes"]
        train, test = split(rows[horizon], fold)
        own, scale = trainee.rows(train, cutoff), scales[fold["test_start"]]
        outputs = dict.fromkeys(("p_up", *QUANTILE_NAMES, "size"), np.full(len(test), np.nan))
        failure = None

        def curve(name: str, _: int, value: float) -> None:
            key = f"{trainee.member.name}.{horizon}m.fold_{fold['fold']}.{name}"
            curves.setdefault(key, []).append(value)  # type: ignore[union-attr]

        try:
            drawn = None if curves is None else curve
            outputs |= _fold_outputs(trainee, train, own, test, scale, horizon, seed=seed, curve=drawn)
        except Exception as error:  # a family raises what its library raises
            if trainee.member.target != "direction":
                raise
            failure = f"{type(error).__name__}: {error}"
        return pl.DataFrame(
            {
                "cutoff": [cutoff] * len(test),
                "horizon_minutes": horizon,
                "member": trainee.member.name,
                "fold": fold["fold"],
                "open_time": test.open_time,
                "log_return": test.log_return,
                "scale": scale(test, horizon),
                "trained_from": own.open_time.min(),
                "n_train": len(own),
                "failure": failure,
                **outputs,
            }
        )

    jobs = [
        (trainee, fold)
        for trainee in trainees
        for fold in folds.filter(pl.col("horizon_minutes").is_in(list(rows))).iter_rows(named=True)
    ]
    frame = pl.concat(run_parallel(forecast, jobs, threads), how="vertical_relaxed").fill_nan(None)
    return frame.select(list(FOLD_FORECASTS.columns)).cast(FOLD_FORECASTS.columns).sort(FOLD_FORECASTS.key)


def _fold_outputs(
    trainee: Trainee,
    train: Rows,
    own: Rows,
    test: Rows,
    scale: Scale,
    horizon: int,
    *,
    seed: int,
    curve: Curve | None,
) -> dict[str, Vector]:
    """Return the outputs of one fold by column; P(up) is NaN where the member abstains."""
    test_rows = test.select(trainee.features)
    inputs = test_rows.inputs
    outputs = fit(trainee, own, scale(train, horizon)[len(train) - len(own) :], horizon, seed=seed, curve=curve)
    if trainee.member.target == "direction":
        abstains = np.isnan(inputs) @ required_inputs(own)
        p_up = outputs["p_up"].predict(test_rows.sequences(trainee.lookback(horizon)))
        return {"p_up": np.where(abstains, np.nan, p_up)}
    if trainee.member.target == "size":
        return {"size": outputs["size"].predict(test_rows.sequences(trainee.lookback(horizon)))}
    sigma = scale(test, horizon)
    inputs = with_log_sigma(inputs, sigma)
    quantiles = np.sort(np.column_stack([outputs[name].predict(inputs) for name in QUANTILE_NAMES]), axis=1)
    return dict(zip(QUANTILE_NAMES, (quantiles * sigma[:, None]).T, strict=True))


def fit_seeds(trainee: Trainee, rows: Rows, *, horizon: int, seeds: Sequence[int], threads: int) -> list[FittedOutput]:
    """Fit P(up) of a member once per seed, in the order of the seeds.

    Args:
        trainee: the member.
        rows: its labelled rows.
        horizon: minutes ahead.
        seeds: seeds of the fits.
        threads: concurrent fits, one thread each.
    """
    parameters = trainee.parameters[horizon]
    weights, rose = row_weights(rows, horizon, parameters.half_life_days), up(rows)

    def fit_some(some: Sequence[int]) -> dict[int, FittedOutput]:
        options = Fit(rows.names)  # the same for every seed, so that they share the prepared rows
        return {
            seed: trainee.family.fit_direction(rows.inputs, rose, weights, parameters, replace(options, seed=seed))
            for seed in some
        }

    parts = run_parallel(fit_some, [seeds[i::threads] for i in range(threads)], threads)
    return [next(part[seed] for part in parts if seed in part) for seed in seeds]


def forecast_seeds(
    trainees: Sequence[Trainee], train: Rows, test: Rows, *, cutoff: date, seeds: Sequence[int], threads: int
) -> dict[str, npt.NDArray[np.float64]]:
    """Forecast test hours of the primary horizon with other seeds, by name of each member whose fit depends on them.

    Args:
        trainees: the members.
        train: labelled training rows with every feature.
        test: test rows with every feature, (n, ...).
        cutoff: end of every member's window.
        seeds: the other seeds.
        threads: concurrent fits, one thread each.

    Returns:
        Probabilities before calibration, (seeds, n).
    """
    return {
        trainee.member.name: np.stack(
            [
                fitted.predict(test.select(trainee.features).inputs)
                for fitted in fit_seeds(
                    trainee, trainee.rows(train, cutoff), horizon=PRIMARY, seeds=seeds, threads=threads
                )
            ]
        )
        for trainee in trainees
        if trainee.family.stochastic
    }


def out_of_sample_metrics(forecasts: pl.DataFrame) -> dict[str, float]:
    """Return the metrics of one horizon's out-of-sample forecasts by name, without undefined metrics.

    Args:
        forecasts: rows of one horizon with log_return, p_up and the quantiles.
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
class FittedModel:
    """The model of a cutoff, ready to be saved.

    Attributes:
        document: contents of `model.json`, without the parts that `save_model` adds.
        graphs: ONNX graphs by file name.
        natives: P(up) of each member in its library's format by file name, including those of other seeds.
        trees: number of trees by file name of the graph.
        parity: largest |ONNX - library| by file name of the graph.
        rows: labelled training rows by file name of the graph.
        failures: reason by name of a member that could not be fitted or exported and is left out.
        check: rows on which the whole model is compared with the libraries, (n, features).
        expected: P(up) of these rows by the libraries, (n, horizons).
        curves: training curves of P(up) by member, horizon and name, such as `xgboost_2y.60m.log_loss`; a value a step.
    """

    document: dict[str, Any]
    graphs: dict[str, bytes]
    natives: dict[str, bytes]
    trees: dict[str, int]
    parity: dict[str, float]
    rows: dict[str, int]
    failures: dict[str, str]
    check: Inputs
    expected: npt.NDArray[np.float64]
    curves: dict[str, list[float]]

    def verify(self, model: ForecastModel) -> float:
        """Return the largest difference of the saved model's P(up) from that of the libraries.

        Raises:
            ParityError: the difference exceeds `PARITY_TOLERANCE`.
        """
        worst = float(np.abs(model.predict(self.check).p_up - self.expected).max())
        if not worst <= PARITY_TOLERANCE:
            raise ParityError(
                f"the saved ensemble differs from its libraries by {worst:.3g} on {len(self.check)} rows "
                f"(allowed: {PARITY_TOLERANCE:g}); it is not registered"
            )
        return worst


@dataclass(frozen=True)
class _Fitted:
    """The outputs of one member or head of one horizon, exported."""

    outputs: dict[str, FittedOutput]
    graphs: dict[str, bytes]
    parity: dict[str, float]
    curves: dict[str, list[float]]


def fit_model(
    trainees: Sequence[Trainee],
    rows: Mapping[int, Rows],
    ensembles: Mapping[int, Ensemble],
    offsets: Mapping[int, Mapping[str, float]],
    size_slopes: Mapping[int, float],
    volatility: Mapping[str, Any],
    *,
    cutoff: date,
    feature_set: str,
    weights: str,
    features: Sequence[Mapping[str, str]],
    metrics: Mapping[int, Mapping[str, float]],
    seed: int,
    other_seeds: Sequence[int] = (),
    threads: int,
) -> FittedModel:
    """Fit every member and head on its whole window and export them.

    A member that cannot be fitted or exported is left out, and the others share its weight.

    Args:
        trainees: the members of the ensembles, and the heads of the quantiles and of the size.
        rows: labelled rows with every feature, by horizon.
        ensembles: calibrations and weights by horizon.
        offsets: conformal offsets of the scaled quantiles by horizon.
        size_slopes: slope of the expected scaled return in the forecast size by horizon.
        volatility: document of the volatility model, see `sigma`; it scales the quantiles.
        cutoff: the cutoff.
        feature_set: name of the configured feature set.
        weights: how the members are weighed, see `ensemble.WEIGHTS`.
        features: name, unit, group and about of each feature, in the order of the rows' columns.
        metrics: out-of-fold metrics of the ensemble by horizon, stored in the document.
        seed: of the fits.
        other_seeds: seeds of additional fits of the primary P(up) of members whose fit depends on the seed, which a
            later verdict compares with a candidate.
        threads: fits at a time, one thread each.

    Raises:
        ParityError: the output of a head's graph differs from that of its library, or a member's does and no other
            member is left.
    """
    horizons, scale = tuple(rows), scale_of(volatility)
    own = {(trainee.member.name, h): trainee.rows(rows[h], cutoff) for trainee in trainees for h in horizons}

    def fit_one(job: tuple[Trainee, int]) -> _Fitted | Exception:
        trainee, horizon = job
        some = own[trainee.member.name, horizon]
        try:
            sigma = scale(rows[horizon], horizon)[len(rows[horizon]) - len(some) :]
            curves = defaultdict[str, list[float]](list)
            outputs = fit(
                trainee, some, sigma, horizon, seed=seed, curve=lambda name, _, value: curves[name].append(value)
            )
            graphs = {name: output.onnx() for name, output in outputs.items()}
            head = trainee.member.target == "quantiles"
            check = parity_rows(with_log_sigma(some.inputs, sigma) if head else some.inputs, seed)
            tolerance = trainee.family.parity_tolerance
            return _Fitted(
                outputs,
                graphs,
                {name: parity_error(outputs[name], graph, check, tolerance) for name, graph in graphs.items()},
                curves,
            )
        except Exception as error:  # a family raises what its library raises
            if trainee.member.target != "direction":
                raise
            return error

    jobs = [(trainee, horizon) for trainee in trainees for horizon in horizons]
    fitted, failed = dict[tuple[str, int], _Fitted](), dict[str, Exception]()
    for (trainee, horizon), result in zip(jobs, run_parallel(fit_one, jobs, threads), strict=True):
        if isinstance(result, Exception):
            failed.setdefault(trainee.member.name, result)
        else:
            fitted[trainee.member.name, horizon] = result
    standing = [trainee for trainee in trainees if trainee.member.name not in failed]
    members = [trainee for trainee in standing if trainee.member.target == "direction"]
    if not members:
        raise next(iter(failed.values()))
    names = {(trainee.member.name, h): trainee for trainee in standing for h in horizons}
    exported = [
        (trainee.graph(output, h), fitted[name, h], output, len(own[name, h]))
        for (name, h), trainee in names.items()
        for output in fitted[name, h].outputs
    ]
    natives = {
        trainee.native(h): fitted[trainee.member.name, h].outputs["p_up"].native()
        for trainee in members
        for h in horizons
    }
    for trainee in members:
        if trainee.family.stochastic:
            others = fit_seeds(
                trainee, own[trainee.member.name, PRIMARY], horizon=PRIMARY, seeds=other_seeds, threads=threads
            )
            natives |= {trainee.native(PRIMARY, s): f.native() for s, f in zip(other_seeds, others, strict=True)}
    position = {feature["name"]: column for column, feature in enumerate(features)}
    heads = {one.member.name: _head_document(one, own, position) for one in standing if one not in members}
    document = {
        "cutoff": cutoff.isoformat(),
        "horizons": list(horizons),
        "quantiles": list(QUANTILES),
        "feature_set": feature_set,
        "features": [dict(feature) for feature in features],
        "members": [_member_document(trainee, own, ensembles, position) for trainee in members],
        "weights": {
            "option": weights,
            "coin": {str(h): ensembles[h].coin for h in horizons},
            "edges": {str(h): list(ensembles[h].edges) for h in horizons},
        },
        "intervals": heads[INTERVALS],
        "size": heads[SIZE] | {"slope": {str(h): size_slopes[h] for h in horizons}},
        "conformal": {str(h): dict(offsets[h]) for h in horizons},
        "volatility": dict(volatility),
        "metrics": {str(h): dict(metrics[h]) for h in horizons},
        "training": {"seed": seed},
    }
    check = parity_rows(rows[PRIMARY].inputs, seed)
    return FittedModel(
        document,
        graphs={name: part.graphs[output] for name, part, output, _ in exported},
        natives=natives,
        trees={name: part.outputs[output].trees for name, part, output, _ in exported},
        parity={name: part.parity[output] for name, part, output, _ in exported},
        rows={name: n for name, _, _, n in exported},
        failures={name: f"{type(error).__name__}: {error}" for name, error in failed.items()},
        check=check,
        expected=np.column_stack(
            [
                library_p_up(
                    document,
                    {trainee.member.name: fitted[trainee.member.name, h].outputs["p_up"] for trainee in members},
                    check,
                    scale(replace(rows[h], inputs=check), h),
                    h,
                )
                for h in horizons
            ]
        ),
        curves={
            f"{name}.{h}m.{curve}": values for name, h in names for curve, values in fitted[name, h].curves.items()
        },
    )


def _head_document(
    trainee: Trainee, own: Mapping[tuple[str, int], Rows], position: Mapping[str, int]
) -> dict[str, Any]:
    """Return the entry of a member or head in `model.json`."""
    member, some = trainee.member, own[trainee.member.name, PRIMARY]
    return {
        "family": member.family,
        "inputs": member.inputs,
        "window_days": member.window_days,
        "features": [position[name] for name in trainee.features],
        "first": some.open_time[0].isoformat(),
        "last": some.open_time[-1].isoformat(),
        "rows": len(some),
        "parameters": {str(h): trainee.parameters[h].to_json() for name, h in own if name == member.name},
    }


def _member_document(
    trainee: Trainee,
    own: Mapping[tuple[str, int], Rows],
    ensembles: Mapping[int, Ensemble],
    position: Mapping[str, int],
) -> dict[str, Any]:
    """Return the entry of a member of the ensemble in `model.json`."""
    name = trainee.member.name
    required = required_inputs(own[name, PRIMARY])
    at = {h: ensemble.members.index(name) for h, ensemble in ensembles.items()}
    return {
        "name": name,
        **_head_document(trainee, own, position),
        "required": [position[n] for n, needed in zip(trainee.features, required, strict=True) if needed],
        "calibration": {str(h): ensembles[h].calibrations[at[h]].document() for h in at},
        "weights": {str(h): ensembles[h].weights[:, at[h]].tolist() for h in at},
    }
