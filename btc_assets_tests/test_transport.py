"""HTTP GET: limits on time, size, rate, attempts and redirects; messages and logs contain no key."""

from __future__ import annotations

import gzip
import logging
import sqlite3
import subprocess
import sys
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime
from pathlib import Path
from typing import Any, ClassVar

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from btc_assets import transport as module
from btc_assets.transport import (
    Limits,
    SourceError,
    SourceMalformedError,
    SourceRefusedError,
    SourceUnavailableError,
    Transport,
)
from btc_assets_tests.news.conftest import FAST, Answer, WebServer, conditional, redirect, transport, web_server

SECRET = "s3cret-t0ken"  # a planted key


@pytest.fixture
def web() -> Iterator[WebServer]:
    with web_server() as server:
        yield server


@pytest.fixture
def other_web() -> Iterator[WebServer]:
    with web_server() as server:
        yield server


# --- refusals and retries ------------------------------------------------------------------------------
@pytest.mark.parametrize("status", [418, 429, 503])
def test_retry_after_is_honoured(status: int, web: WebServer) -> None:
    web.script = [Answer(status=status, headers={"Retry-After": "0.3"}), Answer({"ok": 1})]
    start = time.monotonic()
    assert transport(web, max_wait_s=2.0).json("/x", {}) == {"ok": 1}
    assert time.monotonic() - start >= 0.3


def test_retry_after_may_be_a_date(web: WebServer) -> None:
    at = format_datetime(datetime.now(tz=UTC) + timedelta(hours=2), usegmt=True)
    web.script = [Answer(status=429, headers={"Retry-After": at})]
    with pytest.raises(SourceUnavailableError, match=r"a retry after 7\d\d\d s"):
        transport(web).json("/x", {})


def test_an_invalid_retry_after_is_ignored(web: WebServer) -> None:
    web.script = [Answer(status=429, headers={"Retry-After": "soon"}), Answer([1])]
    assert transport(web).json("/x", {}) == [1]


def test_the_number_of_attempts_is_reported(web: WebServer) -> None:
    web.respond = lambda path, query: Answer(status=500)
    with pytest.raises(SourceUnavailableError, match="gave up after 2 attempts"):
        transport(web, attempts=2).json("/x", {})
    assert len(web.requests) == 2


def test_an_unreachable_service_is_unavailable() -> None:
    api = Transport("http://127.0.0.1:9", Limits(attempts=2, max_wait_s=0.01, requests_per_second=1000))
    with pytest.raises(SourceUnavailableError, match="the connection failed"):
        api.json("/x", {})


@pytest.mark.parametrize(("status", "reason"), [(401, "refuses"), (403, "refuses"), (451, "does not serve")])
def test_a_refusal_names_the_remedy_and_no_market(status: int, reason: str, web: WebServer) -> None:
    web.script = [Answer(status=status)]
    with pytest.raises(SourceRefusedError, match=f"HTTP {status}, the service {reason}") as error:
        transport(web, remedy="take it out").content("/x")
    assert str(error.value).endswith("; take it out")
    assert "venue" not in str(error.value)
    assert "MARKET" not in str(error.value)
    assert len(web.requests) == 1, "a refusal is not retried"


def test_status_404_is_none_or_an_error(web: WebServer) -> None:
    assert transport(web).content_if_found("/x") is None
    with pytest.raises(SourceRefusedError, match="HTTP 404, not found"):
        transport(web).content("/x")


def test_a_truncated_body_is_retried(web: WebServer) -> None:
    web.script = [Answer(b"half", cut=True), Answer(gzip.compress(b"whole")[:-9], headers={"Content-Encoding": "gzip"})]
    web.pages["/x"] = Answer(b"whole", packed=True)
    assert transport(web).content("/x") == b"whole"
    assert len(web.requests) == 3


def test_attempts_end_with_the_total_time(web: WebServer) -> None:
    web.respond = lambda path, query: Answer(status=503, headers={"Retry-After": "0.2"})
    with pytest.raises(SourceUnavailableError, match=r"gave up after \d att"):
        transport(web, attempts=10, max_wait_s=1.0, total_s=0.5).content("/x")
    assert len(web.requests) <= 3


