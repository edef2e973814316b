"""The causality suite: laws that any feature, label, fit or forecast must obey to be free of the future.

Accuracy cannot stand in for these laws: an engine that is one hour too early looks a tenth of a point better,
no more. Each law is a pure function over a callable, so that the same law judges the project's own engine,
a forecast, and the planted bugs that show the law can see (`mutation_score`).

Run on the current lake with `python -m btc_assets.features.causality`.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta

import numpy as np
import numpy.typing as npt
import polars as pl

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

_HOUR = timedelta(hours=1)
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
    steps = times.diff().fill_null(_HOUR)
    if steps.max() > _HOUR:  # type: ignore[operator]
        after_gap = int(steps.arg_max() or 0)
        rows.update({after_gap - 1, after_gap})
    for name in ("taker_buy_volume", "quote_volume", "trades"):
        unknown = bars[name].is_null()
        rows.update((unknown & ~unknown.shift(-1, fill_value=True)).arg_true().to_list()[-1:])
    return [times[row] for row in sorted(rows) if 0 <= row < bars.height - 1]


def stressed(bars: pl.DataFrame, *, seed: int = 5) -> pl.DataFrame:
    """Return the bars with holes, an hour without trades and stretches of unknown order flow, all in the newest days.

    Args:
        bars: PRICES rows in time order.
        seed: of what is dropped.
    """
    n = bars.height
    rng = np.random.default_rng(seed)
    row = pl.int_range(pl.len())
    dropped = rng.choice(np.arange(n // 2, n - 1), size=max(1, n // 200), replace=False).tolist()
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
        [cut + _HOUR + step for cut in cuts(bars) for step in (timedelta(0), timedelta(minutes=30))]
        if at is None
        else at
    )
    worst = _Difference()
    for moment in moments:
        offered = whole.filter(pl.col("available_at") <= moment)
        made = engine(_until(bars, moment - _HOUR))
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
        prefix_invariance(engine, ordered, [ordered["open_time"][-2], cut]),
        prefix_invariance(engine, rough, cuts(rough, random=0)[-2:]),
        future_poisoning(engine, ordered, [cut]),
        warm_up(engine, ordered),
    )
    return list(dict.fromkeys(result.law for result in results if not result.passed))
