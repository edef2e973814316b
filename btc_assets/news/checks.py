"""Checks on the news tables, for the days of the run or else the latest stored day."""

from collections.abc import Mapping
from datetime import timedelta

import dagster as dg
import polars as pl

from btc_assets.lake import Lake
from btc_assets.news.assets import articles, posts, sentiment_scores
from btc_assets.news.tables import ARTICLES, POSTS, SENTIMENT_SCORES
from btc_assets.partitions import days_to_check, nothing_stored

MAX_LEAD = timedelta(hours=1)
"""How long before its stated publication time an article may have been seen: clocks differ."""


def _sources_responding(context: dg.AssetCheckExecutionContext, key: dg.AssetKey, table: str) -> dg.AssetCheckResult:
    event = context.instance.get_latest_materialization_event(key)
    if event is None or event.asset_materialization is None:
        return nothing_stored(table)
    metadata = event.asset_materialization.metadata
    silent = metadata["silent_sources"].value if "silent_sources" in metadata else {}
    failed = metadata["sources_failed"].value if "sources_failed" in metadata else 0
    assert isinstance(silent, Mapping)
    problems = [f"{failed} sources failed"] if failed else []
    problems += [f"{name} {problem}" for name, problem in silent.items()]
    return dg.AssetCheckResult(
        passed=not problems,
        severity=dg.AssetCheckSeverity.WARN,
        description="; ".join(problems)[:1000] or "Every source responded and delivered a text within its rhythm.",
        metadata={"silent": sorted(silent), "failed": failed},
    )


@dg.asset_check(asset=articles, name="sources_responding")
def article_sources_responding(context: dg.AssetCheckExecutionContext) -> dg.AssetCheckResult:
    """Every source of articles responded and delivered a text within its rhythm (warning)."""
    return _sources_responding(context, dg.AssetKey(["news", "articles"]), ARTICLES.table)


@dg.asset_check(asset=posts, name="sources_responding")
def post_sources_responding(context: dg.AssetCheckExecutionContext) -> dg.AssetCheckResult:
    """Every source of posts responded and delivered a text within its rhythm (warning)."""
    return _sources_responding(context, dg.AssetKey(["news", "posts"]), POSTS.table)


@dg.asset_check(asset=articles, name="seen_after_published")
def seen_after_published(context: dg.AssetCheckExecutionContext, lake: dg.ResourceParam[Lake]) -> dg.AssetCheckResult:
    """No article became available more than an hour before its stated publication time (warning)."""
    days = days_to_check(context.run.tags, lake.days(ARTICLES))
    if not days:
        return nothing_stored(ARTICLES.table)
    rows = lake.scan(ARTICLES, days[0], days[-1]).collect()
    early = rows.filter(
        (pl.col("precision") == "second") & (pl.col("available_at") + MAX_LEAD < pl.col("published_at"))
    )
    return dg.AssetCheckResult(
        passed=early.is_empty(),
        severity=dg.AssetCheckSeverity.WARN,
        description=f"{early.height} of {rows.height} articles were seen more than {MAX_LEAD} before publication.",
        metadata={"sources": early["source"].unique().sort().to_list()},
    )


@dg.asset_check(asset=sentiment_scores, name="every_text_is_scored", blocking=True)
def every_text_is_scored(context: dg.AssetCheckExecutionContext, lake: dg.ResourceParam[Lake]) -> dg.AssetCheckResult:
    """Every first text stored for these days has exactly one primary score."""
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
    missing = texts.filter(~pl.col("item_id").is_in(scored.implode())).height
    duplicated = scored.len() - scored.n_unique()
    passed = missing == duplicated == 0
    return dg.AssetCheckResult(
        passed=passed,
        description=f"Of {texts.height} texts from {first} to {last}, {missing} have no primary score and "
        f"{duplicated} have more than one"
        + ("." if passed else "; rematerialise news/sentiment_scores for these days."),
        metadata={"texts": texts.height, "missing": missing, "duplicated": duplicated},
    )


CHECKS = [article_sources_responding, post_sources_responding, seen_after_published, every_text_is_scored]