# --- time ------------------------------------------------------------------------------------------------
@pytest.mark.parametrize("slow", [Answer(b"x" * 1000, drip_s=0.05), Answer(drip_head_s=0.05)], ids=["body", "headers"])
def test_a_slow_response_is_stopped(slow: Answer, web: WebServer) -> None:
    """Each byte arrives within the read timeout; without the deadline this takes 50 s, or never ends."""
    web.respond = lambda path, query: slow
    with pytest.raises(SourceUnavailableError, match="the response is too slow"):
        transport(web, attempts=2, total_s=0.6).content("/x")


def test_a_stopped_body_without_a_length_is_an_error(web: WebServer) -> None:
    """The end of the connection ends such a body, and the deadline shuts down the connection."""

    def respond(path: str, query: dict[str, str]) -> Answer:
        return Answer(b"1234567890" * 100, drip_s=0.05)

    web.respond = respond
    web.server.RequestHandlerClass.send_header = _without_length(web.server.RequestHandlerClass.send_header)  # type: ignore[method-assign]
    with pytest.raises(SourceUnavailableError, match="the response is too slow"):
        transport(web, attempts=1, total_s=0.4).content("/x")


def _without_length(send: Any) -> Any:
    return lambda handler, name, value: None if name == "Content-Length" else send(handler, name, value)


def test_the_rate_limit_is_kept(web: WebServer) -> None:
    web.respond = lambda path, query: Answer([])
    limited = transport(web, requests_per_second=20.0)
    start = time.monotonic()
    for _ in range(5):
        limited.json("/x", {})
    assert time.monotonic() - start >= 4 / 20


def test_requests_to_one_host_are_spaced(monkeypatch: pytest.MonkeyPatch) -> None:
    class Frozen:
        waits: ClassVar[list[float]] = []
        monotonic = staticmethod(lambda: 1000.0)
        sleep = staticmethod(waits.append)

    monkeypatch.setattr(module, "time", Frozen)
    monkeypatch.setattr(module, "_NEXT_REQUEST_AT", {})
    for url in ("http://a.example/1", "http://A.example:80/2", "http://a.example/3?x", "https://a.example/4"):
        module._wait_for_rate_limit(url, 20.0)
    assert Frozen.waits == pytest.approx([0.05, 0.1]), "per host; https is another origin"


def test_transports_share_the_rate_limit_of_a_host(web: WebServer) -> None:
    web.respond = lambda path, query: Answer([])
    transports = [transport(web, requests_per_second=20.0) for _ in range(5)]
    start = time.monotonic()
    with ThreadPoolExecutor(5) as pool:
        list(pool.map(lambda api: api.content("/x"), transports))
    assert time.monotonic() - start >= 4 / 20


# --- size ------------------------------------------------------------------------------------------------
def test_a_large_json_response_is_refused(web: WebServer) -> None:
    web.script = [Answer(b"[" + b"1," * 5000)]
    with pytest.raises(SourceMalformedError, match="larger than 1000 bytes"):
        transport(web, body_bytes=1000).json("/x", {})


def test_a_body_is_not_read_beyond_its_limit(web: WebServer) -> None:
    web.script = [Answer(b"x" * 50_000_000)]
    with pytest.raises(SourceMalformedError, match="larger than 10000000 bytes"):
        transport(web, body_bytes=10_000_000).content("/x")


@pytest.mark.parametrize("layers", [1, 2])
def test_a_decompression_bomb_is_stopped_early(layers: int, web: WebServer, monkeypatch: pytest.MonkeyPatch) -> None:
    """100 MB compressed to 0.1 MB: at most the limit and one chunk are decompressed."""
    sizes: list[int] = []
    bomb = gzip.compress(b"\0" * 100_000_000, compresslevel=1) if layers == 1 else gzip.compress(b"\0" * 1000)
    for _ in range(layers - 1):
        bomb = gzip.compress(bomb)
    decompress = module._decompress

    def counted(*args: Any) -> Any:
        for chunk in decompress(*args):
            sizes.append(len(chunk))
            yield chunk

    monkeypatch.setattr(module, "_decompress", counted)
    web.script = [Answer(bomb, headers={"Content-Encoding": ", ".join(["gzip"] * layers)})]
    with pytest.raises(
        SourceMalformedError, match="larger than 1000000 bytes" if layers == 1 else "expected a gzip-encoded response"
    ):
        transport(web, body_bytes=1_000_000).content("/x")
    assert sum(sizes) <= 1_000_000 + module._CHUNK_BYTES


