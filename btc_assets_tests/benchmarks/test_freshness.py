"""The clock and the exchange of the freshness benchmark."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta

import pytest

from benchmarks.freshness import HISTORY_UNTIL, Exchange, Freshness
from btc_assets.settings import PROJECT_ROOT
from btc_assets_tests.conftest import random_walk_bars

HOUR, MINUTE = timedelta(hours=1), timedelta(minutes=1)
LATE = timedelta(seconds=20)


@pytest.fixture
def exchange() -> Iterator[Exchange]:
    """Return an exchange whose clock started 5.5 minutes ago and whose bars are 20 s late."""
    opened = Exchange(random_walk_bars(48, start=HISTORY_UNTIL - 24 * HOUR), LATE)
    opened.starts_at = datetime.now(tz=UTC) - 5.5 * MINUTE
    yield opened
    opened.close()


def klines(exchange: Exchange, first: datetime, last: datetime) -> list[list[float]]:
    span = {"startTime": f"{first.timestamp() * 1000:.0f}", "endTime": f"{last.timestamp() * 1000 - 1:.0f}"}
    return exchange.klines(span | {"limit": "1000", "interval": "1h"})


def test_the_exchange_has_closed_hours_and_a_partial_open_hour(exchange: Exchange) -> None:
    rows = klines(exchange, HISTORY_UNTIL, HISTORY_UNTIL + 24 * HOUR)
    assert len(rows) == 6  # 5:30 minus 20 minutes of its hours: five closed hours and the open one
    assert all(float(close) == float(opened) for _, opened, _, _, close, *_ in rows[-1:])
    assert any(float(close) != float(opened) for _, opened, _, _, close, *_ in rows[:-1])


def test_the_clock_is_frozen_before_its_start(exchange: Exchange) -> None:
    exchange.starts_at = None
    assert len(klines(exchange, HISTORY_UNTIL - 2 * HOUR, HISTORY_UNTIL + 24 * HOUR)) == 3


def test_the_95th_percentile_of_twenty_is_the_nineteenth() -> None:
    seconds = tuple(float(n) for n in range(20, 0, -1))
    measured = Freshness(seconds, 1.0, 1.0)
    assert (measured.median, measured.p95) == (10.5, 19.0)


def test_every_process_of_the_benchmark_uses_its_clock() -> None:
    code = (
        "import benchmarks.minute_hours as m; from btc_assets.settings import settings; print(settings().now(), m.defs)"
    )
    environment = {
        "PATH": "/usr/bin:/bin",
        "PYTHONPATH": str(PROJECT_ROOT),
        "BENCHMARK_CLOCK_FROZEN_AT": HISTORY_UNTIL.isoformat(),
        "BTC_MARKET_SOURCE": "binance",
    }
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", code], env=environment, capture_output=True, text=True, check=True
    )
    assert done.stdout.startswith(str(HISTORY_UNTIL))
