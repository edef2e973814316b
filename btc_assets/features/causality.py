"""The causality suite: laws that any feature, label, fit or forecast must obey to be free of the future.

Accuracy cannot stand in for these laws: an engine that is one hour too early looks a tenth of a point better,
no more. Each law is a pure function over a callable, so that the same law judges the project's own engine,
a forecast, and the planted bugs that show the law can see (law 7, `mutants.mutation_score`).

Run on the current lake with `python -m btc_assets.features.causality`.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

import numpy as np
import numpy.typing as npt
import polars as pl

from btc_assets.clock import HOUR
from btc_assets.features.catalog import WARMUP_DAYS
from btc_assets.features.engine import compute_features

Engine = Callable[[pl.DataFrame], pl.DataFrame]
"""Bars in time order to a frame with one row an `open_time`: features, forecasts, anything made from bars."""

TOLERANCE = 1e-9
"""Largest difference allowed, relative to the value and the usual size of its column."""
PREFIX = "prefix_invariance"
POISONING = "future_poisoning"
AVAILABILITY = "availability"
WARM_UP = "warm_up"
FITTED_STATE = "fitted_state"
LABELS = "labels"
PURGE = "purge"
PLACEBO = "placebo"
TOO_FEW_BARS = "too_few_bars"

_AFTERMATH = 24
"""Bars left after a cut where there is a choice, so that poison and permutations have something to change."""


@dataclass(frozen=True)
class LawResult:
    """What one law found.

    Attributes:
        law: its name.
        passed: whether it holds.
        detail: a sentence for a person.
        worst: largest relative difference met, infinite where a value appeared or vanished; None where
            the law measures nothing.
    """

    law: str
    passed: bool
    detail: str
    worst: float | None = None


@dataclass(frozen=True)
class _Difference:
    """The largest difference between two frames: how large, in which column, at which row."""

    size: float = 0.0
    column: str = ""
    open_time: datetime | None = None

    @property
    def tolerable(self) -> bool:
        return self.size <= TOLERANCE

    def sentence(self) -> str:
        amount = "has rows or values that come and go" if np.isinf(self.size) else f"moves by {self.size:.1e}"
        return f"{self.column} {amount}" + (f" at {self.open_time:%Y-%m-%d %H:%M}" if self.open_time else "")


def _difference(expected: pl.DataFrame, found: pl.DataFrame) -> _Difference:
    """Compare two frames row by row; the size is relative to the value and its column's mean size."""
    if not expected["open_time"].equals(found["open_time"]) or expected.columns != found.columns:
        return _Difference(float("inf"), "open_time")
    if expected.is_empty():
        return _Difference()
    times = [name for name, dtype in expected.schema.items() if dtype.is_temporal() and name != "open_time"]
    for name in times:
        if not expected[name].equals(found[name]):
            return _Difference(float("inf"), name)
    names = [name for name, dtype in expected.schema.items() if dtype.is_numeric()]
    ours, theirs = _matrix(expected, names), _matrix(found, names)
    unknown = np.isnan(ours), np.isnan(theirs)
    known = ~unknown[0]
    usual = np.where(known, np.abs(ours), 0).sum(axis=0) / np.maximum(known.sum(axis=0), 1)
    with np.errstate(invalid="ignore", divide="ignore"):
        sizes = np.abs(ours - theirs) / np.maximum(np.abs(ours), usual)
    sizes = np.where(unknown[0] != unknown[1], np.inf, sizes)
    sizes = np.where((unknown[0] & unknown[1]) | (ours == theirs), 0.0, sizes)
    row, column = np.unravel_index(int(np.argmax(sizes)), sizes.shape)
    return _Difference(float(sizes[row, column]), names[column], expected["open_time"][int(row)])


def _matrix(frame: pl.DataFrame, names: Sequence[str]) -> npt.NDArray[np.float64]:
    return frame.select(pl.col(names).cast(pl.Float64).fill_null(float("nan"))).to_numpy().reshape(-1, len(names))


def _result(law: str, worst: _Difference, scope: str) -> LawResult:
    detail = scope if worst.tolerable else f"{worst.sentence()} ({scope})"
    return LawResult(law, worst.tolerable, detail, worst.size)


def _until(frame: pl.DataFrame, last: datetime) -> pl.DataFrame:
    return frame.filter(pl.col("open_time") <= last)


def moved(expected: pl.DataFrame, found: pl.DataFrame) -> str:
    """Return a sentence on the largest difference beyond `TOLERANCE` between two frames, empty where there is none."""
    worst = _difference(expected, found)
    return "" if worst.tolerable else worst.sentence()


