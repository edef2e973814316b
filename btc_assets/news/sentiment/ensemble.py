"""The scorer `ensemble`: other scorers' probabilities, combined with weights fitted on labelled texts.

The combined log-probability of a class is a weighted sum of the scorers' log-probabilities plus a constant of the
class, made to add up to one. Weights are zero or more, so no scorer is read against its own opinion. They are fitted by
log-loss in which each class weighs the same, so that the constants correct the scorers and do not learn how often a
class happens to occur in the labelled texts.

It is kept as a JSON file with where it comes from: the texts, the scorers with their versions and digests, the day, and
how it did on texts that were held back from the fit.
"""

from __future__ import annotations

import hashlib
import json
import math
import os
from collections.abc import Mapping, Sequence
from datetime import date
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import polars as pl

from btc_assets.news.sentiment.judge import agreed
from btc_assets.news.sentiment.protocol import CLASSES, Scorer, ScorerError, Scores

CODE_VERSION = "1"
LOG_FLOOR = 1e-6
"""A probability below this is read as this: one scorer's certainty cannot outvote all others."""
HELD_BACK = 5
"""One labelled text in this many, chosen by its digest, is held back from the fit and tells how good it is."""
RIDGE = 1e-3
"""Pull of the weights towards equal shares and of the constants towards zero, nats per unit squared."""
FEWEST = 30
"""Labelled texts of each class that a fit needs."""

Floats = npt.NDArray[np.float64]


class EnsembleScorer:
    """Combines scorers.

    Attributes:
        name: `ensemble`.
        version: of this code.
        weights_digest: SHA-256 of the JSON file.
    """

    def __init__(self, scorers: Sequence[Scorer], weights: Floats, constants: Floats, weights_digest: str) -> None:
        """Combine scorers with weights (one each) and constants (one a class)."""
        self.name, self.version, self.weights_digest = "ensemble", CODE_VERSION, weights_digest
        self._scorers, self._weights, self._constants = tuple(scorers), weights, constants

    def score(self, texts: Sequence[str]) -> Scores:
        """Score texts, in their order.

        Raises:
            ScorerError: one of the scorers cannot score.
        """
        each = [scorer.score(texts) for scorer in self._scorers]
        logs = np.stack([_logs(scores.probabilities) for scores in each])
        return Scores(
            probabilities=combined(logs, self._weights, self._constants),
            truncated=np.any([scores.truncated for scores in each], axis=0),
        )


def combined(logs: Floats, weights: Floats, constants: Floats) -> Floats:
    """Combine log-probabilities.

    Args:
        logs: (k, n, 3), natural logarithms, of k scorers.
        weights: (k,).
        constants: (3,).

    Returns:
        (n, 3), each row adding up to one.
    """
    total = np.tensordot(weights, logs, axes=1) + constants
    raised = np.exp(total - total.max(axis=1, keepdims=True))
    return raised / raised.sum(axis=1, keepdims=True)


def fit_ensemble(labelled: pl.DataFrame, scorers: Sequence[Scorer], path: Path, day: date) -> Mapping[str, Any]:
    """Fit a combination of scorers on labelled texts and keep it as a JSON file.

    Args:
        labelled: rows of `to_fit_on`: texts that a scorer is to be judged on must not be among them.
        scorers: at least two, of different names.
        path: of the file, which is replaced whole.
        day: the fit is said to be of this day.

    Returns:
        What was written.

    Raises:
        ScorerError: a scorer cannot score, or there is too little to fit on.
    """
    if len({scorer.name for scorer in scorers}) < max(len(scorers), 2):
        raise ScorerError("an ensemble combines at least two scorers of different names")
    texts = agreed(labelled)
    counts = {name: texts.filter(label=name).height for name in CLASSES}
    if scarce := [name for name, count in counts.items() if count < FEWEST]:
        raise ScorerError(
            f"an ensemble is fitted on at least {FEWEST} labelled texts of each class, and of {scarce[0]} there are "
            f"{counts[scarce[0]]}; add labelled texts to BTC_LABELLED_SENTIMENT"
        )
    content = texts.get_column("text").to_list()
    digests = [hashlib.sha256(text.encode()).digest() for text in content]
    held = np.array([digest[0] % HELD_BACK == 0 for digest in digests])
    truth = texts.get_column("label").replace_strict(list(CLASSES), range(len(CLASSES)), return_dtype=pl.Int64)
    labels = truth.to_numpy()
    logs = np.stack([_logs(scorer.score(content).probabilities) for scorer in scorers])
    weights, constants = _fitted(logs[:, ~held], labels[~held])
    alone = {
        scorer.name: round(_loss(np.exp(own[held]), labels[held]), 6) for scorer, own in zip(scorers, logs, strict=True)
    }
    together = combined(logs[:, held], weights, constants)
    told = {
        "format": CODE_VERSION,
        "classes": list(CLASSES),
        "scorers": [
            {"name": s.name, "version": s.version, "weights_digest": s.weights_digest, "weight": float(w)}
            for s, w in zip(scorers, weights, strict=True)
        ],
        "constants": [float(value) for value in constants],
        "provenance": {
            "day": day.isoformat(),
            "datasets": sorted(labelled.get_column("dataset").unique()),
            "data_digest": _data_digest(digests, labels),
            "texts_fitted": int((~held).sum()),
            "texts_held_back": int(held.sum()),
            "class_counts": counts,
            "held_back": {
                "balanced_log_loss": round(_loss(together, labels[held]), 6),
                "balanced_log_loss_alone": alone,
                "accuracy": round(float((together.argmax(axis=1) == labels[held]).mean()), 6),
            },
        },
    }
    _write(path, told)
    return told


