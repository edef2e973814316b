"""Checks on forecasts and outcomes: of the newest day of the run, or of the newest stored day outside a run."""

from datetime import date, timedelta

import dagster as dg
import polars as pl

from btc_assets.champion.tables import MODEL_HISTORY
from btc_assets.features.tables import HOURLY_FEATURES, HOURLY_LABELS
from btc_assets.forecasting.assets import (
    explanations,
    forecast_outcomes,
    forecasts,
    position_rule,
    positions,
    profiles_of,
)
from btc_assets.forecasting.completeness import changed_forecasts, missing_forecasts, missing_outcomes
from btc_assets.forecasting.explanations import unequal_sums
from btc_assets.forecasting.forecasts import choose_models, forecast_hours
from btc_assets.forecasting.positions import SCORE_DAYS, paper_positions
from btc_assets.forecasting.tables import EXPLANATIONS, FORECAST_OUTCOMES, FORECASTS, POSITIONS
from btc_assets.lake import Lake
from btc_assets.learning.missingness import LOOK_BACK_DAYS
from btc_assets.learning.registry import ModelRegistry
from btc_assets.learning.tables import TRAINED_MODEL, TRAINING_PROFILE
from btc_assets.market.quarter_bars import QUARTER_BARS
from btc_assets.market.tables import PRICES
from btc_assets.partitions import day_to_check, nothing_stored
from btc_assets.schema import Contract
from btc_assets.settings import settings
from btc_assets.vocabulary import CHAMPION, display

_COVERAGE_DAYS = 90
_COVERAGE_TOLERANCE = 0.05
"""Largest deviation of the 90 % interval's coverage over `_COVERAGE_DAYS` without a warning."""
_COVERAGE_ROWS = 24 * 14
"""Fewest outcomes from which coverage is checked."""


def _chosen(lake: Lake, day: date) -> pl.DataFrame:
    """Return the model of each hour and role of a day, from the same rows that `forecasts` reads."""
    window = settings().recent_days
    history = lake.scan(MODEL_HISTORY, None, day).collect()
    trained = lake.scan(TRAINED_MODEL, day - timedelta(days=window), day).collect()
    hours = _one_day(lake, HOURLY_FEATURES, day)["open_time"]
    return choose_models(history, trained, hours, window_days=window)


def _none_of(rows: pl.DataFrame, sentence: str, day: date, /, **metadata: int) -> dg.AssetCheckResult:
    """Return whether there is no such row; else the sentence with their number, and the first hour."""
    first = "" if rows.is_empty() else f", the first of {rows['open_time'][0]}"
    return dg.AssetCheckResult(
        passed=rows.is_empty(), description=f"{rows.height} {sentence}{first}.", metadata={"day": str(day), **metadata}
    )


def _one_day(lake: Lake, contract: Contract, day: date) -> pl.DataFrame:
    return lake.scan_days(contract, [day]).collect()


@dg.asset_check(asset=forecasts, name="every_hour_is_forecast")
def every_hour_is_forecast(context: dg.AssetCheckExecutionContext, lake: dg.ResourceParam[Lake]) -> dg.AssetCheckResult:
    """Every closed hour of the day with features and a bar has a forecast of each role and horizon."""
    day = day_to_check(context.run.tags, lake.days(FORECASTS))
    if day is None:
        return nothing_stored(FORECASTS.table)
    chosen = _chosen(lake, day)
    if CHAMPION not in chosen["role"]:
        return dg.AssetCheckResult(
            passed=False,
            severity=dg.AssetCheckSeverity.WARN,
            description=f"There is no champion on {day}: train and judge a cutoff on or before that day.",
        )
    missing = missing_forecasts(
        _one_day(lake, HOURLY_FEATURES, day), _one_day(lake, PRICES, day), _one_day(lake, FORECASTS, day), chosen
    )
    return _none_of(missing, f"forecasts of {day} are missing", day, missing=missing.height)


