"""A model as a folder: the ONNX graphs of an ensemble and a `model.json` with everything needed to use them.

    <folder>/xgboost_2y.p_up_60m.onnx  ridge_6y.p_up_60m.onnx ... intervals.q95_1440m.onnx  model.json

The folder is the complete model. Training writes it; forecasts and the server read it through the same `ForecastModel`,
so their numbers are identical. It needs no pickle and no training library.

P(up) is the weighted mean of the members' calibrated log-odds. A member *abstains* in a row if an input that it
requires is missing; the others share its weight. If every member would abstain, none does, and the caller decides
whether to use the forecast.

Digest: `model.json` has the SHA-256 of every graph under `graphs`, and under `digest` the SHA-256 of the document in
canonical JSON (keys sorted, no spaces, UTF-8, no NaN) without that key. The digest therefore covers graphs, features,
members and metrics. `load` verifies all of it.
"""

from __future__ import annotations

import hashlib
import json
import math
import os
import re
import shutil
import uuid
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import date
from pathlib import Path
from typing import Any

import numpy as np

from btc_assets.learning.graph import GraphError, Graphs
from btc_assets.learning.sigma import Sigma
from btc_assets.vocabulary import QUANTILE_NAMES, QUANTILES

FORMAT = 2
"""Version of the folder layout; other versions are refused."""
DOCUMENT = "model.json"
MEDIAN = QUANTILE_NAMES.index("q50")
INTERVALS = "intervals"
"""Prefix of the graphs of quantiles."""
SIZE = "size"
"""Prefix of the graphs of sizes, and their output."""

_NAME = re.compile(r"^[a-z][a-z0-9_]{0,62}$")
_MIN_PROBABILITY = 1e-6  # a float32 probability closer to 0 or 1 than this has no usable logit


class ModelFileError(RuntimeError):
    """A model folder is missing, changed, incomplete or of another format."""


@dataclass(frozen=True)
class HorizonForecast:
    """The forecast of one horizon for n rows.

    Attributes:
        p_up: probability of a rise, shape (n,), within [0, 1].
        quantiles: log-return quantiles, fraction, shape (n, 5) in the order of `QUANTILES`, conformal
            offsets applied, never crossing.
        sigma: forecast standard deviation of the log return, fraction, shape (n,).
        expected_return_bps: forecast mean of the log return, basis points, shape (n,); not from P(up).
    """

    p_up: np.ndarray
    quantiles: np.ndarray
    sigma: np.ndarray
    expected_return_bps: np.ndarray


@dataclass(frozen=True)
class Forecasts:
    """The forecasts of n rows for every horizon; `forecasts[horizon]` has those of one.

    Attributes:
        horizons: the h horizons, minutes.
        p_up: shape (n, h), see `HorizonForecast`.
        quantiles: shape (n, h, 5).
        sigma: shape (n, h).
        expected_return_bps: shape (n, h).
        abstains: which of the m members abstain, shape (n, m).
        unfounded: whether every member lacks an input that it requires, so that none abstains, shape (n,).
    """

    horizons: tuple[int, ...]
    p_up: np.ndarray
    quantiles: np.ndarray
    sigma: np.ndarray
    expected_return_bps: np.ndarray
    abstains: np.ndarray
    unfounded: np.ndarray

    def __getitem__(self, horizon: int) -> HorizonForecast:
        """Return the forecasts of one horizon, as views."""
        at = self.horizons.index(horizon)
        return HorizonForecast(
            self.p_up[:, at], self.quantiles[:, at], self.sigma[:, at], self.expected_return_bps[:, at]
        )


def graph_name(member: str, output: str, horizon: int) -> str:
    """Return the file name of one output's graph, for example `intervals.q05_240m.onnx`."""
    return f"{member}.{output}_{horizon}m.onnx"


def graph_parts(name: str) -> tuple[str, str, int]:
    """Return member, output and horizon, minutes, of a file name made by `graph_name`."""
    member, output, minutes = re.fullmatch(r"(\w+)\.(\w+)_(\d+)m\.onnx", name).groups()  # type: ignore[union-attr]
    return member, output, int(minutes)


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
    return probability(slope * log_odds(p_raw) + intercept)


