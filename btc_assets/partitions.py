"""The daily partition grid, and the partition mappings that prevent look-ahead.

Data assets and learning assets share the grid: a data partition is one UTC day, a learning partition is a *cutoff day*
`c`, built only from rows available at `c` 00:00 UTC. A mapping that ends at offset -1 makes the lineage show "before".
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import date, datetime, timedelta

import dagster as dg

from btc_assets.settings import Settings, settings

KEY_FORMAT = "%Y-%m-%d"
"""Format of partition keys."""


def daily_grid(config: Settings) -> dg.DailyPartitionsDefinition:
    """Build the daily UTC grid; today's partition exists, and is refreshed hourly."""
    return dg.DailyPartitionsDefinition(
        start_date=datetime.combine(config.first_day, datetime.min.time()),
        end_date=None
        if config.history_end is None
        else datetime.combine(config.history_end + timedelta(days=1), datetime.min.time()),
        timezone="UTC",
        end_offset=1 if config.history_end is None else 0,
        fmt=KEY_FORMAT,
    )


DAILY = daily_grid(settings())
"""Grid of this deployment. A closed history ends with the cutoff day after its last data day."""
_ALL_DAYS = 20 * 366
"""Number of days that covers all days before a partition."""


def days_before(days: int, *, and_today: bool) -> dg.TimeWindowPartitionMapping:
    """Map a partition to the `days` partitions before it, with or without its own day.

    Days before the start of the grid are ignored.
    """
    return dg.TimeWindowPartitionMapping(
        start_offset=-days,
        end_offset=0 if and_today else -1,
        allow_nonexistent_upstream_partitions=True,
    )


def everything_until(*, and_today: bool) -> dg.TimeWindowPartitionMapping:
    """Map a partition to all partitions before it, with or without its own day."""
    return days_before(_ALL_DAYS, and_today=and_today)


def is_everything(mapping: dg.PartitionMapping) -> bool:
    """Return whether a mapping is one of `everything_until`."""
    return isinstance(mapping, dg.TimeWindowPartitionMapping) and mapping.start_offset == -_ALL_DAYS


def day_of(key: str) -> date:
    """Return the UTC day of a partition key."""
    return date.fromisoformat(key)


def key_of(day: date) -> str:
    """Return the partition key of a UTC day."""
    return day.strftime(KEY_FORMAT)


def previous_monday(day: date) -> date:
    """Return the newest Monday at or before `day`."""
    return day - timedelta(days=day.weekday())


def days_to_check(run_tags: Mapping[str, str], days_stored: Sequence[date]) -> list[date]:
    """Return every day of the run; outside a run the newest stored day, if there is one.

    Args:
        run_tags: tags of the run of the check.
        days_stored: stored days of the checked table.
    """
    last = run_tags.get("dagster/asset_partition_range_end") or run_tags.get("dagster/partition")
    if last is None:
        return [max(days_stored)] if days_stored else []
    first = day_of(run_tags.get("dagster/asset_partition_range_start") or last)
    return [first + timedelta(days=n) for n in range((day_of(last) - first).days + 1)]


def day_to_check(run_tags: Mapping[str, str], days_stored: Sequence[date]) -> date | None:
    """Return the newest of `days_to_check`, None if there is none."""
    return max(days_to_check(run_tags, days_stored), default=None)


def nothing_stored(table: str) -> dg.AssetCheckResult:
    """Return the result of a check on a table without a partition: a warning, which blocks nothing."""
    return dg.AssetCheckResult(
        passed=False, severity=dg.AssetCheckSeverity.WARN, description=f"No partition of {table} is stored yet."
    )
