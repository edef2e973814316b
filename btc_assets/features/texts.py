"""Texts by the hour they became available in: what articles and posts said, and how many there were.

A text counts for the hour its `available_at` lies in: from the stroke of the hour, included, to the next one, not
included. The row of that hour is used when the hour has closed, so a text is never used before it was available, and
the day its partition is filed under is the day of its hour. When a text was published decides nothing.

Only the first text of an item counts (revision 0), with the score of the scorer that is primary for it.
"""

from __future__ import annotations

from collections.abc import Callable, Collection
from dataclasses import dataclass, replace
from datetime import date, datetime, timedelta
from typing import Self

import polars as pl

from btc_assets.schema import UTC_TIME

ARTICLE_COLUMNS = ("article_id", "revision", "story_id", "outlet", "published_at", "available_at")
POST_COLUMNS = ("post_id", "revision", "platform", "is_repost", "published_at", "available_at")
SCORE_COLUMNS = ("kind", "item_id", "scorer", "is_primary", "score", "available_at")
"""Columns of ARTICLES, POSTS and SENTIMENT_SCORES that features are made from; `published_at` is for the laws alone."""
NEGATIVE_BELOW = -0.05
"""Scores below this are negative: a score this close to zero takes no side."""
LONGEST_SILENCE_DAYS = 7
"""A stream without a single text for so many days is taken for one that nobody gathered."""
HOUR_OF_TEXT = pl.col("available_at").dt.truncate("1h")
"""The open_time of the hour a text counts for."""

_ADDED_UP = ("count", "scored", "score_sum", "score_squares", "negative", "first")
"""Amounts of an hour: zero where it was gathered and nobody said anything."""
_OUTLETS = ("outlets", "outlet_sum")
"""The same of articles alone."""


@dataclass(frozen=True, eq=False)
class Texts:
    """What is known of articles and posts.

    Attributes:
        articles: `ARTICLE_COLUMNS` of ARTICLES rows.
        posts: `POST_COLUMNS` of POSTS rows.
        scores: `SCORE_COLUMNS` of SENTIMENT_SCORES rows.
        article_days: UTC days whose articles were gathered, also where there were none.
        post_days: the same of posts.
    """

    articles: pl.DataFrame
    posts: pl.DataFrame
    scores: pl.DataFrame
    article_days: frozenset[date]
    post_days: frozenset[date]

    @classmethod
    def of(
        cls,
        articles: pl.LazyFrame,
        posts: pl.LazyFrame,
        scores: pl.LazyFrame,
        article_days: Collection[date],
        post_days: Collection[date],
    ) -> Self:
        """Take what features need from the tables of the news domain.

        Args:
            articles: ARTICLES rows.
            posts: POSTS rows.
            scores: SENTIMENT_SCORES rows.
            article_days: days whose articles were gathered.
            post_days: days whose posts were gathered.
        """
        return cls(
            articles.select(ARTICLE_COLUMNS).collect(),
            posts.select(POST_COLUMNS).collect(),
            scores.select(SCORE_COLUMNS).collect(),
            frozenset(article_days),
            frozenset(post_days),
        )

    @classmethod
    def stored(
        cls,
        articles: pl.LazyFrame,
        posts: pl.LazyFrame,
        scores: pl.LazyFrame,
        article_days: Collection[date],
        post_days: Collection[date],
    ) -> Self:
        """Take what the lake holds; which of its days were gathered is what `days_gathered` says.

        Args:
            articles: ARTICLES rows.
            posts: POSTS rows.
            scores: SENTIMENT_SCORES rows.
            article_days: days whose articles are stored.
            post_days: days whose posts are stored.
        """
        texts = cls.of(articles, posts, scores, article_days, post_days)
        return replace(
            texts,
            article_days=days_gathered(article_days, texts.articles["available_at"]),
            post_days=days_gathered(post_days, texts.posts["available_at"]),
        )

    def until(self, moment: datetime) -> Self:
        """Return what was available at a moment, and the days that had begun by then."""
        return self._where(pl.col("available_at") <= moment, lambda day: day <= moment.date())

    def between(self, first: datetime, last: datetime) -> Self:
        """Return what became available with first <= available_at < last, and the days that span touches."""
        inside = (pl.col("available_at") >= first) & (pl.col("available_at") < last)
        newest = (last - timedelta(microseconds=1)).date()
        return self._where(inside, lambda day: first.date() <= day <= newest)

    def hourly(self, hours: pl.Series) -> pl.DataFrame:
        """Return `hourly_texts` of these texts."""
        scored = scored_texts(self.articles, self.posts, self.scores)
        return hourly_texts(scored, hours, self.article_days, self.post_days)

    def _where(self, available: pl.Expr, gathered: Callable[[date], bool]) -> Self:
        return replace(
            self,
            articles=self.articles.filter(available),
            posts=self.posts.filter(available),
            scores=self.scores.filter(available),
            article_days=frozenset(filter(gathered, self.article_days)),
            post_days=frozenset(filter(gathered, self.post_days)),
        )


