"""The registry on a temporary MLflow store: runs are closed, versions are stable, changed models are refused."""

from collections.abc import Callable
from pathlib import Path

import dagster as dg
import polars as pl
import pytest

from btc_assets.champion.history import PREVIOUS, CurrentRoles
from btc_assets.learning import registry_file
from btc_assets.learning.folds import Rows
from btc_assets.learning.forecast_model import ModelFileError, save_model
from btc_assets.learning.registry import MODEL_FOLDER, MODEL_NAME, ModelRegistry, RegistryError
from btc_assets.vocabulary import CHALLENGER, CHAMPION
from btc_assets_tests.learning.test_training import fit, forecasts_of

DAY = dg.StaticPartitionsDefinition(["2018-06-04"])


@pytest.fixture(scope="module")
def registry(tmp_path_factory: pytest.TempPathFactory, empty_registry: Callable[[Path], None]) -> ModelRegistry:
    root = tmp_path_factory.mktemp("mlflow")
    empty_registry(root / "mlflow.db")
    return ModelRegistry(tracking_uri=f"sqlite:///{root}/mlflow.db", artifacts=str(root / "artifacts"))


@pytest.fixture(scope="module")
def folder(rows: dict[int, Rows], tmp_path_factory: pytest.TempPathFactory) -> Path:
    model = fit(rows, forecasts_of(rows))
    where = tmp_path_factory.mktemp("bundle") / MODEL_FOLDER
    save_model(where, model.document, model.graphs)
    return where


def materialise(registry: ModelRegistry, folder: Path, *, fail: bool = False) -> dg.ExecuteInProcessResult:
    """Run one asset that logs a model folder to MLflow and registers it."""

    @dg.asset(key=["learning", "toy"], partitions_def=DAY, code_version="1")
    def toy(context: dg.AssetExecutionContext, registry: ModelRegistry) -> dg.Output[pl.DataFrame]:
        with registry.run(context, context.asset_key, {"data_version.rows": "abc"}) as run:
            run.parameters({"rounds": 25})
            run.metrics({"1h.auc": 0.6, "nothing": float("nan")})
            run.curves({"1h.log_loss": [0.7, 0.6]})
            if fail:
                raise RuntimeError("the power went out")
            run.files(folder, MODEL_FOLDER)
            version = registry.register(run.run_id, digest_of(folder), "2018-06-04")
        return dg.Output(pl.DataFrame(), metadata={"version": version, "run_id": run.run_id})

    return dg.materialize(
        [toy],
        partition_key="2018-06-04",
        resources={"registry": registry, "io_manager": dg.mem_io_manager},
        raise_on_error=False,
    )


def digest_of(folder: Path) -> str:
    from btc_assets.learning.forecast_model import ForecastModel

    return ForecastModel.load(folder).digest


def metadata(result: dg.ExecuteInProcessResult) -> dict[str, object]:
    (event,) = result.get_asset_materialization_events()
    return {key: value.value for key, value in event.materialization.metadata.items()}


def test_a_run_has_its_tags_and_is_closed(registry: ModelRegistry, folder: Path) -> None:
    result = materialise(registry, folder)
    run = registry.client.get_run(str(metadata(result)["run_id"]))
    assert run.info.status == "FINISHED"
    assert run.data.tags["dagster_run_id"] == result.run_id
    assert run.data.tags["asset"] == "learning/toy"
    assert run.data.tags["partition"] == "2018-06-04"
    assert run.data.tags["code_version"] == "1"
    assert run.data.tags["data_version.rows"] == "abc"
    assert len(run.data.tags["source_digest"]) == 64
    assert run.data.params == {"rounds": "25"}
    assert run.data.metrics == {"1h.auc": 0.6, "1h.log_loss": 0.6}
    curve = registry.client.get_metric_history(run.info.run_id, "1h.log_loss")
    assert [(point.step, point.value) for point in curve] == [(0, 0.7), (1, 0.6)]


def test_a_run_over_several_days_names_the_first_and_the_last(registry: ModelRegistry) -> None:
    @dg.asset(
        key=["learning", "toy"],
        partitions_def=dg.DailyPartitionsDefinition("2018-06-01"),
        backfill_policy=dg.BackfillPolicy.single_run(),
        code_version="1",
    )
    def toy(context: dg.AssetExecutionContext, registry: ModelRegistry) -> dg.Output[None]:
        with registry.run(context, context.asset_key, {}) as run:
            return dg.Output(None, metadata={"run_id": run.run_id})

    job = dg.define_asset_job("toys", selection=[toy])
    resources = {"registry": registry, "io_manager": dg.mem_io_manager}
    result = (
        dg.Definitions(assets=[toy], jobs=[job], resources=resources)
        .resolve_job_def("toys")
        .execute_in_process(
            tags={
                "dagster/asset_partition_range_start": "2018-06-04",
                "dagster/asset_partition_range_end": "2018-06-06",
            }
        )
    )
    events = [event.materialization.metadata["run_id"].value for event in result.get_asset_materialization_events()]
    assert registry.client.get_run(str(events[0])).data.tags["partition"] == "2018-06-04..2018-06-06"


