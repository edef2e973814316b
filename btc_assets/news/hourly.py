"""Texts by the hour they became available in: what articles and posts said, and how many there were.

A text counts for the hour its `available_at` lies in: from the stroke of the hour, included, to the next one, not
included. The row of that hour is used when the hour has closed, so a text is never used before it was available, and
the day its partition is filed under is the day of its hour. When a text was published decides nothing.

Only the first text of an item counts (revision 0), with the score of the scorer that is primary for it.
"""

from __future__ import annotations

from collections.abc import Callable, Collection
from dataclasses import dataclass
from datetime import date, timedelta

import polars as pl

from btc_assets.schema import UTC_TIME
from btc_assets.streams import IN_ITS_HOUR, Rows

NEGATIVE_BELOW = -0.05
"""Scores below this are negative: a score this close to zero takes no side."""
LONGEST_SILENCE_DAYS = 7
"""A stream without a single text for so many days is taken for one that nobody gathered."""
HOUR_OF_TEXT = IN_ITS_HOUR
"""The open_time of the hour a text counts for."""

_ADDED_UP = ("count", "scored", "score_sum", "score_squares", "negative", "first")
"""Amounts of an hour: zero where it was gathered and nobody said anything."""
_OUTLETS = ("outlets", "outlet_sum")
"""The same of articles alone."""


@dataclass(frozen=True)
class Kind:
    """Articles or posts, and what their tables call things.

    Attributes:
        name: `article` or `post`; the first word of the columns of an hour.
        item_id: column that names an item; revisions of one have it in common.
        outlet: column of who said it.
        is_first: whether it is the first of its story, or no repost.
        columns: of the table, that features and laws read; `published_at` is for the laws alone.
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
    """Return how to set each text, and each revision of one, beside the primary score of its item.

    The function takes the rows of the kind's table and SENTIMENT_SCORES rows, and returns `kind.columns` and score,
    null where the item was not scored.
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
    """Return the stored days that were gathered: those with a text in the `LONGEST_SILENCE_DAYS` days before them.

    A source without history leaves the days before its first request stored and empty, which is not silence.

    Args:
        stored: days whose texts are stored, also where there are none.
        texts: rows with `available_at`.
    """
    spoken = set(texts["available_at"].dt.date().unique())
    reach = range(1, LONGEST_SILENCE_DAYS + 1)
    return frozenset(day for day in stored if any(day - timedelta(days=back) in spoken for back in reach))


def hourly_texts(kind: Kind) -> Callable[[Rows, pl.Series], pl.DataFrame]:
    """Return how to add the texts of each hour up.

    The function takes what `with_scores` returns, with the days that were gathered (of others nothing is known), and
    the open_times wanted, UTC. It returns one row an hour, open_time and {kind}_count, {kind}_scored (texts with a
    score), {kind}_score_sum, {kind}_score_squares, {kind}_negative (scores below `NEGATIVE_BELOW`), {kind}_first
    (first of their story, or no reposts), {kind}_high and {kind}_low (scores), {kind}_last_at (the newest
    available_at); of articles also article_outlets (outlets with a score) and article_outlet_sum (of each one's mean
    score). Amounts are zero in an hour that was gathered and had no texts; high, low and last_at are null there; all
    are null where nothing was gathered.
    """

    def join(rows: Rows, hours: pl.Series) -> pl.DataFrame:
        own = first_texts(kind, rows.frame).with_columns(HOUR_OF_TEXT.alias("open_time"))
        added_up, amounts = _per_hour(own), list(_ADDED_UP)
        if kind.by_outlet:
            added_up = added_up.join(_per_outlet(own), on="open_time", how="left")
            amounts += _OUTLETS
        known = pl.col("open_time").dt.date().is_in(sorted(rows.days or ()))
        frame = pl.DataFrame({"open_time": hours}, schema={"open_time": UTC_TIME})
        frame = frame.join(added_up, on="open_time", how="left", maintain_order="left")
        return frame.select(
            "open_time",
            *(
                pl.when(known).then(pl.col(name).cast(pl.Float64).fill_null(0.0)).alias(f"{kind.name}_{name}")
                for name in amounts
            ),
            *(pl.when(known).then(pl.col(name)).alias(f"{kind.name}_{name}") for name in ("high", "low", "last_at")),
        )

    return join


def first_texts(kind: Kind, texts: pl.DataFrame) -> pl.DataFrame:
    """Return the first text of each item, by `available_at`: item_id, outlet, is_first, score, available_at.

    Args:
        kind: of the texts.
        texts: what `with_scores` returns.
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
