"""Coinbase, Kraken, and the failover between venues."""

from __future__ import annotations

import io
import json
import zipfile
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import polars as pl
import pytest

from btc_assets.market.sources.auto import AutoSource
from btc_assets.market.sources.binance import BinanceSource
from btc_assets.market.sources.coinbase import CoinbaseSource
from btc_assets.market.sources.kraken import KrakenSource
from btc_assets.market.tables import PRICES
from btc_assets.transport import SourceMalformedError, SourceRefusedError, SourceUnavailableError
from btc_assets_tests.market.conftest import (
    DAY,
    Answer,
    Exchange,
    candle,
    hours,
    klines_from,
    kraken_row,
    transport,
)

HOUR = timedelta(hours=1)
NOW = DAY + 40 * 24 * HOUR


def coinbase(exchange: Exchange, now: datetime = NOW) -> CoinbaseSource:
    return CoinbaseSource(transport(exchange), "BTC-USD", clock=lambda: now)


def kraken(exchange: Exchange, now: datetime = NOW) -> KrakenSource:
    return KrakenSource(transport(exchange), "XXBTZUSD", clock=lambda: now)


def candles_from(times: list[datetime]) -> Any:
    def respond(path: str, query: dict[str, str]) -> Answer:
        start, end = (datetime.fromisoformat(query[name]) for name in ("start", "end"))
        found = [candle(at) for at in times if start <= at <= end]
        if len(found) > 300:
            return Answer({"message": "granularity too small for the requested time range"}, status=400)
        return Answer(found[::-1])

    return respond


# --- Coinbase --------------------------------------------------------------------------------------
def test_coinbase_is_requested_300_hours_per_page(exchange: Exchange) -> None:
    times = hours(DAY, 700)
    exchange.respond = candles_from(times)
    frame = coinbase(exchange).fetch(DAY, DAY + 700 * HOUR, NOW)
    assert frame["open_time"].to_list() == times
    assert PRICES.faults(frame) == []
    assert len(exchange.requests) == 3
    path, query = exchange.requests[0]
    assert path == "/products/BTC-USD/candles"
    assert query == {"granularity": "3600", "start": "2018-05-05T00:00:00Z", "end": "2018-05-17T11:00:00Z"}


def test_coinbase_columns_are_not_in_the_usual_order(exchange: Exchange, shared_data: Path) -> None:
    recorded = json.loads((shared_data / "fixtures" / "coinbaseexchange_fetchOHLCV.json").read_text())
    exchange.script = [Answer(recorded["httpResponse"])]
    at = datetime(2024, 3, 13, 11, tzinfo=UTC)
    frame = coinbase(exchange, at + 30 * HOUR).fetch(at, at + HOUR, at + 30 * HOUR)
    stamp, *values = recorded["parsedResponse"][0]
    assert frame["open_time"][0].timestamp() * 1000 == stamp
    assert [frame[name][0] for name in ("open", "high", "low", "close", "volume")] == values
    assert frame["trades"].to_list() == [None]


def test_coinbase_oldest_first_is_out_of_order(exchange: Exchange) -> None:
    exchange.script = [Answer([candle(at) for at in hours(DAY, 5)])]
    with pytest.raises(SourceMalformedError, match=r"coinbase returned rows out of order at .*newest first"):
        coinbase(exchange).fetch(DAY, DAY + 5 * HOUR, NOW)


# --- Kraken ----------------------------------------------------------------------------------------
def test_kraken_rows_come_under_another_name_than_the_pair(exchange: Exchange) -> None:
    rows = [kraken_row(at) for at in hours(DAY, 6)]
    exchange.script = [Answer({"error": [], "result": {"XBT/USD": rows, "last": 1}})]
    frame = kraken(exchange, DAY + 6 * HOUR).fetch(DAY, DAY + 24 * HOUR, DAY + 5 * HOUR + timedelta(minutes=30))
    assert frame["open_time"].to_list() == hours(DAY, 5), "the sixth is not closed"
    assert frame["quote_volume"].to_list() == [100.5 * 10.0] * 5
    assert frame["trades"].to_list() == [42] * 5
    assert frame["taker_buy_volume"].null_count() == 5
    assert PRICES.faults(frame) == []
    assert exchange.requests[0][1]["since"] == str(int((DAY - HOUR).timestamp()))


def test_kraken_does_not_go_back_further_than_720_hours(exchange: Exchange) -> None:
    with pytest.raises(SourceRefusedError, match="kraken serves only the newest 720 hours, from 2018-05-15 00:00 UTC"):
        kraken(exchange).fetch(DAY, DAY + 24 * HOUR, NOW)
    assert exchange.requests == []


@pytest.mark.parametrize(
    ("message", "kind", "sentence"),
    [
        ("EQuery:Unknown asset pair", SourceRefusedError, "check BTC_KRAKEN_PAIR"),
        ("EGeneral:Too many requests", SourceUnavailableError, "try again later"),
        ("EService:Unavailable", SourceUnavailableError, "try again later"),
    ],
)
def test_kraken_reports_errors_in_a_successful_response(
    message: str, kind: type[Exception], sentence: str, exchange: Exchange
) -> None:
    exchange.script = [Answer({"error": [message]})]
    with pytest.raises(kind, match=sentence):
        kraken(exchange, DAY + 6 * HOUR).fetch(DAY, DAY + 5 * HOUR, DAY + 6 * HOUR)


