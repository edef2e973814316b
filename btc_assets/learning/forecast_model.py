"""A model as a folder: ONNX graphs and a `model.json` with everything needed to use them.

    <folder>/p_up_60m.onnx  q05_60m.onnx ... q95_1440m.onnx  model.json

The folder is the complete model. Training writes it; forecasts and the server read it through the same `ForecastModel`,
so their numbers are identical. It needs no pickle and no training library.

Digest: `model.json` has the SHA-256 of every graph under `graphs`, and under `digest` the SHA-256 of the document in
canonical JSON (keys sorted, no spaces, UTF-8, no NaN) without that key. The digest therefore covers graphs, features,
calibration and metrics. `load` verifies all of it.
"""

from __future__ import annotations

import hashlib
import json
import math
import os
import shutil
import uuid
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import date
from pathlib import Path
from typing import Any

import numpy as np

from btc_assets.learning.graph import GraphError, Graphs
from btc_assets.vocabulary import QUANTILE_NAMES, QUANTILES

FORMAT = 1
"""Version of the folder layout; other versions are refused."""
DOCUMENT = "model.json"
MEDIAN = QUANTILE_NAMES.index("q50")
OUTPUTS = ("p_up", *QUANTILE_NAMES)
"""The outputs of a model per horizon, one graph each."""

_MIN_PROBABILITY = 1e-6  # a float32 probability closer to 0 or 1 than this has no usable logit


class ModelFileError(RuntimeError):
    """A model folder is missing, changed, incomplete or of another format."""


@dataclass(frozen=True)
class HorizonForecast:
    """The forecast of one horizon for n rows.

    Attributes:
        p_up: calibrated probability of a rise, shape (n,), within [0, 1].
        quantiles: log-return quantiles, fraction, shape (n, 5) in the order of `QUANTILES`, conformal
            offsets applied, never crossing.
    """

    p_up: np.ndarray
    quantiles: np.ndarray


def graph_name(output: str, horizon: int) -> str:
    """Return the file name of one output's graph, for example `q05_240m.onnx`."""
    return f"{output}_{horizon}m.onnx"


def document_digest(document: Mapping[str, Any]) -> str:
    """Return the SHA-256 of a model document in canonical JSON without its `digest`.

    Raises:
        ModelFileError: the document contains NaN, infinities or values that JSON cannot represent.
    """
    body = {key: value for key, value in document.items() if key != "digest"}
    try:
        canonical = json.dumps(body, sort_keys=True, separators=(",", ":"), ensure_ascii=False, allow_nan=False)
    except (TypeError, ValueError) as error:
        raise ModelFileError(f"the model document cannot be written as JSON: {error}") from error
    return hashlib.sha256(canonical.encode()).hexdigest()


def schema_hash(features: tuple[str, ...] | list[str]) -> str:
    """Return the SHA-256 of the feature names in order, one per line."""
    return hashlib.sha256("\n".join(features).encode()).hexdigest()


def calibrated(p_raw: np.ndarray, slope: float | np.ndarray, intercept: float | np.ndarray) -> np.ndarray:
    """Apply a logistic calibration (Platt, 1999) in log-odds: sigmoid(slope * logit(p) + intercept)."""
    odds_against: np.ndarray = np.exp(np.minimum(-(slope * log_odds(p_raw) + intercept), 500.0))  # e^710 overflows
    return 1.0 / (1.0 + odds_against)


def log_odds(p: np.ndarray) -> np.ndarray:
    """Return ln(p / (1 - p)), with p clipped away from 0 and 1."""
    p = np.minimum(
        np.maximum(p, _MIN_PROBABILITY), 1 - _MIN_PROBABILITY
    )  # np.clip takes three times as long for one row
    return np.log(p) - np.log1p(-p)


def row_scale(volatility: np.ndarray, horizon: int, *, floor: float, unknown: float) -> np.ndarray:
    """Return the typical move of the price over `horizon` minutes, shape (n,), fraction.

    Quantiles are trained in units of this scale, so that one set of trees is valid for low and high volatility.

    Args:
        volatility: hourly volatility of each row, fraction, shape (n,); NaN where unknown.
        horizon: minutes ahead; the square-root-of-time rule.
        floor: minimum hourly volatility, so that a day without moves does not give an interval of zero width.
        unknown: hourly volatility for unknown values.
    """
    known = np.where(np.isnan(volatility), unknown, volatility).astype(np.float64, copy=False)
    return np.maximum(known, floor) * math.sqrt(horizon / 60)


