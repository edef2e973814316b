"""Synthetic articles and posts: written by hand, or made up and filled in to whole tables of a lake."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from datetime import date, datetime

import polars as pl

from btc_assets.lake import Lake, by_day
from btc_assets.news.hourly import ARTICLE, POST, with_scores
from btc_assets.news.streams import ARTICLE_STREAM, POST_STREAM
from btc_assets.news.tables import ARTICLES, POSTS, SENTIMENT_SCORES
from btc_assets.schema import Contract
from btc_assets.streams import Inputs, Rows, Stream, every_hour

DIGEST = "0" * 64


@dataclass(frozen=True)
class Text:
    """One text.

    Attributes:
        at: when it became available, UTC.
        score: of its sentiment; None where it was not scored.
        outlet: publisher or platform.
        number: identity; texts of the same number are revisions of one.
        story: number of the first of its story; None for itself. A post of another story is a repost.
        revision: 0 is the first.
        published_at: what the publisher says, UTC.
    """

    at: datetime
    score: float | None = 0.5
    outlet: str = "one.example"
    number: int = 0
    story: int | None = None
    revision: int = 0
    published_at: datetime | None = None

    @property
    def is_first(self) -> bool:
        """Whether it is the first of its story."""
        return self.story in (None, self.number)


def identity(kind: str, number: int) -> str:
    """Return an id of 32 hex digits."""
    return f"{'a' if kind == 'article' else 'b'}{number:031x}"


Texts = dict[Stream, Rows]
"""Rows of articles and posts."""


def texts_of(
    articles: Sequence[Text] = (),
    posts: Sequence[Text] = (),
    article_days: Collection[date] | None = None,
    post_days: Collection[date] | None = None,
) -> Texts:
    """Return texts written by hand; without days, those of the texts were gathered."""
    article_rows, post_rows, scores = (table.lazy() for table in tables_of(articles, posts))
    days = {one.at.date() for one in articles} if article_days is None else article_days
    days_of_posts = {one.at.date() for one in posts} if post_days is None else post_days
    return {
        ARTICLE_STREAM: Rows(with_scores(ARTICLE)(article_rows, scores), frozenset(days)),
        POST_STREAM: Rows(with_scores(POST)(post_rows, scores), frozenset(days_of_posts)),
    }


def random_texts(bars: pl.DataFrame, *, seed: int) -> Texts:
    """Return made-up texts of the hours of some bars."""
    hours = every_hour(bars)
    return {stream: stream.synthetic(hours, seed) for stream in (ARTICLE_STREAM, POST_STREAM)}


def by_hour(texts: Texts, hours: pl.Series) -> pl.DataFrame:
    """Return what the texts of each hour add up to."""
    return Inputs(texts).joined(["articles", "posts"], hours)


def filtered(texts: Texts, kept: pl.Expr, *, without: date | None = None) -> Texts:
    """Return some of the texts; of the days gathered, all but one."""
    return {
        stream: Rows(rows.frame.filter(kept), (rows.days or frozenset()) - {without}) for stream, rows in texts.items()
    }


def tables_of(articles: Sequence[Text], posts: Sequence[Text]) -> tuple[pl.DataFrame, pl.DataFrame, pl.DataFrame]:
    """Return the ARTICLES, POSTS and SENTIMENT_SCORES rows of texts written by hand."""
    article_rows = [
        {
            "article_id": identity("article", one.number),
            "revision": one.revision,
            "story_id": identity("article", one.number if one.story is None else one.story),
            "outlet": one.outlet,
            "published_at": one.published_at,
            "available_at": one.at,
        }
        for one in articles
    ]
    post_rows = [
        {
            "post_id": identity("post", one.number),
            "revision": one.revision,
            "platform": one.outlet,
            "is_repost": not one.is_first,
            "published_at": one.published_at,
            "available_at": one.at,
        }
        for one in posts
    ]
    score_rows = [
        {
            "kind": kind,
            "item_id": identity(kind, one.number),
            "scorer": "by hand",
            "is_primary": True,
            "score": one.score,
            "available_at": one.at,
        }
        for kind, items in (("article", articles), ("post", posts))
        for one in items
        if one.score is not None and one.revision == 0
    ]
    return (
        filled_in(ARTICLES, pl.DataFrame(article_rows, schema=_some(ARTICLES, article_rows))),
        filled_in(POSTS, pl.DataFrame(post_rows, schema=_some(POSTS, post_rows))),
        filled_in(SENTIMENT_SCORES, pl.DataFrame(score_rows, schema=_some(SENTIMENT_SCORES, score_rows))),
    )


def _some(contract: Contract, rows: Sequence[Mapping[str, object]]) -> dict[str, pl.DataType | type[pl.DataType]]:
    """Return the part of a contract's schema that rows fill; the whole of it where there are none."""
    return {name: dtype for name, dtype in contract.columns.items() if not rows or name in rows[0]}


def filled_in(contract: Contract, frame: pl.DataFrame) -> pl.DataFrame:
    """Return rows of a whole table from the columns features read, in key order."""
    rest: dict[str, pl.Expr] = {
        "source": pl.lit("synthetic"),
        "url": pl.lit(None, pl.String),
        "title": pl.lit("a title"),
        "summary": pl.lit(""),
        "text": pl.lit("a text"),
        "channel": pl.lit(""),
        "precision": pl.lit("second"),
        "points": pl.lit(None, pl.Int64),
        "comments": pl.lit(None, pl.Int64),
        "scorer_version": pl.lit("1"),
        "weights_digest": pl.lit(DIGEST),
        "text_digest": pl.lit(DIGEST),
        "truncated": pl.lit(value=False),
        "p_negative": (-pl.col("score")).clip(0) if "score" in frame.columns else pl.lit(0.0),
        "p_positive": pl.col("score").clip(0) if "score" in frame.columns else pl.lit(0.0),
        "p_neutral": 1 - pl.col("score").abs() if "score" in frame.columns else pl.lit(0.0),
    }
    lacking = [rest[name].alias(name) for name in contract.columns if name not in frame.columns]
    return frame.with_columns(lacking).select(list(contract.columns)).cast(contract.columns).sort(contract.key)


def scores_of(texts: Texts) -> pl.DataFrame:
    """Return the SENTIMENT_SCORES rows of the texts that have a score, but for what is filled in."""
    parts = []
    for stream, kind in ((ARTICLE_STREAM, ARTICLE), (POST_STREAM, POST)):
        frame = texts[stream].frame.filter(pl.col("revision") == 0).drop_nulls("score")
        parts.append(
            frame.select(
                pl.lit(kind.name).alias("kind"),
                pl.col(kind.item_id).alias("item_id"),
                pl.lit("made up").alias("scorer"),
                pl.lit(value=True).alias("is_primary"),
                "score",
                "available_at",
            )
        )
    return pl.concat(parts)


def store(lake: Lake, texts: Texts) -> None:
    """Write texts to a lake like the news domain: a partition per gathered day, empty without texts."""
    article_days, post_days = (texts[stream].days or frozenset() for stream in (ARTICLE_STREAM, POST_STREAM))
    tables = (
        (ARTICLES, texts[ARTICLE_STREAM].frame, sorted(article_days)),
        (POSTS, texts[POST_STREAM].frame, sorted(post_days)),
        (SENTIMENT_SCORES, scores_of(texts), sorted(article_days | post_days)),
    )
    for contract, frame, days in tables:
        rows = filled_in(contract, frame)
        assert contract.faults(rows) == []
        for day, part in by_day(contract, rows, days):
            lake.write(contract, day, part)