# --- where to cut ------------------------------------------------------------------------------


def cuts(bars: pl.DataFrame, *, random: int = 4, seed: int = 11) -> list[datetime]:
    """Choose the open_times at which a history is cut.

    Args:
        bars: PRICES rows in time order.
        random: how many to draw from the newer half, where most features are warm.
        seed: of the draw.

    Returns:
        Random cuts, and the ones where bugs hide: the newest midnight, both sides of the widest gap, the
        last bar before an unknown value becomes known, and the last bar but one.
    """
    times = bars["open_time"]
    newest = bars.height - 2
    rows = {newest}
    rng = np.random.default_rng(seed)
    rows.update(int(row) for row in rng.integers(bars.height // 2, max(bars.height // 2 + 1, newest), size=random))
    midnights = (times.dt.hour() == 23).arg_true().to_list()
    rows.update([row for row in midnights if row < bars.height - _AFTERMATH][-1:])
    steps = times.diff().fill_null(HOUR)
    if steps.max() > HOUR:  # type: ignore[operator]
        after_gap = int(steps.arg_max() or 0)
        rows.update({after_gap - 1, after_gap})
    for name in ("taker_buy_volume", "quote_volume", "trades"):
        unknown = bars[name].is_null()
        rows.update((unknown & ~unknown.shift(-1, fill_value=True)).arg_true().to_list()[-1:])
    return [times[row] for row in sorted(rows) if 0 <= row < bars.height - 1]


def stressed(bars: pl.DataFrame, *, seed: int = 5) -> pl.DataFrame:
    """Return the bars with holes, one at the end of a day, an hour without trades and stretches of unknown order flow.

    All lie in the newer half, most in the newest three days.

    Args:
        bars: PRICES rows in time order.
        seed: of what is dropped.
    """
    n = bars.height
    rng = np.random.default_rng(seed)
    row = pl.int_range(pl.len())
    dropped = rng.choice(np.arange(n // 2, n - 1), size=max(1, n // 200), replace=False).tolist()
    dropped += (bars["open_time"].dt.hour() == 23).arg_true().to_list()[-2:-1]
    unknown = row.is_between(n - 60, n - 50) | (row == n - 30)
    flow = pl.col("quote_volume", "trades", "taker_buy_volume", "taker_buy_quote_volume")
    return (
        bars.with_columns(pl.when(~unknown).then(flow))
        .with_columns(pl.when(row != n - 20).then(pl.col("volume")).otherwise(0.0))
        .filter(~row.is_in(dropped) & ~row.is_between(n - 44, n - 40))
    )


# --- laws 1, 2, 3, 4: of anything made from bars -----------------------------------------------


def prefix_invariance(engine: Engine, bars: pl.DataFrame, at: Sequence[datetime] | None = None) -> LawResult:
    """Law 1: the rows up to t from the bars up to t equal those from all bars, in every column.

    Args:
        engine: under test.
        bars: PRICES rows in time order.
        at: the cuts; `cuts(bars)` unless told.
    """
    whole = engine(bars)
    where = cuts(bars) if at is None else at
    worst = _Difference()
    for cut in where:
        worst = max(worst, _difference(_until(whole, cut), engine(_until(bars, cut))), key=lambda d: d.size)
    return _result(PREFIX, worst, f"{whole.width} columns, {len(where)} cuts")


def poisons(bars: pl.DataFrame, cut: datetime, *, seed: int = 3) -> dict[str, pl.DataFrame]:
    """Return the bars with everything after `cut` made unknown, a million times larger, and shuffled, by name."""
    values = [name for name, dtype in bars.schema.items() if dtype.is_numeric()]
    floats = [name for name in values if bars.schema[name].is_float()]
    future = pl.col("open_time") > cut
    past, later = bars.filter(~future), bars.filter(future)
    order = np.random.default_rng(seed).permutation(later.height)
    return {
        "unknown": bars.with_columns(
            *(pl.when(future).then(float("nan")).otherwise(pl.col(name)).alias(name) for name in floats),
            *(pl.when(~future).then(pl.col(name)).alias(name) for name in values if name not in floats),
        ),
        "x1e6": bars.with_columns(
            pl.when(future).then(pl.col(name) * 1_000_000).otherwise(pl.col(name)).alias(name) for name in values
        ),
        "shuffled": pl.concat([past, later.with_columns(later[name][order] for name in values)]),
    }


def future_poisoning(engine: Engine, bars: pl.DataFrame, at: Sequence[datetime] | None = None) -> LawResult:
    """Law 2: whatever happens to the bars after t, the rows up to t do not move.

    Args:
        engine: under test; features, or forecasts made from bars.
        bars: PRICES rows in time order.
        at: the cuts; `cuts(bars)` unless told.
    """
    whole = engine(bars)
    where = cuts(bars) if at is None else at
    worst, how = _Difference(), ""
    for cut in where:
        for name, poisoned in poisons(bars, cut).items():
            found = _difference(_until(whole, cut), _until(engine(poisoned), cut))
            if found.size > worst.size:
                worst, how = found, f", worst when the future is {name}"
    return _result(POISONING, worst, f"{whole.width} columns, {len(where)} cuts, 3 poisons{how}")


def availability(engine: Engine, bars: pl.DataFrame, at: Sequence[datetime] | None = None) -> LawResult:
    """Law 3: what `available_at` offers at a moment can be made from the bars that have closed by then.

    A bar closes one hour after its open_time. The moments lie on the hour and inside it, where an engine
    that files a row under its event time offers a bar that is still trading.

    Args:
        engine: under test; its frame has `available_at`.
        bars: PRICES rows in time order.
        at: the moments; those around `cuts(bars)` unless told.
    """
    whole = engine(bars)
    moments = (
        [cut + HOUR + step for cut in cuts(bars) for step in (timedelta(0), timedelta(minutes=30))]
        if at is None
        else at
    )
    worst = _Difference()
    for moment in moments:
        offered = whole.filter(pl.col("available_at") <= moment)
        made = engine(_until(bars, moment - HOUR))
        found = _difference(offered, made.filter(pl.col("available_at") <= moment))
        worst = max(worst, found, key=lambda d: d.size)
    return _result(AVAILABILITY, worst, f"{len(moments)} moments")


def warm_up(
    engine: Engine, bars: pl.DataFrame, *, days: int = 1, starts: int = 0, window_days: int = WARMUP_DAYS
) -> LawResult:
    """Law 4: the declared warm-up suffices, and a day made from its own window equals the day made from all bars.

    Args:
        engine: under test.
        bars: PRICES rows in time order, longer than `window_days`.
        days: newest days to make again from their window alone.
        starts: further random starts of history; whatever an engine calls known after one must be right.
        window_days: days of bars a day is given.
    """
    whole = engine(bars)
    first, last = bars["open_time"][0], bars["open_time"][-1].replace(hour=0)
    worst, made = _Difference(), 0
    for back in range(days):
        start = last - timedelta(days=back)
        if start - timedelta(days=window_days) < first:
            break
        end = start + timedelta(hours=23)
        alone = engine(bars.filter(pl.col("open_time").is_between(start - timedelta(days=window_days), end)))
        found = _difference(_since(_until(whole, end), start), _since(alone, start))
        worst, made = max(worst, found, key=lambda d: d.size), made + 1
    rng = np.random.default_rng(2)
    for row in rng.integers(1, max(2, bars.height // 2), size=starts):
        begin = bars["open_time"][int(row)]
        late = engine(_since(bars, begin))
        known = late.select("open_time", *(pl.col(name).is_not_null() for name in _values(late)))
        expected = _since(whole, begin)
        expected = expected.with_columns(
            pl.when(known[name]).then(pl.col(name)).alias(name) for name in _values(expected)
        )
        worst = max(worst, _difference(expected, late), key=lambda d: d.size)
    return _result(WARM_UP, worst, f"{made} days from {window_days} days of bars, {starts} other starts")


def _since(frame: pl.DataFrame, first: datetime) -> pl.DataFrame:
    return frame.filter(pl.col("open_time") >= first)


def _values(frame: pl.DataFrame) -> list[str]:
    return [name for name, dtype in frame.schema.items() if dtype.is_numeric()]


def feature_failures(bars: pl.DataFrame, engine: Engine = compute_features) -> list[str]:
    """Run the cheap laws on the newest bars and return the names of those that are broken; empty is green.

    Args:
        bars: PRICES rows in any order, at least `WARMUP_DAYS` + 1 days of them.
        engine: under test.
    """
    ordered = bars.sort("open_time")
    span = ordered["open_time"][-1] - ordered["open_time"][0] if ordered.height else timedelta(0)
    if span < timedelta(days=WARMUP_DAYS + 1):
        return [TOO_FEW_BARS]
    cut = ordered["open_time"][-_AFTERMATH - 7]
    rough = stressed(ordered)
    results = (
        prefix_invariance(engine, ordered, [ordered["open_time"][-2]]),
        prefix_invariance(engine, rough, cuts(rough, random=0)[:-1]),
        future_poisoning(engine, ordered, [cut]),
        warm_up(engine, ordered),
    )
    return list(dict.fromkeys(result.law for result in results if not result.passed))


# --- law 5: of anything fitted -----------------------------------------------------------------

Fit = Callable[[pl.DataFrame, datetime], bytes]
"""Rows in time order and a boundary to the fingerprint of everything that was fitted for use from the boundary on."""


def fitted_state(fit: Fit, rows: pl.DataFrame, boundary: datetime, purge: timedelta) -> LawResult:
    """Law 5: what is fitted for use from `boundary` on does not move when later rows do, and does when earlier rows do.

    The second half keeps the first from being empty: a fit that looks at nothing is no fit.

    Args:
        fit: under test; deterministic.
        rows: a frame with `open_time`, in time order.
        boundary: start of the test, or the cutoff, UTC.
        purge: a row may be learnt from when `open_time` + purge <= boundary.
    """
    last = boundary - purge
    fitted = fit(rows, boundary)
    moved = [name for name, poisoned in poisons(rows, last).items() if name != "unknown"
             if fit(poisoned, boundary) != fitted]  # fmt: skip
    if moved:
        return LawResult(FITTED_STATE, False, f"moves when the rows after {last:%Y-%m-%d %H:%M} are {moved[0]}")
    numbers = [name for name in _values(rows) if rows.schema[name].is_float()]
    earlier = rows.with_columns(
        pl.when(pl.col("open_time") <= last).then(pl.col(name).reverse()).otherwise(pl.col(name)).alias(name)
        for name in numbers
    )
    if fit(earlier, boundary) == fitted:
        return LawResult(FITTED_STATE, False, "does not move when the rows it may learn from do: it fits nothing")
    return LawResult(FITTED_STATE, True, f"learns from rows up to {last:%Y-%m-%d %H:%M} only")


# --- law 6: of labels and folds ----------------------------------------------------------------

LabelEngine = Callable[[pl.DataFrame, datetime, datetime], pl.DataFrame]
"""Bars, and the span (first, last] in which the labels became known, to HOURLY_LABELS rows."""


def labels_law(labels: LabelEngine, bars: pl.DataFrame, *, days: int = 3) -> LawResult:
    """Law 6: a label of horizon h at t is made of the bars from t to t + h only, and known at t + 1 h + h.

    Args:
        labels: under test.
        bars: PRICES rows in time order.
        days: newest days whose partition is made again from its own bars alone.
    """
    first, end = bars["open_time"][0] - HOUR, bars["open_time"][-1] + HOUR
    whole = labels(bars, first, end)
    known = pl.col("open_time") + pl.duration(hours=pl.col("horizon_hours") + 1)
    early = whole.filter(pl.col("known_at") != known)
    if not early.is_empty():
        return LawResult(
            LABELS, False, f"{early.height} labels claim to be known before, or after, their window closed"
        )
    worst = _Difference()
    for cut in cuts(bars):
        closed = cut + HOUR
        found = _difference(whole.filter(pl.col("known_at") <= closed), labels(_until(bars, cut), first, closed))
        later = _difference(_since(whole, cut), _since(labels(_since(bars, cut), first, end), cut))
        worst = max(worst, found, later, key=lambda d: d.size)
    midnight = end.replace(hour=0)
    reach = timedelta(hours=int(whole["horizon_hours"].max() or 0) + 1)  # type: ignore[arg-type]
    for back in range(1, days + 1):
        span = midnight - timedelta(days=back), midnight - timedelta(days=back - 1)
        own = bars.filter((pl.col("open_time") >= span[0] - reach) & (pl.col("open_time") < span[1]))
        expected = whole.filter((pl.col("known_at") > span[0]) & (pl.col("known_at") <= span[1]))
        worst = max(worst, _difference(expected, labels(own, *span)), key=lambda d: d.size)
    return _result(LABELS, worst, f"{whole.height} labels, {days} days made alone")


def purge_law(folds: pl.DataFrame) -> LawResult:
    """Law 6, of folds: every label trained on is known when the fold's test starts.

    Args:
        folds: CV_FOLDS rows.
    """
    known = pl.col("train_end") + pl.duration(hours=pl.col("horizon_hours") + 1)
    broken = folds.filter((known > pl.col("test_start")) | (pl.col("purge_hours") < pl.col("horizon_hours")))
    detail = f"{folds.height} folds" if broken.is_empty() else f"{broken.height} of {folds.height} folds know too much"
    return LawResult(PURGE, broken.is_empty(), detail)


# --- law 8: placebo ----------------------------------------------------------------------------

Matrix = npt.NDArray[np.float64]
FitPredict = Callable[[Matrix, Matrix, Matrix], Matrix]
"""Inputs (n, f) and 0/1 targets (n,) to train on, inputs (m, f) to forecast, to scores (m,)."""

PLACEBO_Z = 3.29
"""Half-width of the placebo's interval in standard errors: a fair learner fails it once in a thousand times."""


def placebo(
    fit_predict: FitPredict, inputs: Matrix, up: Matrix, *, train_share: float = 0.6, base: float = 0.5
) -> LawResult:
    """Law 8: where nothing can be known, the AUC is 0.5 within its interval.

    Scores are ranked among the scores of the training rows. Ranked among themselves, the slow features of
    a random walk would seem to know its turns, because such a rank looks at the whole test span at once (the
    bias of Stambaugh, 1999). Ranked against the past, (rank - 1/2)(up - base) is a martingale difference, and
    0.5 + 4 mean((rank - 1/2)(up - base)) has mean 0.5 and a known variance.

    Args:
        fit_predict: the learner.
        inputs: (n, f) in time order; NaN where not known.
        up: (n,) 0/1 targets that no input can know: of a random walk, or permuted.
        train_share: share of rows, the oldest, to train on.
        base: probability of 1.
    """
    split = int(len(up) * train_share)
    train, test, happened = inputs[:split], inputs[split + 1 :], up[split + 1 :]
    scores = fit_predict(train, up[:split], np.concatenate([train, test]))
    reference, judged = np.sort(scores[:split]), scores[split:]
    below = np.searchsorted(reference, judged, "left") + np.searchsorted(reference, judged, "right")
    rank = below / (2 * split) - 0.5
    n = len(test)
    if not np.abs(rank).sum() > 0:
        return LawResult(PLACEBO, False, f"the learner says the same of all {n} hours, so nothing is shown")
    area = 0.5 + 4 * float(rank @ (happened - base)) / n
    width = PLACEBO_Z * 4 * float(np.sqrt(base * (1 - base) * (rank @ rank))) / n
    detail = f"AUC {area:.4f} on {n:,} hours, expected 0.5 ± {width:.4f}"
    return LawResult(PLACEBO, abs(area - 0.5) <= width, detail, abs(area - 0.5))


def random_walk(hours: int, *, seed: int) -> pl.DataFrame:
    """Return made-up bars of a driftless random walk, as a PRICES frame: nothing in them tells the next hour.

    Args:
        hours: how many.
        seed: of the walk.
    """
    rng = np.random.default_rng(seed)
    close = 10_000 * np.exp(np.cumsum(rng.normal(0, 0.006, hours)))
    opened = np.concatenate([[10_000.0], close[:-1]])
    wick = 1 + np.abs(rng.normal(0, 0.002, (2, hours)))
    volume = rng.lognormal(6, 0.6, hours)
    bought = volume * rng.beta(20, 20, hours)
    start = datetime(2020, 1, 1, tzinfo=UTC)
    return pl.DataFrame(
        {
            "open_time": pl.datetime_range(start, start + timedelta(hours=hours - 1), "1h", eager=True, time_unit="us"),
            "open": opened,
            "high": np.maximum(opened, close) * wick[0],
            "low": np.minimum(opened, close) / wick[1],
            "close": close,
            "volume": volume,
            "quote_volume": volume * (opened + close) / 2,
            "trades": rng.poisson(20_000, hours),
            "taker_buy_volume": bought,
            "taker_buy_quote_volume": bought * (opened + close) / 2,
            "venue": ["random walk"] * hours,
        }
    )


# --- the command -------------------------------------------------------------------------------

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


def _trial_rows(bars: pl.DataFrame, names: Sequence[str]) -> pl.DataFrame:
    """Return features and log_return of the trial's horizon, one row a labelled hour, features float64."""
    from btc_assets.features.labels import compute_labels

    first, last = bars["open_time"][0] - HOUR, bars["open_time"][-1] + HOUR
    labels = compute_labels(bars, first, last, horizons=(_HORIZON,)).drop_nulls()
    features = compute_features(bars).select("open_time", *names)
    return features.join(labels.select("open_time", "log_return"), on="open_time", how="inner", maintain_order="left")


def _rows_of_a_cutoff(names: Sequence[str]) -> Fit:
    """Make the labelled rows of a cutoff from bars, as learning does, to their bytes."""

    def rows_at(bars: pl.DataFrame, boundary: datetime) -> bytes:
        from btc_assets.features.labels import compute_labels
        from btc_assets.learning.folds import labelled_rows

        span = bars["open_time"][0] - HOUR, bars["open_time"][-1] + HOUR
        rows = labelled_rows(
            compute_features(bars),
            compute_labels(bars, *span),
            cutoff=boundary.date(),
            horizon=_HORIZON,
            window_days=REPORT_DAYS,
            names=names,
        )
        return rows.open_time.to_numpy().tobytes() + rows.inputs.tobytes() + rows.log_return.tobytes()

    return rows_at


def _trial_forecasts(bars: pl.DataFrame, names: Sequence[str]) -> Engine:
    """Return the forecasts that a model, fitted once on these bars, makes from any bars."""
    from btc_assets.learning import folds, training
    from btc_assets.learning.families.gradient_boosting import BoostingParameters, GradientBoosting

    rows = _trial_rows(bars, names)
    own = folds.Rows(rows["open_time"], folds.matrix(rows, names), rows["log_return"].to_numpy(), tuple(names))
    model = GradientBoosting(BoostingParameters(rounds=_TRIAL_ROUNDS, quantile_rounds=4), seed=0, threads=1)
    training.fit(model, own, _HORIZON, 365.0)

    def engine(some: pl.DataFrame) -> pl.DataFrame:
        features = compute_features(some)
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


def _trials(bars: pl.DataFrame) -> list[tuple[str, Callable[[], LawResult]]]:
    """Return every law with what it is put to, in the order of the report."""
    from btc_assets.features.catalog import FEATURE_SETS
    from btc_assets.features.labels import compute_labels
    from btc_assets.learning import folds

    names = FEATURE_SETS["extended"]
    rough = stressed(bars)
    rows = _trial_rows(bars, names)
    cutoff = bars["open_time"][-1].replace(hour=0)
    some = cuts(bars, random=1)[-3:]

    def walk() -> LawResult:
        made = random_walk(_PLACEBO_HOURS, seed=1)
        inputs = compute_features(made).select(FEATURE_SETS["extended"]).fill_null(float("nan")).to_numpy()
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

    return [
        ("features", lambda: prefix_invariance(compute_features, bars)),
        ("features, roughened bars", lambda: prefix_invariance(compute_features, rough)),
        ("features", lambda: future_poisoning(compute_features, bars)),
        ("forecasts", lambda: future_poisoning(_trial_forecasts(bars, names), bars, some)),
        ("features", lambda: availability(compute_features, bars)),
        ("rows of a cutoff", lambda: fitted_state(_rows_of_a_cutoff(names), bars, cutoff, HOUR)),
        ("features", lambda: warm_up(compute_features, bars, days=7, starts=3)),
        ("boosters, calibration, intervals", lambda: fitted_state(_trial_fit(names), rows, cutoff, 25 * HOUR)),
        ("labels", lambda: labels_law(compute_labels, bars)),
        ("labels, roughened bars", lambda: labels_law(compute_labels, rough)),
        ("folds", folds_of_a_cutoff),
        ("learner, random walk", walk),
        ("learner, permuted labels", permuted),
    ]


def report(bars: pl.DataFrame) -> tuple[str, bool]:
    """Put the project before every law on these bars, and the laws before the planted bugs on made-up bars.

    Args:
        bars: PRICES rows in time order, more than `WARMUP_DAYS` days of them.

    Returns:
        A table for a person, and whether everything is as it should be.
    """
    from btc_assets.features.mutants import mutation_score

    lines = [f"{'law':<18} {'of':<34} {'':<6} {'seconds':>7}  found"]
    green = True
    for subject, law in _trials(bars):
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
    from btc_assets.contracts import PRICES
    from btc_assets.lake import Lake
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
    print(
        f"{bars.height:,} bars, {bars['open_time'][0]:%Y-%m-%d %H:%M} to {bars['open_time'][-1]:%Y-%m-%d %H:%M} UTC\n"
    )
    table, green = report(bars)
    print(table)
    print("\nEvery law holds and every planted bug was caught." if green else "\nA law is broken.")
    return 0 if green else 1


if __name__ == "__main__":
    sys.exit(main())
