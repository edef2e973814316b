"""Wait for the bar of the hour that has just closed: poll a venue each second until it has the bar."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import datetime

import polars as pl

from btc_assets.clock import HOUR
from btc_assets.market.sources.protocol import MarketSource
from btc_assets.transport import SourceError, SourceRefusedError, SourceUnavailableError

POLL_S = 1.0
"""Interval between requests to a venue that does not have the bar yet, seconds."""
NEVER = float("inf")
FAILOVER_S = 20.0
"""Delay after which the next venue is polled too, seconds: the preferred venue's bars have more columns."""


@dataclass(frozen=True)
class Arrival:
    """Result of waiting for a bar.

    Attributes:
        venue: index of the venue that has the bar; None if no venue has it.
        waited_s: time waited, seconds.
        requests: number of requests to all venues.
        reasons: the last error of each venue that failed.
    """

    venue: int | None
    waited_s: float
    requests: int
    reasons: tuple[str, ...]

    def __str__(self) -> str:
        reasons = f": {' | '.join(self.reasons)}" if self.reasons else ""
        outcome = "not there" if self.venue is None else "there"
        return f"The bar is {outcome} after {self.waited_s:.1f} s and {self.requests} requests{reasons}."


def await_bar(
    venues: Sequence[MarketSource],
    hour: datetime,
    *,
    patience_s: float,
    now: Callable[[], datetime],
    sleep: Callable[[float], None] = time.sleep,
    monotonic: Callable[[], float] = time.monotonic,
) -> Arrival:
    """Request the bar of an hour until a venue has it or the time is up.

    A venue that is late, busy or down is retried each second, or when its Retry-After allows. The next venue is polled
    as well after `FAILOVER_S`, or at once if the venues before it refuse.

    Args:
        venues: in order of preference; each tries a request once.
        hour: open_time of the bar, UTC; no request is made before that hour has closed.
        patience_s: longest time to wait, seconds.
        now: the clock that decides when a bar is closed, UTC.
        sleep: waits for a number of seconds.
        monotonic: a monotonic clock, seconds.
    """
    while (remaining := (hour + HOUR - now()).total_seconds()) > 0:
        sleep(min(remaining, POLL_S))
    started = monotonic()
    next_at = {index: started + (FAILOVER_S if index else 0.0) for index in range(len(venues))}
    reasons: dict[int, str] = {}
    requests = 0

    def arrival(venue: int | None) -> Arrival:
        failures = tuple(f"{venues[index].venue}: {reason}" for index, reason in sorted(reasons.items()))
        return Arrival(venue, monotonic() - started, requests, failures)

    while True:
        for index, venue in enumerate(venues):
            if monotonic() < next_at[index]:
                continue
            requests += 1
            next_at[index] = monotonic() + POLL_S
            try:
                # Include the hour before: an answer without any bar is a fault, one without the new bar is only early.
                bars = venue.fetch(hour - HOUR, hour + HOUR, now())
            except SourceRefusedError as error:
                reasons[index], next_at[index] = str(error), NEVER
                if index + 1 in next_at and all(next_at[before] == NEVER for before in range(index)):
                    next_at[index + 1] = monotonic()
            except SourceUnavailableError as error:
                reasons[index] = str(error)
                next_at[index] = monotonic() + max(POLL_S, error.retry_after_s or 0.0)
            except SourceError as error:
                reasons[index] = str(error)
            else:
                reasons.pop(index, None)
                if not bars.filter(pl.col("open_time") == hour).is_empty():
                    return arrival(index)
        next_request = min(next_at.values(), default=NEVER)
        if next_request - started > patience_s:
            return arrival(None)
        sleep(max(0.0, next_request - monotonic()))
