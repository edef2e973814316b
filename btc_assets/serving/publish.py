"""Publish a bundle atomically: write it to a temporary folder, rename it, then replace the pointer.

A reader that follows the pointer always finds a complete bundle, even if a publisher is killed: the folder is renamed
only after all of its files are on disk, and the pointer is replaced after that. The bundle id is a hash of the
contents, so publishing is idempotent. No process opens a published DuckDB file for writing. `btc_assets.published`
documents the layout.
"""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import json
import logging
import os
import re
import shutil
import uuid
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import polars as pl

from btc_assets.digest import digest
from btc_assets.learning.families.registry import FamilyError
from btc_assets.learning.forecast_model import ForecastModel, ModelFileError
from btc_assets.learning.natives import native_names
from btc_assets.published import (
    BUNDLE_ID,
    BUNDLES,
    DATABASE,
    FORMAT,
    MANIFEST,
    MODEL,
    NATIVE,
    POINTER,
    live_manifest,
    made_at_of,
)

logger = logging.getLogger(__name__)

KEPT_BUNDLES = 3
"""Number of bundles kept for rollbacks, including the live one."""

_TABLE = re.compile(r"^[a-z][a-z0-9_]{0,62}$")


class PublishError(RuntimeError):
    """A bundle cannot be published; the live bundle is unchanged."""


@dataclass(frozen=True)
class Publication:
    """The result of `publish`.

    Attributes:
        bundle_id: id of the bundle, 16 hex digits of the hash of its contents.
        live: whether the pointer names the bundle.
        published_at: when the bundle was first published, UTC; None if it was not published.
        sentence: a description of the result.
    """

    bundle_id: str
    live: bool
    published_at: datetime | None
    sentence: str


def publish(
    serving_dir: Path,
    *,
    manifest: Mapping[str, Any],
    model_folder: Path,
    tables: Mapping[str, pl.DataFrame],
    native_folder: Path | None = None,
    allow_older: bool = False,
    kept: int = KEPT_BUNDLES,
) -> Publication:
    """Build a bundle, point to it and prune old bundles.

    Args:
        serving_dir: folder that the forecast server watches; created if missing.
        manifest: JSON facts about the bundle; `made_at` (ISO, with offset) and `model_digest` are required, `format`,
            `bundle_id`, `natives` (SHA-256 by file), `tables` (rows by table) and `published_at` are added. The time of
            publication is not part of the contents: publishing the same contents again keeps their id and their time.
        model_folder: folder of the model, verified before and after it is copied.
        tables: frames by table name.
        native_folder: folder with the members of the model in the formats of their libraries. If it is None or one of
            them cannot be read, the server explains no rows.
        allow_older: point to the bundle even if the live forecast was made later, for example to return to old data.
        kept: number of bundles to keep, including the live one.

    Raises:
        PublishError: the manifest, the model or a table cannot be published.
    """
    try:
        made_at_of(manifest)  # validate before any change
    except ValueError as error:
        raise PublishError(str(error)) from error
    natives = _natives(_verify_model(model_folder, manifest), native_folder)
    manifest = {**manifest, "natives": {name: hashlib.sha256(content).hexdigest() for name, content in natives.items()}}
    bundle_id = contents_id(manifest, tables)
    bundles = serving_dir / BUNDLES
    bundles.mkdir(parents=True, exist_ok=True)
    with _locked(serving_dir):
        _delete_leftovers(serving_dir)
        live = live_manifest(serving_dir)
        if live is not None and is_older(manifest, live) and not allow_older:
            return Publication(
                bundle_id,
                live=False,
                published_at=None,
                sentence=f"Not published: the live forecast was made at {live['made_at']}, after this one "
                f"({manifest['made_at']}). Set allow_older to publish it anyway.",
            )
        target = bundles / bundle_id
        if not _is_valid(target, manifest):
            _build(
                target,
                bundle_id=bundle_id,
                manifest=manifest,
                model_folder=model_folder,
                natives=natives,
                tables=tables,
            )
        os.utime(target)  # prune keeps the most recently published bundles
        _set_pointer(serving_dir, bundle_id)
        prune(serving_dir, kept=kept)
        _delete_leftovers(serving_dir)
        published_at = _published_at(target)
    same = live is not None and live.get("bundle_id") == bundle_id
    return Publication(
        bundle_id, live=True, published_at=published_at, sentence="Already live." if same else "Published."
    )


def is_older(manifest: Mapping[str, Any], live: Mapping[str, Any] | None) -> bool:
    """Return whether the live forecast was made after that of a manifest.

    Raises:
        ValueError: a manifest has no `made_at`, or it is not an ISO time with a UTC offset.
    """
    return live is not None and made_at_of(live) > made_at_of(manifest)


def contents_id(manifest: Mapping[str, Any], tables: Mapping[str, pl.DataFrame]) -> str:
    """Return the id of a bundle: 16 hex digits of the SHA-256 of its manifest, model digest and tables.

    Raises:
        PublishError: the manifest cannot be written as JSON, or a table name is invalid.
    """
    invalid = [name for name in tables if not _TABLE.match(name)]
    if invalid:
        raise PublishError(f"{invalid[0]!r} is not a valid table name")
    try:
        facts = json.dumps(
            {"manifest": manifest, "tables": {name: digest(frame) for name, frame in tables.items()}, "format": FORMAT},
            sort_keys=True,
            allow_nan=False,
        )
    except (TypeError, ValueError) as error:
        raise PublishError(f"the manifest cannot be written as JSON: {error}") from error
    return hashlib.sha256(facts.encode()).hexdigest()[:16]


