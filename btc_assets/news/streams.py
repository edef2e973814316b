"""The streams of articles and posts with their sentiment scores."""

from __future__ import annotations

from collections.abc import Callable
from datetime import datetime, timedelta

import polars as pl

from btc_assets.clock import HOUR, midnight
from btc_assets.news.hourly import ARTICLE, HOUR_OF_TEXT, POST, Kind, days_gathered, hourly_texts, with_scores
from btc_assets.news.synthetic import random_texts
from btc_assets.news.tables import ARTICLES, POSTS, SENTIMENT_SCORES
from btc_assets.schema import Contract
from btc_assets.streams import Rows, Stream

_REACH_HOURS = 48
_DAYS_AHEAD = 3


def _futures(kind: Kind, edit: tuple[pl.Expr, ...]) -> Callable[[Rows, pl.Expr, datetime], dict[str, Rows]]:
    """Return a function that gives texts alternative futures.

    `unseen` has no future texts. `absurd` repeats the texts of the previous two days after the moment, with the same
    outlets and stories and published before it, on gathered days, and sets all future scores to 1. `edited` adds an
    edit of each text of these two days with another outlet and story.
    """

    def futures(rows: Rows, available_at: pl.Expr, moment: datetime) -> dict[str, Rows]:
        assert rows.days is not None
        past = rows.frame.filter(available_at <= moment)
        known_days = frozenset(day for day in rows.days if day <= moment.date())
        mirrored = pl.lit(moment) + (pl.lit(moment) - pl.col("available_at")) + pl.duration(microseconds=1)
        recent = past.filter(pl.col("available_at") > moment - timedelta(hours=_REACH_HOURS))
        recent = recent.with_columns(mirrored.alias("available_at"))
        score = pl.when(pl.col("available_at") > moment).then(1.0).otherwise(pl.col("score")).alias("score")
        more = pl.concat([rows.frame, recent.with_columns(pl.col(kind.item_id).str.reverse())]).with_columns(score)
        newest = (moment - timedelta(microseconds=1)).date()
        days_ahead = {newest + timedelta(days=n) for n in range(1, _DAYS_AHEAD + 1)}
        edits = recent.with_columns((pl.col("revision").max() + 1).alias("revision"), *edit)
        return {
            "unseen": Rows(past, known_days),
            "absurd": Rows(more, rows.days | days_ahead),
            "edited": Rows(pl.concat([rows.frame, edits]), rows.days),
        }

    return futures


def _critical_moments(rows: Rows, since: datetime) -> list[datetime]:
    """Return the moments at which a join is most likely to look ahead.

    These are the availability of the text with the longest delay after publication, of the latest edit and of the text
    after the longest silence, and the start of the latest day after a day that was not gathered.
    """
    newer = rows.frame.filter(pl.col("available_at") > since)
    late = newer.drop_nulls("published_at").sort(pl.col("available_at") - pl.col("published_at"))
    edits = newer.filter(pl.col("revision") > 0).sort("available_at")
    times = rows.frame.select(pl.col("available_at").sort())
    after_silence = times.filter(pl.col("available_at").diff() == pl.col("available_at").diff().max())
    days = rows.days or frozenset()
    after_gap = sorted(day for day in days if day - timedelta(days=1) not in days)
    return [
        *late["available_at"].tail(1),
        *edits["available_at"].tail(1),
        *after_silence["available_at"].tail(1),
        *(midnight(day) + timedelta(microseconds=1) for day in after_gap[-1:]),
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
        synthetic=lambda hours, seed: random_texts(kind, hours, seed),
        cadence=HOUR,
        warn_after=timedelta(minutes=40),
        fail_after=timedelta(hours=1),
        critical_moments=_critical_moments,
        gathered=days_gathered,
        is_gathered=lambda settings: bool(settings.news),
        followed_as="scores",
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
"""The streams of the news domain."""
