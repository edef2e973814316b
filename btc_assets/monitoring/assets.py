"""Forecasts, what became of them, and how good they were."""

import tempfile
from dataclasses import asdict
from datetime import timedelta
from pathlib import Path
from typing import Any

import dagster as dg
import polars as pl

from btc_assets.alerts.outbox import Outbox
from btc_assets.clock import midnight
from btc_assets.contracts import (
    ALERTS,
    DRIFT_REPORT,
    FORECAST_OUTCOMES,
    FORECASTS,
    HORIZONS,
    MODEL_HISTORY,
    PERFORMANCE_REPORT,
    ROLES,
    SHADOW_REPORT,
    TRAINING_PROFILE,
    dagster_type,
)
from btc_assets.lake import Lake, stored
from btc_assets.learning.missingness import LOOK_BACK_DAYS
from btc_assets.learning.registry import ModelRegistry
from btc_assets.monitoring import degradation, drift, performance, plots, shadow
from btc_assets.monitoring.forecasting import CHAMPION, NEWEST, choose_models, forecast_hours
from btc_assets.monitoring.outcomes import judge_forecasts
from btc_assets.monitoring.watching import watch_day
from btc_assets.partitions import DAILY, day_of, days_before
from btc_assets.settings import settings

GROUP = "monitoring"
CODE_VERSION = "1"
MOST_DAYS_OF_A_CHAMPION = 182
"""Days a champion may have stood for its whole training window to be compared with; an older one's is cut short."""
MOST_DAYS_IN_SHADOW = 370
"""Days back a shadow may have begun; `BTC_SHADOW_HOURS` allows a year."""
_BACKFILL = dg.BackfillPolicy.single_run()
_HOURLY = dg.FreshnessPolicy.time_window(fail_window=timedelta(hours=3), warn_window=timedelta(hours=2))
_DAILY = dg.FreshnessPolicy.time_window(fail_window=timedelta(hours=50), warn_window=timedelta(hours=26))
_LIMITS = {"dagster/max_runtime": "3600", "dagster/priority": "1"}  # before the checks that block nothing
_COMMON: dict[str, Any] = {
    "partitions_def": DAILY,
    "group_name": GROUP,
    "backfill_policy": _BACKFILL,
    "code_version": CODE_VERSION,
    "op_tags": _LIMITS,
}
"""What every asset of this domain has in common."""


def _models_as_of(table: str) -> dg.AssetIn:
    """Everything written by cutoffs up to the day itself, as far back as a training window."""
    return dg.AssetIn(key=table.split("/"), partition_mapping=days_before(settings().window_days, and_today=True))


def profiles_of(lake: Lake, chosen: pl.DataFrame) -> pl.DataFrame:
    """Return what the models chosen saw in training, of however long ago: TRAINING_PROFILE rows of their cutoffs."""
    return lake.scan_days(TRAINING_PROFILE, sorted(chosen["model_cutoff"].unique())).collect()


@dg.asset(
    key=["monitoring", "forecasts"],
    **(_COMMON | {"code_version": "2"}),
    dagster_type=dagster_type(FORECASTS),
    ins={
        "hourly_features": dg.AssetIn(
            key=["features", "hourly_features"], partition_mapping=days_before(LOOK_BACK_DAYS, and_today=True)
        ),
        "prices": dg.AssetIn(key=["market", "prices"]),
        "trained_model": _models_as_of("learning/trained_model"),
    },
    deps=[
        dg.AssetDep(table, partition_mapping=days_before(settings().window_days, and_today=True))
        for table in (["learning", "model_history"], ["learning", "training_profile"])
    ],
    kinds={"polars", "onnx"},
    freshness_policy=_HOURLY,
)
def forecasts(
    context: dg.AssetExecutionContext,
    registry: ModelRegistry,
    lake: dg.ResourceParam[Lake],
    hourly_features: pl.LazyFrame,
    prices: pl.LazyFrame,
    trained_model: pl.LazyFrame,
) -> dg.Output[pl.DataFrame]:
    """Forecasts of every closed hour with features: P(up) and five return quantiles for 1, 4 and 24 hours.

    Three roles forecast an hour: the champion of that hour, the newest cutoff's own model and, in shadow, the
    challenger. Who they are is read from the append-only history, of however long ago, and never from a registry
    alias, so that materialising an old day again gives the same rows. A day before the first model has none.

    A forecast whose inputs are missing beyond what its model saw in training (`learning/training_profile`) is marked as
    degraded, with the inputs named; these are answered at their training median, and where they carry too much of the
    model, base rate and volatility answer in its place.
    """
    days = [day_of(key) for key in context.partition_keys]
    features = hourly_features.sort("open_time").collect()
    own = pl.col("open_time").dt.date().is_in(days)
    history = lake.scan(MODEL_HISTORY, None, max(days)).collect()
    hours = features.filter(own)["open_time"]
    chosen = choose_models(history, trained_model.collect(), hours, window_days=settings().window_days)
    frame = forecast_hours(features, prices.collect(), chosen, registry, profiles_of(lake, chosen))
    champion = frame.filter(pl.col("role") == CHAMPION)
    with_a_champion = champion["open_time"].dt.date().unique()
    return stored(
        context,
        FORECASTS,
        frame,
        {
            "models": {role: sorted(frame.filter(pl.col("role") == role)["model_version"].unique()) for role in ROLES},
            "days_without_a_champion": len(set(days) - set(with_a_champion)),
            "degraded_hours": champion.filter("degraded")["open_time"].n_unique(),
            "missing_inputs": sorted(set(",".join(champion["missing_inputs"].unique()).split(",")) - {""}),
            "newest": dg.MetadataValue.md(_newest_forecasts(frame)),
        },
    )


