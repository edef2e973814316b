"""Forecasts of every hour, their reasons and outcomes, and the paper positions of a rule that trades them."""

from datetime import timedelta
from typing import Any

import dagster as dg
import polars as pl

from btc_assets import freshness
from btc_assets.champion.tables import MODEL_HISTORY
from btc_assets.display import table_metadata
from btc_assets.forecasting.explanations import explain_hours
from btc_assets.forecasting.forecasts import choose_models, forecast_hours
from btc_assets.forecasting.outcomes import judge_forecasts
from btc_assets.forecasting.positions import SCORE_DAYS, Rule, as_markdown, paper_positions
from btc_assets.forecasting.tables import EXPLANATIONS, FORECAST_OUTCOMES, FORECASTS, POSITIONS
from btc_assets.lake import Reader, output_of
from btc_assets.learning.families.registry import FamilyError
from btc_assets.learning.missingness import LOOK_BACK_DAYS
from btc_assets.learning.registry import ModelRegistry, RegistryError
from btc_assets.learning.tables import TRAINING_PROFILE
from btc_assets.markdown import markdown_rows
from btc_assets.partitions import DAILY, day_of, days_before, everything_until
from btc_assets.reads import Tables
from btc_assets.schema import dagster_type
from btc_assets.settings import settings
from btc_assets.vocabulary import CHAMPION, ROLES, display

_COMMON: dict[str, Any] = {
    "partitions_def": DAILY,
    "group_name": "forecasting",
    "backfill_policy": dg.BackfillPolicy.single_run(),
    "code_version": "2",
    # The priority runs these assets before the non-blocking checks.
    "op_tags": {"dagster/max_runtime": "3600", "dagster/priority": "1"},
}
"""Options shared by every asset of this domain."""


def _models_as_of(table: str) -> dg.AssetIn:
    """Declare the partitions up to the day itself, as far back as the newest model may be old."""
    return dg.AssetIn(key=table.split("/"), partition_mapping=days_before(settings().recent_days, and_today=True))


def profiles_of(tables: Reader, chosen: pl.DataFrame) -> pl.DataFrame:
    """Return the TRAINING_PROFILE rows of the chosen models' cutoffs, of any age."""
    return tables.scan_days(TRAINING_PROFILE, sorted(chosen["model_cutoff"].unique())).collect()


@dg.asset(
    key=["forecasting", "forecasts"],
    **(_COMMON | {"code_version": "3"}),
    dagster_type=dagster_type(FORECASTS),
    ins={
        "hourly_features": dg.AssetIn(
            key=["features", "hourly_features"], partition_mapping=days_before(LOOK_BACK_DAYS, and_today=True)
        ),
        "prices": dg.AssetIn(key=["market", "prices"]),
        "trained_model": _models_as_of("learning/trained_model"),
    },
    deps=[
        dg.AssetDep(contract.asset_key, partition_mapping=everything_until(and_today=True))
        for contract in (MODEL_HISTORY, TRAINING_PROFILE)
    ],
    kinds={"polars", "onnx"},
    freshness_policy=freshness.HOURLY,
)
def forecasts(
    context: dg.AssetExecutionContext,
    registry: ModelRegistry,
    tables: dg.ResourceParam[Tables],
    hourly_features: pl.LazyFrame,
    prices: pl.LazyFrame,
    trained_model: pl.LazyFrame,
) -> dg.Output[pl.DataFrame]:
    """Forecasts of every closed hour with features: P(up) and five return quantiles for 1, 4 and 24 hours.

    Three roles forecast an hour: the champion of that hour, the newest cutoff's own model and, in shadow, the
    challenger. Their models come from the append-only history, never from a registry alias, so materialising an old
    day again gives the same rows. A day before the first model has no forecasts.

    A forecast whose inputs are missing beyond what its model saw in training (`learning/training_profile`) is marked as
    degraded, with the inputs named. These inputs are set to their training medians; if they carry too much of the
    model, base rate and volatility replace its forecast.
    """
    days = [day_of(key) for key in context.partition_keys]
    features = hourly_features.sort("open_time").collect()
    in_partitions = pl.col("open_time").dt.date().is_in(days)
    reads = tables.of(context)
    history = reads.scan(MODEL_HISTORY).collect()
    hours = features.filter(in_partitions)["open_time"]
    chosen = choose_models(history, trained_model.collect(), hours, window_days=settings().recent_days)
    frame = forecast_hours(features, prices.collect(), chosen, registry, profiles_of(reads, chosen))
    champion = frame.filter(pl.col("role") == CHAMPION)
    champion_days = champion["open_time"].dt.date().unique()
    return output_of(
        context,
        FORECASTS,
        frame,
        {
            "models": {role: sorted(frame.filter(pl.col("role") == role)["model_version"].unique()) for role in ROLES},
            "days_without_a_champion": len(set(days) - set(champion_days)),
            "degraded_hours": champion.filter("degraded")["open_time"].n_unique(),
            "missing_inputs": sorted(set(",".join(champion["missing_inputs"].unique()).split(",")) - {""}),
            "newest": dg.MetadataValue.md(_newest_forecasts(frame)),
        },
    )