def probability(score: np.ndarray) -> np.ndarray:
    """Return the probability of log-odds."""
    odds_against: np.ndarray = np.exp(np.minimum(-score, 500.0))  # e^710 overflows
    return 1.0 / (1.0 + odds_against)


def log_odds(p: np.ndarray) -> np.ndarray:
    """Return ln(p / (1 - p)), with p clipped away from 0 and 1."""
    p = np.minimum(
        np.maximum(p, _MIN_PROBABILITY), 1 - _MIN_PROBABILITY
    )  # np.clip takes three times as long for one row
    return np.log(p) - np.log1p(-p)


def weighted_mean(values: np.ndarray, weights: np.ndarray, coin: float | np.ndarray = 0.0) -> np.ndarray:
    """Return the weighted mean over the first axis, shape (...); 0 without any weight.

    The sum runs in the order of the axis, so a row's mean does not depend on the other rows.

    Args:
        values: shape (m, ...).
        weights: shape (m, ...), none below 0.
        coin: weight of one more value of 0.
    """
    total = values[0] * weights[0]
    mass = weights[0] + coin
    for value, weight in zip(values[1:], weights[1:], strict=True):
        total += value * weight
        mass += weight
    return total / np.where(mass > 0, mass, 1.0)


def tercile(scale: np.ndarray, edges: np.ndarray) -> np.ndarray:
    """Return the tercile of each scale, 0 for the calmest; without edges always 0."""
    return np.searchsorted(edges, scale, side="right")


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
        members: names of the members of the ensemble, in the order of `Forecasts.abstains`.
    """

    def __init__(self, document: dict[str, Any], graphs: Graphs) -> None:
        """Store a verified document and its graphs in the order of `graph_inputs`; use `load` instead."""
        self.document = document
        self.digest: str = document["digest"]
        self.cutoff = date.fromisoformat(document["cutoff"])
        self.horizons: tuple[int, ...] = tuple(document["horizons"])
        self.features: tuple[str, ...] = tuple(feature["name"] for feature in document["features"])
        self.members: tuple[str, ...] = tuple(member["name"] for member in document["members"])
        self._graphs = graphs
        members = document["members"]
        self._sigma = Sigma(document["volatility"])
        self._sigma_columns = [self.features.index(name) for name in self._sigma.inputs]
        keys = [str(horizon) for horizon in self.horizons]
        # Each has the shape of one row's values: without broadcasting, numpy takes a third of the time.
        offsets = [[document["conformal"][key].get(q, 0.0) for q in QUANTILE_NAMES] for key in keys]
        self._offsets = np.array([offsets])
        calibrations = [[member["calibration"][key] for key in keys] for member in members]
        self._slopes = np.array([[[float(one["slope"]) for one in row] for row in calibrations]])
        self._intercepts = np.array([[[float(one["intercept"]) for one in row] for row in calibrations]])
        self._required = required_columns(document)
        self._size_slopes = np.array([[1e4 * float(document["size"]["slope"][key]) for key in keys]])
        weights = np.array([[member["weights"][key] for key in keys] for member in members], dtype=np.float64)
        self._weights = [weights[:, i] for i in range(len(keys))]  # (members, terciles) of each horizon
        self._calm = np.stack([of[:, :1] for of in self._weights], axis=2)
        self._edges = [np.array(document["weights"]["edges"][key], dtype=np.float64) for key in keys]
        self._coin = np.array([float(document["weights"]["coin"][key]) for key in keys])

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
        for name in graph_inputs(document):
            try:
                graphs[name] = (folder / name).read_bytes()
            except OSError as error:
                raise ModelFileError(f"{folder / name} cannot be read: {error.strerror or error}") from error
            if hashlib.sha256(graphs[name]).hexdigest() != document["graphs"][name]:
                raise ModelFileError(f"{folder / name} was changed: its SHA-256 does not match {DOCUMENT}")
        try:
            width = len(document["features"]) + len(document["horizons"])
            return cls(document, Graphs(graphs, width, graph_inputs(document)))
        except GraphError as error:
            raise ModelFileError(f"{folder}/{error}") from error

    def predict(self, rows: np.ndarray, missing: np.ndarray | None = None) -> Forecasts:
        """Forecast every horizon for every row.

        Args:
            rows: shape (n, len(features)), columns in the order of `features`; NaN means missing.
            missing: which values are missing although the rows hold a substitute, same shape; a member that requires
                such a value abstains, and the volatility model does without it.

        Raises:
            ValueError: the rows have another shape or contain an infinity.
            ModelFileError: a graph returns a value that is not finite.
        """
        rows = np.asarray(rows, dtype=np.float64)
        if rows.ndim != 2 or rows.shape[1] != len(self.features):
            raise ValueError(f"rows must have shape (n, {len(self.features)}), got {rows.shape}")
        if np.count_nonzero(np.isinf(rows)):  # takes half the time of `.any()` for one row
            raise ValueError("rows contain an infinity; a missing value must be NaN")
        n, horizons, members = len(rows), len(self.horizons), len(self.members)
        if not n:
            empty, none = np.empty((0, horizons)), np.empty((0, members), dtype=np.bool_)
            return Forecasts(
                self.horizons,
                empty,
                np.empty((0, horizons, len(QUANTILES))),
                empty,
                empty,
                none,
                np.empty(0, dtype=np.bool_),
            )
        known = rows if missing is None else np.where(missing, np.nan, rows)
        sigma = self._sigma(known[:, self._sigma_columns])
        inputs = np.empty((n, rows.shape[1] + horizons), dtype=np.float32)
        inputs[:, : rows.shape[1]], inputs[:, rows.shape[1] :] = rows, np.log(sigma)
        try:
            raw = self._graphs(inputs)
        except GraphError as error:
            raise ModelFileError(str(error)) from error
        lacks = np.isnan(known) @ self._required
        unfounded = lacks.all(axis=1)
        abstains = lacks & ~unfounded[:, None]
        logits = self._slopes * log_odds(raw[:, : members * horizons].reshape(n, members, horizons)) + self._intercepts
        p_up = probability(weighted_mean(logits.transpose(1, 0, 2), self.weigh(abstains, sigma), self._coin))
        expected_return_bps = raw[:, -horizons:] * sigma * self._size_slopes
        quantiles = raw[:, members * horizons : -horizons].reshape(n, horizons, len(QUANTILES)) + self._offsets
        quantiles *= sigma[:, :, None]
        quantiles.sort(axis=2)
        return Forecasts(self.horizons, p_up, quantiles, sigma, expected_return_bps, abstains, unfounded)

    def weigh(self, abstains: np.ndarray, sigma: np.ndarray) -> np.ndarray:
        """Return the weight of each member, shape (m, n, h), 0 where it abstains; n is 1 if all rows have the same.

        Args:
            abstains: see `Forecasts`.
            sigma: see `Forecasts`.
        """
        weights = self._calm  # the only ones unless the terciles of volatility have their own
        if any(map(len, self._edges)):
            terciles = [tercile(sigma[:, i], edges) for i, edges in enumerate(self._edges)]
            weights = np.stack([of[:, at] for of, at in zip(self._weights, terciles, strict=True)], axis=2)
        if not np.count_nonzero(abstains):
            return weights
        return np.where(abstains.T[:, :, None], 0.0, weights)


def required_columns(document: Mapping[str, Any]) -> np.ndarray:
    """Return which features each member of a model requires, boolean, shape (features, members)."""
    required = np.zeros((len(document["features"]), len(document["members"])), dtype=np.bool_)
    for column, member in enumerate(document["members"]):
        required[member["required"], column] = True
    return required


def graph_inputs(document: Mapping[str, Any]) -> dict[str, list[int]]:
    """Return the file name of every graph of a model, with the positions of its inputs.

    Inputs are the features, then the log of sigma of each horizon, which the quantiles of that horizon read last. The
    order is that of the joined outputs: P(up) of each member by horizon, the quantiles by horizon, and the sizes.
    """
    horizons, width = document["horizons"], len(document["features"])
    inputs = {
        graph_name(member["name"], "p_up", horizon): member["features"]
        for member in document["members"]
        for horizon in horizons
    }
    inputs |= {
        graph_name(INTERVALS, quantile, horizon): [*document["intervals"]["features"], width + place]
        for place, horizon in enumerate(horizons)
        for quantile in QUANTILE_NAMES
    }
    return inputs | {graph_name(SIZE, SIZE, horizon): document["size"]["features"] for horizon in horizons}


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
        expected_graphs, stated_graphs = set(graph_inputs(document)), set(document["graphs"])
        date.fromisoformat(document["cutoff"])
        _verify_members(document, where)
        sigma = Sigma(document["volatility"])
        numbers = [
            number
            for model in document["volatility"]["models"]
            for by_horizon in model["coefficients"].values()
            for number in by_horizon
        ]
        numbers += [offset for key in map(str, horizons) for offset in document["conformal"][key].values()]
        numbers += [document["size"]["slope"][key] for key in map(str, horizons)]
        unknown = {name for key in map(str, horizons) for name in document["conformal"][key]} - set(QUANTILE_NAMES)
        stated_hash, _ = document["schema_hash"], document["digest"]
    except (KeyError, TypeError, AttributeError, ValueError, IndexError) as error:
        raise ModelFileError(f"{where} has a missing or invalid part: {error!r}") from error
    if not horizons or not all(isinstance(h, int) and h > 0 for h in horizons) or not features:
        raise ModelFileError(f"{where} must name at least one horizon in whole minutes and one feature")
    if len(set(features)) != len(features):
        raise ModelFileError(f"{where} names a feature twice")
    if list(document.get("quantiles", ())) != list(QUANTILES):
        raise ModelFileError(f"{where} must forecast the quantiles {QUANTILES}")
    if stated_graphs != expected_graphs:
        differing = sorted(stated_graphs ^ expected_graphs)
        raise ModelFileError(f"{where} and its graphs disagree about {', '.join(differing)}")
    if list(sigma.horizons) != horizons or not set(sigma.inputs) <= set(features):
        raise ModelFileError(f"{where} has a volatility model of other horizons or features")
    if not all(map(_is_finite, numbers)) or unknown:
        raise ModelFileError(f"{where} has a conformal offset, slope or volatility model that is not a finite number")
    if stated_hash != schema_hash(features):
        raise ModelFileError(f"{where} has a schema hash that does not match its features")


def _verify_members(document: dict[str, Any], where: Path) -> None:
    """Raise ModelFileError unless the members have valid names, inputs, calibrations and weights."""
    members, keys = document["members"], [str(horizon) for horizon in document["horizons"]]
    names = [member["name"] for member in members]
    if not names or len({*names, INTERVALS, SIZE}) <= len(names) + 1 or not all(map(_NAME.match, names)):
        raise ModelFileError(f"{where} must name at least one member, each once, in lower-case letters and digits")
    columns = [*document["intervals"]["features"], *document["size"]["features"]]
    columns += [column for member in members for column in (*member["features"], *member["required"])]
    width = len(document["features"])
    if not all(isinstance(column, int) and 0 <= column < width for column in columns):
        raise ModelFileError(f"{where} has a member with inputs that are not among the {width} features")
    weighing = document["weights"]
    numbers, weights = [], [weighing["coin"][key] for key in keys]
    for key in keys:
        numbers += weighing["edges"][key]
        for member in members:
            numbers += [member["calibration"][key][part] for part in ("slope", "intercept")]
            weights += member["weights"][key]
            if len(member["weights"][key]) != len(weighing["edges"][key]) + 1:
                raise ModelFileError(f"{where} must have one weight for each member, horizon and tercile")
    if not all(map(_is_finite, (*numbers, *weights))) or min(weights) < 0:
        raise ModelFileError(f"{where} has a calibration or weight that is not a finite number, or a weight below 0")


def _is_finite(number: object) -> bool:
    return isinstance(number, int | float) and math.isfinite(number)


def _write_synced(path: Path, content: bytes) -> None:
    with path.open("wb") as file:
        file.write(content)
        file.flush()
        os.fsync(file.fileno())
