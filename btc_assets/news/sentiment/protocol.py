"""The protocol of every sentiment scorer."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np
import numpy.typing as npt

CLASSES = ("negative", "neutral", "positive")
"""Sentiment classes, in the order of the columns of `Scores.probabilities`."""


@dataclass(frozen=True)
class Scores:
    """Sentiment of n texts.

    Attributes:
        probabilities: (n, 3), shares or probabilities of `CLASSES`; each row adds up to one.
        truncated: (n,), whether only the beginning of the text was read.
    """

    probabilities: npt.NDArray[np.float64]
    truncated: npt.NDArray[np.bool_]


class Scorer(Protocol):
    """A deterministic scorer: the same text, version and weights give the same scores.

    Attributes:
        name: vader, transformer or ensemble.
        version: version of the code and of every setting that changes a score, for example the runtime.
        weights_digest: SHA-256 of the weights, the lexicon or the ensemble file.
    """

    name: str
    version: str
    weights_digest: str

    def score(self, texts: Sequence[str]) -> Scores:
        """Score texts, in their order.

        Raises:
            ScorerError: the scorer cannot score; it never returns zeros instead.
        """
        ...


class ScorerError(RuntimeError):
    """A scorer cannot be loaded or cannot score; the message states the remedy."""


class WeightsUnavailableError(ScorerError):
    """The weights are neither in a local folder nor available from the hub."""
