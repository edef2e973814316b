"""The sources a deployment's settings ask for."""

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
"""Largest answer of a service; 1,000 stories or 250 articles take less than 2 MiB."""
TOTAL_S = 60.0
"""Seconds one request may take, all tries together: the others' texts wait for the slowest."""


def sources_of(config: Settings) -> tuple[TextSource, ...]:
    """Build the sources that `BTC_NEWS_SOURCES` names, one for each feed of `rss`; nothing is asked of them yet.

    Raises:
        SettingsError: the catalogue of feeds cannot be read, or names a feed like another source.
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
    twice = [name for name, count in Counter(source.name for source in sources).items() if count > 1]
    if twice:
        raise SettingsError(
            f"Two news sources are named {twice[0]!r}; rename the feed in the catalogue {config.news_feeds} "
            f"(BTC_NEWS_FEEDS), or leave one out of BTC_NEWS_SOURCES."
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


def _limits(config: Settings, most_a_second: float = float("inf")) -> Limits:
    """Return how patient a service's transport is: as the settings say, and no faster than the service bears."""
    limits = Limits(
        timeout_s=config.http_timeout_s,
        attempts=config.http_attempts,
        max_wait_s=config.http_max_wait_s,
        requests_per_second=config.http_requests_per_second,
        body_bytes=ANSWER_BYTES,
        total_s=TOTAL_S,
    )
    return replace(limits, requests_per_second=min(limits.requests_per_second, most_a_second))
