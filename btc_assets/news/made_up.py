"""Made-up articles and posts that tempt a join to look ahead."""

from __future__ import annotations

import numpy as np
import polars as pl

from btc_assets.clock import HOUR
from btc_assets.news.hourly import Kind
from btc_assets.streams import Rows

_OUTLETS = ("one.example", "two.example", "three.example", "four.example", "five.example")
_SILENT_HOURS = 30
_MICROSECONDS = 3_600_000_000
"""In an hour."""
_LETTER = {"article": "a", "post": "b"}
"""First digit of made-up ids."""
_AN_HOUR = {"article": 3.0, "post": 2.0}
"""Texts in an hour, on average."""


def random_texts(kind: Kind, hours: pl.Series, seed: int) -> Rows:
    """Return made-up texts of some hours, with all that tempts a join to look ahead.

    Texts seen long after they were published, and some on the stroke of an hour; edits, repeats of a story and
    reposts; texts without a score; outlets with a bias; a day of silence and days nobody gathered.

    Args:
        kind: articles or posts.
        hours: open_times in order, three days of them or more.
        seed: of everything.
    """
    rng = np.random.default_rng([seed, *kind.name.encode()])
    count = int((hours[-1] - hours[0]) / HOUR) + 1
    days = hours.dt.date().unique().sort().to_list()
    gathered = frozenset(days) - {days[int((0.7 if kind.by_outlet else 0.8) * len(days))]}
    mood = np.sin(np.cumsum(rng.normal(0, 0.1, count)))
    hour = np.repeat(np.arange(count), rng.poisson(_AN_HOUR[kind.name], count))
    hour = hour[(hour < count // 2) | (hour >= count // 2 + _SILENT_HOURS)]
    n = len(hour)
    within = np.where(rng.random(n) < 0.05, 0, rng.integers(_MICROSECONDS, size=n))
    delay = rng.exponential(np.where(rng.random(n) < 0.05, 48, 0.7), n) * _MICROSECONDS
    outlet = rng.integers(len(_OUTLETS), size=n)
    repeated = np.where(rng.random(n) < 0.3, rng.integers(1, 20, n), 0)
    score = np.tanh(mood[hour] + 0.4 * (outlet - 2) + rng.normal(0, 0.5, n))
    inside = pl.col("available_at").dt.date().is_in(sorted(gathered))
    texts = (
        pl.DataFrame(
            {
                kind.item_id: [f"{_LETTER[kind.name]}{i:031x}" for i in range(n)],
                kind.outlet: pl.Series(_OUTLETS).gather(outlet),
                "story": np.maximum(np.arange(n) - repeated, 0),
                "is_repost": repeated > 0,
                "score": pl.Series(score).set(pl.Series(rng.random(n) < 0.05), None),
                "is_edited": rng.random(n) < 0.08,
                "until_edit": pl.Series(rng.exponential(5, n) * _MICROSECONDS).cast(pl.Duration("us")),
                "available_at": hours[0] + pl.Series(hour * _MICROSECONDS + within).cast(pl.Duration("us")),
                "delay": pl.Series(delay).cast(pl.Duration("us")),
            }
        )
        .with_columns(
            pl.col(kind.item_id).gather("story").alias("story_id"),
            (pl.col("available_at") - pl.col("delay")).alias("published_at"),
            pl.lit(0, pl.Int64).alias("revision"),
        )
        .filter(inside)
    )
    edits = texts.filter("is_edited").with_columns(
        pl.lit(1, pl.Int64).alias("revision"),
        pl.col("available_at") + pl.col("until_edit"),
        pl.col(kind.item_id).alias("story_id"),
        pl.lit(_OUTLETS[0]).alias(kind.outlet),
        ~pl.col("is_repost"),
    )
    return Rows(pl.concat([texts, edits.filter(inside)]).select(*kind.columns, "score"), gathered)
