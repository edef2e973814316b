"""Checks on the news tables, of the days a run made or else of the newest day stored."""

from collections.abc import Mapping
from datetime import timedelta

import dagster as dg
import polars as pl

from btc_assets.lake import Lake
from btc_assets.news.assets import articles, posts, sentiment_scores
from btc_assets.news.tables import ARTICLES, POSTS, SENTIMENT_SCORES
from btc_assets.partitions import days_to_check, nothing_stored

MOST_AHEAD = timedelta(hours=1)
"""How long before its publication, as the publisher tells it, an article may have been seen: clocks differ."""


def _sources_heard(context: dg.AssetCheckExecutionContext, key: dg.AssetKey, table: str) -> dg.AssetCheckResult:
    event = context.instance.get_latest_materialization_event(key)
    if event is None or event.asset_materialization is None:
        return nothing_stored(table)
    told = event.asset_materialization.metadata
    silent = told["silent_sources"].value if "silent_sources" in told else {}
    failed = told["sources_failed"].value if "sources_failed" in told else 0
    assert isinstance(silent, Mapping)
    said = [f"{failed} sources failed"] if failed else []
    said += [f"{name} {sentence}" for name, sentence in silent.items()]
    return dg.AssetCheckResult(
        passed=not said,
        severity=dg.AssetCheckSeverity.WARN,
        description="; ".join(said)[:1000] or "Every source answered within its usual rhythm.",
        metadata={"silent": sorted(silent), "failed": failed},
    )


@dg.asset_check(asset=articles, name="sources_heard")
def article_sources_heard(context: dg.AssetCheckExecutionContext) -> dg.AssetCheckResult:
    """Every source of articles answered, and none is silent beyond its usual rhythm; a warning."""
    return _sources_heard(context, dg.AssetKey(["news", "articles"]), ARTICLES.table)


@dg.asset_check(asset=posts, name="sources_heard")
def post_sources_heard(context: dg.AssetCheckExecutionContext) -> dg.AssetCheckResult:
    """Every source of posts answered, and none is silent beyond its usual rhythm; a warning."""
    return _sources_heard(context, dg.AssetKey(["news", "posts"]), POSTS.table)


@dg.asset_check(asset=articles, name="seen_after_published")
def seen_after_published(context: dg.AssetCheckExecutionContext, lake: dg.ResourceParam[Lake]) -> dg.AssetCheckResult:
    """No article was available more than an hour before its publisher says it was published; a warning."""
    days = days_to_check(context.run.tags, lake.days(ARTICLES))
    if not days:
        return nothing_stored(ARTICLES.table)
    rows = lake.scan(ARTICLES, days[0], days[-1]).collect()
    early = rows.filter(
        (pl.col("precision") == "second") & (pl.col("available_at") + MOST_AHEAD < pl.col("published_at"))
    )
    return dg.AssetCheckResult(
        passed=early.is_empty(),
        severity=dg.AssetCheckSeverity.WARN,
        description=f"{early.height} of {rows.height} articles were seen more than {MOST_AHEAD} before publication.",
        metadata={"sources": early["source"].unique().sort().to_list()},
    )


@dg.asset_check(asset=sentiment_scores, name="every_text_is_scored", blocking=True)
def every_text_is_scored(context: dg.AssetCheckExecutionContext, lake: dg.ResourceParam[Lake]) -> dg.AssetCheckResult:
    """Every first text stored of the days has exactly one primary score."""
    days = days_to_check(context.run.tags, lake.days(SENTIMENT_SCORES))
    if not days:
        return nothing_stored(SENTIMENT_SCORES.table)
    first, last = days[0], days[-1]
    texts = pl.concat(
        [
            lake.scan(contract, first, last).filter(pl.col("revision") == 0).select(item_id=contract.key[0])
            for contract in (ARTICLES, POSTS)
        ]
    ).collect()
    scored = lake.scan(SENTIMENT_SCORES, first, last).filter("is_primary").select("item_id").collect()["item_id"]
    lacking = texts.filter(~pl.col("item_id").is_in(scored.implode())).height
    twice = scored.len() - scored.n_unique()
    passed = lacking == 0 and twice == 0
    return dg.AssetCheckResult(
        passed=passed,
        description=f"Of {texts.height} texts from {first} to {last} {lacking} have no primary score and {twice} more "
        f"than one" + ("." if passed else "; materialise news/sentiment_scores of these days again."),
        metadata={"texts": texts.height, "lacking": lacking, "twice": twice},
    )


CHECKS = [article_sources_heard, post_sources_heard, seen_after_published, every_text_is_scored]
