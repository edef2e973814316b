"""Measure the effect of texts: the feature-group study on the user's bars, articles and posts, as Markdown.

    python -m benchmarks.groups [--period dense]

`BTC_MARKET_FILES`, `BTC_NEWS_FILES` and `BTC_SOCIAL_FILES` name the archives. With `BTC_MARKET_SOURCE=files` the
settings also require `BTC_HISTORY_START` and `BTC_HISTORY_END`, which are not used here. The archives are processed by
the project's sources, filing, scoring and features in memory. Each period is studied twice: unchanged, and as a placebo
with the text columns shifted by half the period, so that they keep their distribution but have no information about
their hour. A verdict that texts help in the placebo indicates a bug.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, date, datetime, timedelta

import numpy as np
import polars as pl

from btc_assets.clock import midnight
from btc_assets.features.catalog import FEATURE_SETS, JOINED_GROUPS, WARMUP_DAYS
from btc_assets.features.engine import features_between
from btc_assets.features.inputs import inputs_of
from btc_assets.features.labels import compute_labels
from btc_assets.learning.families.xgboost import FAMILY, XgboostParameters
from btc_assets.learning.folds import Rows, labelled_rows, make_folds
from btc_assets.learning.group_study import BASE, BASE_RATE, Groups, Study, as_markdown, feature_groups, study_groups
from btc_assets.market.bars import clean
from btc_assets.market.sources.files import FileSource
from btc_assets.news.gather import CONTRACTS, FetchResult, KnownTexts, available_at, fetch_all, file_items
from btc_assets.news.sentiment.score import score_items, scorers_of
from btc_assets.news.sources.files import TextFiles
from btc_assets.news.sources.protocol import Kind
from btc_assets.news.streams import STREAMS
from btc_assets.settings import Settings, settings
from btc_assets.streams import Rows as StreamRows
from btc_assets.vocabulary import PRIMARY

SEEDS = (1, 2, 3, 4, 5)


@dataclass(frozen=True)
class Period:
    """A studied period and its folds.

    Attributes:
        name: name in the document.
        first: first day, UTC.
        cutoff: day after the last day.
        folds: number of walk-forward folds.
        test_days: length of each test in days.
    """

    name: str
    first: date
    cutoff: date
    folds: int
    test_days: int

    @property
    def days(self) -> int:
        """Length in days."""
        return (self.cutoff - self.first).days


PERIODS = (
    Period("dense", date(2025, 5, 5), date(2025, 8, 1), folds=5, test_days=10),
    Period("two years", date(2022, 1, 1), date(2024, 1, 1), folds=5, test_days=73),
)


@dataclass(frozen=True)
class Archives:
    """The contents of the archives as delivered by their sources.

    Attributes:
        bars: PRICES rows of all hours.
        delivered: articles and posts, unfiled, by kind.
        days: UTC days from the first to the last text by kind, including days without texts.
    """

    bars: pl.DataFrame
    delivered: dict[Kind, FetchResult]
    days: dict[Kind, frozenset[date]]


@dataclass(frozen=True)
class Scored:
    """The filed and scored texts of a period and of its warm-up days.

    Attributes:
        articles: ARTICLES rows.
        posts: POSTS rows.
        scores: SENTIMENT_SCORES rows.
        scored_by: name, version and weights of the scorer used by the features.
    """

    articles: pl.DataFrame
    posts: pl.DataFrame
    scores: pl.DataFrame
    scored_by: str


def read(config: Settings) -> Archives:
    """Read the archives named by the settings.

    Raises:
        SystemExit: an archive cannot be read; the message says why.
    """
    now = datetime.now(tz=UTC)
    bars = clean(FileSource(config.market_files).fetch(_EVER, now, now)).frame
    lag = timedelta(minutes=config.news_files_lag_minutes)
    patterns: dict[Kind, str] = {"article": config.news_files, "post": config.social_files}
    delivered, days = {}, {}
    for kind, pattern in patterns.items():
        (delivered[kind],) = fetch_all([TextFiles(pattern, kind, lag)], _EVER, now, now, concurrency=1)
        if delivered[kind].fault:
            raise SystemExit(delivered[kind].fault)
        days[kind] = _days(delivered[kind], now)
    return Archives(bars, delivered, days)


def _days(gathered: FetchResult, now: datetime) -> frozenset[date]:
    items = gathered.delivery.items if gathered.delivery else ()
    times = [available_at(item, live=False, lag=gathered.lag, days=(), now=now) for item in items]
    known = [at.date() for at in times if at is not None]
    length = (max(known) - min(known)).days + 1 if known else 0
    return frozenset(min(known) + timedelta(days=day) for day in range(length))


def score(config: Settings, archives: Archives, period: Period) -> Scored:
    """File the texts of a period by day and score them."""
    now = datetime.now(tz=UTC)
    first = period.first - timedelta(days=WARMUP_DAYS)
    days = [first + timedelta(days=day) for day in range((period.cutoff - first).days)]
    articles, posts = (
        file_items([archives.delivered[kind]], kind, CONTRACTS[kind].empty(), KnownTexts.empty(), days, now).frame
        for kind in _KINDS
    )
    chosen = scorers_of(config)
    for notice in chosen.notices:
        print(notice, file=sys.stderr)
    primary = next(scorer for scorer in chosen.scorers if scorer.name == chosen.primary)
    scores = score_items(articles, posts, [primary], primary.name)
    scored_by = f"`{primary.name}` {primary.version} (weights SHA-256 `{primary.weights_digest[:16]}`)"
    return Scored(articles, posts, scores, scored_by)


def rows_of(archives: Archives, texts: Scored, period: Period, names: Sequence[str]) -> Rows:
    """Return the labelled hours of a period with the given features."""
    tables = {"article": texts.articles.lazy(), "post": texts.posts.lazy()}
    known = {
        stream: StreamRows(stream.rows(tables[kind], texts.scores.lazy()), frozenset(archives.days[kind]))
        for kind, stream in zip(_KINDS, STREAMS, strict=True)
    }
    start, end = midnight(period.first), midnight(period.cutoff)
    warm = start - timedelta(days=WARMUP_DAYS)
    bars = archives.bars.filter(pl.col("open_time").is_between(warm, end, closed="left"))
    features = features_between(inputs_of(bars, known), start, end)
    labels = compute_labels(bars, start, end)
    return labelled_rows(features, labels, cutoff=period.cutoff, horizon=PRIMARY, window_days=period.days, names=names)


def shifted(rows: Rows, names: Iterable[str]) -> Rows:
    """Return rows with some features shifted cyclically by half the period."""
    columns = [rows.names.index(name) for name in names]
    inputs = rows.inputs.copy()
    inputs[:, columns] = np.roll(inputs[:, columns], len(rows) // 2 // 24 * 24, axis=0)
    return replace(rows, inputs=inputs)


def run_study(rows: Rows, period: Period, threads: int) -> Study:
    """Run the group study of a period."""
    folds = make_folds(
        {PRIMARY: rows},
        cutoff=period.cutoff,
        window_days=period.days,
        n_folds=period.folds,
        test_days=period.test_days,
    )
    groups = feature_groups(rows.names)
    return study_groups(FAMILY, rows, folds, groups, XgboostParameters(), seeds=SEEDS, threads=threads)


def section(config: Settings, archives: Archives, period: Period) -> str:
    """Return the section of the document about one period."""
    start_time = time.perf_counter()
    names = FEATURE_SETS[config.feature_set]
    texts = score(config, archives, period)
    rows = rows_of(archives, texts, period, names)
    groups = feature_groups(names)
    real = run_study(rows, period, config.train_threads)
    text_features = [name for group in JOINED_GROUPS for name in groups.get(group, ())]
    placebo = run_study(shifted(rows, text_features), period, config.train_threads)
    seconds = time.perf_counter() - start_time
    inside = (pl.col("available_at") >= midnight(period.first)) & (pl.col("available_at") < midnight(period.cutoff))
    articles, posts = texts.articles.filter(inside), texts.posts.filter(inside)
    hours = period.days * 24
    lines = [
        f"### {period.name.capitalize()}: {period.first} to {period.cutoff - timedelta(days=1)}",
        "",
        f"- {_describe(articles, 'articles', hours)}; {articles['story_id'].n_unique():,} stories.",
        f"- {_describe(posts, 'posts', hours)}.",
        f"- Scored by {texts.scored_by}; features of {_group_sizes(groups)}; untuned parameters of the boosters.",
        *(f"- {note}" for note in real.notes),
        "",
        as_markdown(real.rows),
        "",
        f"Placebo with the text columns shifted by half the period: {_of_placebo(placebo)}.",
    ]
    print(f"{period.name}: {seconds:.0f} s", file=sys.stderr)
    return "\n".join(lines)


def _describe(texts: pl.DataFrame, what: str, hours: int) -> str:
    hours_with_texts = texts["available_at"].dt.truncate("1h").n_unique()
    return f"{texts.height:,} {what} became available, in {hours_with_texts:,} of {hours:,} hours"


def _group_sizes(groups: dict[str, Groups]) -> str:
    return ", ".join(f"{group} ({len(members)})" for group, members in groups.items())


def _of_placebo(study: Study) -> str:
    """Return the verdicts on the text groups in the placebo with their differences and intervals."""
    verdicts = [
        f"{row['groups']} against {row['against']} {row['difference'] * 1e3:+.2f} "
        f"({row['lower'] * 1e3:+.2f} to {row['upper'] * 1e3:+.2f}, Holm p {row['holm_p_value']:.2g}), {row['verdict']}"
        for row in study.rows.iter_rows(named=True)
        if row["groups"] != BASE and row["against"] in (BASE, BASE_RATE)
    ]
    return "; ".join(verdicts)


def main(arguments: Sequence[str] | None = None) -> int:
    """Print the sections of the selected periods; return 1 if the settings name no archives."""
    description, _, notes = (__doc__ or "").partition("\n\n")
    parser = argparse.ArgumentParser(prog="python -m benchmarks.groups", description=description, epilog=notes)
    parser.add_argument("--period", choices=[period.name for period in PERIODS], help="a single period instead of all")
    options = parser.parse_args(arguments)
    config = settings()
    if not (config.market_files and config.news_files and config.social_files):
        print("BTC_MARKET_FILES, BTC_NEWS_FILES and BTC_SOCIAL_FILES must name the archives to study", file=sys.stderr)
        return 1
    archives = read(config)
    chosen = [period for period in PERIODS if options.period in (None, period.name)]
    print("\n\n".join(section(config, archives, period) for period in chosen))
    return 0


_EVER = datetime(2009, 1, 3, tzinfo=UTC)
_KINDS: tuple[Kind, ...] = ("article", "post")


if __name__ == "__main__":
    sys.exit(main())
