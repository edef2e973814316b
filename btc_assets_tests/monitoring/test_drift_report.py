"""The asset `monitoring/drift_report`, materialised on a lake and an MLflow store of its own."""

from __future__ import annotations

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
from btc_assets.learning.forecast_model import HorizonForecast
from btc_assets.learning.registry import EXPERIMENT, ModelRegistry
from btc_assets.monitoring import drift, watching
from btc_assets.monitoring.assets import drift_report
from btc_assets.monitoring.checks import few_inputs_moved, promises_hold
from btc_assets.monitoring.tables import DRIFT_REPORT
from btc_assets.partitions import DAILY, key_of
from btc_assets.reads import lake_resources
from btc_assets.settings import settings
from btc_assets.vocabulary import CHAMPION, HORIZONS
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
"""A second feature, which goes on as ever."""
UPSTREAM = [
    dg.AssetSpec(contract.table.split("/"), partitions_def=DAILY)
    for contract in (HOURLY_FEATURES, FORECASTS, FORECAST_OUTCOMES)
]


class CertainModel(LinearModel):
    """Knows nothing, and is sure of it from the day on which its feature is stuck."""

    def predict(self, rows: np.ndarray) -> dict[int, HorizonForecast]:
        """Forecast a rise at even odds, or at 99 to one where the feature is stuck."""
        p_up = np.where(np.isclose(rows[:, 0], STUCK_AT), 0.99, 0.5)
        return {h: HorizonForecast(p_up, one.quantiles) for h, one in super().predict(rows).items()}


class OneModel(ModelRegistry):
    """A real MLflow store; its one model is made on the spot."""

    def load(self, version: int) -> CertainModel:
        """Return the version."""
        return CertainModel(version, CUTOFF, (FEATURE, OTHER))


pytestmark = pytest.mark.slow  # Evidently alone takes five seconds to import


@pytest.fixture(scope="module")
def lake(tmp_path_factory: pytest.TempPathFactory) -> Lake:
    """A lake (synthetic) with forty days of a champion that loses its mind in the last week."""
    chosen = Lake(root=str(tmp_path_factory.mktemp("lake")))
    bars = random_walk_bars(len(HISTORY) * 24, start=midnight(HISTORY[0]))
    stuck = pl.when(pl.col("open_time") >= midnight(STUCK_FROM)).then(STUCK_AT).otherwise(pl.col(FEATURE))
    noise = pl.Series(OTHER, np.random.default_rng(2).normal(size=bars.height))
    features = features_of(bars).with_columns(stuck.alias(FEATURE), noise)
    champion = champion_from(CUTOFF, features["open_time"], version=VERSION, cutoff=CUTOFF)
    made = forecast_hours(features, bars, champion, OneModel(tracking_uri="sqlite://"), NO_PROFILES)
    outcomes = judge_forecasts(made, labels_of(bars), too_small_to_call=0.001, fee_bps=5.0)
    for contract, frame in ((HOURLY_FEATURES, features), (FORECASTS, made), (FORECAST_OUTCOMES, outcomes)):
        for day, part in by_day(contract, frame, HISTORY):
            chosen.write(contract, day, part)
    return chosen


@pytest.fixture(scope="module")
def registry(tmp_path_factory: pytest.TempPathFactory) -> OneModel:
    root = tmp_path_factory.mktemp("mlflow")
    return OneModel(tracking_uri=f"sqlite:///{root}/mlflow.db", artifacts=str(root / "artifacts"))


def materialise(lake: Lake, registry: ModelRegistry, first: date, last: date) -> tuple[str, dict[str, Any]]:
    """Materialise a day or a range of days in one run; return its id and the metadata of its newest day."""
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
    checks = {one.check_name: one.passed for one in result.get_asset_check_evaluations()}
    return result.run_id, {name: value.value for name, value in newest.metadata.items()} | {"checks": checks}


def runs_of(registry: ModelRegistry, run_id: str) -> list[Any]:
    """Return the MLflow runs of a Dagster run."""
    experiment = registry.client.get_experiment_by_name(EXPERIMENT)
    found = f"tags.dagster_run_id = '{run_id}'"
    return registry.client.search_runs([experiment.experiment_id], found) if experiment else []


