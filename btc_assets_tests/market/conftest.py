"""A fake exchange on a real local socket, and bars in each venue's format."""

from __future__ import annotations

import contextlib
import json
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import parse_qsl, urlsplit

import polars as pl
import pytest

from btc_assets.lake import Lake
from btc_assets.market.sources.choose import REMEDY
from btc_assets.transport import Limits, Transport

DAY = datetime(2018, 5, 5, tzinfo=UTC)
"""The day that the tests materialise, within the sample."""


@dataclass
class Answer:
    """One answer of the fake exchange."""

    body: Any = b""
    status: int = 200
    headers: dict[str, str] = field(default_factory=dict)
    delay_s: float = 0.0
    cut: bool = False

    def content(self) -> bytes:
        return self.body if isinstance(self.body, bytes) else json.dumps(self.body).encode()


class Exchange:
    """Answers from `script` first, one per request, then from `respond`."""

    def __init__(self) -> None:
        self.script: list[Answer] = []
        self.respond: Callable[[str, dict[str, str]], Answer] = lambda path, query: Answer(status=404)
        self.requests: list[tuple[str, dict[str, str]]] = []
        self.headers: list[dict[str, str]] = []
        self.closing = threading.Event()
        exchange = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                url = urlsplit(self.path)
                query = dict(parse_qsl(url.query))
                exchange.requests.append((url.path, query))
                exchange.headers.append(dict(self.headers))
                answer = exchange.script.pop(0) if exchange.script else exchange.respond(url.path, query)
                if answer.delay_s and exchange.closing.wait(answer.delay_s):
                    return
                content = answer.content()
                self.send_response(answer.status)
                self.send_header("Content-Length", str(len(content) * 2 if answer.cut else len(content)))
                for name, value in answer.headers.items():
                    self.send_header(name, value)
                self.end_headers()
                with contextlib.suppress(OSError):
                    self.wfile.write(content)
                self.close_connection = True

            def log_message(self, *args: object) -> None:
                pass

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.server.daemon_threads = True
        self.url = f"http://127.0.0.1:{self.server.server_address[1]}"
        threading.Thread(target=lambda: self.server.serve_forever(poll_interval=0.02), daemon=True).start()

    def close(self) -> None:
        self.closing.set()
        self.server.shutdown()
        self.server.server_close()


@pytest.fixture
def exchange() -> Iterator[Exchange]:
    server = Exchange()
    yield server
    server.close()


@pytest.fixture
def lake(tmp_path: Path) -> Lake:
    return Lake(root=str(tmp_path / "lake"))


def transport(exchange: Exchange, **limits: float) -> Transport:
    """Return a transport to the fake exchange with short waits."""
    patience = {"timeout_s": 5.0, "attempts": 3, "max_wait_s": 0.05, "requests_per_second": 10_000.0} | limits
    return Transport(exchange.url, Limits(**patience), remedy=REMEDY)  # type: ignore[arg-type]


def hours(start: datetime, count: int) -> list[datetime]:
    return [start + timedelta(hours=n) for n in range(count)]


def ms(at: datetime) -> int:
    return int(at.timestamp() * 1000)


def kline(at: datetime, close: float = 100.0) -> list[Any]:
    """Return a bar in Binance's format."""
    return [
        ms(at), "100.0", f"{max(101.0, close)}", "99.0", f"{close}", "10.5", ms(at) + 3_599_999,
        "1050.0", 42, "5.25", "525.0", "0",
    ]  # fmt: skip


def candle(at: datetime, close: float = 100.0) -> list[Any]:
    """Return a bar in Coinbase's format."""
    return [int(at.timestamp()), 99.0, max(101.0, close), 100.0, close, 10.5]


def kraken_row(at: datetime, close: float = 100.0) -> list[Any]:
    """Return a bar in Kraken's format."""
    return [int(at.timestamp()), "100.0", f"{max(101.0, close)}", "99.0", f"{close}", "100.5", "10.0", 42]


def klines_from(times: list[datetime]) -> Callable[[str, dict[str, str]], Answer]:
    """Return a fake Binance that has these hours and pages like the real one."""

    def respond(path: str, query: dict[str, str]) -> Answer:
        if path != "/api/v3/klines":
            return Answer(status=404)
        start, end, limit = int(query["startTime"]), int(query["endTime"]), int(query["limit"])
        return Answer([kline(at) for at in times if start <= ms(at) <= end][:limit])

    return respond


def bars(times: list[datetime], **columns: Any) -> pl.DataFrame:
    """Return a PRICES frame of flat bars at these times."""
    from btc_assets.market.tables import PRICES

    values: dict[str, Any] = {
        "open": 100.0, "high": 101.0, "low": 99.0, "close": 100.0, "volume": 10.5, "quote_volume": None,
        "trades": None, "taker_buy_volume": None, "taker_buy_quote_volume": None, "venue": "binance",
    } | columns  # fmt: skip
    frame = pl.DataFrame({"open_time": times}, schema={"open_time": PRICES.columns["open_time"]})
    return frame.with_columns(
        pl.Series(name, value, dtype=PRICES.columns[name])
        if isinstance(value, list)
        else pl.lit(value, PRICES.columns[name]).alias(name)
        for name, value in values.items()
    ).select(list(PRICES.columns))
