"""Proxies of the environment are used, bypassed, or named; a real local server is the proxy."""

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


def fetched(url: str = OUTSIDE) -> object:
    return Transport(url, LIMITS).json("/x")


@pytest.mark.parametrize("variable", ["HTTP_PROXY", "http_proxy", "ALL_PROXY", "all_proxy"])
@pytest.mark.parametrize("spelling", ["{}", " {} ", "{}/", "bare"])
def test_a_proxy_is_used_however_it_is_spelt(
    variable: str, spelling: str, proxy: WebServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    bare = proxy.url.removeprefix("http://")
    monkeypatch.setenv(variable, bare if spelling == "bare" else spelling.format(proxy.url))
    assert fetched() == {"by": "proxy"}


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
def test_what_no_proxy_holds_is_reached_directly(
    exempt: str, url: str, proxy: WebServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HTTP_PROXY", proxy.url)
    monkeypatch.setenv("NO_PROXY", exempt)
    with pytest.raises(SourceUnavailableError) as error:
        fetched(url)
    assert "proxy" not in str(error.value)
    assert proxy.requests == []


@pytest.mark.parametrize(
    "exempt", ["fd00::/8", "othervenue.invalid", "venue.invalid:8080", "nue.invalid", "10.0.0.0/8", ","]
)
def test_what_no_proxy_does_not_hold_goes_through_it(
    exempt: str, proxy: WebServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HTTP_PROXY", proxy.url)
    monkeypatch.setenv("NO_PROXY", exempt)
    assert fetched() == {"by": "proxy"}


@pytest.mark.parametrize(
    ("value", "sentence"),
    [
        (
            "socks5://quant:hunter2@127.0.0.1:1080",
            r"names a SOCKS proxy \(socks5://\), which cannot be used here; set it to",
        ),
        ("socks://127.0.0.1:1080", r"names a SOCKS proxy \(socks://\)"),
        ("SOCKS5H://127.0.0.1:1080/", r"names a SOCKS proxy"),
        ("ftp://quant:hunter2@127.0.0.1:1", "is no address of a proxy; set it to an HTTP proxy such as"),
        ("http://quant:hunter2@[::1", "is no address of a proxy"),
        ("http://pro xy:1", "is no address of a proxy"),
        ("http://proxy:99999", "is no address of a proxy"),
        ("http://", "is no address of a proxy"),
    ],
)
@pytest.mark.parametrize("variable", ["ALL_PROXY", "http_proxy"])
def test_a_proxy_that_cannot_be_used_is_named_with_its_remedy(
    variable: str, value: str, sentence: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv(variable, value)
    with pytest.raises(SourceRefusedError, match=f"{variable} {sentence}") as error:
        fetched()
    assert "hunter2" not in str(error.value)
    feed = Feed(FeedEntry("desk", f"{OUTSIDE}/rss", "desk.example", timedelta(hours=1)), LIMITS, tmp_path / "http.db")
    with pytest.raises(SourceRefusedError, match=variable):
        feed.fetch(NOW, NOW + timedelta(days=1), NOW)


def test_an_unused_broken_proxy_stops_nothing(proxy: WebServer, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ALL_PROXY", "socks5://127.0.0.1:1080")
    monkeypatch.setenv("HTTP_PROXY", proxy.url)
    assert fetched() == {"by": "proxy"}
    assert proxy_fault(OUTSIDE) == ""
    assert proxy_fault("https://venue.invalid").startswith("ALL_PROXY names a SOCKS proxy")


def test_a_proxy_that_is_not_there_is_named_without_its_password(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setenv("HTTP_PROXY", "http://quant:hunter2@127.0.0.1:9")
    with (
        caplog.at_level(logging.DEBUG),
        pytest.raises(SourceUnavailableError, match="the proxy of HTTP_PROXY") as error,
    ):
        fetched()
    assert "hunter2" not in str(error.value) + caplog.text


def test_a_feed_is_remembered_behind_a_proxy(proxy: WebServer, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("HTTP_PROXY", proxy.url)
    proxy.respond = lambda path, query: Answer(rss_feed().encode(), headers={"ETag": '"1"', "Content-Type": "text/xml"})
    api = Transport(OUTSIDE, Limits(**FAST), cache=tmp_path / "http.db")
    assert api.content_if_changed("/rss", "today")
    assert len(proxy.requests) == 1


def test_certificates_that_cannot_be_read_are_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SSL_CERT_FILE", "/nowhere/ca.pem")
    with pytest.raises(SourceRefusedError, match="SSL_CERT_FILE"):
        fetched("https://127.0.0.1:9")
