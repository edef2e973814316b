"""The scorer `ensemble`: a weighted combination of other scorers, fitted on labelled texts.

The log-probability of a class is a weighted sum of the scorers' log-probabilities plus a constant per class,
normalised. Weights are >= 0, so that no scorer's prediction is inverted. The fit minimises a log-loss in which every
class has the same total weight, so that the constants correct the scorers and do not learn class frequencies of the
labelled texts.

The ensemble is stored as a JSON file with its provenance: the texts, the scorers with their versions and digests, the
day, and the quality on texts held out from the fit.
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

from btc_assets.news.sentiment.judge import unambiguous_texts
from btc_assets.news.sentiment.protocol import CLASSES, Scorer, ScorerError, Scores

CODE_VERSION = "1"
LOG_FLOOR = 1e-6
"""Lower bound of a probability, so that one scorer's certainty cannot outvote all others."""
HOLDOUT_ONE_IN = 5
"""One in this many labelled texts, selected by its digest, is held out from the fit to measure its quality."""
RIDGE = 1e-3
"""Penalty on weights away from equal shares and constants away from zero, nats per unit squared."""
MIN_TEXTS_PER_CLASS = 30
"""Minimum number of labelled texts of each class for a fit."""

Floats = npt.NDArray[np.float64]


class EnsembleScorer:
    """A weighted combination of scorers.

    Attributes:
        name: `ensemble`.
        version: version of this code.
        weights_digest: SHA-256 of the JSON file.
    """

    def __init__(self, scorers: Sequence[Scorer], weights: Floats, constants: Floats, weights_digest: str) -> None:
        """Combine scorers with one weight per scorer and one constant per class."""
        self.name, self.version, self.weights_digest = "ensemble", CODE_VERSION, weights_digest
        self._scorers, self._weights, self._constants = tuple(scorers), weights, constants

    def score(self, texts: Sequence[str]) -> Scores:
        """Score texts, in their order.

        Raises:
            ScorerError: one of the scorers cannot score.
        """
        member_scores = [scorer.score(texts) for scorer in self._scorers]
        logs = np.stack([_log_probabilities(scores.probabilities) for scores in member_scores])
        return Scores(
            probabilities=combine(logs, self._weights, self._constants),
            truncated=np.any([scores.truncated for scores in member_scores], axis=0),
        )


def combine(logs: Floats, weights: Floats, constants: Floats) -> Floats:
    """Combine log-probabilities.

    Args:
        logs: (k, n, 3), natural logarithms, of k scorers.
        weights: (k,).
        constants: (3,).

    Returns:
        Probabilities (n, 3); each row adds up to one.
    """
    total = np.tensordot(weights, logs, axes=1) + constants
    exponentials = np.exp(total - total.max(axis=1, keepdims=True))
    return exponentials / exponentials.sum(axis=1, keepdims=True)


def fit_ensemble(labelled: pl.DataFrame, scorers: Sequence[Scorer], path: Path, day: date) -> Mapping[str, Any]:
    """Fit a combination of scorers on labelled texts and store it as a JSON file.

    Args:
        labelled: rows of `fitting_texts`, which exclude the texts of the benchmark.
        scorers: at least two scorers of different names.
        path: path of the file, which is replaced atomically.
        day: day of the fit, for the provenance.

    Returns:
        The content of the file.

    Raises:
        ScorerError: a scorer cannot score, or there are too few labelled texts.
    """
    if len({scorer.name for scorer in scorers}) < max(len(scorers), 2):
        raise ScorerError("an ensemble combines at least two scorers of different names")
    texts = unambiguous_texts(labelled)
    counts = {name: texts.filter(label=name).height for name in CLASSES}
    if scarce := [name for name, count in counts.items() if count < MIN_TEXTS_PER_CLASS]:
        raise ScorerError(
            f"fitting an ensemble needs at least {MIN_TEXTS_PER_CLASS} labelled texts per class, got "
            f"{counts[scarce[0]]} {scarce[0]} texts; add labelled texts to BTC_LABELLED_SENTIMENT"
        )
    content = texts.get_column("text").to_list()
    digests = [hashlib.sha256(text.encode()).digest() for text in content]
    holdout = np.array([digest[0] % HOLDOUT_ONE_IN == 0 for digest in digests])
    truth = texts.get_column("label").replace_strict(list(CLASSES), range(len(CLASSES)), return_dtype=pl.Int64)
    labels = truth.to_numpy()
    logs = np.stack([_log_probabilities(scorer.score(content).probabilities) for scorer in scorers])
    weights, constants = _fit_weights(logs[:, ~holdout], labels[~holdout])
    member_losses = {
        scorer.name: round(_balanced_log_loss(np.exp(member_logs[holdout]), labels[holdout]), 6)
        for scorer, member_logs in zip(scorers, logs, strict=True)
    }
    combined = combine(logs[:, holdout], weights, constants)
    document = {
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
            "texts_fitted": int((~holdout).sum()),
            "texts_held_back": int(holdout.sum()),
            "class_counts": counts,
            "held_back": {
                "balanced_log_loss": round(_balanced_log_loss(combined, labels[holdout]), 6),
                "balanced_log_loss_alone": member_losses,
                "accuracy": round(float((combined.argmax(axis=1) == labels[holdout]).mean()), 6),
            },
        },
    }
    _write(path, document)
    return document


