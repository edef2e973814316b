"""From articles and posts to rows of scores, and which scorer is the one that features read."""

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
from btc_assets_tests.news.sentiment.builders import KnownScorer, some_shares

NOON = datetime(2025, 6, 1, 12, tzinfo=UTC)


def item_id(name: object) -> str:
    return hashlib.sha256(str(name).encode()).hexdigest()[:32]


def articles(*rows: tuple[str, str, int], title: str = "title") -> pl.DataFrame:
    """Return ARTICLES rows of (title, summary, revision); the title names the article up to its first space."""
    made = [
        {
            "article_id": item_id(title.split(" ")[0]), "revision": revision, "story_id": item_id(title),
            "source": "test", "outlet": "example.org", "url": None, "title": title, "summary": summary,
            "published_at": None, "precision": "none", "available_at": NOON,
        }
        for title, summary, revision in rows
    ]  # fmt: skip
    return pl.DataFrame(made, schema=ARTICLES.columns).sort(ARTICLES.key)


def posts(*texts: str, revision: int = 0) -> pl.DataFrame:
    made = [
        {
            "post_id": item_id(text), "revision": revision, "source": "test", "platform": "test", "channel": "",
            "url": None, "text": text, "published_at": None, "precision": "none", "available_at": NOON,
            "points": None, "comments": None, "is_repost": False,
        }
        for text in texts
    ]  # fmt: skip
    return pl.DataFrame(made, schema=POSTS.columns).sort(POSTS.key)


# --- rows --------------------------------------------------------------------------------------------
TITLES = st.text(st.characters(exclude_categories=["Cs", "Cc"], exclude_characters=" "), min_size=1, max_size=12)


@settings(max_examples=30, deadline=None)
@given(
    st.dictionaries(TITLES, st.tuples(st.text(st.characters(exclude_categories=["Cs"]), max_size=12), st.booleans())),
    st.sets(TITLES),
)
def test_there_is_one_row_for_every_first_text_and_scorer(told: dict[str, tuple[str, bool]], posted: set[str]) -> None:
    rows = [(title, summary, 0) for title, (summary, _) in told.items()]
    edits = [(f"{title} edited", summary, 1) for title, (summary, edited) in told.items() if edited]
    scorers = [KnownScorer("a"), KnownScorer("b")]
    edited_posts = posts(*(f"{text} edited" for text in posted), revision=1)
    scored = score_items(articles(*rows, *edits), pl.concat([posts(*posted), edited_posts]), scorers, "b")
    assert SENTIMENT_SCORES.faults(scored) == []
    expected = {("article", item_id(title)) for title in told} | {("post", item_id(text)) for text in posted}
    keys = scored.select("kind", "item_id", "scorer").rows()
    assert sorted(keys) == sorted((*key, name) for key in expected for name in "ab")
    assert scored.filter(pl.col("is_primary"))["scorer"].unique().to_list() == (["b"] if expected else [])
    assert not any("edited" in text for scorer in scorers for text in scorer.asked)


def test_the_text_of_an_article_is_title_and_summary_and_of_a_post_its_text() -> None:
    scorer = KnownScorer()
    rows = score_items(articles(("One", "and more", 0), ("Two", "", 0)), posts("three"), [scorer], "known")
    assert sorted(scorer.asked) == ["One. and more", "Two", "three"]
    told = dict(rows.select("item_id", "text_digest").iter_rows())
    assert told[item_id("One")] == hashlib.sha256(b"One. and more").hexdigest()


def test_a_row_holds_what_the_scorer_said_of_that_very_text() -> None:
    texts = [f"text{n}" for n in range(50)] + ["x" * 200]
    scorer = KnownScorer(version="7")
    rows = score_items(ARTICLES.empty(), posts(*texts), [scorer], "known")
    by_id = {item_id(text): text for text in texts}
    for row in rows.iter_rows(named=True):
        text = by_id[row["item_id"]]
        said = some_shares(text)
        assert (row["p_negative"], row["p_neutral"], row["p_positive"]) == said
        assert row["score"] == said[2] - said[0]
        assert row["truncated"] == (len(text) > 100)
        assert (row["scorer_version"], row["weights_digest"]) == ("7", scorer.weights_digest)
        assert row["available_at"] == NOON


def test_a_text_that_several_items_share_is_asked_about_once() -> None:
    scorer = KnownScorer()
    rows = score_items(articles(("Same", "", 0)), posts("Same"), [scorer], "known")
    assert scorer.asked == ["Same"]
    assert rows.height == 2


def test_nothing_to_score_is_an_empty_table_and_no_scorer_is_asked() -> None:
    rows = score_items(articles(("An edit", "", 1)), POSTS.empty(), [KnownScorer(fails=True)], "known")
    assert rows.equals(SENTIMENT_SCORES.empty())


def test_a_scorer_that_fails_gives_an_error_and_no_rows() -> None:
    with pytest.raises(ScorerError, match="out of order"):
        score_items(ARTICLES.empty(), posts("a"), [KnownScorer("a"), KnownScorer("b", fails=True)], "a")


@pytest.mark.parametrize(("names", "primary"), [(("a", "a"), "a"), (("a", "b"), "c"), ((), "a")])
def test_one_scorer_of_each_name_and_one_primary_are_needed(names: tuple[str, ...], primary: str) -> None:
    with pytest.raises(ValueError, match="expected scorers of different names"):
        score_items(ARTICLES.empty(), posts("a"), [KnownScorer(name) for name in names], primary)


