"""The cost of history: a backfill of bars and features, and an hourly tick, with eight years compared with one.

    python -m benchmarks.history

Each length has a separate deployment on repeated copies of the embedded sample's bars: a lake, a Dagster instance and a
champion trained on 240 days. A backfill is one Dagster run, including lineage, checks and storage. A tick processes a
newly closed bar: prices of the newest day, features, labels, forecasts, outcomes and the bundle, in one run in a new
process as the daemon starts it, including imports.

Figures are CPU seconds (user and system) and wall seconds.
"""

from __future__ import annotations

import json
import os
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from datetime import timedelta
from pathlib import Path

from btc_assets.settings import PROJECT_ROOT, SAMPLE_END, SAMPLE_START

YEARS = (1, 8)
TICKS = 3
NEWEST = SAMPLE_END - timedelta(days=1)
BACKFILLS = {"bars": "refresh_prices", "features": "build_features"}
TICK = "refresh_forecast"
"""The job of a tick: from the closed bar to the bundle."""
_CHAMPION = {
    "BTC_TRAIN_DAYS": "240",
    "BTC_CV_FOLDS": "2",
    "BTC_CV_TEST_DAYS": "28",
    "BTC_TUNE_TRIALS": "0",
    "BTC_FEATURE_SET": "streamlined",
}
"""Settings of a model that is trained quickly."""


@dataclass(frozen=True)
class Cost:
    """CPU and wall time of a step.

    Attributes:
        cpu_s: user and system CPU time, seconds.
        wall_s: wall time, seconds.
    """

    cpu_s: float
    wall_s: float


def run() -> dict[int, dict[str, Cost]]:
    """Return the cost of `bars`, `features` and a `tick` by years of history."""
    return {years: _measure(365 * years) for years in YEARS}


def _measure(days: int) -> dict[str, Cost]:
    with tempfile.TemporaryDirectory() as scratch:
        bars = Path(scratch) / "bars.parquet"
        _write_bars(bars, days)
        environment = {name: value for name, value in os.environ.items() if not name.startswith("BTC_")} | {
            "DAGSTER_HOME": str(PROJECT_ROOT),
            "BTC_DATA_DIR": str(Path(scratch) / "data"),
            "BTC_MARKET_SOURCE": "files",
            "BTC_MARKET_FILES": str(bars),
            "BTC_HISTORY_START": str(SAMPLE_END - timedelta(days=days)),
            "BTC_HISTORY_END": str(SAMPLE_END),
            **_CHAMPION,
        }
        printed = _run(["-m", "benchmarks.history", "--backfill", str(days)], environment)
        costs = {what: Cost(**cost) for what, cost in json.loads(printed.splitlines()[-1]).items()}
        _run(["-m", "btc_assets", "train"], environment)
        ticks = [_tick(environment) for _ in range(TICKS)]
    cpu, wall = (statistics.median(getattr(tick, name) for tick in ticks) for name in ("cpu_s", "wall_s"))
    return costs | {"tick": Cost(cpu, wall)}


def _write_bars(path: Path, days: int) -> None:
    """Write repeated copies of the sample's bars, scaled so that each copy ends at the price where the next begins."""
    import polars as pl

    from btc_assets.market.sources.sample import SAMPLE

    sample, length = pl.read_parquet(SAMPLE).sort("open_time"), (SAMPLE_END - SAMPLE_START).days
    scale = sample["open"][0] / sample["close"][-1]
    copies = [
        sample.with_columns(
            pl.col("open_time") - timedelta(days=length * back), pl.col("open", "high", "low", "close") * scale**back
        )
        for back in range(-(-days // length))
    ]
    first = SAMPLE_END - timedelta(days=days)
    pl.concat(copies).filter(pl.col("open_time").dt.date() >= first).sort("open_time").write_parquet(path)


def _tick(environment: Mapping[str, str]) -> Cost:
    """Process a closed bar in a new process; return the cost."""
    before, start = resource.getrusage(resource.RUSAGE_CHILDREN), time.perf_counter()
    _run(["-m", "benchmarks.history", "--tick"], environment)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    cpu = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    return Cost(cpu, time.perf_counter() - start)


def _run(arguments: Sequence[str], environment: Mapping[str, str]) -> str:
    """Run Python with these arguments and return its output; exit with its error output if it fails."""
    process = subprocess.run(
        [sys.executable, *arguments],
        env=dict(environment),
        cwd=PROJECT_ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    if process.returncode:
        raise SystemExit(f"{' '.join(arguments)} failed: {(process.stdout + process.stderr)[-3000:]}")
    return process.stdout


# --- inside a deployment ----------------------------------------------------------------------------
def _backfill(days: int) -> dict[str, Cost]:
    """Backfill bars and features of a number of days in this process; return the costs."""
    from btc_assets.automation.spans import Span

    tags = Span(SAMPLE_END - timedelta(days=days), NEWEST).tags
    costs = {}
    for what, job in BACKFILLS.items():
        cpu, wall = time.process_time(), time.perf_counter()
        _execute(job, tags=tags)
        costs[what] = Cost(time.process_time() - cpu, time.perf_counter() - wall)
    return costs


def _execute(job: str, *, partition: str | None = None, tags: Mapping[str, str] | None = None) -> None:
    import dagster as dg

    from btc_assets.definitions import defs

    with dg.DagsterInstance.get() as instance:
        defs.resolve_job_def(job).execute_in_process(
            instance=instance,
            partition_key=partition,
            tags=dict(tags or {}),
            run_config={"loggers": {"console": {"config": {"log_level": "ERROR"}}}},
        )


def main() -> None:
    """Print all measurements, or run a single one in a subprocess."""
    match sys.argv[1:]:
        case ["--backfill", days]:
            print(json.dumps({what: asdict(cost) for what, cost in _backfill(int(days)).items()}))
        case ["--tick"]:
            _execute(TICK, partition=str(NEWEST))
        case _:
            measured = run()
            for years, costs in measured.items():
                figures = ", ".join(
                    f"{what} {cost.cpu_s:.1f} s of CPU, {cost.wall_s:.1f} s" for what, cost in costs.items()
                )
                print(f"{years} years: {figures}")
            few, many = (measured[years] for years in YEARS)
            ratios = ", ".join(f"{what} {many[what].cpu_s / few[what].cpu_s:.2f}" for what in few)
            print(f"CPU of {YEARS[1]} years against {YEARS[0]}: {ratios} times")


if __name__ == "__main__":
    main()