def test_a_failed_step_closes_its_run_as_failed(registry: ModelRegistry, folder: Path) -> None:
    result = materialise(registry, folder, fail=True)
    assert not result.success
    experiment = registry.client.get_experiment_by_name("btc_assets")
    assert experiment is not None
    runs = registry.client.search_runs([experiment.experiment_id], f"tags.dagster_run_id = '{result.run_id}'")
    assert [run.info.status for run in runs] == ["FAILED"]
    assert not registry.client.search_runs([experiment.experiment_id], "attributes.status = 'RUNNING'")


def test_the_same_model_keeps_its_version(registry: ModelRegistry, folder: Path) -> None:
    first, second = (metadata(materialise(registry, folder))["version"] for _ in range(2))
    assert first == second


def test_a_loaded_model_is_verified(registry: ModelRegistry, folder: Path) -> None:
    version = int(str(metadata(materialise(registry, folder))["version"]))
    assert registry.load(version).digest == digest_of(folder)


def test_reading_a_model_and_unchanged_aliases_do_not_import_mlflow(registry: ModelRegistry, folder: Path) -> None:
    version = int(str(metadata(materialise(registry, folder))["version"]))
    registry.set_aliases(CurrentRoles(version, None, None).aliases())
    fresh = ModelRegistry(tracking_uri=registry.tracking_uri, artifacts=registry.artifacts)
    assert fresh.load(version).digest == digest_of(folder)
    assert fresh.folder(version) == registry._artifacts(version, MODEL_FOLDER)
    fresh.set_aliases(CurrentRoles(version, None, None).aliases())
    assert fresh._client is None
    fresh.set_aliases(CurrentRoles(version, version, None).aliases())
    assert registry.alias(PREVIOUS) == version


@pytest.mark.parametrize("uri", ["http://127.0.0.1:5000", "sqlite:///{root}/none.db", "sqlite:///{root}/other.db"])
def test_an_unreadable_registry_file_gives_none(uri: str, tmp_path: Path) -> None:
    (tmp_path / "other.db").write_bytes(b"not a database")
    uri = uri.format(root=tmp_path)
    assert registry_file.registered(uri, MODEL_NAME, 1) is None
    assert registry_file.aliases(uri, MODEL_NAME) is None


def test_a_changed_graph_is_not_loaded(registry: ModelRegistry, folder: Path) -> None:
    version = int(str(metadata(materialise(registry, folder))["version"]))
    graph = registry.folder(version) / "intervals.q05_240m.onnx"
    content = graph.read_bytes()
    graph.write_bytes(content[:-1] + bytes([content[-1] ^ 1]))
    try:
        fresh = ModelRegistry(tracking_uri=registry.tracking_uri, artifacts=registry.artifacts)
        with pytest.raises(ModelFileError, match="changed"):
            fresh.load(version)
    finally:
        graph.write_bytes(content)


def test_an_unknown_version_is_a_registry_error(registry: ModelRegistry, folder: Path) -> None:
    materialise(registry, folder)
    with pytest.raises(RegistryError, match=f"version 999 of {MODEL_NAME}"):
        registry.load(999)


def test_aliases_name_champion_and_challenger(registry: ModelRegistry, folder: Path) -> None:
    version = int(str(metadata(materialise(registry, folder))["version"]))
    registry.set_aliases(CurrentRoles(version, None, version).aliases())
    assert [registry.alias(name) for name in (CHAMPION, PREVIOUS, CHALLENGER)] == [version, None, version]
    registry.set_aliases(CurrentRoles(version, version, None).aliases())
    assert [registry.alias(name) for name in (CHAMPION, PREVIOUS, CHALLENGER)] == [version, version, None]


def test_aliases_are_moved_and_removed(registry: ModelRegistry, folder: Path) -> None:
    version = int(str(metadata(materialise(registry, folder))["version"]))
    registry.set_alias(CHAMPION, version)
    assert registry.alias(CHAMPION) == version
    registry.clear_alias(CHAMPION)
    registry.clear_alias(CHAMPION)
    assert registry.alias(CHAMPION) is None
