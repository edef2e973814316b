"""Synthetic articles and posts that expose joins with look-ahead."""

from __future__ import annotations

import numpy as np
import polars as pl

from btc_assets.clock import HOUR
from btc_assets.news.hourly import Kind
from btc_assets.streams import Rows

_OUTLETS = ("one.example", "two.example", "three.example", "four.example", "five.example")
_SILENT_HOURS = 30
_HOUR_US = 3_600_000_000
"""Microseconds per hour."""
_FIRST_DIGIT = {"article": "a", "post": "b"}
"""First digit of synthetic ids."""
_TEXTS_PER_HOUR = {"article": 3.0, "post": 2.0}
"""Mean number of texts per hour."""


def random_texts(kind: Kind, hours: pl.Series, seed: int) -> Rows:
    """Return synthetic texts for a span of hours, with every case in which a join may look ahead.

    They include texts seen long after publication or exactly at full hours, edits, repeats of a story, reposts, texts
    without a score, biased outlets, a silent period and a day that was not gathered.

    Args:
        kind: articles or posts.
        hours: open_times in order, at least three days.
        seed: seed of all random values.
    """
    rng = np.random.default_rng([seed, *kind.name.encode()])
    count = int((hours[-1] - hours[0]) / HOUR) + 1
    days = hours.dt.date().unique().sort().to_list()
    gathered = frozenset(days) - {days[int((0.7 if kind.by_outlet else 0.8) * len(days))]}
    mood = np.sin(np.cumsum(rng.normal(0, 0.1, count)))
    hour = np.repeat(np.arange(count), rng.poisson(_TEXTS_PER_HOUR[kind.name], count))
    hour = hour[(hour < count // 2) | (hour >= count // 2 + _SILENT_HOURS)]
    n = len(hour)
    within = np.where(rng.random(n) < 0.05, 0, rng.integers(_HOUR_US, size=n))
    delay = rng.exponential(np.where(rng.random(n) < 0.05, 48, 0.7), n) * _HOUR_US
    outlet = rng.integers(len(_OUTLETS), size=n)
    repeated = np.where(rng.random(n) < 0.3, rng.integers(1, 20, n), 0)
    score = np.tanh(mood[hour] + 0.4 * (outlet - 2) + rng.normal(0, 0.5, n))
    inside = pl.col("available_at").dt.date().is_in(sorted(gathered))
    texts = (
        pl.DataFrame(
            {
                kind.item_id: [f"{_FIRST_DIGIT[kind.name]}{i:031x}" for i in range(n)],
                kind.outlet: pl.Series(_OUTLETS).gather(outlet),
                "story": np.maximum(np.arange(n) - repeated, 0),
                "is_repost": repeated > 0,
                "score": pl.Series(score).set(pl.Series(rng.random(n) < 0.05), None),
                "is_edited": rng.random(n) < 0.08,
                "until_edit": pl.Series(rng.exponential(5, n) * _HOUR_US).cast(pl.Duration("us")),
                "available_at": hours[0] + pl.Series(hour * _HOUR_US + within).cast(pl.Duration("us")),
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
