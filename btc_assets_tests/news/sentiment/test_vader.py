"""The embedded scorer: VADER's rules, the project's lexicon, and shares."""

from __future__ import annotations

import time
from functools import cache

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from btc_assets.news.sentiment.protocol import CLASSES
from btc_assets.news.sentiment.vader import (
    MAX_CHARACTERS,
    NEUTRAL_ZONE,
    VaderScorer,
    combine_lexicons,
    finance_words,
    project_words,
    shares,
)

SCORED, NEUTRAL = project_words()


@cache
def scorer(lexicon: str = "finance") -> VaderScorer:
    return VaderScorer(lexicon)  # type: ignore[arg-type]


def compound(text: str, lexicon: str = "finance") -> float:
    negative, _, positive = scorer(lexicon).score([text]).probabilities[0]
    return float(positive - negative)


# --- the rules are VADER's ---------------------------------------------------------------------------
WORDS = """
good GOOD bad crash great. terrible! kill win hope lol :) :( the a price so this never not isn't without doubt least
at very hardly kind of sort no nor or but bomb shit bad ass yeah right kiss death to die for 🚀 😱 !!! ?? ???? didn't
despite extremely LESS
"""


@settings(max_examples=300, deadline=None)
@given(st.lists(st.sampled_from(WORDS.split()), max_size=14).map(" ".join))
@example("Everyone says he is such a bad ass here")
@example("That was really the kiss of death for it")
@example("The view from up there is to die for")
@example("They told us they won yeah right")
@example("She thinks that it is the shit or the bomb")
@example("It is sort of good and kind of great")
def test_the_general_scorer_matches_vader(text: str) -> None:
    from vaderSentiment.vaderSentiment import SentimentIntensityAnalyzer

    expected = _original(SentimentIntensityAnalyzer).polarity_scores(text)
    measured, neutral, total = scorer("general")._analyser.polarity_scores(text)
    assert round(measured, 4) == expected["compound"]
    assert round(neutral / total if total else 0, 3) == expected["neu"]


@cache
def _original(kind: type) -> object:
    return kind()


# --- shares ------------------------------------------------------------------------------------------
@st.composite
def measure(draw: st.DrawFn) -> tuple[float, float, float]:
    neutral = draw(st.integers(0, 500))
    return draw(st.floats(-1, 1)), float(neutral), neutral + draw(st.floats(0, 500))


@given(st.lists(measure(), min_size=1, max_size=20))
def test_shares_are_valid_and_their_score_is_the_compound(rows: list[tuple[float, float, float]]) -> None:
    measured, neutral, total = np.array(rows).T
    p = shares(measured, neutral, total)
    assert (p >= 0).all()
    assert (p <= 1).all()
    assert np.allclose(p.sum(axis=1), 1, atol=1e-12)
    assert np.allclose(p[:, 2] - p[:, 0], measured, atol=1e-12)


@given(measure())
def test_the_largest_share_is_the_class_of_vaders_rule(row: tuple[float, float, float]) -> None:
    value = row[0]
    if abs(abs(value) - NEUTRAL_ZONE) < 1e-9:
        return
    expected = "neutral" if abs(value) < NEUTRAL_ZONE else "positive" if value > 0 else "negative"
    p = shares(*(np.array([number]) for number in row))[0]
    assert CLASSES[int(p.argmax())] == expected


@given(st.floats(0, 1), st.floats(0, 1))
def test_the_positive_share_grows_with_the_compound(left: float, right: float) -> None:
    weak, strong = sorted((left, right))
    p = shares(np.array([weak, strong]), np.array([5.0, 5.0]), np.array([9.0, 9.0]))
    assert p[1, 2] >= p[0, 2] - 1e-12
    if weak >= NEUTRAL_ZONE:
        assert p[1, 0] <= p[0, 0] + 1e-12
        assert p[1, 1] <= p[0, 1] + 1e-12


def test_short_texts_have_similar_shares() -> None:
    nothing, short, long = (
        scorer().score(["", "Hm", "The committee meets in the hall by the river on Tuesday"]).probabilities
    )
    assert nothing.tolist() == pytest.approx([0.325, 0.35, 0.325])
    assert 1 / 3 < short[1] < long[1] < 1


# --- lexicon -----------------------------------------------------------------------------------------
def test_every_scored_word_is_recognised_alone_and_in_a_sentence() -> None:
    forms = ("{}", "{}!", "Analysts see {}, he wrote", "“{}” is the word")
    read = {(word, form): form.format(word) for word in SCORED for form in forms}
    read |= {(word, "upper"): word.upper() for word in SCORED}
    wrong = [key for key, text in read.items() if np.sign(compound(text)) != np.sign(SCORED[key[0]])]
    assert wrong == []