@settings(deadline=None, max_examples=50)
@given(st.binary(max_size=300_000), st.integers(1, 3), st.binary(max_size=9))
def test_decompression_restores_the_body(body: bytes, members: int, padding: bytes) -> None:
    class Sent:
        def __init__(self) -> None:
            self.headers = {"Content-Encoding": "gzip"}

        def iter_raw(self) -> Any:
            packed = gzip.compress(body) * members + b"\0" * len(padding)
            yield from (packed[start : start + 1000] for start in range(0, len(packed), 1000))

    assert b"".join(module._decompress("x", Sent())) == body * members  # type: ignore[arg-type]


def test_invalid_gzip_is_a_truncated_response(web: WebServer) -> None:
    web.respond = lambda path, query: Answer(b"<rss>", headers={"Content-Encoding": "gzip"})
    with pytest.raises(SourceUnavailableError, match="failed or was cut"):
        transport(web, attempts=2).content("/x")


# --- redirects --------------------------------------------------------------------------------------------
def test_redirects_are_followed_if_allowed(web: WebServer, other_web: WebServer) -> None:
    web.pages |= {"/a": redirect("/b?page=2", 301), "/b": redirect(f"{other_web.url}/c", 307)}
    other_web.pages["/c"] = Answer(b"there")
    assert transport(web, redirects=5).content("/a") == b"there"
    assert web.requests == [("/a", {}), ("/b", {"page": "2"})]
    with pytest.raises(SourceRefusedError, match="HTTP 301, the service refuses"):
        transport(web).content("/a")


def test_a_redirect_loop_is_refused(web: WebServer) -> None:
    web.pages |= {"/a": redirect("/b"), "/b": redirect("/c"), "/c": redirect("/b")}
    with pytest.raises(SourceRefusedError, match=r"redirects in a loop, .*/b → .*/c → .*/b;"):
        transport(web, redirects=5).content("/a")
    assert len(web.requests) == 3


def test_the_number_of_redirects_is_limited(web: WebServer) -> None:
    web.respond = lambda path, query: redirect(f"{path}x")
    with pytest.raises(SourceRefusedError, match=r"redirects more than 5 times, the last to .*/axxxxxx;"):
        transport(web, redirects=5).content("/a")
    assert len(web.requests) == 6


@pytest.mark.parametrize(
    "target",
    ["file:///etc/passwd", "ftp://127.0.0.1/x", "javascript:alert(1)", "http://[::1", "http://a:x/"],
)
def test_a_redirect_to_an_invalid_address_is_refused(target: str, web: WebServer) -> None:
    web.script = [redirect(target)]
    with pytest.raises(SourceRefusedError, match="redirects to an address that is not http or https"):
        transport(web, redirects=5).content("/a")


def test_a_redirect_never_leaves_https() -> None:
    secure = Transport("https://news.example", Limits(redirects=5))
    with pytest.raises(SourceRefusedError, match="redirects from https to http"):
        secure._redirect_target("http://news.example/feed", ["https://news.example/feed"])
    assert secure._redirect_target("/x", ["https://news.example/feed"]) == "https://news.example/x"
    assert secure._redirect_target("https://u:p@b.example/#top", ["http://news.example/"]) == "https://b.example/"


def test_keys_do_not_follow_a_redirect_to_another_host(web: WebServer, other_web: WebServer) -> None:
    web.pages["/a"] = redirect(f"{other_web.url}/b")
    other_web.pages["/b"] = Answer(b"there")
    api = Transport(web.url.replace("http://", f"http://reader:{SECRET}@"), Limits(**(FAST | {"redirects": 5})))  # type: ignore[arg-type]
    assert api.content("/a", {"auth_token": SECRET}, headers={"X-Key": SECRET}) == b"there"
    assert web.headers[0]["x-key"] == SECRET
    assert web.headers[0]["authorization"].startswith("Basic ")
    assert "authorization" not in other_web.headers[0]
    assert SECRET not in f"{other_web.headers}{other_web.requests}"


