"""Assets of articles, posts and their sentiment, partitioned by the day each text became available."""

from collections.abc import Iterator
from datetime import timedelta
from typing import Any

import dagster as dg
import polars as pl

from btc_assets.clock import midnight
from btc_assets.lake import output_of
from btc_assets.news.gather import KnownTexts, fetch_all, file_items, silent_sources, source_table
from btc_assets.news.resources import News
from btc_assets.news.sentiment.judge import benchmark, benchmark_table, read_labelled
from btc_assets.news.sentiment.score import score_items, scorers_of
from btc_assets.news.sources.protocol import Kind
from btc_assets.news.streams import ARTICLE_STREAM
from btc_assets.news.tables import ARTICLES, POSTS, SENTIMENT_BENCHMARK, SENTIMENT_SCORES
from btc_assets.partitions import DAILY, day_of, everything_until
from btc_assets.reads import DeclaredReads, Tables
from btc_assets.schema import Contract, dagster_type
from btc_assets.settings import settings

GROUP = "news"
CODE_VERSION = "1"
CONCURRENCY = 8
"""Maximum number of sources fetched at the same time."""
_FRESHNESS = dg.FreshnessPolicy.time_window(
    fail_window=ARTICLE_STREAM.fail_after, warn_window=ARTICLE_STREAM.warn_after
)
_COMMON: dict[str, Any] = {
    "partitions_def": DAILY,
    "group_name": GROUP,
    "code_version": CODE_VERSION,
    "op_tags": {"dagster/max_runtime": "3600"},
    "backfill_policy": dg.BackfillPolicy.single_run(),
}
"""Options shared by every asset of this domain."""


def _earlier(contract: Contract) -> dg.AssetDep:
    """Declare the dependency on earlier days of the same table, which repeats, edits and stories need."""
    return dg.AssetDep(contract.asset_key, partition_mapping=everything_until(and_today=False))


def _gather(
    context: dg.AssetExecutionContext, reads: DeclaredReads, news: News, kind: Kind, contract: Contract
) -> Iterator[dg.Output[pl.DataFrame]]:
    """Fetch every source of a kind and store new texts under the run's days; store nothing without a source."""
    sources, now = news.sources_of(kind), news.now()
    if not sources:
        context.log.warning(f"BTC_NEWS_SOURCES names no source of {kind}s: these days stay missing instead of empty")
        return
    days = sorted(day_of(key) for key in context.partition_keys)
    results = fetch_all(
        sources, midnight(days[0]), midnight(days[-1] + timedelta(days=1)), now, concurrency=CONCURRENCY
    )
    rows = reads.scan(contract)
    stored = reads.scan(contract, days[0], days[-1]).collect()
    known = KnownTexts.look_up(kind, rows, results, days)
    filed = file_items(results, kind, stored, known, days, now)
    for report in filed.reports:
        if report.fault:
            context.log.warning(f"{report.name}: {report.fault}")
    if all(report.fault for report in filed.reports):
        raise dg.Failure(
            f"every source of {kind}s failed, so nothing was stored: "
            + "; ".join(f"{report.name}: {report.fault}" for report in filed.reports)[:2000]
        )
    newest = pl.concat([rows.filter(~contract.day.is_in(days)), filed.frame.lazy()])
    silent = silent_sources(sources, newest, now) if now.date() in days else []
    yield output_of(
        context,
        contract,
        filed.frame,
        {
            "sources": dg.MetadataValue.md(source_table(filed.reports)),
            "sources_fetched": len(sources),
            "sources_failed": sum(bool(report.fault) for report in filed.reports),
            "silent_sources": {
                source.name: "has never delivered a text"
                if source.newest is None
                else f"has delivered nothing new since {source.newest:%Y-%m-%d %H:%M} UTC; "
                f"expected at least every {source.rhythm}"
                for source in silent
            },
            **{
                name: sum(getattr(report, name) for report in filed.reports)
                for name in ("fetched", "new", "duplicate", "revised")
            },
        },
    )


