"""Comparison of champion and challenger on the hours that both forecast before the outcomes were known."""

from __future__ import annotations

from datetime import date

import polars as pl

from btc_assets.champion.gate import Evidence, promises, shown_better
from btc_assets.champion.tables import SHADOW_REPORT
from btc_assets.vocabulary import CHALLENGER, CHAMPION, PRIMARY, QUANTILE_NAMES


def role_evidence(outcomes: pl.DataFrame, role: str) -> Evidence:
    """Return the forecasts of one role for the primary horizon, with their outcomes.

    Args:
        outcomes: FORECAST_OUTCOMES rows.
        role: champion or challenger.
    """
    role_outcomes = outcomes.filter((pl.col("role") == role) & (pl.col("horizon_minutes") == PRIMARY)).sort("open_time")
    return Evidence(
        role_outcomes["open_time"],
        role_outcomes["p_up"].to_numpy(),
        role_outcomes.select(QUANTILE_NAMES).to_numpy(),
        role_outcomes["log_return"].to_numpy(),
    )


def shadow_rows(
    outcomes: pl.DataFrame,
    forecasts: pl.DataFrame,
    *,
    day: date,
    least_hours: int,
    margin_nats: float,
    significance: float,
    fee_bps: float,
) -> pl.DataFrame:
    """Judge the challenger of a day's newest hour on every hour that it was in shadow.

    The tests are those of the gate. The challenger waits until enough outcomes are known; it is then judged once, and
    promoted only if it passes every test.

    Args:
        outcomes: FORECAST_OUTCOMES rows known by the end of the day, from the start of the shadow on.
        forecasts: FORECASTS rows of the day.
        day: the day.
        least_hours: hours with known outcomes that a judgement needs.
        margin_nats: how much lower its log-loss must be.
        significance: largest p-value of that.
        fee_bps: one-way cost of the Sharpe ratios, basis points.

    Returns:
        SHADOW_REPORT rows, one per criterion; none if no model is in shadow in the day's newest hour.
    """
    newest = forecasts.filter(pl.col("open_time") == pl.col("open_time").max())
    challenger, champion = (newest.filter(pl.col("role") == role) for role in (CHALLENGER, CHAMPION))
    if challenger.is_empty() or champion.is_empty():
        return SHADOW_REPORT.empty()
    named = challenger.row(0, named=True)
    version = named["model_version"]
    in_shadow = role_evidence(outcomes.filter(pl.col("model_version") == version), CHALLENGER)
    served = role_evidence(outcomes, CHAMPION)
    criteria = [
        *shown_better(
            in_shadow,
            served,
            seeds=1,
            min_hours=least_hours,
            margin_nats=margin_nats,
            significance=significance,
            fee_bps=fee_bps,
        ),
        *promises(in_shadow, served),
    ]
    enough = next(criterion.passed for criterion in criteria if criterion.name == "common_hours")
    better = all(criterion.passed for criterion in criteria)
    return pl.DataFrame(
        [
            {
                "day": day,
                "criterion": criterion.name,
                "value": criterion.value,
                "champion_value": criterion.champion_value,
                "bound": criterion.bound,
                "passed": criterion.passed,
                "reason": criterion.reason,
                "decision": "wait" if not enough else "promote" if better else "dismiss",
                "challenger_version": version,
                "challenger_cutoff": named["model_cutoff"],
                "challenger_digest": named["model_digest"],
                "champion_version": champion["model_version"][0],
            }
            for criterion in criteria
        ],
        schema=SHADOW_REPORT.columns,
    ).sort(SHADOW_REPORT.key)
