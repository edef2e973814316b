"""Proxies from the environment are used, bypassed or reported; a real local server is the proxy."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path

import pytest

from btc_assets.news.sources.rss import Feed, FeedEntry
from btc_assets.proxies import proxy_fault
from btc_assets.transport import Limits, SourceRefusedError, SourceUnavailableError, Transport
from btc_assets_tests.news.conftest import FAST, NOW, Answer, WebServer, rss_feed, web_server

LIMITS = Limits(timeout_s=5, attempts=1, max_wait_s=0.01, requests_per_second=1000)
OUTSIDE = "http://venue.invalid"
VARIABLES = ("HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY", "NO_PROXY", "SSL_CERT_FILE")


@pytest.fixture(autouse=True)
def clean(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in VARIABLES:
        monkeypatch.delenv(name, raising=False)
        monkeypatch.delenv(name.lower(), raising=False)


@pytest.fixture
def proxy() -> Iterator[WebServer]:
    with web_server() as server:
        server.respond = lambda path, query: Answer({"by": "proxy"})
        yield server


def fetch(url: str = OUTSIDE) -> object:
    return Transport(url, LIMITS).json("/x")


@pytest.mark.parametrize("variable", ["HTTP_PROXY", "http_proxy", "ALL_PROXY", "all_proxy"])
@pytest.mark.parametrize("spelling", ["{}", " {} ", "{}/", "bare"])
def test_every_spelling_of_a_proxy_is_used(
    variable: str, spelling: str, proxy: WebServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    bare = proxy.url.removeprefix("http://")
    monkeypatch.setenv(variable, bare if spelling == "bare" else spelling.format(proxy.url))
    assert fetch() == {"by": "proxy"}


@pytest.mark.parametrize(
    ("exempt", "url"),
    [
        ("*", OUTSIDE),
        ("localhost, 127.0.0.1, ::1, fd00::/8, venue.invalid", OUTSIDE),
        ("fd00::/8,.invalid", OUTSIDE),
        ("invalid", OUTSIDE),
        ("VENUE.invalid:80", OUTSIDE),
        ("10.0.0.0/8,127.0.0.0/8", "http://127.0.0.1:9"),
        ("::/0", "http://[::1]:9"),
        ("[::1]:9", "http://[::1]:9"),
        ("http://venue.invalid", OUTSIDE),
    ],
)
def test_an_exempt_address_is_reached_directly(
    exempt: str, url: str, proxy: WebServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HTTP_PROXY", proxy.url)
    monkeypatch.setenv("NO_PROXY", exempt)
    with pytest.raises(SourceUnavailableError) as error:
        fetch(url)
    assert "proxy" not in str(error.value)
    assert proxy.requests == []


@pytest.mark.parametrize(
    "exempt", ["fd00::/8", "othervenue.invalid", "venue.invalid:8080", "nue.invalid", "10.0.0.0/8", ","]
)
def test_other_addresses_use_the_proxy(exempt: str, proxy: WebServer, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HTTP_PROXY", proxy.url)
    monkeypatch.setenv("NO_PROXY", exempt)
    assert fetch() == {"by": "proxy"}


@pytest.mark.parametrize(
    ("value", "sentence"),
    [
        (
            "socks5://quant:hunter2@127.0.0.1:1080",
            r"is a SOCKS proxy \(socks5://\), which is not supported; set it to",
        ),
        ("socks://127.0.0.1:1080", r"is a SOCKS proxy \(socks://\)"),
        ("SOCKS5H://127.0.0.1:1080/", r"is a SOCKS proxy"),
        ("ftp://quant:hunter2@127.0.0.1:1", "is not a valid proxy address; set it to an HTTP proxy such as"),
        ("http://quant:hunter2@[::1", "is not a valid proxy address"),
        ("http://pro xy:1", "is not a valid proxy address"),
        ("http://proxy:99999", "is not a valid proxy address"),
        ("http://", "is not a valid proxy address"),
    ],
)
@pytest.mark.parametrize("variable", ["ALL_PROXY", "http_proxy"])
def test_an_unusable_proxy_is_reported_with_its_remedy(
    variable: str, value: str, sentence: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv(variable, value)
    with pytest.raises(SourceRefusedError, match=f"{variable} {sentence}") as error:
        fetch()
    assert "hunter2" not in str(error.value)
    feed = Feed(FeedEntry("feed", f"{OUTSIDE}/rss", "feed.example", timedelta(hours=1)), LIMITS, tmp_path / "http.db")
    with pytest.raises(SourceRefusedError, match=variable):
        feed.fetch(NOW, NOW + timedelta(days=1), NOW)


def test_an_unused_invalid_proxy_is_ignored(proxy: WebServer, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ALL_PROXY", "socks5://127.0.0.1:1080")
    monkeypatch.setenv("HTTP_PROXY", proxy.url)
    assert fetch() == {"by": "proxy"}
    assert proxy_fault(OUTSIDE) == ""
    assert proxy_fault("https://venue.invalid").startswith("ALL_PROXY is a SOCKS proxy")


def test_an_unreachable_proxy_is_reported_without_its_password(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setenv("HTTP_PROXY", "http://quant:hunter2@127.0.0.1:9")
    with (
        caplog.at_level(logging.DEBUG),
        pytest.raises(SourceUnavailableError, match="the proxy of HTTP_PROXY") as error,
    ):
        fetch()
    assert "hunter2" not in str(error.value) + caplog.text


def test_a_feed_is_cached_behind_a_proxy(proxy: WebServer, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("HTTP_PROXY", proxy.url)
    proxy.respond = lambda path, query: Answer(rss_feed().encode(), headers={"ETag": '"1"', "Content-Type": "text/xml"})
    api = Transport(OUTSIDE, Limits(**FAST), cache=tmp_path / "http.db")
    assert api.content_if_changed("/rss", "today")
    assert len(proxy.requests) == 1


def test_unreadable_certificates_are_reported(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SSL_CERT_FILE", "/nowhere/ca.pem")
    with pytest.raises(SourceRefusedError, match="SSL_CERT_FILE"):
        fetch("https://127.0.0.1:9")