@dg.asset(
    key=["monitoring", "forecast_outcomes"],
    **_COMMON,
    dagster_type=dagster_type(FORECAST_OUTCOMES),
    ins={
        "forecasts": dg.AssetIn(key=["monitoring", "forecasts"], partition_mapping=days_before(2, and_today=True)),
        "hourly_labels": dg.AssetIn(key=["features", "hourly_labels"]),
    },
    kinds={"polars"},
    freshness_policy=_HOURLY,
)
def forecast_outcomes(
    context: dg.AssetExecutionContext, forecasts: pl.LazyFrame, hourly_labels: pl.LazyFrame
) -> dg.Output[pl.DataFrame]:
    """What became of each forecast, on the day it was known.

    Correct, incorrect, or too small to call (a return below `BTC_TOO_SMALL_TO_CALL`), with the return in the
    direction forecast before and after one round trip at `BTC_FEE_BPS` one-way.
    """
    config = settings()
    frame = judge_forecasts(
        forecasts.collect(),
        hourly_labels.collect(),
        too_small_to_call=config.too_small_to_call,
        fee_bps=config.fee_bps,
    )
    tally = frame.group_by("role", "horizon_hours", "outcome").len("n").sort("role", "horizon_hours", "outcome")
    return stored(context, FORECAST_OUTCOMES, frame, {"tally": _table(tally)})


@dg.asset(
    key=["monitoring", "performance_report"],
    **_COMMON,
    dagster_type=dagster_type(PERFORMANCE_REPORT),
    ins={
        "forecast_outcomes": dg.AssetIn(
            key=["monitoring", "forecast_outcomes"],
            partition_mapping=days_before(settings().report_days - 1, and_today=True),
        )
    },
    kinds={"polars", "matplotlib"},
    freshness_policy=_DAILY,
)
def performance_report(context: dg.AssetExecutionContext, forecast_outcomes: pl.LazyFrame) -> dg.Output[pl.DataFrame]:
    """How good the forecasts of the last `BTC_REPORT_DAYS` days were, by role, horizon and period.

    Every metric with n and a 95 % interval: direction, probabilities, intervals, strategies after costs with
    and without a bar of delay, and tests of significance. The table and the plots below show the main ones.
    """
    config = settings()
    outcomes = forecast_outcomes.collect()
    days = sorted(day_of(key) for key in context.partition_keys)
    reports = []
    for day in days:
        # A run over several days scans them all at once; each report looks back on its own window only.
        window = outcomes.filter(performance.within(day, config.report_days))
        reports.append(performance.performance_report(window, day=day, fee_bps=config.fee_bps, seed=config.seed))
    newest = outcomes.filter(performance.within(days[-1], config.report_days))
    return stored(
        context,
        PERFORMANCE_REPORT,
        pl.concat(reports),
        {"summary": dg.MetadataValue.md(performance.markdown(reports[-1])), **_pictures(newest, config.fee_bps)},
    )


