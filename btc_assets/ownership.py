"""Keep one Dagster history per data folder, also with a custom `DAGSTER_HOME`."""

from __future__ import annotations

import os
from pathlib import Path

from btc_assets.settings import DAGSTER_HOME, SettingsError, settings

_OWNER = "btc_assets/data_dir"
"""Cursor with the data folder that owns the history of a custom storage."""


def claim_instance() -> None:
    """Ensure that the instance of `DAGSTER_HOME` has only the history of this data folder.

    Raises:
        SettingsError: it has runs of another data folder.
    """
    home = os.environ.get("DAGSTER_HOME", "")
    if not Path(home).is_absolute() or not Path(home).is_dir():
        return  # Dagster stores no history there: it reports the error or uses a temporary folder
    if _dagster_yaml(Path(home)) == _dagster_yaml(DAGSTER_HOME):
        return  # its history is in the data folder
    import dagster as dg  # imported here because `up` would otherwise hold its 30 MB while it runs
    from dagster._core.instance.ref import InstanceRef

    ref = InstanceRef.from_dir(home)
    if ref.storage_data is not None and ref.storage_data.module_name == "btc_assets.instance":
        return  # its history is in the data folder
    data_dir = str(settings().data_dir.resolve())
    with dg.DagsterInstance.from_ref(ref) as instance:
        owner = instance.run_storage.get_cursor_values({_OWNER}).get(_OWNER)
        if owner == data_dir:
            return
        if owner is not None and instance.get_runs_count() > 0:
            raise SettingsError(
                f"The Dagster instance in {home} (DAGSTER_HOME) has the runs of the data folder {owner}, but "
                f"BTC_DATA_DIR is {data_dir}: use another DAGSTER_HOME for it, or copy dagster.yaml from "
                f"{DAGSTER_HOME} to {home}, which stores the history of each data folder in that folder."
            )
        instance.run_storage.set_cursor_values({_OWNER: data_dir})


def _dagster_yaml(home: Path) -> bytes | None:
    """Return the `dagster.yaml` of a folder; None if it has none."""
    file = home / "dagster.yaml"
    return file.read_bytes() if file.is_file() else None
