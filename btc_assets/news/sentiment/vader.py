"""The embedded scorer: VADER's rules over a lexicon of finance and crypto.

VADER gives a text a compound in (-1, 1) and counts of neutral, positive and negative words, none of them probabilities.
They become shares of the three classes by a fixed mapping (`shares`), so that

- the score, p_positive - p_negative, is VADER's compound, unrounded;
- the largest share names the class VADER's own rule gives: neutral for a compound within 0.05 of zero, else its sign;
- a text about which little is known is far from certain.

They rank texts and are not calibrated; `news/sentiment_benchmark` tells by how much. What the lexicon is made of and
how it was weighted is written in LEXICONS.md.
"""

from __future__ import annotations

import csv
import hashlib
import re
import tomllib
from collections.abc import Callable, Sequence
from functools import cache
from importlib.metadata import version as installed_version
from importlib.resources import files
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

from btc_assets.news.sentiment.protocol import Scores

CODE_VERSION = "1"
NEUTRAL_ZONE = 0.05
"""A compound closer to zero than this is neutral: VADER's own rule."""
NEUTRAL_AT_EDGE = (1 + NEUTRAL_ZONE) / 3
"""Share of neutral at the edge of the zone: there it equals the share of the class next to it."""
MAX_CHARACTERS = 5_000
"""More than this of a text is not read."""
GENERAL_WEIGHT = 0.25
"""What a word of the general lexicon counts."""
FINANCE_WEIGHT = 0.1
"""What a polarity of SentiBigNomics, -1 to 1, counts where it corrects a word of the general lexicon."""
STRENGTHS = {"mild": 1.0, "clear": 2.0, "strong": 3.0}
"""Scores of the words of `lexicon.toml`, on the analyser's scale of -4 to 4."""

_MOVES = {"move_up": STRENGTHS["mild"], "move_down": -STRENGTHS["mild"]}
"""Words that stand for a price move once `_moves` has read it."""
_MOVE_IN_WORDS = re.compile(
    r"\b(up|down)\s+(?:(?:by|nearly|almost|about|around|over|more than)\s+)?\d[\d.,]*\s?(?:%|percent\b|pct\b)",
    re.IGNORECASE,
)
_MOVE_BY_SIGN = re.compile(r"(?<![^\s(\[])([+-])\d[\d.,]*\s?%")
_PLAIN = str.maketrans({"’": "'", "‘": "'", "“": '"', "”": '"', "–": " - ", "—": " - ", "…": "..."})
"""Typographic marks that the analyser would take for a part of the word."""
_GAP = re.compile(r"\W+")
_WORD = re.compile(r"\w+")

Lexicon = Literal["finance", "general"]


class VaderScorer:
    """Scores texts with VADER's rules.

    Attributes:
        name: `vader`, or `vader_general` for VADER with its own lexicon only, which is there to compare with.
        version: of this code and of the package `vaderSentiment`.
        weights_digest: SHA-256 over every lexicon in use.
    """

    def __init__(self, lexicon: Lexicon = "finance") -> None:
        """Load the lexicons.

        Args:
            lexicon: `finance`, or `general` for VADER as it is installed.
        """
        self.name = "vader" if lexicon == "finance" else "vader_general"
        self.version = f"{CODE_VERSION}+vaderSentiment-{installed_version('vaderSentiment')}"
        self._analyser = _analyser()
        digest = hashlib.sha256()
        contents = [_content(f"{name}_lexicon.txt", "vaderSentiment") for name in ("vader", "emoji_utf8")]
        self._prepared: Callable[[str], str] = str
        if lexicon == "finance":
            contents += [_content("sentibignomics.csv"), _content("lexicon.toml")]
            own, neutral = own_words()
            self._analyser.lexicon = assembled(self._analyser.lexicon, finance_words(), own, neutral)
            self._prepared = _phrases([*own, *neutral])
        for content in contents:
            digest.update(hashlib.sha256(content).digest())
        self.weights_digest = digest.hexdigest()

    def score(self, texts: Sequence[str]) -> Scores:
        """Score texts, in their order; beyond `MAX_CHARACTERS` a text is not read."""
        read = [self._analyser.polarity_scores(self._prepared(text[:MAX_CHARACTERS])) for text in texts]
        compound, neutral, total = np.array(read, dtype=np.float64).reshape(-1, 3).T
        return Scores(
            probabilities=shares(compound, neutral, total),
            truncated=np.array([len(text) > MAX_CHARACTERS for text in texts], dtype=np.bool_),
        )


def shares(
    compound: npt.NDArray[np.float64], neutral: npt.NDArray[np.float64], total: npt.NDArray[np.float64]
) -> npt.NDArray[np.float64]:
    """Turn VADER's measures of n texts into shares of negative, neutral and positive.

    Outside the neutral zone the share of neutral falls linearly from `NEUTRAL_AT_EDGE` to 0 at a compound of 1 or -1.
    Inside, it falls from the share of neutral words, with one word of each class added to all counts, to
    `NEUTRAL_AT_EDGE`, and is never below it. What is left is split so that positive - negative is the compound.

    Args:
        compound: (n,), VADER's compound, -1 to 1.
        neutral: (n,), neutral words.
        total: (n,), neutral words and the sums of the strengths of the others.

    Returns:
        (n, 3), each row adding up to one.
    """
    size = np.abs(compound)
    at_zero = np.maximum((neutral + 1) / (total + 3), NEUTRAL_AT_EDGE)
    inside = NEUTRAL_AT_EDGE + (at_zero - NEUTRAL_AT_EDGE) * (1 - size / NEUTRAL_ZONE)
    outside = NEUTRAL_AT_EDGE * (1 - size) / (1 - NEUTRAL_ZONE)
    p_neutral = np.where(size < NEUTRAL_ZONE, inside, outside)
    return np.stack([(1 - p_neutral - compound) / 2, p_neutral, (1 - p_neutral + compound) / 2], axis=1)


