"""Scoring of articles and posts, and selection of the primary scorer."""

from __future__ import annotations

import hashlib
import sys
import time
from collections.abc import Callable
from datetime import UTC, date, datetime
from pathlib import Path
from types import ModuleType

import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from btc_assets.news.sentiment.cache import CachedScorer
from btc_assets.news.sentiment.ensemble import fit_ensemble
from btc_assets.news.sentiment.judge import LABELLED
from btc_assets.news.sentiment.protocol import CLASSES, Scorer, ScorerError, WeightsUnavailableError
from btc_assets.news.sentiment.score import ensemble_path, score_items, scorers_of
from btc_assets.news.sentiment.vader import VaderScorer
from btc_assets.news.tables import ARTICLES, POSTS, SENTIMENT_SCORES
from btc_assets.settings import Settings
from btc_assets_tests.news.sentiment.builders import FakeScorer, fake_shares

NOON = datetime(2025, 6, 1, 12, tzinfo=UTC)


def item_id(name: object) -> str:
    return hashlib.sha256(str(name).encode()).hexdigest()[:32]


def articles(*rows: tuple[str, str, int], title: str = "title") -> pl.DataFrame:
    """Return ARTICLES rows of (title, summary, revision); the title names the article up to its first space."""
    records = [
        {
            "article_id": item_id(title.split(" ")[0]), "revision": revision, "story_id": item_id(title),
            "source": "test", "outlet": "example.org", "url": None, "title": title, "summary": summary,
            "published_at": None, "precision": "none", "available_at": NOON,
        }
        for title, summary, revision in rows
    ]  # fmt: skip
    return pl.DataFrame(records, schema=ARTICLES.columns).sort(ARTICLES.key)


def posts(*texts: str, revision: int = 0) -> pl.DataFrame:
    records = [
        {
            "post_id": item_id(text), "revision": revision, "source": "test", "platform": "test", "channel": "",
            "url": None, "text": text, "published_at": None, "precision": "none", "available_at": NOON,
            "points": None, "comments": None, "is_repost": False,
        }
        for text in texts
    ]  # fmt: skip
    return pl.DataFrame(records, schema=POSTS.columns).sort(POSTS.key)


# --- rows --------------------------------------------------------------------------------------------
TITLES = st.text(st.characters(exclude_categories=["Cs", "Cc"], exclude_characters=" "), min_size=1, max_size=12)


@settings(max_examples=30, deadline=None)
@given(
    st.dictionaries(TITLES, st.tuples(st.text(st.characters(exclude_categories=["Cs"]), max_size=12), st.booleans())),
    st.sets(TITLES),
)
def test_every_first_text_has_one_row_per_scorer(titles: dict[str, tuple[str, bool]], post_texts: set[str]) -> None:
    rows = [(title, summary, 0) for title, (summary, _) in titles.items()]
    edits = [(f"{title} edited", summary, 1) for title, (summary, edited) in titles.items() if edited]
    scorers = [FakeScorer("a"), FakeScorer("b")]
    edited_posts = posts(*(f"{text} edited" for text in post_texts), revision=1)
    scored = score_items(articles(*rows, *edits), pl.concat([posts(*post_texts), edited_posts]), scorers, "b")
    assert SENTIMENT_SCORES.faults(scored) == []
    expected = {("article", item_id(title)) for title in titles} | {("post", item_id(text)) for text in post_texts}
    keys = scored.select("kind", "item_id", "scorer").rows()
    assert sorted(keys) == sorted((*key, name) for key in expected for name in "ab")
    assert scored.filter(pl.col("is_primary"))["scorer"].unique().to_list() == (["b"] if expected else [])
    assert not any("edited" in text for scorer in scorers for text in scorer.scored_texts)


def test_articles_are_scored_by_title_and_summary_and_posts_by_text() -> None:
    scorer = FakeScorer()
    rows = score_items(articles(("One", "and more", 0), ("Two", "", 0)), posts("three"), [scorer], "known")
    assert sorted(scorer.scored_texts) == ["One. and more", "Two", "three"]
    digests = dict(rows.select("item_id", "text_digest").iter_rows())
    assert digests[item_id("One")] == hashlib.sha256(b"One. and more").hexdigest()


def test_a_row_has_the_scores_of_its_text() -> None:
    texts = [f"text{n}" for n in range(50)] + ["x" * 200]
    scorer = FakeScorer(version="7")
    rows = score_items(ARTICLES.empty(), posts(*texts), [scorer], "known")
    by_id = {item_id(text): text for text in texts}
    for row in rows.iter_rows(named=True):
        text = by_id[row["item_id"]]
        shares = fake_shares(text)
        assert (row["p_negative"], row["p_neutral"], row["p_positive"]) == shares
        assert row["score"] == shares[2] - shares[0]
        assert row["truncated"] == (len(text) > 100)
        assert (row["scorer_version"], row["weights_digest"]) == ("7", scorer.weights_digest)
        assert row["available_at"] == NOON


def test_a_repeated_text_is_scored_once() -> None:
    scorer = FakeScorer()
    rows = score_items(articles(("Same", "", 0)), posts("Same"), [scorer], "known")
    assert scorer.scored_texts == ["Same"]
    assert rows.height == 2


def test_without_texts_no_scorer_runs() -> None:
    rows = score_items(articles(("An edit", "", 1)), POSTS.empty(), [FakeScorer(fails=True)], "known")
    assert rows.equals(SENTIMENT_SCORES.empty())


def test_a_failing_scorer_is_an_error() -> None:
    with pytest.raises(ScorerError, match="out of order"):
        score_items(ARTICLES.empty(), posts("a"), [FakeScorer("a"), FakeScorer("b", fails=True)], "a")


