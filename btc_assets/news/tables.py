"""Contracts of the news tables."""

import polars as pl

from btc_assets.columns import ITEM_ID
from btc_assets.schema import PROBABILITY, UTC_TIME, Column, check, declare, row_check, schema

_PRECISION = Column(
    pl.String,
    check("isin", ["second", "minute", "day", "none"]),
    about="precision of published_at; none when it is unknown",
)
_AVAILABLE_AT = Column(UTC_TIME, about="when the project first saw the text; archives declare it, UTC")
_TEXT_REVISION = Column(pl.Int64, check("ge", 0), about="0 is the first text, which features use; later edits count up")
_PUBLISHED_AT = Column(
    UTC_TIME, nullable=True, about="publication time stated by the publisher, UTC; never used to decide availability"
)

ARTICLES = declare(
    table="news/articles",
    schema=schema(
        {
            "article_id": Column(pl.String, ITEM_ID, about="first 32 hex digits of the SHA-256 of the canonical URL"),
            "revision": _TEXT_REVISION,
            "story_id": Column(
                pl.String, ITEM_ID, about="article_id of the first article with a similar title within 48 hours"
            ),
            "source": Column(pl.String, check("str_length", min_value=1), about="feed or service that delivered it"),
            "outlet": Column(pl.String, check("str_length", min_value=1), about="domain of the publisher"),
            "url": Column(pl.String, nullable=True, about="canonical URL; null if there is none"),
            "title": Column(pl.String, check("str_length", min_value=1), about="title, plain text"),
            "summary": Column(pl.String, about="summary, plain text; may be empty"),
            "published_at": _PUBLISHED_AT,
            "precision": _PRECISION,
            "available_at": _AVAILABLE_AT,
        },
    ),
    day=pl.col("available_at").dt.date(),
    key=("article_id", "revision"),
    unique_across_days=True,
)

POSTS = declare(
    table="news/posts",
    schema=schema(
        {
            "post_id": Column(pl.String, ITEM_ID, about="first 32 hex digits of the SHA-256 of platform and id"),
            "revision": _TEXT_REVISION,
            "source": Column(pl.String, check("str_length", min_value=1), about="service that delivered it"),
            "platform": Column(pl.String, check("str_length", min_value=1), about="platform it was posted on"),
            "channel": Column(pl.String, about="subreddit, list or similar; may be empty"),
            "url": Column(pl.String, nullable=True, about="canonical URL; null if there is none"),
            "text": Column(pl.String, check("str_length", min_value=1), about="title and body, plain text"),
            "published_at": _PUBLISHED_AT,
            "precision": _PRECISION,
            "available_at": _AVAILABLE_AT,
            "points": Column(pl.Int64, nullable=True, about="votes when first seen; null if unknown"),
            "comments": Column(pl.Int64, nullable=True, about="comments when first seen; null if unknown"),
            "is_repost": Column(pl.Boolean, about="whether it repeats another post, for example a retweet"),
        },
    ),
    day=pl.col("available_at").dt.date(),
    key=("post_id", "revision"),
    unique_across_days=True,
)

SENTIMENT_SCORES = declare(
    table="news/sentiment_scores",
    schema=schema(
        {
            "kind": Column(pl.String, check("isin", ["article", "post"]), about="kind of text"),
            "item_id": Column(pl.String, ITEM_ID, about="article_id or post_id; its first text is scored"),
            "scorer": Column(pl.String, check("str_length", min_value=1), about="name of the scorer"),
            "is_primary": Column(pl.Boolean, about="whether features read this row; one scorer per text is primary"),
            "scorer_version": Column(pl.String, about="version of the scorer's code and settings"),
            "weights_digest": Column(
                pl.String, check("str_matches", r"^[0-9a-f]{64}$"), about="SHA-256 of the scorer's weights or lexicon"
            ),
            "text_digest": Column(
                pl.String, check("str_matches", r"^[0-9a-f]{64}$"), about="SHA-256 of the scored text"
            ),
            "p_negative": Column(pl.Float64, *PROBABILITY, about="share or probability of negative"),
            "p_neutral": Column(pl.Float64, *PROBABILITY, about="share or probability of neutral"),
            "p_positive": Column(pl.Float64, *PROBABILITY, about="share or probability of positive"),
            "score": Column(pl.Float64, check("ge", -1), check("le", 1), about="p_positive - p_negative"),
            "truncated": Column(pl.Boolean, about="whether the scorer read only the beginning of the text"),
            "available_at": Column(UTC_TIME, about="when the text became available, UTC"),
        },
        row_check(
            "probabilities add up to one",
            (pl.col("p_negative") + pl.col("p_neutral") + pl.col("p_positive") - 1).abs() < 1e-6,
        ),
        row_check(
            "score is p_positive - p_negative",
            (pl.col("score") - pl.col("p_positive") + pl.col("p_negative")).abs() < 1e-9,
        ),
    ),
    day=pl.col("available_at").dt.date(),
    key=("kind", "item_id", "scorer"),
)

SENTIMENT_BENCHMARK = declare(
    table="news/sentiment_benchmark",
    schema=schema(
        {
            "day": Column(pl.Date, about="day of the benchmark run"),
            "dataset": Column(pl.String, about="labelled data set"),
            "scorer": Column(pl.String, about="name of the scorer"),
            "weights_digest": Column(
                pl.String, check("str_matches", r"^[0-9a-f]{64}$"), about="SHA-256 of the scorer's weights or lexicon"
            ),
            "metric": Column(pl.String, about="accuracy, macro_f1, recall of a class, or calibration_error"),
            "value": Column(pl.Float64, nullable=True, about="value of the metric; null if it cannot be computed"),
            "lower": Column(pl.Float64, nullable=True, about="lower end of the 95 % interval"),
            "upper": Column(pl.Float64, nullable=True, about="upper end of the 95 % interval"),
            "n": Column(pl.Int64, check("ge", 0), about="number of labelled texts"),
        },
    ),
    day=pl.col("day"),
    key=("day", "dataset", "scorer", "metric"),
)
