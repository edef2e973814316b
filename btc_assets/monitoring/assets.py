"""Forecasts, what became of them, and how good they were."""

import tempfile
from datetime import timedelta
from pathlib import Path
from typing import Any

import dagster as dg
import polars as pl

from btc_assets.display import embedded
from btc_assets.lake import stored
from btc_assets.learning.registry import ModelRegistry
from btc_assets.monitoring import degradation, drift, performance, plots
from btc_assets.monitoring.tables import DRIFT_REPORT, PERFORMANCE_REPORT
from btc_assets.monitoring.watching import watch_day
from btc_assets.partitions import DAILY, day_of, days_before
from btc_assets.schema import dagster_type
from btc_assets.settings import settings
from btc_assets.vocabulary import CHAMPION, HORIZONS

GROUP = "monitoring"
CODE_VERSION = "1"
MOST_DAYS_OF_A_CHAMPION = 182
"""Days a champion may have stood for its whole training window to be compared with; an older one's is cut short."""
_BACKFILL = dg.BackfillPolicy.single_run()
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


@dg.asset(
    key=["monitoring", "performance_report"],
    **_COMMON,
    dagster_type=dagster_type(PERFORMANCE_REPORT),
    ins={
        "forecast_outcomes": dg.AssetIn(
            key=["forecasting", "forecast_outcomes"],
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
    key=["monitoring", "drift_report"],
    **(_COMMON | {"code_version": "2"}),
    dagster_type=dagster_type(DRIFT_REPORT),
    ins={
        "hourly_features": dg.AssetIn(
            key=["features", "hourly_features"],
            partition_mapping=days_before(settings().window_days + MOST_DAYS_OF_A_CHAMPION, and_today=True),
        ),
        "forecasts": dg.AssetIn(
            key=["forecasting", "forecasts"], partition_mapping=days_before(settings().watch_days, and_today=True)
        ),
        "forecast_outcomes": dg.AssetIn(
            key=["forecasting", "forecast_outcomes"],
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
            "picture": dg.MetadataValue.md(embedded(plots.drift(found), "drift")),
            "evidently": f"{link}/artifacts/drift/evidently.html",
            "mlflow_run": link,
            "reference_hours": newest.reference.height,
            "current_hours": newest.current.height,
        },
    )


def _pictures(outcomes: pl.DataFrame, fee_bps: float) -> dict[str, dg.MarkdownMetadataValue]:
    """Draw the primary horizon's champion."""
    role, horizon = CHAMPION, HORIZONS[0]
    drawn = {
        "equity": plots.equity(outcomes, role=role, horizon=horizon, fee_bps=fee_bps),
        "reliability": plots.reliability(outcomes, role=role, horizon=horizon),
        "rolling_accuracy": plots.rolling_accuracy(outcomes, role=role, horizon=horizon),
    }
    return {name: dg.MetadataValue.md(embedded(png, name)) for name, png in drawn.items() if png}


ASSETS = [
    performance_report,
    drift_report,
]
