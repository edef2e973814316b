"""The jobs that schedules, sensors and users launch.

Each job materialises assets that may share a run: a run covers one day, a range of days, or one cutoff.
"""

from __future__ import annotations

from typing import Any

import dagster as dg

from btc_assets.alerts.tables import ALERTS
from btc_assets.automation.walk_forward import BACKGROUND
from btc_assets.champion.assets import history_config, rollback_config
from btc_assets.champion.tables import MODEL_HISTORY, MODEL_VERDICT, SHADOW_REPORT
from btc_assets.features.inputs import CLOCK, DERIVED, GATHERED_ALONE, OF_OTHER_ASSETS, STREAMS, WITH_THE_CLOCK
from btc_assets.features.tables import HOURLY_FEATURES, HOURLY_LABELS
from btc_assets.forecasting.tables import EXPLANATIONS, FORECAST_OUTCOMES, FORECASTS, POSITIONS
from btc_assets.lake import Lake
from btc_assets.learning.tables import FAMILY_COMPARISON, FEATURE_GROUP_STUDY
from btc_assets.monitoring.tables import DRIFT_REPORT, PERFORMANCE_REPORT
from btc_assets.partitions import DAILY
from btc_assets.serving.tables import SERVING_BUNDLE
from btc_assets.settings import Settings, settings

ONE_AT_A_TIME = "btc/one_at_a_time"
"""Tag of runs that must not overlap: `dagster.yaml` allows one run per value at a time and queues the others."""
FORECAST_LANE = "forecasts"
"""Value of the tag `ONE_AT_A_TIME` for every run between bars and bundle."""
PATIENCE_S = 75
"""Maximum time that the forecast of the hour waits for its bar, seconds."""
FINISHED = {dg.DagsterRunStatus.SUCCESS, dg.DagsterRunStatus.FAILURE, dg.DagsterRunStatus.CANCELED}
UNFINISHED = [status for status in dg.DagsterRunStatus if status not in FINISHED]
"""Statuses of a run that is queued, starting or running."""


def _tags(lane: str, *, minutes: int) -> dict[str, str]:
    """Return the tags that limit the run time and prevent concurrent runs that write the same tables.

    Args:
        lane: value of `ONE_AT_A_TIME`. Bars, for example, are read, merged and written back, so a concurrent run would
            lose updates.
        minutes: maximum run time.
    """
    tags = {"dagster/max_runtime": str(60 * minutes), ONE_AT_A_TIME: lane}
    return tags if lane == FORECAST_LANE else tags | {BACKGROUND: "yes"}


def gathered_tables(config: Settings) -> set[dg.AssetKey]:
    """Return the tables of the streams that a deployment gathers.

    A stream without a source yields no output, and Dagster skips what follows a missing output in the same run.
    """
    return {table.asset_key for stream in STREAMS if stream.is_gathered(config) for table in stream.tables}


def fetched_with_the_clock(config: Settings) -> list[dg.AssetKey]:
    """Return the tables that the run of the hourly forecast fetches in addition to the bars."""
    return [stream.contract.asset_key for stream in WITH_THE_CLOCK if stream.is_gathered(config)]


refresh_forecast = dg.define_asset_job(
    "refresh_forecast",
    selection=dg.AssetSelection.assets(
        CLOCK.contract.asset_key,
        *fetched_with_the_clock(settings()),
        HOURLY_FEATURES.asset_key,
        HOURLY_LABELS.asset_key,
        FORECASTS.asset_key,
        FORECAST_OUTCOMES.asset_key,
        EXPLANATIONS.asset_key,
        SERVING_BUNDLE.asset_key,
    ),
    config={
        "ops": {
            "market__prices": {"config": {"patience_s": PATIENCE_S}},
            **{"__".join(key.path): {"config": {"required": False}} for key in fetched_with_the_clock(settings())},
        }
    },
    description="Fetch the bar that has just closed, build its features, forecast, explain and publish, in one run.",
    tags=_tags(FORECAST_LANE, minutes=60) | {"dagster/priority": "10"},
)


refresh_prices = dg.define_asset_job(
    "refresh_prices",
    selection=dg.AssetSelection.assets(CLOCK.contract.asset_key),
    description="Fetch the bars of a day or a range of days.",
    tags=_tags(FORECAST_LANE, minutes=60),
)

gather_texts = dg.define_asset_job(
    "gather_texts",
    selection=dg.AssetSelection.assets(*(stream.contract.asset_key for stream in OF_OTHER_ASSETS)),
    description="Gather the articles and posts of a day or a range of days.",
    tags=_tags("texts", minutes=60),
)

GATHERINGS = {
    stream: dg.define_asset_job(
        f"gather_{stream.name}",
        selection=dg.AssetSelection.assets(stream.contract.asset_key),
        description=f"Gather the rows of {stream.contract.table} of a day or a range of days.",
        tags=_tags(FORECAST_LANE if stream.with_the_clock else stream.name, minutes=60),
    )
    for stream in (*WITH_THE_CLOCK, *GATHERED_ALONE)
}
"""The job of each stream that is gathered in a run of its own, late rows of those fetched with the bars included."""

