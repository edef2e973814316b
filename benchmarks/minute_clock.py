"""A clock whose hours last a minute."""

from __future__ import annotations

from datetime import datetime

STANDS_AT = "BENCHMARK_CLOCK_STANDS_AT"
STARTS_AT = "BENCHMARK_CLOCK_STARTS_AT"
SPEED = 60
"""Hours of the clock in an hour."""


def clock(wall: datetime, stands_at: datetime, starts_at: datetime | None) -> datetime:
    """Return what the clock shows at a moment; `starts_at` is when it starts to run, None while it is stopped."""
    return stands_at if starts_at is None or wall < starts_at else stands_at + SPEED * (wall - starts_at)
