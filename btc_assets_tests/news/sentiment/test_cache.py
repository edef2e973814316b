"""The score cache: a text is scored once, bit for bit, whatever happens to the process or the file."""

from __future__ import annotations

import fcntl
import itertools
import sqlite3
import subprocess
import sys
import threading
import warnings
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from btc_assets.news.sentiment import cache
from btc_assets.news.sentiment.cache import CachedScorer, CacheWarning, cached
from btc_assets.news.sentiment.protocol import ScorerError, Scores
from btc_assets.settings import PROJECT_ROOT
from btc_assets_tests.conftest import WATCHDOG_S
from btc_assets_tests.news.sentiment.builders import KnownScorer

TEXTS = [f"text {n}" for n in range(40)]


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "cache" / "sentiment.db"


def remembered(path: Path, texts: list[str] = TEXTS) -> set[str]:
    """Return the texts the file holds scores of."""
    scorer = KnownScorer()
    cached(scorer, path).score(texts)
    return set(texts) - set(scorer.asked)


def asides(path: Path) -> list[Path]:
    return [
        found
        for found in path.parent.iterdir()
        if ".damaged-" in found.name and not found.name.endswith(("-wal", "-shm"))
    ]


def in_process(script: str, path: Path) -> subprocess.Popen[bytes]:
    head = (
        "import os, signal, sys\nfrom pathlib import Path\nfrom btc_assets.news.sentiment import cache\n"
        "from btc_assets_tests.news.sentiment.builders import KnownScorer, some_shares\n"
        f"path = Path({str(path)!r})\ntexts = [f'text {{n}}' for n in range(40)]\n"
    )
    return subprocess.Popen(
        [sys.executable, "-W", "error", "-c", head + script], cwd=PROJECT_ROOT, stderr=subprocess.PIPE
    )


# --- what it is for ----------------------------------------------------------------------------------
def test_a_text_is_scored_once(path: Path) -> None:
    scorer = KnownScorer()
    one = cached(scorer, path).score([*TEXTS, *TEXTS])
    other = cached(scorer, path).score(list(reversed(TEXTS)))
    assert sorted(scorer.asked) == sorted(TEXTS)
    assert one.probabilities[:40].tobytes() == one.probabilities[40:].tobytes() == other.probabilities[::-1].tobytes()


@pytest.mark.parametrize("change", [{"name": "another"}, {"version": "2"}, {"weights": "v"}])
def test_another_scorer_version_or_weights_scores_anew(path: Path, change: dict[str, str]) -> None:
    cached(KnownScorer(), path).score(TEXTS)
    changed = KnownScorer(**change)
    cached(changed, path).score(TEXTS)
    assert len(changed.asked) == len(TEXTS)
    assert remembered(path) == set(TEXTS), "and the earlier scores stay"


def test_it_passes_for_the_scorer_it_wraps(path: Path) -> None:
    scorer = KnownScorer()
    wrapped = cached(scorer, path)
    assert (wrapped.name, wrapped.version, wrapped.weights_digest) == ("known", "1", scorer.weights_digest)


VERSIONS = itertools.count()
SHARES = st.tuples(st.floats(0, 1), st.floats(0, 1)).map(lambda p: (p[0], (1 - p[0]) * p[1], (1 - p[0]) * (1 - p[1])))


@pytest.fixture(scope="module")
def shared_path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("cache") / "sentiment.db"


@settings(max_examples=25, deadline=None)
@given(st.dictionaries(st.text(max_size=8), st.tuples(SHARES, st.booleans()), max_size=8))
def test_what_comes_back_is_what_went_in_to_the_last_bit(
    shared_path: Path, rows: dict[str, tuple[tuple[float, float, float], bool]]
) -> None:
    version = str(next(VERSIONS))

    class Given(KnownScorer):
        def score(self, texts: list[str]) -> Scores:  # type: ignore[override]
            p = np.array([rows[text][0] for text in texts]).reshape(-1, 3)
            return Scores(p, np.array([rows[text][1] for text in texts], dtype=bool))

    first = cached(Given(version=version), shared_path).score(list(rows))
    again = cached(KnownScorer(version=version, fails=True), shared_path).score(list(rows))
    expected = Given().score(list(rows))
    for scores in (first, again):
        assert scores.probabilities.tobytes() == expected.probabilities.tobytes()
        assert scores.truncated.tolist() == expected.truncated.tolist()


def test_a_minus_before_zero_is_kept(path: Path) -> None:
    scorer = KnownScorer(shares=lambda _: (-0.0, 5e-324, 1.0))
    cached(scorer, path).score(["a"])
    back = cached(KnownScorer(fails=True), path).score(["a"]).probabilities
    assert back.tobytes() == np.array([[-0.0, 5e-324, 1.0]]).tobytes()


