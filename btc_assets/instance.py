"""The Dagster instance of one data folder: its runs, events, cursors and logs are in the folder of their tables.

`dagster.yaml` configures these classes, so every process that reads it, started by `make`, `dagster dev` or a run, uses
the folder in `BTC_DATA_DIR`.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any, Self

import click
from dagster._core.storage.legacy_storage import CompositeStorage
from dagster._core.storage.local_compute_log_manager import LocalComputeLogManager
from dagster._core.storage.root import LocalArtifactStorage
from dagster._serdes import ConfigurableClassData

from btc_assets.settings import SettingsError, settings
from btc_assets.sqlite_storage import EventLog, RunStorage, ScheduleStorage

EVENT_BATCH_SIZE = "1000"
"""Maximum number of events of a plan or output per transaction."""


def _folder() -> Path:
    """Return Dagster's folder in the data folder.

    Raises:
        click.ClickException: a setting is invalid, or the folder is not writable. Dagster's commands print the message
            without a stack trace.
    """
    try:
        return settings().writable_dagster_dir()
    except SettingsError as error:
        raise click.ClickException(str(error)) from error


class _WithoutOptions:
    """A part of the instance without options in `dagster.yaml`: the settings determine the location of its files."""

    @classmethod
    def config_type(cls) -> dict[str, Any]:
        """Return no options."""
        return {}


class Storage(_WithoutOptions, CompositeStorage):
    """Storage of runs, events, schedules and cursors."""

    @classmethod
    def from_config_value(cls, inst_data: ConfigurableClassData | None, config_value: object) -> Self:
        """Open the storage, creating it if it does not exist."""
        del config_value
        # Dagster reads these only from the environment; values that are already set take precedence.
        os.environ.setdefault("DAGSTER_EVENT_BATCH_SIZE", EVENT_BATCH_SIZE)
        # Telemetry is off in dagster.yaml as well, but Dagster would still create its folders in DAGSTER_HOME, which
        # may be read-only.
        os.environ.setdefault("DAGSTER_DISABLE_TELEMETRY", "1")
        folder = _folder()
        return cls(
            RunStorage.from_local(str(folder / "history")),
            EventLog(str(folder / "history" / "runs")),
            ScheduleStorage.from_local(str(folder / "schedules")),
            inst_data,
        )


class Artifacts(_WithoutOptions, LocalArtifactStorage):
    """Storage of run files that no I/O manager stores."""

    @classmethod
    def from_config_value(cls, inst_data: ConfigurableClassData | None, config_value: object) -> Self:
        """Open the storage in the data folder."""
        del config_value
        return cls(str(_folder() / "artifacts"), inst_data)


class Logs(_WithoutOptions, LocalComputeLogManager):
    """Storage of the output of a run's steps."""

    @classmethod
    def from_config_value(cls, inst_data: ConfigurableClassData | None, config_value: object) -> Self:
        """Open the storage in the data folder."""
        del config_value
        return cls(str(_folder() / "logs"), inst_data=inst_data)
