"""The stream `basis`: hourly closes of Binance's perpetual future, and their basis to the bars."""

from __future__ import annotations

from datetime import datetime, timedelta

import polars as pl

from btc_assets.clock import HOUR
from btc_assets.columns import OPEN_TIME, price
from btc_assets.market.sources.series import milliseconds, pages, rows_of
from btc_assets.schema import FINITE, Column, check, declare, schema
from btc_assets.streams import Feature, Service, numbers
from btc_assets.transport import Transport

_SERVICE = "binance futures"
_PAGE = 1500
"""Maximum number of klines per answer."""
_FIELDS = {"open_time": 0, "close": 4, "volume": 5}
_DAY = 24

PERPETUAL = declare(
    table="market/perpetual",
    schema=schema(
        {
            "open_time": OPEN_TIME,
            "close": price("last trade of the hour, USD"),
            "volume": Column(pl.Float64, check("ge", 0), FINITE, about="traded, BTC"),
        }
    ),
    day=pl.col("open_time").dt.date(),
    key=("open_time",),
)


def fetch(transport: Transport, first: datetime, last: datetime) -> pl.DataFrame:
    """Fetch the klines with first <= open_time < last; the newest may still be open."""

    def request_page(begin: datetime) -> pl.DataFrame:
        answer = transport.json(
            "/fapi/v1/klines",
            {
                "symbol": "BTCUSDT",
                "interval": "1h",
                "startTime": milliseconds(begin),
                "endTime": milliseconds(last) - 1,
                "limit": _PAGE,
            },
        )
        return rows_of(_SERVICE, answer, _FIELDS)

    return pages(_SERVICE, request_page, first, last, full=_PAGE)


# The newest perpetual close known in an hour is from the start of the hour, so it is compared with the previous close.
_basis = pl.when(pl.col("perpetual_close") > 0).then(pl.col("perpetual_close") / pl.col("close").shift(1) - 1)

BASIS = numbers(
    name="basis",
    about="Hourly closes of Binance's perpetual Bitcoin future (BTCUSDT), for the basis to the bars",
    contract=PERPETUAL,
    available_at=pl.col("open_time").dt.offset_by("1h"),
    cadence=HOUR,
    lookback=timedelta(0),
    columns={"close": "perpetual_close"},
    features=(
        Feature(
            "basis",
            "context",
            "fraction",
            "close of the perpetual future over that of the bar, less 1, at the start of the hour",
            1,
            _basis,
            ("basis",),
        ),
        Feature(
            "basis_change_24h",
            "context",
            "fraction",
            "basis less that of 24 h ago",
            _DAY + 1,
            _basis - _basis.shift(_DAY),
            ("basis",),
        ),
    ),
    service=Service(
        url="https://fapi.binance.com",
        fetch=fetch,
        aliases={"open_time": ("timestamp", "time", "date"), "close": ("close_price",), "volume": ("base_volume",)},
    ),
)