def test_a_thousand_articles_are_scored_in_a_fraction_of_thirty_seconds(tmp_path: Path) -> None:
    summary = (
        "Analysts said that the move, which was not expected, may continue if outflows from funds do not stop. " * 4
    )
    frame = articles(*((f"Headline{n} about bitcoin", summary, 0) for n in range(1_000)))
    scorers = scorers_of(Settings(data_dir=tmp_path)).scorers
    begun = time.process_time()
    rows = score_items(frame, POSTS.empty(), scorers, "vader")
    assert time.process_time() - begun < 10
    assert rows.height == 1_000


# --- which scorers -----------------------------------------------------------------------------------
@pytest.fixture
def transformer(monkeypatch: pytest.MonkeyPatch) -> Callable[[Scorer | Exception], None]:
    """Return how to put a known scorer, or an error, in the place of the transformer's weights."""

    def put(answer: Scorer | Exception) -> None:
        def load_transformer(model: str, runtime: str) -> Scorer:
            if isinstance(answer, Exception):
                raise answer
            return answer

        stand_in = ModuleType("transformer")
        stand_in.load_transformer = load_transformer  # type: ignore[attr-defined]
        monkeypatch.setitem(sys.modules, "btc_assets.news.sentiment.transformer", stand_in)

    return put


def chosen(tmp_path: Path, asked: str) -> Settings:
    return Settings(data_dir=tmp_path, sentiment_scorer=asked)  # type: ignore[arg-type]


def test_by_default_vader_scores_and_remembers(tmp_path: Path) -> None:
    run = scorers_of(chosen(tmp_path, "vader"))
    assert ([scorer.name for scorer in run.scorers], run.primary, run.notices) == (["vader"], "vader", ())
    run.scorers[0].score(["Bitcoin rallies"])
    assert (tmp_path / "cache" / "sentiment.scores").exists()


def test_the_transformer_is_primary_beside_the_default(tmp_path: Path, transformer: Callable) -> None:
    transformer(KnownScorer("transformer"))
    run = scorers_of(chosen(tmp_path, "transformer"))
    assert ([scorer.name for scorer in run.scorers], run.primary) == (["vader", "transformer"], "transformer")
    assert run.notices == ()


@pytest.mark.parametrize("asked", ["transformer", "ensemble"])
def test_without_weights_the_run_says_so_and_the_default_is_primary(
    tmp_path: Path, transformer: Callable, asked: str
) -> None:
    transformer(WeightsUnavailableError("the hub cannot be reached"))
    run = scorers_of(chosen(tmp_path, asked))
    assert ([scorer.name for scorer in run.scorers], run.primary) == (["vader"], "vader")
    (notice,) = run.notices
    assert f"BTC_SENTIMENT_SCORER asks for '{asked}'" in notice
    assert "the hub cannot be reached. Until then features read the scores of 'vader'" in notice
    rows = score_items(ARTICLES.empty(), posts("Bitcoin crashes", "Bitcoin soars"), run.scorers, run.primary)
    assert rows["is_primary"].all()
    assert (rows["score"] != 0).all(), "real scores, never zeros in place of the missing ones"


def test_weights_that_are_there_and_wrong_stop_the_run(tmp_path: Path, transformer: Callable) -> None:
    transformer(ScorerError("its labels are LABEL_0, LABEL_1."))
    with pytest.raises(ScorerError, match="LABEL_0"):
        scorers_of(chosen(tmp_path, "transformer"))


def test_an_ensemble_that_was_never_fitted_is_said_and_the_default_is_primary(
    tmp_path: Path, transformer: Callable
) -> None:
    transformer(KnownScorer("transformer"))
    run = scorers_of(chosen(tmp_path, "ensemble"))
    assert ([scorer.name for scorer in run.scorers], run.primary) == (["vader", "transformer"], "vader")
    assert "no fitted ensemble" in run.notices[0]


def test_a_fitted_ensemble_is_primary_and_asks_each_scorer_once(tmp_path: Path, transformer: Callable) -> None:
    known = KnownScorer("transformer")
    transformer(known)
    config = chosen(tmp_path, "ensemble")
    rows = [(f"{CLASSES[n % 3]} {n}", CLASSES[n % 3], "made", "train") for n in range(120)]
    frame = pl.DataFrame(rows, schema=LABELLED, orient="row")
    fit_ensemble(frame, scorers_of(config).scorers, ensemble_path(config), date(2025, 6, 1))
    run = scorers_of(config)
    assert ([scorer.name for scorer in run.scorers], run.primary) == (["vader", "transformer", "ensemble"], "ensemble")
    known.asked.clear()
    scored = score_items(ARTICLES.empty(), posts("a text", "another"), run.scorers, run.primary)
    assert SENTIMENT_SCORES.faults(scored) == []
    assert sorted(known.asked) == ["a text", "another"]


def test_the_cache_changes_no_score(tmp_path: Path) -> None:
    plain, kept = VaderScorer(), CachedScorer(VaderScorer(), tmp_path / "scores")
    frame = posts(*(f"Bitcoin falls {n} times and recovers" for n in range(20)))
    expected = score_items(ARTICLES.empty(), frame, [plain], "vader")
    assert score_items(ARTICLES.empty(), frame, [kept], "vader").equals(expected)
    assert score_items(ARTICLES.empty(), frame, [kept], "vader").equals(expected)
