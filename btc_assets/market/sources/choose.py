"""The source a deployment's settings ask for."""

from __future__ import annotations

from dataclasses import replace

from btc_assets.market.sources.auto import AutoSource
from btc_assets.market.sources.binance import BinanceSource
from btc_assets.market.sources.coinbase import CoinbaseSource
from btc_assets.market.sources.files import FileSource
from btc_assets.market.sources.kraken import KrakenSource
from btc_assets.market.sources.protocol import MarketSource
from btc_assets.market.sources.sample import sample_source
from btc_assets.settings import Settings
from btc_assets.transport import Limits, Transport

REMEDY = "check the base URL and symbol, or choose another BTC_MARKET_SOURCE"
"""What a person may do where a venue refuses, the end of a sentence."""


EAGER_TIMEOUT_S = 5.0
"""Longest wait for one answer while a bar is awaited; the request is retried anyway."""


def source_of(config: Settings) -> MarketSource:
    """Build the market source that `BTC_MARKET_SOURCE` names; nothing is asked of it yet."""
    if config.market_source == "sample":
        return sample_source()
    if config.market_source == "files":
        return FileSource(config.market_files)
    venues = _venues(config, _limits(config))
    return AutoSource(venues) if config.market_source == "auto" else venues[0]


def eager_sources_of(config: Settings) -> tuple[MarketSource, ...]:
    """Build the venues to wait for a bar at, the preferred first: each tries once and reports the result at once.

    None for a history of files, where nothing is waited for.
    """
    if config.market_source in ("sample", "files"):
        return ()
    limits = replace(_limits(config), attempts=1, timeout_s=min(EAGER_TIMEOUT_S, config.http_timeout_s))
    return _venues(config, limits)


def _limits(config: Settings) -> Limits:
    return Limits(
        timeout_s=config.http_timeout_s,
        attempts=config.http_attempts,
        max_wait_s=config.http_max_wait_s,
        requests_per_second=config.http_requests_per_second,
    )


def _venues(config: Settings, limits: Limits) -> tuple[MarketSource, ...]:
    """Return the venue that is chosen, or all of them in order of preference."""

    def transport(base_url: str) -> Transport:
        return Transport(base_url, limits, remedy=REMEDY)

    sources: dict[str, MarketSource] = {
        "binance": BinanceSource(
            transport(config.binance_url), transport(config.binance_archive_url), config.binance_symbol
        ),
        "coinbase": CoinbaseSource(transport(config.coinbase_url), config.coinbase_product),
        "kraken": KrakenSource(transport(config.kraken_url), config.kraken_pair),
    }
    return tuple(sources.values()) if config.market_source == "auto" else (sources[config.market_source],)
