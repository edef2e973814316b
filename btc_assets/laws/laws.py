"""The causality suite: laws that any feature, label, fit or forecast must obey to be free of the future.

Accuracy cannot stand in for these laws: an engine that is one hour too early looks a tenth of a point better,
no more. Each law is a pure function over a callable, so that the same law judges the project's own engine,
a forecast, and the planted bugs that show the law can see (law 7, `mutants.mutation_score`). The laws take `Inputs`
and name no stream: when a row may be used is decided by the `available_at` of its stream and nothing else.

Run on the current lake with `python -m btc_assets.laws.report`.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta

import numpy as np
import numpy.typing as npt
import polars as pl

from btc_assets.clock import HOUR
from btc_assets.features.catalog import WARMUP_DAYS
from btc_assets.features.engine import compute_features
from btc_assets.streams import Inputs, numbers_poisoned

Engine = Callable[[Inputs], pl.DataFrame]
"""Inputs to a frame with one row an `open_time`: features, forecasts, anything made from them."""
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
_MOMENTS_OF_A_CHECK = 4
"""Moments at which the cheap run of the laws tries availability."""


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


def hours_to_cut(clock: pl.DataFrame, *, random: int = 4, seed: int = 11) -> list[datetime]:
    """Choose the open_times at which a history of the clock is cut.

    Args:
        clock: its rows in time order.
        random: how many to draw from the newer half, where most features are warm.
        seed: of the draw.

    Returns:
        Random cuts, and the ones where bugs hide: the newest midnight, both sides of the widest gap, the
        last row before an unknown value becomes known, and the last row but one.
    """
    times = clock["open_time"]
    newest = clock.height - 2
    rows = {newest}
    rng = np.random.default_rng(seed)
    rows.update(int(row) for row in rng.integers(clock.height // 2, max(clock.height // 2 + 1, newest), size=random))
    midnights = (times.dt.hour() == 23).arg_true().to_list()
    rows.update([row for row in midnights if row < clock.height - _AFTERMATH][-1:])
    steps = times.diff().fill_null(HOUR)
    if steps.max() > HOUR:  # type: ignore[operator]
        after_gap = int(steps.arg_max() or 0)
        rows.update({after_gap - 1, after_gap})
    for name in _values(clock):
        unknown = clock[name].is_null()
        rows.update((unknown & ~unknown.shift(-1, fill_value=True)).arg_true().to_list()[-1:])
    return [times[row] for row in sorted(rows) if 0 <= row < clock.height - 1]


def cuts(inputs: Inputs, *, random: int = 4) -> list[datetime]:
    """Choose the open_times at which inputs are cut.

    Args:
        inputs: of one span.
        random: how many to draw from the newer half.

    Returns:
        `hours_to_cut` of the clock, and the last hours that must not know of a row that tempts, as the other streams
        name them.
    """
    times = inputs.clock["open_time"]
    since = times[inputs.clock.height // 2]
    tempting = [at for stream, rows in inputs.rows.items() for at in stream.tempting(rows, since)]
    # The last hour that closed before the moment: one that closes at it may know.
    ends = [at - timedelta(microseconds=1) for at in tempting]
    before = {end.replace(minute=0, second=0, microsecond=0) - HOUR for end in ends}
    return sorted({*hours_to_cut(inputs.clock, random=random), *(before & set(times[:-1]))})


def prefix_invariance(engine: Engine, inputs: Inputs, at: Sequence[datetime] | None = None) -> LawResult:
    """Law 1: the rows up to t from the clock's rows up to t equal those from all of them, in every column.

    The other streams do not end at t: a live row is made while they already hold what came since.

    Args:
        engine: under test.
        inputs: of one span.
        at: the cuts; `cuts(inputs)` unless given.
    """
    whole = engine(inputs)
    where = cuts(inputs) if at is None else at
    worst = _Difference()
    for cut in where:
        made = engine(inputs.with_clock(_until(inputs.clock, cut)))
        worst = max(worst, _difference(_until(whole, cut), made), key=lambda d: d.size)
    return _result(PREFIX, worst, f"{whole.width} columns, {len(where)} cuts")


def poisons(rows: pl.DataFrame, cut: datetime) -> dict[str, pl.DataFrame]:
    """Return rows with everything after `cut` made unknown, a million times larger, and shuffled, by name."""
    return numbers_poisoned(rows, pl.col("open_time") > cut)


def future_poisoning(engine: Engine, inputs: Inputs, at: Sequence[datetime] | None = None) -> LawResult:
    """Law 2: whatever becomes available after t + 1 h, in any stream, the rows up to t do not move.

    Args:
        engine: under test; features, or forecasts made from them.
        inputs: of one span.
        at: the cuts; `cuts(inputs)` unless given.
    """
    whole = engine(inputs)
    where = cuts(inputs) if at is None else at
    worst, how = _Difference(), ""
    for cut in where:
        for name, poisoned in inputs.poisoned(cut + HOUR).items():
            found = _difference(_until(whole, cut), _until(engine(poisoned), cut))
            if found.size > worst.size:
                worst, how = found, f", worst when the future is {name}"
    return _result(POISONING, worst, f"{whole.width} columns, {len(where)} cuts, 3 poisons{how}")


def availability(engine: Engine, inputs: Inputs, at: Sequence[datetime] | None = None) -> LawResult:
    """Law 3: what `available_at` offers at a moment can be made from the rows of every stream available by then.

    A bar closes one hour after its open_time. The moments lie on the hour and inside it, where an engine
    that files a row under its event time offers a bar that is still trading. A text that was published before the
    moment and seen after it, and an edit of one that was seen before it, are things of the future.

    Args:
        engine: under test; its frame has `available_at`.
        inputs: of one span.
        at: the moments; those around `cuts(inputs)` unless given.
    """
    moments = _moments(cuts(inputs)) if at is None else at
    whole, worst = engine(inputs), _Difference()
    for moment in moments:
        offered = pl.col("available_at") <= moment
        found = _difference(whole.filter(offered), engine(inputs.until(moment)).filter(offered))
        worst = max(worst, found, key=lambda d: d.size)
    return _result(AVAILABILITY, worst, f"{whole.width} columns, {len(moments)} moments")


def _moments(where: Sequence[datetime]) -> list[datetime]:
    """Return the moment each cut's row becomes available, and one inside the next hour."""
    return [cut + HOUR + step for cut in where for step in (timedelta(0), timedelta(minutes=30))]


