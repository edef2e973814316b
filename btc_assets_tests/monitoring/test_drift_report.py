"""The asset `monitoring/drift_report`, materialised on a temporary lake and MLflow store."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from datetime import date, timedelta
from pathlib import Path
from typing import Any

import dagster as dg
import numpy as np
import polars as pl
import pytest

from btc_assets.clock import midnight
from btc_assets.features.tables import HOURLY_FEATURES
from btc_assets.forecasting.forecasts import forecast_hours
from btc_assets.forecasting.outcomes import judge_forecasts
from btc_assets.forecasting.tables import FORECAST_OUTCOMES, FORECASTS
from btc_assets.lake import Lake, by_day
from btc_assets.learning.forecast_model import Forecasts
from btc_assets.learning.registry import EXPERIMENT, ModelRegistry
from btc_assets.monitoring import drift, watching
from btc_assets.monitoring.assets import drift_report
from btc_assets.monitoring.checks import few_inputs_moved, promises_hold
from btc_assets.monitoring.tables import DRIFT_REPORT
from btc_assets.partitions import DAILY, key_of
from btc_assets.reads import lake_resources
from btc_assets.settings import settings
from btc_assets.vocabulary import CHAMPION, PRIMARY
from btc_assets_tests.conftest import random_walk_bars
from btc_assets_tests.monitoring.conftest import (
    DAYS,
    FEATURE,
    NO_PROFILES,
    LinearModel,
    champion_from,
    features_of,
    labels_of,
)

HISTORY = [DAYS[0] + timedelta(days=n) for n in range(60)]
CUTOFF, STUCK_FROM, LAST = HISTORY[20], HISTORY[-7], HISTORY[-1]
"""The champion's cutoff, the day from which its one feature is stuck, and the last day."""
QUIET = STUCK_FROM - timedelta(days=1)
VERSION, STUCK_AT = 3, 0.03
OTHER = list(HOURLY_FEATURES.columns)[10]
"""A second feature, which does not change."""
UPSTREAM = [
    dg.AssetSpec(contract.table.split("/"), partitions_def=DAILY)
    for contract in (HOURLY_FEATURES, FORECASTS, FORECAST_OUTCOMES)
]


class CertainModel(LinearModel):
    """A model without skill that becomes overconfident when its feature is stuck."""

    def predict(self, rows: np.ndarray, missing: np.ndarray | None = None) -> Forecasts:
        """Forecast P(up) = 0.5, or 0.99 where the feature is stuck."""
        p_up = np.where(np.isclose(rows[:, 0], STUCK_AT), 0.99, 0.5)
        forecasts = super().predict(rows, missing)
        return replace(forecasts, p_up=np.column_stack([p_up] * len(forecasts.horizons)))


class OneModel(ModelRegistry):
    """A registry on an MLflow store that creates its only model on load."""

    def load(self, version: int) -> CertainModel:
        """Return the version."""
        return CertainModel(version, CUTOFF, (FEATURE, OTHER))


pytestmark = pytest.mark.slow  # Evidently alone takes five seconds to import


@pytest.fixture(scope="module")
def lake(tmp_path_factory: pytest.TempPathFactory) -> Lake:
    """Return a synthetic lake with forty days of a champion that is overconfident in the last week."""
    lake = Lake(root=str(tmp_path_factory.mktemp("lake")))
    bars = random_walk_bars(len(HISTORY) * 24, start=midnight(HISTORY[0]))
    stuck = pl.when(pl.col("open_time") >= midnight(STUCK_FROM)).then(STUCK_AT).otherwise(pl.col(FEATURE))
    noise = pl.Series(OTHER, np.random.default_rng(2).normal(size=bars.height))
    features = features_of(bars).with_columns(stuck.alias(FEATURE), noise)
    champion = champion_from(CUTOFF, features["open_time"], version=VERSION, cutoff=CUTOFF)
    made = forecast_hours(features, bars, champion, OneModel(tracking_uri="sqlite://"), NO_PROFILES)
    outcomes = judge_forecasts(made, labels_of(bars), too_small_to_call=0.001, fee_bps=5.0)
    for contract, frame in ((HOURLY_FEATURES, features), (FORECASTS, made), (FORECAST_OUTCOMES, outcomes)):
        for day, part in by_day(contract, frame, HISTORY):
            lake.write(contract, day, part)
    return lake


