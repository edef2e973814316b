"""The state of the server: one published bundle in memory, and the watcher that replaces it.

A state is immutable. When the pointer changes, the watcher loads the next state in a thread and swaps one reference, so
each request is served from exactly one bundle.
"""

from __future__ import annotations

import asyncio
import hashlib
import json
import logging
import math
import time
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from prometheus_client.core import Metric

from btc_assets.learning.forecast_model import ForecastModel, ModelFileError
from btc_assets.published import BUNDLE_ID, BUNDLES, DATABASE, MANIFEST, MODEL, NATIVE, POINTER
from btc_assets.vocabulary import QUANTILE_NAMES, display
from serve.explain import Explainer
from serve.figures import figures
from serve.model import RowReader
from serve.store import Store, StoreError

logger = logging.getLogger("serve")

POLL_S = 0.25
"""Seconds between two checks of the pointer."""
RETRY_S = 2.0
"""Seconds until loading a refused bundle is retried."""


class StateError(RuntimeError):
    """The published bundle cannot be served; the message says why."""


@dataclass(frozen=True)
class State:
    """One published bundle in memory.

    Attributes:
        bundle_id: id of the bundle.
        manifest: contents of `manifest.json`.
        model: the verified model.
        store: the database.
        newest: the newest forecast, one row per horizon.
        published_at: time of publication, UTC; None if an older version of the project published it.
        reader: decodes feature rows for this model.
        explainer: explains feature rows by this model.
        figures: Prometheus metrics of the bundle, except its age.
    """

    bundle_id: str
    manifest: dict[str, Any]
    model: ForecastModel
    store: Store
    newest: tuple[dict[str, Any], ...]
    published_at: datetime | None
    reader: RowReader = field(repr=False)
    explainer: Explainer = field(repr=False)
    figures: tuple[Metric, ...] = field(repr=False)

    @property
    def model_version(self) -> int:
        """Registry version of the model."""
        return int(self.newest[0]["model_version"])

    @property
    def missing_inputs(self) -> list[str]:
        """Inputs missing in the newest forecast beyond what its model saw in training."""
        return names_in(self.newest[0]["missing_inputs"])

    @property
    def made_at(self) -> datetime:
        """When the newest forecast was made."""
        made_at: datetime = self.newest[0]["made_at"]
        return made_at


def names_in(text: str) -> list[str]:
    """Return the names in a column that joins them by commas."""
    return text.split(",") if text else []


def live_id(serving_dir: Path) -> str | None:
    """Return the bundle id in the pointer, or None if nothing is published.

    Raises:
        StateError: the pointer cannot be read or does not hold a bundle id.
    """
    try:
        text = (serving_dir / POINTER).read_text().strip()
    except FileNotFoundError:
        return None
    except (OSError, UnicodeDecodeError) as error:
        raise StateError(f"{serving_dir / 'current'} cannot be read: {error}") from error
    if not BUNDLE_ID.match(text):
        raise StateError(f"{serving_dir / 'current'} is {text[:40]!r}; expected a bundle id of 16 hex digits")
    return text


