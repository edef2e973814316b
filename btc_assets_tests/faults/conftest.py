"""A small real project, made once, and a process with everything imported from which each run is forked."""

from __future__ import annotations

import contextlib
import multiprocessing
import os
import shutil
from collections.abc import Callable, Iterator
from multiprocessing import forkserver
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any

import pytest

from btc_assets_tests.conftest import WATCHDOG_S
from btc_assets_tests.faults import tasks

PRELOADED = [
    "btc_assets_tests.faults.tasks",
    "btc_assets.learning.training",
    "btc_assets.learning.tuning",
    "btc_assets.learning.explain",
    "btc_assets.monitoring.plots",
    "dagster_mlflow",
    "duckdb",
    "hypothesis.strategies",
    "mlflow.store.tracking.sqlalchemy_store",
    "mlflow.store.model_registry.sqlalchemy_store",
    "onnxmltools",
    "onnxruntime",
    "optuna",
    "pandera.polars",
    "polars_talib",
    "scipy.stats",
    "shap",
    "statsmodels.api",
    "xgboost",
    "btc_assets_tests.faults.warm",
]
"""What most runs import: seconds that no child has to spend again. The last one sets it aside for the collector."""


class Forge:
    """Starts children that are forked from one process with everything imported."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._children: list[BaseProcess] = []
        self._context = multiprocessing.get_context("forkserver")

    def start(self, task: Callable[..., None], *arguments: Any) -> BaseProcess:
        """Start a function of `tasks` in a child."""
        child = self._context.Process(target=_logged, args=(self._log, task, *arguments), daemon=True)
        child.start()
        self._children.append(child)
        return child

    def end(self, child: BaseProcess) -> int:
        """Wait for a child's end and return its exit status, below zero where a signal ended it."""
        child.join(WATCHDOG_S)
        assert child.exitcode is not None, f"a child hangs\n{self.log}"
        return child.exitcode

    def run(self, task: Callable[..., None], *arguments: Any) -> int:
        """Start a function of `tasks` in a child, and wait for its end."""
        return self.end(self.start(task, *arguments))

    def succeed(self, task: Callable[..., None], *arguments: Any) -> None:
        """Run a function of `tasks` in a child that must end well."""
        status = self.run(task, *arguments)
        assert status == 0, self.log

    def run_and_read(self, task: Callable[..., None], *arguments: Any) -> tuple[int, str]:
        """Run a function of `tasks` in a child; return its exit status and what it printed."""
        begin = self._log.stat().st_size if self._log.exists() else 0
        status = self.run(task, *arguments)
        return status, self._log.read_bytes()[begin:].decode(errors="replace")

    @property
    def _log(self) -> Path:
        return self._folder / "children.log"

    @property
    def log(self) -> str:
        """The newest lines of what the children said."""
        return self._log.read_text(errors="replace")[-6_000:] if self._log.exists() else ""

    def close(self) -> None:
        """End what still runs."""
        for child in self._children:
            child.kill()
            child.join()


def _logged(log: Path, task: Callable[..., None], *arguments: Any) -> None:
    """Run a task with its output in a file."""
    with log.open("ab") as output:
        os.dup2(output.fileno(), 1)
        os.dup2(output.fileno(), 2)
    task(*arguments)


@contextlib.contextmanager
def _environment(data: Path) -> Iterator[None]:
    """The environment of the small project, and no other setting."""
    before = dict(os.environ)
    kept = {name: value for name, value in before.items() if not name.startswith("BTC_")}
    try:
        os.environ.clear()
        os.environ.update(kept | tasks.SMALL | {"BTC_DATA_DIR": str(data)})
        yield
    finally:
        os.environ.clear()
        os.environ.update(before)


@pytest.fixture(scope="session")
def forge(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Forge]:
    """Return the process that runs are forked from."""
    folder = tmp_path_factory.mktemp("forge")
    made = Forge(folder)
    multiprocessing.set_forkserver_preload(PRELOADED)
    with _environment(folder / "data"):
        forkserver.ensure_running()
    yield made
    made.close()
    forkserver._forkserver._stop()


@pytest.fixture(scope="session")
def made_project(
    forge: Forge, made_once: Callable[[str, Callable[[Path], None]], Path], empty_registry: Callable[[Path], None]
) -> Path:
    """Return the data folder of the small project, every asset of it made undisturbed; tests only read from it."""

    def prepare(data: Path) -> None:
        empty_registry(data / "mlflow" / "mlflow.db")
        forge.succeed(tasks.prepare, data)

    return made_once("small_project", prepare)


@pytest.fixture(scope="module")
def project(made_project: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a copy of the small project's data folder that the tests of a module may change."""
    data = tmp_path_factory.mktemp("copy") / "data"
    shutil.copytree(made_project, data)
    return data
