"""How long the code location takes to load, against a bare `import dagster`.

python -m benchmarks.load
"""

from __future__ import annotations

import subprocess
import sys
import time

REPEATS = 5


def best(code: str) -> float:
    """Return the seconds of the fastest of some fresh processes that run `code`."""
    times = []
    for _ in range(REPEATS):
        began = time.perf_counter()
        subprocess.run([sys.executable, "-c", code], check=True, capture_output=True)
        times.append(time.perf_counter() - began)
    return min(times)


def run() -> tuple[float, float]:
    """Return the seconds of loading the definitions, and of a bare `import dagster`."""
    return best("import btc_assets.definitions"), best("import dagster")


def main() -> None:
    """Print the comparison."""
    ours, bare = run()
    print(f"definitions {ours:.2f} s, bare dagster {bare:.2f} s: {ours / bare:.2f} times")


if __name__ == "__main__":
    main()
