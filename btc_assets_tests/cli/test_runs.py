"""What the commands that launch runs find out first."""

from datetime import date, timedelta
from pathlib import Path

import polars as pl

from btc_assets.cli.runs import newest_day_forecast
from btc_assets.clock import midnight
from btc_assets.forecasting.tables import FORECASTS
from btc_assets.lake import Lake

CUTOFF = date(2018, 5, 28)
NEXT = date(2018, 6, 4)
NOON = midnight(NEXT) + timedelta(hours=12)


def test_a_day_without_a_champions_forecast_is_not_the_newest_forecast(tmp_path: Path) -> None:
    lake = Lake(root=str(tmp_path))
    assert newest_day_forecast(lake, NOON) is None
    row = dict.fromkeys(FORECASTS.columns) | {"open_time": midnight(CUTOFF), "role": "champion"}
    lake.write(FORECASTS, CUTOFF, pl.DataFrame([row], schema=FORECASTS.columns))
    for day in (NEXT, NEXT + timedelta(days=1)):  # an outage, and a clock that was ahead
        lake.write(FORECASTS, day, FORECASTS.empty())
    assert newest_day_forecast(lake, NOON) == CUTOFF
