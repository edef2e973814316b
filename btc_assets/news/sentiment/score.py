"""From texts to rows of scores: which scorers a deployment uses, and what they say of articles and posts."""

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
"""The scorer that needs no weights; the one that features read when the one asked for cannot be had."""


@dataclass(frozen=True)
class Scorers:
    """The scorers of one run.

    Attributes:
        scorers: those that score, each with the cache; the default is always among them.
        primary: name of the one whose rows features read.
        notices: sentences for a person, where the run does not use the scorer that was asked for.
    """

    scorers: tuple[Scorer, ...]
    primary: str
    notices: tuple[str, ...] = ()


def scorers_of(config: Settings) -> Scorers:
    """Return the scorers a deployment's settings ask for.

    Where the weights of the transformer cannot be had, or there is no ensemble fitted on the very scorers of this run,
    the default is the primary scorer and a notice says so.

    Raises:
        ScorerError: the model that was asked for is there and cannot be used, for example for its labels.
    """
    vader = CachedScorer(VaderScorer(), config.score_cache)
    asked = config.sentiment_scorer
    if asked == DEFAULT:
        return Scorers((vader,), DEFAULT)
    from btc_assets.news.sentiment.transformer import load_transformer

    try:
        loaded = load_transformer(config.sentiment_model, config.sentiment_runtime)
    except WeightsUnavailableError as error:
        return Scorers((vader,), DEFAULT, (_notice(asked, error),))
    scorers = (vader, CachedScorer(loaded, config.score_cache))
    if asked == "transformer":
        return Scorers(scorers, "transformer")
    try:
        ensemble = load_ensemble(ensemble_path(config), scorers)
    except ScorerError as error:
        return Scorers(scorers, DEFAULT, (_notice(asked, error),))
    return Scorers((*scorers, ensemble), "ensemble")


def ensemble_path(config: Settings) -> Path:
    """Return where the fitted combination of the ensemble is kept."""
    return config.score_cache.parent.parent / "sentiment" / "ensemble.json"


def _notice(asked: str, error: ScorerError) -> str:
    return (
        f"BTC_SENTIMENT_SCORER asks for {asked!r}, which cannot be used: {str(error).rstrip('.')}. Until then features "
        f"read the scores of {DEFAULT!r}, the embedded default."
    )


def score_items(articles: pl.DataFrame, posts: pl.DataFrame, scorers: Sequence[Scorer], primary: str) -> pl.DataFrame:
    """Score the first text of every article and post.

    Args:
        articles: ARTICLES rows; later revisions are passed over.
        posts: POSTS rows; likewise.
        scorers: each scores every text.
        primary: name of the scorer whose rows features read.

    Returns:
        SENTIMENT_SCORES rows, one per text and scorer, sorted by their key.

    Raises:
        ScorerError: a scorer cannot score; there are no rows then, rather than rows that look like an opinion.
        ValueError: two scorers have one name, or none has that of the primary one.
    """
    names = [scorer.name for scorer in scorers]
    if len(set(names)) < len(names) or primary not in names:
        raise ValueError(
            f"expected scorers of different names, {primary!r} among them as the primary one, got {', '.join(names)}"
        )
    items = _items(articles, posts)
    if items.is_empty():
        return SENTIMENT_SCORES.empty()
    texts = items.get_column("text").unique(maintain_order=True)
    digests = pl.DataFrame({"text": texts, "text_digest": [_digest(text) for text in texts]})
    rows = [
        items.join(digests.with_columns(**_of_scorer(scorer, texts.to_list(), primary)), on="text", how="left")
        for scorer in scorers
    ]
    scored = pl.concat(rows).with_columns(score=pl.col("p_positive") - pl.col("p_negative"))
    return scored.select(pl.col(name).cast(dtype) for name, dtype in SENTIMENT_SCORES.columns.items()).sort(
        SENTIMENT_SCORES.key
    )


def _items(articles: pl.DataFrame, posts: pl.DataFrame) -> pl.DataFrame:
    """Return kind, item_id, text and available_at of every first text."""
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


def _of_scorer(scorer: Scorer, texts: list[str], primary: str) -> dict[str, Any]:
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
