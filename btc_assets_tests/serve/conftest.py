"""A server process on a loopback port that serves a published folder."""

from __future__ import annotations

import contextlib
import os
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

import httpx
import pytest

from btc_assets.settings import PROJECT_ROOT
from btc_assets_tests.conftest import WATCHDOG_S, wait_until
from btc_assets_tests.serving.builders import publish_small, write_model


@dataclass(frozen=True)
class Server:
    """A running server: its address, data folder, models, process id and CPU seconds until it was ready."""

    url: str
    data_dir: Path
    models: Path
    pid: int
    cpu_s_to_ready: float

    @property
    def serving_dir(self) -> Path:
        """The serving folder that it watches."""
        return self.data_dir / "serving"

    @property
    def log(self) -> Path:
        """Its log file."""
        return self.data_dir / "server.log"

    def wait_for(self, bundle_id: str) -> None:
        """Wait until it serves a bundle."""
        url = f"{self.url}/ready"
        wait_until(lambda: httpx.get(url, timeout=WATCHDOG_S).json().get("bundle_id") == bundle_id, self.log)


def this_hour() -> datetime:
    """Return the start of the current hour, UTC: the time of the newest forecast."""
    return datetime.now(tz=UTC).replace(minute=0, second=0, microsecond=0)


def _cpu_s(pid: int) -> float:
    """Return the CPU seconds a process has used."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


@contextlib.contextmanager
def running_server(data_dir: Path, models: Path) -> Iterator[Server]:
    """Run `python -m serve` on a free loopback port until the block ends."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    environment = {name: value for name, value in os.environ.items() if not name.startswith("BTC_")}
    started = time.monotonic()
    with (data_dir / "server.log").open("wb") as log:
        process = subprocess.Popen(
            [sys.executable, "-m", "serve"],
            cwd=PROJECT_ROOT,
            env={**environment, "BTC_DATA_DIR": str(data_dir), "BTC_SERVE_PORT": str(port)},
            stdout=log,
            stderr=log,
        )
    url = f"http://127.0.0.1:{port}"
    try:
        while True:
            with contextlib.suppress(httpx.TransportError):
                httpx.get(f"{url}/health")
                break
            assert process.poll() is None, (data_dir / "server.log").read_text()
            assert time.monotonic() < started + WATCHDOG_S, "the server does not respond"
            time.sleep(0.01)
        yield Server(url, data_dir, models, process.pid, _cpu_s(process.pid))
    finally:
        process.terminate()
        process.wait(WATCHDOG_S)


@pytest.fixture(scope="session")
def models(made_once: Callable[[str, Callable[[Path], None]], Path]) -> Path:
    """Return a folder of two small models, shared by all workers."""

    def fill(folder: Path) -> None:
        for seed in (7, 8):
            write_model(folder / f"model-{seed}", seed=seed)

    return made_once("models", fill)


@pytest.fixture(scope="session")
def server(tmp_path_factory: pytest.TempPathFactory, models: Path) -> Iterator[Server]:
    """Run a server with a published forecast of this hour; tests must not change it."""
    data_dir = tmp_path_factory.mktemp("published")
    (data_dir / "serving").mkdir()
    publish_small(data_dir / "serving", models, made_at=this_hour())
    with running_server(data_dir, models) as running:
        yield running


@pytest.fixture(scope="session")
def client(server: Server) -> Iterator[httpx.Client]:
    """Return a client of the running server."""
    with httpx.Client(base_url=server.url, timeout=20) as http:
        yield http
