"""Day and user of a rollback."""

import os
import pwd
from datetime import date, timedelta
from pathlib import Path

import polars as pl
import pytest

from btc_assets.cli.rollback import acting_user, newest_day_forecast
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


def test_a_user_without_a_name_is_recorded_by_uid(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("LOGNAME", "USER", "LNAME", "USERNAME"):
        monkeypatch.delenv(name, raising=False)

    def no_entry(_uid: int) -> None:
        raise KeyError("uid not found")

    monkeypatch.setattr(pwd, "getpwuid", no_entry)
    assert acting_user() == f"uid {os.getuid()}"
    monkeypatch.setenv("LOGNAME", "quant\x1b[31m")
    assert acting_user() == f"uid {os.getuid()}"
    monkeypatch.setenv("LOGNAME", "quant")
    assert acting_user() == "quant"