@dg.asset(
    key=["monitoring", "shadow_report"],
    **(_COMMON | {"code_version": "2"}),
    dagster_type=dagster_type(SHADOW_REPORT),
    ins={
        "forecasts": dg.AssetIn(key=["monitoring", "forecasts"]),
        "forecast_outcomes": dg.AssetIn(
            key=["monitoring", "forecast_outcomes"],
            partition_mapping=days_before(MOST_DAYS_IN_SHADOW, and_today=True),
        ),
    },
    kinds={"polars", "matplotlib"},
    freshness_policy=_DAILY,
)
def shadow_report(
    context: dg.AssetExecutionContext, forecasts: pl.LazyFrame, forecast_outcomes: pl.LazyFrame
) -> dg.Output[pl.DataFrame]:
    """Champion against challenger, by the tests of the gate, on every hour the challenger has spent in shadow.

    The challenger forecasts beside the champion without being served. After `BTC_SHADOW_HOURS` realised hours it is
    judged once: promoted if it is shown to be better, else dismissed. Empty on days without a model in shadow.
    """
    config = settings()
    outcomes, made = forecast_outcomes.collect(), forecasts.collect()
    days = sorted(map(day_of, context.partition_keys))
    known, at = FORECAST_OUTCOMES.day, pl.col("open_time").dt.date()
    reports = [
        shadow.shadow_rows(
            outcomes.filter(known <= day),
            made.filter(at == day),
            day=day,
            least_hours=config.shadow_hours,
            margin_nats=config.gate_margin_nats,
            significance=config.gate_significance,
            fee_bps=config.fee_bps,
        )
        for day in days
    ]
    newest = reports[-1]
    metadata: dict[str, Any] = {"decision": "Nobody is in shadow."}
    if newest.height:
        first = newest.row(0, named=True)
        drawn = plots.shadow(outcomes.filter(pl.col("role") != NEWEST), version=first["challenger_version"])
        metadata = {
            "decision": first["decision"],
            "challenger": first["challenger_version"],
            "champion": first["champion_version"],
            "criteria": _table(newest.select("criterion", "value", "bound", "passed", "reason")),
            **({"picture": dg.MetadataValue.md(plots.embedded(drawn, "shadow"))} if drawn else {}),
        }
    return stored(context, SHADOW_REPORT, pl.concat(reports), metadata)


@dg.asset(
    key=["monitoring", "drift_report"],
    **(_COMMON | {"code_version": "2"}),
    dagster_type=dagster_type(DRIFT_REPORT),
    ins={
        "hourly_features": dg.AssetIn(
            key=["features", "hourly_features"],
            partition_mapping=days_before(settings().window_days + MOST_DAYS_OF_A_CHAMPION, and_today=True),
        ),
        "forecasts": dg.AssetIn(
            key=["monitoring", "forecasts"], partition_mapping=days_before(settings().watch_days, and_today=True)
        ),
        "forecast_outcomes": dg.AssetIn(
            key=["monitoring", "forecast_outcomes"],
            partition_mapping=days_before(settings().watch_days, and_today=True),
        ),
    },
    kinds={"polars", "evidently", "mlflow"},
    freshness_policy=_DAILY,
)
def drift_report(
    context: dg.AssetExecutionContext,
    registry: ModelRegistry,
    hourly_features: pl.LazyFrame,
    forecasts: pl.LazyFrame,
    forecast_outcomes: pl.LazyFrame,
) -> dg.Output[pl.DataFrame]:
    """Whether the world has moved away from the day's champion: its inputs, and what its forecasts are worth.

    Inputs: every feature of the champion over the last `BTC_DRIFT_DAYS` days against its training window, and its P(up)
    against the days before; a move must be significant at 5 % false discoveries and large. Moved inputs only warn.
    Promises: calibration, coverage of the 90 % interval and log-loss against a coin, of the 1 h forecasts of the last
    `BTC_WATCH_DAYS` days, by sequential tests, each with a mean time to a false alarm of no less than
    `BTC_MEAN_DAYS_TO_FALSE_ALARM`; and that inputs are known, broken where one was missing beyond what the champion
    saw in training for more than a day of the last `BTC_DRIFT_DAYS`. A broken promise requests a training.
    Evidently's page of the same comparison, for the newest day of a run, is kept with the MLflow run.
    """
    primary = (pl.col("role") == CHAMPION) & (pl.col("horizon_hours") == HORIZONS[0])
    made, outcomes = forecasts.filter(primary).collect(), forecast_outcomes.filter(primary).collect()
    wide = hourly_features.sort("open_time").collect()
    config = settings()
    watches = [
        watch
        for day in sorted(map(day_of, context.partition_keys))
        if (
            watch := watch_day(
                day,
                features=wide,
                forecasts=made,
                outcomes=outcomes,
                models=registry,
                window_days=config.window_days,
                drift_days=config.drift_days,
                watch_days=config.watch_days,
                mean_days=config.mean_days_to_false_alarm,
            )
        )
    ]
    if not watches:
        return stored(context, DRIFT_REPORT, DRIFT_REPORT.empty(), {"summary": "No champion forecast these days."})
    frame, newest = pl.concat(watch.rows for watch in watches).sort(DRIFT_REPORT.key), watches[-1]
    with registry.run(context, {"model_version": str(newest.version), "cutoff": newest.cutoff.isoformat()}) as run:
        with tempfile.TemporaryDirectory() as scratch:
            drift.write_evidently(newest.reference, newest.current, newest.features, Path(scratch) / "evidently.html")
            run.files(Path(scratch), "drift")
        link = run.link()
    found, watched = newest.inputs, newest.promises
    drifted = [one.name for one in found if one.drifted]
    return stored(
        context,
        DRIFT_REPORT,
        frame,
        {
            "drifted": drifted,
            "share_drifted": len(drifted) / len(found),
            "broken_promises": [one.promise for one in degradation.broken_promises(newest.rows)],
            "lost_hours": newest.lost,
            "inputs": dg.MetadataValue.md(drift.markdown(found)),
            "promises": dg.MetadataValue.md("\n".join(f"- **{one.name}**: {one.sentence}" for one in watched)),
            "picture": dg.MetadataValue.md(plots.embedded(plots.drift(found), "drift")),
            "evidently": f"{link}/artifacts/drift/evidently.html",
            "mlflow_run": link,
            "reference_hours": newest.reference.height,
            "current_hours": newest.current.height,
        },
    )


