"""The contracts of forecasts and their outcomes."""

import polars as pl

from btc_assets.columns import (
    CUTOFF,
    HORIZON,
    KNOWN_DAY,
    MODEL_DIGEST,
    OPEN_TIME,
    ORDERED_QUANTILES,
    RETURN_QUANTILES,
    price,
)
from btc_assets.evaluation.trading import FEES_BPS
from btc_assets.schema import FINITE, PROBABILITY, UTC_TIME, Column, check, declare, row_check, schema
from btc_assets.vocabulary import ROLES

FORECASTS = declare(
    table="forecasting/forecasts",
    schema=schema(
        {
            "open_time": OPEN_TIME,
            "horizon_minutes": HORIZON,
            "role": Column(pl.String, check("isin", ROLES), about="role of the model that forecasts"),
            "made_at": Column(UTC_TIME, about="open_time + 1 h"),
            "target_time": Column(UTC_TIME, about="end of the forecast window: made_at + horizon"),
            "model_version": Column(pl.Int64, about="registry version"),
            "model_cutoff": CUTOFF,
            "model_digest": MODEL_DIGEST,
            "close": price("last close the forecast starts from, USD"),
            "p_up": Column(pl.Float64, *PROBABILITY, about="calibrated probability of a rise"),
            **RETURN_QUANTILES,
            "sigma": Column(
                pl.Float64, check("gt", 0), FINITE, about="forecast standard deviation of the log return, fraction"
            ),
            "expected_return_bps": Column(
                pl.Float64, FINITE, about="forecast mean of the log return, basis points, by a head of its own"
            ),
            "abstained": Column(
                pl.String, about="members that lack an input they require, joined by commas; empty if all forecast"
            ),
            "degraded": Column(pl.Boolean, about="whether inputs are missing beyond what the model saw in training"),
            "missing_inputs": Column(pl.String, about="these inputs, joined by commas; empty if there are none"),
            "missing_weight": Column(
                pl.Float64, *PROBABILITY, about="share of the model's mean |SHAP value| of these inputs"
            ),
            "fallback": Column(
                pl.Boolean, about="whether base rate and volatility of the training window replace the model's forecast"
            ),
        },
        ORDERED_QUANTILES,
        row_check("made one hour after open_time", pl.col("made_at") == pl.col("open_time").dt.offset_by("1h")),
        row_check("degraded where inputs are named", pl.col("degraded") == (pl.col("missing_inputs") != "")),
        row_check("only a degraded forecast falls back", pl.col("degraded") | ~pl.col("fallback")),
        row_check("the model's cutoff is not after the hour", pl.col("model_cutoff") <= pl.col("open_time").dt.date()),
    ),
    day=pl.col("open_time").dt.date(),
    key=("open_time", "horizon_minutes", "role"),
)

FORECAST_OUTCOMES = declare(
    table="forecasting/forecast_outcomes",
    schema=schema(
        {
            "open_time": OPEN_TIME,
            "horizon_minutes": HORIZON,
            "role": Column(pl.String, check("isin", ROLES), about="role of the model that forecast"),
            "known_at": Column(UTC_TIME, about="when the outcome was known"),
            "model_version": Column(pl.Int64, about="registry version"),
            "model_cutoff": CUTOFF,
            "p_up": Column(pl.Float64, *PROBABILITY, about="calibrated probability of a rise"),
            **RETURN_QUANTILES,
            "log_return": Column(pl.Float64, FINITE, about="realised log return, fraction"),
            "outcome": Column(
                pl.String,
                check("isin", ["correct", "incorrect", "too_small_to_call"]),
                about="of the forecast direction",
            ),
            "signed_return_bps": Column(pl.Float64, FINITE, about="return in the forecast direction, basis points"),
            "net_return_bps": Column(pl.Float64, FINITE, about="the same after one round trip of costs, basis points"),
        },
        ORDERED_QUANTILES,
    ),
    day=KNOWN_DAY,
    key=("open_time", "horizon_minutes", "role"),
)

