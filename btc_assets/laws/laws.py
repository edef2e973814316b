"""The causality suite: laws that every feature, label, fit or forecast must obey to be free of look-ahead.

Accuracy cannot replace these laws: an engine that is one hour too early gains only a tenth of a percentage point. Each
law is a pure function over a callable, so that the same law tests the project's own engine, a forecast, and the planted
bugs that prove that the law detects them (law 7, `mutants.mutation_score`). The laws take `Inputs` and name no stream:
only the `available_at` of its stream decides when a row may be used.

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
"""Function from inputs to a frame with one row per `open_time`: features, or forecasts from them."""
TOLERANCE = 1e-9
"""Largest allowed difference, relative to the value and the mean size of its column."""
PREFIX = "prefix_invariance"
POISONING = "future_poisoning"
AVAILABILITY = "availability"
WARM_UP = "warm_up"
FITTED_STATE = "fitted_state"
LABELS = "labels"
PURGE = "purge"
PLACEBO = "placebo"
TOO_FEW_BARS = "too_few_bars"
_BARS_AFTER_CUT = 24
"""Bars after a cut, where possible, so that poison and permutations change something."""
_CHECK_MOMENTS = 4
"""Number of moments at which the cheap run of the laws tests availability."""


@dataclass(frozen=True)
class LawResult:
    """Result of one law.

    Attributes:
        law: name of the law.
        passed: whether it holds.
        detail: an explanation.
        worst: largest relative difference, infinite if a value appeared or vanished; None if
            the law measures no difference.
    """

    law: str
    passed: bool
    detail: str
    worst: float | None = None


@dataclass(frozen=True)
class _Difference:
    """The largest difference between two frames: size, column and row."""

    size: float = 0.0
    column: str = ""
    open_time: datetime | None = None

    @property
    def tolerable(self) -> bool:
        return self.size <= TOLERANCE

    def sentence(self) -> str:
        amount = "has rows or values that appear or vanish" if np.isinf(self.size) else f"changes by {self.size:.1e}"
        return f"{self.column} {amount}" + (f" at {self.open_time:%Y-%m-%d %H:%M}" if self.open_time else "")


def _difference(expected: pl.DataFrame, actual: pl.DataFrame) -> _Difference:
    """Compare two frames row by row; the difference is relative to the value and the mean size of its column."""
    if not expected["open_time"].equals(actual["open_time"]) or expected.columns != actual.columns:
        return _Difference(float("inf"), "open_time")
    if expected.is_empty():
        return _Difference()
    times = [name for name, dtype in expected.schema.items() if dtype.is_temporal() and name != "open_time"]
    for name in times:
        if not expected[name].equals(actual[name]):
            return _Difference(float("inf"), name)
    names = [name for name, dtype in expected.schema.items() if dtype.is_numeric()]
    expected_values, actual_values = _matrix(expected, names), _matrix(actual, names)
    unknown = np.isnan(expected_values), np.isnan(actual_values)
    known = ~unknown[0]
    mean_size = np.where(known, np.abs(expected_values), 0).sum(axis=0) / np.maximum(known.sum(axis=0), 1)
    with np.errstate(invalid="ignore", divide="ignore"):
        sizes = np.abs(expected_values - actual_values) / np.maximum(np.abs(expected_values), mean_size)
    sizes = np.where(unknown[0] != unknown[1], np.inf, sizes)
    sizes = np.where((unknown[0] & unknown[1]) | (expected_values == actual_values), 0.0, sizes)
    row, column = np.unravel_index(int(np.argmax(sizes)), sizes.shape)
    return _Difference(float(sizes[row, column]), names[column], expected["open_time"][int(row)])


def _matrix(frame: pl.DataFrame, names: Sequence[str]) -> npt.NDArray[np.float64]:
    return frame.select(pl.col(names).cast(pl.Float64).fill_null(float("nan"))).to_numpy().reshape(-1, len(names))


def _result(law: str, worst: _Difference, scope: str) -> LawResult:
    detail = scope if worst.tolerable else f"{worst.sentence()} ({scope})"
    return LawResult(law, worst.tolerable, detail, worst.size)


def _until(frame: pl.DataFrame, last: datetime) -> pl.DataFrame:
    return frame.filter(pl.col("open_time") <= last)


def largest_change(expected: pl.DataFrame, actual: pl.DataFrame) -> str:
    """Return a sentence on the largest difference above `TOLERANCE` between two frames; empty if there is none."""
    worst = _difference(expected, actual)
    return "" if worst.tolerable else worst.sentence()


def hours_to_cut(clock: pl.DataFrame, *, random: int = 4, seed: int = 11) -> list[datetime]:
    """Choose the open_times at which the clock's history is cut.

    Args:
        clock: the clock's rows in time order.
        random: number of random cuts from the newer half, where most features are warm.
        seed: random seed.

    Returns:
        Random cuts, and cuts where bugs are likely: the newest midnight, both sides of the widest gap, the last row
        before an unknown value becomes known, and the last row but one.
    """
    times = clock["open_time"]
    newest = clock.height - 2
    rows = {newest}
    rng = np.random.default_rng(seed)
    rows.update(int(row) for row in rng.integers(clock.height // 2, max(clock.height // 2 + 1, newest), size=random))
    midnights = (times.dt.hour() == 23).arg_true().to_list()
    rows.update([row for row in midnights if row < clock.height - _BARS_AFTER_CUT][-1:])
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
        random: number of random cuts from the newer half.

    Returns:
        `hours_to_cut` of the clock, and the last hours before the critical moments of the other streams.
    """
    times = inputs.clock["open_time"]
    since = times[inputs.clock.height // 2]
    critical_moments = [at for stream, rows in inputs.rows.items() for at in stream.critical_moments(rows, since)]
    # The last hour that closed before the moment: an hour that closes at the moment may use the row.
    ends = [at - timedelta(microseconds=1) for at in critical_moments]
    before = {end.replace(minute=0, second=0, microsecond=0) - HOUR for end in ends}
    return sorted({*hours_to_cut(inputs.clock, random=random), *(before & set(times[:-1]))})


def prefix_invariance(engine: Engine, inputs: Inputs, at: Sequence[datetime] | None = None) -> LawResult:
    """Law 1: rows up to t computed from the clock's rows up to t equal those computed from all rows, in every column.

    The other streams do not end at t: when a live row is computed, they may already hold later rows.

    Args:
        engine: under test.
        inputs: of one span.
        at: the cuts; `cuts(inputs)` unless given.
    """
    whole = engine(inputs)
    where = cuts(inputs) if at is None else at
    worst = _Difference()
    for cut in where:
        recomputed = engine(inputs.with_clock(_until(inputs.clock, cut)))
        worst = max(worst, _difference(_until(whole, cut), recomputed), key=lambda d: d.size)
    return _result(PREFIX, worst, f"{whole.width} columns, {len(where)} cuts")


def poisons(rows: pl.DataFrame, cut: datetime) -> dict[str, pl.DataFrame]:
    """Return rows whose values after `cut` are unknown, multiplied by a million, or shuffled, by name."""
    return numbers_poisoned(rows, pl.col("open_time") > cut)


def future_poisoning(engine: Engine, inputs: Inputs, at: Sequence[datetime] | None = None) -> LawResult:
    """Law 2: rows that become available after t + 1 h, in any stream, do not change the rows up to t.

    Args:
        engine: under test; features, or forecasts from them.
        inputs: of one span.
        at: the cuts; `cuts(inputs)` unless given.
    """
    whole = engine(inputs)
    where = cuts(inputs) if at is None else at
    worst, how = _Difference(), ""
    for cut in where:
        for name, poisoned in inputs.poisoned(cut + HOUR).items():
            difference = _difference(_until(whole, cut), _until(engine(poisoned), cut))
            if difference.size > worst.size:
                worst, how = difference, f", worst when the future is {name}"
    return _result(POISONING, worst, f"{whole.width} columns, {len(where)} cuts, 3 poisons{how}")


def availability(engine: Engine, inputs: Inputs, at: Sequence[datetime] | None = None) -> LawResult:
    """Law 3: the rows with `available_at` up to a moment follow from the stream rows available by then.

    A bar closes one hour after its open_time. The moments lie on the hour and inside it, where an engine that uses
    event times would offer a bar that is still trading. A text that was published before the moment but seen after it,
    and a later edit of a text seen before it, belong to the future.

    Args:
        engine: under test; its frame has `available_at`.
        inputs: of one span.
        at: the moments; those around `cuts(inputs)` unless given.
    """
    moments = _moments(cuts(inputs)) if at is None else at
    whole, worst = engine(inputs), _Difference()
    for moment in moments:
        available = pl.col("available_at") <= moment
        difference = _difference(whole.filter(available), engine(inputs.until(moment)).filter(available))
        worst = max(worst, difference, key=lambda d: d.size)
    return _result(AVAILABILITY, worst, f"{whole.width} columns, {len(moments)} moments")


def _moments(where: Sequence[datetime]) -> list[datetime]:
    """Return the moment at which each cut's row becomes available, and a moment inside the next hour."""
    return [cut + HOUR + step for cut in where for step in (timedelta(0), timedelta(minutes=30))]


def warm_up(
    engine: Engine, inputs: Inputs, *, days: int = 1, starts: int = 0, window_days: int = WARMUP_DAYS
) -> LawResult:
    """Law 4: the declared warm-up suffices, and a day computed from its own window equals the day from all rows.

    Args:
        engine: under test.
        inputs: of a span longer than `window_days`.
        days: number of newest days to recompute from their own window.
        starts: number of random starts of history; every value that is known after a start must be correct.
        window_days: length of a day's window, days.
    """
    times = inputs.clock["open_time"]
    first, newest = times[0], times[-1]
    whole, worst, recomputed = engine(inputs), _Difference(), 0
    for back in range(days):
        start = newest.replace(hour=0) - timedelta(days=back)
        if start - timedelta(days=window_days) < first:
            break
        end = start + timedelta(hours=23)
        from_window = engine(inputs.between(start - timedelta(days=window_days), end + HOUR))
        difference = _difference(_since(_until(whole, end), start), _since(from_window, start))
        worst, recomputed = max(worst, difference, key=lambda d: d.size), recomputed + 1
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
    return _result(WARM_UP, worst, f"{recomputed} days from {window_days} days, {starts} other starts")


def _since(frame: pl.DataFrame, first: datetime) -> pl.DataFrame:
    return frame.filter(pl.col("open_time") >= first)


def _values(frame: pl.DataFrame) -> list[str]:
    return [name for name, dtype in frame.schema.items() if dtype.is_numeric()]


def feature_failures(inputs: Inputs, engine: Engine = compute_features) -> list[str]:
    """Run the cheap laws on the newest rows and return the names of the broken laws.

    Args:
        inputs: at least `WARMUP_DAYS` + 1 days, the clock's rows in any order.
        engine: under test.
    """
    ordered = inputs.with_clock(inputs.clock.sort("open_time"))
    times = ordered.clock["open_time"]
    span = times[-1] - times[0] if times.len() else timedelta(0)
    if span < timedelta(days=WARMUP_DAYS + 1):
        return [TOO_FEW_BARS]
    rough, cut = ordered.stressed(), times[-_BARS_AFTER_CUT - 7]
    results = [
        prefix_invariance(engine, ordered, [times[-2]]),
        prefix_invariance(engine, rough, hours_to_cut(rough.clock, random=0)[:-1]),
        future_poisoning(engine, ordered, [cut]),
        availability(engine, ordered, [at + HOUR for at in cuts(ordered, random=0)[-_CHECK_MOMENTS:]]),
        warm_up(engine, ordered),
    ]
    return list(dict.fromkeys(result.law for result in results if not result.passed))


Fit = Callable[[pl.DataFrame, datetime], bytes]
"""Function from rows in time order and a boundary to a fingerprint of everything fitted for use after the boundary."""


def fitted_state(fit: Fit, rows: pl.DataFrame, boundary: datetime, purge: timedelta) -> LawResult:
    """Law 5: a fit for use from `boundary` on does not depend on later rows, and does depend on earlier rows.

    Without the second half, a fit that reads no rows would pass.

    Args:
        fit: under test; deterministic.
        rows: a frame with `open_time`, in time order.
        boundary: start of the test, or the cutoff, UTC.
        purge: a row may be used for the fit if `open_time` + purge <= boundary.
    """
    last = boundary - purge
    fitted = fit(rows, boundary)
    changes = [name for name, poisoned in poisons(rows, last).items() if name != "unknown"
             if fit(poisoned, boundary) != fitted]  # fmt: skip
    if changes:
        return LawResult(FITTED_STATE, False, f"changes when the rows after {last:%Y-%m-%d %H:%M} are {changes[0]}")
    numbers = [name for name in _values(rows) if rows.schema[name].is_float()]
    earlier = rows.with_columns(
        pl.when(pl.col("open_time") <= last).then(pl.col(name).reverse()).otherwise(pl.col(name)).alias(name)
        for name in numbers
    )
    if fit(earlier, boundary) == fitted:
        return LawResult(FITTED_STATE, False, "does not depend on the rows it may use: it fits nothing")
    return LawResult(FITTED_STATE, True, f"uses rows up to {last:%Y-%m-%d %H:%M} only")


LabelEngine = Callable[[pl.DataFrame, datetime, datetime], pl.DataFrame]
"""Function from bars and the span (first, last] in which labels became known to HOURLY_LABELS rows."""


def labels_law(labels: LabelEngine, bars: pl.DataFrame, *, days: int = 3) -> LawResult:
    """Law 6: a label of horizon h at t depends on the bars from t to t + h only, and is known at t + 1 h + h.

    Args:
        labels: under test.
        bars: PRICES rows in time order.
        days: number of newest days to recompute from their own bars.
    """
    first, end = bars["open_time"][0] - HOUR, bars["open_time"][-1] + HOUR
    whole = labels(bars, first, end)
    known = pl.col("open_time") + pl.duration(minutes=pl.col("horizon_minutes") + 60)
    early = whole.filter(pl.col("known_at") != known)
    if not early.is_empty():
        return LawResult(LABELS, False, f"{early.height} labels are known before or after their window closes")
    worst = _Difference()
    for cut in hours_to_cut(bars):
        closed = cut + HOUR
        difference = _difference(whole.filter(pl.col("known_at") <= closed), labels(_until(bars, cut), first, closed))
        later = _difference(_since(whole, cut), _since(labels(_since(bars, cut), first, end), cut))
        worst = max(worst, difference, later, key=lambda d: d.size)
    midnight = end.replace(hour=0)
    reach = timedelta(minutes=int(whole["horizon_minutes"].max() or 0) + 60)  # type: ignore[arg-type]
    for back in range(1, days + 1):
        span = midnight - timedelta(days=back), midnight - timedelta(days=back - 1)
        own = bars.filter((pl.col("open_time") >= span[0] - reach) & (pl.col("open_time") < span[1]))
        expected = whole.filter((pl.col("known_at") > span[0]) & (pl.col("known_at") <= span[1]))
        worst = max(worst, _difference(expected, labels(own, *span)), key=lambda d: d.size)
    return _result(LABELS, worst, f"{whole.height} labels, {days} days made alone")


def purge_law(folds: pl.DataFrame) -> LawResult:
    """Law 6 for folds: every training label is known when the fold's test starts.

    Args:
        folds: CV_FOLDS rows.
    """
    known = pl.col("train_end") + pl.duration(minutes=pl.col("horizon_minutes") + 60)
    broken = folds.filter((known > pl.col("test_start")) | (60 * pl.col("purge_hours") < pl.col("horizon_minutes")))
    detail = (
        f"{folds.height} folds"
        if broken.is_empty()
        else f"{broken.height} of {folds.height} folds use labels that are not known yet"
    )
    return LawResult(PURGE, broken.is_empty(), detail)


Matrix = npt.NDArray[np.float64]
FitPredict = Callable[[Matrix, Matrix, Matrix], Matrix]
"""Function from training inputs (n, f), 0/1 targets (n,) and test inputs (m, f) to scores (m,)."""
PLACEBO_Z = 3.29
"""Half-width of the placebo's interval, standard errors: a leak-free learner fails once in a thousand times."""


def placebo(
    fit_predict: FitPredict, inputs: Matrix, up: Matrix, *, train_share: float = 0.6, base: float = 0.5
) -> LawResult:
    """Law 8: on unpredictable targets, the AUC is 0.5 within its interval.

    Scores are ranked among the scores of the training rows. If they were ranked among themselves, the slow features of
    a random walk would seem to predict it, because such a rank uses the whole test span (the bias of Stambaugh, 1999).
    Ranked against the past, (rank - 1/2)(up - base) is a martingale difference, and
    0.5 + 4 mean((rank - 1/2)(up - base)) has mean 0.5 and a known variance.

    Args:
        fit_predict: the learner.
        inputs: (n, f) in time order; NaN where unknown.
        up: (n,) 0/1 targets that no input predicts: of a random walk, or permuted.
        train_share: share of rows to train on, the oldest.
        base: probability of 1.
    """
    split = int(len(up) * train_share)
    train, test, outcomes = inputs[:split], inputs[split + 1 :], up[split + 1 :]
    scores = fit_predict(train, up[:split], np.concatenate([train, test]))
    reference, judged = np.sort(scores[:split]), scores[split:]
    below = np.searchsorted(reference, judged, "left") + np.searchsorted(reference, judged, "right")
    rank = below / (2 * split) - 0.5
    n = len(test)
    if not np.abs(rank).sum() > 0:
        return LawResult(PLACEBO, False, f"the learner gives all {n} hours the same score, so nothing is tested")
    area = 0.5 + 4 * float(rank @ (outcomes - base)) / n
    width = PLACEBO_Z * 4 * float(np.sqrt(base * (1 - base) * (rank @ rank))) / n
    detail = f"AUC {area:.4f} on {n:,} hours, expected 0.5 ± {width:.4f}"
    return LawResult(PLACEBO, abs(area - 0.5) <= width, detail, abs(area - 0.5))