@pytest.mark.parametrize(
    "shares", [(0.0, 0.0, 0.0), (0.5, 0.6, 0.2), (float("nan"), 0.5, 0.5), (-0.1, 0.6, 0.5), (1.0, 0.0)]
)
def test_an_answer_that_is_no_probabilities_is_refused_and_never_kept(path: Path, shares: tuple[float, ...]) -> None:
    class Broken(KnownScorer):
        def score(self, texts: list[str]) -> Scores:  # type: ignore[override]
            return Scores(np.array([shares] * len(texts)), np.zeros(len(texts), dtype=bool))

    with pytest.raises(ScorerError, match="'known' was given 40 texts"):
        cached(Broken(), path).score(TEXTS)
    assert remembered(path) == set()


def test_a_scorer_that_fails_fails_through_the_cache(path: Path) -> None:
    with pytest.raises(ScorerError, match="out of order"):
        cached(KnownScorer(fails=True), path).score(TEXTS)


# --- processes ---------------------------------------------------------------------------------------
def test_processes_share_a_file_from_its_first_moment(path: Path) -> None:
    script = (
        "cache.BATCH = 3\nshare = int(sys.argv[1]) if len(sys.argv) > 1 else 0\n"
        "for _ in range(3):\n"
        "    told = cache.cached(KnownScorer(), path).score(texts).probabilities.tolist()\n"
        "    assert told == [list(some_shares(text)) for text in texts]\n"
    )
    running = [in_process(script, path) for _ in range(4)]
    for process in running:
        _, said = process.communicate(timeout=WATCHDOG_S)
        assert process.returncode == 0, said.decode()
    assert remembered(path) == set(TEXTS)
    assert asides(path) == []


def test_a_process_killed_while_scoring_keeps_the_batches_before(path: Path) -> None:
    script = (
        "cache.BATCH = 10\n"
        "def shares(text):\n"
        "    if text == 'text 25': os.kill(os.getpid(), signal.SIGKILL)\n"
        "    return some_shares(text)\n"
        "cache.cached(KnownScorer(shares=shares), path).score(texts)\n"
    )
    assert in_process(script, path).wait(timeout=WATCHDOG_S) == -9
    assert remembered(path) == set(TEXTS[:20])


def test_a_process_killed_while_writing_loses_nothing_written_before(path: Path) -> None:
    script = (
        "cache.BATCH = 10\npacked, told = cache._packed, []\n"
        "connect = cache.CachedScorer._connect\n"
        "def watched(self):\n"
        "    database = connect(self)\n"
        "    database.set_trace_callback(lambda sql: (told.append(sql), sql.startswith('INSERT OR REPLACE') and "
        "sum(s.startswith('INSERT OR REPLACE') for s in told) == 35 and os.kill(os.getpid(), signal.SIGKILL)))\n"
        "    return database\n"
        "cache.CachedScorer._connect = watched\n"
        "cache.cached(KnownScorer(), path).score(texts)\n"
    )
    assert in_process(script, path).wait(timeout=WATCHDOG_S) == -9
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert remembered(path) == set(TEXTS[:30])


def test_of_two_that_score_the_same_text_at_once_the_first_counts(path: Path) -> None:
    late = cached(KnownScorer(shares=lambda _: (0.2, 0.3, 0.5)), path)
    early = cached(KnownScorer(shares=lambda _: (0.1, 0.8, 0.1)), path)

    class Overtaken(KnownScorer):
        def score(self, texts: list[str]) -> Scores:  # type: ignore[override]
            early.score(texts)
            return late.scorer.score(texts)

    told = cached(Overtaken(), path).score(["a"]).probabilities
    assert told.tolist() == [[0.1, 0.8, 0.1]]


# --- damage ------------------------------------------------------------------------------------------
def test_a_damaged_file_is_set_aside_said_and_begun_anew(path: Path) -> None:
    path.parent.mkdir()
    path.write_bytes(b"this is no database" * 1_000)
    scorer = KnownScorer()
    with pytest.warns(CacheWarning, match=r"is damaged \(file is not a database\): it was moved to .*begun anew"):
        told = cached(scorer, path).score(TEXTS)
    assert told.probabilities.tobytes() == KnownScorer().score(TEXTS).probabilities.tobytes()
    assert [aside.read_bytes()[:7] for aside in asides(path)] == [b"this is"]
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert remembered(path) == set(TEXTS)


