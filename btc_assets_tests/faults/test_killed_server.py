"""The forecast server and the publisher, killed: whoever asks gets whole answers of one published bundle."""

from __future__ import annotations

import contextlib
import itertools
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import duckdb
import httpx
import pytest

from btc_assets.learning.forecast_model import ForecastModel
from btc_assets.processes import free_port, running, wait_for_port
from btc_assets.published import live_manifest
from btc_assets.settings import PROJECT_ROOT
from btc_assets_tests.conftest import WATCHDOG_S, wait_until
from btc_assets_tests.faults import tasks
from btc_assets_tests.faults.conftest import Forge
from btc_assets_tests.serving.builders import FEATURE_NAMES

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
    def bundles(self) -> set[str]:
        """The names in the bundles folder, hidden ones included."""
        return {entry.name for entry in (self.serving / "bundles").iterdir()}

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


def published(forge: Forge, root: Path) -> Deployment:
    """Publish the forecast of hour 0 in a folder of its own."""
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


@dataclass(frozen=True)
class Killed:
    """A server killed within a swap, then publishers of ever later hours, each killed one step later than the last.

    Attributes:
        deployment: where they published; the last one was not killed.
        old: bundle that was live before the swap.
        served: every answer of the server that was killed within the swap, before it.
        server_status: how that server ended.
        restarted: every answer of the server that was started next, before a publisher was killed.
        first: bundle that was live when it was started.
        statuses: how each ended.
        live: bundle that was live after each; its model and its tables were whole.
        answers: status and bundle of everything a client got meanwhile from a real server that polls the folder.
    """

    deployment: Deployment
    old: str
    served: list[tuple[int, str]]
    server_status: int
    restarted: list[tuple[int, str]]
    first: str
    statuses: list[int]
    live: list[str]
    answers: list[tuple[int, str]]


def whole_bundle(deployment: Deployment) -> str:
    """Return the live bundle, whose model has the digest it says and whose tables have the rows it says."""
    manifest = live_manifest(deployment.serving)
    assert manifest is not None
    folder = deployment.serving / "bundles" / manifest["bundle_id"]
    assert ForecastModel.load(folder / "model").digest == manifest["model_digest"]
    with duckdb.connect(str(folder / "serving.duckdb"), read_only=True) as connection:
        for table, rows in manifest["tables"].items():
            assert connection.sql(f"SELECT count(*) FROM {table}").fetchall() == [(rows,)]
    return folder.name


@pytest.fixture(scope="module")
def killed(forge: Forge, tmp_path_factory: pytest.TempPathFactory) -> Killed:
    deployment = published(forge, tmp_path_factory.mktemp("killed"))
    old = deployment.live
    with deployment.server("-c", DIES) as (process, url):
        with httpx.Client(base_url=url, timeout=WATCHDOG_S) as client:
            served = answers(client)
        forge.succeed(tasks.publish_hour, deployment.serving, deployment.models, 1)
        server_status = process.wait(WATCHDOG_S)
    first = deployment.live
    statuses: list[int] = []
    live: list[str] = []
    received: list[tuple[int, str]] = []
    stop = threading.Event()

    def ask(url: str) -> None:
        # A connection a request: one that is kept is closed by the server where a busy machine leaves it idle.
        with httpx.Client(base_url=url, timeout=WATCHDOG_S, headers={"Connection": "close"}) as client:
            while not stop.wait(0.2):
                received.extend(answers(client))

    with deployment.server("-m", "serve") as (process, url), ThreadPoolExecutor() as pool:
        with httpx.Client(base_url=url, timeout=WATCHDOG_S) as client:
            restarted = answers(client)
        asking = pool.submit(ask, url)
        try:
            for step in itertools.count(1):
                arguments = (deployment.serving, deployment.models, step + 1, step)
                statuses.append(forge.run(tasks.publish_hour_and_die, *arguments))
                live.append(whole_bundle(deployment))
                if statuses[-1] != -signal.SIGKILL:
                    break
            wait_until(
                lambda: next((bundle for _, bundle in reversed(received[:]) if bundle), "") == live[-1],
                deployment.data / "server.log",
                process,
            )
        finally:
            stop.set()
        asking.result()
    return Killed(deployment, old, served, server_status, restarted, first, statuses, live, received)


def test_a_server_killed_within_a_swap_serves_the_new_bundle_when_it_is_started_again(killed: Killed) -> None:
    """Shown by what a real server answers before, and after it was started again.

    The server dies by SIGKILL when it has read the new bundle's model and not yet its tables; until then it answers
    from the old bundle, which is what it was started with. Started again it answers every question from the new
    one, to which the pointer had moved.
    """
    assert killed.server_status == -signal.SIGKILL
    assert killed.first != killed.old
    for received, bundle in ((killed.served, killed.old), (killed.restarted, killed.first)):
        assert [status for status, _ in received] == [200] * 3
        assert {answered for _, answered in received if answered} == {bundle}


def test_a_publisher_killed_at_any_step_leaves_a_whole_live_bundle(killed: Killed) -> None:
    """Shown by what is live after each, read as the server reads it, and by what the one that lived swept up."""
    *died, lived = killed.statuses
    assert len(died) > 25, "the publisher was killed at too few steps to prove anything"
    assert set(died) == {-signal.SIGKILL}
    assert lived == 0
    assert killed.live[0] == killed.first, "the pointer moved before anything was built"
    assert killed.live[-1] != killed.first
    hidden = [name for name in killed.deployment.bundles if name.startswith(".")]
    assert hidden == []
    assert [entry.name for entry in killed.deployment.serving.glob(".current-*")] == []
    for name in killed.deployment.bundles:
        ForecastModel.load(killed.deployment.serving / "bundles" / name / "model")


def test_no_request_fails_while_publishers_are_killed_at_every_step(killed: Killed) -> None:
    """Every answer has status 200 and comes from a bundle that was live; the last from the one published whole."""
    assert {status for status, _ in killed.answers} == {200}
    assert {bundle for _, bundle in killed.answers if bundle} <= {killed.first, *killed.live}
    assert len(killed.answers) > 50
