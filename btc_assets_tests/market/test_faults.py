"""Every fault of a source fails the run with an explanation and leaves the stored partition unchanged."""

from __future__ import annotations

import json
from collections.abc import Callable
from datetime import date, datetime, timedelta

import dagster as dg
import pytest

from btc_assets.lake import Lake
from btc_assets.market.assets import prices
from btc_assets.market.resources import Market
from btc_assets.market.sources.binance import BinanceSource
from btc_assets.market.sources.protocol import MarketSource
from btc_assets.market.tables import PRICES
from btc_assets.reads import lake_resources
from btc_assets.transport import SourceError, SourceMalformedError, SourceRefusedError, SourceUnavailableError
from btc_assets_tests.market.conftest import DAY, Answer, Exchange, bars, hours, kline, klines_from, transport

HOUR = timedelta(hours=1)
NOW = DAY + 12 * HOUR + timedelta(minutes=5)
KEY = "2018-05-05"


def binance(exchange: Exchange, now: datetime = NOW, **limits: float) -> BinanceSource:
    api = transport(exchange, **limits)
    return BinanceSource(api, api, "BTCUSDT", clock=lambda: now)


Run = Callable[..., dg.ExecuteInProcessResult]


@pytest.fixture
def materialise(instance: dg.DagsterInstance, lake: Lake) -> Run:
    """Return what materialises the bars of the day from a source."""

    def run(source: MarketSource, now: datetime = NOW) -> dg.ExecuteInProcessResult:
        resources = {**lake_resources(lake), "market": Market(source, lambda: now)}
        return dg.materialize([prices], resources=resources, partition_key=KEY, instance=instance)

    return run


def _changed(place: int, value: object) -> list[list[object]]:
    rows = [kline(at) for at in hours(DAY, 12)]
    rows[3][place] = value
    return rows