def load_ensemble(path: Path, scorers: Sequence[Scorer]) -> EnsembleScorer:
    """Load a fitted combination of exactly these scorers.

    Raises:
        ScorerError: there is no such file, it cannot be read, or it was fitted on other scorers, versions or weights.
    """
    try:
        content = path.read_bytes()
    except OSError as error:
        raise ScorerError(f"no fitted ensemble can be read at {path} ({error.strerror}); fit one first") from error
    try:
        told = json.loads(content)
        fitted = [(one["name"], one["version"], one["weights_digest"]) for one in told["scorers"]]
        weights = np.array([float(one["weight"]) for one in told["scorers"]])
        constants = np.array([float(value) for value in told["constants"]])
        sound = (
            told["format"] == CODE_VERSION
            and told["classes"] == list(CLASSES)
            and constants.shape == (len(CLASSES),)
            and all(math.isfinite(value) for value in (*weights, *constants))
            and len(weights) > 1
            and bool((weights >= 0).all())
        )
    except (ValueError, TypeError, KeyError) as error:
        raise ScorerError(f"{path} is no fitted ensemble ({error!r}); fit it again") from error
    if not sound:
        raise ScorerError(f"{path} is no fitted ensemble of this version; fit it again")
    by_name = {scorer.name: scorer for scorer in scorers}
    for name, version, digest in fitted:
        if name not in by_name:
            raise ScorerError(f"{path} was fitted with the scorer {name!r}, which is not in use; fit it again")
        here = by_name[name]
        if (here.version, here.weights_digest) != (version, digest):
            raise ScorerError(
                f"{path} was fitted with {name} {version} of weights {digest[:12]}, and {name} is now "
                f"{here.version} of weights {here.weights_digest[:12]}; fit it again"
            )
    return EnsembleScorer([by_name[name] for name, _, _ in fitted], weights, constants, _hex(content))


def _logs(probabilities: Floats) -> Floats:
    return np.log(np.clip(probabilities, LOG_FLOOR, None))


def _balance(labels: npt.NDArray[np.int64]) -> Floats:
    """Return a weight for each text such that each class that occurs weighs the same and all add up to one."""
    counts = np.bincount(labels, minlength=len(CLASSES))
    return (1 / (counts[labels] * (counts > 0).sum())).astype(np.float64)


def _loss(probabilities: Floats, labels: npt.NDArray[np.int64]) -> float:
    """Return the log-loss in nats, each class weighing the same."""
    right = np.clip(probabilities[np.arange(len(labels)), labels], LOG_FLOOR, None)
    return float(-(_balance(labels) * np.log(right)).sum())


def _fitted(logs: Floats, labels: npt.NDArray[np.int64]) -> tuple[Floats, Floats]:
    """Return the weights and constants of least loss; the loss is convex, so there is one answer."""
    from scipy.optimize import minimize

    scorers, classes = len(logs), len(CLASSES)
    balance = _balance(labels)
    truth = np.eye(classes)[labels]
    start = np.concatenate([np.full(scorers, 1 / scorers), np.zeros(classes)])

    def loss(values: Floats) -> tuple[float, Floats]:
        p = combined(logs, values[:scorers], values[scorers:])
        right = np.clip((p * truth).sum(axis=1), np.finfo(float).tiny, None)
        error = balance[:, None] * (p - truth)
        slope = np.concatenate([np.tensordot(logs, error, axes=2), error.sum(axis=0)])
        away = values - start
        return float(-(balance * np.log(right)).sum() + RIDGE * away @ away), slope + 2 * RIDGE * away

    bounds = [(0, None)] * scorers + [(None, None)] * classes
    found = minimize(loss, start, jac=True, method="L-BFGS-B", bounds=bounds, options={"maxiter": 500})
    if not found.success:
        raise ScorerError(f"the ensemble's weights could not be fitted: {found.message}")
    return found.x[:scorers], found.x[scorers:]


def _data_digest(digests: Sequence[bytes], labels: npt.NDArray[np.int64]) -> str:
    """Return the SHA-256 over every text and its label, in the order of the texts."""
    return _hex(b"".join(digest + bytes([label]) for digest, label in zip(digests, labels, strict=True)))


def _hex(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


def _write(path: Path, told: Mapping[str, Any]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    aside = path.with_name(f".{path.name}.{os.getpid()}")
    aside.write_text(json.dumps(told, indent=2, sort_keys=True) + "\n", encoding="utf-8")
    os.replace(aside, path)
