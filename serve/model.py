"""Decode feature rows, with errors that name the invalid field, and run the model on them.

Rows decode into a struct generated for the model's features, so a valid request needs one pass in C. An invalid request
is decoded a second time in Python to name the row, the field and the reason.
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
"""Maximum number of rows of a request."""
MAX_BODY_BYTES = 4 * 2**20
"""Maximum size of a request in bytes; 1,000 rows of the widest feature set have about 2.5 MB."""
MAX_MAGNITUDE = float(np.finfo(np.float32).max)
"""Largest magnitude of a feature; the model's graphs use float32."""
_Value = Annotated[float, msgspec.Meta(ge=-MAX_MAGNITUDE, le=MAX_MAGNITUDE)]
_SHAPE = "The body must be one JSON object of named features, or a list of 1 to 1,000 such objects"


class InvalidRowsError(ValueError):
    """The rows of a request are invalid; `fault` is the response."""

    def __init__(self, fault: Fault) -> None:
        """Wrap the response."""
        super().__init__(fault.error)
        self.fault = fault


class RowReader:
    """Decodes request bodies into rows of one model's features."""

    def __init__(self, features: tuple[str, ...]) -> None:
        """Build the decoder for the model's features, in the model's order."""
        self._features = features
        row = msgspec.defstruct(
            "Row",
            [(f"f{i}", _Value | None) for i in range(len(features))],
            rename={f"f{i}": name for i, name in enumerate(features)},
            forbid_unknown_fields=True,
        )
        self._decoder = msgspec.json.Decoder(row | list[row])  # type: ignore[valid-type]

    def read(self, body: bytes) -> np.ndarray:
        """Return the rows of a body, shape (n, features), with NaN for null.

        Raises:
            InvalidRowsError: the body is not a list of 1 to 1,000 rows with exactly the model's features.
        """
        try:
            decoded = self._decoder.decode(body)
        except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
            raise InvalidRowsError(self._explain(body, str(error))) from error
        rows = decoded if isinstance(decoded, list) else [decoded]
        if not 1 <= len(rows) <= MAX_ROWS:
            raise InvalidRowsError(Fault(f"{_SHAPE}; it has {len(rows):,} rows.", "body"))
        return np.array([msgspec.structs.astuple(row) for row in rows], dtype=np.float64)

    def _explain(self, body: bytes, decode_error: str) -> Fault:
        """Return the first fault of a body."""
        try:
            decoded = json.loads(body)
        except RecursionError:
            return Fault(f"{_SHAPE}; it is nested too deeply.", "body")
        except ValueError as error:
            return Fault(f"The body is not JSON: {error}.", "body")
        if not isinstance(decoded, dict | list):
            return Fault(f"{_SHAPE}, not {_json_type(decoded)}.", "body")
        rows = decoded if isinstance(decoded, list) else [decoded]
        if not 1 <= len(rows) <= MAX_ROWS:
            return Fault(f"{_SHAPE}; it has {len(rows):,} rows.", "body")
        for index, row in enumerate(rows):
            fault = self._fault_of(row, f"[{index}]" if isinstance(decoded, list) else "")
            if fault is not None:
                return fault
        return Fault(f"The body cannot be read: {decode_error}.", "body")

    def _fault_of(self, row: object, row_path: str) -> Fault | None:
        in_row = f" in row {row_path}" if row_path else ""
        if not isinstance(row, dict):
            return Fault(f"Row {row_path} must be an object of named features, not {_json_type(row)}.", row_path)
        for name in row:
            if name not in self._features:
                return Fault(
                    f"{name!r}{in_row} is not a feature of this model; GET /v1/model lists them.",
                    _field_path(row_path, name),
                )
        for name, value in row.items():
            if value is None:
                continue
            if isinstance(value, bool) or not isinstance(value, int | float):
                return Fault(
                    f"{name!r}{in_row} must be a number or null, not {_json_type(value)}.", _field_path(row_path, name)
                )
            if isinstance(value, float) and not math.isfinite(value):
                return Fault(
                    f"{name!r}{in_row} must be a finite number, or null if unknown.", _field_path(row_path, name)
                )
            if abs(value) > MAX_MAGNITUDE:
                return Fault(
                    f"{name!r}{in_row} exceeds the largest magnitude of a feature, {MAX_MAGNITUDE:.2g}.",
                    _field_path(row_path, name),
                )
        for name in self._features:
            if name not in row:
                return Fault(
                    f"{name!r}{in_row} is missing; send null for an unknown value.", _field_path(row_path, name)
                )
        return None


def predict(model: ForecastModel, rows: np.ndarray) -> list[RowPrediction]:
    """Forecast every horizon for every row, shape (n, features)."""
    forecasts = model.predict(rows)
    outputs = (forecasts.p_up, forecasts.quantiles, forecasts.sigma, forecasts.expected_return_bps, forecasts.abstains)
    return [
        RowPrediction(
            list(map(_horizon, model.horizons, p_up, quantiles, sigma, expected)),
            [name for name, silent in zip(model.members, abstains, strict=True) if silent],
        )
        for p_up, quantiles, sigma, expected, abstains in zip(*(part.tolist() for part in outputs), strict=True)
    ]


def _horizon(horizon: int, p_up: float, q: list[float], sigma: float, expected: float) -> HorizonPrediction:
    return HorizonPrediction(horizon, p_up, q[2], Interval(q[1], q[3]), Interval(q[0], q[4]), sigma, expected)


def _field_path(row_path: str, name: str) -> str:
    return f"{row_path}.{name}" if row_path else name


def _json_type(value: Any) -> str:
    """Return the JSON type of a value for an error message."""
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
