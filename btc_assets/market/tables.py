"""The contract of the market's table."""

import polars as pl

from btc_assets.columns import OPEN_TIME, price
from btc_assets.schema import FINITE, Column, check, declare, row_check, schema

PRICES = declare(
    table="market/prices",
    schema=schema(
        {
            "open_time": OPEN_TIME,
            "open": price("first trade of the hour, USD"),
            "high": price("highest trade, USD"),
            "low": price("lowest trade, USD"),
            "close": price("last trade, USD"),
            "volume": Column(pl.Float64, check("ge", 0), FINITE, about="traded, BTC"),
            "quote_volume": Column(pl.Float64, check("ge", 0), nullable=True, about="traded, USD; null where unknown"),
            "trades": Column(pl.Int64, check("ge", 0), nullable=True, about="number of trades; null where unknown"),
            "taker_buy_volume": Column(
                pl.Float64, check("ge", 0), nullable=True, about="bought by takers, BTC; null where unknown"
            ),
            "taker_buy_quote_volume": Column(
                pl.Float64, check("ge", 0), nullable=True, about="bought by takers, USD; null where unknown"
            ),
            "venue": Column(pl.String, check("str_length", min_value=1), about="where the bar was traded"),
        },
        row_check(
            "low <= open, close <= high",
            (pl.col("low") <= pl.min_horizontal("open", "close"))
            & (pl.col("high") >= pl.max_horizontal("open", "close")),
        ),
    ),
    day=pl.col("open_time").dt.date(),
    key=("open_time",),
)
