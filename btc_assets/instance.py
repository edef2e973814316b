"""The Dagster instance of one data folder: its runs, events, cursors and logs lie beside the tables they describe.

`dagster.yaml` names these classes, so every process that reads it finds the folder that `BTC_DATA_DIR` names, whether
`make`, `dagster dev` or a run started it.
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

EVENTS_AT_ONCE = "1000"
"""Events of one plan or one output that are stored in one transaction."""


def _folder() -> Path:
    """Return Dagster's folder in the data folder.

    Raises:
        click.ClickException: a setting is wrong, or the folder cannot be written. Dagster's commands print it as the
            sentence it is.
    """
    try:
        return settings().writable_dagster_dir()
    except SettingsError as error:
        raise click.ClickException(str(error)) from error


class _WithoutOptions:
    """A part of the instance that `dagster.yaml` only names: the settings decide where its files are."""

    @classmethod
    def config_type(cls) -> dict[str, Any]:
        """Return no options."""
        return {}


class Storage(_WithoutOptions, CompositeStorage):
    """Runs, events, schedules and cursors."""

    @classmethod
    def from_config_value(cls, inst_data: ConfigurableClassData | None, config_value: object) -> Self:
        """Open the storage, or make it."""
        del config_value
        # Dagster reads these from the environment alone; values that are already set take precedence.
        os.environ.setdefault("DAGSTER_EVENT_BATCH_SIZE", EVENTS_AT_ONCE)
        # It is off in dagster.yaml as well, but its empty folders would still be made in DAGSTER_HOME, which may be a
        # checkout that cannot be written.
        os.environ.setdefault("DAGSTER_DISABLE_TELEMETRY", "1")
        folder = _folder()
        return cls(
            RunStorage.from_local(str(folder / "history")),
            EventLog(str(folder / "history" / "runs")),
            ScheduleStorage.from_local(str(folder / "schedules")),
            inst_data,
        )


class Artifacts(_WithoutOptions, LocalArtifactStorage):
    """Files of runs that no I/O manager keeps."""

    @classmethod
    def from_config_value(cls, inst_data: ConfigurableClassData | None, config_value: object) -> Self:
        """Return where they lie."""
        del config_value
        return cls(str(_folder() / "artifacts"), inst_data)


class Logs(_WithoutOptions, LocalComputeLogManager):
    """What the steps of a run print."""

    @classmethod
    def from_config_value(cls, inst_data: ConfigurableClassData | None, config_value: object) -> Self:
        """Return where they lie."""
        del config_value
        return cls(str(_folder() / "logs"), inst_data=inst_data)
