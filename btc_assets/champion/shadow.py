"""Champion against challenger on the hours both have forecast and nobody knew: the A/B view of the shadow."""

from __future__ import annotations

from datetime import date

import polars as pl

from btc_assets.champion.gate import PRIMARY, Evidence, promises, shown_better
from btc_assets.champion.tables import SHADOW_REPORT
from btc_assets.vocabulary import CHALLENGER, CHAMPION, QUANTILE_NAMES


def realised(outcomes: pl.DataFrame, role: str) -> Evidence:
    """Return what one role forecast for the primary horizon, and what happened.

    Args:
        outcomes: FORECAST_OUTCOMES rows.
        role: champion or challenger.
    """
    own = outcomes.filter((pl.col("role") == role) & (pl.col("horizon_hours") == PRIMARY)).sort("open_time")
    return Evidence(
        own["open_time"],
        own["p_up"].to_numpy(),
        own.select(QUANTILE_NAMES).to_numpy(),
        own["log_return"].to_numpy(),
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
    """Judge the challenger of a day's newest hour on every hour it has spent in shadow.

    The tests are those of the gate. The challenger waits until enough hours are realised; it is then judged once, and
    promoted only if it passes every one of them.

    Args:
        outcomes: FORECAST_OUTCOMES rows known by the end of the day, reaching back to where the shadow began.
        forecasts: FORECASTS rows of the day.
        day: the day.
        least_hours: realised hours it is judged on.
        margin_nats: how much lower its log-loss must be.
        significance: largest p-value of that.
        fee_bps: one-way cost of the Sharpe ratios, basis points.

    Returns:
        SHADOW_REPORT rows, one a criterion; none when nobody is in shadow in the day's newest hour.
    """
    newest = forecasts.filter(pl.col("open_time") == pl.col("open_time").max())
    challenger, champion = (newest.filter(pl.col("role") == role) for role in (CHALLENGER, CHAMPION))
    if challenger.is_empty() or champion.is_empty():
        return SHADOW_REPORT.empty()
    named = challenger.row(0, named=True)
    version = named["model_version"]
    in_shadow = realised(outcomes.filter(pl.col("model_version") == version), CHALLENGER)
    served = realised(outcomes, CHAMPION)
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
