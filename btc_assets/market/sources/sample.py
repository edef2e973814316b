"""The embedded sample: real hourly and 30-minute Bitfinex bars, 2017-10-01 to 2019-09-30; see its README.md."""

from __future__ import annotations

from btc_assets.clock import HALF_HOUR
from btc_assets.market.sources.files import FileSource
from btc_assets.settings import PACKAGE

SAMPLE = PACKAGE / "sample" / "btcusd_bitfinex_1h.parquet"
HALF_HOURS = PACKAGE / "sample" / "btcusd_bitfinex_30m.parquet"
"""The bars that the hourly bars are made from."""
VENUE = "bitfinex"


def sample_source() -> FileSource:
    """Return the source of the embedded sample."""
    return FileSource(str(SAMPLE), venue=VENUE)


def half_hours_source() -> FileSource:
    """Return the source of the sample's 30-minute bars."""
    return FileSource(str(HALF_HOURS), venue=VENUE, step=HALF_HOUR)
