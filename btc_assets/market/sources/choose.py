"""The source a deployment's settings ask for."""

from __future__ import annotations

from pathlib import Path

from btc_assets.market.sources.auto import AutoSource
from btc_assets.market.sources.binance import BinanceSource
from btc_assets.market.sources.coinbase import CoinbaseSource
from btc_assets.market.sources.files import FileSource
from btc_assets.market.sources.kraken import KrakenSource
from btc_assets.market.sources.protocol import MarketSource
from btc_assets.market.sources.sample import sample_source
from btc_assets.market.sources.transport import Limits, Transport
from btc_assets.settings import PROJECT_ROOT, Settings


def source_of(config: Settings) -> MarketSource:
    """Build the market source that `BTC_MARKET_SOURCE` names; nothing is asked of it yet."""
    if config.market_source == "sample":
        return sample_source()
    if config.market_source == "files":
        pattern = Path(config.market_files).expanduser()
        return FileSource(str(pattern if pattern.is_absolute() else PROJECT_ROOT / pattern))
    limits = Limits(
        timeout_s=config.http_timeout_s,
        attempts=config.http_attempts,
        max_wait_s=config.http_max_wait_s,
        requests_per_second=config.http_requests_per_second,
    )
    sources: dict[str, MarketSource] = {
        "binance": BinanceSource(
            Transport(config.binance_url, limits), Transport(config.binance_archive_url, limits), config.binance_symbol
        ),
        "coinbase": CoinbaseSource(Transport(config.coinbase_url, limits), config.coinbase_product),
        "kraken": KrakenSource(Transport(config.kraken_url, limits), config.kraken_pair),
    }
    return AutoSource(tuple(sources.values())) if config.market_source == "auto" else sources[config.market_source]
