"""MLflow: one run per asset and partition, and the registry that holds every model.

The registry is where models live; the lake only names them by version and digest. A folder that comes
back is verified against its digest before anyone forecasts with it.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

import dagster as dg
from pydantic import PrivateAttr

from btc_assets.learning import registry_file
from btc_assets.learning.forecast_model import ForecastModel
from btc_assets.paths import make_database_folder

if TYPE_CHECKING:
    from mlflow import MlflowClient

MODEL_NAME = "btc_hourly"
"""Name of the registered model."""
EXPERIMENT = "btc_assets"
"""Name of the MLflow experiment."""
MODEL_FOLDER = "model"
"""Artifact folder of a run that holds `model.json` and the ONNX graphs."""
NATIVE_FOLDER = "native"
"""Artifact folder of a run that holds the boosters in the library's own format."""
LOADED_MODELS = 8
"""Models kept ready in memory; a long replay goes through hundreds."""


class RegistryError(RuntimeError):
    """The registry does not hold what was asked for."""


@cache
def source_digest() -> str:
    """Return the SHA-256 of the package's own source files, which names the code a run was made with."""
    package = Path(__file__).parent.parent
    whole = hashlib.sha256()
    for path in sorted(package.rglob("*.py")):
        whole.update(f"{path.relative_to(package)}\n".encode())
        whole.update(path.read_bytes())
    return whole.hexdigest()


