"""`make up`: Dagster, the forecast server and the MLflow UI together, until Ctrl-C stops all three."""

from __future__ import annotations

import contextlib
import signal
import sys
import threading
from pathlib import Path
from types import FrameType

from btc_assets.paths import make_database_folder
from btc_assets.processes import ProcessError, interrupt, running, wait_for_port
from btc_assets.settings import PROJECT_ROOT, Settings

LOOPBACK = "127.0.0.1"
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


def commands(chosen: Settings) -> dict[str, tuple[list[str], int]]:
    """Return what `make up` runs: the command and port of each part, by name."""
    scripts = Path(sys.executable).parent
    return {
        "Dagster": (
            [
                *(str(scripts / "dagster"), "dev", "-w", str(PROJECT_ROOT / "workspace.yaml")),
                *("-h", LOOPBACK, "-p", str(chosen.dagster_port), "--log-level", "warning"),
            ],
            chosen.dagster_port,
        ),
        "forecasts": ([sys.executable, "-m", "serve"], chosen.serve_port),
        # MLflow's own command starts this server from a process of 200 MB that only waits for it, and seven more for
        # jobs that nobody here has.
        "MLflow": (
            [
                *(sys.executable, "-m", "uvicorn", "mlflow.server.fastapi_app:app"),
                *("--host", LOOPBACK, "--port", str(chosen.mlflow_port), "--log-level", "warning"),
            ],
            chosen.mlflow_port,
        ),
    }


def up(chosen: Settings) -> int:
    """Run the three until Ctrl-C, or until one of them ends; then stop the rest.

    Returns:
        0 after Ctrl-C, 1 when a part failed.
    """
    stopping = threading.Event()

    def leave(_number: int, _frame: FrameType | None) -> None:
        stopping.set()

    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, leave)
    make_database_folder(chosen.tracking_uri)
    failed = False
    with contextlib.ExitStack() as stack:
        parts = {
            name: (
                stack.enter_context(
                    running(command, environment=mlflow_environment(chosen) if name == "MLflow" else None)
                ),
                port,
            )
            for name, (command, port) in commands(chosen).items()
        }
        try:
            for name, (process, port) in parts.items():
                wait_for_port(process, LOOPBACK, port, seconds=READY_S, unless=stopping)
                if not stopping.is_set():
                    print(f"==> {name}: http://{LOOPBACK}:{port}", flush=True)
            if not stopping.is_set():
                print("==> all three are up; Ctrl-C stops them", flush=True)
            while not stopping.wait(0.5):
                for name, (process, _) in parts.items():
                    if process.poll() is not None:
                        raise ProcessError(f"{name} ended with status {process.returncode}")
        except ProcessError as error:
            print(f"==> {error}; stopping the others", file=sys.stderr, flush=True)
            failed = True
        print("==> stopping", flush=True)
        for process, _ in parts.values():
            interrupt(process)  # all at once; leaving the block waits for each
    print("==> stopped", flush=True)
    return int(failed)