def load_ensemble(path: Path, scorers: Sequence[Scorer]) -> EnsembleScorer:
    """Load an ensemble that was fitted on exactly these scorers.

    Raises:
        ScorerError: the file is missing or invalid, or it was fitted on other scorers, versions or weights.
    """
    try:
        content = path.read_bytes()
    except OSError as error:
        raise ScorerError(f"the fitted ensemble {path} cannot be read ({error.strerror}); fit it first") from error
    try:
        document = json.loads(content)
        fitted = [(member["name"], member["version"], member["weights_digest"]) for member in document["scorers"]]
        weights = np.array([float(member["weight"]) for member in document["scorers"]])
        constants = np.array([float(value) for value in document["constants"]])
        is_valid = (
            document["format"] == CODE_VERSION
            and document["classes"] == list(CLASSES)
            and constants.shape == (len(CLASSES),)
            and all(math.isfinite(value) for value in (*weights, *constants))
            and len(weights) > 1
            and bool((weights >= 0).all())
        )
    except (ValueError, TypeError, KeyError) as error:
        raise ScorerError(f"{path} is not a fitted ensemble ({error!r}); refit it") from error
    if not is_valid:
        raise ScorerError(f"{path} is not a fitted ensemble of this version; refit it")
    by_name = {scorer.name: scorer for scorer in scorers}
    for name, version, digest in fitted:
        if name not in by_name:
            raise ScorerError(f"{path} was fitted with the scorer {name!r}, which is not in use; refit it")
        scorer = by_name[name]
        if (scorer.version, scorer.weights_digest) != (version, digest):
            raise ScorerError(
                f"{path} was fitted with {name} {version} (weights {digest[:12]}), but {name} is now "
                f"{scorer.version} (weights {scorer.weights_digest[:12]}); refit it"
            )
    return EnsembleScorer([by_name[name] for name, _, _ in fitted], weights, constants, _hex(content))


def _log_probabilities(probabilities: Floats) -> Floats:
    return np.log(np.clip(probabilities, LOG_FLOOR, None))


def _class_weights(labels: npt.NDArray[np.int64]) -> Floats:
    """Return a weight per text: every class that occurs has the same total weight, and all weights add up to one."""
    counts = np.bincount(labels, minlength=len(CLASSES))
    return (1 / (counts[labels] * (counts > 0).sum())).astype(np.float64)


def _balanced_log_loss(probabilities: Floats, labels: npt.NDArray[np.int64]) -> float:
    """Return the log-loss in nats, with the same total weight for each class."""
    p_label = np.clip(probabilities[np.arange(len(labels)), labels], LOG_FLOOR, None)
    return float(-(_class_weights(labels) * np.log(p_label)).sum())


def _fit_weights(logs: Floats, labels: npt.NDArray[np.int64]) -> tuple[Floats, Floats]:
    """Return the weights and constants that minimise the loss; it is convex, so the solution is unique."""
    from scipy.optimize import minimize

    scorers, classes = len(logs), len(CLASSES)
    text_weights = _class_weights(labels)
    truth = np.eye(classes)[labels]
    start = np.concatenate([np.full(scorers, 1 / scorers), np.zeros(classes)])

    def loss(values: Floats) -> tuple[float, Floats]:
        p = combine(logs, values[:scorers], values[scorers:])
        p_label = np.clip((p * truth).sum(axis=1), np.finfo(float).tiny, None)
        error = text_weights[:, None] * (p - truth)
        gradient = np.concatenate([np.tensordot(logs, error, axes=2), error.sum(axis=0)])
        offset = values - start
        penalised = float(-(text_weights * np.log(p_label)).sum() + RIDGE * offset @ offset)
        return penalised, gradient + 2 * RIDGE * offset

    bounds = [(0, None)] * scorers + [(None, None)] * classes
    result = minimize(loss, start, jac=True, method="L-BFGS-B", bounds=bounds, options={"maxiter": 500})
    if not result.success:
        raise ScorerError(f"the ensemble's weights could not be fitted: {result.message}")
    return result.x[:scorers], result.x[scorers:]


def _data_digest(digests: Sequence[bytes], labels: npt.NDArray[np.int64]) -> str:
    """Return the SHA-256 of every text and its label, in the order of the texts."""
    return _hex(b"".join(digest + bytes([label]) for digest, label in zip(digests, labels, strict=True)))


def _hex(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


def _write(path: Path, document: Mapping[str, Any]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    temporary.write_text(json.dumps(document, indent=2, sort_keys=True) + "\n", encoding="utf-8")
    os.replace(temporary, path)
