"""`/v1/predict` compared with `mlflow models serve`, both on loopback, with one row per request.

    python -m benchmarks.predict [--seconds 4]

Both sides serve the same ensemble: 100 features, and for each of three horizons two xgboost members (150 trees of depth
6), two ridge members and five quantile boosters. Our server accepts named features and returns every output, validated
and conformalised. MLflow accepts a list of numbers without validation of names or conformal offsets, in two variants:
the same ensemble (a pyfunc that calls each library on one thread and takes the weighted mean), and one output only (the
native flavour, P(up) of one member and horizon), which is less work. It runs in its fastest configuration: pyfunc,
`inputs` format, `--env-manager local`, one worker, OMP_NUM_THREADS=1. The load generator is wrk
(https://github.com/wg/wrk; Debian and Ubuntu: `apt-get install wrk`, macOS: `brew install wrk`) with one thread and
keep-alive connections with one request in flight each, the same for both sides. It runs on the same machine but takes
only a few microseconds per request. CPU is the user and system time of the server's process tree, from /proc.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any

from btc_assets.markdown import markdown_rows
from btc_assets.settings import PROJECT_ROOT
from btc_assets.vocabulary import PRIMARY

if TYPE_CHECKING:
    from btc_assets.learning.families.protocol import FittedOutput

FEATURES = 100
TRAIN_ROWS = 3_000
CONNECTIONS = (1, 16, 64, 256)
WARM_UP_S = 1.0
ONE_OUTPUT = "mlflow_one_output"
ALL_OUTPUTS = "mlflow_all_outputs"


@dataclass(frozen=True)
class Measurement:
    """The measurement of one server under one load.

    Attributes:
        connections: keep-alive connections, each with one request in flight.
        requests_per_s: requests per second with status 200.
        p50_ms: median latency.
        p99_ms: 99th percentile of the latency.
        cpu_ms: CPU of the server's process tree per request.
    """

    connections: int
    requests_per_s: float
    p50_ms: float
    p99_ms: float
    cpu_ms: float


# --- the load ---------------------------------------------------------------------------------------
class MissingWrkError(RuntimeError):
    """The load generator is not installed; the message says how to install it."""


_SCRIPT = """
wrk.method = "POST"
wrk.headers["Content-Type"] = "application/json"
wrk.body = [==[{body}]==]
done = function(summary, latency)
  local errors = summary.errors
  print(string.format('{{"n": %d, "seconds": %f, "p50_ms": %f, "p99_ms": %f, "refused": %d, "broken": %d}}',
    summary.requests, summary.duration / 1e6, latency:percentile(50) / 1e3, latency:percentile(99) / 1e3,
    errors.status, errors.connect + errors.read + errors.write + errors.timeout))
