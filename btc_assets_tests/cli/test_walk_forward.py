"""Days of a training from the command line."""

from datetime import UTC, date, datetime

import pytest

from btc_assets.cli.walk_forward import days_of_one_cutoff
from btc_assets.settings import Settings


@pytest.mark.parametrize(
    ("cutoff", "days"),
    [
        (None, (date(2024, 3, 4), date(2024, 3, 5))),
        (date(2024, 1, 1), (date(2024, 1, 1), date(2024, 3, 5))),
        (date(2024, 3, 6), (date(2024, 3, 6), date(2024, 3, 6))),
        (date(2024, 3, 9), (date(2024, 3, 9), date(2024, 3, 6))),  # refused by the plan
    ],
)
def test_a_cutoff_forecasts_to_the_newest_closed_day(cutoff: date | None, days: tuple[date, date]) -> None:
    class Wednesday(Settings):
        def now(self) -> datetime:
            return datetime(2024, 3, 6, 13, 30, tzinfo=UTC)

    assert days_of_one_cutoff(Wednesday(market_source="kraken"), cutoff) == days
