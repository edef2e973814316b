"""`make demo`, once for real on a small window, and step by step where a step breaks."""

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
SHORT = """
import sys
from btc_assets.cli import demo
demo.WEEKS = 2
from btc_assets.cli.main import main
sys.exit(main(["demo"]))
"""
"""The demo with fewer cutoffs, and nothing else changed."""
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
class Shown:
    """The demo, run in a place of its own.

    Attributes:
        environment: what it ran in.
        data: its data folder.
        said: what it printed.
        log: what it told besides.
    """

    environment: Mapping[str, str]
    data: Path
    said: str
    log: str

    @property
    def address(self) -> str:
        """Where it asked for the forecast."""
        asked = re.search(r"^\$ curl (\S+)$", self.said, re.MULTILINE)
        assert asked is not None, self.said + self.log
        return asked[1]

    @property
    def forecast(self) -> dict[str, Any]:
        """The forecast it printed."""
        _, _, printed = self.said.partition(f"$ curl {self.address}\n")
        return dict(json.JSONDecoder().raw_decode(printed)[0])


@pytest.fixture(scope="module")
def shown(tmp_path_factory: pytest.TempPathFactory) -> Shown:
    folder = tmp_path_factory.mktemp("demo")
    environment = {name: value for name, value in os.environ.items() if not name.startswith("BTC_")} | {
        "ALL_PROXY": "socks5://127.0.0.1:9",  # our own server is asked whatever the environment says
        "NO_PROXY": "fd00::/8",
        **SMALL,
        "DAGSTER_HOME": str(PROJECT_ROOT),
        "PYTHONPATH": str(PROJECT_ROOT),
        "BTC_DATA_DIR": str(folder / "data"),
        "BTC_SERVE_PORT": str(free_port(LOOPBACK, 0)),
    }

    done = subprocess.run(
        [sys.executable, "-c", SHORT], env=environment, cwd=PROJECT_ROOT, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return Shown(environment, folder / "data", done.stdout, done.stderr)


def _but_for_the_time(forecast: Mapping[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in forecast.items() if name not in ("age_seconds", "note")}


@pytest.mark.slow
def test_the_forecast_it_prints_is_the_one_http_answers(shown: Shown) -> None:
    port = free_port(LOOPBACK, 0)
    environment = {**shown.environment, "BTC_SERVE_PORT": str(port)}
    with running([sys.executable, "-m", "serve"], environment=environment, log=subprocess.DEVNULL) as server:
        wait_for_port(server, LOOPBACK, port, seconds=WATCHDOG_S)
        answer = httpx.get(f"http://{LOOPBACK}:{port}/v1/forecast", timeout=30).raise_for_status().json()
    printed = shown.forecast
    assert _but_for_the_time(printed) == _but_for_the_time(answer)
    assert [horizon["horizon_hours"] for horizon in printed["horizons"]] == [1, 4, 24]
    assert printed["stale"]
    assert printed["made_at"].startswith("2019-10-01T00:00:00")


@pytest.mark.slow
def test_it_prints_how_good_the_forecasts_were_before_it_prints_one(shown: Shown) -> None:
    table, forecast = shown.said.index("| champion | 1 h |"), shown.said.index("$ curl ")
    assert table < forecast
    assert "| newest | 24 h |" in shown.said


@pytest.mark.slow
def test_it_leaves_nothing_running(shown: Shown) -> None:
    with socket.socket() as probe:
        assert probe.connect_ex((LOOPBACK, httpx.URL(shown.address).port or 0)) != 0
    mark = f"BTC_DATA_DIR={shown.data}".encode()
    assert [place.name for place in Path("/proc").glob("[0-9]*") if mark in _environment_of(place)] == []


def _environment_of(process: Path) -> bytes:
    try:
        return (process / "environ").read_bytes()
    except OSError:  # it has ended meanwhile
        return b""


# --- where a step breaks -----------------------------------------------------------------------------
@pytest.fixture
def config(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Settings:
    """A deployment in which nothing was made yet; what the demo starts reads the same settings."""
    monkeypatch.setenv("BTC_DATA_DIR", str(tmp_path))
    monkeypatch.setenv("PYTHONPATH", str(PROJECT_ROOT))
    monkeypatch.setenv("BTC_SERVE_PORT", str(free_port(LOOPBACK, 0)))
    return Settings()


def _listens(config: Settings) -> bool:
    with socket.socket() as probe:
        return probe.connect_ex((LOOPBACK, config.serve_port)) == 0


def test_a_server_without_a_forecast_fails_the_demo_and_is_stopped(config: Settings) -> None:
    with pytest.raises(httpx.HTTPStatusError, match="503"):
        demo._forecast_over_http(config)
    assert not _listens(config)


def test_a_server_that_does_not_come_up_fails_the_demo_at_once(
    config: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("BTC_SERVE_HOST", "the.moon")
    with pytest.raises(ProcessError, match="before it listened"):
        demo._forecast_over_http(config)
    assert "BTC_SERVE_HOST" in (config.serving_dir.parent / "demo_server.log").read_text()


def test_a_taken_port_does_not_stop_the_demo_nor_answer_for_it(config: Settings) -> None:
    with socket.socket() as other:
        other.bind((LOOPBACK, config.serve_port))
        other.listen()
        with pytest.raises(httpx.HTTPStatusError) as answered:
            demo._forecast_over_http(config)
    assert answered.value.request.url.port != config.serve_port


def test_a_second_run_continues_where_the_first_one_ended(config: Settings, monkeypatch: pytest.MonkeyPatch) -> None:
    """It asks for the same walk, which makes nothing twice; see `automation/test_walk_forward.py`."""
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
