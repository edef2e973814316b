"""What is missing or changed in stored forecasts."""

from datetime import UTC, datetime, timedelta

import polars as pl

from btc_assets.forecasting.completeness import changed_forecasts
from btc_assets.forecasting.tables import FORECASTS

START = datetime(2024, 1, 1, tzinfo=UTC)


def test_a_change_of_one_bit_is_a_changed_forecast() -> None:
    rows = [
        dict.fromkeys(FORECASTS.columns)
        | {"open_time": START + timedelta(hours=n), "horizon_minutes": 60, "role": "champion", "q50": 0.001}
        for n in range(5)
    ]
    stored = pl.DataFrame(rows, schema=FORECASTS.columns)
    nudged = stored.with_columns(
        pl.when(pl.int_range(pl.len()) == 3).then(pl.col("q50") + 2.0**-62).otherwise("q50").alias("q50")
    )
    assert changed_forecasts(stored, stored).is_empty()
    assert changed_forecasts(stored, nudged).rows() == [stored.select(FORECASTS.key).row(3)]
