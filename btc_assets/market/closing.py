"""Wait for the hour that has just closed: a venue is polled each second until it gives that bar."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import datetime

import polars as pl

from btc_assets.clock import HOUR
from btc_assets.market.sources.protocol import MarketSource
from btc_assets.transport import SourceError, SourceRefusedError, SourceUnavailableError

EVERY_S = 1.0
"""Seconds between two requests to a venue that does not have the bar yet."""
NEVER = float("inf")
FAILOVER_S = 20.0
"""Seconds a venue may be late before the next one is asked as well: its bars hold more columns."""


@dataclass(frozen=True)
class Arrival:
    """What came of waiting for a bar.

    Attributes:
        venue: place of the venue that has the bar, in the order they were given; None when none has it.
        waited_s: seconds spent.
        requests: how often a venue was asked.
        reasons: the last fault of each venue that had one.
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
    """Ask for the bar of an hour until a venue has it, or patience runs out.

    A venue that is late, busy or down is retried each second, or when its Retry-After allows. The next venue is asked
    beside it once it has been late for `FAILOVER_S`; at once where it refuses.

    Args:
        venues: in order of preference, each of which tries a request once.
        hour: open_time of the bar, UTC; nothing is asked before that hour has closed.
        patience_s: longest time to wait, seconds.
        now: the clock by which a bar is closed, UTC.
        sleep: waits so many seconds.
        monotonic: seconds that never go back.
    """
    while (early := (hour + HOUR - now()).total_seconds()) > 0:
        sleep(min(early, EVERY_S))
    begin = monotonic()
    next_at = {place: begin + (FAILOVER_S if place else 0.0) for place in range(len(venues))}
    reasons: dict[int, str] = {}
    requests = 0

    def arrival(venue: int | None) -> Arrival:
        failures = tuple(f"{venues[place].venue}: {reason}" for place, reason in sorted(reasons.items()))
        return Arrival(venue, monotonic() - begin, requests, failures)

    while True:
        for place, venue in enumerate(venues):
            if monotonic() < next_at[place]:
                continue
            requests += 1
            next_at[place] = monotonic() + EVERY_S
            try:
                # The hour before as well: an answer without any bar is a fault, one without this bar is only early.
                bars = venue.fetch(hour - HOUR, hour + HOUR, now())
            except SourceRefusedError as error:
                reasons[place], next_at[place] = str(error), NEVER
                if place + 1 in next_at and all(next_at[before] == NEVER for before in range(place)):
                    next_at[place + 1] = monotonic()
            except SourceUnavailableError as error:
                reasons[place] = str(error)
                next_at[place] = monotonic() + max(EVERY_S, error.retry_after_s or 0.0)
            except SourceError as error:
                reasons[place] = str(error)
            else:
                reasons.pop(place, None)
                if not bars.filter(pl.col("open_time") == hour).is_empty():
                    return arrival(place)
        soonest = min(next_at.values(), default=NEVER)
        if soonest - begin > patience_s:
            return arrival(None)
        sleep(max(0.0, soonest - monotonic()))