end
"""


def load(port: int, path: str, body: str, connections: int, seconds: float) -> dict[str, float]:
    """Run wrk against a server; return n, seconds, p50_ms and p99_ms.

    Raises:
        RuntimeError: a request failed or had a status other than 200.
    """
    with tempfile.NamedTemporaryFile("w", suffix=".lua") as script:
        script.write(_SCRIPT.format(body=body))
        script.flush()
        command = ["wrk", "-t", "1", "-c", str(connections), "-d", f"{seconds:g}s", "--timeout", "30s"]
        command += ["--latency", "-s", script.name, f"http://127.0.0.1:{port}{path}"]
        answer = subprocess.run(command, capture_output=True, text=True, timeout=seconds + 60, check=False)
    if answer.returncode:
        raise RuntimeError(f"the load on {path} failed: {answer.stderr[-500:]}")
    found: dict[str, float] = json.loads(answer.stdout.splitlines()[-1])
    if not found["n"] or found["refused"] or found["broken"]:
        raise RuntimeError(f"requests to {path} failed: {found}")
    return found


# --- processes ----------------------------------------------------------------------------------
def process_tree(root: int) -> list[int]:
    """Return a process and all its descendants."""
    children: dict[int, list[int]] = {}
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            with contextlib.suppress(OSError):
                parent = int((entry / "stat").read_text().rpartition(")")[2].split()[1])
                children.setdefault(parent, []).append(int(entry.name))
    found = [root]
    for pid in found:
        found += children.get(pid, [])
    return found


def cpu_seconds(root: int) -> float:
    """Return the user and system CPU of a process tree, seconds."""
    ticks = 0
    for pid in process_tree(root):
        with contextlib.suppress(OSError):
            fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
            ticks += int(fields[11]) + int(fields[12])
    return ticks / os.sysconf("SC_CLK_TCK")


def settle(root: int) -> None:
    """Wait at most 10 s until a process tree is idle, so that requests of one load do not count for the next."""
    before, deadline = -1.0, time.monotonic() + 10
    while (now := cpu_seconds(root)) - before > 0.02 and time.monotonic() < deadline:
        before = now
        time.sleep(0.3)


@contextlib.contextmanager
def running(command: list[str], health: str, environment: dict[str, str], log: Path) -> Iterator[int]:
    """Run a server until the block ends; yield its process id once `health` returns 200."""
    with log.open("wb") as output:
        process = subprocess.Popen(command, env={**os.environ, **environment}, stdout=output, stderr=output)
    try:
        deadline = time.monotonic() + 120
        while True:
            with contextlib.suppress(OSError, urllib.error.URLError), urllib.request.urlopen(health, timeout=2):
                break
            if process.poll() is not None or time.monotonic() > deadline:
                raise RuntimeError(f"{command[:4]} did not start: {log.read_text()[-1000:]}")
            time.sleep(0.1)
        yield process.pid
    finally:
        for pid in reversed(process_tree(process.pid)):
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGTERM)
        try:
            process.wait(timeout=10)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


# --- both servers -------------------------------------------------------------------------------
def feature_names() -> tuple[str, ...]:
    """Return the names of the features: the regressors of the volatility model, and others."""
    regressors = [f"log_variance_{i}h" for i in range(11)]
    return ("hour_of_day", "day_of_week", *regressors, *(f"feature_{i:02d}" for i in range(FEATURES - 13)))


def prepare(folder: Path) -> list[float]:
    """Train the ensemble, publish it for our server and save it for MLflow; return one row."""
    import mlflow.xgboost
    import numpy as np
    import polars as pl

    from btc_assets.forecasting.tables import FORECAST_OUTCOMES, FORECASTS
    from btc_assets.learning.calibration import Calibration
    from btc_assets.learning.ensemble import Ensemble
    from btc_assets.learning.families.registry import family
    from btc_assets.learning.folds import Rows
    from btc_assets.learning.forecast_model import QUANTILE_NAMES, save_model
    from btc_assets.learning.members import INTERVALS, MEMBERS, SIZE
    from btc_assets.learning.sigma import CALENDAR_EFFECTS
    from btc_assets.learning.training import Trainee, fit, fit_model, scale_of
    from btc_assets.serving.publish import publish
    from btc_assets.vocabulary import HORIZONS

    rng = np.random.default_rng(7)
    names = feature_names()
    inputs = rng.normal(size=(TRAIN_ROWS, FEATURES)).astype(np.float32)
    last = datetime(2025, 1, 5, tzinfo=UTC)
    times = pl.datetime_range(last - timedelta(hours=TRAIN_ROWS - 1), last, "1h", eager=True, time_unit="us")
    rows = {h: Rows(times, inputs, 0.2 * inputs[:, 0] + rng.normal(size=TRAIN_ROWS), names) for h in HORIZONS}
    trainees = [
        Trainee(member, of, names, dict.fromkeys(HORIZONS, of.parameters()))
        for member in (*MEMBERS, INTERVALS, SIZE)
        for of in [family(member.family)]
    ]
    ensemble = Ensemble(
        tuple(member.name for member in MEMBERS), (Calibration(),) * len(MEMBERS), np.full((1, len(MEMBERS)), 0.25)
    )
    regressors = [name for name in names if "log_variance" in name]
    coefficients = {"intercept": [0.0] * 3} | {name: [0.01] * 3 for name in (*regressors, *CALENDAR_EFFECTS)}
    volatility = {"horizons": list(HORIZONS), "models": [{"name": "bars", "coefficients": coefficients}]}
    scale = scale_of(volatility)
    fitted = fit_model(
        trainees,
        rows,
        dict.fromkeys(HORIZONS, ensemble),
        {h: {"q05": -0.1, "q95": 0.1} for h in HORIZONS},
        dict.fromkeys(HORIZONS, 1.0),
        volatility,
        cutoff=datetime(2025, 1, 6, tzinfo=UTC).date(),
        feature_set="extended",
        weights="equal",
        features=[{"name": name, "unit": "fraction", "group": "price", "about": name} for name in names],
        metrics={h: {} for h in HORIZONS},
        seed=7,
        threads=2,
    )
    natives = dict(fitted.natives)
    for horizon in HORIZONS:
        outputs = fit(trainees[-2], rows[horizon], scale(rows[horizon], horizon), horizon, seed=7)
        natives |= {f"{INTERVALS.name}.{name}_{horizon}m.ubj": output.native() for name, output in outputs.items()}
    direction: Any = fit(trainees[0], rows[PRIMARY], scale(rows[PRIMARY], PRIMARY), PRIMARY, seed=7)["p_up"]
    mlflow.xgboost.save_model(direction.library, folder / ONE_OUTPUT, pip_requirements=["xgboost"])
    _save_ensemble(folder, natives, fitted.document)
    document, graphs = fitted.document, fitted.graphs
    digest = save_model(folder / "model", document, graphs)
    made_at = datetime.now(tz=UTC).replace(minute=0, second=0, microsecond=0)
    newest = [
        {
            "open_time": made_at - timedelta(hours=1),
            "horizon_minutes": horizon,
            "role": "champion",
            "made_at": made_at,
            "target_time": made_at + timedelta(minutes=horizon),
            "model_version": 1,
            "model_cutoff": datetime(2025, 1, 6, tzinfo=UTC).date(),
            "model_digest": digest,
            "close": 100_000.0,
            "p_up": 0.5,
            **{name: 0.01 * i for i, name in enumerate(QUANTILE_NAMES)},
            "sigma": 0.01,
            "expected_return_bps": 0.0,
            "abstained": "",
            "degraded": False,
            "missing_inputs": "",
            "missing_weight": 0.0,
            "fallback": False,
        }
        for horizon in HORIZONS
    ]
    tables = {
        "forecasts": pl.DataFrame(newest, schema=FORECASTS.columns),
        "forecast_outcomes": FORECAST_OUTCOMES.empty(),
    }
    facts = {"model_digest": digest, "made_at": made_at.isoformat(), "features": {}}
    publish(folder / "serving", manifest=facts, model_folder=folder / "model", tables=tables)
    return [float(value) for value in rng.normal(size=FEATURES).round(6)]


def _save_ensemble(folder: Path, natives: dict[str, bytes], document: dict[str, Any]) -> None:
    """Save a pyfunc that returns P(up) and the quantiles of every horizon for a row."""
    import mlflow.pyfunc

    class EveryOutput(mlflow.pyfunc.PythonModel):  # type: ignore[misc, name-defined, unused-ignore]
        def load_context(self, context: Any) -> None:
            from btc_assets.learning.families.registry import family

            self.document = json.loads(Path(context.artifacts["document"]).read_bytes())
            families = {member["name"]: family(member["family"]) for member in self.document["members"]}
            self.outputs: dict[str, dict[str, FittedOutput]] = {}
            for name, path in context.artifacts.items():
                member, _, output = name.partition(".")
                if output:
                    of = families.get(member, family("xgboost"))
                    loaded = of.read(Path(path).read_bytes(), FEATURES + (member == "intervals"))
                    self.outputs.setdefault(output.partition(".")[0], {})[member] = loaded

        def predict(self, context: Any, model_input: Any, params: Any = None) -> Any:  # noqa: ARG002 - names required by MLflow
            import numpy as np

            from btc_assets.learning.natives import library_p_up

            rows = np.asarray(model_input, dtype=np.float32)
            columns = []
            for output, members in self.outputs.items():
                if output.startswith("p_up"):
                    horizon = int(output.removeprefix("p_up_").removesuffix("m"))
                    columns.append(library_p_up(self.document, members, rows, np.ones(len(rows)), horizon))
                else:
                    quantile_rows = np.column_stack([rows, np.zeros(len(rows), dtype=np.float32)])
                    columns += [booster.predict(quantile_rows) for booster in members.values()]
            return np.column_stack(columns)

    artifacts = {}
    for name, content in {**natives, "document": json.dumps(document).encode()}.items():
        (folder / name).write_bytes(content)
        artifacts[name] = str(folder / name)
    mlflow.pyfunc.save_model(
        folder / ALL_OUTPUTS, python_model=EveryOutput(), artifacts=artifacts, pip_requirements=["xgboost"]
    )


def measure(pid: int, port: int, path: str, body: str, seconds: float) -> list[Measurement]:
    """Measure one server with every number of connections."""
    found = []
    load(port, path, body, 4, WARM_UP_S)
    for connections in CONNECTIONS:
        settle(pid)
        before = cpu_seconds(pid)
        result = load(port, path, body, connections, seconds)
        cpu = cpu_seconds(pid) - before
        found.append(
            Measurement(
                connections,
                result["n"] / result["seconds"],
                result["p50_ms"],
                result["p99_ms"],
                1e3 * cpu / result["n"],
            )
        )
    return found


def run(seconds: float = 4.0) -> dict[str, list[Measurement]]:
    """Measure the servers one after the other; return the measurements by server.

    Raises:
        MissingWrkError: the load generator is not installed.
    """
    if shutil.which("wrk") is None:
        raise MissingWrkError(
            "The benchmark of /v1/predict needs the load generator wrk on the PATH: apt-get install wrk (Debian, "
            "Ubuntu), brew install wrk (macOS), or https://github.com/wg/wrk."
        )
    found: dict[str, list[Measurement]] = {}
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        row = prepare(folder)
        one_thread = {"OMP_NUM_THREADS": "1"}
        names = feature_names()
        port = _free_port()
        ours = {**one_thread, "BTC_DATA_DIR": scratch, "BTC_SERVE_PORT": str(port)}
        with running(
            [sys.executable, "-m", "serve"], f"http://127.0.0.1:{port}/ready", ours, folder / "serve.log"
        ) as pid:
            found["serve"] = measure(pid, port, "/v1/predict", json.dumps(dict(zip(names, row, strict=True))), seconds)
        mlflow = Path(sys.executable).with_name("mlflow")
        theirs = {
            **one_thread,
            "PYTHONPATH": str(PROJECT_ROOT),
            "PATH": f"{mlflow.parent}:{os.environ.get('PATH', '')}",
        }
        for server, model in (("mlflow, the same ensemble", ALL_OUTPUTS), ("mlflow, 1 output only", ONE_OUTPUT)):
            port = _free_port()
            command = [str(mlflow), "models", "serve", "-m", str(folder / model), "-h", "127.0.0.1"]
            command += ["-p", str(port), "--env-manager", "local", "-w", "1"]
            with running(command, f"http://127.0.0.1:{port}/health", theirs, folder / f"{model}.log") as pid:
                found[server] = measure(pid, port, "/invocations", json.dumps({"inputs": [row]}), seconds)
    return found


def table(found: dict[str, list[Measurement]]) -> str:
    """Return the measurements as a Markdown table; the last two columns compare `serve` with that row."""
    counts = ("connections", "requests/s", "p50 ms", "p99 ms", "CPU ms", "serve: x requests/s", "serve: 1/x CPU")
    ours = {m.connections: m for m in found["serve"]}
    rows = (
        (
            server,
            m.connections,
            f"{m.requests_per_s:,.0f}",
            *(f"{ms:.2f}" for ms in (m.p50_ms, m.p99_ms, m.cpu_ms)),
            f"{ours[m.connections].requests_per_s / m.requests_per_s:.1f}",
            f"{m.cpu_ms / ours[m.connections].cpu_ms:.1f}",
        )
        for server, measurements in found.items()
        for m in measurements
    )
    return markdown_rows(("server", *counts), rows, right=counts)


def main() -> None:
    """Run the benchmark and print its table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seconds", type=float, default=4.0, help="length of each measurement")
    arguments = parser.parse_args()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # so that the servers are stopped too
    try:
        print(table(run(arguments.seconds)))
    except MissingWrkError as error:
        sys.exit(str(error))


if __name__ == "__main__":
    main()
