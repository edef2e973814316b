"""Every law on the current lake and the mutation score of the planted leaks: `python -m btc_assets.laws.report`."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Sequence
from datetime import datetime
from typing import TYPE_CHECKING

import numpy as np
import polars as pl

from btc_assets.clock import HOUR
from btc_assets.features.engine import compute_features
from btc_assets.features.inputs import synthetic_inputs
from btc_assets.laws.laws import (
    Engine,
    Fit,
    LawResult,
    Matrix,
    availability,
    cuts,
    fitted_state,
    future_poisoning,
    labels_law,
    placebo,
    prefix_invariance,
    purge_law,
    warm_up,
)
from btc_assets.streams import Inputs
from btc_assets.vocabulary import QUANTILE_NAMES

if TYPE_CHECKING:
    from btc_assets.learning.families.protocol import Vector
    from btc_assets.learning.folds import Rows
    from btc_assets.learning.training import Trainee

REPORT_DAYS = 60
"""Newest days of the lake that the command tests."""
_PLACEBO_HOURS = 10_000
_TRIAL_FOLD = {"n_folds": 2, "test_days": 4}
_TRIAL_ROUNDS = 20
_TRIAL_SIGMA = 0.03
_HORIZON = 1440
"""Horizon of the trial fit, minutes: the longest, with the longest purge."""


def _trial_fit(names: Sequence[str]) -> Fit:
    """Return a fit like that of a cutoff (folds, boosters, calibration and intervals), as bytes."""

    def fit(rows: pl.DataFrame, boundary: datetime) -> bytes:
        from btc_assets.learning import folds, training
        from btc_assets.learning.ensemble import FoldRows

        own = folds.Rows(rows["open_time"], folds.matrix(rows, names), rows["log_return"].to_numpy(), tuple(names))
        learnt = own.between(own.open_time[0], folds.last_train_open_time(boundary, _HORIZON))
        fold_frame = folds.make_folds(
            {_HORIZON: learnt}, cutoff=boundary.date(), window_days=REPORT_DAYS, **_TRIAL_FOLD
        )
        direction, intervals = _trainees(names)
        forecasts = training.forecast_folds(
            (direction, intervals),
            {_HORIZON: learnt},
            fold_frame,
            dict.fromkeys(fold_frame["test_start"], _constant_scale),
            cutoff=boundary.date(),
            seed=0,
            threads=1,
        )
        lesson = FoldRows.of(forecasts, _HORIZON, [direction.member.name])
        outputs = training.fit(direction, learnt, _constant_scale(learnt, _HORIZON), _HORIZON, seed=0)
        return b"".join(
            [
                forecasts.select("p_up", "q05", "q95").to_numpy().tobytes(),
                repr((lesson.ensemble("learnt", _HORIZON), lesson.offsets())).encode(),
                outputs["p_up"].native(),
            ]
        )

    return fit


def _constant_scale(rows: Rows, _: int) -> Vector:
    """Return the same scale for every row, (n,)."""
    return np.full(len(rows), _TRIAL_SIGMA)


def _trainees(names: Sequence[str]) -> tuple[Trainee, Trainee]:
    """Return a small member and a small head of quantiles."""
    from btc_assets.learning.families.xgboost import FAMILY, XgboostParameters
    from btc_assets.learning.members import Member
    from btc_assets.learning.training import Trainee

    parameters = {_HORIZON: XgboostParameters(rounds=_TRIAL_ROUNDS, quantile_rounds=4)}
    direction, intervals = (
        Trainee(Member(target, FAMILY.name, "hourly", REPORT_DAYS, target), FAMILY, tuple(names), parameters)
        for target in ("direction", "quantiles")
    )
    return direction, intervals


def _trial_rows(inputs: Inputs, names: Sequence[str]) -> pl.DataFrame:
    """Return features (float64) and log_return of the trial's horizon, one row per labelled hour."""
    from btc_assets.features.labels import compute_labels

    bars = inputs.clock
    first, last = bars["open_time"][0] - HOUR, bars["open_time"][-1] + HOUR
    labels = compute_labels(bars, first, last, horizons=(_HORIZON,)).drop_nulls()
    features = compute_features(inputs).select("open_time", *names)
    return features.join(labels.select("open_time", "log_return"), on="open_time", how="inner", maintain_order="left")


