"""MLflow's database when a run dies over it, and when another process holds it."""

from __future__ import annotations

import json
import shutil
import signal
import sqlite3
from dataclasses import dataclass
from pathlib import Path

import pytest

from btc_assets_tests.faults import tasks
from btc_assets_tests.faults.conftest import Forge

pytestmark = pytest.mark.slow


@dataclass(frozen=True)
class Store:
    """MLflow's database with one model registered, and a second one logged and not registered."""

    database: Path
    second: dict[str, str]

    def copy(self, to: Path) -> Path:
        return shutil.copyfile(self.database, to)


@pytest.fixture(scope="module")
def store(made_project: Path, forge: Forge, tmp_path_factory: pytest.TempPathFactory) -> Store:
    root = tmp_path_factory.mktemp("registry")
    database = Path(shutil.copyfile(made_project / "mlflow" / "mlflow.db", root / "mlflow.db"))
    forge.succeed(tasks.log_second_model, database, root / "second.json")
    return Store(database, json.loads((root / "second.json").read_text()))


def registered(database: Path) -> list[tuple[str, str]]:
    with sqlite3.connect(database) as connection:
        return connection.execute("SELECT version, value FROM model_version_tags WHERE key = 'digest'").fetchall()


def test_a_run_killed_at_any_write_of_a_promotion_leaves_whole_versions_and_the_next_run_ends_it(
    store: Store, tmp_path: Path, forge: Forge
) -> None:
    """Shown by loading every version left, and by the next run.

    A child registers a second model and makes it champion; others do the same on copies of the database, and die by
    SIGKILL before the first, second, ... write or commit. In what each left, every version that is there can be
    loaded and has the digest it was registered with, the champion is the old model or the new whole one, and the
    next run comes to what the undisturbed one came to: version 2, champion 2, previous 1.
    """
    count = tmp_path / "count"
    forge.succeed(tasks.promote_and_die, store.copy(tmp_path / "0.db"), store.second, 0, count)
    steps = int(count.read_text())
    assert steps >= 6  # a version, its tags, two aliases, and the commits
    copies = [store.copy(tmp_path / f"{step}.db") for step in range(1, steps + 1)]
    children = [
        forge.start(tasks.promote_and_die, copy, store.second, step, count) for step, copy in enumerate(copies, 1)
    ]
    assert {forge.end(child) for child in children} == {-signal.SIGKILL}, forge.log
    assert {len(registered(copy)) for copy in copies} == {1, 2}  # some died before the version was there, some after
    forge.succeed(tasks.promote_after_all, copies, store.second)


def test_a_database_locked_for_a_while_is_waited_for_and_one_locked_for_long_is_named(
    store: Store, tmp_path: Path, forge: Forge
) -> None:
    """Shown by two children with little and with much patience.

    This process holds the write lock of the database while a child promotes the second model. With less patience
    than the lock lasts the child fails with SQLite's sentence and has registered nothing; with more it waits, and
    ends well once the lock is gone.
    """
    database = store.copy(tmp_path / "mlflow.db")
    holder = sqlite3.connect(database, isolation_level=None)
    holder.execute("BEGIN IMMEDIATE")
    assert forge.run(tasks.promote_while_locked, database, store.second, tmp_path / "hasty", 0.1) == 1
    assert "database is locked" in forge.log
    assert len(registered(database)) == 1
    patient = forge.start(tasks.promote_while_locked, database, store.second, tmp_path / "patient", 60.0)
    tasks.wait_for(tmp_path / "patient")
    patient.join(0.3)
    assert patient.is_alive(), forge.log
    holder.execute("COMMIT")
    holder.close()
    assert forge.end(patient) == 0, forge.log
    forge.succeed(tasks.promote_after_all, [database], store.second)
