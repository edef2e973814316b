"""`make up`: Dagster, the forecast server and the MLflow UI together, until Ctrl-C stops all three."""

from __future__ import annotations

import contextlib
import json
import signal
import subprocess
import sys
import tempfile
import threading
import time
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
"""The part that loads the graph and launches runs, for Dagster's webserver and daemon."""
LOCATION = "btc_assets"
"""Name of the code location, as in `workspace.yaml`: Dagster stores cursors and sensor states under it."""
MOST_RESTARTS = 5
"""Restarts of the code server within a minute; one that exits again has a fault that a restart does not mend."""
READY_S = 600.0
"""Longest wait for a part to start, seconds: long enough for a busy machine; a part that exits fails at once."""


def mlflow_environment(chosen: Settings) -> dict[str, str]:
    """Return the environment of MLflow's server: its stores, and no job workers."""
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
    """The web page of a part.

    Attributes:
        host: address the part listens on.
        port: port the part listens on.
        variable: environment variable that sets the port.
    """

    host: str
    port: int
    variable: str


@dataclass(frozen=True)
class Part:
    """One process of `make up`.

    Attributes:
        command: its command line.
        page: its web page; None if it has none.
        environment: additional environment variables.
        needs_code: whether it starts only after the code server answers.
    """

    command: list[str]
    page: Page | None = None
    environment: Mapping[str, str] = field(default_factory=dict)
    needs_code: bool = False


def parts_of(chosen: Settings, folder: Path) -> dict[str, Part]:
    """Return the processes of `make up`, by name.

    Dagster's three parts are those of `dagster dev`, without its own process of 100 MB that only waits for them.

    Args:
        chosen: the settings of the deployment.
        folder: holds the code server's socket and the workspace file that names it.
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
        # `mlflow server` runs the same server below a process of 200 MB that only waits, and starts seven workers for
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
    """Write the workspace file that points Dagster's webserver and daemon at the code server."""
    server = {"socket": str(socket_in(folder)), "location_name": LOCATION}
    (folder / "workspace.yaml").write_text(json.dumps({"load_from": [{"grpc_server": server}]}))


def port_faults(parts: Mapping[str, Part]) -> list[str]:
    """Return a sentence about each port that cannot be used."""
    faults = []
    users: dict[int, list[Page]] = defaultdict(list)
    for page in pages_of(parts).values():
        users[page.port].append(page)
    for port, pages in users.items():
        if len(pages) > 1:
            variables = " and ".join(sorted(page.variable for page in pages))
            faults.append(f"{variables} are both {port}; each needs its own port")
        elif fault := port_fault(pages[0].host, port):
            faults.append(f"port {port} {fault}; set {pages[0].variable} to a free one")
    return faults


def pages_of(parts: Mapping[str, Part]) -> dict[str, Page]:
    """Return the page of each part that has one."""
    return {name: part.page for name, part in parts.items() if part.page is not None}


def up(chosen: Settings) -> int:
    """Run the parts until Ctrl-C or until one exits, then stop the rest. A code server that exits is restarted.

    Returns:
        0 after Ctrl-C, 1 when a part failed, 2 when a port cannot be used and nothing was started.
    """
    stopping = threading.Event()

    def request_stop(_number: int, _frame: FrameType | None) -> None:
        stopping.set()

    with contextlib.ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="btc_assets_up_")))
        parts = parts_of(chosen, folder)
        if faults := port_faults(parts):
            print(f"==> {'; '.join(faults)}", file=sys.stderr, flush=True)
            return 2
        for number in (signal.SIGINT, signal.SIGTERM):
            signal.signal(number, request_stop)
        if signal.getsignal(signal.SIGHUP) is not signal.SIG_IGN:  # `nohup` ignores the end of the terminal
            signal.signal(signal.SIGHUP, request_stop)
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
            if name != CODE:  # stopped last: the webserver and the daemon use it until they exit
                interrupt(process)  # signal all first; leaving the `with` block waits for each
    print("==> stopped", flush=True)
    return int(failed)


def _announce(
    pages: Mapping[str, Page], processes: Mapping[str, subprocess.Popen[bytes]], stopping: threading.Event
) -> None:
    """Print the address of each page once it answers.

    Raises:
        ProcessError: a part exited before it answered.
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
    """Wait until `stopping` is set; restart the code server when it exits, as `dagster dev` does.

    Raises:
        ProcessError: another part exited, or the code server keeps exiting.
    """
    restarts: list[float] = []
    while not stopping.wait(0.5):
        if processes[CODE].poll() is not None:
            restarts = [at for at in restarts if at > time.monotonic() - 60] + [time.monotonic()]
            if len(restarts) > MOST_RESTARTS:
                raise ProcessError(f"{CODE} exited {len(restarts)} times within a minute")
            print(f"==> {CODE} exited; restarting it", file=sys.stderr, flush=True)
            start(CODE)
        for name, process in processes.items():
            if name != CODE and process.poll() is not None:
                raise ProcessError(f"{name} exited with status {process.returncode}")
