"""Select the scorers of a deployment and score articles and posts."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import polars as pl

from btc_assets.news.sentiment.cache import CachedScorer
from btc_assets.news.sentiment.ensemble import load_ensemble
from btc_assets.news.sentiment.protocol import CLASSES, Scorer, ScorerError, WeightsUnavailableError
from btc_assets.news.sentiment.vader import VaderScorer
from btc_assets.news.tables import SENTIMENT_SCORES
from btc_assets.settings import Settings

DEFAULT = "vader"
"""The scorer without downloaded weights; features read it if the configured scorer is unavailable."""


@dataclass(frozen=True)
class Scorers:
    """The scorers of one run.

    Attributes:
        scorers: all scorers, each with the cache; they always include the default.
        primary: name of the scorer whose rows features read.
        notices: sentences about why the configured scorer is not used; empty if it is used.
    """

    scorers: tuple[Scorer, ...]
    primary: str
    notices: tuple[str, ...] = ()


def scorers_of(config: Settings) -> Scorers:
    """Return the scorers that the settings select.

    If the transformer's weights are unavailable, or no ensemble is fitted on exactly the scorers of this run, the
    default is the primary scorer and a notice states the reason.

    Raises:
        ScorerError: the configured model exists but cannot be used, for example because of its labels.
    """
    vader = CachedScorer(VaderScorer(), config.score_cache)
    configured = config.sentiment_scorer
    if configured == DEFAULT:
        return Scorers((vader,), DEFAULT)
    from btc_assets.news.sentiment.transformer import load_transformer

    try:
        loaded = load_transformer(config.sentiment_model, config.sentiment_runtime)
    except WeightsUnavailableError as error:
        return Scorers((vader,), DEFAULT, (_notice(configured, error),))
    scorers = (vader, CachedScorer(loaded, config.score_cache))
    if configured == "transformer":
        return Scorers(scorers, "transformer")
    try:
        ensemble = load_ensemble(ensemble_path(config), scorers)
    except ScorerError as error:
        return Scorers(scorers, DEFAULT, (_notice(configured, error),))
    return Scorers((*scorers, ensemble), "ensemble")


def ensemble_path(config: Settings) -> Path:
    """Return the path of the fitted ensemble."""
    return config.score_cache.parent.parent / "sentiment" / "ensemble.json"


def _notice(configured: str, error: ScorerError) -> str:
    return (
        f"BTC_SENTIMENT_SCORER={configured} cannot be used: {str(error).rstrip('.')}. Until this is fixed, features "
        f"read the scores of {DEFAULT!r}, the embedded default."
    )


def score_items(articles: pl.DataFrame, posts: pl.DataFrame, scorers: Sequence[Scorer], primary: str) -> pl.DataFrame:
    """Score the first text of every article and post.

    Args:
        articles: ARTICLES rows; later revisions are ignored.
        posts: POSTS rows; later revisions are ignored.
        scorers: each scores every text.
        primary: name of the scorer whose rows features read.

    Returns:
        SENTIMENT_SCORES rows, one per text and scorer, sorted by their key.

    Raises:
        ScorerError: a scorer cannot score; no rows are returned, because invented rows would look like real scores.
        ValueError: two scorers have the same name, or no scorer has the primary name.
    """
    names = [scorer.name for scorer in scorers]
    if len(set(names)) < len(names) or primary not in names:
        raise ValueError(
            f"expected scorers of different names, including the primary {primary!r}, got {', '.join(names)}"
        )
    items = _items(articles, posts)
    if items.is_empty():
        return SENTIMENT_SCORES.empty()
    texts = items.get_column("text").unique(maintain_order=True)
    digests = pl.DataFrame({"text": texts, "text_digest": [_digest(text) for text in texts]})
    rows = [
        items.join(digests.with_columns(**_score_columns(scorer, texts.to_list(), primary)), on="text", how="left")
        for scorer in scorers
    ]
    scored = pl.concat(rows).with_columns(score=pl.col("p_positive") - pl.col("p_negative"))
    return scored.select(pl.col(name).cast(dtype) for name, dtype in SENTIMENT_SCORES.columns.items()).sort(
        SENTIMENT_SCORES.key
    )


def _items(articles: pl.DataFrame, posts: pl.DataFrame) -> pl.DataFrame:
    """Return kind, item_id, text and available_at of every first text (revision 0)."""
    title, summary = pl.col("title"), pl.col("summary")
    of_articles = articles.filter(revision=0).select(
        kind=pl.lit("article"),
        item_id="article_id",
        text=pl.when(summary == "").then(title).otherwise(title + ". " + summary),
        available_at="available_at",
    )
    of_posts = posts.filter(revision=0).select(
        kind=pl.lit("post"), item_id="post_id", text="text", available_at="available_at"
    )
    return pl.concat([of_articles, of_posts])


def _score_columns(scorer: Scorer, texts: list[str], primary: str) -> dict[str, Any]:
    scores = scorer.score(texts)
    shares = {f"p_{name}": pl.Series(scores.probabilities[:, column]) for column, name in enumerate(CLASSES)}
    return shares | {
        "truncated": pl.Series(scores.truncated),
        "scorer": pl.lit(scorer.name),
        "is_primary": pl.lit(scorer.name == primary),
        "scorer_version": pl.lit(scorer.version),
        "weights_digest": pl.lit(scorer.weights_digest),
    }


def _digest(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()