def test_every_neutral_word_has_compound_zero() -> None:
    assert [word for word in NEUTRAL if compound(f"The {word} of today") != 0] == []


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("BTC rug-pull", "negative"),
        ("Another rug\u00a0pull", "negative"),
        ("Bitcoin ETF inflows hit all-time high", "positive"),
        ("ETF outflows deepen", "negative"),
        ("Bitcoin is up 5% today", "positive"),
        ("Bitcoin is DOWN BY 5.2 percent", "negative"),
        ("ETH -3.4%, BTC 1-2% of assets", "negative"),
        ("BTC +3.4%", "positive"),
        ("Holds 3-5% of its assets in cash", "neutral"),
        ("It was not bullish", "negative"),
        ("It wasn’t bullish", "negative"),
        ("Crypto Fear & Greed Index is out", "neutral"),
        ("Block 840,000 is mined", "neutral"),
        ("“Bearish” mood", "negative"),
        ("🚀", "positive"),
    ],
)
def test_headlines_have_the_expected_class(text: str, expected: str) -> None:
    assert CLASSES[int(scorer().score([text]).probabilities[0].argmax())] == expected


def test_a_phrase_has_priority_over_its_words() -> None:
    assert compound("a bear market") == compound("bearish") < 0
    assert compound("rate hikes") < 0 < compound("rate cuts")


def test_project_words_override_finance_and_finance_overrides_general() -> None:
    lexicon = combine_lexicons(
        {"a": 2.0, "b": 2.0, "c": 2.0, "d": 2.0}, {"b": -1.0, "c": 1.0, "d": 0.0, "e": 1.0}, {"c": 3.0}, []
    )
    assert {word: lexicon.get(word) for word in "abcde"} == {"a": 0.5, "b": -0.1, "c": 3.0, "d": None, "e": None}
    assert "c" not in combine_lexicons({"c": 2.0}, {"c": 1.0}, {}, ["c"])


def test_the_finance_list_is_complete() -> None:
    words = finance_words()
    assert len(words) == 7295
    assert all(-1 <= polarity <= 1 for polarity in words.values())


# --- scorer protocol ---------------------------------------------------------------------------------
def test_a_score_does_not_depend_on_the_other_texts() -> None:
    texts = ["Bitcoin crashes", "", "HODL 🚀🚀", "nothing much"]
    together = scorer().score(texts).probabilities
    alone = np.concatenate([VaderScorer().score([text]).probabilities for text in texts])
    assert together.tobytes() == alone.tobytes()


def test_without_texts_there_are_no_rows() -> None:
    scores = scorer().score([])
    assert scores.probabilities.shape == (0, 3)
    assert scores.truncated.shape == (0,)


def test_a_very_long_text_is_truncated() -> None:
    calm = "word " * (MAX_CHARACTERS // 5)
    scores = scorer().score([calm, calm + "crash crash crash"])
    assert scores.truncated.tolist() == [False, True]
    assert scores.probabilities[0].tolist() == scores.probabilities[1].tolist()


@pytest.mark.parametrize(
    "text", ["but a " * 5_000, "! " * 50_000, "not " * 20_000, "up " * 50_000, "(" * 100_000, "bull " * 9_999]
)
def test_hostile_texts_are_scored_quickly(text: str) -> None:
    started = time.process_time()
    scorer().score([text])
    assert time.process_time() - started < 2


def test_the_two_lexicons_have_different_names_and_digests() -> None:
    assert (scorer().name, scorer("general").name) == ("vader", "vader_general")
    assert scorer().weights_digest != scorer("general").weights_digest
    assert scorer().weights_digest == VaderScorer().weights_digest
    assert len(scorer().weights_digest) == 64


def test_a_thousand_articles_are_scored_within_two_seconds() -> None:
    article = (
        "Bitcoin slides below a key level as ETF outflows mount. Traders said that the sell-off, which was not "
        "expected by most analysts, may continue if the Federal Reserve hikes rates, but long-term holders keep "
        "accumulating and the number of wallets with more than one coin rose to a record high, according to data from "
        "several providers."
    )
    started = time.process_time()
    scorer().score([article] * 1_000)
    assert time.process_time() - started < 2, "half the documented speed, as a margin for a busy machine"