def load_state(serving_dir: Path, bundle_id: str) -> State:
    """Load a bundle and verify that every endpoint can serve it.

    Raises:
        StateError: a part is missing, changed or inconsistent with the others.
    """
    folder = serving_dir / BUNDLES / bundle_id
    try:
        manifest = json.loads((folder / MANIFEST).read_bytes())
        model = ForecastModel.load(folder / MODEL)
        natives, medians = _explanation_parts(folder, manifest if isinstance(manifest, dict) else {})
        store = Store(folder / DATABASE)
        newest = tuple(store.newest())
        now = newest[0]["made_at"] if newest else None
        if now is not None:
            store.forecasts(now, now, limit=1, offset=0)
        metrics = figures(store, newest) if newest else ()
        published = manifest.get("published_at") if isinstance(manifest, dict) else None
        published_at = None if published is None else datetime.fromisoformat(str(published)).astimezone(UTC)
    except (OSError, ValueError, ModelFileError, StoreError) as error:
        raise StateError(f"bundle {bundle_id} cannot be served: {error}") from error
    if not newest:
        raise StateError(f"bundle {bundle_id} cannot be served: it has no champion forecast")
    for row in newest:
        numbers = [row["p_up"], *(row["close"] * _exp(row[q]) for q in QUANTILE_NAMES)]
        if not all(math.isfinite(number) for number in numbers):
            raise StateError(
                f"bundle {bundle_id} cannot be served: its {display(row['horizon_minutes'])} forecast is not finite"
            )
    if not isinstance(manifest, dict) or manifest.get("model_digest") != model.digest:
        raise StateError(
            f"bundle {bundle_id} cannot be served: its manifest names a different model than the bundle contains"
        )
    if newest[0]["model_digest"] != model.digest:
        raise StateError(f"bundle {bundle_id} cannot be served: its newest forecast is by a different model")
    reader, explainer = RowReader(model.features), Explainer(model, natives, medians)
    return State(bundle_id, manifest, model, store, newest, published_at, reader, explainer, metrics)


def _explanation_parts(folder: Path, manifest: dict[str, Any]) -> tuple[dict[str, bytes], dict[str, float]]:
    """Return the published members by file name, and the training medians; empty in bundles without them.

    Raises:
        ValueError: a member was changed.
    """
    natives = {name: (folder / NATIVE / name).read_bytes() for name in manifest.get("natives", {})}
    for name, content in natives.items():
        if hashlib.sha256(content).hexdigest() != manifest["natives"][name]:
            raise ValueError(f"{folder / NATIVE / name} was changed: its SHA-256 does not match {MANIFEST}")
    return natives, manifest.get("medians", {})


class Watcher:
    """Keeps `state` at the newest bundle that can be served.

    Attributes:
        state: the served state; None until a bundle is loaded.
        fault: why there is no state, or why the newest published bundle is not served; None without a fault.
    """

    def __init__(self, serving_dir: Path) -> None:
        """Watch a serving folder; `check` reads it first."""
        self._serving_dir = serving_dir
        self._refused: tuple[str, float] | None = None
        self.state: State | None = None
        self.fault: str | None = None

    def check(self) -> None:
        """Load the bundle of the pointer unless it is loaded already; on any fault keep the current one."""
        try:
            bundle_id = live_id(self._serving_dir)
            if bundle_id is None:
                if self.state is None:
                    self._report("No forecast has been published yet; materialise serving/bundle.")
                return
            if self.state is not None and self.state.bundle_id == bundle_id:
                self.fault = None
                return
            if self._refused is not None and self._refused[0] == bundle_id and time.monotonic() < self._refused[1]:
                return
            try:
                self.state = load_state(self._serving_dir, bundle_id)
            except StateError:
                self._refused = (bundle_id, time.monotonic() + RETRY_S)
                raise
        except StateError as error:
            kept = "" if self.state is None else f" Still serving {self.state.bundle_id}."
            self._report(f"{str(error)[0].upper()}{str(error)[1:]}.{kept}")
            return
        self.fault = self._refused = None
        logger.info("Serving bundle %s: model %s.", self.state.bundle_id, self.state.model_version)

    async def watch(self) -> None:
        """Check the pointer periodically in a thread until cancelled."""
        while True:
            await asyncio.sleep(POLL_S)
            try:
                await asyncio.to_thread(self.check)
            except Exception as error:  # noqa: BLE001 - the watcher must survive any bundle
                self._report(f"Checking the published bundle failed ({error!r}); still serving the loaded bundle.")

    def _report(self, sentence: str) -> None:
        if sentence != self.fault:
            logger.warning(sentence)
        self.fault = sentence


def _exp(value: float) -> float:
    try:
        return math.exp(value)
    except OverflowError:
        return math.inf
