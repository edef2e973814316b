"""Law 7 of the causality suite: planted bugs that the laws must catch, and clean controls that they must pass."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta

import numpy as np
import polars as pl

from btc_assets.clock import HOUR
from btc_assets.features import intrahour
from btc_assets.features.inputs import inputs_of
from btc_assets.features.labels import compute_labels
from btc_assets.laws.laws import (
    Engine,
    Fit,
    LawResult,
    Matrix,
    availability,
    cuts,
    fitted_state,
    future_poisoning,
    hours_to_cut,
    labels_law,
    placebo,
    prefix_invariance,
    purge_law,
    warm_up,
)
from btc_assets.market.quarter_bars import QUARTER_STREAM
from btc_assets.market.quarter_grid import column
from btc_assets.market.streams import CONTEXT
from btc_assets.market.synthetic import random_walk, stressed
from btc_assets.news.hourly import ARTICLE, HOUR_OF_TEXT, first_texts
from btc_assets.news.streams import ARTICLE_STREAM
from btc_assets.streams import Inputs, Rows, Stream, every_hour, latest


@dataclass(frozen=True)
class Subject:
    """A planted bug or a clean control, and the laws that test it.

    Attributes:
        name: name of the bug or control.
        planted: whether it is a bug.
        laws: function from bars to the results of the laws.
    """

    name: str
    planted: bool
    laws: Callable[[pl.DataFrame], Sequence[LawResult]]


@dataclass(frozen=True)
class MutationResult:
    """The laws that a subject broke."""

    name: str
    planted: bool
    caught_by: tuple[str, ...]

    @property
    def as_expected(self) -> bool:
        """Whether a bug was caught, or a control passed."""
        return self.planted == bool(self.caught_by)


_SUBJECT_WINDOW = 20
"""Length of the window of a subject's day, days; the controls need less."""
_SUBJECT_DAYS = _SUBJECT_WINDOW + 4
"""Newest days on which a subject that reads another stream is tested."""


def _results(engine: Engine, inputs: Inputs, at: Sequence[datetime]) -> Sequence[LawResult]:
    return (
        prefix_invariance(engine, inputs, at),
        future_poisoning(engine, inputs, at),
        availability(engine, inputs, [cut + HOUR + step for cut in at for step in (timedelta(0), HOUR / 2)]),
        warm_up(engine, inputs, days=2, starts=2, window_days=_SUBJECT_WINDOW),
    )


def _of_clock(engine: Callable[[pl.DataFrame], pl.DataFrame]) -> Callable[[pl.DataFrame], Sequence[LawResult]]:
    def laws(bars: pl.DataFrame) -> Sequence[LawResult]:
        inputs = inputs_of(bars)
        return _results(lambda some: engine(some.clock), inputs, cuts(inputs))

    return laws


def _of_value(value: pl.Expr, *, warmup_hours: int = 0) -> Callable[[pl.DataFrame], Sequence[LawResult]]:
    def engine(bars: pl.DataFrame) -> pl.DataFrame:
        warm = pl.col("open_time") >= pl.col("open_time").min() + pl.duration(hours=warmup_hours)
        return bars.select("open_time", _CLOSED.alias("available_at"), pl.when(warm).then(value).alias("value"))

    return _of_clock(engine)


def _of_stream(
    stream: Stream, values: Callable[[Rows, pl.Series], pl.DataFrame]
) -> Callable[[pl.DataFrame], Sequence[LawResult]]:
    """Test a join of one stream to the clock: `values` turns its rows into one row per hour."""

    def engine(inputs: Inputs) -> pl.DataFrame:
        closed = inputs.clock.select("open_time", _CLOSED.alias("available_at"))
        hourly = values(inputs.rows[stream], every_hour(inputs.clock))
        return closed.join(hourly, on="open_time", how="left", maintain_order="left")

    def laws(bars: pl.DataFrame) -> Sequence[LawResult]:
        newest = bars.filter(pl.col("open_time") > bars["open_time"][-1] - timedelta(days=_SUBJECT_DAYS))
        inputs = inputs_of(newest, {stream: stream.synthetic(every_hour(newest), 6)})
        where = set(cuts(inputs, random=0)) - set(hours_to_cut(newest, random=0))  # cuts due to the stream only
        return _results(engine, inputs, sorted(where))

    return laws


def _of_join(
    *values: pl.Expr, seen: Callable[[pl.DataFrame], pl.DataFrame] = lambda texts: texts
) -> Callable[[pl.DataFrame], Sequence[LawResult]]:
    """Test the project's join of articles: `seen` changes the articles before it, `values` are computed after it."""
    return _of_stream(
        ARTICLE_STREAM,
        lambda rows, hours: ARTICLE_STREAM.join(replace(rows, frame=seen(rows.frame)), hours).select(
            "open_time", *(values or (_COUNT, _MEAN))
        ),
    )


