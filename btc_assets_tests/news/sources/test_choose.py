"""The settings select the sources; building them sends no request."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest

from btc_assets.news.sources.choose import sources_of
from btc_assets.news.sources.files import TextFiles
from btc_assets.news.sources.protocol import TextSource
from btc_assets.settings import PROJECT_ROOT, Settings, SettingsError
from btc_assets.transport import SourceRefusedError
from btc_assets_tests.market.conftest import Answer, Exchange
from btc_assets_tests.news.sources.services import DAY, NEXT, NOW, SECRET, listing

ALL_SOURCES = "sample,rss,hacker_news,reddit,gdelt,cryptopanic,cryptocompare,files"
CATALOGUE = """
[[feed]]
name = "one"
url = "http://127.0.0.1:1/one.xml"
outlet = "one.example"
rhythm_hours = 12

[[feed]]
name = "{}"
url = "http://127.0.0.1:1/two.xml"
outlet = "two.example"
rhythm_hours = 24
"""


@pytest.fixture
def server() -> Iterator[Exchange]:
    server = Exchange()
    server.respond = lambda path, query: Answer(status=403)
    yield server
    server.close()


def config(server: Exchange, folder: Path, *, second: str = "two", **changed: Any) -> Settings:
    """Return settings in which the test server is every service."""
    feeds = folder / "feeds.toml"
    feeds.write_text(CATALOGUE.format(second))
    urls = {f"{name}_url": server.url for name in ("hacker_news", "reddit", "gdelt", "cryptopanic", "cryptocompare")}
    return Settings(  # type: ignore[call-arg]
        _env_file=None,
        **(
            {
                "data_dir": folder,
                "news_sources": ALL_SOURCES,
                "news_feeds": feeds,
                "news_files": "archive/*.parquet",
                "social_files": str(folder / "posts.csv"),
                "news_files_lag_minutes": 90,
                "cryptopanic_token": SECRET,
                "cryptocompare_key": SECRET,
                "http_attempts": 1,
                **urls,
            }
            | changed
        ),
    )


def test_sources_are_built_in_the_configured_order(server: Exchange, tmp_path: Path) -> None:
    sources = sources_of(config(server, tmp_path))
    assert [source.name for source in sources] == [
        "synthetic_sample", "one", "two", "hacker_news", "reddit", "gdelt", "cryptopanic", "cryptocompare",
        "news_files", "social_files",
    ]  # fmt: skip
    assert server.requests == []
    reverse = ",".join(reversed(ALL_SOURCES.split(",")))
    assert sources_of(config(server, tmp_path, news_sources=reverse))[-1].name == "synthetic_sample"


def test_every_source_implements_the_protocol(server: Exchange, tmp_path: Path) -> None:
    for source in sources_of(config(server, tmp_path)):
        assert set(source.kinds) <= {"article", "post"}
        assert source.kinds
        assert source.lag >= timedelta(0)
        assert source.rhythm is None or source.rhythm > timedelta(0)
        assert source.live == (source.name not in ("synthetic_sample", "news_files", "social_files"))
        assert callable(source.fetch)


def test_no_source_is_configured(server: Exchange, tmp_path: Path) -> None:
    assert sources_of(config(server, tmp_path, news_sources="none")) == ()


def test_file_paths_are_relative_to_the_project(server: Exchange, tmp_path: Path) -> None:
    articles, posts = sources_of(config(server, tmp_path, news_sources="files"))
    assert isinstance(articles, TextFiles)
    assert isinstance(posts, TextFiles)
    assert (articles.pattern, articles.kinds) == (str(PROJECT_ROOT / "archive" / "*.parquet"), ("article",))
    assert (posts.pattern, posts.kinds) == (str(tmp_path / "posts.csv"), ("post",))
    assert articles.lag == posts.lag == timedelta(minutes=90)
    (only,) = sources_of(config(server, tmp_path, news_sources="files", news_files=""))
    assert only.name == "social_files"


def test_two_sources_with_one_name_are_refused(server: Exchange, tmp_path: Path) -> None:
    with pytest.raises(SettingsError, match=r"Two news sources are named 'gdelt'.*BTC_NEWS_FEEDS"):
        sources_of(config(server, tmp_path, second="gdelt"))
    assert len(sources_of(config(server, tmp_path, second="gdelt", news_sources="rss"))) == 2


def service(server: Exchange, folder: Path, name: str, **changed: Any) -> TextSource:
    (source,) = sources_of(config(server, folder, news_sources=name, **changed))
    return source


@pytest.mark.parametrize(
    ("name", "remedy"),
    [
        ("hacker_news", "BTC_HACKER_NEWS_URL"),
        ("reddit", "BTC_REDDIT_CHANNELS"),
        ("gdelt", "BTC_GDELT_URL"),
        ("cryptopanic", "BTC_CRYPTOPANIC_TOKEN"),
        ("cryptocompare", "BTC_CRYPTOCOMPARE_KEY"),
    ],
)
def test_a_refusal_names_the_setting(
    name: str, remedy: str, server: Exchange, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("btc_assets.news.sources.reddit.REQUESTS_PER_SECOND", 10_000)
    source = service(server, tmp_path, name, reddit_channels="Bitcoin", http_requests_per_second=100)
    with pytest.raises(SourceRefusedError, match=rf"HTTP 403.*{remedy}"):
        source.fetch(DAY, NEXT, NOW)


@pytest.mark.parametrize(
    ("base", "path"),
    [("", "/api/developer/v2/posts/"), ("/", "/api/developer/v2/posts/"), ("/api/growth/v2/", "/api/growth/v2/posts/")],
)
def test_the_url_of_cryptopanic_selects_the_plan(base: str, path: str, server: Exchange, tmp_path: Path) -> None:
    with pytest.raises(SourceRefusedError):
        service(server, tmp_path, "cryptopanic", cryptopanic_url=server.url + base).fetch(DAY, NEXT, NOW)
    assert server.requests[0][0] == path


def test_every_configured_channel_is_fetched(server: Exchange, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("btc_assets.news.sources.reddit.REQUESTS_PER_SECOND", 10_000)
    server.respond = lambda path, query: Answer(listing([]))
    service(server, tmp_path, "reddit", reddit_channels="Bitcoin,ethereum").fetch(DAY, NEXT, NOW)
    assert [path for path, _ in server.requests] == ["/r/Bitcoin/new.json", "/r/ethereum/new.json"]


@pytest.mark.parametrize(("name", "maximum"), [("gdelt", 0.2), ("reddit", 1 / 6), ("hacker_news", 5.0)])
def test_a_service_limits_the_request_rate(name: str, maximum: float, server: Exchange, tmp_path: Path) -> None:
    for configured in (0.1, 5.0, 100.0):
        source: Any = service(server, tmp_path, name, http_requests_per_second=configured)
        assert source._api._limits.requests_per_second == min(
            configured, maximum if name != "hacker_news" else configured
        )


def test_representations_do_not_contain_the_keys(server: Exchange, tmp_path: Path) -> None:
    settings = config(server, tmp_path)
    assert SECRET not in repr(settings) + repr([vars(source).keys() for source in sources_of(settings)])