def warm_up(
    engine: Engine, inputs: Inputs, *, days: int = 1, starts: int = 0, window_days: int = WARMUP_DAYS
) -> LawResult:
    """Law 4: the declared warm-up suffices, and a day made from its own window equals the day made from everything.

    Args:
        engine: under test.
        inputs: of a span longer than `window_days`.
        days: newest days to make again from their window alone.
        starts: further random starts of history; whatever an engine calls known after one must be right.
        window_days: days a day is given of every stream.
    """
    times = inputs.clock["open_time"]
    first, newest = times[0], times[-1]
    whole, worst, made = engine(inputs), _Difference(), 0
    for back in range(days):
        start = newest.replace(hour=0) - timedelta(days=back)
        if start - timedelta(days=window_days) < first:
            break
        end = start + timedelta(hours=23)
        alone = engine(inputs.between(start - timedelta(days=window_days), end + HOUR))
        found = _difference(_since(_until(whole, end), start), _since(alone, start))
        worst, made = max(worst, found, key=lambda d: d.size), made + 1
    rng = np.random.default_rng(2)
    for row in rng.integers(1, max(2, times.len() // 2), size=starts):
        begin = times[int(row)]
        late = engine(inputs.between(begin, newest + HOUR))
        known = late.select("open_time", *(pl.col(name).is_not_null() for name in _values(late)))
        expected = _since(whole, begin)
        expected = expected.with_columns(
            pl.when(known[name]).then(pl.col(name)).alias(name) for name in _values(expected)
        )
        worst = max(worst, _difference(expected, late), key=lambda d: d.size)
    return _result(WARM_UP, worst, f"{made} days from {window_days} days, {starts} other starts")


def _since(frame: pl.DataFrame, first: datetime) -> pl.DataFrame:
    return frame.filter(pl.col("open_time") >= first)


def _values(frame: pl.DataFrame) -> list[str]:
    return [name for name, dtype in frame.schema.items() if dtype.is_numeric()]


def feature_failures(inputs: Inputs, engine: Engine = compute_features) -> list[str]:
    """Run the cheap laws on the newest rows and return the names of those that are broken; empty is green.

    Args:
        inputs: with the clock's rows in any order, at least `WARMUP_DAYS` + 1 days of them.
        engine: under test.
    """
    ordered = inputs.with_clock(inputs.clock.sort("open_time"))
    times = ordered.clock["open_time"]
    span = times[-1] - times[0] if times.len() else timedelta(0)
    if span < timedelta(days=WARMUP_DAYS + 1):
        return [TOO_FEW_BARS]
    rough, cut = ordered.roughened(), times[-_AFTERMATH - 7]
    results = [
        prefix_invariance(engine, ordered, [times[-2]]),
        prefix_invariance(engine, rough, hours_to_cut(rough.clock, random=0)[:-1]),
        future_poisoning(engine, ordered, [cut]),
        availability(engine, ordered, [at + HOUR for at in cuts(ordered, random=0)[-_MOMENTS_OF_A_CHECK:]]),
        warm_up(engine, ordered),
    ]
    return list(dict.fromkeys(result.law for result in results if not result.passed))


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
    for cut in hours_to_cut(bars):
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