def save_model(folder: Path, document: Mapping[str, Any], graphs: Mapping[str, bytes]) -> str:
    """Write a model folder atomically and return its digest.

    Args:
        folder: target folder; its parent is created. Writing the same model again changes nothing.
        document: the model document; `format`, `graphs`, `schema_hash` and `digest` are added.
        graphs: serialised ONNX graphs by file name, see `graph_name`.

    Raises:
        ModelFileError: the document or the graphs are incomplete, or `folder` contains something else.
    """
    features = [feature["name"] for feature in document["features"]]
    full = {
        **document,
        "format": FORMAT,
        "graphs": {name: hashlib.sha256(graphs[name]).hexdigest() for name in sorted(graphs)},
        "schema_hash": schema_hash(features),
    }
    full["digest"] = document_digest(full)
    # Verify what a reader gets: a key that JSON changes (1 becomes "1") must fail here.
    text = json.dumps(full, indent=2, ensure_ascii=False, allow_nan=False)
    _verified(json.loads(text), folder)
    if folder.exists():
        if _stored_digest(folder) == full["digest"]:
            return str(full["digest"])
        raise ModelFileError(f"{folder} already contains another model; a model folder is never overwritten")
    folder.parent.mkdir(parents=True, exist_ok=True)
    temporary = folder.parent / f".{folder.name}.{uuid.uuid4().hex}"
    try:
        temporary.mkdir()
        for name, graph in graphs.items():
            _write_synced(temporary / name, graph)
        _write_synced(temporary / DOCUMENT, text.encode())
        os.rename(temporary, folder)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
    return str(full["digest"])


