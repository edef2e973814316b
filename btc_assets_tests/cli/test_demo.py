"""`make demo`: one real run on a small window, and failures of single steps."""

from __future__ import annotations

import json
import os
import re
import socket
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import pytest

from btc_assets.cli import demo
from btc_assets.processes import ProcessError, free_port, running, wait_for_port
from btc_assets.settings import PROJECT_ROOT, Settings
from btc_assets_tests.conftest import WATCHDOG_S

LOOPBACK = "127.0.0.1"
SMALL = {
    "BTC_HISTORY_START": "2019-06-10",
    "BTC_NEWS_SOURCES": "none",
    "BTC_TRAIN_DAYS": "60",
    "BTC_CV_FOLDS": "2",
    "BTC_CV_TEST_DAYS": "7",
    "BTC_TUNE_TRIALS": "0",
    "BTC_FEATURE_SET": "streamlined",
}


@dataclass(frozen=True)
class DemoRun:
    """One run of the demo.

    Attributes:
        environment: its environment variables.
        data: its data folder.
        stdout: what it printed.
        stderr: its log.
    """

    environment: Mapping[str, str]
    data: Path
    stdout: str
    stderr: str

    @property
    def address(self) -> str:
        """URL of its request for the forecast."""
        command = re.search(r"^\$ curl (\S+)$", self.stdout, re.MULTILINE)
        assert command is not None, self.stdout + self.stderr
        return command[1]

    @property
    def forecast(self) -> dict[str, Any]:
        """The forecast it printed."""
        _, _, printed = self.stdout.partition(f"$ curl {self.address}\n")
        return dict(json.JSONDecoder().raw_decode(printed)[0])


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> DemoRun:
    folder = tmp_path_factory.mktemp("demo")
    environment = {name: value for name, value in os.environ.items() if not name.startswith("BTC_")} | {
        "ALL_PROXY": "socks5://127.0.0.1:9",  # the demo's own server is requested directly, without a proxy
        "NO_PROXY": "fd00::/8",
        **SMALL,
        "DAGSTER_HOME": str(PROJECT_ROOT),
        "PYTHONPATH": str(PROJECT_ROOT),
        "BTC_DATA_DIR": str(folder / "data"),
        "BTC_SERVE_PORT": str(free_port(LOOPBACK, 0)),
    }

    command = [sys.executable, "-m", "btc_assets", "demo"]
    done = subprocess.run(command, env=environment, cwd=PROJECT_ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    return DemoRun(environment, folder / "data", done.stdout, done.stderr)


def _but_for_the_time(forecast: Mapping[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in forecast.items() if name not in ("age_seconds", "note")}


@pytest.mark.slow
def test_the_forecast_it_prints_is_the_one_http_answers(run: DemoRun) -> None:
    port = free_port(LOOPBACK, 0)
    environment = {**run.environment, "BTC_SERVE_PORT": str(port)}
    with running([sys.executable, "-m", "serve"], environment=environment, log=subprocess.DEVNULL) as server:
        wait_for_port(server, LOOPBACK, port, seconds=WATCHDOG_S)
        answer = httpx.get(f"http://{LOOPBACK}:{port}/v1/forecast", timeout=30).raise_for_status().json()
    printed = run.forecast
    assert _but_for_the_time(printed) == _but_for_the_time(answer)
    assert [horizon["horizon_minutes"] for horizon in printed["horizons"]] == [30, 60, 240, 1440]
    assert printed["stale"]
    assert printed["made_at"].startswith("2019-10-01T00:00:00")


@pytest.mark.slow
def test_it_prints_the_performance_before_the_forecast(run: DemoRun) -> None:
    table, forecast = run.stdout.index("| champion | 60 min |"), run.stdout.index("$ curl ")
    assert table < forecast
    assert "| newest | 24 h |" in run.stdout


@pytest.mark.slow
def test_it_leaves_nothing_running(run: DemoRun) -> None:
    with socket.socket() as probe:
        assert probe.connect_ex((LOOPBACK, httpx.URL(run.address).port or 0)) != 0
    mark = f"BTC_DATA_DIR={run.data}".encode()
    assert [place.name for place in Path("/proc").glob("[0-9]*") if mark in _environment_of(place)] == []


def _environment_of(process: Path) -> bytes:
    try:
        return (process / "environ").read_bytes()
    except OSError:  # the process has ended
        return b""


# --- failures of single steps ------------------------------------------------------------------------
@pytest.fixture
def config(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Settings:
    """An empty deployment; the processes of the demo read the same settings."""
    monkeypatch.setenv("BTC_DATA_DIR", str(tmp_path))
    monkeypatch.setenv("PYTHONPATH", str(PROJECT_ROOT))
    monkeypatch.setenv("BTC_SERVE_PORT", str(free_port(LOOPBACK, 0)))
    return Settings()


def _listens(config: Settings) -> bool:
    with socket.socket() as probe:
        return probe.connect_ex((LOOPBACK, config.serve_port)) == 0


@pytest.mark.slow
def test_a_server_without_a_forecast_fails_the_demo_and_is_stopped(config: Settings) -> None:
    with pytest.raises(httpx.HTTPStatusError, match="503"):
        demo._forecast_over_http(config)
    assert not _listens(config)


@pytest.mark.slow
def test_a_server_that_does_not_come_up_fails_the_demo_at_once(
    config: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("BTC_SERVE_HOST", "the.moon")
    with pytest.raises(ProcessError, match="before it listened"):
        demo._forecast_over_http(config)
    assert "BTC_SERVE_HOST" in (config.serving_dir.parent / "demo_server.log").read_text()


@pytest.mark.slow
def test_a_taken_port_is_replaced_by_a_free_one(config: Settings) -> None:
    with socket.socket() as other:
        other.bind((LOOPBACK, config.serve_port))
        other.listen()
        with pytest.raises(httpx.HTTPStatusError) as answered:
            demo._forecast_over_http(config)
    assert answered.value.request.url.port != config.serve_port


def test_a_second_run_continues_where_the_first_one_ended(config: Settings, monkeypatch: pytest.MonkeyPatch) -> None:
    """It requests the same walk, which repeats nothing; see `automation/test_walk_forward.py`."""
    from btc_assets.cli import walk_forward as command

    walks: list[tuple[object, ...]] = []
    monkeypatch.setattr(command, "walk_forward", lambda *days, **how: walks.append((*days, *how.items())) or 0)
    monkeypatch.setattr(demo, "_forecast_over_http", lambda _: "a forecast")
    assert [demo.demo(config), demo.demo(config)] == [0, 0]
    assert walks[0] == walks[1]
    assert ("resume", True) in walks[0]


def test_a_walk_that_fails_ends_the_demo_with_its_status(
    config: Settings, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    from btc_assets.cli import walk_forward as command

    monkeypatch.setattr(command, "walk_forward", lambda *_, **__: 7)
    monkeypatch.setattr(demo, "_forecast_over_http", lambda _: pytest.fail("there is nothing to serve"))
    assert demo.demo(config) == 7
    assert "curl" not in capsys.readouterr().out


def test_a_demo_of_another_source_than_the_sample_is_refused(capsys: pytest.CaptureFixture[str]) -> None:
    assert demo.demo(Settings(market_source="kraken")) == 2
    assert "BTC_MARKET_SOURCE is 'kraken'" in capsys.readouterr().err


def test_make_demo_is_what_these_tests_run() -> None:
    recipe = subprocess.run(
        ["make", "-n", "-o", ".venv/.installed", "demo"], cwd=PROJECT_ROOT, capture_output=True, text=True, check=True
    )
    assert ".venv/bin/python -m btc_assets demo" in recipe.stdout