@dg.asset(
    key=["news", "articles"],
    **_COMMON,
    dagster_type=dagster_type(ARTICLES),
    deps=[_earlier(ARTICLES)],
    freshness_policy=_FRESHNESS,
    kinds={"polars", "parquet"},
    output_required=False,
)
def articles(
    context: dg.AssetExecutionContext, tables: dg.ResourceParam[Tables], news: dg.ResourceParam[News]
) -> Iterator[dg.Output[pl.DataFrame]]:
    """Articles from every source in `BTC_NEWS_SOURCES`, partitioned by the UTC day they became available.

    `available_at` is when the project first saw an article; archives state it or declare a lag after publication. It
    never changes: a repeated delivery adds nothing, and an edited article adds a revision and keeps its first text.
    Articles with similar titles within 48 hours form one story. A slow or failing source does not affect the others;
    the table below lists what each source delivered and why it failed. All text is plain: no markup, bounded length.
    """
    with tables.locked(ARTICLES):
        yield from _gather(context, tables.of(context), news, "article", ARTICLES)


@dg.asset(
    key=["news", "posts"],
    **_COMMON,
    dagster_type=dagster_type(POSTS),
    deps=[_earlier(POSTS)],
    freshness_policy=_FRESHNESS,
    kinds={"polars", "parquet"},
    output_required=False,
)
def posts(
    context: dg.AssetExecutionContext, tables: dg.ResourceParam[Tables], news: dg.ResourceParam[News]
) -> Iterator[dg.Output[pl.DataFrame]]:
    """Posts from every source in `BTC_NEWS_SOURCES`, partitioned by the UTC day they became available.

    Posts follow the rules of `news/articles`: a post is stored once, its availability never changes and an edit adds a
    revision. Votes and comments are the counts when the post was first seen.
    """
    with tables.locked(POSTS):
        yield from _gather(context, tables.of(context), news, "post", POSTS)


@dg.asset(
    key=["news", "sentiment_scores"],
    **_COMMON,
    dagster_type=dagster_type(SENTIMENT_SCORES),
    ins={"articles": dg.AssetIn(key=["news", "articles"]), "posts": dg.AssetIn(key=["news", "posts"])},
    freshness_policy=_FRESHNESS,
    kinds={"vader", "transformers"},
)
def sentiment_scores(
    context: dg.AssetExecutionContext, articles: pl.LazyFrame, posts: pl.LazyFrame
) -> dg.Output[pl.DataFrame]:
    """Sentiment of the first text of every article and post: negative, neutral and positive shares per scorer.

    `BTC_SENTIMENT_SCORER` selects the scorer. If its weights are unavailable, the embedded default scores instead and
    the metadata contains a notice. Each scorer version and weights score a text once; repeated texts come from the
    cache. `is_primary` marks the row of a text that features read.
    """
    chosen = scorers_of(settings())
    for notice in chosen.notices:
        context.log.warning(notice)
    frame = score_items(articles.collect(), posts.collect(), chosen.scorers, chosen.primary)
    primary = frame.filter("is_primary")
    return output_of(
        context,
        SENTIMENT_SCORES,
        frame,
        {
            "primary": chosen.primary,
            "notices": list(chosen.notices),
            "texts": primary.height,
            "mean_score": primary["score"].mean(),
            "truncated": frame["truncated"].sum(),
            "weights": {scorer.name: scorer.weights_digest for scorer in chosen.scorers},
        },
    )


@dg.asset(
    key=["news", "sentiment_benchmark"],
    **(_COMMON | {"backfill_policy": dg.BackfillPolicy.multi_run(max_partitions_per_run=1)}),
    dagster_type=dagster_type(SENTIMENT_BENCHMARK),
    freshness_policy=dg.FreshnessPolicy.time_window(fail_window=timedelta(days=400), warn_window=timedelta(days=200)),
    kinds={"polars"},
)
def sentiment_benchmark(context: dg.AssetExecutionContext) -> dg.Output[pl.DataFrame]:
    """Quality of each scorer on the labelled texts of `BTC_LABELLED_SENTIMENT`, as of the partition's day.

    Accuracy, macro-F1, recall of each class and calibration error, with n and 95 % intervals, per labelled data set.
    """
    config = settings()
    if not config.labelled_sentiment:
        raise dg.Failure(
            "BTC_LABELLED_SENTIMENT is empty: point it at texts with the columns text, label and dataset",
            allow_retries=False,
        )
    chosen = scorers_of(config)
    frame = benchmark(
        read_labelled(config.labelled_sentiment), chosen.scorers, day_of(context.partition_key), config.seed
    )
    return output_of(
        context,
        SENTIMENT_BENCHMARK,
        frame,
        {"table": dg.MetadataValue.md(benchmark_table(frame)), "notices": list(chosen.notices)},
    )


ASSETS = [articles, posts, sentiment_scores, sentiment_benchmark]