def _of_articles(value: pl.Expr) -> Callable[[pl.DataFrame], Sequence[LawResult]]:
    """Test a value per scored article: each hour gets the mean of its articles."""

    def values(rows: Rows, _hours: pl.Series) -> pl.DataFrame:
        stories = rows.frame.filter(pl.col("revision") == 0).select("story_id", item_id="article_id")
        articles = first_texts(ARTICLE, rows.frame).join(stories, on="item_id", how="left").with_columns(value=value)
        return articles.group_by(HOUR_OF_TEXT.alias("open_time"), maintain_order=True).agg(pl.col("value").mean())

    return _of_stream(ARTICLE_STREAM, values)


def _when_published(texts: pl.DataFrame) -> pl.DataFrame:
    return texts.with_columns(pl.coalesce("published_at", "available_at").alias("available_at"))


def _an_hour_early(texts: pl.DataFrame) -> pl.DataFrame:
    return texts.with_columns(pl.col("available_at").dt.offset_by("-1h"))


def _of_quarters(
    *values: pl.Expr, seen: Callable[[pl.DataFrame], pl.DataFrame] = lambda quarters: quarters
) -> Callable[[pl.DataFrame], Sequence[LawResult]]:
    """Test the project's join of quarter bars: `seen` changes the bars before it, `values` are computed after it."""
    return _of_stream(
        QUARTER_STREAM,
        lambda rows, hours: QUARTER_STREAM.join(replace(rows, frame=seen(rows.frame)), hours).select(
            "open_time", *values
        ),
    )


def _a_quarter_early(quarters: pl.DataFrame) -> pl.DataFrame:
    return quarters.with_columns(pl.col("open_time").dt.offset_by("-15m"))


def _as_edited(texts: pl.DataFrame) -> pl.DataFrame:
    """Return each text after its last edit."""
    latest = texts.sort("revision").unique("article_id", keep="last", maintain_order=True)
    return latest.with_columns(pl.lit(0, pl.Int64).alias("revision"))


def _of_numbers(stream: Stream) -> tuple[Subject, ...]:
    """Return planted leaks in the join of a numeric stream, and a control: the declared join."""
    joined = stream.join(stream.synthetic(_SAMPLE_HOURS, 0), _SAMPLE_HOURS)
    names = [name for name in joined.columns if name != "open_time"]
    first = pl.col(names[0])
    # A row may count for the hour that closes when the row becomes available; one hour earlier is a leak.
    own = {name: name for name in stream.synthetic(_SAMPLE_HOURS, 0).frame.columns[1:]}
    early = latest(stream.hour - stream.cadence - HOUR, own, stream.lookback)

    def declared(*values: pl.Expr) -> Callable[[pl.DataFrame], Sequence[LawResult]]:
        return _of_stream(stream, lambda rows, hours: stream.join(rows, hours).select("open_time", *values))

    return (
        Subject(f"{stream.name}: the next row", True, _of_stream(stream, early)),
        Subject(f"{stream.name}: normalised over all", True, declared((first - first.mean()) / first.std())),
        Subject(f"{stream.name}: unknown filled by the next", True, declared(first.backward_fill())),
        Subject(
            f"{stream.name}: mean with hours to come", True, declared(first.fill_null(0).rolling_mean(5, center=True))
        ),
        Subject(f"{stream.name}: as declared", False, declared(*map(pl.col, names))),
    )


