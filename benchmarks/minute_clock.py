"""A clock whose hours last a minute."""

from __future__ import annotations

from datetime import datetime

FROZEN_AT = "BENCHMARK_CLOCK_FROZEN_AT"
STARTS_AT = "BENCHMARK_CLOCK_STARTS_AT"
SPEED = 60
"""Hours of the clock per real hour."""


def clock(wall: datetime, frozen_at: datetime, starts_at: datetime | None) -> datetime:
    """Return the time of the clock at a moment; it is frozen before `starts_at`, or always if that is None."""
    return frozen_at if starts_at is None or wall < starts_at else frozen_at + SPEED * (wall - starts_at)
