"""What a local registry's own SQLite file records about a model, read without MLflow.

To import MLflow takes a second of CPU, more than an hourly forecast does. A run that only reads looks here first. None
means that the file does not record it (a tracking server, another layout); MLflow is queried then.
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
    """Return the folder a version of a model was registered from, and the digest it was registered as.

    Args:
        tracking_uri: of the registry.
        name: of the registered model.
        version: of it.
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
    """Return the version each alias of a model points to."""
    rows = _rows(tracking_uri, "SELECT alias, version FROM registered_model_aliases WHERE name = ?", (name,))
    return None if rows is None else {alias: int(version) for alias, version in rows}


def _rows(tracking_uri: str, query: str, values: Sequence[object]) -> list[Any] | None:
    if not tracking_uri.startswith("sqlite:///"):
        return None
    from sqlalchemy import make_url  # half a second that loading the graph can do without

    database = make_url(tracking_uri).database
    try:
        read_only = f"{Path(database or '').resolve(strict=True).as_uri()}?mode=ro"
        with closing(sqlite3.connect(read_only, uri=True, timeout=_TIMEOUT_S)) as connection:
            return connection.execute(query, values).fetchall()
    except (OSError, sqlite3.Error):
        return None
