"""Binance: pages, the archive, and recorded answers."""

from __future__ import annotations

import hashlib
import io
import json
import zipfile
from datetime import UTC, datetime, timedelta
from pathlib import Path

import polars as pl
import pytest

from btc_assets.market.sources.binance import BinanceSource
from btc_assets.market.tables import PRICES
from btc_assets.transport import SourceMalformedError
from btc_assets_tests.market.conftest import Answer, Exchange, hours, kline, klines_from, transport

HOUR = timedelta(hours=1)
START = datetime(2024, 12, 1, tzinfo=UTC)
NOW = datetime(2025, 6, 1, tzinfo=UTC)


def binance(exchange: Exchange, now: datetime = NOW) -> BinanceSource:
    return BinanceSource(transport(exchange), transport(exchange), "BTCUSDT", clock=lambda: now)


def zipped(times: list[datetime], *, unit: str = "ms", header: bool = False) -> bytes:
    scale = {"ms": 1, "us": 1000}[unit]
    lines = ["open_time,open,high,low,close,volume,close_time,quote_volume,count,taker_buy_volume,tbqv,ignore"]
    lines = lines if header else []
    for at in times:
        row = kline(at)
        row[0], row[6] = row[0] * scale, row[6] * scale + (scale - 1)
        lines.append(",".join(str(value) for value in row))
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        archive.writestr("BTCUSDT-1h.csv", "\n".join(lines) + "\n")
    return buffer.getvalue()


class Archive:
    """An archive with some months and days, next to the REST API."""

    def __init__(self, exchange: Exchange, times: list[datetime], months: list[str], days: list[str]) -> None:
        self.files: dict[str, bytes] = {}
        for stamp, period in [*((m, "monthly") for m in months), *((d, "daily") for d in days)]:
            inside = [at for at in times if f"{at:%Y-%m-%d}".startswith(stamp)]
            name = f"/data/spot/{period}/klines/BTCUSDT/1h/BTCUSDT-1h-{stamp}.zip"
            self.files[name] = zipped(inside, unit="us" if stamp >= "2025" else "ms")
            digest = hashlib.sha256(self.files[name]).hexdigest()
            self.files[f"{name}.CHECKSUM"] = f"{digest}  BTCUSDT-1h-{stamp}.zip\n".encode()
        rest = klines_from(times)
        exchange.respond = lambda path, query: Answer(self.files[path]) if path in self.files else rest(path, query)


def rest_requests(exchange: Exchange) -> list[dict[str, str]]:
    return [query for path, query in exchange.requests if path == "/api/v3/klines"]


def test_a_recorded_answer_is_read_as_recorded(exchange: Exchange, shared_data: Path) -> None:
    recorded = json.loads((shared_data / "fixtures" / "binance_fetchOHLCV.json").read_text())
    exchange.script = [Answer(recorded["httpResponse"])]
    first = datetime(2024, 3, 13, 9, tzinfo=UTC)
    frame = binance(exchange).fetch(first, first + 3 * HOUR, NOW)
    parsed = [
        [int(row["open_time"].timestamp() * 1000), *(row[name] for name in ("open", "high", "low", "close", "volume"))]
        for row in frame.iter_rows(named=True)
    ]
    assert parsed == recorded["parsedResponse"]
    assert frame["trades"].to_list() == [100913, 81470, 87471]
    assert frame["taker_buy_quote_volume"][0] == 81760569.5451198
    path, query = exchange.requests[0]
    assert path == "/api/v3/klines"
    assert query == {
        "symbol": "BTCUSDT",
        "interval": "1h",
        "startTime": "1710320400000",
        "endTime": str(1710320400000 + 3 * 3_600_000 - 1),
        "limit": "1000",
    }


def test_a_day_is_one_request_and_keeps_its_contract(exchange: Exchange) -> None:
    exchange.respond = klines_from(hours(START, 200))
    frame = binance(exchange).fetch(START, START + 24 * HOUR, NOW)
    assert frame["open_time"].to_list() == hours(START, 24)
    assert PRICES.faults(frame) == []
    assert len(exchange.requests) == 1


def test_the_unfinished_bar_is_left_out(exchange: Exchange) -> None:
    exchange.respond = klines_from(hours(START, 200))
    now = START + 5 * HOUR + timedelta(minutes=59, seconds=59)
    frame = binance(exchange, now).fetch(START, START + 24 * HOUR, now)
    assert frame["open_time"].to_list() == hours(START, 5)


def test_pages_of_1000_are_followed_to_the_end(exchange: Exchange) -> None:
    times = hours(START, 2400)
    exchange.respond = klines_from(times)
    source = binance(exchange)
    pages = pl.concat(source._pages(START, START + 2400 * HOUR))
    assert pages["open_time"].to_list() == times
    assert len(exchange.requests) == 3


