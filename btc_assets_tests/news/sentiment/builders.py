"""A fake scorer with known scores that records the texts it scores."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence

import numpy as np

from btc_assets.news.sentiment.protocol import ScorerError, Scores


def fake_shares(text: str) -> tuple[float, float, float]:
    """Return deterministic pseudo-random shares of a text."""
    a, b, c = (byte + 1 for byte in hashlib.sha256(text.encode("utf-8", "surrogatepass")).digest()[:3])
    return a / (a + b + c), b / (a + b + c), 1 - a / (a + b + c) - b / (a + b + c)


class FakeScorer:
    """Scores each text with a function; with `fails`, it raises ScorerError."""

    def __init__(
        self,
        name: str = "known",
        version: str = "1",
        weights: str = "w",
        shares: Callable[[str], tuple[float, float, float]] = fake_shares,
        *,
        fails: bool = False,
    ) -> None:
        self.name, self.version = name, version
        self.weights_digest = hashlib.sha256(weights.encode()).hexdigest()
        self.shares, self.fails = shares, fails
        self.scored_texts: list[str] = []

    def score(self, texts: Sequence[str]) -> Scores:
        if self.fails:
            raise ScorerError("the scorer is out of order.")
        self.scored_texts += texts
        return Scores(
            probabilities=np.array([self.shares(text) for text in texts], dtype=np.float64).reshape(-1, 3),
            truncated=np.array([len(text) > 100 for text in texts], dtype=np.bool_),
        )