def _of_fit(fit: Fit) -> Callable[[pl.DataFrame], Sequence[LawResult]]:
    def laws(bars: pl.DataFrame) -> Sequence[LawResult]:
        ahead = (pl.col("close").shift(-1) / pl.col("close")).log().alias("log_return")
        rows = bars.select("open_time", "close", ahead).drop_nulls()
        return (fitted_state(fit, rows, rows["open_time"][rows.height // 2], 2 * HOUR),)

    return laws


def _of_labels(shift_known: int, lead: int) -> Callable[[pl.DataFrame], Sequence[LawResult]]:
    """Test labels that are known `shift_known` hours too late and end `lead` bars too late."""

    def labels(bars: pl.DataFrame, first: datetime, last: datetime) -> pl.DataFrame:
        made = compute_labels(bars, first, last + timedelta(hours=max(0, -shift_known)), horizons=(60, 240))
        ahead = bars.select("open_time", (pl.col("close").shift(-lead) / pl.col("close")).log().alias("_ahead"))
        return (
            made.with_columns(pl.col("known_at") + pl.duration(hours=shift_known))
            .filter((pl.col("known_at") > first) & (pl.col("known_at") <= last))
            .join(ahead, on="open_time", how="left", maintain_order="left")
            .with_columns(pl.col("log_return") + (pl.col("_ahead") if lead else 0))
            .drop("_ahead")
        )

    return lambda bars: (labels_law(labels, bars),)


def _of_folds(purge_hours: int) -> Callable[[pl.DataFrame], Sequence[LawResult]]:
    def laws(bars: pl.DataFrame) -> Sequence[LawResult]:
        start = bars["open_time"][bars.height // 2]
        fold = {"horizon_minutes": 240, "test_start": start, "train_end": start - purge_hours * HOUR}
        return (purge_law(pl.DataFrame([{**fold, "purge_hours": purge_hours}])),)

    return laws


def _of_learner(*, leaks: bool) -> Callable[[pl.DataFrame], Sequence[LawResult]]:
    """Test a nearest-mean learner on a random walk; with `leaks`, the answer is among its inputs."""

    def laws(bars: pl.DataFrame) -> Sequence[LawResult]:
        walk = random_walk(max(2_000, bars.height), seed=1)
        steps = np.diff(np.log(walk["close"].to_numpy()))
        past, ahead = steps[:-1], steps[1:]
        answer = ahead + np.random.default_rng(4).normal(0, 0.03, len(ahead))
        return (placebo(_nearest_mean, np.column_stack([past, answer if leaks else past]), (ahead > 0) * 1.0),)

    return laws


def _nearest_mean(train: Matrix, up: Matrix, test: Matrix) -> Matrix:
    direction = train[up > 0.5].mean(axis=0) - train[up <= 0.5].mean(axis=0)
    return test @ (direction / train.var(axis=0))


def _off_by_one(bars: pl.DataFrame) -> pl.DataFrame:
    return bars.select("open_time", pl.col("open_time").alias("available_at"), "close")


def _forward_join(bars: pl.DataFrame) -> pl.DataFrame:
    """Return news every fifth bar, joined to the bar before it."""
    news = bars.gather_every(5).select("open_time", pl.col("volume").alias("news"))
    return bars.select("open_time", _CLOSED.alias("available_at")).join_asof(news, on="open_time", strategy="forward")


def _unfinished_day(bars: pl.DataFrame) -> pl.DataFrame:
    return bars.select(
        "open_time", _CLOSED.alias("available_at"), pl.col("close").last().over(pl.col("open_time").dt.date())
    )


def _fit_until(purge: timedelta | None) -> Fit:
    """Return a scaler fitted on the rows up to a purge before the boundary; None: on all rows."""

    def fit(rows: pl.DataFrame, boundary: datetime) -> bytes:
        kept = rows if purge is None else rows.filter(pl.col("open_time") <= boundary - purge)
        values = kept.select("close", "log_return").to_numpy()
        return np.concatenate([values.mean(axis=0), values.std(axis=0)]).tobytes()

    return fit


def _fit_nothing(_rows: pl.DataFrame, _boundary: datetime) -> bytes:
    return b""


_CLOSED = pl.col("open_time").dt.offset_by("1h")
_close = pl.col("close")
_COUNT = pl.col("article_count").alias("count")
_MEAN = (pl.col("article_score_sum") / pl.col("article_scored")).fill_nan(None).alias("mean")
_score = pl.col("score")
_quarter_close = pl.col(column(4, "close"))
_amounts = (pl.col(column(4, "quote_volume")), pl.col(column(4, "volume")))
_coming_amounts = (pl.col(column(1, "quote_volume")).shift(-1), pl.col(column(1, "volume")).shift(-1))
_OWN_QUARTERS = [feature.expression.alias(feature.name) for feature in intrahour.FEATURES if feature.warmup_hours == 0]
_hour_return = (_quarter_close / _quarter_close.shift(1)).log()
_DAY = pl.col("open_time").dt.date()

_SAMPLE_HOURS = pl.datetime_range(
    datetime(2020, 1, 1, tzinfo=UTC), datetime(2020, 1, 6, tzinfo=UTC), "1h", eager=True, time_unit="us"
)

SUBJECTS = (
    Subject("shift(-1)", True, _of_value(_close.shift(-1) / _close)),
    Subject("label leak", True, _of_value((_close.shift(-24) / _close).log())),
    Subject("backward fill", True, _of_value(pl.col("taker_buy_volume").backward_fill() / 2)),
    Subject("interpolation", True, _of_value(pl.col("taker_buy_volume").interpolate())),
    Subject("centred window", True, _of_value(_close.rolling_mean(5, center=True))),
    Subject("global z-score", True, _of_value((_close - _close.mean()) / _close.std())),
    Subject("rank over all", True, _of_value(_close.rank() / pl.len())),
    Subject("forward as-of join", True, _of_clock(_forward_join)),
    Subject("day not finished", True, _of_clock(_unfinished_day)),
    Subject("available one hour early", True, _of_clock(_off_by_one)),
    Subject("warm-up too short", True, _of_value(_close.ewm_mean(span=500, adjust=False), warmup_hours=24)),
    Subject("scaler fitted on all", True, _of_fit(_fit_until(None))),
    Subject("fit without purge", True, _of_fit(_fit_until(timedelta(0)))),
    Subject("purge one hour short", True, _of_fit(_fit_until(HOUR))),
    Subject("fit of nothing", True, _of_fit(_fit_nothing)),
    Subject("label known too early", True, _of_labels(shift_known=-1, lead=0)),
    Subject("label one bar too long", True, _of_labels(shift_known=0, lead=5)),
    Subject("fold without purge", True, _of_folds(1)),
    Subject("answer among the inputs", True, _of_learner(leaks=True)),
    Subject("published_at for available_at", True, _of_join(seen=_when_published)),
    Subject("text of the next hour", True, _of_join(seen=_an_hour_early)),
    Subject("edited text", True, _of_join(seen=_as_edited)),
    Subject("text of the whole day", True, _of_join(_COUNT.sum().over(_DAY), _MEAN.mean().over(_DAY))),
    Subject("count of texts to come", True, _of_join(_COUNT.rolling_sum(3, center=True))),
    Subject("scores normalised over all", True, _of_join((_MEAN - _MEAN.mean()) / _MEAN.std())),
    Subject("silence filled by the next text", True, _of_join(_MEAN.backward_fill())),
    Subject("outlet mean over all time", True, _of_articles(_score - _score.mean().over("outlet"))),
    Subject("repeats of a story to come", True, _of_articles(pl.len().over("story_id"))),
    Subject("sentiment never forgotten", True, _of_join(_MEAN.ewm_mean(half_life=200, ignore_nulls=True))),
    Subject("quarter that opens at the hour's end", True, _of_quarters(_quarter_close, seen=_a_quarter_early)),
    Subject(
        "VWAP over the coming quarter",
        True,
        _of_quarters((_amounts[0] + _coming_amounts[0]) / (_amounts[1] + _coming_amounts[1]) / _quarter_close),
    ),
    Subject(
        "past mean with the coming hour",
        True,
        _of_quarters(pl.mean_horizontal(_hour_return.shift(24 * day - 1) for day in range(3))),
    ),
    Subject("rolling mean", False, _of_value(_close.rolling_mean(24), warmup_hours=24)),
    Subject("rolling z-score", False, _of_value((_close - _close.rolling_mean(24)) / _close.rolling_std(24))),
    Subject("EMA", False, _of_value(_close.ewm_mean(span=10, adjust=False), warmup_hours=200)),
    Subject("scaler fitted before the purge", False, _of_fit(_fit_until(2 * HOUR))),
    Subject("labels", False, _of_labels(shift_known=0, lead=0)),
    Subject("fold with purge", False, _of_folds(5)),
    Subject("learner without the answer", False, _of_learner(leaks=False)),
    Subject("texts of the hour", False, _of_join()),
    Subject("texts of a day's hours", False, _of_join(_COUNT.rolling_sum(24), _MEAN.shift(1).forward_fill(6))),
    Subject("score of its hour's articles", False, _of_articles(_score)),
    Subject("quarters of the hour", False, _of_quarters(*_OWN_QUARTERS)),
    *(subject for stream in CONTEXT for subject in _of_numbers(stream)),
)
"""The planted bugs and the clean controls."""


def mutation_score(
    bars: pl.DataFrame | None = None, subjects: Sequence[Subject] = SUBJECTS
) -> tuple[MutationResult, ...]:
    """Law 7: test every planted bug and every control by the laws, on bars with gaps.

    Args:
        bars: PRICES rows in time order, at least 30 days with known order flow; default: synthetic, like all texts.
        subjects: bugs and controls to test.
    """
    rough = stressed(random_walk(60 * 24, seed=7) if bars is None else bars)
    return tuple(
        MutationResult(subject.name, subject.planted, tuple(r.law for r in subject.laws(rough) if not r.passed))
        for subject in subjects
    )