def _rows_of_a_cutoff(inputs: Inputs, names: Sequence[str]) -> Fit:
    """Return a fit that gives the labelled rows of a cutoff, from the clock's rows and all other streams, as bytes."""

    def rows_at(bars: pl.DataFrame, boundary: datetime) -> bytes:
        from btc_assets.features.labels import compute_labels
        from btc_assets.learning.folds import labelled_rows

        span = bars["open_time"][0] - HOUR, bars["open_time"][-1] + HOUR
        rows = labelled_rows(
            compute_features(inputs.with_clock(bars)),
            compute_labels(bars, *span),
            cutoff=boundary.date(),
            horizon=_HORIZON,
            window_days=REPORT_DAYS,
            names=names,
        )
        return rows.open_time.to_numpy().tobytes() + rows.inputs.tobytes() + rows.log_return.tobytes()

    return rows_at


def _trial_forecasts(inputs: Inputs, names: Sequence[str]) -> Engine:
    """Return an engine that forecasts by a model fitted once on these inputs."""
    from btc_assets.learning import folds, training

    rows = _trial_rows(inputs, names)
    own = folds.Rows(rows["open_time"], folds.matrix(rows, names), rows["log_return"].to_numpy(), tuple(names))
    direction, intervals = _trainees(names)
    scale = _constant_scale(own, _HORIZON)
    outputs = training.fit(direction, own, scale, _HORIZON, seed=0)
    outputs |= training.fit(intervals, own, scale, _HORIZON, seed=0)

    def engine(some: Inputs) -> pl.DataFrame:
        features = compute_features(some)
        values = folds.matrix(features, names)
        scaled = training.with_log_sigma(values, np.full(len(values), _TRIAL_SIGMA))
        quantiles = np.column_stack([outputs[name].predict(scaled) for name in QUANTILE_NAMES])
        return features.select(
            "open_time",
            "available_at",
            pl.Series("p_up", outputs["p_up"].predict(values)),
            *(pl.Series(f"quantile_{i}", quantiles[:, i]) for i in range(quantiles.shape[1])),
        )

    return engine


def _boosting(train: Matrix, up: Matrix, test: Matrix) -> Matrix:
    """Fit and forecast with the project's learner with default parameters."""
    from btc_assets.learning.families.protocol import Fit
    from btc_assets.learning.families.xgboost import FAMILY, XgboostParameters

    options = Fit(tuple(f"feature_{i}" for i in range(train.shape[1])), threads=2)
    model = FAMILY.fit_direction(train.astype(np.float32), up, np.ones(len(up)), XgboostParameters(rounds=30), options)
    return model.predict(test.astype(np.float32))


def _trials(inputs: Inputs) -> list[tuple[str, Callable[[], LawResult]]]:
    """Return every test: its subject and its law, in the order of the report."""
    from btc_assets.features.catalog import FEATURE_SETS, FEATURES
    from btc_assets.features.labels import compute_labels
    from btc_assets.learning import folds

    unknown = {feature.name for feature in FEATURES if any(name not in inputs for name in feature.streams)}
    names = tuple(name for name in FEATURE_SETS["extended"] if name not in unknown)
    rough, bars = inputs.stressed(), inputs.clock
    rows = _trial_rows(inputs, names)
    cutoff = bars["open_time"][-1].replace(hour=0)
    some = cuts(inputs, random=1)[-3:]

    def walk() -> LawResult:
        first = bars["open_time"][0]
        hours = pl.datetime_range(first, first + (_PLACEBO_HOURS - 1) * HOUR, "1h", eager=True, time_unit="us")
        made = synthetic_inputs(hours, 1, tuple(inputs.rows))
        values = compute_features(made).select(names).fill_null(float("nan")).to_numpy()
        up = (np.diff(made.clock["close"].to_numpy()) > 0).astype(np.float64)
        return placebo(_boosting, values[:-1], up)

    def permuted() -> LawResult:
        values = rows.select(names).fill_null(float("nan")).to_numpy()
        up = np.random.default_rng(9).permutation((rows["log_return"] > 0).cast(pl.Float64).to_numpy())
        return placebo(_boosting, values, up, base=float(up.mean()))

    def folds_of_a_cutoff() -> LawResult:
        own = folds.Rows(rows["open_time"], folds.matrix(rows, names), rows["log_return"].to_numpy(), tuple(names))
        return purge_law(
            folds.make_folds({_HORIZON: own}, cutoff=cutoff.date(), window_days=REPORT_DAYS, **_TRIAL_FOLD)
        )

    return [
        *_trials_of_features(inputs, rough),
        ("forecasts", lambda: future_poisoning(_trial_forecasts(inputs, names), inputs, some)),
        ("rows of a cutoff", lambda: fitted_state(_rows_of_a_cutoff(inputs, names), bars, cutoff, HOUR)),
        ("boosters, calibration, intervals", lambda: fitted_state(_trial_fit(names), rows, cutoff, 25 * HOUR)),
        ("labels", lambda: labels_law(compute_labels, bars)),
        ("labels, stressed bars", lambda: labels_law(compute_labels, rough.clock)),
        ("folds", folds_of_a_cutoff),
        ("learner, random walk", walk),
        ("learner, permuted labels", permuted),
    ]


