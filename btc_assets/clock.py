"""An hour and its parts, and where a UTC day begins."""

from datetime import UTC, date, datetime, time, timedelta

HOUR = timedelta(hours=1)
HALF_HOUR, QUARTER = HOUR / 2, HOUR / 4


def midnight(day: date) -> datetime:
    """Return 00:00 UTC of a day."""
    return datetime.combine(day, time(), tzinfo=UTC)


def floor(at: datetime, step: timedelta) -> datetime:
    """Return the last whole `step` of the UTC day up to a time; a step divides a day."""
    begin = midnight(at.date())
    return begin + (at - begin) // step * step
