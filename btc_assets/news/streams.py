"""The streams of texts: articles and posts, each with its scores beside it."""

from __future__ import annotations

from collections.abc import Callable
from datetime import datetime, timedelta

import polars as pl

from btc_assets.clock import HOUR, midnight
from btc_assets.news.hourly import ARTICLE, HOUR_OF_TEXT, POST, Kind, days_gathered, hourly_texts, with_scores
from btc_assets.news.made_up import random_texts
from btc_assets.news.tables import ARTICLES, POSTS, SENTIMENT_SCORES
from btc_assets.schema import Contract
from btc_assets.streams import Rows, Stream

_REACH_HOURS = 48
_DAYS_AHEAD = 3


def _futures(kind: Kind, edit: tuple[pl.Expr, ...]) -> Callable[[Rows, pl.Expr, datetime], dict[str, Rows]]:
    """Return how to give texts another future.

    `unseen` has none. `absurd` has as many texts more as the two days before had, of the same outlets and stories and
    published before the moment, on days that were all gathered, and all of it is praise. `edited` has an edit of each
    text of those two days, by another outlet, of another story.
    """

    def futures(rows: Rows, available_at: pl.Expr, moment: datetime) -> dict[str, Rows]:
        assert rows.days is not None
        past = rows.frame.filter(available_at <= moment)
        known_days = frozenset(day for day in rows.days if day <= moment.date())
        mirrored = pl.lit(moment) + (pl.lit(moment) - pl.col("available_at")) + pl.duration(microseconds=1)
        recent = past.filter(pl.col("available_at") > moment - timedelta(hours=_REACH_HOURS))
        recent = recent.with_columns(mirrored.alias("available_at"))
        praise = pl.when(pl.col("available_at") > moment).then(1.0).otherwise(pl.col("score")).alias("score")
        more = pl.concat([rows.frame, recent.with_columns(pl.col(kind.item_id).str.reverse())]).with_columns(praise)
        newest = (moment - timedelta(microseconds=1)).date()
        days_ahead = {newest + timedelta(days=n) for n in range(1, _DAYS_AHEAD + 1)}
        edits = recent.with_columns((pl.col("revision").max() + 1).alias("revision"), *edit)
        return {
            "unseen": Rows(past, known_days),
            "absurd": Rows(more, rows.days | days_ahead),
            "edited": Rows(pl.concat([rows.frame, edits]), rows.days),
        }

    return futures


def _tempting(rows: Rows, since: datetime) -> list[datetime]:
    """Return when the texts that tempt became available.

    They are the one that was seen longest after it was published, the newest edit, the one that ended the longest
    silence, and the first of a day that follows one nobody gathered.
    """
    newer = rows.frame.filter(pl.col("available_at") > since)
    late = newer.drop_nulls("published_at").sort(pl.col("available_at") - pl.col("published_at"))
    edits = newer.filter(pl.col("revision") > 0).sort("available_at")
    said = rows.frame.select(pl.col("available_at").sort())
    after_silence = said.filter(pl.col("available_at").diff() == pl.col("available_at").diff().max())
    days = rows.days or frozenset()
    after_a_hole = sorted(day for day in days if day - timedelta(days=1) not in days)
    return [
        *late["available_at"].tail(1),
        *edits["available_at"].tail(1),
        *after_silence["available_at"].tail(1),
        *(midnight(day) + timedelta(microseconds=1) for day in after_a_hole[-1:]),
    ]


def _texts(name: str, about: str, contract: Contract, kind: Kind, *edit: pl.Expr) -> Stream:
    return Stream(
        name=name,
        about=about,
        tables=(contract, SENTIMENT_SCORES),
        rows=with_scores(kind),
        available_at=pl.col("available_at"),
        hour=HOUR_OF_TEXT,
        join=hourly_texts(kind),
        futures=_futures(kind, edit),
        made_up=lambda hours, seed: random_texts(kind, hours, seed),
        cadence=HOUR,
        warn_after=timedelta(minutes=40),
        fail_after=timedelta(hours=1),
        tempting=_tempting,
        gathered=days_gathered,
    )


ARTICLE_STREAM = _texts(
    "articles",
    "Articles and their sentiment",
    ARTICLES,
    ARTICLE,
    pl.col("article_id").str.reverse().alias("story_id"),
    pl.lit("edit").alias("outlet"),
)
POST_STREAM = _texts("posts", "Posts and their sentiment", POSTS, POST, ~pl.col("is_repost"))

STREAMS = (ARTICLE_STREAM, POST_STREAM)
"""The streams of the news, one a line."""