score_texts = dg.define_asset_job(
    "score_texts",
    selection=dg.AssetSelection.assets(*(table.asset_key for table in DERIVED)),
    description="Score the sentiment of the stored articles and posts of a day or a range of days.",
    tags=_tags("scores", minutes=120),
)

build_features = dg.define_asset_job(
    "build_features",
    selection=dg.AssetSelection.assets(HOURLY_FEATURES.asset_key, HOURLY_LABELS.asset_key),
    description="Build the features and labels of a day or a range of days from the stored bars and texts.",
    tags=_tags(FORECAST_LANE, minutes=60),
)

prepare_days = dg.define_asset_job(
    "prepare_days",
    selection=dg.AssetSelection.assets(
        *gathered_tables(settings()),
        HOURLY_FEATURES.asset_key,
        HOURLY_LABELS.asset_key,
    ),
    description="Prepare all training data of a day or a range of days in one run: bars, texts and their scores, "
    "features and labels.",
    tags=_tags(FORECAST_LANE, minutes=120),
)

forecast_days = dg.define_asset_job(
    "forecast_days",
    selection=dg.AssetSelection.assets(
        HOURLY_FEATURES.asset_key, HOURLY_LABELS.asset_key, FORECASTS.asset_key, FORECAST_OUTCOMES.asset_key
    ),
    description="Build features, labels, forecasts and outcomes of a day or a range of days from the stored bars.",
    tags=_tags(FORECAST_LANE, minutes=60),
)

report_performance = dg.define_asset_job(
    "report_performance",
    selection=dg.AssetSelection.assets(
        PERFORMANCE_REPORT.asset_key, SHADOW_REPORT.asset_key, DRIFT_REPORT.asset_key, POSITIONS.asset_key
    ),
    description="Report on the outcomes known by the end of a day, the challenger in shadow, drift and paper "
    "positions, in a separate run that cannot stop the forecasts.",
    tags=_tags("report", minutes=60),
)

record_alerts = dg.define_asset_job(
    "record_alerts",
    selection=dg.AssetSelection.assets(ALERTS.asset_key),
    description="Record the alerts of a day and the state of their deliveries.",
    tags=_tags("alerts", minutes=10),
)

train_cutoff = dg.define_asset_job(
    "train_cutoff",
    selection=(
        dg.AssetSelection.groups("learning")
        - dg.AssetSelection.assets(FEATURE_GROUP_STUDY.asset_key, FAMILY_COMPARISON.asset_key)
    )
    | dg.AssetSelection.assets(MODEL_VERDICT.asset_key, MODEL_HISTORY.asset_key),
    description="Train, explain and evaluate the model of one cutoff day.",
    tags=_tags("models", minutes=120),
)

study_groups = dg.define_asset_job(
    "study_groups",
    selection=dg.AssetSelection.assets(FEATURE_GROUP_STUDY.asset_key),
    description="Measure which groups of features help the model of a trained cutoff.",
    tags=_tags("study", minutes=120),
)

compare_families = dg.define_asset_job(
    "compare_families",
    selection=dg.AssetSelection.assets(FAMILY_COMPARISON.asset_key),
    description="Compare model families on the folds of a trained cutoff.",
    tags=_tags("study", minutes=120),
)

settle_shadow = dg.define_asset_job(
    "settle_shadow",
    selection=dg.AssetSelection.assets(MODEL_HISTORY.asset_key),
    config=history_config(event="shadow"),
    description="Promote or dismiss the challenger; the sensor settle_shadows sets the decision in the run config.",
    tags=_tags("models", minutes=10),
)


def _rollback_on(day: str) -> dict[str, Any]:  # noqa: ARG001 - the same for every day
    """Return the run config of a rollback to the previous champion."""
    return rollback_config(Lake(root=settings().lake_root).scan(MODEL_HISTORY).collect())


rollback_champion = dg.define_asset_job(
    "rollback_champion",
    selection=dg.AssetSelection.assets(
        MODEL_HISTORY.asset_key,
        FORECASTS.asset_key,
        FORECAST_OUTCOMES.asset_key,
        EXPLANATIONS.asset_key,
        SERVING_BUNDLE.asset_key,
    ),
    config=dg.PartitionedConfig(DAILY, run_config_for_partition_key_fn=_rollback_on),
    description="Roll back to an earlier champion: record the change, re-forecast the newest hour, explain and publish "
    "it. Run it on the newest day; `to` is the version, 0 the previous champion.",
    tags=_tags("rollback", minutes=10),
)

publish_bundle = dg.define_asset_job(
    "publish_bundle",
    selection=dg.AssetSelection.assets(EXPLANATIONS.asset_key, SERVING_BUNDLE.asset_key),
    description="Explain the forecasts of a day and publish the newest one to the server.",
    tags=_tags(FORECAST_LANE, minutes=10),
)

JOBS: list[Any] = [
    refresh_forecast,
    refresh_prices,
    gather_texts,
    *GATHERINGS.values(),
    score_texts,
    build_features,
    prepare_days,
    forecast_days,
    report_performance,
    record_alerts,
    train_cutoff,
    study_groups,
    compare_families,
    settle_shadow,
    rollback_champion,
    publish_bundle,
]