# --- keys ------------------------------------------------------------------------------------------------
@pytest.mark.parametrize(
    "answer",
    [
        Answer(b"<html>", status=200), Answer(status=401), Answer(status=404), Answer(status=500),
        Answer(b"[", cut=True), Answer(b"x" * 5000), Answer(delay_s=1.0),
        redirect("/y?auth_token=" + SECRET), redirect("mailto:" + SECRET),
    ],
    ids=["html", "401", "404", "500", "cut", "large", "late", "moved", "moved away"],
)  # fmt: skip
def test_messages_and_logs_contain_no_key(answer: Answer, web: WebServer, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG)
    web.respond = lambda path, query: answer
    api = transport(web, attempts=2, timeout_s=0.2, body_bytes=1000, redirects=2)
    with pytest.raises(SourceError) as error:
        api.json("/x", {"auth_token": SECRET, "api_key": SECRET}, headers={"Authorization": f"Apikey {SECRET}"})
    messages = str(error.value) + "".join(str(cause) for cause in (error.value.__cause__, error.value.__context__))
    assert SECRET not in messages
    assert SECRET not in caplog.text
    assert web.requests[0][1] == {"auth_token": SECRET, "api_key": SECRET}, "the service received it"


def test_credentials_are_sent_and_not_shown(web: WebServer, caplog: pytest.LogCaptureFixture) -> None:
    web.script = [Answer([]), Answer(status=500)]
    caplog.set_level("DEBUG")
    secret = Transport(
        web.url.replace("http://", "http://reader:s3cret@"), Limits(attempts=1, requests_per_second=1000)
    )
    secret.json("/x", {})
    assert web.headers[0]["authorization"].startswith("Basic ")
    with pytest.raises(SourceUnavailableError) as error:
        secret.json("/x", {})
    assert "s3cret" not in str(error.value) + caplog.text


@pytest.mark.parametrize("key", [f"{SECRET}\n", f"{SECRET}é"])
def test_an_invalid_key_is_not_shown(key: str, web: WebServer) -> None:
    with pytest.raises(SourceRefusedError, match="not a valid HTTP request") as error:
        transport(web).content("/x", headers={"X-Key": key})
    assert SECRET not in str(error.value)
    assert error.value.__suppress_context__


# --- conditional requests ----------------------------------------------------------------------------------
@pytest.mark.parametrize(
    "validators", [{"etag": '"1"'}, {"last_modified": "Sat, 01 Aug 2026 10:00:00 GMT"}], ids=["ETag", "Last-Modified"]
)
def test_an_unchanged_page_is_not_sent_again(validators: dict[str, str], web: WebServer, tmp_path: Path) -> None:
    """A page modified long ago is revalidated as well: its freshness is not guessed."""
    web.pages["/feed"] = conditional(Answer(b"one"), **validators)
    cache = tmp_path / "cache" / "http.db"
    assert transport(web, cache=cache).content_if_changed("/feed", "today") == b"one"
    assert transport(web, cache=cache).content_if_changed("/feed", "today") is None
    assert "if-none-match" not in web.headers[0]
    assert web.headers[1].get("if-none-match") or web.headers[1].get("if-modified-since")
    web.pages["/feed"] = conditional(Answer(b"two"), etag='"2"')
    assert transport(web, cache=cache).content_if_changed("/feed", "today") == b"two"
    assert len(web.requests) == 3


def test_a_fresh_page_is_requested_again(web: WebServer, tmp_path: Path) -> None:
    web.respond = lambda path, query: Answer(b"one", headers={"Cache-Control": "max-age=86400"})
    api = transport(web, cache=tmp_path / "http.db")
    assert [api.content_if_changed("/feed", "today") for _ in range(2)] == [b"one", b"one"]
    assert len(web.requests) == 2


def test_purposes_are_independent(web: WebServer, tmp_path: Path) -> None:
    web.pages["/feed"] = conditional(Answer(b"one"), etag='"1"')
    api = transport(web, cache=tmp_path / "http.db")
    assert api.content_if_changed("/feed", "yesterday") == b"one"
    assert api.content_if_changed("/feed", "today") == b"one"
    assert api.content_if_changed("/feed", "today") is None