@dg.asset(
    key=["forecasting", "forecast_outcomes"],
    **_COMMON,
    dagster_type=dagster_type(FORECAST_OUTCOMES),
    ins={
        "forecasts": dg.AssetIn(key=["forecasting", "forecasts"], partition_mapping=days_before(2, and_today=True)),
        "hourly_labels": dg.AssetIn(key=["features", "hourly_labels"]),
    },
    kinds={"polars"},
    freshness_policy=freshness.HOURLY,
)
def forecast_outcomes(
    context: dg.AssetExecutionContext, forecasts: pl.LazyFrame, hourly_labels: pl.LazyFrame
) -> dg.Output[pl.DataFrame]:
    """The outcome of each forecast, on the day on which it was known.

    Correct, incorrect, or too small to call (a return below `BTC_TOO_SMALL_TO_CALL`), with the return in the forecast
    direction before and after one round trip at `BTC_FEE_BPS` one-way.
    """
    config = settings()
    frame = judge_forecasts(
        forecasts.collect(),
        hourly_labels.collect(),
        too_small_to_call=config.too_small_to_call,
        fee_bps=config.fee_bps,
    )
    tally = frame.group_by("role", "horizon_minutes", "outcome").len("n").sort("role", "horizon_minutes", "outcome")
    return output_of(context, FORECAST_OUTCOMES, frame, {"tally": table_metadata(tally)})


@dg.asset(
    key=["forecasting", "explanations"],
    **(_COMMON | {"code_version": "2"}),
    dagster_type=dagster_type(EXPLANATIONS),
    ins={
        "forecasts": dg.AssetIn(key=["forecasting", "forecasts"]),
        "hourly_features": dg.AssetIn(
            key=["features", "hourly_features"], partition_mapping=days_before(LOOK_BACK_DAYS, and_today=True)
        ),
    },
    deps=[dg.AssetDep(TRAINING_PROFILE.asset_key, partition_mapping=everything_until(and_today=True))],
    kinds={"shap", "polars"},
    freshness_policy=freshness.HOURLY,
)
def explanations(
    context: dg.AssetExecutionContext,
    registry: ModelRegistry,
    tables: dg.ResourceParam[Tables],
    forecasts: pl.LazyFrame,
    hourly_features: pl.LazyFrame,
) -> dg.Output[pl.DataFrame]:
    """Why the champion forecasts what it does: contributions of the inputs to each P(up), and a sentence.

    The contributions are SHAP values in log-odds: those of each member times the slope of its calibration and its
    weight in the hour. They are exact for trees and linear members; `approximate` names the members for which they are
    not. With `base` they add up to the log-odds of the stored forecast. The five strongest on each side are listed. A
    forecast that is the base rate has no contributions, and its sentence says so.

    An hour whose model cannot be read back in the formats of its libraries has no explanation, as the forecast does not
    wait for one.
    """
    champion = forecasts.filter(pl.col("role") == CHAMPION).collect()
    fault = None
    try:
        frame = explain_hours(champion, hourly_features.collect(), registry, profiles_of(tables.of(context), champion))
    except (RegistryError, FamilyError, OSError) as error:
        frame, fault = EXPLANATIONS.empty(), str(error)
        context.log.warning("The forecasts are not explained: %s", error)
    newest = frame.filter(pl.col("open_time") == pl.col("open_time").max())
    sentences = "\n".join(f"- {sentence}" for sentence in newest["sentence"])
    return output_of(
        context,
        EXPLANATIONS,
        frame,
        {
            "explained": frame.height,
            "unexplained": champion.height - frame.height,
            "newest": dg.MetadataValue.md(fault or sentences or "There is no forecast of a champion on this day yet."),
        },
    )


