"""Scores already computed: a SQLite file keyed by scorer, version, weights and text, so that a text is scored once.

The file is only ever a saving: it may be deleted at any time, and when it is damaged it is set aside and begun anew.
Any number of processes may use it at once. Rows are written a batch at a time, each batch in one transaction, so a
process killed half-way keeps the batches before it. Probabilities are kept as the bytes of their doubles, with a
checksum.
"""

from __future__ import annotations

import fcntl
import hashlib
import sqlite3
import struct
import warnings
import zlib
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import closing, contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import TypeVar

import numpy as np

from btc_assets.news.sentiment.protocol import CLASSES, Scorer, ScorerError, Scores

BATCH = 1_024
"""Texts scored and stored at a time."""
BUSY_S = 60.0
"""Seconds to wait for another process that is writing."""

_ROW = struct.Struct("<3d?")
_SUM = struct.Struct("<I")
_SCHEMA = """
CREATE TABLE IF NOT EXISTS scorers (
    id INTEGER PRIMARY KEY, scorer TEXT NOT NULL, version TEXT NOT NULL, weights_digest TEXT NOT NULL,
    UNIQUE (scorer, version, weights_digest)
);
CREATE TABLE IF NOT EXISTS scores (
    scorer_id INTEGER NOT NULL, text_digest BLOB NOT NULL, scores BLOB NOT NULL, PRIMARY KEY (scorer_id, text_digest)
) WITHOUT ROWID;
"""
_DAMAGED = {sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB, sqlite3.SQLITE_ERROR}
"""SQLite's codes for a file that is no whole database with these tables; `SQLITE_ERROR` is a table of another form."""

T = TypeVar("T")
Row = tuple[float, float, float, bool]
"""Probabilities of `CLASSES`, and whether the text was truncated."""
Rows = dict[bytes, Row]
"""Rows by the digest of their text."""


class CacheWarning(RuntimeWarning):
    """The score cache was damaged or could not be used; the scores themselves are whole."""


class CachedScorer:
    """A scorer that remembers; scores, name, version and digest are those of the scorer it wraps."""

    def __init__(self, scorer: Scorer, path: Path) -> None:
        self.scorer = scorer
        self.path = path
        self.name, self.version, self.weights_digest = scorer.name, scorer.version, scorer.weights_digest

    def score(self, texts: Sequence[str]) -> Scores:
        """Score texts, in their order; those scored before by this version and these weights are looked up.

        Raises:
            ScorerError: the scorer cannot score, or gave what are no probabilities; nothing of that is kept.
        """
        digests = [digest_of(text) for text in texts]
        text_of = dict(zip(digests, texts, strict=True))
        nothing: Rows = {}
        known = self._with_file(lambda database: self._look_up(database, text_of), nothing)
        missing = [digest for digest in text_of if digest not in known]
        for start in range(0, len(missing), BATCH):
            batch = missing[start : start + BATCH]
            fresh = _checked(self.scorer, [text_of[digest] for digest in batch])
            known |= self._kept(dict(zip(batch, fresh, strict=True)))
        rows = [known[digest] for digest in digests]
        return Scores(
            probabilities=np.array([row[:3] for row in rows], dtype=np.float64).reshape(-1, len(CLASSES)),
            truncated=np.array([row[3] for row in rows], dtype=np.bool_),
        )

    def _kept(self, new: Rows) -> Rows:
        return self._with_file(lambda database: self._write(database, new), new)

    # --- the file ------------------------------------------------------------------------------
    def _with_file(self, act: Callable[[sqlite3.Connection], T], otherwise: T) -> T:
        """Do something with the file; a damaged one is replaced first, and one that cannot be used is warned about."""
        fault: Exception | None = None
        for attempt in range(2):
            try:
                if attempt:
                    self._set_aside()
                with self._opened() as database:
                    return act(database)
            except (sqlite3.DatabaseError, OSError) as error:
                fault = error
                if not _is_damage(error):
                    break
        self._warn(f"the score cache {self.path} cannot be used ({fault}); texts are scored again each time")
        return otherwise

    @contextmanager
    def _locked(self, how: int) -> Iterator[None]:
        """Hold the lock beside the file: shared to use it, exclusive to replace it."""
        self.path.parent.mkdir(parents=True, exist_ok=True)
        with open(f"{self.path}.lock", "ab") as lock:
            fcntl.flock(lock, how)
            yield

    @contextmanager
    def _opened(self) -> Iterator[sqlite3.Connection]:
        if not self.path.exists():
            with self._locked(fcntl.LOCK_EX):
                self._connect().close()
        with self._locked(fcntl.LOCK_SH), closing(self._connect()) as database:
            yield database

    def _connect(self) -> sqlite3.Connection:
        database = sqlite3.connect(self.path, timeout=BUSY_S, isolation_level=None)
        try:
            database.execute("PRAGMA journal_mode = WAL")
            database.execute("PRAGMA synchronous = NORMAL")
            database.executescript(_SCHEMA)
        except BaseException:
            database.close()
            raise
        return database

    def _set_aside(self) -> None:
        """Move a damaged file away, unless another process has done so meanwhile."""
        with self._locked(fcntl.LOCK_EX):
            try:
                with closing(self._connect()) as database:
                    verdict = database.execute("PRAGMA quick_check(1)").fetchone()[0]
                    database.execute("SELECT scorer_id, text_digest, scores FROM scores LIMIT 1").fetchone()
                    database.execute("SELECT id, scorer, version, weights_digest FROM scorers LIMIT 1").fetchone()
            except sqlite3.DatabaseError as error:
                if not _is_damage(error):
                    raise
                verdict = str(error)
            if verdict == "ok":
                return
            aside = f"{self.path}.damaged-{datetime.now(tz=UTC):%Y%m%dT%H%M%S.%f}"
            for suffix in ("-wal", "-shm", ""):
                part = Path(f"{self.path}{suffix}")
                if part.exists():
                    part.rename(f"{aside}{suffix}")
        self._warn(
            f"the score cache {self.path} is damaged ({verdict}): it was moved to {aside}, which may be deleted, and "
            "begun anew; texts are scored again when they are next met"
        )

    @staticmethod
    def _warn(sentence: str) -> None:
        warnings.warn(sentence, CacheWarning, stacklevel=4)

    # --- rows ----------------------------------------------------------------------------------
    @property
    def _names(self) -> tuple[str, str, str]:
        return self.name, self.version, self.weights_digest

    def _scorer_id(self, database: sqlite3.Connection) -> int | None:
        found = database.execute(
            "SELECT id FROM scorers WHERE scorer = ? AND version = ? AND weights_digest = ?", self._names
        ).fetchone()
        return None if found is None else int(found[0])

    def _look_up(self, database: sqlite3.Connection, digests: Iterable[bytes]) -> Rows:
        database.execute("BEGIN")
        known = self._read(database, digests)
        database.execute("COMMIT")
        return known

    def _read(self, database: sqlite3.Connection, digests: Iterable[bytes]) -> Rows:
        scorer_id = self._scorer_id(database)
        known: Rows = {}
        if scorer_id is None:
            return known
        for digest in digests:
            found = database.execute(
                "SELECT scores FROM scores WHERE scorer_id = ? AND text_digest = ?", (scorer_id, digest)
            ).fetchone()
            if found is not None and (row := _unpacked(self._names, digest, found[0])) is not None:
                known[digest] = row
        return known

    def _write(self, database: sqlite3.Connection, new: Rows) -> Rows:
        """Store rows and return what is stored now: of two processes that scored the same text, the first counts."""
        database.execute("BEGIN IMMEDIATE")
        try:
            database.execute(
                "INSERT OR IGNORE INTO scorers (scorer, version, weights_digest) VALUES (?, ?, ?)", self._names
            )
            stored = self._read(database, new)
            scorer_id = self._scorer_id(database)
            rows = [
                (scorer_id, digest, _packed(self._names, digest, row))
                for digest, row in new.items()
                if digest not in stored
            ]
            database.executemany(
                "INSERT OR REPLACE INTO scores (scorer_id, text_digest, scores) VALUES (?, ?, ?)", rows
            )
            database.execute("COMMIT")
        except BaseException:
            if database.in_transaction:
                database.execute("ROLLBACK")
            raise
        return new | stored


