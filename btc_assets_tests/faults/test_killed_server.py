"""The forecast server and the publisher, killed: whoever asks gets whole answers of one published bundle."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import httpx
import pytest

from btc_assets.processes import free_port, running, wait_for_port
from btc_assets.published import live_manifest
from btc_assets.settings import PROJECT_ROOT
from btc_assets_tests.conftest import WATCHDOG_S, wait_until
from btc_assets_tests.faults import tasks
from btc_assets_tests.faults.conftest import Forge
from btc_assets_tests.serving.builders import FEATURE_NAMES
from btc_assets_tests.serving.test_publish import KILLER

pytestmark = pytest.mark.slow
LOOPBACK = "127.0.0.1"
ROW = dict.fromkeys(FEATURE_NAMES, 0.1)
DIES = """
import os, signal
from serve import state

load, opened = state.ForecastModel.load, 0

def load_and_die(folder):
    global opened
    opened += 1
    loaded = load(folder)
    if opened == 2:
        os.kill(os.getpid(), signal.SIGKILL)
    return loaded

state.ForecastModel.load = load_and_die
from serve.__main__ import main
main()
"""
"""A server that dies while it loads its second bundle: the model is read, the tables are not."""


@dataclass(frozen=True)
class Deployment:
    """A published folder and what to make it with."""

    data: Path
    models: Path

    @property
    def serving(self) -> Path:
        return self.data / "serving"

    @property
    def live(self) -> str:
        manifest = live_manifest(self.serving)
        assert manifest is not None
        return str(manifest["bundle_id"])

    @contextlib.contextmanager
    def server(self, *command: str) -> Iterator[tuple[subprocess.Popen[bytes], str]]:
        """Run a server until the block ends; give its process and address."""
        port = free_port(LOOPBACK, 0)
        environment = {"BTC_DATA_DIR": str(self.data), "BTC_SERVE_PORT": str(port), "PYTHONPATH": str(PROJECT_ROOT)}
        with (
            (self.data / "server.log").open("ab") as log,
            running([sys.executable, *command], environment=environment, log=log.fileno()) as process,
        ):
            wait_for_port(process, LOOPBACK, port, seconds=WATCHDOG_S)
            yield process, f"http://{LOOPBACK}:{port}"


@pytest.fixture(scope="module")
def deployment(forge: Forge, tmp_path_factory: pytest.TempPathFactory) -> Deployment:
    root = tmp_path_factory.mktemp("published")
    made = Deployment(root / "data", root / "models")
    made.serving.mkdir(parents=True)
    forge.succeed(tasks.publish_hour, made.serving, made.models, 0)
    return made


def answers(client: httpx.Client) -> list[tuple[int, str]]:
    """Ask everything once; return each answer's status and the bundle or the model it is from."""
    forecast = client.get("/v1/forecast")
    predicted = client.post("/v1/predict", json=ROW)
    past = client.get("/v1/forecasts", params={"limit": 3})
    assert past.status_code != 200 or len(past.json()["forecasts"]) == 3
    return [
        (forecast.status_code, forecast.json().get("bundle_id", "")),
        (predicted.status_code, ""),
        (past.status_code, ""),
    ]


def test_a_server_killed_within_a_swap_serves_the_new_bundle_when_it_is_started_again(
    deployment: Deployment, forge: Forge
) -> None:
    """Shown by what a real server answers before, and after it was started again.

    The server dies by SIGKILL when it has read the new bundle's model and not yet its tables; until then it answers
    from the old bundle, which is what it was started with. Started again it answers every question from the new
    one, to which the pointer had moved.
    """
    old = deployment.live
    with deployment.server("-c", DIES) as (process, url):
        with httpx.Client(base_url=url, timeout=WATCHDOG_S) as client:
            assert {answer for answer in answers(client) if answer[1]} == {(200, old)}
        forge.succeed(tasks.publish_hour, deployment.serving, deployment.models, 1)
        assert process.wait(WATCHDOG_S) == -signal.SIGKILL
    new = deployment.live
    assert new != old
    with deployment.server("-m", "serve") as (_, url), httpx.Client(base_url=url, timeout=WATCHDOG_S) as client:
        assert [status for status, _ in answers(client)] == [200] * 3
        assert {bundle for _, bundle in answers(client) if bundle} == {new}


def test_no_request_fails_while_publishers_are_killed_at_every_step(deployment: Deployment, tmp_path: Path) -> None:
    """Shown by the status and the bundle of every answer.

    Publishers of ever later hours die by SIGKILL, each one step later than the one before, while a real server
    polls the folder and a client asks again and again. Every answer has status 200, and comes from a bundle that
    was live; at the end the server answers from the one that was published whole.
    """
    killer = tmp_path / "killer.py"
    killer.write_text(KILLER)
    begun = deployment.live
    asked: list[tuple[int, str]] = []
    stop = threading.Event()

    def ask(url: str) -> None:
        # A connection a request: one that is kept is closed by the server where a busy machine leaves it idle.
        with httpx.Client(base_url=url, timeout=WATCHDOG_S, headers={"Connection": "close"}) as client:
            while not stop.wait(0.03):
                asked.extend(answers(client))

    with deployment.server("-m", "serve") as (process, url), ThreadPoolExecutor() as pool:
        asking = pool.submit(ask, url)
        try:
            done = subprocess.run(
                [sys.executable, "-W", "ignore", killer, deployment.serving, deployment.models],
                env={"PYTHONPATH": str(PROJECT_ROOT), "PATH": os.environ["PATH"]},
                capture_output=True,
                text=True,
                check=True,
            )
            last = deployment.live
            wait_until(
                lambda: next((bundle for _, bundle in reversed(asked[:]) if bundle), "") == last,
                deployment.data / "server.log",
                process,
            )
        finally:
            stop.set()
        asking.result()
    lived = {line.split()[0] for line in done.stdout.splitlines()}
    assert len(done.stdout.splitlines()) > 25  # killed at that many steps
    assert {status for status, _ in asked} == {200}
    assert {bundle for _, bundle in asked if bundle} <= lived | {begun}
    assert len(asked) > 50