@dg.asset_check(asset=forecasts, name="replay_gives_the_same")
def replay_gives_the_same(
    context: dg.AssetCheckExecutionContext, lake: dg.ResourceParam[Lake], registry: ModelRegistry
) -> dg.AssetCheckResult:
    """Forecasting the day again from the stored tables gives the stored rows, bit for bit."""
    day = day_to_check(context.run.tags, lake.days(FORECASTS))
    if day is None:
        return nothing_stored(FORECASTS.table)
    chosen = _chosen(lake, day)
    features = lake.scan(HOURLY_FEATURES, day - timedelta(days=LOOK_BACK_DAYS), day).sort("open_time").collect()
    replayed = forecast_hours(features, _one_day(lake, PRICES, day), chosen, registry, profiles_of(lake, chosen))
    changed = changed_forecasts(_one_day(lake, FORECASTS, day), replayed)
    differing = f"forecasts of {day} differ from a replay"
    return _none_of(changed, differing, day, rows=replayed.height, changed=changed.height)


@dg.asset_check(asset=forecasts, name="every_model_has_a_profile")
def every_model_has_a_profile(
    context: dg.AssetCheckExecutionContext, lake: dg.ResourceParam[Lake]
) -> dg.AssetCheckResult:
    """Every model of the day has a training profile, without which missing inputs cannot be detected."""
    day = day_to_check(context.run.tags, lake.days(FORECASTS))
    if day is None:
        return nothing_stored(FORECASTS.table)
    missing = sorted(set(_chosen(lake, day)["model_cutoff"]) - set(lake.days(TRAINING_PROFILE)))
    named = ", ".join(map(str, missing))
    return dg.AssetCheckResult(
        passed=not missing,
        severity=dg.AssetCheckSeverity.WARN,
        description=f"Missing inputs of {day} cannot be detected: materialise learning/training_profile of {named}."
        if missing
        else f"Every model of {day} has a training profile.",
        metadata={"day": str(day), "missing": len(missing)},
    )


@dg.asset_check(asset=forecasts, name="no_input_is_missing")
def no_input_is_missing(context: dg.AssetCheckExecutionContext, lake: dg.ResourceParam[Lake]) -> dg.AssetCheckResult:
    """No champion forecast of the day misses an input beyond what its model saw in training."""
    day = day_to_check(context.run.tags, lake.days(FORECASTS))
    if day is None:
        return nothing_stored(FORECASTS.table)
    degraded = _one_day(lake, FORECASTS, day).filter((pl.col("role") == CHAMPION) & pl.col("degraded"))
    named = sorted({name for names in degraded["missing_inputs"].unique() for name in names.split(",")})
    hours = degraded["open_time"].n_unique()
    return dg.AssetCheckResult(
        passed=not hours,
        severity=dg.AssetCheckSeverity.WARN,
        description=f"{hours} hours of {day} miss {', '.join(named[:8])}{' and others' if len(named) > 8 else ''}."
        if hours
        else f"No input is missing on {day}.",
        metadata={"day": str(day), "degraded_hours": hours, "missing_inputs": named},
    )


@dg.asset_check(asset=forecast_outcomes, name="every_known_label_is_judged")
def every_known_label_is_judged(
    context: dg.AssetCheckExecutionContext, lake: dg.ResourceParam[Lake]
) -> dg.AssetCheckResult:
    """Every forecast whose label became known on the day has an outcome."""
    day = day_to_check(context.run.tags, lake.days(FORECAST_OUTCOMES))
    if day is None:
        return nothing_stored(FORECAST_OUTCOMES.table)
    missing = missing_outcomes(
        lake.scan(FORECASTS, day - timedelta(days=2), day).collect(),
        _one_day(lake, HOURLY_LABELS, day),
        _one_day(lake, FORECAST_OUTCOMES, day),
    )
    return _none_of(missing, f"forecasts whose outcome was known on {day} are not judged", day, missing=missing.height)


