"""The score cache: each text is scored once with exact results, also after kills and file damage."""

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
from btc_assets_tests.news.sentiment.builders import FakeScorer

TEXTS = [f"text {n}" for n in range(40)]


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "cache" / "sentiment.scores"


def cached_texts(path: Path, texts: list[str] = TEXTS) -> set[str]:
    """Return the texts whose scores are in the file."""
    scorer = FakeScorer()
    CachedScorer(scorer, path).score(texts)
    return set(texts) - set(scorer.scored_texts)


def start_process(script: str, path: Path) -> subprocess.Popen[bytes]:
    head = (
        "import os, signal, sys\nfrom pathlib import Path\nfrom btc_assets.news.sentiment import cache\n"
        "from btc_assets_tests.news.sentiment.builders import FakeScorer, fake_shares\n"
        f"path = Path({str(path)!r})\ntexts = [f'text {{n}}' for n in range(40)]\n"
    )
    return subprocess.Popen(
        [sys.executable, "-W", "error", "-c", head + script], cwd=PROJECT_ROOT, stderr=subprocess.PIPE
    )


# --- caching -----------------------------------------------------------------------------------------
def test_a_text_is_scored_once(path: Path) -> None:
    scorer = FakeScorer()
    one = CachedScorer(scorer, path).score([*TEXTS, *TEXTS])
    other = CachedScorer(scorer, path).score(list(reversed(TEXTS)))
    assert sorted(scorer.scored_texts) == sorted(TEXTS)
    assert one.probabilities[:40].tobytes() == one.probabilities[40:].tobytes() == other.probabilities[::-1].tobytes()


@pytest.mark.parametrize("change", [{"name": "another"}, {"version": "2"}, {"weights": "v"}])
def test_another_scorer_version_or_weights_scores_again(path: Path, change: dict[str, str]) -> None:
    CachedScorer(FakeScorer(), path).score(TEXTS)
    changed = FakeScorer(**change)
    CachedScorer(changed, path).score(TEXTS)
    assert len(changed.scored_texts) == len(TEXTS)
    assert cached_texts(path) == set(TEXTS), "the earlier scores are kept"


def test_a_cached_scorer_has_the_identity_of_the_wrapped_scorer(path: Path) -> None:
    scorer = FakeScorer()
    wrapped = CachedScorer(scorer, path)
    assert (wrapped.name, wrapped.version, wrapped.weights_digest) == ("known", "1", scorer.weights_digest)


VERSIONS = itertools.count()
SHARES = st.tuples(st.floats(0, 1), st.floats(0, 1)).map(lambda p: (p[0], (1 - p[0]) * p[1], (1 - p[0]) * (1 - p[1])))


@pytest.fixture(scope="module")
def shared_path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("cache") / "sentiment.scores"


@settings(max_examples=25, deadline=None)
@given(st.dictionaries(st.text(max_size=8), st.tuples(SHARES, st.booleans()), max_size=8))
def test_cached_scores_are_exact(shared_path: Path, rows: dict[str, tuple[tuple[float, float, float], bool]]) -> None:
    version = str(next(VERSIONS))

    class Given(FakeScorer):
        def score(self, texts: list[str]) -> Scores:  # type: ignore[override]
            p = np.array([rows[text][0] for text in texts]).reshape(-1, 3)
            return Scores(p, np.array([rows[text][1] for text in texts], dtype=bool))

    first = CachedScorer(Given(version=version), shared_path).score(list(rows))
    again = CachedScorer(FakeScorer(version=version, fails=True), shared_path).score(list(rows))
    expected = Given().score(list(rows))
    for scores in (first, again):
        assert scores.probabilities.tobytes() == expected.probabilities.tobytes()
        assert scores.truncated.tolist() == expected.truncated.tolist()


def test_negative_zero_and_subnormal_numbers_are_exact(path: Path) -> None:
    scorer = FakeScorer(shares=lambda _: (-0.0, 5e-324, 1.0))
    CachedScorer(scorer, path).score(["a"])
    back = CachedScorer(FakeScorer(fails=True), path).score(["a"]).probabilities
    assert back.tobytes() == np.array([[-0.0, 5e-324, 1.0]]).tobytes()


@pytest.mark.parametrize(
    "shares", [(0.0, 0.0, 0.0), (0.5, 0.6, 0.2), (float("nan"), 0.5, 0.5), (-0.1, 0.6, 0.5), (1.0, 0.0)]
)
def test_invalid_probabilities_are_refused_and_not_stored(path: Path, shares: tuple[float, ...]) -> None:
    class Broken(FakeScorer):
        def score(self, texts: list[str]) -> Scores:  # type: ignore[override]
            return Scores(np.array([shares] * len(texts)), np.zeros(len(texts), dtype=bool))

    with pytest.raises(ScorerError, match="'known' got 40 texts"):
        CachedScorer(Broken(), path).score(TEXTS)
    assert cached_texts(path) == set()


def test_a_scorer_that_fails_fails_through_the_cache(path: Path) -> None:
    with pytest.raises(ScorerError, match="out of order"):
        CachedScorer(FakeScorer(fails=True), path).score(TEXTS)


