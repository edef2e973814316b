"""The time of `make demo` after the installation, in a temporary data folder.

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

MAX_WALL_S = 90
"""Maximum wall time on two idle cores, seconds."""


def run() -> Cost:
    """Run the demo once; return its cost, including its subprocesses."""
    with tempfile.TemporaryDirectory() as scratch:
        environment = {name: value for name, value in os.environ.items() if not name.startswith("BTC_")} | {
            "DAGSTER_HOME": str(PROJECT_ROOT),
            "BTC_DATA_DIR": str(Path(scratch) / "data"),
        }
        before, start = resource.getrusage(resource.RUSAGE_CHILDREN), time.perf_counter()
        process = subprocess.run(
            [sys.executable, "-m", "btc_assets", "demo"],
            env=environment,
            cwd=PROJECT_ROOT,
            capture_output=True,
            text=True,
            check=False,
        )
        wall = time.perf_counter() - start
    if process.returncode:
        raise SystemExit(f"the demo failed: {(process.stdout + process.stderr)[-3000:]}")
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    return Cost(after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime, wall)


def main() -> None:
    """Print the cost."""
    cost = run()
    print(f"make demo after the install: {cost.cpu_s:.1f} s of CPU, {cost.wall_s:.1f} s; at most {MAX_WALL_S} s")


if __name__ == "__main__":
    main()
