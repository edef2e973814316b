"""How long the code location takes to load, against a bare `import dagster`, in fresh processes by turns.

python -m benchmarks.load
"""

from __future__ import annotations

import subprocess
import sys
import time

REPEATS = 5


def seconds(code: str) -> float:
    """Return how long a fresh process takes that runs `code`."""
    began = time.perf_counter()
    subprocess.run([sys.executable, "-c", code], check=True, capture_output=True)
    return time.perf_counter() - began


def run() -> tuple[float, float]:
    """Return the seconds of loading the definitions, and of a bare `import dagster`: the fastest turn of each."""
    turns = [(seconds("import btc_assets.definitions"), seconds("import dagster")) for _ in range(REPEATS)]
    return min(ours for ours, _ in turns), min(bare for _, bare in turns)


def main() -> None:
    """Print the comparison."""
    ours, bare = run()
    print(f"definitions {ours:.2f} s, bare dagster {bare:.2f} s: {ours / bare:.2f} times")


if __name__ == "__main__":
    main()