def test_a_forgotten_response_is_requested_in_full(web: WebServer, tmp_path: Path) -> None:
    web.pages |= {"/feed": redirect("/real"), "/real": conditional(Answer(b"login"), etag='"1"')}
    api = transport(web, cache=tmp_path / "http.db", redirects=5)
    assert api.content_if_changed("/feed", "today") == b"login"
    assert api.content_if_changed("/feed", "today") is None
    api.forget("/feed", "today")
    assert api.content_if_changed("/feed", "today") == b"login"


def test_an_expired_response_is_requested_in_full(
    web: WebServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "_CACHE_TTL_S", 0.2)
    web.pages["/feed"] = conditional(Answer(b"one"), etag='"1"')
    api = transport(web, cache=tmp_path / "http.db")
    assert api.content_if_changed("/feed", "today") == b"one"
    assert api.content_if_changed("/feed", "today") is None
    time.sleep(0.25)
    assert api.content_if_changed("/feed", "today") == b"one"


def test_an_incomplete_body_is_not_cached(web: WebServer, tmp_path: Path) -> None:
    page = conditional(Answer(b"x" * 5000), etag='"1"')
    web.pages["/feed"] = page
    with pytest.raises(SourceMalformedError, match="larger than 1000 bytes"):
        transport(web, cache=tmp_path / "http.db", body_bytes=1000).content_if_changed("/feed", "today")
    assert transport(web, cache=tmp_path / "http.db").content_if_changed("/feed", "today") == b"x" * 5000


def test_only_conditional_requests_use_the_cache(web: WebServer, tmp_path: Path) -> None:
    page = conditional(Answer(b"one", headers={"Cache-Control": "max-age=86400"}), etag='"1"')
    web.pages["/feed"] = page
    api = transport(web, cache=tmp_path / "http.db")
    assert [api.content("/feed") for _ in range(2)] == [b"one", b"one"]
    assert api.content_if_changed("/feed", "today") == b"one"
    assert api.content("/feed") == b"one"
    assert len(web.requests) == 4


def test_without_a_cache_every_page_is_fetched_in_full(web: WebServer) -> None:
    web.pages["/feed"] = conditional(Answer(b"one"), etag='"1"')
    api = transport(web)
    assert [api.content_if_changed("/feed", "today") for _ in range(2)] == [b"one", b"one"]


def test_an_unwritable_cache_is_not_an_error(web: WebServer, tmp_path: Path) -> None:
    web.pages["/feed"] = conditional(Answer(b"one"), etag='"1"')
    (tmp_path / "file").write_text("no folder")
    api = transport(web, cache=tmp_path / "file" / "http.db")
    assert [api.content_if_changed("/feed", "today") for _ in range(2)] == [b"one", b"one"]
    api.forget("/feed", "today")


FETCH_TWICE = """
import sys
from pathlib import Path
from btc_assets.transport import Limits, Transport
api = Transport(sys.argv[1], Limits(requests_per_second=10_000), cache=Path(sys.argv[2]))
for _ in range(2):
    print(*[api.content_if_changed(f"/{number}", "today") for number in range(6)])
"""


def test_processes_and_threads_share_a_cache(web: WebServer, tmp_path: Path) -> None:
    for number in range(6):
        web.pages[f"/{number}"] = conditional(Answer(f"page{number}".encode()), etag=f'"{number}"')
    cache = tmp_path / "http.db"

    def in_a_process(_: int) -> list[str]:
        command = [sys.executable, "-c", FETCH_TWICE, web.url, str(cache)]
        return subprocess.run(command, capture_output=True, text=True, check=True).stdout.split()

    def in_a_thread(_: int) -> list[str]:
        api = transport(web, cache=cache)
        return [str(api.content_if_changed(f"/{number}", "today")) for _ in range(2) for number in range(6)]

    with ThreadPoolExecutor(6) as pool:
        futures = [pool.submit(fetch, 0) for fetch in (in_a_process, in_a_process, *[in_a_thread] * 4)]
    for pages in (future.result() for future in futures):
        assert all(page in ("None", f"b'page{number}'") for number, page in enumerate(pages[:6]))
        assert pages[6:] == ["None"] * 6, "the second round is unchanged"
    with sqlite3.connect(cache) as database:
        assert database.execute("PRAGMA integrity_check").fetchone() == ("ok",)