@pytest.fixture(scope="module")
def broken(lake: Lake, registry: OneModel) -> tuple[str, dict[str, Any]]:
    """Materialise the last day."""
    return materialise(lake, registry, LAST, LAST)


def test_the_metadata_name_what_moved_and_what_no_longer_holds(broken: tuple[str, dict[str, Any]]) -> None:
    _, told = broken
    assert told["drifted"] == [FEATURE, "p_up"]
    assert told["share_drifted"] == pytest.approx(2 / 3)
    assert told["broken_promises"] == ["calibration"]
    assert told["checks"] == {"few_inputs_moved": False, "promises_hold": False}
    assert told["reference_hours"] == 20 * 24
    assert told["current_hours"] == settings().drift_days * 24
    assert f"| {FEATURE} | yes |" in told["inputs"]
    assert f"| {OTHER} | no |" in told["inputs"]
    assert "**calibration**: mean P(up) less the share of rises" in told["promises"]
    assert told["picture"].startswith("![drift](data:image/png;base64,")
    assert len(told["picture"]) < 60_000


def test_the_table_is_that_of_the_days_watch(
    lake: Lake, registry: OneModel, broken: tuple[str, dict[str, Any]]
) -> None:
    stored = lake.read(DRIFT_REPORT, LAST)
    assert stored is not None
    assert DRIFT_REPORT.faults(stored) == []
    primary = (pl.col("role") == CHAMPION) & (pl.col("horizon_hours") == HORIZONS[0])
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


def test_evidentlys_page_of_the_same_columns_is_kept_with_the_mlflow_run(
    registry: OneModel, broken: tuple[str, dict[str, Any]], tmp_path: Path
) -> None:
    run_id, told = broken
    (run,) = runs_of(registry, run_id)
    assert run.info.status == "FINISHED"
    said = {name: run.data.tags[name] for name in ("asset", "partition", "model_version", "cutoff")}
    assert said == {
        "asset": "monitoring/drift_report",
        "partition": key_of(LAST),
        "model_version": str(VERSION),
        "cutoff": CUTOFF.isoformat(),
    }
    assert told["mlflow_run"].endswith(f"/runs/{run.info.run_id}")
    assert told["evidently"] == f"{told['mlflow_run']}/artifacts/drift/evidently.html"
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


def test_evidently_writes_a_page_though_a_column_is_never_known(tmp_path: Path) -> None:
    rng = np.random.default_rng(7)
    frame = pl.DataFrame({"x0": rng.normal(size=600), "x1": rng.normal(size=600)})
    frame, page = frame.with_columns(pl.lit(None, dtype=pl.Float64).alias("never")), tmp_path / "evidently.html"
    drift.write_evidently(frame.head(500), frame.tail(100), ["x0", "x1", "never"], page)
    text = page.read_text()
    assert "x0" in text
    assert "<html" in text.lower()


def test_a_quiet_day_names_nothing(lake: Lake, registry: OneModel) -> None:
    _, told = materialise(lake, registry, QUIET, QUIET)
    assert (told["drifted"], told["broken_promises"], told["share_drifted"]) == ([], [], 0)
    assert told["checks"] == {"few_inputs_moved": True, "promises_hold": True}
    stored = lake.read(DRIFT_REPORT, QUIET)
    assert stored is not None
    assert not stored["alarm"].any()


def test_days_before_the_first_champion_are_stored_empty_without_an_mlflow_run(lake: Lake, registry: OneModel) -> None:
    run_id, told = materialise(lake, registry, HISTORY[17], HISTORY[19])
    assert told["summary"] == "No champion forecast these days."
    assert lake.read(DRIFT_REPORT, HISTORY[19]).is_empty()
    assert runs_of(registry, run_id) == []


def test_a_range_of_days_has_a_report_each_and_evidentlys_page_of_the_newest(lake: Lake, registry: OneModel) -> None:
    _, alone = materialise(lake, registry, QUIET, QUIET)
    before = lake.read(DRIFT_REPORT, QUIET)
    run_id, told = materialise(lake, registry, QUIET - timedelta(days=2), QUIET)
    assert lake.read(DRIFT_REPORT, QUIET).equals(before)
    assert [lake.read(DRIFT_REPORT, QUIET - timedelta(days=n)).height > 0 for n in range(3)] == [True] * 3
    assert told["share_drifted"] == alone["share_drifted"]
    assert len(runs_of(registry, run_id)) == 1
