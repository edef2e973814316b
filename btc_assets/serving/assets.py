"""The published bundle: the last asset of the graph, and the only data that the forecast server reads."""

from collections.abc import Mapping
from datetime import date, timedelta
from pathlib import Path
from typing import Any, Protocol

import dagster as dg
import polars as pl

from btc_assets.alerts.tables import ALERTS
from btc_assets.champion.history import current_roles
from btc_assets.champion.tables import MODEL_HISTORY
from btc_assets.features.tables import HOURLY_FEATURES
from btc_assets.forecasting.assets import profiles_of
from btc_assets.forecasting.tables import EXPLANATIONS, FORECAST_OUTCOMES, FORECASTS
from btc_assets.lake import Reader, output_of
from btc_assets.learning.registry import RegistryError
from btc_assets.learning.tables import TRAINING_PROFILE
from btc_assets.markdown import markdown_rows
from btc_assets.market.tables import PRICES
from btc_assets.monitoring.tables import DRIFT_REPORT, PERFORMANCE_REPORT
from btc_assets.partitions import DAILY, day_of, days_before, everything_until
from btc_assets.published import live_manifest
from btc_assets.reads import Tables
from btc_assets.schema import Contract, dagster_type
from btc_assets.serving.publish import PublishError, is_older, publish
from btc_assets.serving.tables import SERVING_BUNDLE
from btc_assets.settings import settings
from btc_assets.vocabulary import display

FORECAST_DAYS = 90
"""Days of forecasts and outcomes that are published."""
EXPLANATION_DAYS = 90
"""Days of explanations that are published."""
PRICE_DAYS = 7
"""Days of prices that are published."""
ALERT_DAYS = 7
"""Days of alerts that are published."""
ALERT_COLUMNS = ("alert_id", "channel", "raised_at", "rule", "kind", "severity", "state")
"""Published columns of an alert: enough to count alerts; their texts go to the channels only."""
NEWEST_DAYS = 2
"""Days searched for the newest champion forecast: the day itself and the day before."""


def _read(table: str, days: int) -> dg.AssetDep:
    """Declare a read of the newest `days` days of a table, including the day itself."""
    return dg.AssetDep(table.split("/"), partition_mapping=days_before(days - 1, and_today=True))


class Registry(Protocol):
    """The part of the model registry that publishing uses."""

    def folder(self, version: int) -> Path:
        """Return the verified folder of a registry version."""
        ...

    def native(self, version: int) -> Path:
        """Return a folder with the members of a version in the formats of their libraries."""
        ...

    def set_aliases(self, wanted: Mapping[str, int | None]) -> None:
        """Point every alias at its version."""
        ...


class BundleConfig(dg.Config):
    """How to publish.

    Attributes:
        allow_older: publish even if the live forecast was made later; only for a return to old data. A rollback
            re-forecasts the newest hour and does not need it.
    """

    allow_older: bool = False


@dg.asset(
    key=["serving", "bundle"],
    group_name="serving",
    kinds={"duckdb", "onnx"},
    partitions_def=DAILY,
    dagster_type=dagster_type(SERVING_BUNDLE),
    ins={
        "forecasts": dg.AssetIn(
            key=["forecasting", "forecasts"], partition_mapping=days_before(FORECAST_DAYS - 1, and_today=True)
        )
    },
    deps=[
        _read("forecasting/explanations", EXPLANATION_DAYS),
        _read("forecasting/forecast_outcomes", FORECAST_DAYS),
        _read("monitoring/performance_report", FORECAST_DAYS),
        _read("monitoring/drift_report", FORECAST_DAYS),
        _read("alerts/alerts", ALERT_DAYS),
        *(
            dg.AssetDep(contract.asset_key, partition_mapping=everything_until(and_today=True))
            for contract in (MODEL_HISTORY, TRAINING_PROFILE)
        ),
        _read("features/hourly_features", NEWEST_DAYS),
        _read("market/prices", PRICE_DAYS),
    ],
    freshness_policy=dg.FreshnessPolicy.time_window(fail_window=timedelta(hours=3), warn_window=timedelta(minutes=90)),
    backfill_policy=dg.BackfillPolicy.single_run(),
    op_tags={"dagster/max_runtime": 600, "dagster/priority": "1"},
    code_version="5",
)
def bundle(
    context: dg.AssetExecutionContext,
    config: BundleConfig,
    forecasts: pl.LazyFrame,
    tables: dg.ResourceParam[Tables],
    registry: dg.ResourceParam[Registry],
) -> dg.Output[pl.DataFrame]:
    """Publish the champion's newest forecast to the server in one atomic step.

    A folder with the champion's ONNX graphs and `model.json`, its members in the formats of their libraries, a
    manifest, and `serving.duckdb` (the last 90 days of forecasts, their explanations and outcomes, the newest
    performance and drift reports, a week of prices and of alerts, without their texts) is built in a new folder and
    verified; then the pointer that the server watches is moved to it. Publishing the same bundle again changes nothing,
    and an older forecast never replaces a newer one unless `allow_older` is set. The last three bundles are kept. The
    aliases of the MLflow registry are moved just before the pointer.

    The row records the publication of the day: bundle, model, when the newest forecast was made and when it was
    published. A run over several days publishes the newest day and does not change the rows of the others.
    """
    *earlier, day = sorted(map(day_of, context.partition_keys))
    recent = pl.col("open_time").dt.date() > day - timedelta(days=NEWEST_DAYS)
    newest = newest_champion(forecasts.filter(recent).collect())
    if newest.is_empty():
        raise dg.Failure(
            f"There is no champion forecast for {day} or the day before; train a model (learning/*) and "
            "materialise forecasting/forecasts first.",
            allow_retries=False,
        )
    reads = tables.of(context)
    published = published_tables(reads, day)
    facts = manifest_of(
        newest, day=day, features=newest_features(reads, newest), medians=training_medians(reads, newest)
    )
    model_folder = registry.folder(facts["model_version"])
    roles = current_roles(reads.scan(MODEL_HISTORY, None, day).collect())
    refused = is_older(facts, live_manifest(settings().serving_dir)) and not config.allow_older
    # If the champion has changed since this forecast, its own forecast is not published yet; keep the aliases.
    if roles.champion == facts["model_version"] and not refused:
        registry.set_aliases(roles.aliases())
    try:
        publication = publish(
            settings().serving_dir,
            manifest=facts,
            model_folder=model_folder,
            tables=published,
            native_folder=_native_folder(registry, facts["model_version"]),
            allow_older=config.allow_older,
        )
    except PublishError as error:
        raise dg.Failure(str(error), allow_retries=False) from error
    first = newest.row(0, named=True)
    frame = pl.DataFrame(
        {
            "day": [day],
            "bundle_id": [publication.bundle_id],
            "model_version": [first["model_version"]],
            "model_cutoff": [first["model_cutoff"]],
            "model_digest": [first["model_digest"]],
            "made_at": [first["made_at"]],
            "published_at": [publication.published_at],
            "forecasts": [published["forecasts"].height],
            "outcomes": [published["forecast_outcomes"].height],
        },
        schema=SERVING_BUNDLE.columns,
    )
    return output_of(
        context,
        SERVING_BUNDLE,
        pl.concat([reads.scan_days(SERVING_BUNDLE, earlier).collect(), frame]),
        {
            "live": publication.live,
            "what_happened": publication.sentence,
            "bundle": dg.MetadataValue.path(settings().serving_dir / "bundles" / publication.bundle_id),
            "forecast": dg.MetadataValue.md(forecast_table(newest)),
        },
    )


