"""The table of ratios: each benchmark runs once, and each ratio is that of the two numbers in its row."""

from __future__ import annotations

import re
import subprocess
import sys

import pytest

from benchmarks import __main__ as table
from benchmarks import demo, features, history, load, predict, sentiment
from benchmarks.predict import Measurement
from btc_assets.settings import PROJECT_ROOT


@pytest.fixture
def runs(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Return the names of the executed benchmarks; each returns different values on every call."""
    made: list[str] = []

    def counted(name: str) -> int:
        made.append(name)
        return made.count(name)

    def served() -> dict[str, list[Measurement]]:
        n = counted("predict")
        return {
            "serve": [Measurement(1, 600.0 * n, 1, 2, 0.5), Measurement(16, 900.0 * n, 1, 2, 0.4)],
            "mlflow": [Measurement(1, 100.0, 1, 2, 5.0), Measurement(16, 90.0, 1, 2, 6.0)],
        }

    def aged() -> dict[int, dict[str, history.Cost]]:
        n = counted("history")
        return {
            years: {
                "tick": history.Cost(n * (1 + years / 8), 9.0),
                "bars": history.Cost(n * years * 2.0, 9.0),
                "features": history.Cost(n * years * 3.0, 9.0),
            }
            for years in history.YEARS
        }

    monkeypatch.setattr(features, "run", lambda: [("bars", 0.5 * counted("features"), 1.5)])
    monkeypatch.setattr(predict, "run", served)
    monkeypatch.setattr(history, "run", aged)

    def scored() -> list[sentiment.Side]:
        n = counted("sentiment")
        return [sentiment.Side("pipeline", 10.0, 90, 800, 0.0), sentiment.Side("onnx", 45.0 * n, 30, 1000, 1e-5)]

    monkeypatch.setattr(sentiment, "run", scored)
    monkeypatch.setattr(demo, "run", lambda: history.Cost(80.0, 45.0 * counted("demo")))
    monkeypatch.setattr(load, "run", lambda: (3.0 * counted("load"), 2.0))
    return made


def test_every_benchmark_runs_once(runs: list[str]) -> None:
    table.rows()
    assert sorted(runs) == ["demo", "features", "history", "load", "predict", "sentiment"]


def test_every_ratio_is_that_of_the_numbers_in_its_row(runs: list[str]) -> None:
    found = table.rows()
    assert runs
    assert [row[3] for row in found] == [
        "3.0 x as fast",
        "6.0 x, CPU 1/10.0",
        "10.0 x, CPU 1/15.0",
        "1.78",
        "8.00",
        "8.00",
        "1.50",
        "4.5 x, |dp| 1e-05",
        "0.50",
    ]
    for _, ours, peer, ratio, _ in found[3:7]:
        mine, other = (float(re.sub(r" \(.*", "", side).split()[-1]) for side in (ours, peer))
        assert mine / other == pytest.approx(float(ratio), abs=0.01)


def test_every_row_names_its_peer_and_its_command(runs: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    table.main([])
    assert runs
    printed = capsys.readouterr().out
    assert re.search(r"pandas-ta-classic [\d.]+, mlflow [\d.]+, dagster [\d.]+", printed)
    for peer in ("pandas-ta-classic 1.500", "mlflow: 100", "1 year of history 1.12 (9.00)", "import dagster 2.00"):
        assert f"| {peer}" in printed
    for name in ("features", "predict", "history", "load", "sentiment", "demo"):
        assert f"| python -m benchmarks.{name} |" in printed


def test_help_runs_no_benchmark() -> None:
    command = [sys.executable, "-m", "benchmarks", "--help"]
    process = subprocess.run(command, capture_output=True, text=True, check=True, cwd=PROJECT_ROOT)
    assert "one table" in process.stdout