# --- processes ---------------------------------------------------------------------------------------
def test_processes_share_a_new_file(path: Path) -> None:
    script = (
        "cache.BATCH = 3\nshare = int(sys.argv[1]) if len(sys.argv) > 1 else 0\n"
        "for _ in range(3):\n"
        "    scores = cache.CachedScorer(FakeScorer(), path).score(texts).probabilities.tolist()\n"
        "    assert scores == [list(fake_shares(text)) for text in texts]\n"
    )
    processes = [start_process(script, path) for _ in range(4)]
    for process in processes:
        _, errors = process.communicate(timeout=WATCHDOG_S)
        assert process.returncode == 0, errors.decode()
    assert cached_texts(path) == set(TEXTS)


def test_a_process_killed_while_scoring_keeps_the_batches_before(path: Path) -> None:
    script = (
        "cache.BATCH = 10\n"
        "def shares(text):\n"
        "    if text == 'text 25': os.kill(os.getpid(), signal.SIGKILL)\n"
        "    return fake_shares(text)\n"
        "cache.CachedScorer(FakeScorer(shares=shares), path).score(texts)\n"
    )
    assert start_process(script, path).wait(timeout=WATCHDOG_S) == -9
    assert cached_texts(path) == set(TEXTS[:20])


@pytest.mark.parametrize("written", [1, 60, 61, 100])
def test_a_torn_batch_loses_only_its_own_rows(path: Path, written: int) -> None:
    CachedScorer(FakeScorer(), path).score(TEXTS)
    content = path.read_bytes()
    path.write_bytes(content[: 30 * len(content) // len(TEXTS) + written])
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert cached_texts(path) == set(TEXTS[: 30 + written // 61])
        assert cached_texts(path) == set(TEXTS), "rows after a torn row are found"


def test_the_first_row_of_a_text_counts(path: Path) -> None:
    late = CachedScorer(FakeScorer(shares=lambda _: (0.2, 0.3, 0.5)), path)
    early = CachedScorer(FakeScorer(shares=lambda _: (0.1, 0.8, 0.1)), path)

    class Overtaken(FakeScorer):
        def score(self, texts: list[str]) -> Scores:  # type: ignore[override]
            early.score(texts)
            return late.scorer.score(texts)

    scores = CachedScorer(Overtaken(), path).score(["a"]).probabilities
    assert scores.tolist() == [[0.1, 0.8, 0.1]]


# --- damage ------------------------------------------------------------------------------------------
@pytest.mark.parametrize("content", [b"this is no cache" * 1_000, b"x", b"\0" * 10_000])
def test_a_file_of_another_format_is_ignored(path: Path, content: bytes) -> None:
    path.parent.mkdir()
    path.write_bytes(content)
    assert cached_texts(path) == set()
    assert cached_texts(path) == set(TEXTS)


@pytest.mark.parametrize("damage", ["cut", "overwritten"])
def test_a_damaged_file_gives_correct_scores(path: Path, damage: str) -> None:
    texts = [f"text {n}" for n in range(5_000)]
    CachedScorer(FakeScorer(), path).score(texts)
    content = path.read_bytes()
    assert len(content) > 200_000
    middle = len(content) // 2
    path.write_bytes(
        content[:middle] if damage == "cut" else content[:middle] + b"\xff" * 20_000 + content[middle + 20_000 :]
    )
    scorer = FakeScorer()
    scores = CachedScorer(scorer, path).score(texts)
    assert scores.probabilities.tobytes() == FakeScorer().score(texts).probabilities.tobytes()
    assert 0 < len(scorer.scored_texts) < 2_600
    assert cached_texts(path, texts) == set(texts)


def test_a_changed_row_is_scored_again(path: Path) -> None:
    CachedScorer(FakeScorer(), path).score(TEXTS)
    content = bytearray(path.read_bytes())
    content[40] ^= 1
    path.write_bytes(content)
    scorer = FakeScorer()
    scores = CachedScorer(scorer, path).score(TEXTS)
    assert scorer.scored_texts == TEXTS[:1]
    assert scores.probabilities.tobytes() == FakeScorer().score(TEXTS).probabilities.tobytes()
    assert cached_texts(path) == set(TEXTS)


def test_without_a_usable_file_texts_are_scored_with_a_warning(tmp_path: Path) -> None:
    (tmp_path / "cache").write_text("a file where the folder should be")
    with pytest.warns(CacheWarning, match="cannot be used"):
        scores = CachedScorer(FakeScorer(), tmp_path / "cache" / "scores.db").score(TEXTS)
    assert scores.probabilities.tobytes() == FakeScorer().score(TEXTS).probabilities.tobytes()


def test_a_locked_file_does_not_stop_scoring(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    CachedScorer(FakeScorer(), path).score(TEXTS[:1])
    monkeypatch.setattr(cache, "BUSY_S", 0.05)
    with path.open("ab") as holder:
        fcntl.flock(holder, fcntl.LOCK_EX)
        with pytest.warns(CacheWarning, match="cannot be used"):
            scores = CachedScorer(FakeScorer(), path).score(TEXTS)
    assert scores.probabilities.tobytes() == FakeScorer().score(TEXTS).probabilities.tobytes()
    assert cached_texts(path) == set(TEXTS[:1])


def test_threads_share_a_file(path: Path) -> None:
    expected = FakeScorer().score(TEXTS).probabilities.tobytes()
    with ThreadPoolExecutor(8) as pool:
        answers = list(pool.map(lambda _: CachedScorer(FakeScorer(), path).score(TEXTS), range(8)))
    assert {scores.probabilities.tobytes() for scores in answers} == {expected}
    assert cached_texts(path) == set(TEXTS)
