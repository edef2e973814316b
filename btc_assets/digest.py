"""The digest of a frame: SHA-256 over its columns and values in one canonical form, however the frame is stored.

What is hashed does not depend on how Arrow lays a frame out, which varies with what it was cut or put together from,
nor on the machine or the version of a library: names and types of the columns in order, which values are null, the
values themselves row by row as little-endian numbers of 8 bytes, and texts as their lengths and their UTF-8.

Two values are the same when they are the same bit by bit, except that every NaN is the same; so -0.0 is not 0.0.
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
_WHOLE = cs.integer() - cs.by_dtype(pl.UInt64, pl.Int128, pl.UInt128) | cs.boolean() | cs.temporal()
_EMPTY = cs.by_dtype(pl.Null)


def digest(frame: pl.DataFrame) -> str:
    """Return the SHA-256 of a frame, 64 hex digits; equal frames give equal digests.

    Args:
        frame: columns of floats, integers of at most 63 bits and a sign, booleans, times and texts.

    Raises:
        TypeError: a column has another type.
    """
    (whole,) = digests(frame, [frame.height])
    return whole


def digests(frame: pl.DataFrame, heights: Sequence[int]) -> list[str]:
    """Return the digest of each block of a frame's rows, as `digest` gives it for the block alone.

    Args:
        frame: see `digest`.
        heights: rows of each block, in order; they add up to the rows of the frame.

    Raises:
        TypeError: a column has a type that is not known here.
        ValueError: the heights do not add up.
    """
    if sum(heights) != frame.height:
        raise ValueError(f"blocks of {sum(heights)} rows in all cannot be cut from a frame of {frame.height}")
    strange = frame.select(~(_FLOATS | _WHOLE | _TEXTS | _EMPTY)).schema
    if strange:
        name, dtype = next(iter(strange.items()))
        raise TypeError(f"column {name!r} is {dtype}, which has no canonical form; store it as text or numbers")
    header = json.dumps([[name, *_type_of(dtype)] for name, dtype in frame.schema.items()]).encode()
    texts = [series.fill_null("") for series in frame.select(_TEXTS)]
    lengths = [text.str.len_bytes().to_numpy() for text in texts]
    contents = [memoryview(str(text.str.join().item()).encode() if len(text) else b"") for text in texts]
    ends = [np.concatenate([[0], np.cumsum(length, dtype=np.int64)]) for length in lengths]
    parts = (
        frame.select(pl.all().is_null().cast(pl.UInt8)).to_numpy(order="c"),
        _floats(frame.select(_FLOATS)),
        frame.select(_WHOLE.to_physical().cast(pl.Int64).fill_null(0)).to_numpy(order="c").astype("<i8", copy=False),
        np.stack(lengths, axis=1).astype("<i8") if lengths else np.empty((frame.height, 0), "<i8"),
    )
    found = []
    for first, end in pairwise(accumulate(heights, initial=0)):
        whole = hashlib.sha256(b"%d rows of %b" % (end - first, header))
        for part in parts:
            whole.update(part[first:end].tobytes())
        for content, until in zip(contents, ends, strict=True):
            whole.update(content[until[first] : until[end]])
        found.append(whole.hexdigest())
    return found


def _type_of(dtype: pl.DataType) -> list[str]:
    """Name a type in words of this project, so that another version of polars spells it alike."""
    return [dtype.base_type().__name__, *(str(getattr(dtype, part, "")) for part in ("time_unit", "time_zone"))]


def _floats(frame: pl.DataFrame) -> np.ndarray:
    """Return floats row by row, (rows, columns); 0 where unknown, and of the many NaNs one."""
    values = frame.select(pl.all().cast(pl.Float64).fill_null(0.0)).to_numpy(order="c").astype("<f8")
    values[np.isnan(values)] = np.nan
    return values
