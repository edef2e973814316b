"""The project's code location on a clock whose hours last a minute: for `benchmarks.freshness` and nothing else.

The clock shows `BENCHMARK_CLOCK_STANDS_AT` until `BENCHMARK_CLOCK_STARTS_AT`, where that is set; from then on each
minute is an hour. Nothing of the project knows: its one clock, `Settings.now`, is replaced before anything else is
imported, in every process, since each of them loads this module.
"""

from __future__ import annotations

import os
from datetime import UTC, datetime

from benchmarks.minute_clock import STANDS_AT, STARTS_AT, clock
from btc_assets.settings import Settings


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
