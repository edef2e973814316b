"""Every law on the current lake and the mutation score of the planted leaks: `python -m btc_assets.laws.report`."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Sequence
from datetime import datetime

import numpy as np
import polars as pl

from btc_assets.clock import HOUR
from btc_assets.features.catalog import TEXT_GROUPS
from btc_assets.features.engine import compute_features
from btc_assets.features.texts import Texts
from btc_assets.laws.laws import (
    Fit,
    LawResult,
    Matrix,
    TextEngine,
    availability,
    cuts,
    fitted_state,
    future_poisoning,
    labels_law,
    placebo,
    prefix_invariance,
    purge_law,
    text_availability,
    text_cuts,
    text_poisoning,
    text_warm_up,
    warm_up,
    with_texts,
)
from btc_assets.laws.synthetic import random_texts, random_walk, stressed

REPORT_DAYS = 60
"""Newest days of the lake that the command judges."""


_PLACEBO_HOURS = 10_000


_TRIAL_FOLD = {"n_folds": 2, "test_days": 4}


_TRIAL_ROUNDS = 20


_HORIZON = 24
"""Horizon of the trial fit, hours: the longest, whose purge is the widest."""


def _trial_fit(names: Sequence[str]) -> Fit:
    """Fit the project's learner as a cutoff does: folds, boosters, calibration and intervals, to their bytes."""

    def fit(rows: pl.DataFrame, boundary: datetime) -> bytes:
        from btc_assets.learning import folds, training
        from btc_assets.learning.families.gradient_boosting import BoostingParameters, GradientBoosting

        own = folds.Rows(rows["open_time"], folds.matrix(rows, names), rows["log_return"].to_numpy(), tuple(names))
        learnt = own.between(own.open_time[0], folds.last_train_open_time(boundary, _HORIZON))
        laid = folds.make_folds({_HORIZON: learnt}, cutoff=boundary.date(), window_days=REPORT_DAYS, **_TRIAL_FOLD)
        parameters = BoostingParameters(rounds=_TRIAL_ROUNDS, quantile_rounds=4)
        forecasts = training.forecast_folds({_HORIZON: learnt}, laid, {_HORIZON: parameters}, seed=0, threads=1)
        lesson = training.learn(forecasts, learnt, _HORIZON)
        model = GradientBoosting(parameters, seed=0, threads=1).fit_direction(
            learnt.inputs, training.up(learnt), training.row_weights(learnt, 1, parameters.half_life_days)
        )
        return b"".join(
            [
                forecasts.select("p_up", "q05", "q95").to_numpy().tobytes(),
                repr(lesson).encode(),
                model.outputs()["p_up"].native(),
            ]
        )

    return fit


def _trial_rows(bars: pl.DataFrame, names: Sequence[str], texts: Texts | None = None) -> pl.DataFrame:
    """Return features and log_return of the trial's horizon, one row a labelled hour, features float64."""
    from btc_assets.features.labels import compute_labels

    first, last = bars["open_time"][0] - HOUR, bars["open_time"][-1] + HOUR
    labels = compute_labels(bars, first, last, horizons=(_HORIZON,)).drop_nulls()
    features = compute_features(bars, texts).select("open_time", *names)
    return features.join(labels.select("open_time", "log_return"), on="open_time", how="inner", maintain_order="left")


def _rows_of_a_cutoff(names: Sequence[str], texts: Texts | None = None) -> Fit:
    """Make the labelled rows of a cutoff from bars and all texts, as learning does, to their bytes."""

    def rows_at(bars: pl.DataFrame, boundary: datetime) -> bytes:
        from btc_assets.features.labels import compute_labels
        from btc_assets.learning.folds import labelled_rows

        span = bars["open_time"][0] - HOUR, bars["open_time"][-1] + HOUR
        rows = labelled_rows(
            compute_features(bars, texts),
            compute_labels(bars, *span),
            cutoff=boundary.date(),
            horizon=_HORIZON,
            window_days=REPORT_DAYS,
            names=names,
        )
        return rows.open_time.to_numpy().tobytes() + rows.inputs.tobytes() + rows.log_return.tobytes()

    return rows_at