def cached(scorer: Scorer, path: Path) -> CachedScorer:
    """Return a scorer that keeps its scores in the SQLite file at `path`, which is made when it is first needed."""
    return CachedScorer(scorer, path)


def digest_of(text: str) -> bytes:
    """Return the SHA-256 of a text's UTF-8 bytes, by which its scores are kept."""
    return hashlib.sha256(text.encode("utf-8", "surrogatepass")).digest()


def _checked(scorer: Scorer, texts: list[str]) -> list[Row]:
    """Score texts and see that the answer is probabilities, one row a text.

    Raises:
        ScorerError: it is not.
    """
    scores = scorer.score(texts)
    p = scores.probabilities
    fits = p.shape == (len(texts), len(CLASSES)) and scores.truncated.shape == (len(texts),)
    if not fits or not np.isfinite(p).all() or (p < 0).any() or (np.abs(p.sum(axis=1) - 1) > 1e-6).any():
        raise ScorerError(
            f"the scorer {scorer.name!r} was given {len(texts)} texts and answered with {p.shape[0]} rows that are not "
            "all probabilities of three classes; nothing was kept"
        )
    return [(float(a), float(b), float(c), bool(d)) for (a, b, c), d in zip(p, scores.truncated, strict=True)]


def _packed(names: tuple[str, str, str], digest: bytes, row: Row) -> bytes:
    body = _ROW.pack(*row)
    return body + _SUM.pack(_checksum(names, digest, body))


def _unpacked(names: tuple[str, str, str], digest: bytes, stored: object) -> Row | None:
    """Return a stored row, or None where its bytes are not those that were stored."""
    if not isinstance(stored, bytes) or len(stored) != _ROW.size + _SUM.size:
        return None
    body = stored[: _ROW.size]
    if _SUM.unpack(stored[_ROW.size :])[0] != _checksum(names, digest, body):
        return None
    return _ROW.unpack(body)


def _checksum(names: tuple[str, str, str], digest: bytes, body: bytes) -> int:
    return zlib.crc32("\n".join(names).encode() + digest + body)


def _is_damage(error: Exception) -> bool:
    return (getattr(error, "sqlite_errorcode", 0) & 0xFF) in _DAMAGED
