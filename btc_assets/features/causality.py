"""The causality suite: laws that any feature, label, fit or forecast must obey to be free of the future.

Accuracy cannot stand in for these laws: an engine that is one hour too early looks a tenth of a point better,
no more. Each law is a pure function over a callable, so that the same law judges the project's own engine,
a forecast, and the planted bugs that show the law can see (law 7, `mutants.mutation_score`). Articles and posts have
laws of their own, the first four again: what may be known of them is decided by `available_at` and nothing else.

Run on the current lake with `python -m btc_assets.features.causality`.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, date, datetime, timedelta

import numpy as np
import numpy.typing as npt
import polars as pl

from btc_assets.clock import HOUR, midnight
from btc_assets.features.catalog import TEXT_GROUPS, WARMUP_DAYS
from btc_assets.features.engine import compute_features
from btc_assets.features.texts import ARTICLE_COLUMNS, POST_COLUMNS, SCORE_COLUMNS, Texts

Engine = Callable[[pl.DataFrame], pl.DataFrame]
"""Bars in time order to a frame with one row an `open_time`: features, forecasts, anything made from bars."""
TextEngine = Callable[[pl.DataFrame, Texts | None], pl.DataFrame]
"""The same from bars and texts, None where there are none."""

TOLERANCE = 1e-9
"""Largest difference allowed, relative to the value and the usual size of its column."""
PREFIX = "prefix_invariance"
POISONING = "future_poisoning"
AVAILABILITY = "availability"
WARM_UP = "warm_up"
TEXT_AVAILABILITY = "text_availability"
TEXT_POISONING = "text_poisoning"
TEXT_WARM_UP = "text_warm_up"
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


def _between(frame: pl.DataFrame, first: datetime, last: datetime) -> pl.DataFrame:
    return frame.filter(pl.col("open_time").is_between(first, last))


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
    moments = _moments(cuts(bars)) if at is None else at
    return _availability(AVAILABILITY, lambda moment: engine(_until(bars, moment - HOUR)), engine(bars), moments)


def _moments(where: Sequence[datetime]) -> list[datetime]:
    """Return the moment each cut's row becomes available, and one inside the next hour."""
    return [cut + HOUR + step for cut in where for step in (timedelta(0), timedelta(minutes=30))]


def _availability(
    law: str, make: Callable[[datetime], pl.DataFrame], whole: pl.DataFrame, moments: Sequence[datetime]
) -> LawResult:
    """Hold what the whole offers at each moment against what is made from what was there at the moment."""
    worst = _Difference()
    for moment in moments:
        offered = pl.col("available_at") <= moment
        found = _difference(whole.filter(offered), make(moment).filter(offered))
        worst = max(worst, found, key=lambda d: d.size)
    return _result(law, worst, f"{whole.width} columns, {len(moments)} moments")


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
    return _warm_up(
        WARM_UP,
        lambda first, last: engine(_between(bars, first, last)),
        bars,
        days=days,
        starts=starts,
        window_days=window_days,
    )


