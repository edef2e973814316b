"""What `make demo` costs after the install, in a data folder of its own.

python -m benchmarks.demo
"""

from __future__ import annotations

import os
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from benchmarks.history import Cost
from btc_assets.settings import PROJECT_ROOT

MOST_WALL_S = 90
"""What it may take on two idle cores."""


def run() -> Cost:
    """Run the demo once, and return what it and its processes took."""
    with tempfile.TemporaryDirectory() as scratch:
        environment = {name: value for name, value in os.environ.items() if not name.startswith("BTC_")} | {
            "DAGSTER_HOME": str(PROJECT_ROOT),
            "BTC_DATA_DIR": str(Path(scratch) / "data"),
        }
        before, began = resource.getrusage(resource.RUSAGE_CHILDREN), time.perf_counter()
        answer = subprocess.run(
            [sys.executable, "-m", "btc_assets", "demo"],
            env=environment,
            cwd=PROJECT_ROOT,
            capture_output=True,
            text=True,
            check=False,
        )
        wall = time.perf_counter() - began
    if answer.returncode:
        raise SystemExit(f"the demo failed: {(answer.stdout + answer.stderr)[-3000:]}")
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    return Cost(after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime, wall)


def main() -> None:
    """Print what it took."""
    cost = run()
    print(f"make demo after the install: {cost.cpu_s:.1f} s of CPU, {cost.wall_s:.1f} s; at most {MOST_WALL_S} s")


if __name__ == "__main__":
    main()