@dg.asset_check(asset=forecast_outcomes, name="intervals_hold")
def intervals_hold(context: dg.AssetCheckExecutionContext, lake: dg.ResourceParam[Lake]) -> dg.AssetCheckResult:
    """The champion's 90 % intervals cover about 90 % of the outcomes of the last 90 days, at each horizon."""
    day = day_to_check(context.run.tags, lake.days(FORECAST_OUTCOMES))
    if day is None:
        return nothing_stored(FORECAST_OUTCOMES.table)
    coverage = (
        lake.scan(FORECAST_OUTCOMES, day - timedelta(days=_COVERAGE_DAYS - 1), day)
        .filter(pl.col("role") == CHAMPION)
        .group_by("horizon_minutes")
        .agg(
            pl.col("log_return").is_between(pl.col("q05"), pl.col("q95")).mean().alias("coverage"), pl.len().alias("n")
        )
        .sort("horizon_minutes")
        .collect()
    )
    enough = coverage.filter(pl.col("n") >= _COVERAGE_ROWS)
    outside = enough.filter((pl.col("coverage") - 0.9).abs() > _COVERAGE_TOLERANCE)
    shares = ", ".join(
        f"{display(row['horizon_minutes'])} {row['coverage']:.1%} of {row['n']:,}"
        for row in coverage.iter_rows(named=True)
    )
    return dg.AssetCheckResult(
        passed=outside.is_empty(),
        severity=dg.AssetCheckSeverity.WARN,
        description=f"90 % intervals cover {shares or 'no outcome yet'} in the {_COVERAGE_DAYS} days to {day}; "
        f"fewer than {_COVERAGE_ROWS} outcomes are not checked.",
    )


@dg.asset_check(asset=explanations, name="contributions_add_up")
def contributions_add_up(context: dg.AssetCheckExecutionContext, lake: dg.ResourceParam[Lake]) -> dg.AssetCheckResult:
    """Every forecast of the champion has contributions that add up to its log-odds within 1e-6 (warning)."""
    day = day_to_check(context.run.tags, lake.days(EXPLANATIONS))
    if day is None:
        return nothing_stored(EXPLANATIONS.table)
    champion = _one_day(lake, FORECASTS, day).filter(pl.col("role") == CHAMPION)
    explained = _one_day(lake, EXPLANATIONS, day)
    missing = champion.join(explained, on=EXPLANATIONS.key, how="anti").select(EXPLANATIONS.key)
    faulty = pl.concat([missing, unequal_sums(explained, champion).select(EXPLANATIONS.key)]).sort(EXPLANATIONS.key)
    result = _none_of(faulty, f"forecasts of {day} have no explanation that adds up to them", day)
    return result._replace(severity=dg.AssetCheckSeverity.WARN)


@dg.asset_check(asset=positions, name="record_can_be_repeated")
def record_can_be_repeated(context: dg.AssetCheckExecutionContext, lake: dg.ResourceParam[Lake]) -> dg.AssetCheckResult:
    """Deciding the day again from the stored forecasts, bars and earlier positions gives the stored rows."""
    day = day_to_check(context.run.tags, lake.days(POSITIONS))
    if day is None:
        return nothing_stored(POSITIONS.table)
    days_back = settings().report_days - 1
    repeated = paper_positions(
        lake.scan(FORECASTS, day - timedelta(days=SCORE_DAYS), day).collect(),
        lake.scan(QUARTER_BARS, day - timedelta(days=1), day).collect(),
        lake.scan(POSITIONS, day - timedelta(days=days_back), day - timedelta(days=1)).collect(),
        days=[day],
        rule=position_rule(),
    )
    changed = _one_day(lake, POSITIONS, day).join(repeated, on=POSITIONS.columns.names(), how="anti", nulls_equal=True)
    return _none_of(changed, f"rows of {day} differ from a repetition", day, rows=repeated.height)


@dg.asset_check(asset=positions, name="every_forecast_is_decided")
def every_forecast_is_decided(
    context: dg.AssetCheckExecutionContext, lake: dg.ResourceParam[Lake]
) -> dg.AssetCheckResult:
    """Every forecast of the champion of the day and the day before has a decision about the position (warning)."""
    day = day_to_check(context.run.tags, lake.days(POSITIONS))
    if day is None:
        return nothing_stored(POSITIONS.table)
    champion = lake.scan(FORECASTS, day - timedelta(days=1), day).filter(pl.col("role") == CHAMPION)
    decided = lake.scan(POSITIONS, day - timedelta(days=1), day)
    missing = champion.unique("open_time").join(decided, on="open_time", how="anti").sort("open_time").collect()
    result = _none_of(missing, f"hours up to {day} have a forecast and no decision", day)
    return result._replace(severity=dg.AssetCheckSeverity.WARN)


CHECKS = [
    every_hour_is_forecast,
    replay_gives_the_same,
    every_model_has_a_profile,
    no_input_is_missing,
    every_known_label_is_judged,
    intervals_hold,
    contributions_add_up,
    record_can_be_repeated,
    every_forecast_is_decided,
]
