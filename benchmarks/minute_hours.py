"""The project's code location on a clock whose hours last a minute, for `benchmarks.freshness`.

The clock stands at `BENCHMARK_CLOCK_STANDS_AT` until `BENCHMARK_CLOCK_STARTS_AT`, where that is set; from then on each
minute is an hour. Nothing of the project knows: its one clock, `Settings.now`, is replaced before anything else is
imported, in every process, since each of them loads this module.
"""

from __future__ import annotations

import os
from datetime import UTC, datetime

from btc_assets.settings import Settings

STANDS_AT = "BENCHMARK_CLOCK_STANDS_AT"
STARTS_AT = "BENCHMARK_CLOCK_STARTS_AT"
SPEED = 60
"""Hours of the clock in an hour."""


def clock(wall: datetime, stands_at: datetime, starts_at: datetime | None) -> datetime:
    """Return what the clock shows at a moment; `starts_at` is when it begins to go, None while it stands."""
    return stands_at if starts_at is None or wall < starts_at else stands_at + SPEED * (wall - starts_at)


def _now(_settings: Settings) -> datetime:
    starts_at = os.environ.get(STARTS_AT)
    return clock(
        datetime.now(tz=UTC),
        datetime.fromisoformat(os.environ[STANDS_AT]),
        datetime.fromisoformat(starts_at) if starts_at else None,
    )


Settings.now = _now  # type: ignore[method-assign,assignment]

from btc_assets.definitions import defs  # noqa: E402 - the clock comes first

__all__ = ["defs"]
