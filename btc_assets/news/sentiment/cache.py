"""Cache of sentiment scores: an append-only file of fixed-size rows.

The cache only saves time and may be deleted at any time. Any number of processes may use it at once. A row has the
digest of scorer, version, weights and text, the probabilities as doubles, and a checksum; a row with a wrong checksum
counts as missing. A batch is appended under a lock and starts at a row boundary, so a killed process loses at most the
batch it is writing.
"""

from __future__ import annotations

import fcntl
import hashlib
import os
import struct
import time
import warnings
import zlib
from collections.abc import Collection, Sequence
from pathlib import Path

import numpy as np

from btc_assets.news.sentiment.protocol import CLASSES, Scorer, ScorerError, Scores

BATCH = 1_024
"""Texts scored and stored at a time."""
BUSY_S = 60.0
"""Seconds to wait for the lock of another process."""

_BODY, _CHECKSUM = struct.Struct("<32s3d?"), struct.Struct("<I")
_ROW = np.dtype([("head", "<u2"), ("rest", f"V{_BODY.size + _CHECKSUM.size - 2}")])
"""A row; the first two bytes of its digest exclude nearly all other rows."""

Row = tuple[float, float, float, bool]
"""Probabilities of `CLASSES`, and whether the text was truncated."""


class CacheWarning(RuntimeWarning):
    """The score cache could not be used; the scores themselves are complete."""


class CachedScorer:
    """A scorer with a cache at `path`; name, version, digest and scores are those of the wrapped scorer."""

    def __init__(self, scorer: Scorer, path: Path) -> None:
        self.scorer, self.path = scorer, path
        self.name, self.version, self.weights_digest = scorer.name, scorer.version, scorer.weights_digest

    def score(self, texts: Sequence[str]) -> Scores:
        """Score texts, in their order; scores of the same version and weights are read from the cache.

        Raises:
            ScorerError: the scorer cannot score, or its result is not probabilities; that result is not stored.
        """
        keys = [self._key(text) for text in texts]
        text_of = dict(zip(keys, texts, strict=True))
        known, end = self._read(text_of, 0)
        missing = [key for key in text_of if key not in known]
        for start in range(0, len(missing), BATCH):
            batch = missing[start : start + BATCH]
            added = dict(zip(batch, _score_checked(self.scorer, [text_of[key] for key in batch]), strict=True))
            self._append(added)
            stored, end = self._read(added, end)  # if two processes scored the same text, the first row counts
            known |= added | stored
        rows = [known[key] for key in keys]
        return Scores(
            probabilities=np.array([row[:3] for row in rows], dtype=np.float64).reshape(-1, len(CLASSES)),
            truncated=np.array([row[3] for row in rows], dtype=np.bool_),
        )

    def _key(self, text: str) -> bytes:
        identity = f"{self.name}\0{self.version}\0{self.weights_digest}\0{text}"
        return hashlib.sha256(identity.encode("utf-8", "surrogatepass")).digest()

    def _read(self, keys: Collection[bytes], begin: int) -> tuple[dict[bytes, Row], int]:
        """Return the first stored row of each key from row `begin` on, and the number of rows in the file."""
        known: dict[bytes, Row] = {}
        try:
            rows = np.fromfile(self.path, _ROW, offset=begin * _ROW.itemsize)
        except FileNotFoundError:
            return known, begin
        except OSError as error:
            self._warn(error)
            return known, begin
        heads = np.frombuffer(b"".join(key[:2] for key in keys), "<u2")
        candidates = rows[np.isin(rows["head"], heads)].tobytes()
        for at in range(0, len(candidates), _ROW.itemsize):
            body, checksum = candidates[at : at + _BODY.size], candidates[at + _BODY.size : at + _ROW.itemsize]
            if body[:32] in keys and checksum == _CHECKSUM.pack(zlib.crc32(body)):
                key, negative, neutral, positive, truncated = _BODY.unpack(body)
                known.setdefault(key, (negative, neutral, positive, truncated))
        return known, begin + len(rows)

    def _append(self, rows: dict[bytes, Row]) -> None:
        bodies = (_BODY.pack(key, *row) for key, row in rows.items())
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            with self.path.open("ab") as file:
                _lock(file.fileno())
                torn = b"\0" * (-file.seek(0, os.SEEK_END) % _ROW.itemsize)  # completes the row of a killed process
                file.write(torn + b"".join(body + _CHECKSUM.pack(zlib.crc32(body)) for body in bodies))
        except OSError as error:
            self._warn(error)

    def _warn(self, error: Exception) -> None:
        sentence = f"the score cache {self.path} cannot be used ({error}); texts are scored again each time"
        warnings.warn(sentence, CacheWarning, stacklevel=4)


def _lock(file: int) -> None:
    """Lock a file until it is closed.

    Raises:
        BlockingIOError: another process keeps it locked for longer than `BUSY_S`.
    """
    end = time.monotonic() + BUSY_S
    while True:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            return
        except BlockingIOError:
            if time.monotonic() > end:
                raise
            time.sleep(0.01)


def _score_checked(scorer: Scorer, texts: list[str]) -> list[Row]:
    """Score texts and check that the result is one row of probabilities per text.

    Raises:
        ScorerError: the result is invalid.
    """
    scores = scorer.score(texts)
    p = scores.probabilities
    has_shape = p.shape == (len(texts), len(CLASSES)) and scores.truncated.shape == (len(texts),)
    if not has_shape or not np.isfinite(p).all() or (p < 0).any() or (np.abs(p.sum(axis=1) - 1) > 1e-6).any():
        raise ScorerError(
            f"the scorer {scorer.name!r} got {len(texts)} texts and returned {p.shape[0]} rows that are not all "
            "probabilities of three classes; nothing was stored"
        )
    return [(float(a), float(b), float(c), bool(cut)) for (a, b, c), cut in zip(p, scores.truncated, strict=True)]
