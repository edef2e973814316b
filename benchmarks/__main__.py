"""Every benchmark in one run, as one table: `python -m benchmarks` (or `make bench`)."""

from __future__ import annotations

import os
import platform

from benchmarks import features, history, load, predict


def main() -> None:
    """Run all and print the table of ratios."""
    rows: list[tuple[str, str, str, str, str]] = []
    for what, ours, theirs in features.run():
        ratio = f"{theirs / ours:.1f} x as fast"
        rows.append((f"(a) {what}", f"{ours:.3f}", f"pandas-ta-classic {theirs:.3f}", ratio, "benchmarks.features"))
    served = predict.run()
    for server, measurements in served.items():
        if server == "serve":
            continue
        for mine, other in zip(served["serve"], measurements, strict=True):
            rows.append(
                (
                    f"(b) /v1/predict, {mine.connections} connections, requests/s (CPU ms each)",
                    f"{mine.requests_per_s:,.0f} ({mine.cpu_ms:.2f})",
                    f"{server}: {other.requests_per_s:,.0f} ({other.cpu_ms:.2f})",
                    f"{mine.requests_per_s / other.requests_per_s:.1f} x, CPU 1/{other.cpu_ms / mine.cpu_ms:.1f}",
                    "benchmarks.predict",
                )
            )
    short, long = (history.run()[years] for years in history.YEARS)
    for name, key in (("hourly refresh", "refresh_s"), ("backfill of all of it", "backfill_s")):
        rows.append(
            (
                f"(c) {name}, {history.YEARS[1]} years of history, s",
                f"{long[key]:.2f}",
                f"{history.YEARS[0]} year {short[key]:.2f}",
                f"{long[key] / short[key]:.2f}",
                "benchmarks.history",
            )
        )
    loaded, bare = load.run()
    what, beside, ratio = "(d) load of the code location, s", f"import dagster {bare:.2f}", f"{loaded / bare:.2f}"
    rows.append((what, f"{loaded:.2f}", beside, ratio, "benchmarks.load"))
    print(f"\n{os.cpu_count()} cores, Python {platform.python_version()}, each line measured in this run\n")
    print("| what | ours | compared with | ratio | alone: python -m |")
    print("|---|---|---|---|---|")
    for row in rows:
        print(f"| {' | '.join(row)} |")


if __name__ == "__main__":
    main()