def position_rule() -> Rule:
    """Return the rule of the settings."""
    config = settings()
    return Rule(
        config.position_enter,
        config.position_exit,
        by_volatility=config.position_sizing in ("volatility", "both"),
        by_confidence=config.position_sizing in ("confidence", "both"),
    )


@dg.asset(
    key=["forecasting", "positions"],
    **(_COMMON | {"code_version": "2"}),
    dagster_type=dagster_type(POSITIONS),
    ins={
        "forecasts": dg.AssetIn(
            key=["forecasting", "forecasts"], partition_mapping=days_before(SCORE_DAYS, and_today=True)
        ),
        "quarter_bars": dg.AssetIn(key=["market", "quarter_bars"], partition_mapping=days_before(1, and_today=True)),
    },
    deps=[
        dg.AssetDep(POSITIONS.asset_key, partition_mapping=days_before(settings().report_days - 1, and_today=False)),
    ],
    kinds={"polars"},
    freshness_policy=freshness.DAILY,
)
def positions(
    context: dg.AssetExecutionContext,
    tables: dg.ResourceParam[Tables],
    forecasts: pl.LazyFrame,
    quarter_bars: pl.LazyFrame,
) -> dg.Output[pl.DataFrame]:
    """Paper positions of a rule that trades the champion's forecasts. It is a paper record, no order goes anywhere.

    The rule trades the 60 min forecasts: it enters beyond `BTC_POSITION_ENTER` standard deviations of the score and
    leaves beyond `BTC_POSITION_EXIT` on the other side. Each hour has its return at delays of 0 and 15 minutes and one
    bar and at costs of 0, 2, 5 and 10 bp one-way. The record continues that of earlier partitions of this asset (a
    self-dependency). The table below judges the last `BTC_REPORT_DAYS` days beside buy-and-hold, with the Sharpe ratio
    deflated by every rule and forecaster tried.
    """
    days = [day_of(key) for key in context.partition_keys]
    past = tables.of(context).scan(POSITIONS, None, days[0] - timedelta(days=1)).collect()
    frame = paper_positions(forecasts.collect(), quarter_bars.collect(), past, days=days, rule=position_rule())
    record = pl.concat([past, frame])
    since = pl.col("open_time").dt.date() > days[-1] - timedelta(days=settings().report_days)
    return output_of(
        context,
        POSITIONS,
        frame,
        {
            "position": frame["position"].last(),
            "hours": frame["open_time"].n_unique(),
            "judgement": dg.MetadataValue.md(as_markdown(record.filter(since))),
        },
    )


def _newest_forecasts(frame: pl.DataFrame) -> str:
    """Return the forecasts of the newest hour as a Markdown table."""
    if frame.is_empty():
        return "There is no model on this day yet."
    newest = frame.filter(pl.col("open_time") == pl.col("open_time").max())
    return markdown_rows(
        ("made at", "horizon", "role", "version", "P(up)", "median", "90 % interval"),
        (
            (
                f"{row['made_at']:%Y-%m-%d %H:%M}",
                display(row["horizon_minutes"]),
                row["role"],
                row["model_version"],
                f"{row['p_up']:.1%}",
                f"{row['q50']:+.2%}",
                f"{row['q05']:+.2%} to {row['q95']:+.2%}",
            )
            for row in newest.iter_rows(named=True)
        ),
    )


ASSETS = [forecasts, explanations, forecast_outcomes, positions]