def _trials_of_features(inputs: Inputs, rough: Inputs) -> list[tuple[str, Callable[[], LawResult]]]:
    """Return the tests of features: subject and law."""
    return [
        ("features", lambda: prefix_invariance(compute_features, inputs)),
        ("features, stressed rows", lambda: prefix_invariance(compute_features, rough)),
        ("features", lambda: future_poisoning(compute_features, inputs)),
        ("features", lambda: availability(compute_features, inputs)),
        ("features, stressed rows", lambda: availability(compute_features, rough)),
        ("features", lambda: warm_up(compute_features, inputs, days=7, starts=3)),
    ]


def report(inputs: Inputs) -> tuple[str, bool]:
    """Test the project by every law on these inputs, and the laws by planted bugs on synthetic inputs.

    Args:
        inputs: rows of more than `WARMUP_DAYS` days.

    Returns:
        A text table, and whether every law holds and every planted bug was caught.
    """
    from btc_assets.laws.mutants import mutation_score

    lines = [f"{'law':<18} {'of':<34} {'':<6} {'seconds':>7}  found"]
    ok = True
    for subject, law in _trials(inputs):
        begin = time.perf_counter()
        result = law()
        duration = time.perf_counter() - begin
        ok &= result.passed
        lines.append(
            f"{result.law:<18} {subject:<34} {'holds' if result.passed else 'BROKEN':<6} {duration:7.1f}  "
            f"{result.detail}"
        )
    results = mutation_score()
    planted = [mutant for mutant in results if mutant.planted]
    caught = sum(bool(mutant.caught_by) for mutant in planted)
    lines += ["", f"mutation score {caught} of {len(planted)}", f"{'planted bug or clean control':<34} broke"]
    for mutant in results:
        broken = ", ".join(mutant.caught_by) or "nothing"
        lines.append(
            f"{mutant.name:<34} {broken}{'' if mutant.planted else '  (control)'}"
            f"{'' if mutant.as_expected else '  <- WRONG'}"
        )
    return "\n".join(lines), ok and all(mutant.as_expected for mutant in results)


def main() -> int:
    """Report on the newest days of the current lake: 0 when every law holds, 1 when one is broken, 2 without bars."""
    from btc_assets.features.inputs import CLOCK, read_inputs
    from btc_assets.lake import Lake
    from btc_assets.settings import settings

    lake = Lake(root=settings().lake_root)
    days = lake.days(CLOCK.contract)[-REPORT_DAYS:]
    if len(days) < REPORT_DAYS:
        print(
            f"The lake at {lake.root} holds {len(days)} days of {CLOCK.contract.table}; the causality suite needs "
            f"{REPORT_DAYS}. Materialise them first, for example with `make demo`."
        )
        return 2
    inputs = read_inputs(lake, days[0], days[-1])
    times = inputs.clock["open_time"]
    heights = ", ".join(f"{rows.frame.height:,} rows of {stream.name}" for stream, rows in inputs.rows.items())
    print(f"{times[0]:%Y-%m-%d %H:%M} to {times[-1]:%Y-%m-%d %H:%M} UTC: {heights}\n")
    table, ok = report(inputs)
    print(table)
    print("\nEvery law holds and every planted bug was caught." if ok else "\nA law is broken.")
    return 0 if ok else 1


if __name__ == "__main__":
    sys.exit(main())