def _warm_up(
    law: str,
    make: Callable[[datetime, datetime], pl.DataFrame],
    bars: pl.DataFrame,
    *,
    days: int,
    starts: int,
    window_days: int,
) -> LawResult:
    """Hold days and late starts against the whole; `make` gives the rows from what lies between two open_times."""
    first, newest = bars["open_time"][0], bars["open_time"][-1]
    whole = make(first, newest)
    worst, made = _Difference(), 0
    for back in range(days):
        start = newest.replace(hour=0) - timedelta(days=back)
        if start - timedelta(days=window_days) < first:
            break
        end = start + timedelta(hours=23)
        alone = make(start - timedelta(days=window_days), end)
        found = _difference(_since(_until(whole, end), start), _since(alone, start))
        worst, made = max(worst, found, key=lambda d: d.size), made + 1
    rng = np.random.default_rng(2)
    for row in rng.integers(1, max(2, bars.height // 2), size=starts):
        begin = bars["open_time"][int(row)]
        late = make(begin, newest)
        known = late.select("open_time", *(pl.col(name).is_not_null() for name in _values(late)))
        expected = _since(whole, begin)
        expected = expected.with_columns(
            pl.when(known[name]).then(pl.col(name)).alias(name) for name in _values(expected)
        )
        worst = max(worst, _difference(expected, late), key=lambda d: d.size)
    return _result(law, worst, f"{made} days from {window_days} days, {starts} other starts")


def _since(frame: pl.DataFrame, first: datetime) -> pl.DataFrame:
    return frame.filter(pl.col("open_time") >= first)


def _values(frame: pl.DataFrame) -> list[str]:
    return [name for name, dtype in frame.schema.items() if dtype.is_numeric()]


# --- laws 1, 2, 3, 4 again: of texts -------------------------------------------------------------


def with_texts(engine: TextEngine, texts: Texts | None) -> Engine:
    """Return an engine of bars alone, whose texts are these, whatever bars it is given."""
    return lambda bars: engine(bars, texts)


def text_cuts(bars: pl.DataFrame, texts: Texts, *, random: int = 2) -> list[datetime]:
    """Choose the open_times at which texts are cut: `cuts(bars)`, and the last rows that must not know of a text yet.

    The texts are those that tempt: the article that was seen longest after it was published, the one that ended the
    longest silence, the newest edit, and the first of a day that follows one nobody gathered.

    Args:
        bars: PRICES rows in time order.
        texts: of the same span.
        random: how many cuts to draw.
    """
    times = bars["open_time"]
    newer = texts.articles.filter(pl.col("available_at") > times[bars.height // 2])
    late = newer.drop_nulls("published_at").sort(pl.col("available_at") - pl.col("published_at"))
    edits = newer.filter(pl.col("revision") > 0).sort("available_at")
    said = texts.articles["available_at"].sort()
    after_silence = said.to_frame().filter(pl.col("available_at").diff() == pl.col("available_at").diff().max())
    tempting = [*late["available_at"].tail(1), *edits["available_at"].tail(1), *after_silence["available_at"].tail(1)]
    for days in (texts.article_days, texts.post_days):
        after_a_hole = sorted(day for day in days if day - timedelta(days=1) not in days)
        tempting += [midnight(day) for day in after_a_hole[-1:]]
    before = {at.replace(minute=0, second=0, microsecond=0) - HOUR for at in tempting}
    return sorted({*cuts(bars, random=random), *(before & set(times[:-1]))})


def text_availability(
    engine: TextEngine, bars: pl.DataFrame, texts: Texts, at: Sequence[datetime] | None = None
) -> LawResult:
    """Laws 1 and 3 of texts: what is offered at a moment can be made from the bars and texts available by then.

    A text that was published before the moment and seen after it, and an edit of one that was seen before it, are
    things of the future.

    Args:
        engine: under test; its frame has `available_at`.
        bars: PRICES rows in time order.
        texts: of the same span.
        at: the moments; those around `text_cuts(bars, texts)` unless told.
    """
    moments = _moments(text_cuts(bars, texts)) if at is None else at
    return _availability(
        TEXT_AVAILABILITY,
        lambda moment: engine(_until(bars, moment - HOUR), texts.until(moment)),
        engine(bars, texts),
        moments,
    )


def text_poisons(texts: Texts, moment: datetime) -> dict[str, Texts]:
    """Return the texts with another future after `moment`, by name.

    `unseen` has none. `absurd` has as many texts more as the two days before had, of the same outlets and stories and
    published before the moment, on days that were all gathered, and whatever is said in it is all praise. `edited` has
    an edit of each text of those two days, by another outlet, of another story.

    Args:
        texts: which.
        moment: after which they may change, UTC.
    """
    past = texts.until(moment)
    recent = pl.col("available_at") > moment - timedelta(hours=48)
    mirrored = pl.lit(moment) + (pl.lit(moment) - pl.col("available_at")) + pl.duration(microseconds=1)
    later = mirrored.alias("available_at")
    newest = (moment - timedelta(microseconds=1)).date()
    days = {newest + timedelta(days=n) for n in range(1, 4)}

    def praised(scores: pl.DataFrame) -> pl.DataFrame:
        ahead = pl.col("available_at") > moment
        return scores.with_columns(pl.when(ahead).then(1.0).otherwise(pl.col("score")).alias("score"))

    def named_otherwise(frame: pl.DataFrame, name: str) -> pl.DataFrame:
        return frame.filter(recent).with_columns(pl.col(name).str.reverse(), later)

    articles, posts, scores = past.articles.filter(recent), past.posts.filter(recent), past.scores
    absurd = replace(
        texts,
        articles=pl.concat([texts.articles, named_otherwise(past.articles, "article_id")]),
        posts=pl.concat([texts.posts, named_otherwise(past.posts, "post_id")]),
        scores=praised(pl.concat([texts.scores, named_otherwise(scores, "item_id")])),
        article_days=texts.article_days | days,
        post_days=texts.post_days | days,
    )
    edit = (pl.col("revision").max() + 1).alias("revision")
    edited = replace(
        texts,
        articles=pl.concat(
            [
                texts.articles,
                articles.with_columns(
                    edit, later, pl.col("article_id").str.reverse().alias("story_id"), pl.lit("edit").alias("outlet")
                ),
            ]
        ),
        posts=pl.concat([texts.posts, posts.with_columns(edit, later, ~pl.col("is_repost"))]),
    )
    return {"unseen": past, "absurd": absurd, "edited": edited}


def text_poisoning(
    engine: TextEngine, bars: pl.DataFrame, texts: Texts, at: Sequence[datetime] | None = None
) -> LawResult:
    """Law 2 of texts: whatever is said after t + 1 h, the rows up to t do not move.

    Args:
        engine: under test.
        bars: PRICES rows in time order.
        texts: of the same span.
        at: the cuts; `text_cuts(bars, texts)` unless told.
    """
    whole = engine(bars, texts)
    where = text_cuts(bars, texts) if at is None else at
    worst, how = _Difference(), ""
    for cut in where:
        for name, poisoned in text_poisons(texts, cut + HOUR).items():
            found = _difference(_until(whole, cut), _until(engine(bars, poisoned), cut))
            if found.size > worst.size:
                worst, how = found, f", worst when the future is {name}"
    return _result(TEXT_POISONING, worst, f"{whole.width} columns, {len(where)} cuts, 3 poisons{how}")


def text_warm_up(
    engine: TextEngine,
    bars: pl.DataFrame,
    texts: Texts,
    *,
    days: int = 1,
    starts: int = 0,
    window_days: int = WARMUP_DAYS,
) -> LawResult:
    """Law 4 of texts: a day made from the bars and texts of its own window equals the day made from all.

    Args:
        engine: under test.
        bars: PRICES rows in time order, longer than `window_days`.
        texts: of the same span.
        days: newest days to make again from their window alone.
        starts: further random starts of history; whatever an engine calls known after one must be right.
        window_days: days of bars and texts a day is given.
    """
    return _warm_up(
        TEXT_WARM_UP,
        lambda first, last: engine(_between(bars, first, last), texts.between(first, last + HOUR)),
        bars,
        days=days,
        starts=starts,
        window_days=window_days,
    )


def feature_failures(
    bars: pl.DataFrame, texts: Texts | None = None, engine: TextEngine = compute_features
) -> list[str]:
    """Run the cheap laws on the newest bars and return the names of those that are broken; empty is green.

    Args:
        bars: PRICES rows in any order, at least `WARMUP_DAYS` + 1 days of them.
        texts: articles, posts and scores of the same span; None where there are none, and no law of texts is run.
        engine: under test.
    """
    ordered = bars.sort("open_time")
    span = ordered["open_time"][-1] - ordered["open_time"][0] if ordered.height else timedelta(0)
    if span < timedelta(days=WARMUP_DAYS + 1):
        return [TOO_FEW_BARS]
    cut = ordered["open_time"][-_AFTERMATH - 7]
    rough = stressed(ordered)
    of_bars = with_texts(engine, texts)
    results = [
        prefix_invariance(of_bars, ordered, [ordered["open_time"][-2]]),
        prefix_invariance(of_bars, rough, cuts(rough, random=0)[:-1]),
        future_poisoning(of_bars, ordered, [cut]),
        warm_up(of_bars, ordered),
    ]
    if texts is not None:
        results += [
            text_availability(engine, ordered, texts, [at + HOUR for at in text_cuts(ordered, texts, random=0)[-4:]]),
            text_poisoning(engine, ordered, texts, [cut]),
            text_warm_up(engine, ordered, texts),
        ]
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


_OUTLETS = ("one.example", "two.example", "three.example", "four.example", "five.example")
_SILENT_HOURS = 30
_MICROSECONDS = 3_600_000_000
"""In an hour."""


def random_texts(bars: pl.DataFrame, *, seed: int) -> Texts:
    """Return made-up articles and posts of the hours of some bars, with all that tempts a join to look ahead.

    Texts seen long after they were published, and some on the stroke of an hour; edits, repeats of a story and
    reposts; texts without a score; outlets with a bias; a day of silence and days nobody gathered.

    Args:
        bars: PRICES rows in time order, three days of them or more.
        seed: of everything.
    """
    rng = np.random.default_rng(seed)
    hours = int((bars["open_time"][-1] - bars["open_time"][0]) / HOUR) + 1
    days = bars["open_time"].dt.date().unique().sort().to_list()
    article_days = frozenset(days) - {days[int(0.7 * len(days))]}
    post_days = frozenset(days[1:]) - {days[int(0.8 * len(days))]}
    mood = np.sin(np.cumsum(rng.normal(0, 0.1, hours)))

    def said(kind: str, an_hour: float, gathered: frozenset[date]) -> pl.DataFrame:
        hour = np.repeat(np.arange(hours), rng.poisson(an_hour, hours))
        hour = hour[(hour < hours // 2) | (hour >= hours // 2 + _SILENT_HOURS)]
        n = len(hour)
        within = np.where(rng.random(n) < 0.05, 0, rng.integers(_MICROSECONDS, size=n))
        delay = rng.exponential(np.where(rng.random(n) < 0.05, 48, 0.7), n) * _MICROSECONDS
        outlet = rng.integers(len(_OUTLETS), size=n)
        repeated = np.where(rng.random(n) < 0.3, rng.integers(1, 20, n), 0)
        prefix = "a" if kind == "article" else "b"
        return (
            pl.DataFrame(
                {
                    "kind": [kind] * n,
                    "item_id": [f"{prefix}{i:031x}" for i in range(n)],
                    "told_by": pl.Series(_OUTLETS).gather(outlet),
                    "story": np.maximum(np.arange(n) - repeated, 0),
                    "repeats": repeated > 0,
                    "score": np.tanh(mood[hour] + 0.4 * (outlet - 2) + rng.normal(0, 0.5, n)),
                    "is_scored": rng.random(n) > 0.05,
                    "is_edited": rng.random(n) < 0.08,
                    "until_edit": pl.Series(rng.exponential(5, n) * _MICROSECONDS).cast(pl.Duration("us")),
                    "available_at": bars["open_time"][0]
                    + pl.Series(hour * _MICROSECONDS + within).cast(pl.Duration("us")),
                    "delay": pl.Series(delay).cast(pl.Duration("us")),
                }
            )
            .with_columns(
                pl.col("item_id").gather("story").alias("story_id"),
                (pl.col("available_at") - pl.col("delay")).alias("published_at"),
                pl.lit(0, pl.Int64).alias("revision"),
            )
            .filter(pl.col("available_at").dt.date().is_in(sorted(gathered)))
        )

    def with_edits(texts: pl.DataFrame, gathered: frozenset[date]) -> pl.DataFrame:
        edits = texts.filter("is_edited").with_columns(
            pl.lit(1, pl.Int64).alias("revision"),
            pl.col("available_at") + pl.col("until_edit"),
            pl.col("item_id").alias("story_id"),
            pl.lit(_OUTLETS[0]).alias("told_by"),
            ~pl.col("repeats"),
        )
        return pl.concat([texts, edits.filter(pl.col("available_at").dt.date().is_in(sorted(gathered)))])

    articles, posts = said("article", 3.0, article_days), said("post", 2.0, post_days)
    scores = (
        pl.concat([articles, posts])
        .filter("is_scored")
        .with_columns(pl.lit("made up").alias("scorer"), pl.lit(value=True).alias("is_primary"))
    )
    return Texts(
        with_edits(articles, article_days)
        .rename({"item_id": "article_id", "told_by": "outlet"})
        .select(ARTICLE_COLUMNS),
        with_edits(posts, post_days)
        .rename({"item_id": "post_id", "told_by": "platform", "repeats": "is_repost"})
        .select(POST_COLUMNS),
        scores.select(SCORE_COLUMNS),
        article_days,
        post_days,
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
    from btc_assets.features.mutants import mutation_score

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
    from btc_assets.contracts import PRICES
    from btc_assets.features.assets import stored_texts
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
