"""A real server on a real port, on a real published folder."""

from __future__ import annotations

import contextlib
import os
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

import httpx
import pytest

from btc_assets.settings import PROJECT_ROOT
from btc_assets_tests.serving.builders import publish_small


@dataclass(frozen=True)
class Server:
    """A running server: where it answers, what it watches, how long it took to be ready."""

    url: str
    data_dir: Path
    models: Path
    pid: int
    seconds_to_ready: float

    @property
    def serving_dir(self) -> Path:
        """The folder it watches."""
        return self.data_dir / "serving"

    def wait_for(self, bundle_id: str, *, timeout_s: float = 15) -> None:
        """Wait until it answers from a bundle."""
        give_up = time.monotonic() + timeout_s
        while httpx.get(f"{self.url}/ready").json().get("bundle_id") != bundle_id:
            assert time.monotonic() < give_up, f"the server did not load {bundle_id}"
            time.sleep(0.02)


def this_hour() -> datetime:
    """Return the hour that has just begun, UTC: when the newest forecast would have been made."""
    return datetime.now(tz=UTC).replace(minute=0, second=0, microsecond=0)


@contextlib.contextmanager
def running_server(data_dir: Path, models: Path) -> Iterator[Server]:
    """Run `python -m serve` on a free loopback port until the block ends."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    kept = {name: value for name, value in os.environ.items() if not name.startswith("BTC_")}
    started = time.monotonic()
    with (data_dir / "server.log").open("wb") as log:
        process = subprocess.Popen(
            [sys.executable, "-m", "serve"],
            cwd=PROJECT_ROOT,
            env={**kept, "BTC_DATA_DIR": str(data_dir), "BTC_SERVE_PORT": str(port)},
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
            assert time.monotonic() < started + 30, "the server did not answer within 30 s"
            time.sleep(0.01)
        yield Server(url, data_dir, models, process.pid, time.monotonic() - started)
    finally:
        process.terminate()
        process.wait(timeout=15)


@pytest.fixture(scope="session")
def models(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a folder for small models, shared by the session."""
    return tmp_path_factory.mktemp("models")


@pytest.fixture(scope="session")
def server(tmp_path_factory: pytest.TempPathFactory, models: Path) -> Iterator[Server]:
    """Return a server with a fresh forecast published; tests only read from it."""
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
