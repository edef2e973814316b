"""A model as a folder: ONNX graphs, and a `model.json` that says everything needed to use them.

    <folder>/p_up_1h.onnx  q05_1h.onnx ... q95_24h.onnx  model.json

The folder is the whole model: training writes it, and forecasts and the server read it through the
one `ForecastModel` below, so the numbers are the same everywhere. No pickle, no training library.

Digest: `model.json` holds the SHA-256 of every graph under `graphs`, and under `digest` the SHA-256
of the document itself in canonical JSON (keys sorted, no spaces, UTF-8, no NaN) without that key.
One digest thus names graphs, features, calibration and metrics together. `load` verifies all of it.
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
"""Version of the folder's layout; a reader refuses any other."""
DOCUMENT = "model.json"
MEDIAN = QUANTILE_NAMES.index("q50")
OUTPUTS = ("p_up", *QUANTILE_NAMES)
"""What a model yields for each horizon, one graph each."""

_CERTAIN = 1e-6  # a float32 probability closer to 0 or 1 than this has no usable logit


class ModelFileError(RuntimeError):
    """A model folder is missing, altered, incomplete or of another format."""


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
    """Return the file name of one output's graph, for example `q05_4h.onnx`."""
    return f"{output}_{horizon}h.onnx"


def document_digest(document: Mapping[str, Any]) -> str:
    """Return the SHA-256 of a model document in canonical JSON, its own `digest` left out.

    Raises:
        ModelFileError: the document holds NaN, infinities or something JSON has no form for.
    """
    body = {key: value for key, value in document.items() if key != "digest"}
    try:
        canonical = json.dumps(body, sort_keys=True, separators=(",", ":"), ensure_ascii=False, allow_nan=False)
    except (TypeError, ValueError) as error:
        raise ModelFileError(f"the model document cannot be written as JSON: {error}") from error
    return hashlib.sha256(canonical.encode()).hexdigest()


def schema_hash(features: tuple[str, ...] | list[str]) -> str:
    """Return the SHA-256 of the feature names in order, one a line."""
    return hashlib.sha256("\n".join(features).encode()).hexdigest()


def calibrated(p_raw: np.ndarray, slope: float | np.ndarray, intercept: float | np.ndarray) -> np.ndarray:
    """Apply a logistic calibration (Platt, 1999) in log-odds: sigmoid(slope * logit(p) + intercept)."""
    odds_against: np.ndarray = np.exp(np.minimum(-(slope * log_odds(p_raw) + intercept), 500.0))  # e^710 overflows
    return 1.0 / (1.0 + odds_against)


def log_odds(p: np.ndarray) -> np.ndarray:
    """Return ln(p / (1 - p)), with p kept away from 0 and 1."""
    p = np.minimum(np.maximum(p, _CERTAIN), 1 - _CERTAIN)  # np.clip takes three times as long for one row
    return np.log(p) - np.log1p(-p)


def row_scale(volatility: np.ndarray, horizon: int, *, floor: float, unknown: float) -> np.ndarray:
    """Return how far the price usually moves over `horizon` hours, shape (n,), fraction.

    Quantiles are learnt in units of this scale, so that one set of trees holds in calm and in wild markets.

    Args:
        volatility: hourly volatility of each row, fraction, shape (n,); NaN where not known.
        horizon: hours ahead; the square-root-of-time rule.
        floor: least hourly volatility assumed: a flat day must not give an interval without width.
        unknown: hourly volatility assumed where it is not known.
    """
    known = np.where(np.isnan(volatility), unknown, volatility).astype(np.float64, copy=False)
    return np.maximum(known, floor) * math.sqrt(horizon)