@dg.asset(
    key=["monitoring", "alerts"],
    **_COMMON,
    dagster_type=dagster_type(ALERTS),
    kinds={"sqlite"},
    freshness_policy=_DAILY,
)
def alerts(context: dg.AssetExecutionContext, outbox: dg.ResourceParam[Outbox]) -> dg.Output[pl.DataFrame]:
    """What a person was told on a day: every alert raised, and for each of its channels whether it got there.

    The outbox holds an alert before anyone tries to deliver it; this table is its record of the day.
    """
    days = sorted(map(day_of, context.partition_keys))
    raised = outbox.between(midnight(days[0]), midnight(days[-1] + timedelta(days=1)))
    frame = pl.DataFrame([asdict(alert) for alert in raised], schema=ALERTS.columns).sort(ALERTS.key)
    frame = frame.filter(ALERTS.day.is_in(days))
    tally = frame.group_by("severity", "rule", "channel", "state").len("n").sort("severity", "rule", "channel", "state")
    waiting = frame.filter(pl.col("state") != "delivered").height
    return stored(context, ALERTS, frame, {"tally": _table(tally), "not_delivered": waiting})


def _pictures(outcomes: pl.DataFrame, fee_bps: float) -> dict[str, dg.MarkdownMetadataValue]:
    """Draw the primary horizon's champion."""
    role, horizon = CHAMPION, HORIZONS[0]
    drawn = {
        "equity": plots.equity(outcomes, role=role, horizon=horizon, fee_bps=fee_bps),
        "reliability": plots.reliability(outcomes, role=role, horizon=horizon),
        "rolling_accuracy": plots.rolling_accuracy(outcomes, role=role, horizon=horizon),
    }
    return {name: dg.MetadataValue.md(plots.embedded(png, name)) for name, png in drawn.items() if png}


def _newest_forecasts(frame: pl.DataFrame) -> str:
    """Return the forecasts of the newest hour as a Markdown table."""
    if frame.is_empty():
        return "No model stands on this day yet."
    newest = frame.filter(pl.col("open_time") == pl.col("open_time").max())
    return "\n".join(
        [
            "| made at | horizon | role | version | P(up) | median | 90 % interval |",
            "|---|---|---|---|---|---|---|",
            *(
                f"| {row['made_at']:%Y-%m-%d %H:%M} | {row['horizon_hours']} h | {row['role']} "
                f"| {row['model_version']} | {row['p_up']:.1%} | {row['q50']:+.2%} "
                f"| {row['q05']:+.2%} to {row['q95']:+.2%} |"
                for row in newest.iter_rows(named=True)
            ),
        ]
    )


def _table(frame: pl.DataFrame) -> dg.TableMetadataValue:
    records: list[Any] = [dg.TableRecord(row) for row in frame.iter_rows(named=True)]
    return dg.TableMetadataValue(
        records=records, schema=dg.TableSchema([dg.TableColumn(name) for name in frame.columns])
    )


ASSETS = [forecasts, forecast_outcomes, performance_report, shadow_report, drift_report, alerts]
