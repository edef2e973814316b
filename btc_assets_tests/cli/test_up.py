"""What `make up` starts."""

from __future__ import annotations

import importlib.util
import os
import runpy
import socket
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from btc_assets.cli.up import mlflow_environment, parts_of, port_faults, up
from btc_assets.processes import free_port
from btc_assets.settings import PROJECT_ROOT, Settings


def test_mlflow_knows_the_variables_that_name_its_stores(tmp_path: Path) -> None:
    environment = mlflow_environment(Settings(data_dir=tmp_path))
    mlflow = importlib.util.find_spec("mlflow")
    assert mlflow is not None
    assert mlflow.origin is not None
    known = runpy.run_path(str(Path(mlflow.origin).parent / "server" / "constants.py"))
    assert environment[known["BACKEND_STORE_URI_ENV_VAR"]] == environment[known["REGISTRY_STORE_URI_ENV_VAR"]]
    assert environment[known["BACKEND_STORE_URI_ENV_VAR"]].startswith("sqlite:///")
    assert environment[known["ARTIFACT_ROOT_ENV_VAR"]].startswith("file:///")


def chosen(folder: Path, **values: Any) -> Settings:
    ports = {name: free_port("127.0.0.1", 0) for name in ("dagster_port", "serve_port", "mlflow_port")}
    return Settings(data_dir=folder, **(ports | values))


def test_every_part_listens_on_loopback_at_its_own_port(tmp_path: Path) -> None:
    parts = parts_of(Settings(data_dir=tmp_path, dagster_port=3001, serve_port=8001, mlflow_port=5001))
    assert {part.port for part in parts.values()} == {3001, 8001, 5001}
    assert "127.0.0.1" in parts["MLflow"].command
    assert "127.0.0.1" in parts["Dagster"].command
    assert port_faults(parts_of(chosen(tmp_path))) == []


@pytest.mark.parametrize("variable", ["BTC_DAGSTER_PORT", "BTC_SERVE_PORT", "BTC_MLFLOW_PORT"])
def test_a_taken_port_is_named_with_its_variable_and_nothing_is_started(
    variable: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with socket.create_server(("127.0.0.1", 0)) as other:
        port = other.getsockname()[1]
        assert up(chosen(tmp_path, **{variable.removeprefix("BTC_").lower(): port})) == 2
    printed = capsys.readouterr()
    assert f"port {port} is taken by another program; set {variable} to a free one" in printed.err
    assert "http" not in printed.out, "nothing is announced"


def test_one_port_for_two_parts_names_both(tmp_path: Path) -> None:
    port = free_port("127.0.0.1", 0)
    [fault] = port_faults(parts_of(chosen(tmp_path, dagster_port=port, mlflow_port=port)))
    assert fault == f"BTC_DAGSTER_PORT and BTC_MLFLOW_PORT are both {port}; each needs a port of its own"


def test_the_forecast_server_names_a_taken_port(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as other:
        port = other.getsockname()[1]
        environment = {"PATH": os.environ["PATH"], "BTC_DATA_DIR": str(tmp_path), "BTC_SERVE_PORT": str(port)}
        child = subprocess.run(
            [sys.executable, "-m", "serve"],
            cwd=PROJECT_ROOT, env=environment, capture_output=True, text=True, timeout=120, check=False,
        )  # fmt: skip
    assert child.returncode == 1
    assert child.stderr.strip() == f"Port {port} is taken by another program; set BTC_SERVE_PORT to a free one."
