"""The embedded sample: real hourly Bitfinex bars, 2017-10-01 to 2019-09-30; see btc_assets/sample/README.md."""

from __future__ import annotations

from btc_assets.market.sources.files import FileSource
from btc_assets.settings import PACKAGE

SAMPLE = PACKAGE / "sample" / "btcusd_bitfinex_1h.parquet"
VENUE = "bitfinex"


def sample_source() -> FileSource:
    """Return the source of the embedded sample."""
    return FileSource(str(SAMPLE), venue=VENUE)
