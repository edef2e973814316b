"""What `make up` starts."""

from __future__ import annotations

import importlib.util
import runpy
from pathlib import Path

from btc_assets.settings import Settings
from btc_assets.up import commands, mlflow_environment


def test_mlflow_knows_the_variables_its_stores_are_told_by(tmp_path: Path) -> None:
    told = mlflow_environment(Settings(data_dir=tmp_path))
    mlflow = importlib.util.find_spec("mlflow")
    assert mlflow is not None
    assert mlflow.origin is not None
    known = runpy.run_path(str(Path(mlflow.origin).parent / "server" / "constants.py"))
    assert told[known["BACKEND_STORE_URI_ENV_VAR"]] == told[known["REGISTRY_STORE_URI_ENV_VAR"]]
    assert told[known["BACKEND_STORE_URI_ENV_VAR"]].startswith("sqlite:///")
    assert told[known["ARTIFACT_ROOT_ENV_VAR"]].startswith("file:///")


def test_every_part_listens_on_loopback_at_its_own_port(tmp_path: Path) -> None:
    parts = commands(Settings(data_dir=tmp_path, dagster_port=3001, serve_port=8001, mlflow_port=5001))
    assert {port for _, port in parts.values()} == {3001, 8001, 5001}
    assert "127.0.0.1" in parts["MLflow"][0]
    assert "127.0.0.1" in parts["Dagster"][0]
