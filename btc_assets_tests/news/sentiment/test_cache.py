"""The score cache: a text is scored once, bit for bit, whatever happens to the process or the file."""

from __future__ import annotations

import fcntl
import itertools
import subprocess
import sys
import warnings
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from btc_assets.news.sentiment import cache
from btc_assets.news.sentiment.cache import CachedScorer, CacheWarning
from btc_assets.news.sentiment.protocol import ScorerError, Scores
from btc_assets.settings import PROJECT_ROOT
from btc_assets_tests.conftest import WATCHDOG_S
from btc_assets_tests.news.sentiment.builders import KnownScorer

TEXTS = [f"text {n}" for n in range(40)]


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "cache" / "sentiment.scores"


def remembered(path: Path, texts: list[str] = TEXTS) -> set[str]:
    """Return the texts the file holds scores of."""
    scorer = KnownScorer()
    CachedScorer(scorer, path).score(texts)
    return set(texts) - set(scorer.asked)


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
    one = CachedScorer(scorer, path).score([*TEXTS, *TEXTS])
    other = CachedScorer(scorer, path).score(list(reversed(TEXTS)))
    assert sorted(scorer.asked) == sorted(TEXTS)
    assert one.probabilities[:40].tobytes() == one.probabilities[40:].tobytes() == other.probabilities[::-1].tobytes()


@pytest.mark.parametrize("change", [{"name": "another"}, {"version": "2"}, {"weights": "v"}])
def test_another_scorer_version_or_weights_scores_anew(path: Path, change: dict[str, str]) -> None:
    CachedScorer(KnownScorer(), path).score(TEXTS)
    changed = KnownScorer(**change)
    CachedScorer(changed, path).score(TEXTS)
    assert len(changed.asked) == len(TEXTS)
    assert remembered(path) == set(TEXTS), "and the earlier scores stay"


def test_it_passes_for_the_scorer_it_wraps(path: Path) -> None:
    scorer = KnownScorer()
    wrapped = CachedScorer(scorer, path)
    assert (wrapped.name, wrapped.version, wrapped.weights_digest) == ("known", "1", scorer.weights_digest)


VERSIONS = itertools.count()
SHARES = st.tuples(st.floats(0, 1), st.floats(0, 1)).map(lambda p: (p[0], (1 - p[0]) * p[1], (1 - p[0]) * (1 - p[1])))


@pytest.fixture(scope="module")
def shared_path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("cache") / "sentiment.scores"


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

    first = CachedScorer(Given(version=version), shared_path).score(list(rows))
    again = CachedScorer(KnownScorer(version=version, fails=True), shared_path).score(list(rows))
    expected = Given().score(list(rows))
    for scores in (first, again):
        assert scores.probabilities.tobytes() == expected.probabilities.tobytes()
        assert scores.truncated.tolist() == expected.truncated.tolist()


def test_a_minus_before_zero_is_kept(path: Path) -> None:
    scorer = KnownScorer(shares=lambda _: (-0.0, 5e-324, 1.0))
    CachedScorer(scorer, path).score(["a"])
    back = CachedScorer(KnownScorer(fails=True), path).score(["a"]).probabilities
    assert back.tobytes() == np.array([[-0.0, 5e-324, 1.0]]).tobytes()


@pytest.mark.parametrize(
    "shares", [(0.0, 0.0, 0.0), (0.5, 0.6, 0.2), (float("nan"), 0.5, 0.5), (-0.1, 0.6, 0.5), (1.0, 0.0)]
)
def test_an_answer_that_is_no_probabilities_is_refused_and_never_kept(path: Path, shares: tuple[float, ...]) -> None:
    class Broken(KnownScorer):
        def score(self, texts: list[str]) -> Scores:  # type: ignore[override]
            return Scores(np.array([shares] * len(texts)), np.zeros(len(texts), dtype=bool))

    with pytest.raises(ScorerError, match="'known' was given 40 texts"):
        CachedScorer(Broken(), path).score(TEXTS)
    assert remembered(path) == set()


def test_a_scorer_that_fails_fails_through_the_cache(path: Path) -> None:
    with pytest.raises(ScorerError, match="out of order"):
        CachedScorer(KnownScorer(fails=True), path).score(TEXTS)


# --- processes ---------------------------------------------------------------------------------------
def test_processes_share_a_file_from_its_first_moment(path: Path) -> None:
    script = (
        "cache.BATCH = 3\nshare = int(sys.argv[1]) if len(sys.argv) > 1 else 0\n"
        "for _ in range(3):\n"
        "    told = cache.CachedScorer(KnownScorer(), path).score(texts).probabilities.tolist()\n"
        "    assert told == [list(some_shares(text)) for text in texts]\n"
    )
    running = [in_process(script, path) for _ in range(4)]
    for process in running:
        _, said = process.communicate(timeout=WATCHDOG_S)
        assert process.returncode == 0, said.decode()
    assert remembered(path) == set(TEXTS)


