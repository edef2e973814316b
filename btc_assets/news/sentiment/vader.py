"""The embedded scorer: VADER's rules with a lexicon of finance and crypto.

VADER computes a compound score in (-1, 1) and counts of neutral, positive and negative words, which are not
probabilities. A fixed mapping (`shares`) converts them to shares of the three classes, so that

- the score, p_positive - p_negative, is VADER's compound, unrounded;
- the largest share is the class of VADER's own rule: neutral for a compound within 0.05 of zero, otherwise its sign;
- a text with few known words has similar shares.

The shares rank texts and are not calibrated; `news/sentiment_benchmark` reports the calibration error. LEXICONS.md
documents the lexicon and its weights.
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
"""A compound closer to zero than this is neutral (VADER's own rule)."""
NEUTRAL_AT_EDGE = (1 + NEUTRAL_ZONE) / 3
"""Neutral share at the edge of the neutral zone, equal to the share of the adjacent class."""
MAX_CHARACTERS = 5_000
"""Only this many characters of a text are read."""
GENERAL_WEIGHT = 0.25
"""Weight of a word of the general lexicon."""
FINANCE_WEIGHT = 0.1
"""Weight of a SentiBigNomics polarity, -1 to 1, that replaces a word's score in the general lexicon."""
STRENGTHS = {"mild": 1.0, "clear": 2.0, "strong": 3.0}
"""Scores of the words of `lexicon.toml`, on the analyser's scale of -4 to 4."""

_MOVES = {"move_up": STRENGTHS["mild"], "move_down": -STRENGTHS["mild"]}
"""Words that replace a price move in the text."""
_MOVE_IN_WORDS = re.compile(
    r"\b(up|down)\s+(?:(?:by|nearly|almost|about|around|over|more than)\s+)?\d[\d.,]*\s?(?:%|percent\b|pct\b)",
    re.IGNORECASE,
)
_MOVE_BY_SIGN = re.compile(r"(?<![^\s(\[])([+-])\d[\d.,]*\s?%")
_PLAIN = str.maketrans({"’": "'", "‘": "'", "“": '"', "”": '"', "–": " - ", "—": " - ", "…": "..."})
"""Typographic characters that the analyser would treat as part of a word."""
_GAP = re.compile(r"\W+")
_WORD = re.compile(r"\w+")

Lexicon = Literal["finance", "general"]


class VaderScorer:
    """Scores texts with VADER's rules.

    Attributes:
        name: `vader`, or `vader_general` for VADER with only its own lexicon, a reference for comparisons.
        version: version of this code and of the package `vaderSentiment`.
        weights_digest: SHA-256 of every lexicon in use.
    """

    def __init__(self, lexicon: Lexicon = "finance") -> None:
        """Load the lexicons.

        Args:
            lexicon: `finance`, or `general` for unmodified VADER.
        """
        self.name = "vader" if lexicon == "finance" else "vader_general"
        self.version = f"{CODE_VERSION}+vaderSentiment-{installed_version('vaderSentiment')}"
        self._analyser = _analyser()
        digest = hashlib.sha256()
        contents = [_content(f"{name}_lexicon.txt", "vaderSentiment") for name in ("vader", "emoji_utf8")]
        self._prepare: Callable[[str], str] = str
        if lexicon == "finance":
            contents += [_content("sentibignomics.csv"), _content("lexicon.toml")]
            scored, neutral = project_words()
            self._analyser.lexicon = combine_lexicons(self._analyser.lexicon, finance_words(), scored, neutral)
            self._prepare = _phrase_joiner([*scored, *neutral])
        for content in contents:
            digest.update(hashlib.sha256(content).digest())
        self.weights_digest = digest.hexdigest()

    def score(self, texts: Sequence[str]) -> Scores:
        """Score texts, in their order; only the first `MAX_CHARACTERS` of a text are read."""
        measures = [self._analyser.polarity_scores(self._prepare(text[:MAX_CHARACTERS])) for text in texts]
        compound, neutral, total = np.array(measures, dtype=np.float64).reshape(-1, 3).T
        return Scores(
            probabilities=shares(compound, neutral, total),
            truncated=np.array([len(text) > MAX_CHARACTERS for text in texts], dtype=np.bool_),
        )


def shares(
    compound: npt.NDArray[np.float64], neutral: npt.NDArray[np.float64], total: npt.NDArray[np.float64]
) -> npt.NDArray[np.float64]:
    """Convert VADER's measures of n texts to shares of negative, neutral and positive.

    Outside the neutral zone the neutral share falls linearly from `NEUTRAL_AT_EDGE` to 0 at a compound of 1 or -1.
    Inside, it falls to `NEUTRAL_AT_EDGE` from the share of neutral words, with one word per class added to the counts,
    or is constant if that share is lower. The rest is split so that positive - negative is the compound.

    Args:
        compound: (n,), VADER's compound, -1 to 1.
        neutral: (n,), number of neutral words.
        total: (n,), number of neutral words plus the summed strengths of the other words.

    Returns:
        Shares (n, 3); each row adds up to one.
    """
    size = np.abs(compound)
    at_zero = np.maximum((neutral + 1) / (total + 3), NEUTRAL_AT_EDGE)
    inside = NEUTRAL_AT_EDGE + (at_zero - NEUTRAL_AT_EDGE) * (1 - size / NEUTRAL_ZONE)
    outside = NEUTRAL_AT_EDGE * (1 - size) / (1 - NEUTRAL_ZONE)
    p_neutral = np.where(size < NEUTRAL_ZONE, inside, outside)
    return np.stack([(1 - p_neutral - compound) / 2, p_neutral, (1 - p_neutral + compound) / 2], axis=1)


def project_words() -> tuple[dict[str, float], list[str]]:
    """Return the words and phrases of `lexicon.toml`: scores by word, -4 to 4, and the neutral words."""
    lexicon = tomllib.loads(_content("lexicon.toml").decode())
    scored = {
        word: sign * strength
        for group, sign in (("positive", 1.0), ("negative", -1.0))
        for name, strength in STRENGTHS.items()
        for word in lexicon[group][name]
    }
    return scored, list(lexicon["neutral"]["words"])


def finance_words() -> dict[str, float]:
    """Return the terms of SentiBigNomics with their polarity, -1 to 1."""
    rows = csv.DictReader(_content("sentibignomics.csv").decode().splitlines())
    return {row["term"]: float(row["polarity"]) for row in rows}


def combine_lexicons(
    general: dict[str, float], finance: dict[str, float], scored: dict[str, float], neutral: Sequence[str]
) -> dict[str, float]:
    """Combine the lexicons as described in LEXICONS.md: the project's words, then finance, then general.

    A word without a score is omitted, because the analyser does not look for a negation before such a word.
    """
    scores = {
        word: finance[word] * FINANCE_WEIGHT if word in finance else score * GENERAL_WEIGHT
        for word, score in general.items()
    }
    scores |= {_as_one_word(word): score for word, score in scored.items()} | _MOVES
    neutral_words = {_as_one_word(word) for word in neutral}
    return {word: score for word, score in scores.items() if score != 0 and word not in neutral_words}


def _as_one_word(phrase: str) -> str:
    return _GAP.sub("_", phrase)


def _phrase_joiner(words: Sequence[str]) -> Callable[[str], str]:
    """Return a function that replaces each known phrase and each price move in a text by a single word."""
    suffixes: dict[str, list[str]] = {}
    for first, *rest in sorted({tuple(_GAP.split(word)) for word in words}, key=len, reverse=True):
        if rest:
            suffixes.setdefault(first, []).append("".join(rf"[\s&%-]+{re.escape(part)}" for part in rest))
    suffix_patterns = {
        first: re.compile(rf"(?:{'|'.join(patterns)})\b", re.IGNORECASE) for first, patterns in suffixes.items()
    }

    def join_phrases(text: str) -> str:
        text = text.translate(_PLAIN)
        text = _MOVE_IN_WORDS.sub(lambda match: f"move_{match[1].lower()}", text)
        text = _MOVE_BY_SIGN.sub(lambda match: "move_up" if match[1] == "+" else "move_down", text)
        pieces: list[str] = []
        end = 0
        for word in _WORD.finditer(text):
            suffix = suffix_patterns.get(word[0].lower())
            if suffix is None or word.start() < end:
                continue
            if phrase := suffix.match(text, word.end()):
                pieces += text[end : word.start()], _as_one_word(text[word.start() : phrase.end()])
                end = phrase.end()
        return "".join([*pieces, text[end:]])

    return join_phrases


def _content(name: str, package: str = "btc_assets.news.sentiment") -> bytes:
    return (files(package) / name).read_bytes()


@cache
def _analyser_class() -> type[Any]:
    """Return VADER's analyser with unrounded measures and linear run time.

    For every known word the original lowers all words of the text several times; this subclass passes only the
    neighbours that the rules inspect, which gives the same results.
    """
    from vaderSentiment.vaderSentiment import NEGATE, SentimentIntensityAnalyzer, normalize

    negating = frozenset(NEGATE) | {"so", "this"}

    class Analyser(SentimentIntensityAnalyzer):
        @staticmethod
        def _negation_check(valence: float, words: list[str], start: int, at: int) -> float:
            near = [word.lower() for word in words[at - start - 1 : at]]
            if not any(word in negating or "n't" in word for word in near):
                return valence
            first = max(at - 3, 0)
            return SentimentIntensityAnalyzer._negation_check(valence, words[first : at + 1], start, at - first)  # noqa: SLF001

        def _special_idioms_check(self, valence: float, words: list[str], at: int) -> float:
            return super()._special_idioms_check(valence, words[at - 3 : at + 3], 3)

        def score_valence(self, sentiments: list[float], text: str) -> tuple[float, float, float]:
            """Return the compound, the number of neutral words, and that number plus the strengths of the others."""
            if not sentiments:
                return 0.0, 0.0, 0.0
            emphasis = self._punctuation_emphasis(text)
            total = float(sum(sentiments))
            positive, negative, neutral = self._sift_sentiment_scores(sentiments)
            strength = positive - negative + (emphasis if positive != -negative else 0.0)
            return normalize(total + np.sign(total) * emphasis), neutral, neutral + strength

    return Analyser


def _analyser() -> Any:
    return _analyser_class()()
