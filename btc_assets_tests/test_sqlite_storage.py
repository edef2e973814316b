"""Persistent connections store the same normalised_tables as Dagster and handle forks, kills and replaced files."""

import os
import re
import signal
import sqlite3
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import dagster as dg
import pytest
from dagster._core.events import DagsterEvent, DagsterEventType
from dagster._core.events.log import EventLogEntry
from dagster._core.instance.ref import InstanceRef
from dagster._core.storage.event_log import SqliteEventLogStorage
from dagster._core.storage.runs import SqliteRunStorage
from sqlalchemy import event
from sqlalchemy.pool import Pool

from btc_assets.sqlite_storage import MAX_IDLE_SHARDS, EventLog, RunStorage

DAYS = dg.DailyPartitionsDefinition("2024-01-01", end_date="2024-01-06")


@dg.asset(partitions_def=DAYS, backfill_policy=dg.BackfillPolicy.single_run())
def bars(context: dg.AssetExecutionContext) -> None:
    for key in context.partition_keys:
        context.add_asset_metadata({"day": key}, partition_key=key)


@dg.asset_check(asset=bars, partitions_def=DAYS)
def complete() -> dg.AssetCheckResult:
    return dg.AssetCheckResult(passed=True)


def normalised_tables(folder: Path) -> dict[tuple[str, str], list[tuple[Any, ...]]]:
    """Return every table of an event log without times, run ids, hashes and names of log files."""
    tables: dict[tuple[str, str], list[tuple[Any, ...]]] = {}
    for path in folder.glob("*.db"):
        with sqlite3.connect(path) as connection:
            for (table,) in connection.execute("SELECT name FROM sqlite_master WHERE type = 'table'").fetchall():
                content = connection.execute(f"SELECT * FROM {table}").fetchall()
                where = path.stem if path.stem == "index" else "run"
                tables[where, table] = [tuple(_normalise(value) for value in row) for row in content]
    return tables


def _normalise(value: object) -> object:
    text = re.sub(r"[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}|[0-9a-f]{64}", "RUN", str(value))
    text = re.sub(r"20\d\d-\d\d-\d\d[ T]\d\d:[\d:.]+|\d+\.\d+(e-\d+)?s?|\d+ms", "TIME", text)
    return re.sub(r'"log_key": "\w+"', "LOG", text)


