"""The project's code location on a clock whose hours last a minute, for `benchmarks.freshness` only.

The clock shows `BENCHMARK_CLOCK_FROZEN_AT` until `BENCHMARK_CLOCK_STARTS_AT`; from then on each minute is an hour. The
project's clock, `Settings.now`, is replaced before other imports in every process, as each of them loads this module.
"""

from __future__ import annotations

import os
from datetime import UTC, datetime

from benchmarks.minute_clock import FROZEN_AT, STARTS_AT, clock
from btc_assets.settings import Settings


def _now(_settings: Settings) -> datetime:
    starts_at = os.environ.get(STARTS_AT)
    return clock(
        datetime.now(tz=UTC),
        datetime.fromisoformat(os.environ[FROZEN_AT]),
        datetime.fromisoformat(starts_at) if starts_at else None,
    )


Settings.now = _now  # type: ignore[method-assign,assignment]

from btc_assets.definitions import defs  # noqa: E402 - after the clock is replaced

__all__ = ["defs"]
