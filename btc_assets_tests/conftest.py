"""Shared builders: frames of bars, what workers make once for all, waits, and the real data where it is at hand."""

from __future__ import annotations

import fcntl
import gc
import os
import resource
import shutil
import subprocess
import time
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import anyio._backends._asyncio  # noqa: F401 - pytest rewrites it, which CPython 3.11 may fail to do in a thread
import dagster as dg
import numpy as np
import polars as pl
import pytest

from btc_assets.market.tables import PRICES
from btc_assets.paths import sqlite_url
from btc_assets.settings import PROJECT_ROOT

SHARED_DATA = PROJECT_ROOT.parent / "shared" / "data"
WATCHDOG_S = 1_500.0
"""What takes longer hangs, on the slowest machine. No claim: tests wait for events, and this ends a wait in vain."""
SLOW_CPU_S = 4.0
"""CPU seconds, set-up and children included, from which a test must be marked: the mark's two, and room for imports."""
TOGETHER = ("faults", "learning", "serve")
"""Folders whose tests run in one worker."""
UNMARKED = "cpu_s_without_a_mark"
CPU_BEFORE = pytest.StashKey[float]()


# --- the run ----------------------------------------------------------------------------------------
def pytest_configure() -> None:
    """Choose how many examples a law is tried on that names no number; HYPOTHESIS_PROFILE=night looks longer."""
    from hypothesis import settings

    settings.register_profile("test", max_examples=40)
    settings.register_profile("night", max_examples=1_000)
    settings.load_profile(os.environ.get("HYPOTHESIS_PROFILE", "test"))


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Begin with the modules that take longest, so that no worker is left with one at the end."""
    rank = {item.path: 2 for item in items}
    for item in items:
        own = 0 if item.get_closest_marker("live") else 1 if item.get_closest_marker("slow") else 2
        rank[item.path] = min(rank[item.path], own)
    items.sort(key=lambda item: rank[item.path])


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> Any:
    """Give a module's tests to one worker, and the whole folder's where they share seconds of imports and fixtures."""
    from xdist.scheduler import LoadScopeScheduling

    class Scheduling(LoadScopeScheduling):
        def _split_scope(self, nodeid: str) -> str:
            module = nodeid.partition("::")[0]
            folder = module.rpartition("/")[0]
            return folder if folder.removeprefix("btc_assets_tests/") in TOGETHER else module

    return Scheduling(config, log)


def pytest_collection_finish() -> None:
    """Collect garbage seldom, and walk what a full collection has kept, the imports, no second time."""
    gc.set_threshold(50_000, 20, 20)
    gc.callbacks.append(_set_aside)
    gc.collect()


def _set_aside(phase: str, info: dict[str, int]) -> None:
    if phase == "stop" and info["generation"] == 2:
        gc.freeze()


@pytest.hookimpl(tryfirst=True)
def pytest_runtest_protocol(item: pytest.Item) -> None:
    item.stash[CPU_BEFORE] = _cpu_s()


@pytest.hookimpl(tryfirst=True)
def pytest_runtest_makereport(item: pytest.Item, call: pytest.CallInfo[None]) -> None:
    """Note what a test without a mark took where that is too much for the inner loop."""
    took = _cpu_s() - item.stash[CPU_BEFORE]
    if (
        call.when == "teardown"
        and took > SLOW_CPU_S
        and not {"slow", "live"} & {mark.name for mark in item.iter_markers()}
    ):
        item.user_properties.append((UNMARKED, took))


def pytest_terminal_summary(terminalreporter: Any) -> None:
    reports = [report for reports in terminalreporter.stats.values() for report in reports]
    for nodeid, name, took in sorted(
        (report.nodeid, *noted) for report in reports for noted in getattr(report, "user_properties", ())
    ):
        if name == UNMARKED:
            terminalreporter.write_line(f"Mark {nodeid} as slow, or make it lighter: it took {took:.1f} s of CPU.")


def _cpu_s() -> float:
    own, children = resource.getrusage(resource.RUSAGE_SELF), resource.getrusage(resource.RUSAGE_CHILDREN)
    return own.ru_utime + own.ru_stime + children.ru_utime + children.ru_stime


def wait_until(holds: Callable[[], bool], log: Path, *processes: subprocess.Popen[bytes]) -> None:
    """Wait until something holds, however slow the machine is; fail at once when a process it needs has ended.

    Args:
        holds: asked ten times a second.
        log: whose last lines a failure shows.
        processes: that must live until then.
    """
    give_up = time.monotonic() + WATCHDOG_S
    while not holds():
        for process in processes:
            assert process.poll() is None, f"{process.args!r} ended\n{log.read_text()[-4000:]}"
        assert time.monotonic() < give_up, f"it hangs\n{log.read_text()[-4000:]}"
        time.sleep(0.1)


@pytest.fixture(scope="session")
def made_once(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str, Callable[[Path], None]], Path]:
    """Return what makes a folder once for all workers of a run, which then only read from it.

    The first worker that asks for a name fills the folder; the others wait for it.
    """
    root = tmp_path_factory.getbasetemp()
    shared = root.parent if "PYTEST_XDIST_WORKER" in os.environ else root

    def make(name: str, fill: Callable[[Path], None]) -> Path:
        folder, whole = shared / name, shared / f"{name}.whole"
        with (shared / f"{name}.lock").open("w") as lock:
            fcntl.lockf(lock, fcntl.LOCK_EX)
            if not whole.exists():
                shutil.rmtree(folder, ignore_errors=True)
                folder.mkdir()
                fill(folder)
                whole.touch()
        return folder

    return make


@pytest.fixture(scope="session")
def empty_registry(made_once: Callable[[str, Callable[[Path], None]], Path]) -> Callable[[Path], None]:
    """Return what puts MLflow's empty database at a path: its 40 migrations run once for all tests, in 3 s of CPU."""

    def migrate(folder: Path) -> None:
        from mlflow import MlflowClient

        MlflowClient(tracking_uri=sqlite_url(folder / "mlflow.db")).search_experiments()

    def put(database: Path) -> None:
        database.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(made_once("registry", migrate) / "mlflow.db", database)

    return put


