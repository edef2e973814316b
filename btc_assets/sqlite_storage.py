"""Dagster's SQLite storages with persistent connections.

Dagster opens a connection and compiles the statement again for every statement, which takes most of the time of a
backfill of thousands of days. These storages reuse connections and compiled statements while the process lives and the
file on disk is the one they opened, and write a batch of events in one transaction. The file format is Dagster's: other
processes, and Dagster without this module, read and migrate the files as usual.
"""

from __future__ import annotations

import os
import tempfile
import threading
from collections import OrderedDict
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import sqlalchemy as db
from dagster._core.events import (
    ASSET_CHECK_EVENTS,
    ASSET_EVENTS,
    EVENT_TYPE_TO_PIPELINE_RUN_STATUS,
    DagsterEventType,
)
from dagster._core.events.log import EventLogEntry
from dagster._core.storage.asset_check_execution_record import AssetCheckExecutionRecordStatus
from dagster._core.storage.event_log import SqliteEventLogStorage
from dagster._core.storage.event_log.schema import AssetCheckExecutionsTable, SqlEventLogStorageTable
from dagster._core.storage.event_log.sqlite.sqlite_event_log import INDEX_SHARD_NAME
from dagster._core.storage.runs import SqliteRunStorage
from dagster._core.storage.schedules.sqlite.sqlite_schedule_storage import SqliteScheduleStorage
from dagster._core.storage.sqlite import SQLITE_BUSY_TIMEOUT_SECONDS
from dagster._serdes import ConfigurableClassData, serialize_value
from sqlalchemy.engine import Connection, Engine

_EVENTS = SqlEventLogStorageTable
MAX_IDLE_SHARDS = 8
"""Maximum number of idle run files that a process keeps open."""


def persistent_engine(path: Path) -> Engine:
    """Return an engine of an SQLite file that reuses connections while the file on disk is the one they opened."""
    engine = db.create_engine(
        db.URL.create("sqlite", database=str(path)),
        connect_args={"timeout": SQLITE_BUSY_TIMEOUT_SECONDS, "check_same_thread": False},
    )

    @db.event.listens_for(engine, "connect")
    def _record_file(_connection: Any, record: Any) -> None:
        record.info["file"] = _identity(path)

    @db.event.listens_for(engine, "checkout")
    def _check_file(_connection: Any, record: Any, _proxy: Any) -> None:
        if record.info["file"] != _identity(path):
            raise db.exc.DisconnectionError  # the pool then opens the new file

    return engine


def _identity(path: Path) -> tuple[int, int] | None:
    """Return device and inode of a file, which a replaced file changes; None if it does not exist."""
    try:
        status = path.stat()
    except FileNotFoundError:
        return None
    return status.st_dev, status.st_ino


def _has_schema(engine: Engine) -> bool:
    """Return whether a file has Dagster's complete schema; its revision is written last."""
    with engine.connect() as connection:
        if not db.inspect(connection).has_table("alembic_version"):
            return False
        return connection.scalar(db.text("SELECT count(*) FROM alembic_version")) > 0


def _event_type(event: EventLogEntry) -> DagsterEventType | None:
    return event.dagster_event_type if event.is_dagster_event else None


def _goes_to_index(event: EventLogEntry) -> bool:
    """Return whether an event is queried across runs and is therefore also stored in the index."""
    event_type = _event_type(event)
    return (
        event_type in ASSET_EVENTS
        or event_type in ASSET_CHECK_EVENTS
        or event_type in EVENT_TYPE_TO_PIPELINE_RUN_STATUS
    )


@dataclass
class _OpenShards:
    """The open files of an event log in one process.

    A forked child starts empty, because SQLite connections must not be used across a fork.
    """

    lock: threading.RLock = field(default_factory=threading.RLock)
    engines: OrderedDict[str, Engine] = field(default_factory=OrderedDict)
    active: dict[str, Connection] = field(default_factory=dict)
    initialised: dict[str, tuple[int, int] | None] = field(default_factory=dict)


