"""MLflow: one run per asset and partition, and the registry of models.

The registry stores the models; the lake refers to them by version and digest. A model folder is verified against its
digest before it is used.
"""

from __future__ import annotations

import hashlib
import time
from collections.abc import Iterator, Mapping, Sequence
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
"""Artifact folder of a run with `model.json` and the ONNX graphs."""
NATIVE_FOLDER = "native"
"""Artifact folder of a run with the boosters in the library's format."""
LARGEST_BATCH = 1_000
"""Maximum number of values that MLflow accepts at once."""
LOADED_MODELS = 8
"""Maximum number of models cached in memory; a long replay loads hundreds."""


class RegistryError(RuntimeError):
    """The requested version is not in the registry or cannot be read."""


@cache
def source_digest() -> str:
    """Return the SHA-256 of the package's source files, which identifies the code of a run."""
    package = Path(__file__).parent.parent
    hasher = hashlib.sha256()
    for path in sorted(package.rglob("*.py")):
        hasher.update(f"{path.relative_to(package)}\n".encode())
        hasher.update(path.read_bytes())
    return hasher.hexdigest()


class ModelRegistry(dg.ConfigurableResource):
    """The MLflow tracking store and model registry.

    Attributes:
        tracking_uri: URI of both.
        artifacts: artifact folder of a new experiment; empty for the default of the tracking server.
    """

    tracking_uri: str
    artifacts: str = ""
    _client: Any = PrivateAttr(default=None)
    _models: dict[int, ForecastModel] = PrivateAttr(default_factory=dict)

    # --- runs ----------------------------------------------------------------------------------
    @contextmanager
    def run(
        self, context: dg.AssetExecutionContext, asset: dg.AssetKey, tags: Mapping[str, str]
    ) -> Iterator[MlflowRun]:
        """Open the MLflow run of an asset and its partitions; it is closed on every exit.

        Args:
            context: context of the step; sets the partitions and the Dagster tags of the run.
            asset: an asset of the step; sets the name of the run.
            tags: additional tags, for example data versions of the training data.
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
        """The MLflow client, created on first use."""
        if self._client is None:
            from mlflow import MlflowClient

            make_database_folder(self.tracking_uri)
            self._client = MlflowClient(tracking_uri=self.tracking_uri, registry_uri=self.tracking_uri)
        return self._client

    def _experiment_id(self) -> str:
        experiment = self.client.get_experiment_by_name(EXPERIMENT)
        if experiment is not None:
            return experiment.experiment_id
        location = Path(self.artifacts).resolve().as_uri() if self.artifacts else None
        return self.client.create_experiment(EXPERIMENT, artifact_location=location)

    # --- models --------------------------------------------------------------------------------
    def register(self, run_id: str, digest: str, cutoff: str) -> int:
        """Register the model folder of a run and return its version; a registered model keeps its version.

        Args:
            run_id: MLflow run with the folder among its artifacts.
            digest: digest of the model.
            cutoff: cutoff of the model, ISO date.
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
        versions = self.client.search_model_versions(f"name = '{MODEL_NAME}' and tags.digest = '{digest}'")
        return min((int(version.version) for version in versions), default=None)

    def folder(self, version: int) -> Path:
        """Return a verified local copy of a version's model folder.

        Raises:
            RegistryError: there is no such version, or its artifacts are gone.
            ModelFileError: the folder was changed.
        """
        known = registry_file.registered(self.tracking_uri, MODEL_NAME, version)
        folder = self._artifacts(version, MODEL_FOLDER) if known is None else known[0]
        if version not in self._models:
            model = ForecastModel.load(folder)
            expected = self._digest_of(version) if known is None else known[1]
            if model.digest != expected:
                raise RegistryError(
                    f"version {version} was registered with digest {expected}, but its folder has {model.digest}"
                )
            self._models[version] = model
            while len(self._models) > LOADED_MODELS:
                del self._models[next(iter(self._models))]
        return folder

    def _digest_of(self, version: int) -> str | None:
        return self.client.get_model_version(MODEL_NAME, str(version)).tags.get("digest")

    def load(self, version: int) -> ForecastModel:
        """Return the model of a version; it is read and verified once and then cached.

        Raises:
            RegistryError: there is no such version, or its artifacts are gone.
            ModelFileError: its folder was changed.
        """
        if version not in self._models:
            self.folder(version)
        return self._models[version]

    def native(self, version: int) -> Path:
        """Return a folder with the members of a version in the formats of their libraries.

        Raises:
            RegistryError: there is no such version, or its artifacts are gone.
        """
        known = registry_file.registered(self.tracking_uri, MODEL_NAME, version)
        folder = None if known is None else known[0].with_name(NATIVE_FOLDER)
        return folder if folder is not None and folder.is_dir() else self._artifacts(version, NATIVE_FOLDER)

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
        """Point each alias at its version or remove it for None; return early if all aliases are already right."""
        current = registry_file.aliases(self.tracking_uri, MODEL_NAME)
        if current is not None and {name: current.get(name) for name in wanted} == dict(wanted):
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
        """Wrap a run opened by dagster-mlflow."""
        self.run_id = run_id
        self.mlflow = mlflow
        self._registry = registry

    def parameters(self, values: Mapping[str, object]) -> None:
        """Log parameters."""
        self.mlflow.log_params(dict(values))

    def metrics(self, values: Mapping[str, float]) -> None:
        """Log metrics, except NaN values."""
        self.mlflow.log_metrics({k: float(v) for k, v in values.items() if v == v})

    def curves(self, values: Mapping[str, Sequence[float]]) -> None:
        """Log training curves by name, a value a step."""
        from mlflow.entities import Metric

        now = int(time.time() * 1000)
        points = [Metric(name, value, now, step) for name, curve in values.items() for step, value in enumerate(curve)]
        for start in range(0, len(points), LARGEST_BATCH):
            self._registry.client.log_batch(self.run_id, points[start : start + LARGEST_BATCH])

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
        """Return the address of this run in the MLflow UI, relative to its root."""
        return f"/#/experiments/{self._registry.client.get_run(self.run_id).info.experiment_id}/runs/{self.run_id}"