class ForecastModel:
    """A verified model, ready to predict. Immutable and thread-safe.

    Attributes:
        document: contents of `model.json`.
        digest: SHA-256 of the model.
        cutoff: training used only data available at this day's 00:00 UTC.
        horizons: minutes ahead.
        features: feature names in the order of the columns of `predict`'s rows.
    """

    def __init__(self, document: dict[str, Any], graphs: Graphs) -> None:
        """Store a verified document and its graphs, those of P(up) first, then by horizon; use `load` instead."""
        self.document = document
        self.digest: str = document["digest"]
        self.cutoff = date.fromisoformat(document["cutoff"])
        self.horizons: tuple[int, ...] = tuple(document["horizons"])
        self.features: tuple[str, ...] = tuple(feature["name"] for feature in document["features"])
        self._graphs = graphs
        scale = document["scale"]
        self._scale_column = self.features.index(scale["feature"])
        self._scale_floor = float(scale["floor"])
        self._scale_unknown = float(scale["null"])
        keys = [str(horizon) for horizon in self.horizons]
        # Each has the shape of one row's values: without broadcasting, numpy takes a third of the time.
        offsets = [[document["conformal"][key].get(q, 0.0) for q in QUANTILE_NAMES] for key in keys]
        self._offsets = np.array([offsets])
        self._root_time = np.sqrt([[[horizon / 60] * len(QUANTILES) for horizon in self.horizons]])
        self._slopes = np.array([[float(document["calibration"][key]["slope"]) for key in keys]])
        self._intercepts = np.array([[float(document["calibration"][key]["intercept"]) for key in keys]])

    @classmethod
    def load(cls, folder: Path) -> ForecastModel:
        """Read a model folder and verify the digests of the document and of every graph.

        Raises:
            ModelFileError: a part of the folder is missing, changed or invalid.
        """
        document = _read_document(folder)
        _verified(document, folder)
        if document_digest(document) != document["digest"]:
            raise ModelFileError(f"{folder / DOCUMENT} was changed: its digest does not match its contents")
        graphs = {}
        horizons = document["horizons"]
        names = [graph_name("p_up", horizon) for horizon in horizons]
        names += [graph_name(quantile, horizon) for horizon in horizons for quantile in QUANTILE_NAMES]
        for name in names:
            try:
                graphs[name] = (folder / name).read_bytes()
            except OSError as error:
                raise ModelFileError(f"{folder / name} cannot be read: {error.strerror or error}") from error
            if hashlib.sha256(graphs[name]).hexdigest() != document["graphs"][name]:
                raise ModelFileError(f"{folder / name} was changed: its SHA-256 does not match {DOCUMENT}")
        try:
            return cls(document, Graphs(graphs, len(document["features"])))
        except GraphError as error:
            raise ModelFileError(f"{folder}/{error}") from error

    def predict(self, rows: np.ndarray) -> dict[int, HorizonForecast]:
        """Forecast every horizon for every row.

        Args:
            rows: shape (n, len(features)), columns in the order of `features`; NaN means missing.

        Returns:
            A forecast for each horizon, in minutes.

        Raises:
            ValueError: the rows have another shape or contain an infinity.
            ModelFileError: a graph returns a value that is not finite.
        """
        p_up, quantiles = self.predict_arrays(rows)
        return {
            horizon: HorizonForecast(p_up[:, i], quantiles[:, i])  # views, without copies
            for i, horizon in enumerate(self.horizons)
        }

    def predict_arrays(self, rows: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Forecast like `predict`, with all horizons in one array per output.

        Returns:
            P(up), shape (n, horizons), and the quantiles, shape (n, horizons, 5).
        """
        rows = np.asarray(rows, dtype=np.float64)
        if rows.ndim != 2 or rows.shape[1] != len(self.features):
            raise ValueError(f"rows must have shape (n, {len(self.features)}), got {rows.shape}")
        if np.count_nonzero(np.isinf(rows)):  # takes half the time of `.any()` for one row
            raise ValueError("rows contain an infinity; a missing value must be NaN")
        n, horizons = len(rows), len(self.horizons)
        if not n:
            return np.empty((0, horizons)), np.empty((0, horizons, len(QUANTILES)))
        try:
            raw = self._graphs(rows.astype(np.float32))
        except GraphError as error:
            raise ModelFileError(str(error)) from error
        quantiles = raw[:, horizons:].reshape(n, horizons, len(QUANTILES)) + self._offsets
        quantiles *= self._scales(rows[:, self._scale_column])
        quantiles.sort(axis=2)
        return calibrated(raw[:, :horizons], self._slopes, self._intercepts), quantiles

    def _scales(self, volatility: np.ndarray) -> np.ndarray:
        """Return `row_scale` of every horizon for each quantile, shape (n, horizons, 5)."""
        if len(volatility) == 1:  # plain Python is faster than numpy for one value
            hourly = volatility.item()
            return max(self._scale_unknown if math.isnan(hourly) else hourly, self._scale_floor) * self._root_time
        rows = row_scale(volatility, 60, floor=self._scale_floor, unknown=self._scale_unknown)
        return rows[:, None, None] * self._root_time


def _read_document(folder: Path) -> dict[str, Any]:
    path = folder / DOCUMENT
    try:
        document = json.loads(path.read_bytes())
    except OSError as error:
        raise ModelFileError(f"{path} cannot be read: {error.strerror or error}") from error
    except ValueError as error:
        raise ModelFileError(f"{path} is not JSON: {error}") from error
    if not isinstance(document, dict):
        raise ModelFileError(f"{path} must hold a JSON object")
    return document


def _stored_digest(folder: Path) -> str | None:
    """Return the digest of a model folder, or None if it is not a valid model folder."""
    try:
        return ForecastModel.load(folder).digest
    except ModelFileError:
        return None


def _verified(document: dict[str, Any], folder: Path) -> None:
    """Raise ModelFileError unless the document has every part that `ForecastModel` reads, in the expected form."""
    where = folder / DOCUMENT
    if document.get("format") != FORMAT:
        raise ModelFileError(f"{where} has format {document.get('format')!r}; this program reads format {FORMAT}")
    try:
        features = [feature["name"] for feature in document["features"]]
        horizons = list(document["horizons"])
        expected_graphs = {graph_name(output, horizon) for horizon in horizons for output in OUTPUTS}
        date.fromisoformat(document["cutoff"])
        numbers = [document["scale"]["floor"], document["scale"]["null"]]
        for horizon in map(str, horizons):
            numbers += [document["calibration"][horizon][part] for part in ("slope", "intercept")]
            numbers += document["conformal"][horizon].values()
        scale_feature = document["scale"]["feature"]
        stated_hash, _ = document["schema_hash"], document["digest"]
        unknown = {name for h in map(str, horizons) for name in document["conformal"][h]} - set(QUANTILE_NAMES)
    except (KeyError, TypeError, AttributeError, ValueError) as error:
        raise ModelFileError(f"{where} has a missing or invalid part: {error!r}") from error
    if not horizons or not all(isinstance(h, int) and h > 0 for h in horizons) or not features:
        raise ModelFileError(f"{where} must name at least one horizon in whole minutes and one feature")
    if len(set(features)) != len(features):
        raise ModelFileError(f"{where} names a feature twice")
    if list(document.get("quantiles", ())) != list(QUANTILES):
        raise ModelFileError(f"{where} must forecast the quantiles {QUANTILES}")
    if set(document["graphs"]) != expected_graphs:
        differing = sorted(set(document["graphs"]) ^ expected_graphs)
        raise ModelFileError(f"{where} and its graphs disagree about {', '.join(differing)}")
    if scale_feature not in features:
        raise ModelFileError(f"{where} scales with {scale_feature!r}, which is not one of the model's features")
    if not all(isinstance(n, int | float) and math.isfinite(n) for n in numbers) or unknown:
        raise ModelFileError(f"{where} has a calibration, conformal offset or scale that is not a finite number")
    if stated_hash != schema_hash(features):
        raise ModelFileError(f"{where} has a schema hash that does not match its features")


def _write_synced(path: Path, content: bytes) -> None:
    with path.open("wb") as file:
        file.write(content)
        file.flush()
        os.fsync(file.fileno())