@pytest.fixture(scope="session")
def _instance() -> Iterator[dg.DagsterInstance]:
    with dg.DagsterInstance.ephemeral() as made:
        yield made


@pytest.fixture
def instance(_instance: dg.DagsterInstance) -> dg.DagsterInstance:
    """Return an empty Dagster instance in memory; all tests use the same, as making one costs more than most tests."""
    _instance.wipe()
    return _instance


# --- data -------------------------------------------------------------------------------------------


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """Return the folder of real market data, or skip the test where it is absent."""
    if not SHARED_DATA.is_dir():
        pytest.skip("needs the real market data, which is not part of the project")
    return SHARED_DATA


def random_walk_bars(
    hours: int, *, seed: int = 7, start: datetime = datetime(2018, 1, 1, tzinfo=UTC), flow: bool = True
) -> pl.DataFrame:
    """Return `hours` synthetic hourly bars of a driftless random walk, as a PRICES frame.

    Nothing about the next bar can be known from the earlier ones.
    """
    rng = np.random.default_rng(seed)
    returns = rng.normal(0, 0.006, hours)
    close = 10_000 * np.exp(np.cumsum(returns))
    open_ = np.concatenate([[10_000.0], close[:-1]])
    wick = np.abs(rng.normal(0, 0.002, (2, hours)))
    volume = rng.lognormal(6, 0.6, hours)
    trades = rng.poisson(20_000, hours)
    share = rng.beta(20, 20, hours)
    quote = volume * (open_ + close) / 2
    frame = pl.DataFrame(
        {
            "open_time": pl.datetime_range(
                start, start + (hours - 1) * np.timedelta64(1, "h").astype(object), "1h", eager=True, time_unit="us"
            ),
            "open": open_,
            "high": np.maximum(open_, close) * (1 + wick[0]),
            "low": np.minimum(open_, close) * (1 - wick[1]),
            "close": close,
            "volume": volume,
            "quote_volume": quote if flow else None,
            "trades": trades if flow else None,
            "taker_buy_volume": volume * share if flow else None,
            "taker_buy_quote_volume": quote * share if flow else None,
            "venue": ["synthetic"] * hours,
        }
    )
    return frame.cast(PRICES.columns)


@pytest.fixture
def bars() -> pl.DataFrame:
    """Return 90 days of synthetic bars."""
    return random_walk_bars(90 * 24)
