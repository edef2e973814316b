"""End-to-end test: a degraded champion triggers a training, and the new model is promoted and served."""

import contextlib
import json
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from datetime import UTC, date, datetime
from pathlib import Path

import httpx
import polars as pl
import pytest

from btc_assets.champion.history import holder
from btc_assets.champion.tables import MODEL_HISTORY, MODEL_VERDICT
from btc_assets.clock import midnight
from btc_assets.lake import Lake
from btc_assets.learning.forecast_model import ForecastModel, save_model
from btc_assets.learning.registry import MODEL_FOLDER, ModelRegistry
from btc_assets.partitions import key_of
from btc_assets.processes import free_port, running, wait_for_port
from btc_assets.settings import PROJECT_ROOT
from btc_assets.vocabulary import CHAMPION
from btc_assets_tests.automation.test_live import (
    DAY,
    FORECAST_DAYS,
    HOUR,
    LOOPBACK,
    Venue,
    deployment_of,
    walked_deployment,
)
from btc_assets_tests.conftest import WATCHDOG_S, wait_until

INVERTED_SLOPE = -40.0
"""Calibration slope of the degraded champion: inverted and overconfident."""

IN_DAGSTER = """
import json, sys
import dagster as dg
from btc_assets.definitions import defs

def run(job, first, last, *assets):
    tags = {"dagster/asset_partition_range_start": first, "dagster/asset_partition_range_end": last}
    with dg.DagsterInstance.get() as instance:
        defs.resolve_job_def(job).execute_in_process(
            instance=instance,
            partition_key=first if first == last else None,
            tags=None if first == last else tags,
            asset_selection=[dg.AssetKey(name.split("/")) for name in assets],
        )

for line in sys.stdin:
    run(*json.loads(line))
    print("done", flush=True)
"""
"""Runs jobs, one a line of its input, in one process."""


class Project:
    """A deployment in temporary folders with a local exchange."""

    def __init__(self, root: Path, venue: Venue, today: date) -> None:
        self.root, self.today, self.port = root, today, free_port(LOOPBACK, 0)
        self.environment = deployment_of(
            root,
            venue,
            BTC_RETRAIN_COOLDOWN_HOURS="0",
            BTC_SERVE_PORT=str(self.port),
        )
        self.lake = Lake(root=str(root / "data" / "lake"))

    @contextlib.contextmanager
    def other_process(self) -> Iterator[Callable[..., None]]:
        """Yield a function that runs a job in another process and waits for its end."""
        log = self.root / "other_process.log"
        with (
            log.open("wb") as errors,
            subprocess.Popen(
                [sys.executable, "-W", "ignore", "-c", IN_DAGSTER],
                env=self.environment, cwd=PROJECT_ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=errors,
            ) as process,
        ):  # fmt: skip
            assert process.stdin is not None
            assert process.stdout is not None
            requests, answers = process.stdin, process.stdout

            def run(*words: str) -> None:
                requests.write(json.dumps(words).encode() + b"\n")
                requests.flush()
                assert b"done\n" in iter(answers.readline, b""), log.read_text()[-4000:]

            yield run

    def promote_degraded(self, cutoff: date) -> int:
        """Promote a copy of the model of a cutoff with an inverted calibration; return its version."""
        mlflow = self.root / "data" / "mlflow"
        registry = ModelRegistry(tracking_uri=f"sqlite:///{mlflow}/mlflow.db", artifacts=str(mlflow / "artifacts"))
        original = registry.folder(1)
        document = json.loads((original / "model.json").read_text())
        for member in document["members"]:
            member["calibration"]["60"] = {"slope": INVERTED_SLOPE, "intercept": 0.0}
        degraded = self.root / "spoilt"
        digest = save_model(degraded, document, {name: (original / name).read_bytes() for name in document["graphs"]})
        assert ForecastModel.load(degraded).digest == digest
        run = registry.client.create_run(registry._experiment_id())
        registry.client.log_artifacts(run.info.run_id, str(degraded), MODEL_FOLDER)
        version = registry.register(run.info.run_id, digest, cutoff.isoformat())
        row = {
            "effective_from": midnight(cutoff),
            "recorded_at": datetime.now(tz=UTC),
            "role": CHAMPION,
            "event": "promoted",
            "model_version": version,
            "model_cutoff": cutoff,
            "model_digest": digest,
            "reason": "planted by a test",
            "actor": "a test",
            "verdict_cutoff": None,
        }
        self.lake.append(MODEL_HISTORY, cutoff, pl.DataFrame([row], schema=MODEL_HISTORY.columns))
        return version

    def champion(self) -> int:
        found = holder(self.lake.scan(MODEL_HISTORY).collect(), CHAMPION, midnight(self.today + DAY) - HOUR)
        assert found is not None
        return found.version


