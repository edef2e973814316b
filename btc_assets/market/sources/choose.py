"""Build the sources of hourly bars and of quarter bars that the settings choose."""

from __future__ import annotations

from dataclasses import replace
from datetime import timedelta

from btc_assets.clock import HOUR, QUARTER
from btc_assets.market.sources.auto import AutoSource
from btc_assets.market.sources.binance import BinanceSource
from btc_assets.market.sources.coinbase import CoinbaseSource
from btc_assets.market.sources.files import FileSource
from btc_assets.market.sources.kraken import KrakenSource
from btc_assets.market.sources.protocol import MarketSource
from btc_assets.market.sources.sample import half_hours_source, sample_source
from btc_assets.settings import Settings
from btc_assets.transport import Limits, Transport

REMEDY = "check the base URL and symbol, or choose another BTC_MARKET_SOURCE"
"""What to do if a venue refuses; ends a sentence."""
EAGER_TIMEOUT_S = 5.0
"""Longest wait for one answer while polling for a new bar, seconds; the request is retried anyway."""


def source_of(config: Settings) -> MarketSource:
    """Build the market source that `BTC_MARKET_SOURCE` names; it requests nothing yet."""
    if config.market_source == "sample":
        return sample_source()
    if config.market_source == "files":
        return FileSource(config.market_files)
    return _failing_over(config, _venues(config, _limits(config)))


def quarter_source_of(config: Settings) -> MarketSource | None:
    """Build the source of quarter bars, of the venues of `source_of`; None for files without quarter bars."""
    if config.market_source == "sample":
        return half_hours_source()
    if config.market_source == "files":
        if not config.quarter_files:
            return None
        return FileSource(config.quarter_files, step=QUARTER, setting="BTC_QUARTER_FILES")
    return _failing_over(config, _venues(config, _limits(config), QUARTER))


def eager_sources_of(config: Settings, step: timedelta = HOUR) -> tuple[MarketSource, ...]:
    """Build the venues to poll for a new bar of length `step`, in order of preference: each tries a request once.

    Empty for files, which are never waited for.
    """
    if config.market_source in ("sample", "files"):
        return ()
    limits = replace(_limits(config), attempts=1, timeout_s=min(EAGER_TIMEOUT_S, config.http_timeout_s))
    return _venues(config, limits, step)


def _failing_over(config: Settings, venues: tuple[MarketSource, ...]) -> MarketSource:
    return AutoSource(venues) if config.market_source == "auto" else venues[0]


def _limits(config: Settings) -> Limits:
    return Limits(
        timeout_s=config.http_timeout_s,
        attempts=config.http_attempts,
        max_wait_s=config.http_max_wait_s,
        requests_per_second=config.http_requests_per_second,
    )


def _venues(config: Settings, limits: Limits, step: timedelta = HOUR) -> tuple[MarketSource, ...]:
    """Return the chosen venue, or all venues in order of preference."""

    def transport(base_url: str) -> Transport:
        return Transport(base_url, limits, remedy=REMEDY)

    sources: dict[str, MarketSource] = {
        "binance": BinanceSource(
            transport(config.binance_url), transport(config.binance_archive_url), config.binance_symbol, step=step
        ),
        "coinbase": CoinbaseSource(transport(config.coinbase_url), config.coinbase_product, step=step),
        "kraken": KrakenSource(transport(config.kraken_url), config.kraken_pair, step=step),
    }
    return tuple(sources.values()) if config.market_source == "auto" else (sources[config.market_source],)