def test_a_process_killed_while_scoring_keeps_the_batches_before(path: Path) -> None:
    script = (
        "cache.BATCH = 10\n"
        "def shares(text):\n"
        "    if text == 'text 25': os.kill(os.getpid(), signal.SIGKILL)\n"
        "    return some_shares(text)\n"
        "cache.CachedScorer(KnownScorer(shares=shares), path).score(texts)\n"
    )
    assert in_process(script, path).wait(timeout=WATCHDOG_S) == -9
    assert remembered(path) == set(TEXTS[:20])


@pytest.mark.parametrize("written", [1, 60, 61, 100])
def test_a_batch_torn_by_a_kill_costs_only_itself(path: Path, written: int) -> None:
    CachedScorer(KnownScorer(), path).score(TEXTS)
    content = path.read_bytes()
    path.write_bytes(content[: 30 * len(content) // len(TEXTS) + written])
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert remembered(path) == set(TEXTS[: 30 + written // 61])
        assert remembered(path) == set(TEXTS), "and what is written behind a torn row is found"


def test_of_two_that_score_the_same_text_at_once_the_first_counts(path: Path) -> None:
    late = CachedScorer(KnownScorer(shares=lambda _: (0.2, 0.3, 0.5)), path)
    early = CachedScorer(KnownScorer(shares=lambda _: (0.1, 0.8, 0.1)), path)

    class Overtaken(KnownScorer):
        def score(self, texts: list[str]) -> Scores:  # type: ignore[override]
            early.score(texts)
            return late.scorer.score(texts)

    told = CachedScorer(Overtaken(), path).score(["a"]).probabilities
    assert told.tolist() == [[0.1, 0.8, 0.1]]


# --- damage ------------------------------------------------------------------------------------------
@pytest.mark.parametrize("rubbish", [b"this is no cache" * 1_000, b"x", b"\0" * 10_000])
def test_a_file_of_something_else_is_no_obstacle(path: Path, rubbish: bytes) -> None:
    path.parent.mkdir()
    path.write_bytes(rubbish)
    assert remembered(path) == set()
    assert remembered(path) == set(TEXTS)


@pytest.mark.parametrize("damage", ["cut", "overwritten"])
def test_a_file_damaged_in_its_middle_gives_the_right_scores_all_the_same(path: Path, damage: str) -> None:
    texts = [f"text {n}" for n in range(5_000)]
    CachedScorer(KnownScorer(), path).score(texts)
    content = path.read_bytes()
    assert len(content) > 200_000
    middle = len(content) // 2
    path.write_bytes(
        content[:middle] if damage == "cut" else content[:middle] + b"\xff" * 20_000 + content[middle + 20_000 :]
    )
    scorer = KnownScorer()
    scores = CachedScorer(scorer, path).score(texts)
    assert scores.probabilities.tobytes() == KnownScorer().score(texts).probabilities.tobytes()
    assert 0 < len(scorer.asked) < 2_600
    assert remembered(path, texts) == set(texts)


def test_a_row_whose_bytes_changed_is_scored_again(path: Path) -> None:
    CachedScorer(KnownScorer(), path).score(TEXTS)
    content = bytearray(path.read_bytes())
    content[40] ^= 1
    path.write_bytes(content)
    scorer = KnownScorer()
    scores = CachedScorer(scorer, path).score(TEXTS)
    assert scorer.asked == TEXTS[:1]
    assert scores.probabilities.tobytes() == KnownScorer().score(TEXTS).probabilities.tobytes()
    assert remembered(path) == set(TEXTS)


def test_where_no_file_can_be_kept_texts_are_scored_and_it_is_said(tmp_path: Path) -> None:
    (tmp_path / "cache").write_text("a file where the folder should be")
    with pytest.warns(CacheWarning, match="cannot be used"):
        told = CachedScorer(KnownScorer(), tmp_path / "cache" / "scores.db").score(TEXTS)
    assert told.probabilities.tobytes() == KnownScorer().score(TEXTS).probabilities.tobytes()


def test_a_file_that_another_keeps_locked_does_not_stop_the_scoring(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    CachedScorer(KnownScorer(), path).score(TEXTS[:1])
    monkeypatch.setattr(cache, "BUSY_S", 0.05)
    with path.open("ab") as holder:
        fcntl.flock(holder, fcntl.LOCK_EX)
        with pytest.warns(CacheWarning, match="cannot be used"):
            scores = CachedScorer(KnownScorer(), path).score(TEXTS)
    assert scores.probabilities.tobytes() == KnownScorer().score(TEXTS).probabilities.tobytes()
    assert remembered(path) == set(TEXTS[:1])


def test_of_many_threads_each_gets_every_score(path: Path) -> None:
    expected = KnownScorer().score(TEXTS).probabilities.tobytes()
    with ThreadPoolExecutor(8) as pool:
        answers = list(pool.map(lambda _: CachedScorer(KnownScorer(), path).score(TEXTS), range(8)))
    assert {scores.probabilities.tobytes() for scores in answers} == {expected}
    assert remembered(path) == set(TEXTS)
