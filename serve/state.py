"""What the server answers from: one published bundle, loaded whole, and the watcher that replaces it.

A state never changes. The watcher sees the pointer move, builds the next state aside in a thread and
swaps one reference, so a request sees the old bundle or the new one from its first byte to its last.
"""

from __future__ import annotations

import asyncio
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
from btc_assets.published import BUNDLE_ID, BUNDLES, DATABASE, MANIFEST, MODEL, POINTER
from btc_assets.vocabulary import QUANTILE_NAMES
from serve.figures import figures
from serve.model import RowReader
from serve.store import Store, StoreError

logger = logging.getLogger("serve")

POLL_S = 0.25
"""Seconds between two looks at the pointer."""
RETRY_S = 2.0
"""Seconds before a bundle that could not be loaded is tried again."""


class StateError(RuntimeError):
    """The published bundle cannot be served; the message says why."""


@dataclass(frozen=True)
class State:
    """One published bundle in memory.

    Attributes:
        bundle_id: its name.
        manifest: its `manifest.json`.
        model: its verified model.
        store: its database.
        newest: the newest forecast, one row a horizon.
        published_at: when it was published, UTC; None where an older version of the project published it.
        reader: decodes feature rows for this model.
        figures: what it tells Prometheus, besides its age.
    """

    bundle_id: str
    manifest: dict[str, Any]
    model: ForecastModel
    store: Store
    newest: tuple[dict[str, Any], ...]
    published_at: datetime | None
    reader: RowReader = field(repr=False)
    figures: tuple[Metric, ...] = field(repr=False)

    @property
    def model_version(self) -> int:
        """Registry version of the model."""
        return int(self.newest[0]["model_version"])

    @property
    def missing_inputs(self) -> list[str]:
        """Inputs that the newest forecast lacks beyond what its model saw in training."""
        return missing_inputs(self.newest[0])

    @property
    def made_at(self) -> datetime:
        """When the newest forecast was made."""
        made_at: datetime = self.newest[0]["made_at"]
        return made_at


def missing_inputs(row: dict[str, Any]) -> list[str]:
    """Return the names of the inputs that a forecast lacks."""
    return row["missing_inputs"].split(",") if row["degraded"] else []


def live_id(serving_dir: Path) -> str | None:
    """Return the id the pointer names, or None when nothing is published.

    Raises:
        StateError: the pointer holds something that is not an id.
    """
    try:
        text = (serving_dir / POINTER).read_text().strip()
    except FileNotFoundError:
        return None
    except (OSError, UnicodeDecodeError) as error:
        raise StateError(f"{serving_dir / 'current'} cannot be read: {error}") from error
    if not BUNDLE_ID.match(text):
        raise StateError(f"{serving_dir / 'current'} must hold a bundle id of 16 hex digits, it holds {text[:40]!r}")
    return text


def load_state(serving_dir: Path, bundle_id: str) -> State:
    """Load a bundle and verify that every answer can be given from it.

    Raises:
        StateError: a part is missing, altered, or does not fit the others.
    """
    folder = serving_dir / BUNDLES / bundle_id
    try:
        manifest = json.loads((folder / MANIFEST).read_bytes())
        model = ForecastModel.load(folder / MODEL)
        store = Store(folder / DATABASE)
        newest = tuple(store.newest())
        now = newest[0]["made_at"] if newest else None
        if now is not None:
            store.forecasts(now, now, limit=1, offset=0)
        facts = figures(store, newest) if newest else ()
        noted = manifest.get("published_at") if isinstance(manifest, dict) else None
        published_at = None if noted is None else datetime.fromisoformat(str(noted)).astimezone(UTC)
    except (OSError, ValueError, ModelFileError, StoreError) as error:
        raise StateError(f"bundle {bundle_id} cannot be served: {error}") from error
    if not newest:
        raise StateError(f"bundle {bundle_id} cannot be served: it holds no champion forecast")
    for row in newest:
        numbers = [row["p_up"], *(row["close"] * _exp(row[q]) for q in QUANTILE_NAMES)]
        if not all(math.isfinite(number) for number in numbers):
            raise StateError(
                f"bundle {bundle_id} cannot be served: its {row['horizon_hours']} h forecast is not finite"
            )
    if not isinstance(manifest, dict) or manifest.get("model_digest") != model.digest:
        raise StateError(f"bundle {bundle_id} cannot be served: its manifest names another model than it holds")
    if newest[0]["model_digest"] != model.digest:
        raise StateError(f"bundle {bundle_id} cannot be served: its newest forecast was made by another model")
    return State(bundle_id, manifest, model, store, newest, published_at, RowReader(model.features), facts)


class Watcher:
    """Keeps `state` at the newest bundle that can be served.

    Attributes:
        state: the state requests are answered from; None until a bundle could be loaded.
        fault: why there is none, or why the newest published one is not it; None when all is well.
    """

    def __init__(self, serving_dir: Path) -> None:
        """Watch a serving folder; nothing is read before `look`."""
        self._serving_dir = serving_dir
        self._refused: tuple[str, float] | None = None
        self.state: State | None = None
        self.fault: str | None = None

    def look(self) -> None:
        """Load the bundle the pointer names, unless it is loaded already; on any fault keep the old one."""
        try:
            bundle_id = live_id(self._serving_dir)
            if bundle_id is None:
                if self.state is None:
                    self._say("No forecast has been published yet; materialise serving/bundle.")
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
            kept = "" if self.state is None else f" Serving {self.state.bundle_id} on."
            self._say(f"{str(error)[0].upper()}{str(error)[1:]}.{kept}")
            return
        self.fault = self._refused = None
        logger.info("Serving bundle %s: model %s.", self.state.bundle_id, self.state.model_version)

    async def watch(self) -> None:
        """Look again and again, off the event loop, until cancelled."""
        while True:
            await asyncio.sleep(POLL_S)
            try:
                await asyncio.to_thread(self.look)
            except Exception as error:  # noqa: BLE001 - the watcher must outlive whatever a bundle holds
                self._say(f"The published bundle could not be looked at ({error!r}); serving what is loaded.")

    def _say(self, sentence: str) -> None:
        if sentence != self.fault:
            logger.warning(sentence)
        self.fault = sentence


def _exp(value: float) -> float:
    try:
        return math.exp(value)
    except OverflowError:
        return math.inf
