"""The contracts of the news tables."""

import polars as pl

from btc_assets.columns import ITEM_ID
from btc_assets.schema import PROBABILITY, UTC_TIME, Column, check, declare, law, schema

_PRECISION = Column(
    pl.String,
    check("isin", ["second", "minute", "day", "none"]),
    about="how exactly published_at is told; none where it is not told",
)
_AVAILABLE_AT = Column(UTC_TIME, about="when the project first saw it, or what its source declares for archives, UTC")
_TEXT_REVISION = Column(
    pl.Int64, check("ge", 0), about="0 is the first text, the one features use; edits seen later count up"
)
_PUBLISHED_AT = Column(UTC_TIME, nullable=True, about="what the publisher says, UTC; never used to decide availability")

ARTICLES = declare(
    table="news/articles",
    schema=schema(
        {
            "article_id": Column(pl.String, ITEM_ID, about="first 32 hex digits of the SHA-256 of the canonical URL"),
            "revision": _TEXT_REVISION,
            "story_id": Column(
                pl.String, ITEM_ID, about="article_id of the first article with nearly this title within 48 hours"
            ),
            "source": Column(pl.String, check("str_length", min_value=1), about="feed or service it came from"),
            "outlet": Column(pl.String, check("str_length", min_value=1), about="who published it, a domain name"),
            "url": Column(pl.String, nullable=True, about="canonical URL; null where there is none"),
            "title": Column(pl.String, check("str_length", min_value=1), about="title, plain text"),
            "summary": Column(pl.String, about="summary, plain text; may be empty"),
            "published_at": _PUBLISHED_AT,
            "precision": _PRECISION,
            "available_at": _AVAILABLE_AT,
        },
    ),
    day=pl.col("available_at").dt.date(),
    key=("article_id", "revision"),
)

POSTS = declare(
    table="news/posts",
    schema=schema(
        {
            "post_id": Column(pl.String, ITEM_ID, about="first 32 hex digits of the SHA-256 of platform and id"),
            "revision": _TEXT_REVISION,
            "source": Column(pl.String, check("str_length", min_value=1), about="service it came from"),
            "platform": Column(pl.String, check("str_length", min_value=1), about="where it was posted"),
            "channel": Column(pl.String, about="subreddit, list or the like; may be empty"),
            "url": Column(pl.String, nullable=True, about="canonical URL; null where there is none"),
            "text": Column(pl.String, check("str_length", min_value=1), about="title and body, plain text"),
            "published_at": _PUBLISHED_AT,
            "precision": _PRECISION,
            "available_at": _AVAILABLE_AT,
            "points": Column(pl.Int64, nullable=True, about="votes when first seen; null where unknown"),
            "comments": Column(pl.Int64, nullable=True, about="comments when first seen; null where unknown"),
            "is_repost": Column(pl.Boolean, about="whether it repeats another post, a retweet for example"),
        },
    ),
    day=pl.col("available_at").dt.date(),
    key=("post_id", "revision"),
)

SENTIMENT_SCORES = declare(
    table="news/sentiment_scores",
    schema=schema(
        {
            "kind": Column(pl.String, check("isin", ["article", "post"]), about="what was scored"),
            "item_id": Column(pl.String, ITEM_ID, about="article_id or post_id; its first text is scored"),
            "scorer": Column(pl.String, check("str_length", min_value=1), about="name of the scorer"),
            "is_primary": Column(pl.Boolean, about="whether features read this row: one scorer of each text"),
            "scorer_version": Column(pl.String, about="version of the scorer's code and settings"),
            "weights_digest": Column(
                pl.String, check("str_matches", r"^[0-9a-f]{64}$"), about="SHA-256 of the scorer's weights or lexicon"
            ),
            "text_digest": Column(
                pl.String, check("str_matches", r"^[0-9a-f]{64}$"), about="SHA-256 of the text scored"
            ),
            "p_negative": Column(pl.Float64, *PROBABILITY, about="share or probability of negative"),
            "p_neutral": Column(pl.Float64, *PROBABILITY, about="share or probability of neutral"),
            "p_positive": Column(pl.Float64, *PROBABILITY, about="share or probability of positive"),
            "score": Column(pl.Float64, check("ge", -1), check("le", 1), about="p_positive - p_negative"),
            "truncated": Column(pl.Boolean, about="whether the scorer read only the beginning of the text"),
            "available_at": Column(UTC_TIME, about="of the text, UTC"),
        },
        law(
            "probabilities add up to one",
            (pl.col("p_negative") + pl.col("p_neutral") + pl.col("p_positive") - 1).abs() < 1e-6,
        ),
        law(
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
            "day": Column(pl.Date, about="day the benchmark was run for"),
            "dataset": Column(pl.String, about="labelled set"),
            "scorer": Column(pl.String, about="name of the scorer"),
            "weights_digest": Column(
                pl.String, check("str_matches", r"^[0-9a-f]{64}$"), about="SHA-256 of the scorer's weights or lexicon"
            ),
            "metric": Column(pl.String, about="accuracy, macro_f1, recall of a class, or calibration_error"),
            "value": Column(pl.Float64, nullable=True, about="its value; null when it cannot be computed"),
            "lower": Column(pl.Float64, nullable=True, about="lower end of the 95 % interval"),
            "upper": Column(pl.Float64, nullable=True, about="upper end of the 95 % interval"),
            "n": Column(pl.Int64, check("ge", 0), about="labelled texts it rests on"),
        },
    ),
    day=pl.col("day"),
    key=("day", "dataset", "scorer", "metric"),
)
