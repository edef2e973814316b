"""The load time of the code location compared with `import dagster`, in alternating new processes.

python -m benchmarks.load
"""

from __future__ import annotations

import subprocess
import sys
import time

REPEATS = 5


def seconds(code: str) -> float:
    """Return the wall time of a new process that runs `code`, seconds."""
    start = time.perf_counter()
    subprocess.run([sys.executable, "-c", code], check=True, capture_output=True)
    return time.perf_counter() - start


def run() -> tuple[float, float]:
    """Return the fastest load time of the definitions and of `import dagster`, seconds."""
    runs = [(seconds("import btc_assets.definitions"), seconds("import dagster")) for _ in range(REPEATS)]
    return min(ours for ours, _ in runs), min(bare for _, bare in runs)


def main() -> None:
    """Print the comparison."""
    ours, bare = run()
    print(f"definitions {ours:.2f} s, bare dagster {bare:.2f} s: {ours / bare:.2f} times")


if __name__ == "__main__":
    main()