@pytest.mark.parametrize(("names", "primary"), [(("a", "a"), "a"), (("a", "b"), "c"), ((), "a")])
def test_scorer_names_are_unique_and_include_the_primary(names: tuple[str, ...], primary: str) -> None:
    with pytest.raises(ValueError, match="expected scorers of different names"):
        score_items(ARTICLES.empty(), posts("a"), [FakeScorer(name) for name in names], primary)


def test_a_thousand_articles_are_scored_within_ten_seconds(tmp_path: Path) -> None:
    summary = (
        "Analysts said that the move, which was not expected, may continue if outflows from funds do not stop. " * 4
    )
    frame = articles(*((f"Headline{n} about bitcoin", summary, 0) for n in range(1_000)))
    scorers = scorers_of(Settings(data_dir=tmp_path)).scorers
    started = time.process_time()
    rows = score_items(frame, POSTS.empty(), scorers, "vader")
    assert time.process_time() - started < 10
    assert rows.height == 1_000


# --- selecting scorers -------------------------------------------------------------------------------
@pytest.fixture
def transformer(monkeypatch: pytest.MonkeyPatch) -> Callable[[Scorer | Exception], None]:
    """Return a function that replaces the transformer by a scorer or an error."""

    def put(answer: Scorer | Exception) -> None:
        def load_transformer(model: str, runtime: str) -> Scorer:
            if isinstance(answer, Exception):
                raise answer
            return answer

        module = ModuleType("transformer")
        module.load_transformer = load_transformer  # type: ignore[attr-defined]
        monkeypatch.setitem(sys.modules, "btc_assets.news.sentiment.transformer", module)

    return put


def settings_with(tmp_path: Path, scorer: str) -> Settings:
    return Settings(data_dir=tmp_path, sentiment_scorer=scorer)  # type: ignore[arg-type]


def test_by_default_vader_scores_with_a_cache(tmp_path: Path) -> None:
    run = scorers_of(settings_with(tmp_path, "vader"))
    assert ([scorer.name for scorer in run.scorers], run.primary, run.notices) == (["vader"], "vader", ())
    run.scorers[0].score(["Bitcoin rallies"])
    assert (tmp_path / "cache" / "sentiment.scores").exists()


def test_the_transformer_is_primary_in_addition_to_the_default(tmp_path: Path, transformer: Callable) -> None:
    transformer(FakeScorer("transformer"))
    run = scorers_of(settings_with(tmp_path, "transformer"))
    assert ([scorer.name for scorer in run.scorers], run.primary) == (["vader", "transformer"], "transformer")
    assert run.notices == ()


@pytest.mark.parametrize("configured", ["transformer", "ensemble"])
def test_without_weights_the_default_is_primary_with_a_notice(
    tmp_path: Path, transformer: Callable, configured: str
) -> None:
    transformer(WeightsUnavailableError("the hub cannot be reached"))
    run = scorers_of(settings_with(tmp_path, configured))
    assert ([scorer.name for scorer in run.scorers], run.primary) == (["vader"], "vader")
    (notice,) = run.notices
    assert f"BTC_SENTIMENT_SCORER={configured} cannot be used: the hub cannot be reached." in notice
    assert "features read the scores of 'vader'" in notice
    rows = score_items(ARTICLES.empty(), posts("Bitcoin crashes", "Bitcoin soars"), run.scorers, run.primary)
    assert rows["is_primary"].all()
    assert (rows["score"] != 0).all(), "real scores, not zeros"


def test_unusable_weights_are_an_error(tmp_path: Path, transformer: Callable) -> None:
    transformer(ScorerError("its labels are LABEL_0, LABEL_1."))
    with pytest.raises(ScorerError, match="LABEL_0"):
        scorers_of(settings_with(tmp_path, "transformer"))


def test_without_a_fitted_ensemble_the_default_is_primary_with_a_notice(tmp_path: Path, transformer: Callable) -> None:
    transformer(FakeScorer("transformer"))
    run = scorers_of(settings_with(tmp_path, "ensemble"))
    assert ([scorer.name for scorer in run.scorers], run.primary) == (["vader", "transformer"], "vader")
    assert "fit it first" in run.notices[0]


def test_a_fitted_ensemble_is_primary_and_each_scorer_runs_once(tmp_path: Path, transformer: Callable) -> None:
    known = FakeScorer("transformer")
    transformer(known)
    config = settings_with(tmp_path, "ensemble")
    rows = [(f"{CLASSES[n % 3]} {n}", CLASSES[n % 3], "made", "train") for n in range(120)]
    frame = pl.DataFrame(rows, schema=LABELLED, orient="row")
    fit_ensemble(frame, scorers_of(config).scorers, ensemble_path(config), date(2025, 6, 1))
    run = scorers_of(config)
    assert ([scorer.name for scorer in run.scorers], run.primary) == (["vader", "transformer", "ensemble"], "ensemble")
    known.scored_texts.clear()
    scored = score_items(ARTICLES.empty(), posts("a text", "another"), run.scorers, run.primary)
    assert SENTIMENT_SCORES.faults(scored) == []
    assert sorted(known.scored_texts) == ["a text", "another"]


def test_the_cache_changes_no_score(tmp_path: Path) -> None:
    plain, with_cache = VaderScorer(), CachedScorer(VaderScorer(), tmp_path / "scores")
    frame = posts(*(f"Bitcoin falls {n} times and recovers" for n in range(20)))
    expected = score_items(ARTICLES.empty(), frame, [plain], "vader")
    assert score_items(ARTICLES.empty(), frame, [with_cache], "vader").equals(expected)
    assert score_items(ARTICLES.empty(), frame, [with_cache], "vader").equals(expected)