@pytest.fixture(scope="module")
def registry(tmp_path_factory: pytest.TempPathFactory, empty_registry: Callable[[Path], None]) -> OneModel:
    root = tmp_path_factory.mktemp("mlflow")
    empty_registry(root / "mlflow.db")
    return OneModel(tracking_uri=f"sqlite:///{root}/mlflow.db", artifacts=str(root / "artifacts"))


def materialise(lake: Lake, registry: ModelRegistry, first: date, last: date) -> tuple[str, dict[str, Any]]:
    """Materialise a day or a range of days in one run; return the run id and the metadata of the newest day."""
    job = dg.define_asset_job("report", selection=dg.AssetSelection.assets(drift_report))
    definitions = dg.Definitions(
        assets=[*UPSTREAM, drift_report],
        asset_checks=[few_inputs_moved, promises_hold],
        jobs=[job],
        resources={**lake_resources(lake), "registry": registry},
        executor=dg.in_process_executor,
    )
    tags = {"dagster/asset_partition_range_start": key_of(first), "dagster/asset_partition_range_end": key_of(last)}
    result = definitions.resolve_job_def("report").execute_in_process(
        tags=tags if first != last else None, partition_key=key_of(first) if first == last else None
    )
    assert result.success
    newest = result.asset_materializations_for_node("monitoring__drift_report")[-1]
    checks = {check.check_name: check.passed for check in result.get_asset_check_evaluations()}
    return result.run_id, {name: value.value for name, value in newest.metadata.items()} | {"checks": checks}


def runs_of(registry: ModelRegistry, run_id: str) -> list[Any]:
    """Return the MLflow runs of a Dagster run."""
    experiment = registry.client.get_experiment_by_name(EXPERIMENT)
    query = f"tags.dagster_run_id = '{run_id}'"
    return registry.client.search_runs([experiment.experiment_id], query) if experiment else []


@pytest.fixture(scope="module")
def broken(lake: Lake, registry: OneModel) -> tuple[str, dict[str, Any]]:
    """Materialise the last day."""
    return materialise(lake, registry, LAST, LAST)


def test_the_metadata_name_drifted_inputs_and_broken_promises(broken: tuple[str, dict[str, Any]]) -> None:
    _, metadata = broken
    assert metadata["drifted"] == [FEATURE, "p_up"]
    assert metadata["share_drifted"] == pytest.approx(2 / 3)
    assert metadata["broken_promises"] == ["calibration"]
    assert metadata["checks"] == {"few_inputs_moved": False, "promises_hold": False}
    assert metadata["reference_hours"] == 20 * 24
    assert metadata["current_hours"] == settings().drift_days * 24
    assert f"| {FEATURE} | yes |" in metadata["inputs"]
    assert f"| {OTHER} | no |" in metadata["inputs"]
    assert "**calibration**: mean P(up) minus the share of rises" in metadata["promises"]
    assert metadata["picture"].startswith("![drift](data:image/png;base64,")
    assert len(metadata["picture"]) < 60_000


def test_the_table_holds_the_rows_of_watch_day(
    lake: Lake, registry: OneModel, broken: tuple[str, dict[str, Any]]
) -> None:
    stored = lake.read(DRIFT_REPORT, LAST)
    assert stored is not None
    assert DRIFT_REPORT.faults(stored) == []
    primary = (pl.col("role") == CHAMPION) & (pl.col("horizon_minutes") == PRIMARY)
    config = settings()
    watch = watching.watch_day(
        LAST,
        features=lake.scan(HOURLY_FEATURES).collect().sort("open_time"),
        forecasts=lake.scan(FORECASTS).filter(primary).collect(),
        outcomes=lake.scan(FORECAST_OUTCOMES).filter(primary).collect(),
        models=registry,
        window_days=config.window_days,
        drift_days=config.drift_days,
        watch_days=config.watch_days,
        mean_days=config.mean_days_to_false_alarm,
    )
    assert watch is not None
    assert stored.equals(watch.rows)
    assert set(stored["model_version"]) == {VERSION}
    assert set(stored["model_cutoff"]) == {CUTOFF}


