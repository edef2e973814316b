"""Contracts of the monitoring tables."""

import polars as pl

from btc_assets.columns import CUTOFF, HORIZON
from btc_assets.schema import FINITE, Column, check, declare, schema
from btc_assets.vocabulary import ROLES

PERFORMANCE_REPORT = declare(
    table="monitoring/performance_report",
    schema=schema(
        {
            "day": Column(pl.Date, about="last day of the report"),
            "role": Column(pl.String, check("isin", ROLES), about="role of the forecasts"),
            "horizon_minutes": HORIZON,
            "period": Column(pl.String, about="'all', a calendar year, or 'last_90_days'"),
            "metric": Column(pl.String, about="name of the metric"),
            "value": Column(pl.Float64, nullable=True, about="its value; null when it cannot be computed"),
            "lower": Column(pl.Float64, nullable=True, about="lower end of the 95 % interval"),
            "upper": Column(pl.Float64, nullable=True, about="upper end of the 95 % interval"),
            "n": Column(pl.Int64, check("ge", 0), about="hours it rests on"),
        },
    ),
    day=pl.col("day"),
    key=("day", "role", "horizon_minutes", "period", "metric"),
)

DRIFT_REPORT = declare(
    table="monitoring/drift_report",
    schema=schema(
        {
            "day": Column(pl.Date, about="last day of the report"),
            "kind": Column(
                pl.String,
                check("isin", ["input", "concept"]),
                about="drift of an input, or of the promises of the forecasts",
            ),
            "subject": Column(pl.String, about="a feature, p_up, or a promise of the forecasts"),
            "measure": Column(pl.String, about="name of the measured quantity"),
            "value": Column(pl.Float64, FINITE, nullable=True, about="its value; null when it cannot be computed"),
            "bound": Column(
                pl.Float64, nullable=True, about="bound of an alarm; null where the value is informative only"
            ),
            "alarm": Column(pl.Boolean, about="whether the subject counts as drifted, or the promise as broken"),
            "n": Column(pl.Int64, check("ge", 0), about="hours it rests on"),
            "model_version": Column(pl.Int64, about="champion whose training window is the reference"),
            "model_cutoff": CUTOFF,
        },
    ),
    day=pl.col("day"),
    key=("day", "kind", "subject", "measure"),
)