def prune(serving_dir: Path, *, kept: int = KEPT_BUNDLES) -> list[str]:
    """Delete all but the `kept` most recently published bundles, never the live one; return the deleted ids."""
    try:
        live = (serving_dir / POINTER).read_text().strip()
    except OSError:
        return []
    candidates = [
        entry for entry in (serving_dir / BUNDLES).iterdir() if BUNDLE_ID.match(entry.name) and entry.name != live
    ]
    candidates.sort(key=lambda entry: (entry.stat().st_mtime_ns, entry.name), reverse=True)
    expired = candidates[max(kept - 1, 0) :]
    for entry in expired:
        # Rename first: a partly deleted folder must not have a bundle id as its name.
        hidden = entry.with_name(f".pruned-{entry.name}")
        os.rename(entry, hidden)
        shutil.rmtree(hidden, ignore_errors=True)
    return [entry.name for entry in expired]


def _build(
    target: Path,
    *,
    bundle_id: str,
    manifest: Mapping[str, Any],
    model_folder: Path,
    natives: Mapping[str, bytes],
    tables: Mapping[str, pl.DataFrame],
) -> None:
    """Write a bundle to a temporary folder, flush it to disk and rename it."""
    temporary = target.parent / f".new-{uuid.uuid4().hex}"
    temporary.mkdir()
    try:
        shutil.copytree(model_folder, temporary / MODEL)
        _verify_model(temporary / MODEL, manifest)
        (temporary / NATIVE).mkdir()
        for name, content in natives.items():
            (temporary / NATIVE / name).write_bytes(content)
        _write_database(temporary / DATABASE, tables)
        rows = {name: frame.height for name, frame in tables.items()}
        facts = {
            **manifest,
            "format": FORMAT,
            "bundle_id": bundle_id,
            "tables": rows,
            "published_at": datetime.now(tz=UTC).isoformat(),
        }
        (temporary / MANIFEST).write_text(json.dumps(facts, indent=2, sort_keys=True, allow_nan=False))
        for path in sorted(temporary.rglob("*")):
            _sync(path)
        _sync(temporary)
        if target.exists():  # an existing bundle that is invalid, for example damaged on disk
            os.rename(target, target.with_name(f".pruned-{uuid.uuid4().hex}"))
        os.rename(temporary, target)
        _sync(target.parent)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def _write_database(path: Path, tables: Mapping[str, pl.DataFrame]) -> None:
    import duckdb

    with contextlib.closing(duckdb.connect(str(path))) as connection:
        for name, frame in tables.items():
            connection.register("incoming", frame.to_arrow())
            connection.execute(f'CREATE TABLE "{name}" AS SELECT * FROM incoming')  # noqa: S608 - checked by _TABLE
            connection.unregister("incoming")
        connection.execute("CHECKPOINT")


def _set_pointer(serving_dir: Path, bundle_id: str) -> None:
    temporary = serving_dir / f".{POINTER}-{uuid.uuid4().hex}"
    temporary.write_text(bundle_id + "\n")
    _sync(temporary)
    os.replace(temporary, serving_dir / POINTER)
    _sync(serving_dir)


def _delete_leftovers(serving_dir: Path) -> None:
    """Delete leftovers of killed publishers and replaced bundles; the caller must hold the lock."""
    for entry in (*serving_dir.glob(f".{POINTER}-*"), *(serving_dir / BUNDLES).glob(".new-*")):
        shutil.rmtree(entry) if entry.is_dir() else entry.unlink()
    for entry in (serving_dir / BUNDLES).glob(".pruned-*"):
        shutil.rmtree(entry, ignore_errors=True)


@contextlib.contextmanager
def _locked(serving_dir: Path) -> Iterator[None]:
    """Hold the lock of the serving folder; the kernel releases it when the process ends."""
    with (serving_dir / ".lock").open("w") as handle:
        fcntl.flock(handle, fcntl.LOCK_EX)
        yield


def _is_valid(folder: Path, manifest: Mapping[str, Any]) -> bool:
    import duckdb

    try:
        _published_at(folder)
        _verify_model(folder / MODEL, manifest)
        with contextlib.closing(duckdb.connect(str(folder / DATABASE), read_only=True)):
            return True
    except (OSError, ValueError, PublishError, duckdb.Error):
        return False


def _natives(model: ForecastModel, folder: Path | None) -> dict[str, bytes]:
    """Return the members of a model in the formats of their libraries, by file name; empty if one cannot be read."""
    if folder is None:
        return {}
    try:
        return {name: (folder / name).read_bytes() for name in native_names(model.document)}
    except (FamilyError, OSError) as error:  # the forecast does not wait for its explanation
        logger.warning("The server cannot explain rows: %s", error)
        return {}


def _verify_model(folder: Path, manifest: Mapping[str, Any]) -> ForecastModel:
    try:
        model = ForecastModel.load(folder)
    except ModelFileError as error:
        raise PublishError(f"the model cannot be published: {error}") from error
    if model.digest != manifest.get("model_digest"):
        raise PublishError(
            f"the model in {folder} has digest {model.digest}, the forecasts were made with "
            f"{manifest.get('model_digest')}; publish the model that made them"
        )
    return model


def _published_at(folder: Path) -> datetime | None:
    """Return when a bundle was published; None for a bundle of an older version without that record."""
    published_at = json.loads((folder / MANIFEST).read_bytes()).get("published_at")
    return None if published_at is None else datetime.fromisoformat(str(published_at))


def _sync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