def _trial_forecasts(bars: pl.DataFrame, names: Sequence[str], texts: Texts | None = None) -> TextEngine:
    """Return the forecasts that a model, fitted once on these bars and texts, makes from any."""
    from btc_assets.learning import folds, training
    from btc_assets.learning.families.gradient_boosting import BoostingParameters, GradientBoosting

    rows = _trial_rows(bars, names, texts)
    own = folds.Rows(rows["open_time"], folds.matrix(rows, names), rows["log_return"].to_numpy(), tuple(names))
    model = GradientBoosting(BoostingParameters(rounds=_TRIAL_ROUNDS, quantile_rounds=4), seed=0, threads=1)
    training.fit(model, own, _HORIZON, 365.0)

    def engine(some: pl.DataFrame, said: Texts | None) -> pl.DataFrame:
        features = compute_features(some, said)
        inputs = folds.matrix(features, names)
        quantiles = model.quantiles(inputs)
        return features.select(
            "open_time",
            "available_at",
            pl.Series("p_up", model.p_up(inputs)),
            *(pl.Series(f"quantile_{i}", quantiles[:, i]) for i in range(quantiles.shape[1])),
        )

    return engine


def _boosting(train: Matrix, up: Matrix, test: Matrix) -> Matrix:
    """Fit and forecast with the project's learner as it is by default."""
    from btc_assets.learning.families.gradient_boosting import BoostingParameters, GradientBoosting

    model = GradientBoosting(BoostingParameters(rounds=30), seed=0, threads=2)
    model.fit_direction(train.astype(np.float32), up, np.ones(len(up)))
    return model.p_up(test.astype(np.float32))


def _trials(bars: pl.DataFrame, texts: Texts | None = None) -> list[tuple[str, Callable[[], LawResult]]]:
    """Return every law with what it is put to, in the order of the report."""
    from btc_assets.features.catalog import FEATURE_SETS, FEATURES
    from btc_assets.features.labels import compute_labels
    from btc_assets.learning import folds

    unknown = {feature.name for feature in FEATURES if texts is None and feature.group in TEXT_GROUPS}
    names = tuple(name for name in FEATURE_SETS["extended"] if name not in unknown)
    rough = stressed(bars)
    rows = _trial_rows(bars, names, texts)
    features = with_texts(compute_features, texts)
    cutoff = bars["open_time"][-1].replace(hour=0)
    some = cuts(bars, random=1)[-3:]

    def walk() -> LawResult:
        made = random_walk(_PLACEBO_HOURS, seed=1)
        said = None if texts is None else random_texts(made, seed=1)
        inputs = compute_features(made, said).select(names).fill_null(float("nan")).to_numpy()
        up = (np.diff(made["close"].to_numpy()) > 0).astype(np.float64)
        return placebo(_boosting, inputs[:-1], up)

    def permuted() -> LawResult:
        inputs = rows.select(names).fill_null(float("nan")).to_numpy()
        up = np.random.default_rng(9).permutation((rows["log_return"] > 0).cast(pl.Float64).to_numpy())
        return placebo(_boosting, inputs, up, base=float(up.mean()))

    def folds_of_a_cutoff() -> LawResult:
        own = folds.Rows(rows["open_time"], folds.matrix(rows, names), rows["log_return"].to_numpy(), tuple(names))
        return purge_law(
            folds.make_folds({_HORIZON: own}, cutoff=cutoff.date(), window_days=REPORT_DAYS, **_TRIAL_FOLD)
        )

    trials = [
        ("features", lambda: prefix_invariance(features, bars)),
        ("features, roughened bars", lambda: prefix_invariance(features, rough)),
        ("features", lambda: future_poisoning(features, bars)),
        ("forecasts", lambda: future_poisoning(with_texts(_trial_forecasts(bars, names, texts), texts), bars, some)),
        ("features", lambda: availability(features, bars)),
        ("rows of a cutoff", lambda: fitted_state(_rows_of_a_cutoff(names, texts), bars, cutoff, HOUR)),
        ("features", lambda: warm_up(features, bars, days=7, starts=3)),
        ("boosters, calibration, intervals", lambda: fitted_state(_trial_fit(names), rows, cutoff, 25 * HOUR)),
        ("labels", lambda: labels_law(compute_labels, bars)),
        ("labels, roughened bars", lambda: labels_law(compute_labels, rough)),
        ("folds", folds_of_a_cutoff),
        ("learner, random walk", walk),
        ("learner, permuted labels", permuted),
    ]
    return trials if texts is None else [*trials, *_trials_of_texts(bars, rough, texts, names)]