class Client:
    """Requests the forecast continuously and records the statuses and the newest version."""

    def __init__(self, port: int) -> None:
        self.statuses: set[int] = set()
        self.version = 0
        self._url, self._over = f"http://{LOOPBACK}:{port}/v1/forecast", threading.Event()
        self._thread = threading.Thread(target=self._ask, daemon=True)

    def _ask(self) -> None:
        with httpx.Client(timeout=WATCHDOG_S) as client:
            while not self._over.is_set():
                answer = client.get(self._url)
                self.statuses.add(answer.status_code)
                self.version = answer.json()["model"]["version"] if answer.status_code == 200 else 0
                time.sleep(0.1)

    def __enter__(self) -> "Client":
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._over.set()
        self._thread.join()


@pytest.mark.live
def test_a_degraded_champion_is_replaced_and_no_request_fails(
    tmp_path: Path,
    made_once: Callable[[str, Callable[[Path], None]], Path],
    empty_registry: Callable[[Path], None],
) -> None:
    until = walked_deployment(tmp_path, made_once, empty_registry)
    now = datetime.now(tz=UTC).replace(minute=0, second=0, microsecond=0)
    venue = Venue(until)
    venue.newest = now - HOUR
    today, yesterday = now.date(), (until - DAY).date()
    cutoff = (until - FORECAST_DAYS * DAY).date()
    project = Project(tmp_path, venue, today)
    forecast = ("forecasting/forecasts", "forecasting/forecast_outcomes")
    daemon = [str(Path(sys.executable).parent / "dagster-daemon"), "run", "-w", str(PROJECT_ROOT / "workspace.yaml")]
    daemon_log = tmp_path / "daemon.log"
    with project.other_process() as run:
        bad = project.promote_degraded(cutoff)
        run("forecast_days", key_of(cutoff), key_of(yesterday), *forecast)
        run("publish_bundle", key_of(yesterday), key_of(yesterday), "serving/bundle")
        with (
            (tmp_path / "serve.log").open("wb") as serve_output,
            daemon_log.open("wb") as output,
            running(
                [sys.executable, "-m", "serve"], environment=project.environment, log=serve_output.fileno()
            ) as server,
            running(daemon, environment=project.environment, log=output.fileno()) as dagster,
        ):
            wait_for_port(server, LOOPBACK, project.port, seconds=WATCHDOG_S)
            with Client(project.port) as client:
                wait_until(lambda: client.version == bad, daemon_log, server)
                planted = time.monotonic()
                report = "monitoring/performance_report"
                run("report_performance", key_of(yesterday), key_of(yesterday), report)
                wait_until(lambda: client.version not in (0, bad), daemon_log, dagster, server)
                took = time.monotonic() - planted
                print(f"from the report to the new champion served: {took:.0f} s")
            assert client.statuses == {200}, "no request failed"
    verdict = project.lake.read(MODEL_VERDICT, project.lake.days(MODEL_VERDICT)[-1])
    assert verdict is not None
    assert verdict["decision"][0] == "promoted", verdict.select("criterion", "value", "passed").rows()
    assert verdict["champion_version"][0] == bad
    assert project.champion() == client.version == verdict["candidate_version"][0]
    venue.exchange.close()
