"""A local HTTP server with configurable answers, and RSS feeds as publishers write them."""

from __future__ import annotations

import contextlib
import gzip
import json
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime
from html import escape
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import parse_qsl, urlsplit

import pytest

from btc_assets.transport import Limits, Transport

NOW = datetime(2026, 8, 15, 18, 0, tzinfo=UTC)
"""Current time of the tests."""
FAST = {"timeout_s": 5.0, "attempts": 3, "max_wait_s": 0.05, "requests_per_second": 10_000.0}
"""Limits of a transport with short waits."""


@dataclass
class Answer:
    """One HTTP response of the server.

    Attributes:
        body: bytes or text are sent unchanged, any other value as JSON.
        status: HTTP status.
        headers: headers in addition to Content-Length.
        delay_s: seconds before the response starts.
        cut: whether the connection closes in the middle of the body.
        packed: whether the body is gzipped.
        drip_s: seconds after each byte of the body.
        drip_head_s: seconds after each header of an endless header section; no body follows.
    """

    body: Any = b""
    status: int = 200
    headers: dict[str, str] = field(default_factory=dict)
    delay_s: float = 0.0
    cut: bool = False
    packed: bool = False
    drip_s: float = 0.0
    drip_head_s: float = 0.0

    def content(self) -> bytes:
        content = self.body.encode() if isinstance(self.body, str) else self.body
        content = content if isinstance(content, bytes) else json.dumps(content).encode()
        return gzip.compress(content, mtime=0) if self.packed else content


def redirect(to: str, status: int = 302) -> Answer:
    """Return a redirect."""
    return Answer(status=status, headers={"Location": to})


def conditional(answer: Answer, etag: str = "", last_modified: str = "") -> Callable[[dict[str, str]], Answer]:
    """Return a page that answers 304 to a request with a matching validator."""
    validators = {"ETag": etag} if etag else {}
    validators |= {"Last-Modified": last_modified} if last_modified else {}

    def respond(headers: dict[str, str]) -> Answer:
        matches = (etag and headers.get("if-none-match") == etag) or (
            last_modified and headers.get("if-modified-since") == last_modified
        )
        return (
            Answer(status=304, headers=validators) if matches else replace(answer, headers=answer.headers | validators)
        )

    return respond


class WebServer:
    """Answers from `script` first, one per request, then from `pages` by path, then from `respond`.

    Attributes:
        script: answers to the next requests, independent of their path.
        pages: an answer per path, or a function of the request's headers (names in lower case).
        respond: a function of path and query.
        requests: path and query of each request, in order.
        headers: headers of each request, names in lower case.
    """

    def __init__(self) -> None:
        self.script: list[Answer] = []
        self.pages: dict[str, Answer | Callable[[dict[str, str]], Answer]] = {}
        self.respond: Callable[[str, dict[str, str]], Answer] = lambda path, query: Answer(status=404)
        self.requests: list[tuple[str, dict[str, str]]] = []
        self.headers: list[dict[str, str]] = []
        self.closing = threading.Event()
        server = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                url = urlsplit(self.path)
                query = dict(parse_qsl(url.query))
                headers = {name.lower(): value for name, value in self.headers.items()}
                server.requests.append((url.path, query))
                server.headers.append(headers)
                self.close_connection = True
                with contextlib.suppress(OSError):
                    self.send(server.answer(url.path, query, headers))

            def send(self, answer: Answer) -> None:
                if answer.delay_s and server.closing.wait(answer.delay_s):
                    return
                content = answer.content()
                self.send_response(answer.status)
                if answer.status != 304:
                    self.send_header("Content-Length", str(len(content) * 2 if answer.cut else len(content)))
                if answer.packed:
                    self.send_header("Content-Encoding", "gzip")
                for name, value in answer.headers.items():
                    self.send_header(name, value)
                while answer.drip_head_s and not server.closing.wait(answer.drip_head_s):
                    self.send_header("X-More", "x")
                    self.flush_headers()
                self.end_headers()
                for place in range(len(content) if answer.drip_s else 0):
                    self.wfile.write(content[place : place + 1])
                    if server.closing.wait(answer.drip_s):
                        return
                if not answer.drip_s:
                    self.wfile.write(content)

            def log_message(self, *args: object) -> None:
                pass

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.server.daemon_threads = True
        self.url = f"http://127.0.0.1:{self.server.server_address[1]}"
        threading.Thread(target=lambda: self.server.serve_forever(poll_interval=0.02), daemon=True).start()

    def answer(self, path: str, query: dict[str, str], headers: dict[str, str]) -> Answer:
        if self.script:
            return self.script.pop(0)
        page = self.pages.get(path)
        if page is None:
            return self.respond(path, query)
        return page if isinstance(page, Answer) else page(headers)

    def close(self) -> None:
        self.closing.set()
        self.server.shutdown()
        self.server.server_close()


@contextlib.contextmanager
def web_server() -> Iterator[WebServer]:
    """Run a server for the duration of the block."""
    server = WebServer()
    try:
        yield server
    finally:
        server.close()


@pytest.fixture
def web() -> Iterator[WebServer]:
    with web_server() as server:
        yield server


def transport(web: WebServer, **options: Any) -> Transport:
    """Return a transport with short waits to the local server; options are those of `Limits` and `Transport`."""
    transport_options = {name: options.pop(name) for name in ("cache", "remedy") if name in options}
    return Transport(web.url, Limits(**(FAST | options)), **transport_options)


def rss_item(number: int, **changes: str | None) -> str:
    """Return one item of an RSS feed as markup; None omits a field."""
    fields: dict[str, str | None] = {
        "title": f"Bitcoin story number {number}",
        "link": f"https://news.example/{number}",
        "guid": f"id-{number}",
        "pubDate": format_datetime(NOW - timedelta(minutes=number), usegmt=True),
        "description": f"Summary of story {number}.",
    } | changes
    inner = "".join(f"<{name}>{escape(value, quote=False)}</{name}>" for name, value in fields.items() if value)
    return f"<item>{inner}</item>"


def rss_feed(*items: str, head: str = '<?xml version="1.0" encoding="UTF-8"?>') -> str:
    """Return an RSS feed as markup, by default with three items."""
    inner = "".join(items or [rss_item(number) for number in (1, 2, 3)])
    return f'{head}<rss version="2.0"><channel><title>News</title>{inner}</channel></rss>'