def _native_folder(registry: Registry, version: int) -> Path | None:
    """Return the folder with the members of a version, or None if it cannot be read: the forecast does not wait."""
    try:
        return registry.native(version)
    except RegistryError:
        return None


def newest_champion(forecasts: pl.DataFrame) -> pl.DataFrame:
    """Return the champion's forecasts of the newest hour, one row per horizon."""
    champion = forecasts.filter(pl.col("role") == "champion")
    return champion.filter(pl.col("made_at") == pl.col("made_at").max()).sort("horizon_minutes")


def published_tables(tables: Reader, day: date) -> dict[str, pl.DataFrame]:
    """Read the tables of `serving.duckdb` as of `day`, without rows of later days."""
    first = day - timedelta(days=FORECAST_DAYS - 1)

    def newest_report(contract: Contract) -> pl.DataFrame:
        return tables.scan_days(contract, tables.days(contract, first, day)[-1:]).collect()

    return {
        "forecasts": tables.scan(FORECASTS, first, day).collect(),
        "forecast_outcomes": tables.scan(FORECAST_OUTCOMES, first, day).collect(),
        "explanations": tables.scan(EXPLANATIONS, day - timedelta(days=EXPLANATION_DAYS - 1), day).collect(),
        "performance_report": newest_report(PERFORMANCE_REPORT),
        "drift_report": newest_report(DRIFT_REPORT),
        "alerts": tables.scan(ALERTS, day - timedelta(days=ALERT_DAYS - 1), day).select(ALERT_COLUMNS).collect(),
        "prices": tables.scan(PRICES, day - timedelta(days=PRICE_DAYS - 1), day).collect(),
    }


def newest_features(tables: Reader, newest: pl.DataFrame) -> dict[str, float | None]:
    """Return the feature row of the newest forecast; empty if it is not stored."""
    open_time = newest["open_time"][0]
    row = tables.scan(HOURLY_FEATURES, open_time.date(), open_time.date()).filter(pl.col("open_time") == open_time)
    values = row.drop("open_time", "available_at").collect().to_dicts()
    return values[0] if values else {}


def training_medians(tables: Reader, newest: pl.DataFrame) -> dict[str, float]:
    """Return the training median of each input of the model of a forecast; empty without a training profile."""
    profile = profiles_of(tables, newest).unique("feature").drop_nulls("median").sort("feature")
    return dict(profile.select("feature", "median").iter_rows())


def manifest_of(
    newest: pl.DataFrame, *, day: date, features: dict[str, float | None], medians: dict[str, float]
) -> dict[str, Any]:
    """Return the manifest of a bundle whose newest forecast is `newest`."""
    first = newest.row(0, named=True)
    return {
        "day": day.isoformat(),
        "model_version": first["model_version"],
        "model_cutoff": first["model_cutoff"].isoformat(),
        "model_digest": first["model_digest"],
        "open_time": first["open_time"].isoformat(),
        "made_at": first["made_at"].isoformat(),
        "features": features,
        "medians": medians,
    }


def forecast_table(newest: pl.DataFrame) -> str:
    """Return the newest forecast as a Markdown table, prices in USD."""
    priced = newest.with_columns(
        *((pl.col("close") * pl.col(q).exp()).alias(f"{q}_usd") for q in ("q05", "q50", "q95"))
    )
    rows = (
        (
            display(row["horizon_minutes"]),
            f"{row['target_time']:%Y-%m-%d %H:%M}",
            f"{row['p_up']:.1%}",
            f"{row['q50_usd']:,.0f}",
            f"{row['q05_usd']:,.0f} and {row['q95_usd']:,.0f}",
        )
        for row in priced.iter_rows(named=True)
    )
    return markdown_rows(("horizon", "until (UTC)", "P(up)", "median", "90 % of outcomes between"), rows)


ASSETS = [bundle]
