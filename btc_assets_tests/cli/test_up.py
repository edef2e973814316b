"""The processes of `make up`."""

from __future__ import annotations

import importlib.util
import os
import runpy
import signal
import socket
import subprocess
import sys
import threading
from pathlib import Path
from typing import Any

import httpx
import pytest
from dagster._core.remote_origin import GrpcServerCodeLocationOrigin
from dagster._core.workspace.load import location_origins_from_yaml_paths

from btc_assets.cli.up import (
    CODE,
    MOST_RESTARTS,
    _watch,
    mlflow_environment,
    pages_of,
    parts_of,
    port_faults,
    up,
    write_workspace,
)
from btc_assets.processes import ProcessError, free_port, stop
from btc_assets.settings import PROJECT_ROOT, Settings
from btc_assets_tests.conftest import WATCHDOG_S, wait_until


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


def test_every_page_is_on_loopback_at_its_own_port(tmp_path: Path) -> None:
    parts = parts_of(Settings(data_dir=tmp_path, dagster_port=3001, serve_port=8001, mlflow_port=5001), tmp_path)
    assert {page.port for page in pages_of(parts).values()} == {3001, 8001, 5001}
    assert "127.0.0.1" in parts["MLflow"].command
    assert "127.0.0.1" in parts["Dagster"].command
    assert port_faults(parts_of(chosen(tmp_path), tmp_path)) == []


def test_dagsters_parts_find_the_code_server_by_the_name_that_dagster_dev_gives_it(tmp_path: Path) -> None:
    write_workspace(tmp_path)
    [origin] = location_origins_from_yaml_paths([str(tmp_path / "workspace.yaml")])
    [of_dev] = location_origins_from_yaml_paths([str(PROJECT_ROOT / "workspace.yaml")])
    assert origin.location_name == of_dev.location_name
    assert isinstance(origin, GrpcServerCodeLocationOrigin)
    command = parts_of(chosen(tmp_path), tmp_path)[CODE].command
    assert command[command.index("--socket") + 1] == origin.socket
    assert command[command.index("--location-name") + 1] == origin.location_name


def test_the_waiting_process_loads_no_library_of_its_parts() -> None:
    code = """
import sys
from btc_assets.cli.main import main
from btc_assets.cli import up
up.up = lambda _: 0
assert main(["up"]) == 0
print(sorted({"dagster", "polars", "httpx", "mlflow"} & set(sys.modules)))
"""
    finished = subprocess.run(
        [sys.executable, "-c", code], cwd=PROJECT_ROOT, env={"PATH": os.environ["PATH"]},
        capture_output=True, text=True, check=True,
    )  # fmt: skip
    assert finished.stdout.strip() == "[]"


@pytest.mark.parametrize("variable", ["BTC_DAGSTER_PORT", "BTC_SERVE_PORT", "BTC_MLFLOW_PORT"])
def test_a_taken_port_is_named_with_its_variable_and_nothing_is_started(
    variable: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with socket.create_server(("127.0.0.1", 0)) as other:
        port = other.getsockname()[1]
        assert up(chosen(tmp_path, **{variable.removeprefix("BTC_").lower(): port})) == 2
    printed = capsys.readouterr()
    assert f"port {port} is in use by another program; set {variable} to a free one" in printed.err
    assert "http" not in printed.out, "nothing is announced"


def test_one_port_for_two_parts_names_both(tmp_path: Path) -> None:
    port = free_port("127.0.0.1", 0)
    [fault] = port_faults(parts_of(chosen(tmp_path, dagster_port=port, mlflow_port=port), tmp_path))
    assert fault == f"BTC_DAGSTER_PORT and BTC_MLFLOW_PORT are both {port}; each needs its own port"


def test_the_forecast_server_names_a_taken_port(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as other:
        port = other.getsockname()[1]
        environment = {"PATH": os.environ["PATH"], "BTC_DATA_DIR": str(tmp_path), "BTC_SERVE_PORT": str(port)}
        child = subprocess.run(
            [sys.executable, "-m", "serve"],
            cwd=PROJECT_ROOT, env=environment, capture_output=True, text=True, timeout=120, check=False,
        )  # fmt: skip
    assert child.returncode == 1
    assert child.stderr.strip() == f"Port {port} is in use by another program; set BTC_SERVE_PORT to a free one."


LOADED = "{ workspaceOrError { ... on Workspace { locationEntries { name locationOrLoadError { __typename } } } } }"


@pytest.mark.live
@pytest.mark.slow
def test_all_three_answer_and_dagster_has_loaded_the_graph_and_ctrl_c_ends_every_process(tmp_path: Path) -> None:
    config = chosen(tmp_path)
    environment = {
        "PATH": os.environ["PATH"], "BTC_DATA_DIR": str(tmp_path), "BTC_DAGSTER_PORT": str(config.dagster_port),
        "BTC_SERVE_PORT": str(config.serve_port), "BTC_MLFLOW_PORT": str(config.mlflow_port),
    }  # fmt: skip
    log = tmp_path / "up.log"
    with log.open("wb") as out:
        up_command = subprocess.Popen(
            [sys.executable, "-m", "btc_assets", "up"], cwd=PROJECT_ROOT, env=environment,
            stdin=subprocess.DEVNULL, stdout=out, stderr=out, start_new_session=True,
        )  # fmt: skip
    try:
        wait_until(lambda: "all three are up" in log.read_text(), log, up_command)
        dagster = httpx.post(f"http://127.0.0.1:{config.dagster_port}/graphql", json={"query": LOADED}, timeout=60)
        [location] = dagster.json()["data"]["workspaceOrError"]["locationEntries"]
        assert location == {"name": "btc_assets", "locationOrLoadError": {"__typename": "RepositoryLocation"}}
        os.kill(code_server(tmp_path), signal.SIGKILL)
        wait_until(lambda: "restarting it" in log.read_text(), log, up_command)
        assert httpx.get(f"http://127.0.0.1:{config.mlflow_port}/health", timeout=60).text == "OK"
        assert httpx.get(f"http://127.0.0.1:{config.serve_port}/v1/forecast", timeout=60).status_code == 503
        up_command.send_signal(signal.SIGINT)
        assert up_command.wait(WATCHDOG_S) == 0
    finally:
        stop(up_command)
    mark = f"BTC_DATA_DIR={tmp_path}".encode()
    assert [place.name for place in Path("/proc").glob("[0-9]*") if mark in environment_of(place)] == []


def code_server(data: Path) -> int:
    """Return the process of the code server of a data folder."""
    mark = f"BTC_DATA_DIR={data}".encode()
    [place] = [
        place for place in Path("/proc").glob("[0-9]*")
        if mark in environment_of(place) and b"code-server" in (place / "cmdline").read_bytes()
    ]  # fmt: skip
    return int(place.name)


def environment_of(process: Path) -> bytes:
    try:
        return (process / "environ").read_bytes()
    except OSError:  # the process has ended
        return b""


def test_a_code_server_that_keeps_exiting_ends_the_command() -> None:
    started: list[subprocess.Popen[bytes]] = []
    processes: dict[str, subprocess.Popen[bytes]] = {}

    def start(name: str) -> None:
        started.append(subprocess.Popen(["true"]))
        started[-1].wait()
        processes[name] = started[-1]

    start(CODE)
    with pytest.raises(ProcessError, match="within a minute"):
        _watch(processes, start, ImpatientEvent())
    assert len(started) == 1 + MOST_RESTARTS


class ImpatientEvent(threading.Event):
    """An event whose `wait` does not wait."""

    def wait(self, timeout: float | None = None) -> bool:
        """Return whether the event is set."""
        return self.is_set()
