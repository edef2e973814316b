"""Every benchmark in one run, as one table: `python -m benchmarks` (or `make bench`).

Both sides of a ratio are measured in this run on this machine; no earlier measurement is used.
"""

from __future__ import annotations

import argparse
import os
import platform
import sys
from collections.abc import Sequence
from importlib.metadata import version

from benchmarks import demo, features, history, load, predict, sentiment
from btc_assets.markdown import markdown_rows

Row = tuple[str, str, str, str, str]
PEERS = ("pandas-ta-classic", "mlflow", "dagster", "transformers")
HEADINGS: Row = ("what", "ours", "compared with", "ratio", "alone")


def rows() -> list[Row]:
    """Run each benchmark once; return the rows of the table."""
    return [*_features(), *_predict(), *_history(), *_load(), *_sentiment(), *_demo()]


def _features() -> list[Row]:
    _say("features of eight years of bars")
    return [
        (
            f"(a) {what}",
            f"{ours:.3f}",
            f"{features.PEER} {theirs:.3f}",
            f"{theirs / ours:.1f} x as fast",
            "python -m benchmarks.features",
        )
        for what, ours, theirs in features.run()
    ]


def _predict() -> list[Row]:
    _say("/v1/predict under load")
    try:
        served = predict.run()
    except predict.MissingWrkError as error:
        _say(f"skipped. {error}")
        return []
    return [
        (
            f"(b) /v1/predict, {mine.connections} connections, requests/s (CPU ms each)",
            f"{mine.requests_per_s:,.0f} ({mine.cpu_ms:.2f})",
            f"{server}: {other.requests_per_s:,.0f} ({other.cpu_ms:.2f})",
            f"{mine.requests_per_s / other.requests_per_s:.1f} x, CPU 1/{other.cpu_ms / mine.cpu_ms:.1f}",
            "python -m benchmarks.predict",
        )
        for server, measurements in served.items()
        if server != "serve"
        for mine, other in zip(served["serve"], measurements, strict=True)
    ]


def _history() -> list[Row]:
    _say("tick and backfill against the length of history")
    measured = history.run()
    few, many = history.YEARS
    return [
        (
            f"(c) {name}, {many} years of history, CPU s (wall s)",
            f"{measured[many][key].cpu_s:.2f} ({measured[many][key].wall_s:.2f})",
            f"{few} year of history {measured[few][key].cpu_s:.2f} ({measured[few][key].wall_s:.2f})",
            f"{measured[many][key].cpu_s / measured[few][key].cpu_s:.2f}",
            "python -m benchmarks.history",
        )
        for name, key in (
            ("hourly tick", "tick"),
            ("backfill of all bars", "bars"),
            ("backfill of all features and labels", "features"),
        )
    ]


def _demo() -> list[Row]:
    _say("make demo after the install")
    cost = demo.run()
    return [
        (
            "(f) make demo after the install, wall s (CPU s)",
            f"{cost.wall_s:.0f} ({cost.cpu_s:.0f})",
            f"at most {demo.MAX_WALL_S}",
            f"{cost.wall_s / demo.MAX_WALL_S:.2f}",
            "python -m benchmarks.demo",
        )
    ]


def _load() -> list[Row]:
    _say("load of the code location")
    loaded, bare = load.run()
    what, baseline, ratio = "(d) load of the code location, s", f"import dagster {bare:.2f}", f"{loaded / bare:.2f}"
    return [(what, f"{loaded:.2f}", baseline, ratio, "python -m benchmarks.load")]


def _sentiment() -> list[Row]:
    _say("sentiment of headlines")
    peer, *sides = sentiment.run()
    baseline = f"{sentiment.PEER}, one text at a time {peer.texts_per_s:.1f} ({peer.peak_mib:,.0f})"
    return [
        (
            f"(e) headlines/s, {side.name} (peak MiB)",
            f"{side.texts_per_s:.1f} ({side.peak_mib:,.0f})",
            baseline,
            f"{side.texts_per_s / peer.texts_per_s:.1f} x, |dp| {side.difference:.0e}",
            "python -m benchmarks.sentiment",
        )
        for side in sides
    ]


def main(arguments: Sequence[str] | None = None) -> None:
    """Run all benchmarks and print the table of ratios."""
    description, _, notes = (__doc__ or "").partition("\n\n")
    argparse.ArgumentParser(prog="python -m benchmarks", description=description, epilog=notes).parse_args(arguments)
    table = rows()
    peers = ", ".join(f"{peer} {version(peer)}" for peer in PEERS)
    print(f"\npython -m benchmarks: both sides of each line measured in this run on {os.cpu_count()} cores")
    print(f"Python {platform.python_version()}, {peers}\n")
    print(markdown_rows(HEADINGS, table))


def _say(what: str) -> None:
    print(f"==> {what}", file=sys.stderr, flush=True)


if __name__ == "__main__":
    main()