def test_a_venue_that_repeats_one_page_is_refused(exchange: Exchange) -> None:
    page = [kline(at) for at in hours(START, 1000)]
    exchange.respond = lambda path, query: Answer(page)
    with pytest.raises(SourceMalformedError, match="returned only bars before the requested"):
        binance(exchange)._pages(START, START + 5000 * HOUR)


def test_a_long_span_is_read_from_the_archive_and_its_end_from_the_api(exchange: Exchange) -> None:
    times = hours(START, 24 * 66)  # to 2025-02-04 inclusive
    Archive(exchange, times, ["2024-12", "2025-01"], ["2025-02-01", "2025-02-02"])
    frame = binance(exchange).fetch(START, START + len(times) * HOUR, NOW)
    assert frame["open_time"].to_list() == times
    assert PRICES.faults(frame) == []
    assert frame["venue"].unique().to_list() == ["binance"]
    assert [query["startTime"] for query in rest_requests(exchange)] == [
        str(int(datetime(2025, 2, 3, tzinfo=UTC).timestamp() * 1000))
    ]


def test_a_first_month_that_the_archive_lacks_comes_from_the_api(exchange: Exchange) -> None:
    times = hours(START, 24 * 62)
    Archive(exchange, times, ["2025-01"], [])
    frame = binance(exchange).fetch(START, START + len(times) * HOUR, NOW)
    assert frame["open_time"].to_list() == times


def test_the_archive_and_the_api_return_the_same_bars(exchange: Exchange) -> None:
    times = hours(START, 24 * 62)
    exchange.respond = klines_from(times)
    from_api = binance(exchange).fetch(START, START + len(times) * HOUR, NOW)
    Archive(exchange, times, ["2024-12", "2025-01"], [])
    exchange.requests.clear()
    from_archive = binance(exchange).fetch(START, START + len(times) * HOUR, NOW)
    assert from_archive.equals(from_api)
    assert rest_requests(exchange) == []


def test_a_short_span_does_not_use_the_archive(exchange: Exchange) -> None:
    exchange.respond = klines_from(hours(START, 24 * 40))
    binance(exchange).fetch(START, START + timedelta(days=31), NOW)
    assert {path for path, _ in exchange.requests} == {"/api/v3/klines"}


def test_months_before_the_listing_are_absent(exchange: Exchange) -> None:
    times = hours(datetime(2025, 1, 10, tzinfo=UTC), 24 * 22)
    Archive(exchange, times, ["2025-01"], [])
    frame = binance(exchange).fetch(START, datetime(2025, 2, 1, tzinfo=UTC), NOW)
    assert frame["open_time"].to_list() == times


def test_the_api_replaces_an_unreachable_archive(exchange: Exchange) -> None:
    times = hours(START, 24 * 62)
    rest = klines_from(times)
    exchange.respond = lambda path, query: rest(path, query) if path.startswith("/api") else Answer(status=403)
    assert binance(exchange).fetch(START, START + len(times) * HOUR, NOW)["open_time"].to_list() == times


def test_a_damaged_archive_is_refused(exchange: Exchange) -> None:
    archive = Archive(exchange, hours(START, 24 * 62), ["2024-12", "2025-01"], [])
    name = next(name for name in archive.files if name.endswith("2024-12.zip"))
    archive.files[name] = zipped(hours(START, 3))
    with pytest.raises(SourceMalformedError, match=r"BTCUSDT-1h-2024-12.zip: expected sha256 \w+, got \w+; the downl"):
        binance(exchange).fetch(START, START + timedelta(days=60), NOW)


@pytest.mark.parametrize(
    ("content", "sentence"),
    [(b"PK not a zip", "is not a valid zip file"), (b"<html>sorry</html>", "is not a valid zip file")],
)
def test_an_archive_without_checksum_must_still_be_valid(exchange: Exchange, content: bytes, sentence: str) -> None:
    archive = Archive(exchange, hours(START, 24 * 62), ["2024-12"], [])
    for name in list(archive.files):
        if name.endswith(".CHECKSUM"):
            del archive.files[name]
        else:
            archive.files[name] = content
    with pytest.raises(SourceMalformedError, match=sentence):
        binance(exchange).fetch(START, START + timedelta(days=60), NOW)


def test_an_archive_file_may_carry_a_header(exchange: Exchange) -> None:
    archive = Archive(exchange, hours(START, 24 * 62), ["2024-12", "2025-01"], [])
    for name in list(archive.files):
        if name.endswith(".CHECKSUM"):
            del archive.files[name]
    name = next(name for name in archive.files if name.endswith("2024-12.zip"))
    archive.files[name] = zipped(hours(START, 24 * 31), header=True)
    assert binance(exchange).fetch(START, START + timedelta(days=62), NOW).height == 24 * 62