def days_gathered(stored: Collection[date], available_at: pl.Series) -> frozenset[date]:
    """Return the stored days that were gathered: those with a text in the `LONGEST_SILENCE_DAYS` days before them.

    A source without history leaves the days before its first request stored and empty, which is not silence.

    Args:
        stored: days whose texts are stored, also where there are none.
        available_at: of the texts.
    """
    spoken = set(available_at.dt.date().unique())
    reach = range(1, LONGEST_SILENCE_DAYS + 1)
    return frozenset(day for day in stored if any(day - timedelta(days=back) in spoken for back in reach))


def scored_texts(articles: pl.DataFrame, posts: pl.DataFrame, scores: pl.DataFrame) -> pl.DataFrame:
    """Set each first text beside its primary score.

    Args:
        articles: at least `ARTICLE_COLUMNS`.
        posts: at least `POST_COLUMNS`.
        scores: at least `SCORE_COLUMNS`.

    Returns:
        One row a text, by `available_at`: kind, item_id, outlet (the platform of a post), is_first (the first of its
        story, or no repost), available_at, and score, null where the text was not scored.
    """
    primary = (
        scores.filter("is_primary")
        .sort("scorer")
        .select("kind", "item_id", "score")
        .unique(["kind", "item_id"], keep="first", maintain_order=True)
    )
    texts = pl.concat(
        [
            articles.filter(pl.col("revision") == 0).select(
                pl.lit("article").alias("kind"),
                pl.col("article_id").alias("item_id"),
                "outlet",
                (pl.col("article_id") == pl.col("story_id")).alias("is_first"),
                "available_at",
            ),
            posts.filter(pl.col("revision") == 0).select(
                pl.lit("post").alias("kind"),
                pl.col("post_id").alias("item_id"),
                pl.col("platform").alias("outlet"),
                (~pl.col("is_repost")).alias("is_first"),
                "available_at",
            ),
        ]
    )
    return texts.join(primary, on=["kind", "item_id"], how="left").sort("available_at", "kind", "item_id")


def hourly_texts(
    texts: pl.DataFrame,
    hours: pl.Series,
    gathered_article_days: Collection[date],
    gathered_post_days: Collection[date],
) -> pl.DataFrame:
    """Add the texts of each hour up.

    Args:
        texts: what `scored_texts` returns.
        hours: open_times wanted, UTC.
        gathered_article_days: UTC days whose articles were gathered; of others nothing is known.
        gathered_post_days: the same of posts.

    Returns:
        One row an hour, open_time and for each of `article` and `post`: {kind}_count, {kind}_scored (texts with a
        score), {kind}_score_sum, {kind}_score_squares, {kind}_negative (scores below `NEGATIVE_BELOW`), {kind}_first
        (first of their story, or no reposts), {kind}_high and {kind}_low (scores), {kind}_last_at (the newest
        available_at); of articles also article_outlets (outlets with a score) and article_outlet_sum (of each one's
        mean score). Amounts are zero in an hour that was gathered and had no texts; high, low and last_at are null
        there; all are null where nothing was gathered.
    """
    frame = pl.DataFrame({"open_time": hours}, schema={"open_time": UTC_TIME})
    days = {"article": gathered_article_days, "post": gathered_post_days}
    for kind, gathered in days.items():
        own = texts.filter(pl.col("kind") == kind).with_columns(HOUR_OF_TEXT.alias("open_time"))
        added_up = _per_hour(own)
        amounts = list(_ADDED_UP)
        if kind == "article":
            added_up = added_up.join(_per_outlet(own), on="open_time", how="left")
            amounts += _OUTLETS
        known = pl.col("open_time").dt.date().is_in(sorted(gathered))
        frame = frame.join(added_up, on="open_time", how="left", maintain_order="left").with_columns(
            *(pl.when(known).then(pl.col(name).cast(pl.Float64).fill_null(0.0)).alias(name) for name in amounts),
            *(pl.when(known).then(pl.col(name)).alias(name) for name in ("high", "low", "last_at")),
        )
        frame = frame.rename({name: f"{kind}_{name}" for name in (*amounts, "high", "low", "last_at")})
    return frame


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


def every_hour(bars: pl.DataFrame) -> pl.Series:
    """Return each hour from the first bar to the last, those without a bar included.

    Args:
        bars: PRICES rows in time order.
    """
    if bars.is_empty():
        return pl.Series("open_time", [], dtype=UTC_TIME)
    first, last = bars["open_time"][0], bars["open_time"][-1]
    return pl.datetime_range(first, last, "1h", time_unit="us", eager=True).alias("open_time")