_REASONS = "a JSON list of objects with feature, value (null if unknown), unit, contribution (log-odds) and points"

EXPLANATIONS = declare(
    table="forecasting/explanations",
    schema=schema(
        {
            "open_time": OPEN_TIME,
            "horizon_minutes": HORIZON,
            "model_version": Column(pl.Int64, about="registry version of the champion"),
            "model_digest": MODEL_DIGEST,
            "p_up": Column(pl.Float64, *PROBABILITY, about="the explained probability of a rise"),
            "base": Column(pl.Float64, FINITE, about="log-odds of the forecast without any contribution"),
            "raises": Column(pl.String, about=f"strongest contributions that raise P(up), {_REASONS}"),
            "lowers": Column(pl.String, about="strongest contributions that lower P(up), in the same form"),
            "others": Column(pl.Float64, FINITE, about="sum of all other contributions, log-odds"),
            "unexplained": Column(pl.Float64, FINITE, about="log-odds of members without contributions"),
            "approximate": Column(
                pl.String, about="members whose contributions are approximations, joined by commas; else they are exact"
            ),
            "sentence": Column(pl.String, about="the strongest reasons in plain words, with values and units"),
        },
    ),
    day=pl.col("open_time").dt.date(),
    key=("open_time", "horizon_minutes"),
)

DELAYS = (0, 15, 60)
"""Least minutes from a decision to its execution: at once, a quarter and a bar later."""
_POSITION = (check("in_range", -1, 1), FINITE)

POSITIONS = declare(
    table="forecasting/positions",
    schema=schema(
        {
            "open_time": OPEN_TIME,
            "delay_minutes": Column(
                pl.Int64, check("isin", DELAYS), about="least minutes from a decision to its execution"
            ),
            "cost_bps": Column(
                pl.Float64, check("isin", FEES_BPS), about="one-way cost, basis points of what is traded"
            ),
            "model_version": Column(pl.Int64, about="registry version of the champion"),
            "close": price("close of the hour, USD"),
            "score": Column(
                pl.Float64,
                FINITE,
                nullable=True,
                about="of the forecast, standard deviations of the scores of the days before; null with too few",
            ),
            "volatility_ratio": Column(pl.Float64, check("gt", 0), FINITE, about="forecast volatility over its usual"),
            "previous_position": Column(pl.Float64, *_POSITION, about="position decided an hour before, share of one"),
            "position": Column(pl.Float64, *_POSITION, about="position decided at the close of the hour, share of one"),
            "turnover": Column(pl.Float64, check("ge", 0), FINITE, about="traded in the hour, share of one"),
            "executed_after_minutes": Column(
                pl.Int64,
                check("ge", 0),
                nullable=True,
                about="minutes from the decision to this trade; null without one",
            ),
            "hour_return": Column(pl.Float64, FINITE, about="log return since the hour before, fraction"),
            "gross_return": Column(pl.Float64, FINITE, about="return of the position before costs, fraction"),
            "net_return": Column(pl.Float64, FINITE, about="the same after costs"),
            "cumulative_return": Column(pl.Float64, FINITE, about="sum of the net returns of the record so far"),
            "peak_return": Column(
                pl.Float64, check("ge", 0), FINITE, about="highest cumulative return so far, at least 0"
            ),
            "drawdown": Column(pl.Float64, check("ge", 0), FINITE, about="peak less cumulative return"),
        },
        row_check("costs are not negative", pl.col("net_return") <= pl.col("gross_return")),
        row_check("a trade has a time", (pl.col("turnover") > 0) == pl.col("executed_after_minutes").is_not_null()),
        row_check(
            "executed after the delay", pl.col("executed_after_minutes").fill_null(60) >= pl.col("delay_minutes")
        ),
    ),
    day=pl.col("open_time").dt.date(),
    key=("open_time", "delay_minutes", "cost_bps"),
)
