"""Waiting for the bar of the hour that has just closed, on a clock that only sleeping advances."""

from __future__ import annotations

from collections.abc import Callable
from datetime import datetime, timedelta

import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from btc_assets.market.closing import FAILOVER_S, POLL_S, Arrival, await_bar
from btc_assets.market.sources.binance import BinanceSource
from btc_assets.transport import SourceMalformedError, SourceRefusedError, SourceUnavailableError
from btc_assets_tests.market.conftest import DAY, Answer, Exchange, bars, klines_from, transport

HOUR = timedelta(hours=1)
CLOSE = DAY + HOUR
PATIENCE_S = 75.0
WITH, WITHOUT = bars([DAY - HOUR, DAY]), bars([DAY - HOUR])


class Clock:
    """Seconds since the close of the bar that is waited for."""

    def __init__(self, seconds: float = 0.0) -> None:
        self.seconds = seconds

    def sleep(self, seconds: float) -> None:
        assert seconds > 0, "every wait takes time"
        self.seconds += seconds

    def now(self) -> datetime:
        return CLOSE + timedelta(seconds=self.seconds)


class Late:
    """A venue that has the bar some seconds after its close; before, it returns the previous bar or raises a fault."""

    def __init__(self, clock: Clock, late_s: float, venue: str = "binance", fault: Exception | None = None) -> None:
        self.venue, self.venues = venue, (venue,)
        self.requests: list[float] = []
        self._clock, self._late_s, self._fault = clock, late_s, fault

    def fetch(self, first: datetime, last: datetime, now: datetime) -> pl.DataFrame:
        self.requests.append(self._clock.seconds)
        if self._clock.seconds >= self._late_s:
            return WITH
        if self._fault is not None:
            raise self._fault
        return WITHOUT


def wait(clock: Clock, *venues: Late | BinanceSource, patience_s: float = PATIENCE_S) -> Arrival:
    return await_bar(
        venues, DAY, patience_s=patience_s, now=clock.now, sleep=clock.sleep, monotonic=lambda: clock.seconds
    )


@settings(max_examples=30, deadline=None)
@given(st.floats(0, 100), st.floats(0, 90))
def test_a_late_bar_is_there_within_a_second_and_requested_once_a_second(late_s: float, patience_s: float) -> None:
    clock = Clock()
    venue = Late(clock, late_s)
    arrival = wait(clock, venue, patience_s=patience_s)
    assert (arrival.venue == 0) == (venue.requests[-1] >= late_s)
    assert arrival.venue == 0 or patience_s < late_s + POLL_S
    assert clock.seconds <= min(late_s + POLL_S, patience_s) + 0.01
    assert all(later - at >= POLL_S - 0.01 for at, later in zip(venue.requests, venue.requests[1:], strict=False))
    assert arrival.requests == len(venue.requests)


def test_nothing_is_requested_before_the_hour_has_closed() -> None:
    clock = Clock(-3.2)
    venue = Late(clock, -10.0)
    assert wait(clock, venue).waited_s == 0
    assert venue.requests[0] == pytest.approx(0, abs=0.01)


def test_a_venue_that_is_late_by_seconds_is_not_failed_over() -> None:
    clock = Clock()
    first, second = Late(clock, 10.0), Late(clock, 0.0, "coinbase")
    assert wait(clock, first, second).venue == 0
    assert second.requests == []


@pytest.mark.parametrize("fault", [None, SourceUnavailableError("HTTP 503"), SourceMalformedError("an empty list")])
def test_a_venue_that_is_late_for_long_is_failed_over(fault: Exception | None) -> None:
    clock = Clock()
    first, second = Late(clock, 60.0, fault=fault), Late(clock, 0.0, "coinbase")
    arrival = wait(clock, first, second)
    assert arrival.venue == 1
    assert second.requests == [pytest.approx(FAILOVER_S, abs=POLL_S)]
    assert (str(fault) in str(arrival)) == (fault is not None)


def test_a_late_venue_is_still_preferred_once_both_are_polled() -> None:
    clock = Clock()
    first, second = Late(clock, 30.0), Late(clock, 60.0, "coinbase")
    assert wait(clock, first, second).venue == 0


def test_a_venue_that_refuses_is_failed_over_at_once_and_not_retried() -> None:
    clock = Clock()
    first = Late(clock, 90.0, fault=SourceRefusedError("HTTP 451"))
    assert wait(clock, first, Late(clock, 3.0, "coinbase")).venue == 1
    assert len(first.requests) == 1
    assert clock.seconds < FAILOVER_S


def test_if_every_venue_refuses_there_is_no_wait() -> None:
    clock = Clock()
    arrival = wait(clock, Late(clock, 90.0, fault=SourceRefusedError("HTTP 451")))
    assert (arrival.venue, arrival.requests) == (None, 1)
    assert clock.seconds < POLL_S


@pytest.mark.parametrize(("status", "after", "again_at"), [(429, "7", 7.0), (503, None, POLL_S)])
def test_a_busy_venue_is_retried_when_it_allows(
    exchange: Exchange, status: int, after: str | None, again_at: float
) -> None:
    clock = Clock()
    at: list[float] = []

    def noting(respond: Callable[[str, dict[str, str]], Answer]) -> Callable[[str, dict[str, str]], Answer]:
        def answer(path: str, query: dict[str, str]) -> Answer:
            at.append(clock.seconds)
            busy = Answer(status=status, headers={"Retry-After": after} if after else {})
            return busy if len(at) == 1 else respond(path, query)

        return answer

    exchange.respond = noting(klines_from([DAY - HOUR, DAY]))
    api = transport(exchange, attempts=1, max_wait_s=60.0)
    venue = BinanceSource(api, api, "BTCUSDT", clock=clock.now)
    assert wait(clock, venue).venue == 0
    assert at == [0.0, pytest.approx(again_at, abs=0.01)]
