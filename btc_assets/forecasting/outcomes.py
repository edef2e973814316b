"""Outcomes of forecasts whose labels are known."""

from __future__ import annotations

import polars as pl

from btc_assets.forecasting.tables import FORECAST_OUTCOMES


def judge_forecasts(
    forecasts: pl.DataFrame, labels: pl.DataFrame, *, too_small_to_call: float, fee_bps: float
) -> pl.DataFrame:
    """Match forecasts with known labels.

    The forecast direction is up if `p_up > 0.5`, else down; it is correct if the return has its sign. The signed return
    is the return in that direction: the earnings of one unit of notional before costs. One round trip costs
    `2 * fee_bps`, as for a trade on this forecast alone.

    Args:
        forecasts: FORECASTS rows.
        labels: HOURLY_LABELS rows; a null return (a gap) gives no outcome.
        too_small_to_call: |log return| below which a forecast is neither correct nor incorrect, fraction.
        fee_bps: one-way cost, basis points.

    Returns:
        FORECAST_OUTCOMES rows, by open_time, horizon and role.
    """
    up, rose = pl.col("p_up") > 0.5, pl.col("log_return") > 0
    signed = pl.when(up).then(pl.col("log_return")).otherwise(-pl.col("log_return")) * 1e4
    known = labels.select("open_time", "horizon_minutes", "known_at", "log_return").drop_nulls("log_return")
    return (
        forecasts.join(known, on=["open_time", "horizon_minutes"], how="inner")
        .with_columns(
            pl.when(pl.col("log_return").abs() < too_small_to_call)
            .then(pl.lit("too_small_to_call"))
            .when(up == rose)
            .then(pl.lit("correct"))
            .otherwise(pl.lit("incorrect"))
            .alias("outcome"),
            signed.alias("signed_return_bps"),
            (signed - 2 * fee_bps).alias("net_return_bps"),
        )
        .select(list(FORECAST_OUTCOMES.columns))
        .sort(FORECAST_OUTCOMES.key)
    )