def test_the_mlflow_run_holds_the_evidently_report_of_the_same_columns(
    registry: OneModel, broken: tuple[str, dict[str, Any]], tmp_path: Path
) -> None:
    run_id, metadata = broken
    (run,) = runs_of(registry, run_id)
    assert run.info.status == "FINISHED"
    tags = {name: run.data.tags[name] for name in ("asset", "partition", "model_version", "cutoff")}
    assert tags == {
        "asset": "monitoring/drift_report",
        "partition": key_of(LAST),
        "model_version": str(VERSION),
        "cutoff": CUTOFF.isoformat(),
    }
    assert metadata["mlflow_run"].endswith(f"/runs/{run.info.run_id}")
    assert metadata["evidently"] == f"{metadata['mlflow_run']}/artifacts/drift/evidently.html"
    from mlflow.artifacts import download_artifacts

    page = download_artifacts(
        run_id=run.info.run_id,
        artifact_path="drift/evidently.html",
        dst_path=str(tmp_path),
        tracking_uri=registry.tracking_uri,
    )
    text = Path(page).read_text()
    assert "<html" in text.lower()
    assert FEATURE in text
    assert OTHER in text


def test_evidently_writes_a_report_although_a_column_has_no_known_value(tmp_path: Path) -> None:
    rng = np.random.default_rng(7)
    frame = pl.DataFrame({"x0": rng.normal(size=600), "x1": rng.normal(size=600)})
    frame, page = frame.with_columns(pl.lit(None, dtype=pl.Float64).alias("never")), tmp_path / "evidently.html"
    drift.write_evidently(frame.head(500), frame.tail(100), ["x0", "x1", "never"], page)
    text = page.read_text()
    assert "x0" in text
    assert "<html" in text.lower()


def test_a_day_without_drift_names_no_input_and_no_promise(lake: Lake, registry: OneModel) -> None:
    _, metadata = materialise(lake, registry, QUIET, QUIET)
    assert (metadata["drifted"], metadata["broken_promises"], metadata["share_drifted"]) == ([], [], 0)
    assert metadata["checks"] == {"few_inputs_moved": True, "promises_hold": True}
    stored = lake.read(DRIFT_REPORT, QUIET)
    assert stored is not None
    assert not stored["alarm"].any()


def test_days_before_the_first_champion_are_stored_empty_without_an_mlflow_run(lake: Lake, registry: OneModel) -> None:
    run_id, metadata = materialise(lake, registry, HISTORY[17], HISTORY[19])
    assert metadata["summary"] == "No champion forecast these days."
    assert lake.read(DRIFT_REPORT, HISTORY[19]).is_empty()
    assert runs_of(registry, run_id) == []


def test_a_range_of_days_has_a_report_per_day_and_one_evidently_report_of_the_newest(
    lake: Lake, registry: OneModel
) -> None:
    _, single_day = materialise(lake, registry, QUIET, QUIET)
    before = lake.read(DRIFT_REPORT, QUIET)
    run_id, metadata = materialise(lake, registry, QUIET - timedelta(days=2), QUIET)
    assert lake.read(DRIFT_REPORT, QUIET).equals(before)
    assert [lake.read(DRIFT_REPORT, QUIET - timedelta(days=n)).height > 0 for n in range(3)] == [True] * 3
    assert metadata["share_drifted"] == single_day["share_drifted"]
    assert len(runs_of(registry, run_id)) == 1
