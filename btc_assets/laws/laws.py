"""The causality suite: laws that any feature, label, fit or forecast must obey to be free of the future.

Accuracy cannot stand in for these laws: an engine that is one hour too early looks a tenth of a point better,
no more. Each law is a pure function over a callable, so that the same law judges the project's own engine,
a forecast, and the planted bugs that show the law can see (law 7, `mutants.mutation_score`). Articles and posts have
laws of their own, the first four again: what may be known of them is decided by `available_at` and nothing else.

Run on the current lake with `python -m btc_assets.laws.laws`.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from datetime import datetime, timedelta

import numpy as np
import numpy.typing as npt
import polars as pl

from btc_assets.clock import HOUR, midnight
from btc_assets.features.catalog import WARMUP_DAYS
from btc_assets.features.engine import compute_features
from btc_assets.features.texts import Texts
from btc_assets.laws.synthetic import stressed

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
