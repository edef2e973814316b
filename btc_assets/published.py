"""The layout of published bundles, and functions that read the live manifest.

<serving_dir>/current                      id of the live bundle
<serving_dir>/bundles/<id>/manifest.json   facts about its contents
/model/          the model, see `btc_assets.learning.forecast_model`
/native/         its members in the formats of their libraries, which explain forecasts; digests in the manifest
/serving.duckdb  forecasts, explanations, outcomes, reports, alerts and prices, read-only
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from datetime import datetime
from pathlib import Path
from typing import Any

FORMAT = 1
POINTER = "current"
BUNDLES = "bundles"
MANIFEST = "manifest.json"
MODEL = "model"
NATIVE = "native"
DATABASE = "serving.duckdb"
BUNDLE_ID = re.compile(r"^[0-9a-f]{16}$")


class UnreadableBundleError(RuntimeError):
    """The live bundle cannot be read."""


def live_manifest(serving_dir: Path) -> dict[str, Any] | None:
    """Return the manifest of the live bundle, or None without a readable live bundle."""
    try:
        bundle_id = (serving_dir / POINTER).read_text().strip()
        if not BUNDLE_ID.match(bundle_id):
            return None
        manifest = json.loads((serving_dir / BUNDLES / bundle_id / MANIFEST).read_bytes())
        made_at_of(manifest)
    except (OSError, ValueError):
        return None
    return manifest if isinstance(manifest, dict) else None


def newest_served_hour(serving_dir: Path) -> datetime | None:
    """Return the open_time (UTC) of the newest live forecast, or None without a pointer: nothing was published.

    Raises:
        UnreadableBundleError: the pointer or its bundle is damaged, so the served hours are unknown.
    """
    pointer = serving_dir / POINTER
    if not pointer.exists():
        return None
    try:
        return datetime.fromisoformat((live_manifest(serving_dir) or {})["open_time"])
    except (KeyError, TypeError, ValueError) as error:
        raise UnreadableBundleError(
            f"{pointer} names no bundle that can be read, so the hours that were served are unknown; publish the "
            "newest day again with the job publish_bundle"
        ) from error


def made_at_of(manifest: Mapping[str, Any]) -> datetime:
    """Return when the newest forecast of a bundle was made.

    Raises:
        ValueError: `made_at` is missing or is not an ISO time with a UTC offset.
    """
    try:
        made_at = datetime.fromisoformat(manifest["made_at"])
    except (KeyError, TypeError, ValueError) as error:
        raise ValueError(f"made_at of the manifest must be an ISO time: {error!r}") from error
    if made_at.tzinfo is None:
        raise ValueError(f"made_at must have a UTC offset, got {manifest['made_at']}")
    return made_at