def _trials_of_texts(
    bars: pl.DataFrame, rough: pl.DataFrame, texts: Texts, names: Sequence[str]
) -> list[tuple[str, Callable[[], LawResult]]]:
    """Return the laws of texts with what they are put to."""
    some = text_cuts(bars, texts, random=1)[-3:]
    return [
        ("features", lambda: text_availability(compute_features, bars, texts)),
        ("features, roughened bars", lambda: text_availability(compute_features, rough, texts)),
        ("features", lambda: text_poisoning(compute_features, bars, texts)),
        ("forecasts", lambda: text_poisoning(_trial_forecasts(bars, names, texts), bars, texts, some)),
        ("features", lambda: text_warm_up(compute_features, bars, texts, days=7, starts=3)),
    ]


def report(bars: pl.DataFrame, texts: Texts | None = None) -> tuple[str, bool]:
    """Put the project before every law on these bars and texts, and the laws before the planted bugs on made-up ones.

    Args:
        bars: PRICES rows in time order, more than `WARMUP_DAYS` days of them.
        texts: articles, posts and scores of the same span, or None.

    Returns:
        A table for a person, and whether everything is as it should be.
    """
    from btc_assets.laws.mutants import mutation_score

    lines = [f"{'law':<18} {'of':<34} {'':<6} {'seconds':>7}  found"]
    green = True
    for subject, law in _trials(bars, texts):
        begin = time.perf_counter()
        result = law()
        took = time.perf_counter() - begin
        green &= result.passed
        lines.append(
            f"{result.law:<18} {subject:<34} {'holds' if result.passed else 'BROKEN':<6} {took:7.1f}  {result.detail}"
        )
    caught = mutation_score()
    planted = [one for one in caught if one.planted]
    found = sum(bool(one.caught_by) for one in planted)
    lines += ["", f"mutation score {found} of {len(planted)}", f"{'planted bug or clean control':<34} broke"]
    for one in caught:
        said = ", ".join(one.caught_by) or "nothing"
        lines.append(
            f"{one.name:<34} {said}{'' if one.planted else '  (control)'}{'' if one.as_it_should else '  <- WRONG'}"
        )
    return "\n".join(lines), green and all(one.as_it_should for one in caught)


def main() -> int:
    """Report on the newest days of the current lake: 0 when every law holds, 1 when one is broken, 2 without bars."""
    from btc_assets.features.assets import stored_texts
    from btc_assets.lake import Lake
    from btc_assets.market.tables import PRICES
    from btc_assets.settings import settings

    lake = Lake(root=settings().lake_root)
    days = lake.days(PRICES)[-REPORT_DAYS:]
    if len(days) < REPORT_DAYS:
        print(
            f"The lake at {lake.root} holds {len(days)} days of {PRICES.table}; the causality suite needs "
            f"{REPORT_DAYS}. Materialise them first, for example with `make demo`."
        )
        return 2
    bars = lake.scan_days(PRICES, days).sort("open_time").collect()
    texts = stored_texts(lake, days[0], days[-1])
    said = (
        "no articles or posts were gathered"
        if texts is None
        else f"{texts.articles.height:,} articles and {texts.posts.height:,} posts"
    )
    print(
        f"{bars.height:,} bars, {bars['open_time'][0]:%Y-%m-%d %H:%M} to {bars['open_time'][-1]:%Y-%m-%d %H:%M} UTC; "
        f"{said}\n"
    )
    table, green = report(bars, texts)
    print(table)
    print("\nEvery law holds and every planted bug was caught." if green else "\nA law is broken.")
    return 0 if green else 1


if __name__ == "__main__":
    sys.exit(main())