@pytest.mark.parametrize(
    "body", [[], {"error": []}, {"error": [], "result": {"last": 1}}, {"result": {"A": [], "B": []}}, "sorry"]
)
def test_kraken_answers_of_another_shape_are_refused(body: Any, exchange: Exchange) -> None:
    exchange.script = [Answer(body)]
    with pytest.raises(SourceMalformedError, match="kraken: expected"):
        kraken(exchange, DAY + 6 * HOUR).fetch(DAY, DAY + 5 * HOUR, DAY + 6 * HOUR)


# --- failover --------------------------------------------------------------------------------------
class Venues:
    """One server that plays all three venues."""

    def __init__(self, exchange: Exchange) -> None:
        self.known: dict[str, list[datetime]] = {"binance": [], "coinbase": [], "kraken": []}
        self.down: set[str] = set()
        self.requests: list[str] = []
        exchange.respond = self.respond

    def respond(self, path: str, query: dict[str, str]) -> Answer:
        venue = {"api": "binance", "products": "coinbase", "0": "kraken"}[path.split("/")[1]]
        self.requests.append(venue)
        if venue in self.down:
            return Answer(status=451)
        times = self.known[venue]
        if venue == "binance":
            return klines_from(times)(path, query)
        if venue == "coinbase":
            return candles_from(times)(path, query)
        return Answer({"error": [], "result": {"XXBTZUSD": [kraken_row(at) for at in times], "last": 0}})


@pytest.fixture
def venues(exchange: Exchange) -> Venues:
    return Venues(exchange)


def auto(exchange: Exchange, now: datetime) -> AutoSource:
    api = transport(exchange)
    return AutoSource([BinanceSource(api, api, "BTCUSDT", lambda: now), coinbase(exchange, now), kraken(exchange, now)])


NOON = DAY + 12 * HOUR + timedelta(minutes=5)


def test_the_first_venue_that_has_every_hour_is_the_only_one_requested(exchange: Exchange, venues: Venues) -> None:
    venues.known = dict.fromkeys(venues.known, hours(DAY, 13))
    frame = auto(exchange, NOON).fetch(DAY, DAY + 24 * HOUR, NOON)
    assert frame["venue"].to_list() == ["binance"] * 12
    assert venues.requests == ["binance"]


@pytest.mark.parametrize(
    ("down", "source"), [({"binance"}, "coinbase"), ({"binance", "coinbase"}, "kraken"), ({"coinbase"}, "binance")]
)
def test_the_next_venue_takes_over_and_is_named_on_each_row(
    down: set[str], source: str, exchange: Exchange, venues: Venues
) -> None:
    venues.known = dict.fromkeys(venues.known, hours(DAY, 12))
    venues.down = down
    frame = auto(exchange, NOON).fetch(DAY, DAY + 24 * HOUR, NOON)
    assert frame["venue"].to_list() == [source] * 12
    assert PRICES.faults(frame) == []


def test_missing_hours_are_filled_by_the_next_venue_hour_by_hour(exchange: Exchange, venues: Venues) -> None:
    every = hours(DAY, 12)
    venues.known = {"binance": every[:4] + every[6:], "coinbase": every[:5] + every[8:], "kraken": every}
    frame = auto(exchange, NOON).fetch(DAY, DAY + 24 * HOUR, NOON)
    assert frame["open_time"].to_list() == every
    assert frame.filter(pl.col("venue") != "binance")["venue"].to_list() == ["coinbase", "kraken"]
    assert PRICES.faults(frame) == []


def test_a_gap_that_no_venue_can_fill_stays_a_gap(exchange: Exchange, venues: Venues) -> None:
    every = hours(DAY, 12)
    venues.known = dict.fromkeys(venues.known, every[:4] + every[6:])
    assert auto(exchange, NOON).fetch(DAY, DAY + 24 * HOUR, NOON)["open_time"].to_list() == every[:4] + every[6:]


def test_when_every_venue_fails_each_says_why(exchange: Exchange, venues: Venues) -> None:
    venues.down = {"binance", "coinbase"}
    with pytest.raises(SourceUnavailableError) as error:
        auto(exchange, NOON).fetch(DAY, DAY + 24 * HOUR, NOON)
    for message in ("No venue returned a bar from 2018-05-05 00:00", "binance: ", "HTTP 451", "coinbase: ", "kraken: "):
        assert message in str(error.value)


def test_an_archive_fault_of_one_venue_fails_over_to_the_next(exchange: Exchange, venues: Venues) -> None:
    """Every member of a password-protected zip asks for a password, which is no error of the transport."""
    target = io.BytesIO()
    with zipfile.ZipFile(target, "w") as archive:
        archive.writestr("BTCUSDT-1h-2018-05.csv", "anything")
    raw = bytearray(target.getvalue())
    for mark, flags in ((b"PK\x03\x04", 6), (b"PK\x01\x02", 8)):
        raw[raw.index(mark) + flags] |= 1
    venues.known = dict.fromkeys(venues.known, hours(DAY, 24 * 40))
    answered = exchange.respond
    exchange.respond = lambda path, query: (
        answered(path, query)
        if not path.startswith("/data/")
        else Answer(bytes(raw))
        if path.endswith(".zip")
        else Answer(status=404)
    )
    frame = auto(exchange, NOW).fetch(DAY, DAY + 34 * 24 * HOUR, NOW)
    assert set(frame["venue"]) == {"coinbase"}
    assert frame.height == 24 * 34