def test_a_run_stores_the_same_rows_as_dagster(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DAGSTER_EVENT_BATCH_SIZE", "4")
    stored = {}
    for name in ("theirs", "ours"):
        folder = tmp_path / name
        folder.mkdir()
        with dg.DagsterInstance.from_ref(InstanceRef.from_dir(str(folder))) as instance:
            if name == "ours":
                instance._event_storage.dispose()
                instance._event_storage = EventLog(str(folder / "history" / "runs"))
                instance._event_storage.register_instance(instance)
            job = dg.Definitions(assets=[bars], asset_checks=[complete], executor=dg.in_process_executor)
            done = job.resolve_implicit_global_asset_job_def().execute_in_process(
                instance=instance,
                tags={
                    "dagster/asset_partition_range_start": "2024-01-01",
                    "dagster/asset_partition_range_end": "2024-01-05",
                },
            )
            assert done.success
            instance._event_storage.dispose()
        stored[name] = normalised_tables(folder / "history" / "runs")
    assert len(stored["ours"]["index", "asset_check_executions"]) > len(DAYS.get_partition_keys())
    assert stored["ours"].keys() == stored["theirs"].keys()
    for table, content in stored["ours"].items():
        assert content == stored["theirs"][table], table


def stored_event(run_id: str, number: int) -> EventLogEntry:
    """Return the event of a run that a day was materialised."""
    materialization = dg.AssetMaterialization(asset_key="bars", partition=str(number))
    return EventLogEntry(
        error_info=None,
        level=10,
        user_message="",
        run_id=run_id,
        timestamp=time.time(),
        step_key="bars",
        job_name="job",
        dagster_event=DagsterEvent(
            event_type_value=DagsterEventType.ASSET_MATERIALIZATION.value,
            job_name="job",
            step_key="bars",
            event_specific_data=dg._core.events.StepMaterializationData(materialization),
        ),
    )


def days_in_run(log: SqliteEventLogStorage, run_id: str) -> list[str | None]:
    """Return the days in a run's own file."""
    return [entry.get_dagster_event().partition for entry in log.get_logs_for_run(run_id)]


def days_in_index(log: SqliteEventLogStorage) -> list[str]:
    """Return the days in the index."""
    return sorted(log.get_materialized_partitions(dg.AssetKey("bars")))


@pytest.fixture
def log(tmp_path: Path) -> Iterator[EventLog]:
    event_log = EventLog(str(tmp_path / "runs"))
    yield event_log
    event_log.dispose()


def run_in_child(work: Callable[[], None]) -> int:
    """Fork, do the work in the child, and return its process id."""
    child = os.fork()
    if child == 0:
        try:
            work()
            os._exit(0)
        finally:
            os._exit(1)
    return child


def test_events_of_known_runs_open_no_connection(log: EventLog) -> None:
    log.store_event(stored_event("run", 0))
    opened = []
    event.listen(Pool, "connect", watcher := (lambda *_: opened.append(1)))
    try:
        for number in range(1, 4):
            log.store_event(stored_event("run", number))
    finally:
        event.remove(Pool, "connect", watcher)
    assert days_in_run(log, "run") == ["0", "1", "2", "3"]
    assert opened == []


def test_a_failing_batch_is_not_stored(log: EventLog, monkeypatch: pytest.MonkeyPatch) -> None:
    log.store_event(stored_event("run", 0))
    monkeypatch.setattr(log, "_store_asset_event", lambda *_: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        log.store_event_batch([stored_event("run", 1), stored_event("run", 2)])
    assert days_in_run(log, "run") == days_in_index(log) == ["0"]


def test_an_unfinished_batch_of_a_killed_process_is_not_stored(log: EventLog) -> None:
    log.store_event(stored_event("run", 0))
    reader, writer = os.pipe()

    def store() -> None:
        log._store_asset_event = lambda *_: (os.write(writer, b"."), signal.pause())  # type: ignore[method-assign]
        log.store_event_batch([stored_event("run", 1), stored_event("run", 2)])

    child = run_in_child(store)
    os.read(reader, 1)
    os.kill(child, signal.SIGKILL)
    os.waitpid(child, 0)
    log.store_event(stored_event("run", 3))
    assert days_in_run(log, "run") == days_in_index(log) == ["0", "3"]


def test_a_forked_child_and_its_parent_both_write(log: EventLog) -> None:
    log.store_event(stored_event("run", 0))
    child = run_in_child(lambda: [log.store_event(stored_event("run", number)) for number in range(1, 20)])  # type: ignore[arg-type]
    for number in range(20, 40):
        log.store_event(stored_event("run", number))
    assert os.waitpid(child, 0)[1] == 0
    assert sorted(map(int, days_in_run(log, "run"))) == list(range(40))  # type: ignore[arg-type]


def test_threads_share_one_log(log: EventLog) -> None:
    def write(run: int) -> None:
        for number in range(10):
            log.store_event(stored_event(f"run{run % 3}", 10 * run + number))

    threads = [threading.Thread(target=write, args=(run,)) for run in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(days_in_index(log)) == 60
    assert sum(len(days_in_run(log, f"run{run}")) for run in range(3)) == 60


def test_a_deleted_file_is_created_again(log: EventLog) -> None:
    log.store_event(stored_event("run", 0))
    for part in Path(log._base_dir).glob("run.db*"):
        part.unlink()
    log.store_event(stored_event("run", 1))
    assert days_in_run(log, "run") == days_in_run(SqliteEventLogStorage(log._base_dir), "run") == ["1"]


def test_events_are_stored_without_links_in_the_file_system(log: EventLog, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object) -> None:
        raise PermissionError

    monkeypatch.setattr(os, "link", refuse)
    log.store_event(stored_event("run", 0))
    assert days_in_run(log, "run") == days_in_index(log) == ["0"]


def test_events_can_be_stored_after_a_wipe(log: EventLog) -> None:
    log.store_event(stored_event("run", 0))
    log.wipe()
    log.store_event(stored_event("run", 1))
    assert days_in_run(log, "run") == days_in_index(log) == ["1"]


def test_a_replaced_file_is_read(log: EventLog, tmp_path: Path) -> None:
    other = EventLog(str(tmp_path / "other"))
    other.store_event(stored_event("run", 7))
    other.dispose()
    log.store_event(stored_event("run", 0))
    for part in Path(log._base_dir).glob("run.db-*"):
        part.unlink()
    os.replace(tmp_path / "other" / "run.db", log.path_for_shard("run"))
    assert days_in_run(log, "run") == ["7"]


def test_dagster_without_this_module_uses_the_same_files(log: EventLog) -> None:
    log.store_event_batch([stored_event("run", 0), stored_event("run", 1)])
    theirs = SqliteEventLogStorage(log._base_dir)
    theirs.store_event(stored_event("run", 2))
    assert days_in_run(theirs, "run") == days_in_run(log, "run") == ["0", "1", "2"]
    assert theirs.alembic_version() == log.alembic_version()


def test_a_table_added_by_a_migration_is_found(log: EventLog) -> None:
    assert not log.has_table("added")
    with sqlite3.connect(log.path_for_shard("index")) as other:
        other.execute("CREATE TABLE added (id INTEGER)")
    assert log.has_table("added")


def test_the_number_of_open_files_is_limited(log: EventLog) -> None:
    for number in range(3 * MAX_IDLE_SHARDS):
        log.store_event(stored_event(f"run{number}", number))
    names = {os.readlink(link) for link in Path("/proc/self/fd").iterdir() if link.is_symlink()}
    assert len({name for name in names if re.search(r"/run\d+\.db$", name)}) <= MAX_IDLE_SHARDS + 1


def test_events_of_a_running_run_are_watched(log: EventLog) -> None:
    log.store_event(stored_event("run", 0))
    seen: list[str | None] = []
    done = threading.Event()

    def see(entry: EventLogEntry, _cursor: str) -> None:
        seen.append(entry.get_dagster_event().partition)
        if len(seen) == 2:
            done.set()

    log.watch("run", log.get_records_for_run("run").cursor, see)

    def write() -> None:
        log.store_event(stored_event("run", 1))
        log.store_event(stored_event("run", 2))
        signal.pause()

    child = run_in_child(write)
    try:
        assert done.wait(20)
    finally:
        os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)
        log.end_watch("run", see)
    assert seen == ["1", "2"]


def test_a_forked_child_reads_and_writes_runs(tmp_path: Path) -> None:
    runs = RunStorage.from_local(str(tmp_path))
    runs.set_cursor_values({"of": "parent"})
    child = run_in_child(lambda: runs.set_cursor_values({"by": runs.get_cursor_values({"of"})["of"]}))
    assert os.waitpid(child, 0)[1] == 0
    runs.set_cursor_values({"of": "parent still"})
    assert runs.get_cursor_values({"of", "by"}) == {"of": "parent still", "by": "parent"}
    assert SqliteRunStorage.from_local(str(tmp_path)).get_cursor_values({"by"}) == {"by": "parent"}
