"""Columns and row checks shared by tables of several domains."""

from __future__ import annotations

from itertools import pairwise

import polars as pl

from btc_assets.schema import FINITE, ON_THE_HOUR, UTC_TIME, Column, check, row_check
from btc_assets.vocabulary import EVERY_HORIZON, QUANTILE_NAMES, QUANTILES


def price(about: str) -> Column:
    """Return a column of positive prices, USD."""
    return Column(pl.Float64, check("gt", 0), FINITE, about=about)


KNOWN_DAY = (pl.col("known_at") - pl.duration(microseconds=1)).dt.date()
OPEN_TIME = Column(UTC_TIME, ON_THE_HOUR, about="start of the hour, UTC")
HORIZON = Column(pl.Int64, check("isin", EVERY_HORIZON), about="minutes ahead")
CUTOFF = Column(pl.Date, about="cutoff day: only data available at its 00:00 UTC was used")
MODEL_DIGEST = Column(
    pl.String, check("str_matches", r"^[0-9a-f]{64}$"), about="SHA-256 of the model's graphs and model.json"
)
ITEM_ID = check("str_matches", r"^[0-9a-f]{32}$")

ORDERED_QUANTILES = row_check(
    "quantiles do not cross",
    pl.all_horizontal(pl.col(low) <= pl.col(high) for low, high in pairwise(QUANTILE_NAMES)),
)

RETURN_QUANTILES = {
    name: Column(pl.Float64, FINITE, about=f"{q:.0%} quantile of the log return, fraction")
    for name, q in zip(QUANTILE_NAMES, QUANTILES, strict=True)
}
