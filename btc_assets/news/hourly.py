"""Aggregate texts by the hour in which they became available: number and sentiment of articles and posts.

A text counts for the hour `[t, t + 1 h)` that contains its `available_at`. The row of an hour is used when the hour has
closed, so a text is never used before it was available, and the day of its partition is the day of its hour. The
publication time is not used.

Only the first text of an item counts (revision 0), with the score of its primary scorer.
"""

from __future__ import annotations

from collections.abc import Callable, Collection
from dataclasses import dataclass
from datetime import date, timedelta

import polars as pl

from btc_assets.schema import UTC_TIME
from btc_assets.streams import IN_ITS_HOUR, Rows

NEGATIVE_BELOW = -0.05
"""Scores below this are negative; scores closer to zero are neutral."""
MAX_SILENCE_DAYS = 7
"""A stream without any text for this many days counts as not gathered."""
HOUR_OF_TEXT = IN_ITS_HOUR
"""The open_time of the hour that a text counts for."""

_ZERO_WITHOUT_TEXTS = ("count", "scored", "score_sum", "score_squares", "negative", "first")
"""Aggregates of an hour that are zero if it was gathered and has no text."""
_ZERO_WITHOUT_OUTLETS = ("outlets", "outlet_sum")
"""Further such aggregates of articles."""


@dataclass(frozen=True)
class Kind:
    """Articles or posts, with the column names of their tables.

    Attributes:
        name: `article` or `post`; prefix of the columns of an hour.
        item_id: column of the item's id, which is shared by its revisions.
        outlet: column of the publisher or platform.
        is_first: whether it is the first article of its story, or a post that is not a repost.
        columns: columns of the table that features and laws read; only the laws read `published_at`.
        by_outlet: whether outlets are counted.
    """

    name: str
    item_id: str
    outlet: str
    is_first: pl.Expr
    columns: tuple[str, ...]
    by_outlet: bool


ARTICLE = Kind(
    "article",
    "article_id",
    "outlet",
    pl.col("article_id") == pl.col("story_id"),
    ("article_id", "revision", "story_id", "outlet", "published_at", "available_at"),
    by_outlet=True,
)
POST = Kind(
    "post",
    "post_id",
    "platform",
    ~pl.col("is_repost"),
    ("post_id", "revision", "platform", "is_repost", "published_at", "available_at"),
    by_outlet=False,
)


def with_scores(kind: Kind) -> Callable[[pl.LazyFrame, pl.LazyFrame], pl.DataFrame]:
    """Return a function that joins each text and revision with the primary score of its item.

    The function takes the rows of the kind's table and SENTIMENT_SCORES rows, and returns `kind.columns` and score,
    which is null for an unscored item.
    """

    def rows(items: pl.LazyFrame, scores: pl.LazyFrame) -> pl.DataFrame:
        primary = (
            scores.filter(pl.col("is_primary") & (pl.col("kind") == kind.name))
            .sort("scorer")
            .select(pl.col("item_id").alias(kind.item_id), "score")
            .unique(kind.item_id, keep="first", maintain_order=True)
        )
        return items.select(kind.columns).join(primary, on=kind.item_id, how="left", maintain_order="left").collect()

    return rows


def days_gathered(stored: Collection[date], texts: pl.DataFrame) -> frozenset[date]:
    """Return the stored days that were gathered: those with a text in the `MAX_SILENCE_DAYS` days before them.

    With a source without history, the days before its first fetch are stored and empty without having been gathered.

    Args:
        stored: days with a stored partition, which may be empty.
        texts: rows with `available_at`.
    """
    days_with_texts = set(texts["available_at"].dt.date().unique())
    reach = range(1, MAX_SILENCE_DAYS + 1)
    return frozenset(day for day in stored if any(day - timedelta(days=back) in days_with_texts for back in reach))


def hourly_texts(kind: Kind) -> Callable[[Rows, pl.Series], pl.DataFrame]:
    """Return a function that aggregates the texts of each hour.

    The function takes the result of `with_scores` with the gathered days (other days are unknown) and the requested
    open_times, UTC. It returns one row per hour: open_time and {kind}_count, {kind}_scored (texts with a score),
    {kind}_score_sum, {kind}_score_squares, {kind}_negative (scores below `NEGATIVE_BELOW`), {kind}_first (first
    articles of their stories, or posts that are not reposts), {kind}_high and {kind}_low (extreme scores),
    {kind}_last_at (latest available_at); for articles also article_outlets (outlets with a score) and
    article_outlet_sum (sum of the outlets' mean scores). In a gathered hour without texts the counts and sums are zero
    and high, low and last_at are null; in an hour that was not gathered all values are null.
    """

    def join(rows: Rows, hours: pl.Series) -> pl.DataFrame:
        texts = first_texts(kind, rows.frame).with_columns(HOUR_OF_TEXT.alias("open_time"))
        aggregates, names = _per_hour(texts), list(_ZERO_WITHOUT_TEXTS)
        if kind.by_outlet:
            aggregates = aggregates.join(_per_outlet(texts), on="open_time", how="left")
            names += _ZERO_WITHOUT_OUTLETS
        known = pl.col("open_time").dt.date().is_in(sorted(rows.days or ()))
        frame = pl.DataFrame({"open_time": hours}, schema={"open_time": UTC_TIME})
        frame = frame.join(aggregates, on="open_time", how="left", maintain_order="left")
        return frame.select(
            "open_time",
            *(
                pl.when(known).then(pl.col(name).cast(pl.Float64).fill_null(0.0)).alias(f"{kind.name}_{name}")
                for name in names
            ),
            *(pl.when(known).then(pl.col(name)).alias(f"{kind.name}_{name}") for name in ("high", "low", "last_at")),
        )

    return join


def first_texts(kind: Kind, texts: pl.DataFrame) -> pl.DataFrame:
    """Return the first text of each item, by `available_at`: item_id, outlet, is_first, score, available_at.

    Args:
        kind: articles or posts.
        texts: result of `with_scores`.
    """
    first = texts.filter(pl.col("revision") == 0).select(
        pl.col(kind.item_id).alias("item_id"),
        pl.col(kind.outlet).alias("outlet"),
        kind.is_first.alias("is_first"),
        "score",
        "available_at",
    )
    return first.sort("available_at", "item_id")


def _per_hour(texts: pl.DataFrame) -> pl.DataFrame:
    score = pl.col("score")
    return texts.group_by("open_time", maintain_order=True).agg(
        pl.len().alias("count"),
        score.count().alias("scored"),
        score.sum().alias("score_sum"),
        score.pow(2).sum().alias("score_squares"),
        (score < NEGATIVE_BELOW).sum().alias("negative"),
        pl.col("is_first").sum().alias("first"),
        score.max().alias("high"),
        score.min().alias("low"),
        pl.col("available_at").max().alias("last_at"),
    )


def _per_outlet(texts: pl.DataFrame) -> pl.DataFrame:
    """Return the number of outlets of each hour, and the sum of their mean scores."""
    return (
        texts.drop_nulls("score")
        .group_by("open_time", "outlet", maintain_order=True)
        .agg(pl.col("score").mean())
        .group_by("open_time", maintain_order=True)
        .agg(pl.len().alias("outlets"), pl.col("score").sum().alias("outlet_sum"))
    )
