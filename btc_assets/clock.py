"""An hour, and where a UTC day begins."""

from datetime import UTC, date, datetime, time, timedelta

HOUR = timedelta(hours=1)


def midnight(day: date) -> datetime:
    """Return 00:00 UTC of a day."""
    return datetime.combine(day, time(), tzinfo=UTC)
