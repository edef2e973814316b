"""The stream `dvol`: Deribit's hourly index of the 30-day volatility implied by Bitcoin options."""

from __future__ import annotations

import math
from datetime import datetime, timedelta

import polars as pl

from btc_assets.clock import HOUR
from btc_assets.columns import OPEN_TIME
from btc_assets.market.sources.series import milliseconds, rows_of
from btc_assets.schema import FINITE, Column, check, declare, schema
from btc_assets.streams import Feature, Service, numbers
from btc_assets.transport import SourceMalformedError, Transport

_SERVICE = "deribit"
_FIELDS = {"open_time": 0, "close": 4}
_DAY = 24
_HOURS_OF_A_YEAR = 8_766

IMPLIED_VOLATILITY = declare(
    table="market/implied_volatility",
    schema=schema(
        {
            "open_time": OPEN_TIME,
            "close": Column(pl.Float64, check("gt", 0), FINITE, about="DVOL at the end of the hour, % a year"),
        }
    ),
    day=pl.col("open_time").dt.date(),
    key=("open_time",),
)


def fetch(transport: Transport, first: datetime, last: datetime) -> pl.DataFrame:
    """Fetch the candles with first <= open_time < last, newest page first; the newest may still be open."""
    end, parts = milliseconds(last) - 1, []
    while True:
        answer = transport.json(
            "/api/v2/public/get_volatility_index_data",
            {"currency": "BTC", "start_timestamp": milliseconds(first), "end_timestamp": end, "resolution": "3600"},
        )
        result = answer.get("result") if isinstance(answer, dict) else None
        if not isinstance(result, dict):
            raise SourceMalformedError(f"{_SERVICE}: expected an object with a result, got {str(answer)[:80]!r}")
        parts.append(rows_of(_SERVICE, result.get("data"), _FIELDS))
        earlier = result.get("continuation")
        if not isinstance(earlier, int) or earlier < milliseconds(first):
            return pl.concat(parts)
        if earlier >= end:
            raise SourceMalformedError(f"{_SERVICE}: expected a page before {end}, got one that continues at {earlier}")
        end = earlier


_dvol = pl.col("dvol")
_hourly = _dvol / 100 / math.sqrt(_HOURS_OF_A_YEAR)

DVOL = numbers(
    name="dvol",
    about="Deribit's DVOL, the 30-day volatility implied by Bitcoin options, at the end of each hour",
    contract=IMPLIED_VOLATILITY,
    available_at=pl.col("open_time").dt.offset_by("1h"),
    cadence=HOUR,
    lookback=timedelta(hours=3),
    columns={"close": "dvol"},
    features=(
        Feature("dvol", "context", "% a year", "newest DVOL", 3, _dvol, ("dvol",)),
        Feature(
            "dvol_change_24h",
            "context",
            "log ratio",
            "log of the newest DVOL over that of 24 h ago",
            _DAY + 3,
            (_dvol / _dvol.shift(_DAY)).log(),
            ("dvol",),
        ),
        Feature(
            "dvol_spread",
            "context",
            "log fraction an hour",
            "newest DVOL, as the volatility of an hour, less realised_volatility_24h",
            28,
            _hourly - pl.col("realised_volatility_24h"),
            ("dvol",),
        ),
        Feature(
            "dvol_log_variance",
            "implied_volatility",
            "log of squared fraction an hour",
            "log of the variance of an hour that the newest DVOL implies, for the volatility model",
            3,
            2 * _hourly.log(),
            ("dvol",),
        ),
    ),
    service=Service(
        url="https://www.deribit.com",
        fetch=fetch,
        aliases={"open_time": ("timestamp", "time", "date"), "close": ("dvol", "value")},
    ),
)
