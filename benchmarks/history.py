"""What history costs: an hourly refresh, and a backfill, on eight years of bars against one.

    python -m benchmarks.history

Each length is a lake and a Dagster instance of its own in a process of its own. A refresh is the run that the sensor
asks for: features and labels of the newest day through Dagster, lineage, checks and storage included.
"""

from __future__ import annotations

import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from datetime import UTC, date, datetime, timedelta
from pathlib import Path

from btc_assets.settings import PROJECT_ROOT

YEARS = (1, 8)
REPEATS = 7
END = date(2025, 1, 1)


def measure(days: int) -> dict[str, float]:
    """Backfill and refresh a lake of so many days, in this process, whose settings name it."""
    import dagster as dg

    from btc_assets.automation.spans import Span
    from btc_assets.contracts import PRICES
    from btc_assets.definitions import defs
    from btc_assets.lake import Lake, by_day
    from btc_assets.settings import settings
    from btc_assets_tests.conftest import random_walk_bars

    first = END - timedelta(days=days)
    lake = Lake(root=settings().lake_root)
    bars = random_walk_bars(24 * days, start=datetime(first.year, first.month, first.day, tzinfo=UTC))
    for day, part in by_day(PRICES, bars, Span(first, END - timedelta(days=1)).days):
        lake.write(PRICES, day, part)
    job = defs.resolve_job_def("build_features")
    quiet = {"loggers": {"console": {"config": {"log_level": "ERROR"}}}}
    newest = str(END - timedelta(days=1))
    with dg.DagsterInstance.get() as instance:
        began = time.perf_counter()
        whole = Span(first, END - timedelta(days=1))
        job.execute_in_process(instance=instance, tags=whole.tags, run_config=quiet)
        backfill = time.perf_counter() - began
        times = []
        for _ in range(REPEATS):
            began = time.perf_counter()
            job.execute_in_process(instance=instance, partition_key=newest, run_config=quiet)
            times.append(time.perf_counter() - began)
    return {"backfill_s": backfill, "refresh_s": statistics.median(times)}


def run() -> dict[int, dict[str, float]]:
    """Return the measurements by years of history."""
    found = {}
    for years in YEARS:
        with tempfile.TemporaryDirectory() as scratch:
            days = 365 * years
            environment = {name: value for name, value in os.environ.items() if not name.startswith("BTC_")} | {
                "DAGSTER_HOME": str(PROJECT_ROOT),
                "BTC_DATA_DIR": str(Path(scratch) / "data"),
                "BTC_MARKET_SOURCE": "binance",
                "BTC_HISTORY_START": str(END - timedelta(days=days)),
                "BTC_HISTORY_END": str(END),
                "BTC_TRAIN_DAYS": "300",
            }
            command = [sys.executable, "-m", "benchmarks.history", "--measure", str(days)]
            answer = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
            if answer.returncode:
                raise SystemExit(answer.stderr[-3000:])
            found[years] = json.loads(answer.stdout.splitlines()[-1])
    return found


def main() -> None:
    """Print the measurements, or make one where asked."""
    if sys.argv[1:2] == ["--measure"]:
        print(json.dumps(measure(int(sys.argv[2]))))
        return
    measured = run()
    for years, found in measured.items():
        print(f"{years} years: refresh {found['refresh_s']:.2f} s, backfill {found['backfill_s']:.1f} s")
    few, many = (measured[years] for years in YEARS)
    ratios = ", ".join(f"{key.removesuffix('_s')} {many[key] / few[key]:.2f}" for key in few)
    print(f"{YEARS[1]} years against {YEARS[0]}: {ratios} times")


if __name__ == "__main__":
    main()
