"""An hour gets its own quarters, and nothing else."""

from __future__ import annotations

import math
from datetime import UTC, datetime, timedelta

import polars as pl
import pytest

from btc_assets.market.quarter_grid import QUARTERS, RETURN, VALUES, column, quarters_of_hours

NOON = datetime(2024, 3, 1, 12, tzinfo=UTC)
HOURS = pl.Series("open_time", [NOON, NOON + timedelta(hours=1)]).cast(pl.Datetime("us", "UTC"))


def bars(first: datetime, count: int, minutes: int = 15) -> pl.DataFrame:
    """Return consecutive bars whose closes count up from 1."""
    opens = [first + n * timedelta(minutes=minutes) for n in range(count)]
    closes = [float(n + 1) for n in range(count)]
    values = {name: closes for name in VALUES if name != "trades"}
    return pl.DataFrame({"open_time": opens, "minutes": [minutes] * count, **values, "trades": list(range(count))})


def closes(frame: pl.DataFrame) -> list[list[float | None]]:
    return [list(row) for row in frame.select(column(quarter, "close") for quarter in QUARTERS).iter_rows()]


def test_each_hour_has_its_quarters_side_by_side() -> None:
    frame = quarters_of_hours(bars(NOON, 8), HOURS)
    assert closes(frame) == [[1, 2, 3, 4], [5, 6, 7, 8]]
    assert frame["open_time"].equals(HOURS)
    assert set(frame.dtypes[1:]) == {pl.Float64}


def test_a_quarter_that_opens_at_the_end_of_the_hour_is_not_in_it() -> None:
    frame = quarters_of_hours(bars(NOON + timedelta(hours=1), 1), HOURS)
    assert closes(frame) == [[None] * 4, [1, None, None, None]]


def test_a_missing_quarter_is_null() -> None:
    rows = bars(NOON, 8).filter(pl.col("close") != 3)
    assert closes(quarters_of_hours(rows, HOURS)) == [[1, 2, None, 4], [5, 6, 7, 8]]


def test_a_return_starts_from_the_close_of_the_quarter_before_even_of_another_hour() -> None:
    rows = bars(NOON, 8).filter(pl.col("close") != 3)
    returns = quarters_of_hours(rows, HOURS).select(column(quarter, RETURN) for quarter in QUARTERS)
    unknown = [value is None for row in returns.iter_rows() for value in row]
    assert unknown == [True, False, True, True, False, False, False, False]
    assert returns.row(1)[0] == pytest.approx(math.log(5 / 4))


def test_bars_of_half_an_hour_make_no_quarters() -> None:
    assert closes(quarters_of_hours(bars(NOON, 4, minutes=30), HOURS)) == [[None] * 4] * 2
