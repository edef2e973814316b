"""`make up`: Dagster, the forecast server and the MLflow UI together, until Ctrl-C stops all three."""

from __future__ import annotations

import contextlib
import json
import signal
import subprocess
import sys
import tempfile
import threading
from collections import defaultdict
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from types import FrameType

from btc_assets.paths import make_database_folder
from btc_assets.processes import (
    LOOPBACK,
    ProcessError,
    interrupt,
    port_fault,
    reachable_host,
    running,
    wait_for_port,
    wait_for_socket,
    web_root,
)
from btc_assets.settings import PROJECT_ROOT, Settings

CODE = "Dagster's code server"
"""The part that loads the graph and launches runs; Dagster's webserver and daemon ask it."""
LOCATION = "btc_assets"
"""The code location's name, as in `workspace.yaml`: Dagster keeps cursors and switches under it."""
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
class Page:
    """Where a part is seen in a browser.

    Attributes:
        host: it listens on.
        port: it listens on.
        variable: that sets the port.
    """

    host: str
    port: int
    variable: str


@dataclass(frozen=True)
class Part:
    """One process of `make up`.

    Attributes:
        command: that runs it.
        page: what it shows; None where it shows none.
        environment: variables of its own.
        needs_code: whether it starts when the code server answers.
    """

    command: list[str]
    page: Page | None = None
    environment: Mapping[str, str] = field(default_factory=dict)
    needs_code: bool = False


def parts_of(chosen: Settings, folder: Path) -> dict[str, Part]:
    """Return what `make up` runs, by name.

    Dagster's three are those of `dagster dev`, which would wait for them in a process of 100 MB more.

    Args:
        chosen: the settings of the deployment.
        folder: of the code server's socket, and of the workspace file that names it.
    """
    run = [sys.executable, "-m"]
    workspace = ["--workspace", str(folder / "workspace.yaml")]
    return {
        CODE: Part(
            [
                *(*run, "dagster", "code-server", "start", "--socket", str(socket_in(folder))),
                *("--module-name", "btc_assets.definitions", "--working-directory", str(PROJECT_ROOT)),
                *("--location-name", LOCATION, "--inject-env-vars-from-instance", "--log-level", "warning"),
            ]
        ),
        "forecasts": Part([*run, "serve"], Page(chosen.serve_host, chosen.serve_port, "BTC_SERVE_PORT")),
        # MLflow's own command starts this server from a process of 200 MB that only waits for it, and seven more for
        # jobs that this project does not use.
        "MLflow": Part(
            [
                *(*run, "uvicorn", "mlflow.server.fastapi_app:app"),
                *("--host", LOOPBACK, "--port", str(chosen.mlflow_port), "--log-level", "warning"),
            ],
            Page(LOOPBACK, chosen.mlflow_port, "BTC_MLFLOW_PORT"),
            mlflow_environment(chosen),
        ),
        "Dagster": Part(
            [
                *(*run, "dagster_webserver", "--host", LOOPBACK, "--port", str(chosen.dagster_port), *workspace),
                *("--dagster-log-level", "warning", "--live-data-poll-rate", "2000"),
            ],
            Page(LOOPBACK, chosen.dagster_port, "BTC_DAGSTER_PORT"),
            needs_code=True,
        ),
        "Dagster's daemon": Part(
            [*run, "dagster._daemon", "run", "--log-level", "warning", *workspace], needs_code=True
        ),
    }


def socket_in(folder: Path) -> Path:
    """Return the code server's socket."""
    return folder / "code.sock"


def write_workspace(folder: Path) -> None:
    """Write the file by which Dagster's webserver and daemon find the code server."""
    server = {"socket": str(socket_in(folder)), "location_name": LOCATION}
    (folder / "workspace.yaml").write_text(json.dumps({"load_from": [{"grpc_server": server}]}))


def port_faults(parts: Mapping[str, Part]) -> list[str]:
    """Return a sentence about each port that cannot be had."""
    faults = []
    users: dict[int, list[Page]] = defaultdict(list)
    for page in pages_of(parts).values():
        users[page.port].append(page)
    for port, same in users.items():
        if len(same) > 1:
            variables = " and ".join(sorted(page.variable for page in same))
            faults.append(f"{variables} are both {port}; each needs a port of its own")
        elif fault := port_fault(same[0].host, port):
            faults.append(f"port {port} {fault}; set {same[0].variable} to a free one")
    return faults


def pages_of(parts: Mapping[str, Part]) -> dict[str, Page]:
    """Return the page of each part that has one."""
    return {name: part.page for name, part in parts.items() if part.page is not None}


def up(chosen: Settings) -> int:
    """Run the parts until Ctrl-C, or until one of them ends; then stop the rest. The code server is started again.

    Returns:
        0 after Ctrl-C, 1 when a part failed, 2 when a port cannot be had; then nothing was started.
    """
    stopping = threading.Event()

    def leave(_number: int, _frame: FrameType | None) -> None:
        stopping.set()

    with contextlib.ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="btc_assets_up_")))
        parts = parts_of(chosen, folder)
        if faults := port_faults(parts):
            print(f"==> {'; '.join(faults)}", file=sys.stderr, flush=True)
            return 2
        for number in (signal.SIGINT, signal.SIGTERM):
            signal.signal(number, leave)
        make_database_folder(chosen.tracking_uri)
        write_workspace(folder)
        processes: dict[str, subprocess.Popen[bytes]] = {}

        def start(name: str) -> None:
            part = parts[name]
            processes[name] = stack.enter_context(running(part.command, environment=part.environment))

        failed = False
        try:
            for name, part in parts.items():
                if part.needs_code:
                    wait_for_socket(processes[CODE], socket_in(folder), seconds=READY_S, unless=stopping)
                start(name)
            _announce(pages_of(parts), processes, stopping)
            if not stopping.is_set():
                print("==> all three are up; Ctrl-C stops them", flush=True)
            _watch(processes, start, stopping)
        except ProcessError as error:
            print(f"==> {error}; stopping the others", file=sys.stderr, flush=True)
            failed = True
        print("==> stopping", flush=True)
        for name, process in processes.items():
            if name != CODE:  # the last to go: the webserver and the daemon ask it until they end
                interrupt(process)  # all at once; leaving the block waits for each
    print("==> stopped", flush=True)
    return int(failed)


def _announce(
    pages: Mapping[str, Page], processes: Mapping[str, subprocess.Popen[bytes]], stopping: threading.Event
) -> None:
    """Print the address of each page once it answers.

    Raises:
        ProcessError: one ended before it did.
    """
    for name, page in pages.items():
        try:
            wait_for_port(processes[name], reachable_host(page.host), page.port, seconds=READY_S, unless=stopping)
        except ProcessError as error:
            raise ProcessError(f"{name} on port {page.port} ({page.variable}): {error}") from error
        if not stopping.is_set():
            print(f"==> {name}: {web_root(reachable_host(page.host), page.port)}", flush=True)


def _watch(
    processes: Mapping[str, subprocess.Popen[bytes]], start: Callable[[str], None], stopping: threading.Event
) -> None:
    """Wait until `stopping` is set; start the code server again when it ends, as `dagster dev` does.

    Raises:
        ProcessError: another part ended.
    """
    while not stopping.wait(0.5):
        if processes[CODE].poll() is not None:
            print(f"==> {CODE} has ended; starting it again", file=sys.stderr, flush=True)
            start(CODE)
        for name, process in processes.items():
            if process.poll() is not None:
                raise ProcessError(f"{name} ended with status {process.returncode}")
