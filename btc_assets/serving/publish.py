"""Publish a forecast: a folder built aside, and a pointer moved onto it in one step.

A reader follows the pointer and finds a whole bundle, the old one or the new one, whenever it looks
and wherever a publisher is killed: the folder gets its name only when every byte of it is on disk,
and the pointer moves only after that. The id is a hash of the contents, so publishing the same again
changes nothing. No process ever opens a published DuckDB file for writing. `btc_assets.published` gives the layout.
"""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import json
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
from btc_assets.learning.forecast_model import ForecastModel, ModelFileError
from btc_assets.published import (
    BUNDLE_ID,
    BUNDLES,
    DATABASE,
    FORMAT,
    MANIFEST,
    MODEL,
    POINTER,
    live_manifest,
    made_at_of,
)

KEPT = 3
"""Bundles kept for a quick way back, the live one included."""

_TABLE = re.compile(r"^[a-z][a-z0-9_]{0,62}$")


class PublishError(RuntimeError):
    """A bundle cannot be published as asked; the live one is untouched."""


@dataclass(frozen=True)
class Publication:
    """What a call to `publish` did.

    Attributes:
        bundle_id: name of the bundle, 16 hex digits of the hash of its contents.
        live: whether the pointer names it now.
        published_at: when it was first published, UTC; None where it was not.
        sentence: what happened, for a person.
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
    allow_older: bool = False,
    kept: int = KEPT,
) -> Publication:
    """Build a bundle, move the pointer onto it and prune old bundles.

    Args:
        serving_dir: folder the forecast server watches; made when absent.
        manifest: JSON facts about the bundle; `made_at` (ISO, with offset) and `model_digest` are
            required, `format`, `bundle_id`, `tables` (rows by table) and `published_at` are filled in. When a bundle
            was published is no part of its contents: the same contents again keep their id and their time.
        model_folder: the model, verified before and after it is copied.
        tables: frames by table name.
        allow_older: move the pointer even if the live forecast was made later; for going back to old data.
        kept: bundles to keep, the live one included.

    Raises:
        PublishError: the manifest, the model or a table cannot be published.
    """
    try:
        made_at_of(manifest)  # checked before anything is touched
    except ValueError as error:
        raise PublishError(str(error)) from error
    _verify_model(model_folder, manifest)
    bundle_id = contents_id(manifest, tables)
    bundles = serving_dir / BUNDLES
    bundles.mkdir(parents=True, exist_ok=True)
    with _only_publisher(serving_dir):
        _sweep(serving_dir)
        live = live_manifest(serving_dir)
        if live is not None and is_older(manifest, live) and not allow_older:
            return Publication(
                bundle_id,
                live=False,
                published_at=None,
                sentence=f"Not published: the live forecast was made at {live['made_at']}, after this one "
                f"({manifest['made_at']}). Set allow_older to publish it all the same.",
            )
        target = bundles / bundle_id
        if not _is_whole(target, manifest):
            _build(target, bundle_id=bundle_id, manifest=manifest, model_folder=model_folder, tables=tables)
        os.utime(target)  # prune keeps the bundles published last
        _point(serving_dir, bundle_id)
        prune(serving_dir, kept=kept)
        _sweep(serving_dir)
        published_at = _published_at(target)
    same = live is not None and live.get("bundle_id") == bundle_id
    return Publication(
        bundle_id, live=True, published_at=published_at, sentence="Already live." if same else "Published."
    )


def is_older(manifest: Mapping[str, Any], live: Mapping[str, Any] | None) -> bool:
    """Say whether the live forecast was made after that of a manifest.

    Raises:
        ValueError: a manifest does not give `made_at` as an ISO time with its UTC offset.
    """
    return live is not None and made_at_of(live) > made_at_of(manifest)


def contents_id(manifest: Mapping[str, Any], tables: Mapping[str, pl.DataFrame]) -> str:
    """Return the id of a bundle: 16 hex digits of the SHA-256 of its manifest, model digest and tables.

    Raises:
        PublishError: the manifest cannot be written as JSON, or a table's name is not one.
    """
    odd = [name for name in tables if not _TABLE.match(name)]
    if odd:
        raise PublishError(f"{odd[0]!r} cannot be the name of a table")
    try:
        facts = json.dumps(
            {"manifest": manifest, "tables": {name: digest(frame) for name, frame in tables.items()}, "format": FORMAT},
            sort_keys=True,
            allow_nan=False,
        )
    except (TypeError, ValueError) as error:
        raise PublishError(f"the manifest cannot be written as JSON: {error}") from error
    return hashlib.sha256(facts.encode()).hexdigest()[:16]


def prune(serving_dir: Path, *, kept: int = KEPT) -> list[str]:
    """Delete all but the `kept` bundles published last, never the live one; return the ids deleted."""
    try:
        live = (serving_dir / POINTER).read_text().strip()
    except OSError:
        return []
    found = [entry for entry in (serving_dir / BUNDLES).iterdir() if BUNDLE_ID.match(entry.name) and entry.name != live]
    found.sort(key=lambda entry: (entry.stat().st_mtime_ns, entry.name), reverse=True)
    doomed = found[max(kept - 1, 0) :]
    for entry in doomed:
        # Renamed first: a half-deleted folder must not keep a bundle's name.
        grave = entry.with_name(f".pruned-{entry.name}")
        os.rename(entry, grave)
        shutil.rmtree(grave, ignore_errors=True)
    return [entry.name for entry in doomed]


def _build(
    target: Path,
    *,
    bundle_id: str,
    manifest: Mapping[str, Any],
    model_folder: Path,
    tables: Mapping[str, pl.DataFrame],
) -> None:
    """Build a bundle under a hidden name, force it to disk and give it its name."""
    temporary = target.parent / f".new-{uuid.uuid4().hex}"
    temporary.mkdir()
    try:
        shutil.copytree(model_folder, temporary / MODEL)
        _verify_model(temporary / MODEL, manifest)
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
        if target.exists():  # of the right name, but not whole: a damaged disk, or a person's hand
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


def _point(serving_dir: Path, bundle_id: str) -> None:
    temporary = serving_dir / f".{POINTER}-{uuid.uuid4().hex}"
    temporary.write_text(bundle_id + "\n")
    _sync(temporary)
    os.replace(temporary, serving_dir / POINTER)
    _sync(serving_dir)


def _sweep(serving_dir: Path) -> None:
    """Delete what killed publishers and replaced bundles left; only the holder of the lock may."""
    for entry in (*serving_dir.glob(f".{POINTER}-*"), *(serving_dir / BUNDLES).glob(".new-*")):
        shutil.rmtree(entry) if entry.is_dir() else entry.unlink()
    for entry in (serving_dir / BUNDLES).glob(".pruned-*"):
        shutil.rmtree(entry, ignore_errors=True)


@contextlib.contextmanager
def _only_publisher(serving_dir: Path) -> Iterator[None]:
    """Hold the folder's lock; the kernel lets go of it when the process dies."""
    with (serving_dir / ".lock").open("w") as handle:
        fcntl.flock(handle, fcntl.LOCK_EX)
        yield


def _is_whole(folder: Path, manifest: Mapping[str, Any]) -> bool:
    import duckdb

    try:
        _published_at(folder)
        _verify_model(folder / MODEL, manifest)
        with contextlib.closing(duckdb.connect(str(folder / DATABASE), read_only=True)):
            return True
    except (OSError, ValueError, PublishError, duckdb.Error):
        return False


def _verify_model(folder: Path, manifest: Mapping[str, Any]) -> None:
    try:
        model = ForecastModel.load(folder)
    except ModelFileError as error:
        raise PublishError(f"the model cannot be published: {error}") from error
    if model.digest != manifest.get("model_digest"):
        raise PublishError(
            f"the model in {folder} has digest {model.digest}, the forecasts were made with "
            f"{manifest.get('model_digest')}; publish the model that made them"
        )


def _published_at(folder: Path) -> datetime | None:
    """Return when a bundle was published; None for one of before that was noted."""
    noted = json.loads((folder / MANIFEST).read_bytes()).get("published_at")
    return None if noted is None else datetime.fromisoformat(str(noted))


def _sync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
