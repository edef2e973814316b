"""One Dagster history for one data folder, also where `DAGSTER_HOME` is a folder of the user's own."""

from __future__ import annotations

import os
from pathlib import Path

from btc_assets.settings import DAGSTER_HOME, SettingsError, settings

_OWNER = "btc_assets/data_dir"
"""Which data folder owns the history in a storage of the user's own."""


def keep_apart() -> None:
    """Make sure that the instance of `DAGSTER_HOME` holds the history of this data folder alone.

    Raises:
        SettingsError: it holds runs of another data folder.
    """
    home = os.environ.get("DAGSTER_HOME", "")
    if not Path(home).is_absolute() or not Path(home).is_dir():
        return  # Dagster keeps no history there: it reports what is wrong, or works in a folder that it removes
    if _text(Path(home)) == _text(DAGSTER_HOME):
        return  # its history lies in the data folder
    import dagster as dg  # 30 MB, which `up` would hold for as long as it runs
    from dagster._core.instance.ref import InstanceRef

    ref = InstanceRef.from_dir(home)
    if ref.storage_data is not None and ref.storage_data.module_name == "btc_assets.instance":
        return  # likewise
    ours = str(settings().data_dir.resolve())
    with dg.DagsterInstance.from_ref(ref) as instance:
        owner = instance.run_storage.get_cursor_values({_OWNER}).get(_OWNER)
        if owner == ours:
            return
        if owner is not None and instance.get_runs_count() > 0:
            raise SettingsError(
                f"The Dagster instance in {home} (DAGSTER_HOME) holds the runs of the data folder {owner}, but "
                f"BTC_DATA_DIR is {ours}: give it a DAGSTER_HOME of its own, or copy dagster.yaml from "
                f"{DAGSTER_HOME} there, which keeps the history of each data folder in it."
            )
        instance.run_storage.set_cursor_values({_OWNER: ours})


def _text(home: Path) -> bytes | None:
    """Return the `dagster.yaml` of a folder, None if it has none."""
    file = home / "dagster.yaml"
    return file.read_bytes() if file.is_file() else None
