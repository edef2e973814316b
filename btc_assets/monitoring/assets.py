"""Assets that report the performance of forecasts and the drift away from the champion's training window."""

import tempfile
from pathlib import Path
from typing import Any

import dagster as dg
import polars as pl

from btc_assets import freshness
from btc_assets.display import markdown_image
from btc_assets.lake import output_of
from btc_assets.learning.registry import ModelRegistry
from btc_assets.monitoring import degradation, drift, performance, plots
from btc_assets.monitoring.tables import DRIFT_REPORT, PERFORMANCE_REPORT
from btc_assets.monitoring.watching import watch_day
from btc_assets.partitions import DAILY, day_of, days_before
from btc_assets.schema import dagster_type
from btc_assets.settings import settings
from btc_assets.vocabulary import CHAMPION, PRIMARY

GROUP = "monitoring"
CODE_VERSION = "2"
MAX_CHAMPION_AGE_DAYS = 182
"""Age in days up to which a champion's whole training window is the reference; for an older one it is truncated."""
_BACKFILL = dg.BackfillPolicy.single_run()
_LIMITS = {"dagster/max_runtime": "3600", "dagster/priority": "1"}  # runs before the non-blocking checks
_COMMON: dict[str, Any] = {
    "partitions_def": DAILY,
    "group_name": GROUP,
    "backfill_policy": _BACKFILL,
    "code_version": CODE_VERSION,
    "op_tags": _LIMITS,
}
"""Options shared by every asset of this domain."""


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
    freshness_policy=freshness.DAILY,
)
def performance_report(context: dg.AssetExecutionContext, forecast_outcomes: pl.LazyFrame) -> dg.Output[pl.DataFrame]:
    """Performance of the forecasts of the last `BTC_REPORT_DAYS` days, by role, horizon and period.

    Every metric has n and a 95 % interval: direction, probabilities, intervals, strategies after costs with and without
    a delay of one bar, and significance tests. The table and the plots below show the main metrics.
    """
    config = settings()
    outcomes = forecast_outcomes.collect()
    days = sorted(day_of(key) for key in context.partition_keys)
    reports = []
    for day in days:
        # A run over several days loads them all at once; each report uses only its own window.
        window = outcomes.filter(performance.within(day, config.report_days))
        reports.append(performance.performance_report(window, day=day, fee_bps=config.fee_bps, seed=config.seed))
    newest = outcomes.filter(performance.within(days[-1], config.report_days))
    return output_of(
        context,
        PERFORMANCE_REPORT,
        pl.concat(reports),
        {"summary": dg.MetadataValue.md(performance.markdown(reports[-1])), **_pictures(newest, config.fee_bps)},
    )


@dg.asset(
    key=["monitoring", "drift_report"],
    **(_COMMON | {"code_version": "3"}),
    dagster_type=dagster_type(DRIFT_REPORT),
    ins={
        "hourly_features": dg.AssetIn(
            key=["features", "hourly_features"],
            partition_mapping=days_before(settings().recent_days + MAX_CHAMPION_AGE_DAYS, and_today=True),
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
    freshness_policy=freshness.DAILY,
)
def drift_report(
    context: dg.AssetExecutionContext,
    registry: ModelRegistry,
    hourly_features: pl.LazyFrame,
    forecasts: pl.LazyFrame,
    forecast_outcomes: pl.LazyFrame,
) -> dg.Output[pl.DataFrame]:
    """Drift of the inputs of the day's champion, and sequential tests of the promises of its forecasts.

    Inputs: each feature over the last `BTC_DRIFT_DAYS` days is compared with the champion's training window, and P(up)
    with the days before. A feature has drifted if the change is significant at a false discovery rate of 5 % and large.
    Drifted inputs only warn.
    Promises: calibration, coverage of the 90 % interval and log-loss against a coin, for the 60 min forecasts of the
    last `BTC_WATCH_DAYS` days. Each sequential test has a mean time to a false alarm of at least
    `BTC_MEAN_DAYS_TO_FALSE_ALARM`. The promise of known inputs is broken if an input was missing more than in the
    champion's training for more than a day of the last `BTC_DRIFT_DAYS`. A broken promise requests a training.
    The MLflow run holds the Evidently report of the newest day of a run.
    """
    primary = (pl.col("role") == CHAMPION) & (pl.col("horizon_minutes") == PRIMARY)
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
                window_days=config.recent_days,
                drift_days=config.drift_days,
                watch_days=config.watch_days,
                mean_days=config.mean_days_to_false_alarm,
            )
        )
    ]
    if not watches:
        return output_of(context, DRIFT_REPORT, DRIFT_REPORT.empty(), {"summary": "No champion forecast these days."})
    frame, newest = pl.concat(watch.rows for watch in watches).sort(DRIFT_REPORT.key), watches[-1]
    with registry.run(
        context, DRIFT_REPORT.asset_key, {"model_version": str(newest.version), "cutoff": newest.cutoff.isoformat()}
    ) as run:
        with tempfile.TemporaryDirectory() as scratch:
            drift.write_evidently(newest.reference, newest.current, newest.features, Path(scratch) / "evidently.html")
            run.files(Path(scratch), "drift")
        link = run.link()
    inputs, promises = newest.inputs, newest.promises
    drifted = [column.name for column in inputs if column.drifted]
    return output_of(
        context,
        DRIFT_REPORT,
        frame,
        {
            "drifted": drifted,
            "share_drifted": len(drifted) / len(inputs),
            "broken_promises": [broken.promise for broken in degradation.broken_promises(newest.rows)],
            "lost_hours": newest.lost,
            "inputs": dg.MetadataValue.md(drift.markdown(inputs)),
            "promises": dg.MetadataValue.md(
                "\n".join(f"- **{promise.name}**: {promise.sentence}" for promise in promises)
            ),
            "picture": dg.MetadataValue.md(markdown_image(plots.drift(inputs), "drift")),
            "evidently": f"{link}/artifacts/drift/evidently.html",
            "mlflow_run": link,
            "reference_hours": newest.reference.height,
            "current_hours": newest.current.height,
        },
    )


def _pictures(outcomes: pl.DataFrame, fee_bps: float) -> dict[str, dg.MarkdownMetadataValue]:
    """Return the plots of the champion's forecasts of the primary horizon."""
    role, horizon = CHAMPION, PRIMARY
    pictures = {
        "equity": plots.equity(outcomes, role=role, horizon=horizon, fee_bps=fee_bps),
        "reliability": plots.reliability(outcomes, role=role, horizon=horizon),
        "rolling_accuracy": plots.rolling_accuracy(outcomes, role=role, horizon=horizon),
    }
    return {name: dg.MetadataValue.md(markdown_image(png, name)) for name, png in pictures.items() if png}


ASSETS = [
    performance_report,
    drift_report,
]
