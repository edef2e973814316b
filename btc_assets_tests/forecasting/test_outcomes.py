"""What becomes of a forecast when its label is known."""

from __future__ import annotations

import numpy as np
import polars as pl
import pytest
from hypothesis import given
from hypothesis import strategies as st

from btc_assets.forecasting.forecasts import forecast_hours
from btc_assets.forecasting.outcomes import judge_forecasts
from btc_assets.forecasting.tables import FORECAST_OUTCOMES
from btc_assets_tests.forecasting.test_forecasts import CHOSEN
from btc_assets_tests.monitoring.conftest import NO_PROFILES, bars_of_the_history, features_of, labels_of, shelf

BARS = bars_of_the_history()
FORECASTS = forecast_hours(features_of(BARS), BARS, CHOSEN, shelf(), NO_PROFILES)
LABELS = labels_of(BARS)


def judged(p_up: float, log_return: float, *, tolerance: float = 0.001, fee: float = 5) -> dict[str, object]:
    """Return the outcome of one forecast."""
    forecast = FORECASTS.head(1).with_columns(pl.lit(p_up).alias("p_up"))
    label = LABELS.join(forecast, on=["open_time", "horizon_minutes"], how="semi")
    label = label.with_columns(pl.lit(log_return).alias("log_return"))
    return judge_forecasts(forecast, label, too_small_to_call=tolerance, fee_bps=fee).row(0, named=True)


@pytest.mark.parametrize(
    ("p_up", "log_return", "outcome"),
    [
        (0.6, 0.002, "correct"),
        (0.6, -0.002, "incorrect"),
        (0.4, -0.002, "correct"),
        (0.4, 0.002, "incorrect"),
        (0.5, -0.002, "correct"),
        (0.6, 0.000999, "too_small_to_call"),
        (0.6, -0.000999, "too_small_to_call"),
        (0.6, 0.001, "correct"),
    ],
)
def test_direction_and_size_decide_the_outcome(p_up: float, log_return: float, outcome: str) -> None:
    assert judged(p_up, log_return)["outcome"] == outcome


def test_without_tolerance_an_unchanged_price_is_not_up() -> None:
    assert judged(0.6, 0.0, tolerance=0)["outcome"] == "incorrect"
    assert judged(0.4, 0.0, tolerance=0)["outcome"] == "correct"


@given(st.floats(0, 1), st.floats(-0.1, 0.1), st.floats(0, 50))
def test_a_round_trip_costs_twice_the_fee(p_up: float, log_return: float, fee: float) -> None:
    row = judged(p_up, log_return, fee=fee)
    assert row["signed_return_bps"] == pytest.approx((1 if p_up > 0.5 else -1) * log_return * 1e4)
    assert row["net_return_bps"] == pytest.approx(row["signed_return_bps"] - 2 * fee)


def test_every_known_forecast_has_an_outcome_and_no_other_has() -> None:
    found = judge_forecasts(FORECASTS, LABELS, too_small_to_call=0.001, fee_bps=5)
    assert FORECAST_OUTCOMES.faults(found) == []
    end = BARS["open_time"].max() + np.timedelta64(1, "h").astype(object)
    assert found.height == FORECASTS.filter(pl.col("target_time") <= end).height
    assert (found["known_at"] <= end).all()


def test_a_return_across_a_gap_gives_no_outcome() -> None:
    holed = LABELS.with_columns(
        pl.when(pl.col("horizon_minutes") == 240).then(None).otherwise(pl.col("log_return")).alias("log_return")
    )
    found = judge_forecasts(FORECASTS, holed, too_small_to_call=0.001, fee_bps=5)
    assert set(found["horizon_minutes"]) == {60, 1440}


def test_unknown_labels_give_an_empty_table() -> None:
    found = judge_forecasts(FORECASTS, LABELS.clear(), too_small_to_call=0.001, fee_bps=5)
    assert found.equals(FORECAST_OUTCOMES.empty())
