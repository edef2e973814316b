"""`make up`: Dagster, the forecast server and the MLflow UI together, until Ctrl-C stops all three."""

from __future__ import annotations

import contextlib
import signal
import sys
import threading
from collections import defaultdict
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from types import FrameType

from btc_assets.paths import make_database_folder
from btc_assets.processes import (
    LOOPBACK,
    ProcessError,
    interrupt,
    port_fault,
    reached_at,
    running,
    wait_for_port,
    web_root,
)
from btc_assets.settings import PROJECT_ROOT, Settings

READY_S = 600.0
"""Seconds each part has to come up; a machine that is busy is waited for, a part that ends is not."""


def mlflow_environment(chosen: Settings) -> dict[str, str]:
    """Return what MLflow's server reads from the environment: its stores, and that it runs no jobs."""
    artifacts = chosen.mlflow_artifacts.as_uri()
    return {
        "_MLFLOW_SERVER_FILE_STORE": chosen.tracking_uri,
        "_MLFLOW_SERVER_REGISTRY_STORE": chosen.tracking_uri,
        "_MLFLOW_SERVER_ARTIFACT_ROOT": artifacts,
        "_MLFLOW_SGI_NAME": "uvicorn",
        "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false",
    }


@dataclass(frozen=True)
class Part:
    """One of the three.

    Attributes:
        command: that runs it.
        host: it listens on.
        port: it listens on.
        variable: that sets the port.
    """

    command: list[str]
    host: str
    port: int
    variable: str


def parts_of(chosen: Settings) -> dict[str, Part]:
    """Return what `make up` runs, by name."""
    scripts = Path(sys.executable).parent
    return {
        "Dagster": Part(
            [
                *(str(scripts / "dagster"), "dev", "-w", str(PROJECT_ROOT / "workspace.yaml")),
                *("-h", LOOPBACK, "-p", str(chosen.dagster_port), "--log-level", "warning"),
            ],
            LOOPBACK,
            chosen.dagster_port,
            "BTC_DAGSTER_PORT",
        ),
        "forecasts": Part([sys.executable, "-m", "serve"], chosen.serve_host, chosen.serve_port, "BTC_SERVE_PORT"),
        # MLflow's own command starts this server from a process of 200 MB that only waits for it, and seven more for
        # jobs that this project does not use.
        "MLflow": Part(
            [
                *(sys.executable, "-m", "uvicorn", "mlflow.server.fastapi_app:app"),
                *("--host", LOOPBACK, "--port", str(chosen.mlflow_port), "--log-level", "warning"),
            ],
            LOOPBACK,
            chosen.mlflow_port,
            "BTC_MLFLOW_PORT",
        ),
    }


def port_faults(parts: Mapping[str, Part]) -> list[str]:
    """Return a sentence about each port that cannot be had."""
    faults = []
    users: dict[int, list[Part]] = defaultdict(list)
    for part in parts.values():
        users[part.port].append(part)
    for port, same in users.items():
        if len(same) > 1:
            variables = " and ".join(part.variable for part in same)
            faults.append(f"{variables} are both {port}; each needs a port of its own")
        elif fault := port_fault(same[0].host, port):
            faults.append(f"port {port} {fault}; set {same[0].variable} to a free one")
    return faults


def up(chosen: Settings) -> int:
    """Run the three until Ctrl-C, or until one of them ends; then stop the rest.

    Returns:
        0 after Ctrl-C, 1 when a part failed, 2 when a port cannot be had; then nothing was started.
    """
    parts = parts_of(chosen)
    if faults := port_faults(parts):
        print(f"==> {'; '.join(faults)}", file=sys.stderr, flush=True)
        return 2
    stopping = threading.Event()

    def leave(_number: int, _frame: FrameType | None) -> None:
        stopping.set()

    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, leave)
    make_database_folder(chosen.tracking_uri)
    failed = False
    with contextlib.ExitStack() as stack:
        processes = {
            name: stack.enter_context(
                running(part.command, environment=mlflow_environment(chosen) if name == "MLflow" else None)
            )
            for name, part in parts.items()
        }
        try:
            for name, part in parts.items():
                try:
                    wait_for_port(processes[name], reached_at(part.host), part.port, seconds=READY_S, unless=stopping)
                except ProcessError as error:
                    raise ProcessError(f"{name} on port {part.port} ({part.variable}): {error}") from error
                if not stopping.is_set():
                    print(f"==> {name}: {web_root(reached_at(part.host), part.port)}", flush=True)
            if not stopping.is_set():
                print("==> all three are up; Ctrl-C stops them", flush=True)
            while not stopping.wait(0.5):
                for name, process in processes.items():
                    if process.poll() is not None:
                        raise ProcessError(f"{name} ended with status {process.returncode}")
        except ProcessError as error:
            print(f"==> {error}; stopping the others", file=sys.stderr, flush=True)
            failed = True
        print("==> stopping", flush=True)
        for process in processes.values():
            interrupt(process)  # all at once; leaving the block waits for each
    print("==> stopped", flush=True)
    return int(failed)
