"""The stream `funding`: the rate that longs pay shorts in Binance's perpetual future, every eight hours."""

from __future__ import annotations

from datetime import datetime, timedelta

import polars as pl

from btc_assets.market.sources.series import milliseconds, pages, rows_of
from btc_assets.schema import FINITE, UTC_TIME, Column, declare, schema
from btc_assets.streams import Feature, Service, numbers
from btc_assets.transport import Transport

_SERVICE = "binance futures"
_PAGE = 1000
"""Maximum number of rates per answer."""
_EVERY = timedelta(hours=8)
_DAY_OF_RATES = 24
_WEEK_OF_RATES = 168

FUNDING_RATES = declare(
    table="market/funding_rates",
    schema=schema(
        {
            "funding_time": Column(UTC_TIME, about="when the rate was paid, UTC"),
            "funding_rate": Column(pl.Float64, FINITE, about="paid by longs to shorts, fraction of the position"),
        }
    ),
    day=pl.col("funding_time").dt.date(),
    key=("funding_time",),
)


def fetch(transport: Transport, first: datetime, last: datetime) -> pl.DataFrame:
    """Fetch the funding rates with first <= funding_time < last."""

    def request_page(begin: datetime) -> pl.DataFrame:
        answer = transport.json(
            "/fapi/v1/fundingRate",
            {
                "symbol": "BTCUSDT",
                "startTime": milliseconds(begin),
                "endTime": milliseconds(last) - 1,
                "limit": _PAGE,
            },
        )
        page = rows_of(_SERVICE, answer, {"funding_time": "fundingTime", "funding_rate": "fundingRate"})
        # The service's times are some milliseconds after the hour of payment.
        return page.with_columns(pl.col("funding_time").dt.truncate("1m"))

    return pages(_SERVICE, request_page, first, last, full=_PAGE)


_rate = pl.col("funding_rate")

FUNDING = numbers(
    name="funding",
    about="Funding rates of Binance's perpetual Bitcoin future (BTCUSDT), every eight hours",
    contract=FUNDING_RATES,
    available_at=pl.col("funding_time"),
    cadence=_EVERY,
    lookback=_EVERY,
    columns={"funding_rate": "funding_rate"},
    features=(
        Feature("funding_rate", "context", "fraction per 8 h", "newest funding rate paid", 8, _rate, ("funding",)),
        Feature(
            "funding_rate_change_24h",
            "context",
            "fraction per 8 h",
            "newest funding rate less that of 24 h ago",
            _DAY_OF_RATES + 8,
            _rate - _rate.shift(_DAY_OF_RATES),
            ("funding",),
        ),
        Feature(
            "funding_rate_mean_168h",
            "context",
            "fraction per 8 h",
            "mean hourly funding rate of a week, unknown unless all hours are known",
            _WEEK_OF_RATES + 8,
            _rate.rolling_mean(_WEEK_OF_RATES),
            ("funding",),
        ),
    ),
    service=Service(
        url="https://fapi.binance.com",
        fetch=fetch,
        aliases={
            "funding_time": ("fundingtime", "calc_time", "timestamp", "time", "date"),
            "funding_rate": ("fundingrate", "last_funding_rate", "rate"),
        },
    ),
)
