"""Group consecutive days into spans, so that one run covers a range of days."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from datetime import date, timedelta

from btc_assets.partitions import key_of

RANGE_START_TAG = "dagster/asset_partition_range_start"
RANGE_END_TAG = "dagster/asset_partition_range_end"
DAY = timedelta(days=1)


@dataclass(frozen=True, order=True)
class Span:
    """Consecutive UTC days, both ends included.

    Attributes:
        first: oldest day.
        last: newest day, not before `first`.
    """

    first: date
    last: date

    def __post_init__(self) -> None:
        if self.last < self.first:
            raise ValueError(f"a span cannot end ({self.last}) before it starts ({self.first})")

    def __str__(self) -> str:
        return key_of(self.first) if self.first == self.last else f"{key_of(self.first)}..{key_of(self.last)}"

    @property
    def days(self) -> list[date]:
        """Every day of the span, in order."""
        return [self.first + i * DAY for i in range((self.last - self.first).days + 1)]

    @property
    def tags(self) -> dict[str, str]:
        """Run tags that make one run materialise every day of the span."""
        return {RANGE_START_TAG: key_of(self.first), RANGE_END_TAG: key_of(self.last)}


def spans(days: Iterable[date]) -> list[Span]:
    """Group days, in any order and with duplicates, into the fewest spans, oldest first."""
    result: list[Span] = []
    for day in sorted(set(days)):
        if result and day - result[-1].last == DAY:
            result[-1] = Span(result[-1].first, day)
        else:
            result.append(Span(day, day))
    return result
