"""Made-up bars and texts: a random walk, texts that tempt a join to look ahead, bars with holes."""

from __future__ import annotations

from datetime import UTC, date, datetime, timedelta

import numpy as np
import polars as pl

from btc_assets.clock import HOUR
from btc_assets.features.texts import ARTICLE_COLUMNS, POST_COLUMNS, SCORE_COLUMNS, Texts


def stressed(bars: pl.DataFrame, *, seed: int = 5) -> pl.DataFrame:
    """Return the bars with holes, one at the end of a day, an hour without trades and stretches of unknown order flow.

    All lie in the newer half, most in the newest three days.

    Args:
        bars: PRICES rows in time order.
        seed: of what is dropped.
    """
    n = bars.height
    rng = np.random.default_rng(seed)
    row = pl.int_range(pl.len())
    dropped = rng.choice(np.arange(n // 2, n - 1), size=max(1, n // 200), replace=False).tolist()
    dropped += (bars["open_time"].dt.hour() == 23).arg_true().to_list()[-2:-1]
    unknown = row.is_between(n - 60, n - 50) | (row == n - 30)
    flow = pl.col("quote_volume", "trades", "taker_buy_volume", "taker_buy_quote_volume")
    return (
        bars.with_columns(pl.when(~unknown).then(flow))
        .with_columns(pl.when(row != n - 20).then(pl.col("volume")).otherwise(0.0))
        .filter(~row.is_in(dropped) & ~row.is_between(n - 44, n - 40))
    )


def random_walk(hours: int, *, seed: int) -> pl.DataFrame:
    """Return made-up bars of a driftless random walk, as a PRICES frame: nothing in them tells the next hour.

    Args:
        hours: how many.
        seed: of the walk.
    """
    rng = np.random.default_rng(seed)
    close = 10_000 * np.exp(np.cumsum(rng.normal(0, 0.006, hours)))
    opened = np.concatenate([[10_000.0], close[:-1]])
    wick = 1 + np.abs(rng.normal(0, 0.002, (2, hours)))
    volume = rng.lognormal(6, 0.6, hours)
    bought = volume * rng.beta(20, 20, hours)
    start = datetime(2020, 1, 1, tzinfo=UTC)
    return pl.DataFrame(
        {
            "open_time": pl.datetime_range(start, start + timedelta(hours=hours - 1), "1h", eager=True, time_unit="us"),
            "open": opened,
            "high": np.maximum(opened, close) * wick[0],
            "low": np.minimum(opened, close) / wick[1],
            "close": close,
            "volume": volume,
            "quote_volume": volume * (opened + close) / 2,
            "trades": rng.poisson(20_000, hours),
            "taker_buy_volume": bought,
            "taker_buy_quote_volume": bought * (opened + close) / 2,
            "venue": ["random walk"] * hours,
        }
    )


_OUTLETS = ("one.example", "two.example", "three.example", "four.example", "five.example")


_SILENT_HOURS = 30


_MICROSECONDS = 3_600_000_000
"""In an hour."""


def random_texts(bars: pl.DataFrame, *, seed: int) -> Texts:
    """Return made-up articles and posts of the hours of some bars, with all that tempts a join to look ahead.

    Texts seen long after they were published, and some on the stroke of an hour; edits, repeats of a story and
    reposts; texts without a score; outlets with a bias; a day of silence and days nobody gathered.

    Args:
        bars: PRICES rows in time order, three days of them or more.
        seed: of everything.
    """
    rng = np.random.default_rng(seed)
    hours = int((bars["open_time"][-1] - bars["open_time"][0]) / HOUR) + 1
    days = bars["open_time"].dt.date().unique().sort().to_list()
    article_days = frozenset(days) - {days[int(0.7 * len(days))]}
    post_days = frozenset(days[1:]) - {days[int(0.8 * len(days))]}
    mood = np.sin(np.cumsum(rng.normal(0, 0.1, hours)))

    def said(kind: str, an_hour: float, gathered: frozenset[date]) -> pl.DataFrame:
        hour = np.repeat(np.arange(hours), rng.poisson(an_hour, hours))
        hour = hour[(hour < hours // 2) | (hour >= hours // 2 + _SILENT_HOURS)]
        n = len(hour)
        within = np.where(rng.random(n) < 0.05, 0, rng.integers(_MICROSECONDS, size=n))
        delay = rng.exponential(np.where(rng.random(n) < 0.05, 48, 0.7), n) * _MICROSECONDS
        outlet = rng.integers(len(_OUTLETS), size=n)
        repeated = np.where(rng.random(n) < 0.3, rng.integers(1, 20, n), 0)
        prefix = "a" if kind == "article" else "b"
        return (
            pl.DataFrame(
                {
                    "kind": [kind] * n,
                    "item_id": [f"{prefix}{i:031x}" for i in range(n)],
                    "told_by": pl.Series(_OUTLETS).gather(outlet),
                    "story": np.maximum(np.arange(n) - repeated, 0),
                    "repeats": repeated > 0,
                    "score": np.tanh(mood[hour] + 0.4 * (outlet - 2) + rng.normal(0, 0.5, n)),
                    "is_scored": rng.random(n) > 0.05,
                    "is_edited": rng.random(n) < 0.08,
                    "until_edit": pl.Series(rng.exponential(5, n) * _MICROSECONDS).cast(pl.Duration("us")),
                    "available_at": bars["open_time"][0]
                    + pl.Series(hour * _MICROSECONDS + within).cast(pl.Duration("us")),
                    "delay": pl.Series(delay).cast(pl.Duration("us")),
                }
            )
            .with_columns(
                pl.col("item_id").gather("story").alias("story_id"),
                (pl.col("available_at") - pl.col("delay")).alias("published_at"),
                pl.lit(0, pl.Int64).alias("revision"),
            )
            .filter(pl.col("available_at").dt.date().is_in(sorted(gathered)))
        )

    def with_edits(texts: pl.DataFrame, gathered: frozenset[date]) -> pl.DataFrame:
        edits = texts.filter("is_edited").with_columns(
            pl.lit(1, pl.Int64).alias("revision"),
            pl.col("available_at") + pl.col("until_edit"),
            pl.col("item_id").alias("story_id"),
            pl.lit(_OUTLETS[0]).alias("told_by"),
            ~pl.col("repeats"),
        )
        return pl.concat([texts, edits.filter(pl.col("available_at").dt.date().is_in(sorted(gathered)))])

    articles, posts = said("article", 3.0, article_days), said("post", 2.0, post_days)
    scores = (
        pl.concat([articles, posts])
        .filter("is_scored")
        .with_columns(pl.lit("made up").alias("scorer"), pl.lit(value=True).alias("is_primary"))
    )
    return Texts(
        with_edits(articles, article_days)
        .rename({"item_id": "article_id", "told_by": "outlet"})
        .select(ARTICLE_COLUMNS),
        with_edits(posts, post_days)
        .rename({"item_id": "post_id", "told_by": "platform", "repeats": "is_repost"})
        .select(POST_COLUMNS),
        scores.select(SCORE_COLUMNS),
        article_days,
        post_days,
    )