ROWS = [kline(at) for at in hours(DAY, 12)]
KST = [kline(at + 9 * HOUR) for at in hours(DAY, 12)]
FAULTS: dict[str, tuple[list[Answer], type[SourceError], str]] = {
    "429 on every try": (
        [Answer(status=429)] * 3,
        SourceUnavailableError,
        "HTTP 429, the service limits the request rate",
    ),
    "418 on every try": (
        [Answer(status=418, headers={"Retry-After": "0.01"})] * 3,
        SourceUnavailableError,
        "gave up after 3 attempts",
    ),
    "429 with a long wait": (
        [Answer(status=429, headers={"Retry-After": "3600"})],
        SourceUnavailableError,
        "a retry after 3600 s, longer than BTC_HTTP_MAX_WAIT_S",
    ),
    "451": (
        [Answer(status=451)],
        SourceRefusedError,
        "does not serve this location; check the base URL and symbol, or choose another BTC_MARKET_SOURCE",
    ),
    "403": ([Answer(status=403)], SourceRefusedError, "HTTP 403, the service refuses the request"),
    "404": ([Answer(status=404)], SourceRefusedError, "check the base URL and symbol"),
    "redirect": ([Answer(status=302, headers={"Location": "/x"})], SourceRefusedError, "HTTP 302"),
    "500 on every try": (
        [Answer(status=500)] * 3,
        SourceUnavailableError,
        "HTTP 500, the service has an internal",
    ),
    "timeout": (
        [Answer(ROWS, delay_s=5)] * 3,
        SourceUnavailableError,
        "no response within 0.15 s (BTC_HTTP_TIMEOUT_S)",
    ),
    "body cut": ([Answer(ROWS, cut=True)] * 3, SourceUnavailableError, "the connection failed or was cut"),
    "JSON cut": ([Answer(json.dumps(ROWS).encode()[:-200])], SourceMalformedError, "truncated or not JSON"),
    "not JSON": ([Answer(b"maintenance")], SourceMalformedError, "starts with 'maintenance'"),
    "HTML": ([Answer(b"<!DOCTYPE html><html>busy</html>")], SourceMalformedError, "the response is an HTML page"),
    "an object": ([Answer({"code": -1121, "msg": "no"})], SourceMalformedError, "expected a list of bars"),
    "short rows": ([Answer([[1, 2]])], SourceMalformedError, "expected rows of 11 values, got '[1, 2]'"),
    "empty list": ([Answer([])], SourceMalformedError, "an empty list; expected 12"),
    "a word for a price": ([Answer(_changed(4, "abc"))], SourceMalformedError, "close is 'abc'; expected a finite"),
    "null for a price": ([Answer(_changed(1, None))], SourceMalformedError, "open is None; expected a finite number"),
    "true for a price": ([Answer(_changed(1, True))], SourceMalformedError, "open is True; expected a finite number"),
    "NaN in a string": ([Answer(_changed(4, "NaN"))], SourceMalformedError, "close is 'NaN'; expected a finite number"),
    "NaN in JSON": (
        [Answer(json.dumps(_changed(4, float("nan"))).encode())],
        SourceMalformedError,
        "truncated or not JSON",
    ),
    "infinite": ([Answer(_changed(2, "1e999"))], SourceMalformedError, "high is '1e999'; expected a finite number"),
    "negative price": ([Answer(_changed(3, "-99.0"))], SourceMalformedError, "expected low above zero, got -99.0"),
    "zero price": ([Answer(_changed(1, "0"))], SourceMalformedError, "expected open above zero, got 0.0"),
    "negative volume": ([Answer(_changed(5, "-1"))], SourceMalformedError, "expected volume not below zero, got -1.0"),
    "half a trade": ([Answer(_changed(8, 41.5))], SourceMalformedError, "trades is 41.5; expected a whole number"),
    "impossible high": ([Answer(_changed(2, "99.5"))], SourceMalformedError, "expected high to be the highest price"),
    "out of order": ([Answer(ROWS[:4] + ROWS[6:7] + ROWS[4:6])], SourceMalformedError, "rows out of order"),
    "an hour twice": (
        [Answer([*ROWS[:4], kline(DAY + 3 * HOUR, 100.5), *ROWS[4:]])],
        SourceMalformedError,
        "2018-05-05 03:00:00+00:00 twice with different values",
    ),
    "from the future": (
        [Answer([*ROWS, kline(DAY + 14 * HOUR)])],
        SourceMalformedError,
        "a bar from the future: expected none that opens after 2018-05-05 12:05 UTC, got 2018-05-05 14:00 UTC",
    ),
    "KST": ([Answer(KST)], SourceMalformedError, "KST is 9 hours ahead"),
    "off the hour": (
        [Answer([*ROWS[:3], kline(DAY + 3 * HOUR + timedelta(minutes=30)), *ROWS[4:]])],
        SourceMalformedError,
        "expected a bar that opens on the hour, got one at 2018-05-05 03:30",
    ),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_a_fault_says_what_is_wrong_and_leaves_the_partition_untouched(
    fault: str, exchange: Exchange, lake: Lake, materialise: Run
) -> None:
    answers, kind, sentence = FAULTS[fault]
    lake.write(PRICES, date(2018, 5, 5), bars(hours(DAY, 5), close=100.25))
    before = lake.fingerprint(PRICES, date(2018, 5, 5))
    exchange.script = list(answers)
    source = binance(exchange, timeout_s=0.15 if fault == "timeout" else 5.0)
    with pytest.raises(kind) as error:
        materialise(source)
    assert sentence in str(error.value)
    assert lake.fingerprint(PRICES, date(2018, 5, 5)) == before
    assert lake.days(PRICES) == [date(2018, 5, 5)]
    assert exchange.script == [], "every scripted answer was requested"


def test_the_same_run_without_a_fault_stores_the_day(exchange: Exchange, lake: Lake, materialise: Run) -> None:
    exchange.respond = klines_from(hours(DAY, 13))
    assert materialise(binance(exchange)).success
    stored = lake.read(PRICES, date(2018, 5, 5))
    assert stored is not None
    assert stored["open_time"].to_list() == hours(DAY, 12), "the thirteenth hour is not closed yet"


@pytest.mark.parametrize("status", [418, 429, 500, 503])
def test_a_transient_fault_is_retried(status: int, exchange: Exchange, materialise: Run) -> None:
    exchange.script = [Answer(status=status, headers={"Retry-After": "0.02"})] * 2
    exchange.respond = klines_from(hours(DAY, 12))
    assert materialise(binance(exchange)).success
    assert len(exchange.requests) == 3


def test_a_history_in_another_zone_is_refused_by_comparison_with_the_stored_one(
    exchange: Exchange, lake: Lake, materialise: Run
) -> None:
    """An old dump with times 9 hours ahead has no bar from the future; only the stored bars reveal the shift."""
    walk = [100.0 + n / 10 for n in range(24)]
    closes = dict(zip(hours(DAY, 24), walk, strict=True))
    lake.write(PRICES, date(2018, 5, 5), bars(hours(DAY, 24), close=walk, high=110.0))
    before = lake.fingerprint(PRICES, date(2018, 5, 5))
    rows = [kline(at + 9 * HOUR, close) for at, close in closes.items()]
    for row in rows:
        row[2] = "110.0"
    exchange.script = [Answer(rows)]
    now = DAY + timedelta(days=3)
    with pytest.raises(SourceMalformedError, match="equal the stored bars 9 hours earlier"):
        materialise(binance(exchange, now), now)
    assert lake.fingerprint(PRICES, date(2018, 5, 5)) == before


def test_a_killed_or_failed_write_is_no_partition(exchange: Exchange, lake: Lake, materialise: Run) -> None:
    exchange.script = [Answer(status=451)]
    with pytest.raises(SourceRefusedError):
        materialise(binance(exchange))
    assert lake.days(PRICES) == []


def _mutant_without(rule: str) -> Callable[..., object]:
    return lambda *args, **kwargs: args[1] if rule != "first_fault" else None


@pytest.mark.parametrize(
    ("rule", "fault"),
    [("first_fault", "negative price"), ("valid_bars", "from the future"), ("in_order", "an hour twice")],
)
def test_without_the_rule_the_fault_would_pass(
    rule: str, fault: str, exchange: Exchange, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each refusal above is due to the rule it names."""
    module = "answer" if rule == "first_fault" else "binance"
    monkeypatch.setattr(f"btc_assets.market.sources.{module}.{rule}", _mutant_without(rule))
    exchange.script = list(FAULTS[fault][0])
    assert binance(exchange).fetch(DAY, DAY + 12 * HOUR, NOW).height >= 12
