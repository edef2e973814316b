"""The digest of a frame: SHA-256 of its columns and values in a canonical form.

The canonical form does not depend on Arrow's memory layout, which varies with slicing and concatenation, on the machine
or on library versions. It has the names and types of the columns in order, the null mask, the values row by row as
little-endian 8-byte numbers, and texts as lengths and UTF-8.

Two values are equal if their bits are equal, except that all NaNs are equal; so -0.0 differs from 0.0.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from itertools import accumulate, pairwise

import numpy as np
import polars as pl
from polars import selectors as cs

_FLOATS = cs.float()
_TEXTS = cs.string()
_INTEGERS = cs.integer() - cs.by_dtype(pl.UInt64, pl.Int128, pl.UInt128) | cs.boolean() | cs.temporal()
_EMPTY = cs.by_dtype(pl.Null)


def digest(frame: pl.DataFrame) -> str:
    """Return the SHA-256 of a frame, 64 hex digits; equal frames give equal digests.

    Args:
        frame: columns of floats, integers of at most 63 bits and a sign, booleans, times and texts.

    Raises:
        TypeError: a column has another type.
    """
    (result,) = digests(frame, [frame.height])
    return result


def digests(frame: pl.DataFrame, heights: Sequence[int]) -> list[str]:
    """Return the digest of each block of a frame's rows, equal to `digest` of the block.

    Args:
        frame: see `digest`.
        heights: number of rows of each block, in order; they add up to the height of the frame.

    Raises:
        TypeError: a column has an unsupported type.
        ValueError: the heights do not add up to the height of the frame.
    """
    if sum(heights) != frame.height:
        raise ValueError(
            f"expected blocks of {frame.height} rows in total, the height of the frame, got {sum(heights)}"
        )
    unsupported = frame.select(~(_FLOATS | _INTEGERS | _TEXTS | _EMPTY)).schema
    if unsupported:
        name, dtype = next(iter(unsupported.items()))
        raise TypeError(f"column {name!r} is {dtype}, which has no canonical form; store it as text or numbers")
    header = json.dumps([[name, *_type_of(dtype)] for name, dtype in frame.schema.items()]).encode()
    texts = [series.fill_null("") for series in frame.select(_TEXTS)]
    lengths = [text.str.len_bytes().to_numpy() for text in texts]
    contents = [memoryview(str(text.str.join().item()).encode() if len(text) else b"") for text in texts]
    ends = [np.concatenate([[0], np.cumsum(length, dtype=np.int64)]) for length in lengths]
    parts = (
        frame.select(pl.all().is_null().cast(pl.UInt8)).to_numpy(order="c"),
        _floats(frame.select(_FLOATS)),
        frame.select(_INTEGERS.to_physical().cast(pl.Int64).fill_null(0)).to_numpy(order="c").astype("<i8", copy=False),
        np.stack(lengths, axis=1).astype("<i8") if lengths else np.empty((frame.height, 0), "<i8"),
    )
    results = []
    for first, end in pairwise(accumulate(heights, initial=0)):
        block = hashlib.sha256(b"%d rows of %b" % (end - first, header))
        for part in parts:
            block.update(part[first:end].tobytes())
        for content, offsets in zip(contents, ends, strict=True):
            block.update(content[offsets[first] : offsets[end]])
        results.append(block.hexdigest())
    return results


def _type_of(dtype: pl.DataType) -> list[str]:
    """Return a name of a type that does not depend on the version of polars."""
    return [dtype.base_type().__name__, *(str(getattr(dtype, part, "")) for part in ("time_unit", "time_zone"))]


def _floats(frame: pl.DataFrame) -> np.ndarray:
    """Return floats as (rows, columns), with 0 for nulls and one bit pattern for all NaNs."""
    values = frame.select(pl.all().cast(pl.Float64).fill_null(0.0)).to_numpy(order="c").astype("<f8")
    values[np.isnan(values)] = np.nan
    return values
