"""Read a local registry's SQLite file without MLflow.

Importing MLflow takes a second of CPU, more than an hourly forecast does, so a run that only reads tries the file
first. None means that the file has no answer (a tracking server, another layout); then MLflow is queried.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Sequence
from contextlib import closing
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlsplit

_DELETED = "Deleted_Internal"
_TIMEOUT_S = 20.0


def registered(tracking_uri: str, name: str, version: int) -> tuple[Path, str] | None:
    """Return the folder from which a model version was registered, and its registered digest.

    Args:
        tracking_uri: URI of the registry.
        name: name of the registered model.
        version: version of the model.
    """
    rows = _rows(
        tracking_uri,
        "SELECT v.source, t.value FROM model_versions v JOIN model_version_tags t USING (workspace, name, version) "
        "WHERE v.name = ? AND v.version = ? AND t.key = 'digest' AND v.current_stage <> ?",
        (name, version, _DELETED),
    )
    if not rows or len(rows) > 1:
        return None
    source, digest = rows[0]
    at = urlsplit(source)
    folder = Path(unquote(at.path))
    return (folder, digest) if at.scheme in ("", "file") and folder.is_dir() else None


def aliases(tracking_uri: str, name: str) -> dict[str, int] | None:
    """Return the version of each alias of a model."""
    rows = _rows(tracking_uri, "SELECT alias, version FROM registered_model_aliases WHERE name = ?", (name,))
    return None if rows is None else {alias: int(version) for alias, version in rows}


def _rows(tracking_uri: str, query: str, values: Sequence[object]) -> list[Any] | None:
    if not tracking_uri.startswith("sqlite:///"):
        return None
    from sqlalchemy import make_url  # lazy: the import takes half a second

    database = make_url(tracking_uri).database
    try:
        read_only = f"{Path(database or '').resolve(strict=True).as_uri()}?mode=ro"
        with closing(sqlite3.connect(read_only, uri=True, timeout=_TIMEOUT_S)) as connection:
            return connection.execute(query, values).fetchall()
    except (OSError, sqlite3.Error):
        return None