def save_model(folder: Path, document: Mapping[str, Any], graphs: Mapping[str, bytes]) -> str:
    """Write a model folder, whole or not at all, and return its digest.

    Args:
        folder: where it goes; its parent is made. Writing the same model again changes nothing.
        document: the model document; `format`, `graphs`, `schema_hash` and `digest` are filled in.
        graphs: serialised ONNX graphs by file name, see `graph_name`.

    Raises:
        ModelFileError: the document or the graphs are incomplete, or `folder` holds something else.
    """
    features = [feature["name"] for feature in document["features"]]
    full = {
        **document,
        "format": FORMAT,
        "graphs": {name: hashlib.sha256(graphs[name]).hexdigest() for name in sorted(graphs)},
        "schema_hash": schema_hash(features),
    }
    full["digest"] = document_digest(full)
    # What a reader will see, so that a key JSON alters (1 becomes "1") fails here and not there.
    text = json.dumps(full, indent=2, ensure_ascii=False, allow_nan=False)
    _verified(json.loads(text), folder)
    if folder.exists():
        if _stored_digest(folder) == full["digest"]:
            return str(full["digest"])
        raise ModelFileError(f"{folder} already holds another model; a model folder is never overwritten")
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
    """A verified model, ready to predict. Immutable and safe to share between threads.

    Attributes:
        document: `model.json`.
        digest: SHA-256 that names the model.
        cutoff: only what was available at this day's 00:00 UTC was trained on.
        horizons: hours ahead.
        features: feature names in the order of the columns of `predict`'s rows.
    """

    def __init__(self, document: dict[str, Any], graphs: Graphs) -> None:
        """Hold a verified document and its graphs, those of P(up) first, then by horizon; use `load`."""
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
        # Each in the shape of one row's numbers: numpy takes a third of the time where it need not broadcast.
        offsets = [[document["conformal"][key].get(q, 0.0) for q in QUANTILE_NAMES] for key in keys]
        self._offsets = np.array([offsets])
        self._root_time = np.sqrt([[[float(horizon)] * len(QUANTILES) for horizon in self.horizons]])
        self._slopes = np.array([[float(document["calibration"][key]["slope"]) for key in keys]])
        self._intercepts = np.array([[float(document["calibration"][key]["intercept"]) for key in keys]])

    @classmethod
    def load(cls, folder: Path) -> ForecastModel:
        """Read a model folder, verifying the document's digest and every graph's.

        Raises:
            ModelFileError: anything in the folder is missing, altered or not understood.
        """
        document = _read_document(folder)
        _verified(document, folder)
        if document_digest(document) != document["digest"]:
            raise ModelFileError(f"{folder / DOCUMENT} was altered: its digest is not the one it states")
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
                raise ModelFileError(f"{folder / name} was altered: its SHA-256 is not the one in {DOCUMENT}")
        try:
            return cls(document, Graphs(graphs, len(document["features"])))
        except GraphError as error:
            raise ModelFileError(f"{folder}/{error}") from error

    def predict(self, rows: np.ndarray) -> dict[int, HorizonForecast]:
        """Forecast every horizon for every row.

        Args:
            rows: shape (n, len(features)), columns in the order of `features`; NaN means missing.

        Returns:
            A forecast for each horizon, in hours.

        Raises:
            ValueError: the rows have another shape or hold an infinity.
            ModelFileError: a graph yields something that is not a number.
        """
        p_up, quantiles = self.predict_arrays(rows)
        return {
            horizon: HorizonForecast(p_up[:, i], quantiles[:, i])  # a view each: no row is copied
            for i, horizon in enumerate(self.horizons)
        }

    def predict_arrays(self, rows: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Forecast like `predict`, all horizons in one array each.

        Returns:
            P(up), shape (n, horizons), and the quantiles, shape (n, horizons, 5).
        """
        rows = np.asarray(rows, dtype=np.float64)
        if rows.ndim != 2 or rows.shape[1] != len(self.features):
            raise ValueError(f"rows must have shape (n, {len(self.features)}), got {rows.shape}")
        if np.count_nonzero(np.isinf(rows)):  # half of what `.any()` takes for one row
            raise ValueError("rows hold an infinity; a missing value is NaN")
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
        """Return `row_scale` at every horizon for each quantile, of shape (n, horizons, 5)."""
        if len(volatility) == 1:  # the interpreter is quicker with one number than numpy, by a twentieth of a forecast
            hourly = volatility.item()
            return max(self._scale_unknown if math.isnan(hourly) else hourly, self._scale_floor) * self._root_time
        rows = row_scale(volatility, 1, floor=self._scale_floor, unknown=self._scale_unknown)
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
    """Return the digest a model folder states, or None when it is not a whole model folder."""
    try:
        return ForecastModel.load(folder).digest
    except ModelFileError:
        return None


def _verified(document: dict[str, Any], folder: Path) -> None:
    """Raise unless the document has all that `ForecastModel` reads, in the form it reads it."""
    where = folder / DOCUMENT
    if document.get("format") != FORMAT:
        raise ModelFileError(f"{where} has format {document.get('format')!r}; this program reads format {FORMAT}")
    try:
        features = [feature["name"] for feature in document["features"]]
        horizons = list(document["horizons"])
        wanted = {graph_name(output, horizon) for horizon in horizons for output in OUTPUTS}
        date.fromisoformat(document["cutoff"])
        numbers = [document["scale"]["floor"], document["scale"]["null"]]
        for horizon in map(str, horizons):
            numbers += [document["calibration"][horizon][part] for part in ("slope", "intercept")]
            numbers += document["conformal"][horizon].values()
        scale_feature = document["scale"]["feature"]
        stated = document["schema_hash"]
        unknown = {name for h in map(str, horizons) for name in document["conformal"][h]} - set(QUANTILE_NAMES)
    except (KeyError, TypeError, AttributeError, ValueError) as error:
        raise ModelFileError(f"{where} lacks a part or holds it in the wrong form: {error!r}") from error
    if not horizons or not all(isinstance(h, int) and h > 0 for h in horizons) or not features:
        raise ModelFileError(f"{where} must name at least one horizon in whole hours and one feature")
    if len(set(features)) != len(features):
        raise ModelFileError(f"{where} names a feature twice")
    if list(document.get("quantiles", ())) != list(QUANTILES):
        raise ModelFileError(f"{where} must forecast the quantiles {QUANTILES}")
    if set(document["graphs"]) != wanted:
        odd = sorted(set(document["graphs"]) ^ wanted)
        raise ModelFileError(f"{where} and its graphs disagree about {', '.join(odd)}")
    if scale_feature not in features:
        raise ModelFileError(f"{where} scales with {scale_feature!r}, which is not one of the model's features")
    if not all(isinstance(n, int | float) and math.isfinite(n) for n in numbers) or unknown:
        raise ModelFileError(f"{where} holds a calibration, conformal offset or scale that is not a finite number")
    if stated != schema_hash(features):
        raise ModelFileError(f"{where} names other features than its schema hash stands for")


def _write_synced(path: Path, content: bytes) -> None:
    with path.open("wb") as sink:
        sink.write(content)
        sink.flush()
        os.fsync(sink.fileno())