class ModelRegistry(dg.ConfigurableResource):
    """The MLflow tracking store and model registry.

    Attributes:
        tracking_uri: of both.
        artifacts: folder of a new experiment's artifacts; empty leaves it to the tracking server.
    """

    tracking_uri: str
    artifacts: str = ""
    _client: Any = PrivateAttr(default=None)
    _bundles: dict[int, ForecastModel] = PrivateAttr(default_factory=dict)

    # --- runs ----------------------------------------------------------------------------------
    @contextmanager
    def run(
        self, context: dg.AssetExecutionContext, asset: dg.AssetKey, tags: Mapping[str, str]
    ) -> Iterator[MlflowRun]:
        """Open the MLflow run of an asset and partition, or range of them; it is closed whatever happens inside.

        Args:
            context: of the step; gives the run its partitions and its Dagster tags.
            asset: one of the step's; gives the run its name.
            tags: further tags, for example the data versions trained on.
        """
        import mlflow
        from dagster_mlflow import mlflow_tracking

        name, partitions = asset.to_user_string(), context.partition_keys
        partition = partitions[0] if len(partitions) == 1 else f"{partitions[0]}..{partitions[-1]}"
        opened = self.client.create_run(
            self._experiment_id(),
            run_name=f"{name} {partition}",
            tags={
                "asset": name,
                "partition": partition,
                "dagster_run_id": context.run.run_id,
                "code_version": str(context.assets_def.code_versions_by_key.get(asset)),
                "source_digest": source_digest(),
                **tags,
            },
        )
        run_id = opened.info.run_id
        status = "FAILED"
        try:
            with dg.build_resources(
                {"mlflow": mlflow_tracking},
                instance=context.instance,
                dagster_run=context.run,
                log_manager=context.log,
                resource_config={
                    "mlflow": {
                        "config": {
                            "experiment_name": EXPERIMENT,
                            "mlflow_tracking_uri": self.tracking_uri,
                            "mlflow_run_id": run_id,
                            "env": {},
                            "extra_tags": {},
                        }
                    }
                },
            ) as resources:
                try:
                    yield MlflowRun(run_id, resources.mlflow, self)
                    status = "FINISHED"
                finally:
                    mlflow.end_run(status)
        finally:
            self.client.set_terminated(run_id, status)

    @property
    def client(self) -> MlflowClient:
        """The MLflow client, made on first use."""
        if self._client is None:
            from mlflow import MlflowClient

            make_database_folder(self.tracking_uri)
            self._client = MlflowClient(tracking_uri=self.tracking_uri, registry_uri=self.tracking_uri)
        return self._client

    def _experiment_id(self) -> str:
        found = self.client.get_experiment_by_name(EXPERIMENT)
        if found is not None:
            return found.experiment_id
        location = Path(self.artifacts).resolve().as_uri() if self.artifacts else None
        return self.client.create_experiment(EXPERIMENT, artifact_location=location)

    # --- models --------------------------------------------------------------------------------
    def register(self, run_id: str, digest: str, cutoff: str) -> int:
        """Register the model folder of a run and return its version; the same model keeps its version.

        Args:
            run_id: MLflow run whose artifacts hold the folder.
            digest: of the model.
            cutoff: of the model, ISO date.
        """
        from mlflow.exceptions import MlflowException

        known = self.version_of(digest)
        if known is not None:
            return known
        try:
            self.client.create_registered_model(MODEL_NAME)
        except MlflowException as error:
            if error.error_code != "RESOURCE_ALREADY_EXISTS":
                raise
        source = f"{self.client.get_run(run_id).info.artifact_uri}/{MODEL_FOLDER}"
        version = self.client.create_model_version(
            MODEL_NAME, source=source, run_id=run_id, tags={"digest": digest, "cutoff": cutoff}
        )
        return int(version.version)

    def version_of(self, digest: str) -> int | None:
        """Return the version of a model, or None if it is not registered."""
        found = self.client.search_model_versions(f"name = '{MODEL_NAME}' and tags.digest = '{digest}'")
        return min((int(version.version) for version in found), default=None)

    def folder(self, version: int) -> Path:
        """Return a local copy of a version's model folder, verified.

        Raises:
            RegistryError: there is no such version, or its artifacts are gone.
            ModelFileError: the folder was altered.
        """
        known = registry_file.registered(self.tracking_uri, MODEL_NAME, version)
        folder = self._artifacts(version, MODEL_FOLDER) if known is None else known[0]
        if version not in self._bundles:
            bundle = ForecastModel.load(folder)
            expected = self._digest_of(version) if known is None else known[1]
            if bundle.digest != expected:
                raise RegistryError(f"version {version} was registered as {expected} but its folder is {bundle.digest}")
            self._bundles[version] = bundle
            while len(self._bundles) > LOADED_MODELS:
                del self._bundles[next(iter(self._bundles))]
        return folder

    def _digest_of(self, version: int) -> str | None:
        return self.client.get_model_version(MODEL_NAME, str(version)).tags.get("digest")

    def load(self, version: int) -> ForecastModel:
        """Return a version, ready to predict; read and verified once a process.

        Raises:
            RegistryError: there is no such version, or its artifacts are gone.
            ModelFileError: its folder was altered.
        """
        if version not in self._bundles:
            self.folder(version)
        return self._bundles[version]

    def native(self, version: int) -> Path:
        """Return a local copy of a version's boosters.

        Raises:
            RegistryError: there is no such version, or its artifacts are gone.
        """
        return self._artifacts(version, NATIVE_FOLDER)

    def _artifacts(self, version: int, folder: str) -> Path:
        from mlflow.artifacts import download_artifacts
        from mlflow.exceptions import MlflowException

        try:
            known = self.client.get_model_version(MODEL_NAME, str(version))
            uri = f"{self.client.get_run(str(known.run_id)).info.artifact_uri}/{folder}"
            return Path(download_artifacts(artifact_uri=uri, tracking_uri=self.tracking_uri))
        except (MlflowException, OSError) as error:
            raise RegistryError(
                f"version {version} of {MODEL_NAME} cannot be read from {self.tracking_uri}: {error}"
            ) from error

    # --- aliases -------------------------------------------------------------------------------
    def alias(self, name: str) -> int | None:
        """Return the version an alias points to, or None."""
        from mlflow.exceptions import MlflowException

        try:
            return int(self.client.get_model_version_by_alias(MODEL_NAME, name).version)
        except MlflowException as error:
            if error.error_code in ("RESOURCE_DOES_NOT_EXIST", "INVALID_PARAMETER_VALUE"):
                return None
            raise

    def set_aliases(self, wanted: Mapping[str, int | None]) -> None:
        """Point every alias at its version, or remove it where there is none; what is right already costs a look."""
        pointed = registry_file.aliases(self.tracking_uri, MODEL_NAME)
        if pointed is not None and {name: pointed.get(name) for name in wanted} == dict(wanted):
            return
        for name, version in wanted.items():
            if version is None:
                self.clear_alias(name)
            else:
                self.set_alias(name, version)

    def set_alias(self, name: str, version: int) -> None:
        """Point an alias at a version."""
        self.client.set_registered_model_alias(MODEL_NAME, name, str(version))

    def clear_alias(self, name: str) -> None:
        """Remove an alias if it is there."""
        if self.alias(name) is not None:
            self.client.delete_registered_model_alias(MODEL_NAME, name)


class MlflowRun:
    """An open MLflow run."""

    def __init__(self, run_id: str, mlflow: Any, registry: ModelRegistry) -> None:
        """Wrap the run dagster-mlflow opened."""
        self.run_id = run_id
        self.mlflow = mlflow
        self._registry = registry

    def parameters(self, values: Mapping[str, object]) -> None:
        """Log parameters."""
        self.mlflow.log_params(dict(values))

    def metrics(self, values: Mapping[str, float], step: int | None = None) -> None:
        """Log metrics, those that are numbers."""
        self.mlflow.log_metrics({k: float(v) for k, v in values.items() if v == v}, step=step)

    def tags(self, values: Mapping[str, str]) -> None:
        """Set tags."""
        self.mlflow.set_tags(dict(values))

    def files(self, folder: Path, into: str) -> None:
        """Log every file of a folder."""
        self._registry.client.log_artifacts(self.run_id, str(folder), into)

    def table(self, name: str, content: str) -> None:
        """Log a text file."""
        self._registry.client.log_text(self.run_id, content, name)

    def link(self) -> str:
        """Return where a person finds this run in the MLflow UI, from its root."""
        return f"/#/experiments/{self._registry.client.get_run(self.run_id).info.experiment_id}/runs/{self.run_id}"
