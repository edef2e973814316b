"""Feature rows in, forecasts out: decoding with errors that name the field, and inference.

Rows decode straight into a struct made for the model's features, so a good request costs one pass in C.
Only a bad one is read a second time, slowly, to say which field of which row is wrong and why.
"""

from __future__ import annotations

import json
import math
from typing import Annotated, Any

import msgspec
import numpy as np

from btc_assets.learning.forecast_model import ForecastModel
from serve.answers import Fault, HorizonPrediction, Interval, RowPrediction

MAX_ROWS = 1_000
"""Rows of one request."""
MAX_BODY_BYTES = 4 * 2**20
"""Bytes of one request: 1,000 rows of the widest feature set are about 2.5 MB."""
LARGEST = float(np.finfo(np.float32).max)
"""Largest magnitude a model can read; its graphs work in float32."""
_Value = Annotated[float, msgspec.Meta(ge=-LARGEST, le=LARGEST)]
_SHAPE = "The body must be one JSON object of named features, or a list of 1 to 1,000 such objects"


class BadRows(ValueError):  # noqa: N818 - what it carries is the answer, not an error of ours
    """A request's rows cannot be used; `fault` is the answer."""

    def __init__(self, fault: Fault) -> None:
        """Carry the answer."""
        super().__init__(fault.error)
        self.fault = fault


class RowReader:
    """Decodes request bodies into rows for one model's features."""

    def __init__(self, features: tuple[str, ...]) -> None:
        """Build the decoder; `features` are the model's, in its order."""
        self._features = features
        row = msgspec.defstruct(
            "Row",
            [(f"f{i}", _Value | None) for i in range(len(features))],
            rename={f"f{i}": name for i, name in enumerate(features)},
            forbid_unknown_fields=True,
        )
        self._decoder = msgspec.json.Decoder(row | list[row])  # type: ignore[valid-type]

    def read(self, body: bytes) -> np.ndarray:
        """Return the rows of a body, shape (n, features), NaN where the body says null.

        Raises:
            BadRows: the body holds anything else than 1 to 1,000 rows of exactly the model's features.
        """
        try:
            decoded = self._decoder.decode(body)
        except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
            raise BadRows(self._explain(body, str(error))) from error
        rows = decoded if isinstance(decoded, list) else [decoded]
        if not 1 <= len(rows) <= MAX_ROWS:
            raise BadRows(Fault(f"{_SHAPE}; it holds {len(rows):,} rows.", "body"))
        return np.array([msgspec.structs.astuple(row) for row in rows], dtype=np.float64)

    def _explain(self, body: bytes, otherwise: str) -> Fault:
        """Return the first fault of a body, in the words of the person who sent it."""
        try:
            decoded = json.loads(body)
        except RecursionError:
            return Fault(f"{_SHAPE}; it is nested too deeply.", "body")
        except ValueError as error:
            return Fault(f"The body is not JSON: {error}.", "body")
        if not isinstance(decoded, dict | list):
            return Fault(f"{_SHAPE}, not {_kind(decoded)}.", "body")
        rows = decoded if isinstance(decoded, list) else [decoded]
        if not 1 <= len(rows) <= MAX_ROWS:
            return Fault(f"{_SHAPE}; it holds {len(rows):,} rows.", "body")
        for index, row in enumerate(rows):
            fault = self._fault_of(row, f"[{index}]" if isinstance(decoded, list) else "")
            if fault is not None:
                return fault
        return Fault(f"The body cannot be read: {otherwise}.", "body")

    def _fault_of(self, row: object, where: str) -> Fault | None:
        place = f" in row {where}" if where else ""
        if not isinstance(row, dict):
            return Fault(f"Row {where} must be an object of named features, not {_kind(row)}.", where)
        for name in row:
            if name not in self._features:
                return Fault(
                    f"{name!r}{place} is not a feature of this model; GET /v1/model lists them.", _at(where, name)
                )
        for name, value in row.items():
            if value is None:
                continue
            if isinstance(value, bool) or not isinstance(value, int | float):
                return Fault(f"{name!r}{place} must be a number or null, not {_kind(value)}.", _at(where, name))
            if isinstance(value, float) and not math.isfinite(value):
                return Fault(f"{name!r}{place} must be a finite number, or null when not known.", _at(where, name))
            if abs(value) > LARGEST:
                return Fault(f"{name!r}{place} is beyond {LARGEST:.2g}, more than a model can read.", _at(where, name))
        for name in self._features:
            if name not in row:
                return Fault(f"{name!r}{place} is missing; send null for a value that is not known.", _at(where, name))
        return None


def predict(model: ForecastModel, rows: np.ndarray) -> list[RowPrediction]:
    """Forecast every horizon for every row, shape (n, features)."""
    p_up, quantiles = model.predict_arrays(rows)
    return [
        RowPrediction(list(map(_horizon, model.horizons, *row)))
        for row in zip(p_up.tolist(), quantiles.tolist(), strict=True)
    ]


def _horizon(horizon: int, p_up: float, q: list[float]) -> HorizonPrediction:
    return HorizonPrediction(horizon, p_up, q[2], Interval(q[1], q[3]), Interval(q[0], q[4]))


def _at(where: str, name: str) -> str:
    return f"{where}.{name}" if where else name


def _kind(value: Any) -> str:
    """Name a JSON value's kind as its sender would."""
    if value is None:
        return "null"
    if isinstance(value, bool):
        return "a boolean"
    if isinstance(value, str):
        return "text"
    if isinstance(value, list):
        return "a list"
    if isinstance(value, dict):
        return "an object"
    return "a number"
