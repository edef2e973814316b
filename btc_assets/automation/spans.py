"""Days as runs: a few neighbouring days are one run over a range, never one run each."""

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
    """Neighbouring UTC days, both ends included.

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
    """Gather days, in any order and with repetitions, into the fewest spans, oldest first."""
    found: list[Span] = []
    for day in sorted(set(days)):
        if found and day - found[-1].last == DAY:
            found[-1] = Span(found[-1].first, day)
        else:
            found.append(Span(day, day))
    return found