class EventLog(SqliteEventLogStorage):
    """Dagster's event log: one SQLite file per run and an index over all runs."""

    def __init__(self, base_dir: str, inst_data: ConfigurableClassData | None = None) -> None:
        self._open: dict[int, _OpenShards] = {}
        self._tables: set[str] = set()
        self._has_index_columns = False
        super().__init__(base_dir, inst_data)

    @property
    def _shards(self) -> _OpenShards:
        return self._open.setdefault(os.getpid(), _OpenShards())

    @contextmanager
    def _connect(self, shard: str) -> Iterator[Connection]:
        """Yield a connection in a transaction; a nested call for the same shard gets the same connection."""
        shards = self._shards
        with shards.lock:
            if shard in shards.active:
                yield shards.active[shard]
                return
            with self._engine(shards, shard).begin() as connection:
                shards.active[shard] = connection
                try:
                    yield connection
                finally:
                    del shards.active[shard]

    def _engine(self, shards: _OpenShards, shard: str) -> Engine:
        path = Path(self.path_for_shard(shard))
        engine = shards.engines.get(shard)
        if engine is None:
            engine = shards.engines[shard] = persistent_engine(path)
            self._close_surplus(shards)
        shards.engines.move_to_end(shard)
        identity = _identity(path)
        if identity is None or shards.initialised.get(shard) != identity:
            if identity is None:
                self._create_shard(path)
            if not _has_schema(engine):
                self._initdb(engine)
            shards.initialised[shard] = _identity(path)
        return engine

    def _create_shard(self, path: Path) -> None:
        """Create a file with Dagster's schema and no event, unless another process has created it."""
        with tempfile.NamedTemporaryFile(dir=path.parent, prefix=".new-", suffix=".part") as new:
            new.write(self._empty_shard)
            new.flush()
            os.fchmod(new.fileno(), Path(self.path_for_shard(INDEX_SHARD_NAME)).stat().st_mode)
            os.fsync(new.fileno())
            with suppress(OSError):  # it exists, or the file system has no links and Dagster creates the schema itself
                os.link(new.name, path)

    @cached_property
    def _empty_shard(self) -> bytes:
        """Content of a new run file, which Dagster creates in dozens of transactions."""
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / "empty.db"
            engine = persistent_engine(path)
            db.event.listen(engine, "connect", lambda connection, _: connection.execute("PRAGMA synchronous=OFF"))
            self._initdb(engine)
            engine.dispose()
            return path.read_bytes()

    def _close_surplus(self, shards: _OpenShards) -> None:
        idle = [name for name in shards.engines if name != INDEX_SHARD_NAME and name not in shards.active]
        for name in idle[: max(0, len(idle) - MAX_IDLE_SHARDS)]:
            shards.engines.pop(name).dispose()
            shards.initialised.pop(name, None)

    def store_event(self, event: EventLogEntry) -> None:
        """Store an event in its run's file, and in the index if it is queried across runs."""
        super().store_event(event)
        self._notify_watchers(event.run_id)

    def store_event_batch(self, events: Sequence[EventLogEntry]) -> None:
        """Store all events or none, in one transaction per file."""
        runs = list({event.run_id: None for event in events})
        self._store_batch(runs, events)
        for run_id in runs:
            self._notify_watchers(run_id)

    def _notify_watchers(self, run_id: str) -> None:
        """Update the modification time of a run's file, which watchers wait for.

        SQLite writes to the file itself only when a connection closes, and changes its write-ahead log before the
        content is readable.
        """
        with suppress(OSError):
            os.utime(self.path_for_shard(run_id))

    def _store_batch(self, runs: Sequence[str], events: Sequence[EventLogEntry]) -> None:
        rows = [self._event_to_row(event) for event in events]
        mirrored = [position for position, event in enumerate(events) if _goes_to_index(event)]
        with ExitStack() as stack:
            for run_id in runs:
                connection = stack.enter_context(self.run_connection(run_id))
                connection.execute(_EVENTS.insert(), [row for row in rows if row["run_id"] == run_id])
            if not mirrored:
                return
            index = stack.enter_context(self.index_transaction())  # entered last, so committed first
            ids = index.scalars(
                _EVENTS.insert().returning(_EVENTS.c.id, sort_by_parameter_order=True),
                [rows[position] for position in mirrored],
            ).all()
            self._index(index, [events[position] for position in mirrored], ids)

    def _index(self, index: Connection, events: Sequence[EventLogEntry], ids: Sequence[int]) -> None:
        """Update the index's other tables for events that were just stored."""
        pairs = list(zip(events, ids, strict=True))
        of_assets = [(event, event_id) for event, event_id in pairs if _event_type(event) in ASSET_EVENTS]
        self._store_asset_event_tags(index, [event for event, _ in of_assets], [event_id for _, event_id in of_assets])
        # An asset has one row, which the last event of a type overwrites.
        last = {
            (event.get_dagster_event().asset_key, _event_type(event)): (event, event_id)
            for event, event_id in of_assets
        }
        for event, event_id in sorted(last.values(), key=lambda pair: pair[1]):
            self._store_asset_event(index, event, event_id)
        for event, event_id in pairs:
            if _event_type(event) in ASSET_CHECK_EVENTS:
                self.store_asset_check_event(event, event_id)

    def _store_asset_check_evaluation_planned(self, event: EventLogEntry, event_id: int | None) -> None:
        """Store a planned check of every partition; the event is serialised once."""
        planned = event.get_dagster_event().asset_check_planned_data
        keys = planned.partitions_subset.get_partition_keys() if planned.partitions_subset else [None]
        row = {
            "asset_key": planned.asset_key.to_string(),
            "check_name": planned.check_name,
            "run_id": event.run_id,
            "execution_status": AssetCheckExecutionRecordStatus.PLANNED.value,
            "evaluation_event": serialize_value(event),
            "evaluation_event_timestamp": self._event_insert_timestamp(event),
            "evaluation_event_storage_id": event_id,
        }
        with self.index_connection() as index:
            index.execute(AssetCheckExecutionsTable.insert(), [row | {"partition": key} for key in keys])

    def has_table(self, table_name: str) -> bool:
        """Return whether the index has a table; a positive result is cached."""
        if table_name not in self._tables:
            with self.index_connection() as connection:
                if not db.inspect(connection).has_table(table_name):
                    return False
            self._tables.add(table_name)
        return True

    def _has_asset_key_index_cols_on_connection(self, conn: Connection) -> bool:
        self._has_index_columns = self._has_index_columns or super()._has_asset_key_index_cols_on_connection(conn)
        return self._has_index_columns

    def dispose(self) -> None:
        """Close all connections of this process."""
        super().dispose()
        shards = self._shards
        with shards.lock:
            for engine in shards.engines.values():
                engine.dispose()
            shards.engines.clear()
            shards.initialised.clear()


class _PersistentConnection:
    """Persistent connections of a storage with a single SQLite file."""

    _conn_string: str

    @contextmanager
    def connect(self) -> Iterator[Connection]:
        """Yield a connection in a transaction."""
        engines: dict[int, Engine] = self.__dict__.setdefault("_engines", {})
        engine = engines.get(os.getpid())  # SQLite connections must not be used across a fork
        if engine is None:
            engine = engines.setdefault(
                os.getpid(), persistent_engine(Path(db.make_url(self._conn_string).database or ""))
            )
        with engine.begin() as connection:
            yield connection

    def dispose(self) -> None:
        """Close all connections of this process."""
        if engine := self.__dict__.get("_engines", {}).pop(os.getpid(), None):
            engine.dispose()


class RunStorage(_PersistentConnection, SqliteRunStorage):
    """Dagster's run storage, one SQLite file."""


class ScheduleStorage(_PersistentConnection, SqliteScheduleStorage):
    """Dagster's storage of schedules and sensors with their ticks and cursors, one SQLite file."""