def own_words() -> tuple[dict[str, float], list[str]]:
    """Return the words and phrases of `lexicon.toml`: those with a score, -4 to 4, and the neutral ones."""
    told = tomllib.loads(_content("lexicon.toml").decode())
    scored = {
        word: sign * strength
        for group, sign in (("positive", 1.0), ("negative", -1.0))
        for name, strength in STRENGTHS.items()
        for word in told[group][name]
    }
    return scored, list(told["neutral"]["words"])


def finance_words() -> dict[str, float]:
    """Return the terms of SentiBigNomics with their polarity, -1 to 1."""
    rows = csv.DictReader(_content("sentibignomics.csv").decode().splitlines())
    return {row["term"]: float(row["polarity"]) for row in rows}


def assembled(
    general: dict[str, float], finance: dict[str, float], own: dict[str, float], neutral: Sequence[str]
) -> dict[str, float]:
    """Put the lexicons together, as LEXICONS.md says: own words first, then finance over general.

    A word left without a score is left out: the analyser would not look for a negation beyond it.
    """
    weighed = {
        word: finance[word] * FINANCE_WEIGHT if word in finance else score * GENERAL_WEIGHT
        for word, score in general.items()
    }
    weighed |= {_one_word(word): score for word, score in own.items()} | _MOVES
    silent = {_one_word(word) for word in neutral}
    return {word: score for word, score in weighed.items() if score != 0 and word not in silent}


def _one_word(phrase: str) -> str:
    return _GAP.sub("_", phrase)


def _phrases(words: Sequence[str]) -> Callable[[str], str]:
    """Return what makes one word of each known phrase and of each price move, in any text."""
    rests: dict[str, list[str]] = {}
    for first, *rest in sorted({tuple(_GAP.split(word)) for word in words}, key=len, reverse=True):
        if rest:
            rests.setdefault(first, []).append("".join(rf"[\s&%-]+{re.escape(part)}" for part in rest))
    by_first = {first: re.compile(rf"(?:{'|'.join(found)})\b", re.IGNORECASE) for first, found in rests.items()}

    def prepared(text: str) -> str:
        text = text.translate(_PLAIN)
        text = _MOVE_IN_WORDS.sub(lambda found: f"move_{found[1].lower()}", text)
        text = _MOVE_BY_SIGN.sub(lambda found: "move_up" if found[1] == "+" else "move_down", text)
        pieces: list[str] = []
        done = 0
        for word in _WORD.finditer(text):
            rest = by_first.get(word[0].lower())
            if rest is None or word.start() < done:
                continue
            if phrase := rest.match(text, word.end()):
                pieces += text[done : word.start()], _one_word(text[word.start() : phrase.end()])
                done = phrase.end()
        return "".join([*pieces, text[done:]])

    return prepared


def _content(name: str, package: str = "btc_assets.news.sentiment") -> bytes:
    return (files(package) / name).read_bytes()


@cache
def _analyser_class() -> type[Any]:
    """Return VADER's analyser with its measures unrounded, and without its habit of rereading the whole text.

    For every word it knows, the original lowers every word of the text several times over; here it is handed the
    neighbours that its rules look at, which gives the same numbers.
    """
    from vaderSentiment.vaderSentiment import NEGATE, SentimentIntensityAnalyzer, normalize

    turning = frozenset(NEGATE) | {"so", "this"}

    class Analyser(SentimentIntensityAnalyzer):
        @staticmethod
        def _negation_check(valence: float, words: list[str], start: int, at: int) -> float:
            near = [word.lower() for word in words[at - start - 1 : at]]
            if not any(word in turning or "n't" in word for word in near):
                return valence
            first = max(at - 3, 0)
            return SentimentIntensityAnalyzer._negation_check(valence, words[first : at + 1], start, at - first)  # noqa: SLF001

        def _special_idioms_check(self, valence: float, words: list[str], at: int) -> float:
            return super()._special_idioms_check(valence, words[at - 3 : at + 3], 3)

        def score_valence(self, sentiments: list[float], text: str) -> tuple[float, float, float]:
            """Return the compound, the number of neutral words, and that plus the strengths of the others."""
            if not sentiments:
                return 0.0, 0.0, 0.0
            emphasis = self._punctuation_emphasis(text)
            whole = float(sum(sentiments))
            positive, negative, neutral = self._sift_sentiment_scores(sentiments)
            strength = positive - negative + (emphasis if positive != -negative else 0.0)
            return normalize(whole + np.sign(whole) * emphasis), neutral, neutral + strength

    return Analyser


def _analyser() -> Any:
    return _analyser_class()()