@pytest.mark.parametrize("damage", ["cut", "overwritten"])
def test_a_file_damaged_in_its_middle_gives_the_right_scores_all_the_same(path: Path, damage: str) -> None:
    texts = [f"text {n}" for n in range(5_000)]
    cached(KnownScorer(), path).score(texts)
    content = path.read_bytes()
    assert len(content) > 200_000
    middle = len(content) // 2
    path.write_bytes(
        content[:middle] if damage == "cut" else content[:middle] + b"\xff" * 20_000 + content[middle + 20_000 :]
    )
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        told = cached(KnownScorer(), path).score(texts)
    assert told.probabilities.tobytes() == KnownScorer().score(texts).probabilities.tobytes()
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert remembered(path, texts) == set(texts)


def test_a_row_whose_bytes_changed_is_scored_again(path: Path) -> None:
    cached(KnownScorer(), path).score(TEXTS)
    with sqlite3.connect(path) as database:
        good = database.execute("SELECT scores FROM scores LIMIT 1").fetchone()[0]
        database.execute("UPDATE scores SET scores = ? WHERE scores = ?", (bytes([good[0] ^ 1]) + good[1:], good))
    scorer = KnownScorer()
    told = cached(scorer, path).score(TEXTS)
    assert len(scorer.asked) == 1
    assert told.probabilities.tobytes() == KnownScorer().score(TEXTS).probabilities.tobytes()
    assert remembered(path) == set(TEXTS)


def test_a_row_moved_to_another_text_is_scored_again(path: Path) -> None:
    cached(KnownScorer(), path).score(["a", "b"])
    with sqlite3.connect(path) as database:
        (one, _), (_, row) = database.execute("SELECT text_digest, scores FROM scores").fetchall()
        database.execute("UPDATE scores SET scores = ? WHERE text_digest = ?", (row, one))
    assert len(remembered(path, ["a", "b"])) == 1


def test_a_database_with_other_tables_is_set_aside(path: Path) -> None:
    path.parent.mkdir()
    with sqlite3.connect(path) as database:
        database.execute("CREATE TABLE scores (something TEXT)")
    database.close()
    with pytest.warns(CacheWarning, match="no such column"):
        cached(KnownScorer(), path).score(TEXTS)
    assert len(asides(path)) == 1
    assert remembered(path) == set(TEXTS)


def test_of_many_that_find_the_damage_one_sets_it_aside(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path.parent.mkdir()
    path.write_bytes(b"x" * 10_000)
    all_have_found_it, set_aside = threading.Barrier(8, timeout=WATCHDOG_S), CachedScorer._set_aside

    def together(scorer: CachedScorer) -> None:
        all_have_found_it.wait()
        set_aside(scorer)

    monkeypatch.setattr(CachedScorer, "_set_aside", together)
    expected = KnownScorer().score(TEXTS).probabilities.tobytes()
    told: list[bool] = []
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        threads = [
            threading.Thread(
                target=lambda: told.append(cached(KnownScorer(), path).score(TEXTS).probabilities.tobytes() == expected)
            )
            for _ in range(8)
        ]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    assert told == [True] * 8
    assert len(asides(path)) == 1
    assert remembered(path) == set(TEXTS)


def test_no_file_is_moved_from_under_a_process_that_uses_it(path: Path) -> None:
    scorer = cached(KnownScorer(), path)
    path.parent.mkdir()
    path.write_bytes(b"x" * 10_000)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        with scorer._locked(fcntl.LOCK_SH):
            mover = threading.Thread(target=scorer._set_aside)
            mover.start()
            mover.join(timeout=0.3)
            assert asides(path) == []
        mover.join(timeout=WATCHDOG_S)
    assert len(asides(path)) == 1


def test_where_no_file_can_be_kept_texts_are_scored_and_it_is_said(tmp_path: Path) -> None:
    (tmp_path / "cache").write_text("a file where the folder should be")
    with pytest.warns(CacheWarning, match="cannot be used"):
        told = cached(KnownScorer(), tmp_path / "cache" / "scores.db").score(TEXTS)
    assert told.probabilities.tobytes() == KnownScorer().score(TEXTS).probabilities.tobytes()


def test_a_file_that_another_keeps_locked_does_not_stop_the_scoring(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    cached(KnownScorer(), path).score(TEXTS[:1])
    monkeypatch.setattr(cache, "BUSY_S", 0.05)
    holder = sqlite3.connect(path, isolation_level=None)
    holder.execute("BEGIN IMMEDIATE")
    with pytest.warns(CacheWarning, match="locked"):
        told = cached(KnownScorer(), path).score(TEXTS)
    holder.execute("ROLLBACK")
    holder.close()
    assert told.probabilities.tobytes() == KnownScorer().score(TEXTS).probabilities.tobytes()
    assert asides(path) == []
