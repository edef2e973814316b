"""The stream `fear_greed`: alternative.me's daily index of market sentiment, 0 to 100."""

from __future__ import annotations

from datetime import datetime, timedelta

import polars as pl

from btc_assets.market.sources.series import rows_of
from btc_assets.schema import FINITE, Column, check, declare, schema
from btc_assets.streams import Feature, Service, numbers
from btc_assets.transport import SourceMalformedError, Transport

_SERVICE = "alternative.me"
_SECONDS = 1_000_000
"""Microseconds in a second."""
_DAY = timedelta(days=1)
LAG = timedelta(hours=1)
"""Declared lag: a value is published at about 00:00 UTC of its day and counts as available one hour later."""
_WEEK = 168

FEAR_GREED_INDEX = declare(
    table="market/fear_greed",
    schema=schema(
        {
            "date": Column(pl.Date, about="UTC day of the value, which is published at its start"),
            "value": Column(pl.Float64, check("ge", 0), check("le", 100), FINITE, about="0 is extreme fear, 100 greed"),
        }
    ),
    day=pl.col("date"),
    key=("date",),
)


def fetch(transport: Transport, first: datetime, last: datetime) -> pl.DataFrame:
    """Fetch the values from the day of `first` on; alternative.me returns any number, newest first."""
    days = (datetime.now(tz=first.tzinfo) - first) // _DAY + 2
    answer = transport.json("/fng/", {"limit": max(1, days), "format": "json"})
    error = answer.get("metadata", {}).get("error") if isinstance(answer, dict) else "no object"
    if error:
        raise SourceMalformedError(f"{_SERVICE}: expected values, got the error {str(error)[:80]!r}")
    rows = rows_of(_SERVICE, answer.get("data"), {"date": "timestamp", "value": "value"}, micros=_SECONDS)
    return rows.filter(pl.col("date") < last).with_columns(pl.col("date").dt.date())


_value = pl.col("fear_greed")

FEAR_GREED = numbers(
    name="fear_greed",
    about="The fear and greed index of alternative.me, 0 to 100, one value a day",
    contract=FEAR_GREED_INDEX,
    available_at=pl.col("date").cast(pl.Datetime("us", "UTC")) + LAG,
    cadence=_DAY,
    lookback=2 * _DAY,
    columns={"value": "fear_greed"},
    features=(
        Feature("fear_greed", "context", "0-100", "newest fear and greed index", 48, _value, ("fear_greed",)),
        Feature(
            "fear_greed_change_168h",
            "context",
            "-100 to 100",
            "newest fear and greed index less that of a week ago",
            _WEEK + 48,
            _value - _value.shift(_WEEK),
            ("fear_greed",),
        ),
    ),
    service=Service(
        url="https://api.alternative.me",
        fetch=fetch,
        aliases={"date": ("timestamp", "day", "time"), "value": ("fear_greed", "fng", "index")},
    ),
)
