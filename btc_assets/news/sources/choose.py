"""Build the sources that the settings select."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable
from dataclasses import replace
from datetime import timedelta
from urllib.parse import urlsplit

from btc_assets.news.sources import cryptocompare, cryptopanic, gdelt, hacker_news, reddit
from btc_assets.news.sources.files import TextFiles
from btc_assets.news.sources.protocol import TextSource
from btc_assets.news.sources.rss import feeds_of
from btc_assets.news.sources.sample import SampleSource
from btc_assets.settings import Settings, SettingsError
from btc_assets.transport import Limits, Transport

ANSWER_BYTES = 16 * 1024 * 1024
"""Maximum response size; 1,000 stories or 250 articles take less than 2 MiB."""
TOTAL_S = 60.0
"""Seconds that one request may take, including retries: the slowest source delays all others."""


def sources_of(config: Settings) -> tuple[TextSource, ...]:
    """Build the sources in `BTC_NEWS_SOURCES`, one per feed for `rss`; nothing is fetched yet.

    Raises:
        SettingsError: the feed catalogue cannot be read, or a feed has the name of another source.
    """
    makers: dict[str, Callable[[Settings], Iterable[TextSource]]] = {
        "sample": lambda _: [SampleSource()],
        "rss": lambda config: feeds_of(config.news_feeds, _limits(config), config.http_cache),
        "hacker_news": _hacker_news,
        "reddit": _reddit,
        "gdelt": _gdelt,
        "cryptopanic": _cryptopanic,
        "cryptocompare": _cryptocompare,
        "files": _files,
    }
    sources = tuple(source for name in config.news for source in makers[name](config))
    duplicates = [name for name, count in Counter(source.name for source in sources).items() if count > 1]
    if duplicates:
        raise SettingsError(
            f"Two news sources are named {duplicates[0]!r}; rename the feed in the catalogue {config.news_feeds} "
            f"(BTC_NEWS_FEEDS), or remove one from BTC_NEWS_SOURCES."
        )
    return sources


def _hacker_news(config: Settings) -> list[TextSource]:
    api = Transport(config.hacker_news_url, _limits(config), remedy=hacker_news.REMEDY)
    return [hacker_news.HackerNewsSource(api)]


def _reddit(config: Settings) -> list[TextSource]:
    api = Transport(config.reddit_url, _limits(config, reddit.REQUESTS_PER_SECOND), remedy=reddit.REMEDY)
    return [reddit.RedditSource(api, config.reddit_channels.split(","))]


def _gdelt(config: Settings) -> list[TextSource]:
    api = Transport(config.gdelt_url, _limits(config, gdelt.REQUESTS_PER_SECOND), remedy=gdelt.REMEDY)
    return [gdelt.GdeltSource(api)]


def _cryptopanic(config: Settings) -> list[TextSource]:
    url = config.cryptopanic_url.rstrip("/")
    plan = "" if urlsplit(url).path else cryptopanic.PLAN_PATH
    api = Transport(url + plan, _limits(config), remedy=cryptopanic.REMEDY)
    return [cryptopanic.CryptoPanicSource(api, config.cryptopanic_token.get_secret_value())]


def _cryptocompare(config: Settings) -> list[TextSource]:
    api = Transport(config.cryptocompare_url, _limits(config), remedy=cryptocompare.REMEDY)
    return [cryptocompare.CryptoCompareSource(api, config.cryptocompare_key.get_secret_value())]


def _files(config: Settings) -> list[TextSource]:
    lag = timedelta(minutes=config.news_files_lag_minutes)
    sources: list[TextSource] = []
    if config.news_files:
        sources.append(TextFiles(config.news_files, "article", lag))
    if config.social_files:
        sources.append(TextFiles(config.social_files, "post", lag))
    return sources


def _limits(config: Settings, max_requests_per_second: float = float("inf")) -> Limits:
    """Return a service's transport limits from the settings, with the service's own request rate as a maximum."""
    limits = Limits(
        timeout_s=config.http_timeout_s,
        attempts=config.http_attempts,
        max_wait_s=config.http_max_wait_s,
        requests_per_second=config.http_requests_per_second,
        body_bytes=ANSWER_BYTES,
        total_s=TOTAL_S,
    )
    return replace(limits, requests_per_second=min(limits.requests_per_second, max_requests_per_second))
