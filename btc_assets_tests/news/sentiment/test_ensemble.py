"""The ensemble: fitted weights, provenance, and refusal of other scorers."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from datetime import date
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from btc_assets.news.sentiment.ensemble import HOLDOUT_ONE_IN, combine, fit_ensemble, load_ensemble
from btc_assets.news.sentiment.judge import LABELLED
from btc_assets.news.sentiment.protocol import CLASSES, ScorerError
from btc_assets_tests.news.sentiment.builders import FakeScorer, fake_shares

DAY = date(2025, 7, 31)


def texts_of(n: int, classes: tuple[str, ...] = CLASSES) -> pl.DataFrame:
    """Return labelled texts that begin with their label."""
    rows = [
        (f"{classes[index % len(classes)]} {index}", classes[index % len(classes)], "made", "train")
        for index in range(n)
    ]
    return pl.DataFrame(rows, schema=LABELLED, orient="row")


def scores_with(share_right: float, peak: float) -> Callable[[str], tuple[float, float, float]]:
    """Return the shares of a scorer that puts `peak` on the right class in `share_right` of the texts."""

    def shares(text: str) -> tuple[float, float, float]:
        byte = hashlib.sha256(f"{share_right} {text}".encode()).digest()[0]
        right = CLASSES.index(text.split(maxsplit=1)[0])
        predicted = right if byte < 256 * share_right else (right + 1 + byte % 2) % 3
        rest = (1 - peak) / 2
        return tuple(peak if index == predicted else rest for index in range(3))  # type: ignore[return-value]

    return shares


GOOD = FakeScorer("good", shares=scores_with(0.8, 0.8))
FAIR = FakeScorer("fair", shares=scores_with(0.6, 0.6))
NOISE = FakeScorer("noise", shares=fake_shares)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "sentiment" / "ensemble.json"


# --- the combination ---------------------------------------------------------------------------------
LOGS = arrays(np.float64, (2, 4, 3), elements=st.floats(-13.8, 0))


@given(LOGS, arrays(np.float64, 2, elements=st.floats(0, 5)), arrays(np.float64, 3, elements=st.floats(-3, 3)))
def test_a_combination_is_probabilities(logs: np.ndarray, weights: np.ndarray, constants: np.ndarray) -> None:
    p = combine(logs, weights, constants)
    assert (p >= 0).all()
    assert np.allclose(p.sum(axis=1), 1, atol=1e-12)


def test_all_weight_on_one_scorer_gives_its_scores() -> None:
    p = np.stack([NOISE.score(["a", "b"]).probabilities, GOOD.score(["neutral 1", "positive 1"]).probabilities])
    assert np.allclose(combine(np.log(p), np.array([0.0, 1.0]), np.zeros(3)), p[1])


# --- the fit -----------------------------------------------------------------------------------------
def test_a_better_scorer_has_a_larger_weight(path: Path) -> None:
    document = fit_ensemble(texts_of(3_000), [NOISE, FAIR, GOOD], path, DAY)
    noise, fair, good = (member["weight"] for member in document["scorers"])
    assert good > 0.5
    assert fair > 0.3
    assert noise < 0.1


def test_the_ensemble_is_better_than_its_members_on_the_holdout(path: Path) -> None:
    document = fit_ensemble(texts_of(3_000), [FAIR, GOOD], path, DAY)["provenance"]["held_back"]
    assert document["balanced_log_loss"] < min(document["balanced_log_loss_alone"].values()) - 0.02


def test_calibrated_independent_scorers_have_weight_one(path: Path) -> None:
    """With independent errors the correct posterior is the product of the probabilities, so all weights are member."""
    document = fit_ensemble(texts_of(30_000), [FAIR, GOOD], path, DAY)
    fair, good = (member["weight"] for member in document["scorers"])
    assert good == pytest.approx(1, abs=0.05)
    assert fair == pytest.approx(1, abs=0.08)


def test_class_frequencies_are_not_learnt(path: Path) -> None:
    mostly = ("neutral",) * 8 + ("negative", "positive")
    document = fit_ensemble(texts_of(3_000, mostly), [FAIR, GOOD], path, DAY)
    assert np.ptp(document["constants"]) < 0.5 < np.log(8)


def test_a_scorer_that_is_always_wrong_has_weight_zero(path: Path) -> None:
    wrong = FakeScorer("wrong", shares=scores_with(0.0, 0.8))
    document = fit_ensemble(texts_of(600), [GOOD, wrong], path, DAY)
    assert document["scorers"][1]["weight"] == 0


def test_order_and_repetition_of_texts_do_not_change_the_fit(path: Path, tmp_path: Path) -> None:
    frame = texts_of(600)
    fit_ensemble(frame, [FAIR, GOOD], path, DAY)
    other = tmp_path / "other.json"
    fit_ensemble(pl.concat([frame.reverse(), frame[:50]]), [FAIR, GOOD], other, DAY)
    assert other.read_bytes() == path.read_bytes()


def test_holdout_texts_do_not_change_the_weights(path: Path) -> None:
    frame = texts_of(600)
    document = fit_ensemble(frame, [FAIR, GOOD], path, DAY)
    held = frame["text"].map_elements(
        lambda text: hashlib.sha256(text.encode()).digest()[0] % HOLDOUT_ONE_IN == 0, return_dtype=pl.Boolean
    )
    assert held.sum() == document["provenance"]["texts_held_back"]
    wrong = frame.with_columns(label=pl.when(held).then(pl.lit("neutral")).otherwise("label"))
    again = fit_ensemble(wrong, [FAIR, GOOD], path, DAY)
    assert again["scorers"] == document["scorers"]
    assert again["constants"] == document["constants"]
    assert again["provenance"]["held_back"] != document["provenance"]["held_back"]


def test_texts_with_two_labels_are_ignored(path: Path) -> None:
    frame = texts_of(600)
    relabelled = frame[:30].with_columns(label=pl.lit("neutral"))
    document = fit_ensemble(pl.concat([frame, relabelled]), [FAIR, GOOD], path, DAY)["provenance"]
    assert document["texts_fitted"] + document["texts_held_back"] == 580


def test_the_provenance_is_stored(path: Path) -> None:
    document = fit_ensemble(texts_of(600), [FAIR, GOOD], path, DAY)
    assert json.loads(path.read_text()) == document
    assert [member["weights_digest"] for member in document["scorers"]] == [FAIR.weights_digest, GOOD.weights_digest]
    origin = document["provenance"]
    assert (origin["day"], origin["datasets"]) == ("2025-07-31", ["made"])
    assert origin["texts_fitted"] + origin["texts_held_back"] == 600
    assert origin["class_counts"] == {"negative": 200, "neutral": 200, "positive": 200}
    changed = fit_ensemble(texts_of(601), [FAIR, GOOD], path, DAY)["provenance"]
    assert changed["data_digest"] != origin["data_digest"]
    assert list(path.parent.iterdir()) == [path], "no temporary file is left"


def test_too_few_texts_or_scorers_are_refused(path: Path) -> None:
    with pytest.raises(ScorerError, match="30 labelled texts per class, got 0 neutral texts"):
        fit_ensemble(texts_of(600, ("negative", "positive")), [FAIR, GOOD], path, DAY)
    with pytest.raises(ScorerError, match="at least two scorers of different names"):
        fit_ensemble(texts_of(600), [GOOD, GOOD], path, DAY)
    assert not path.exists()


# --- loading -----------------------------------------------------------------------------------------
@pytest.fixture
def fitted_path(path: Path) -> Path:
    fit_ensemble(texts_of(600), [FAIR, GOOD], path, DAY)
    return path


def test_a_loaded_ensemble_uses_the_stored_weights(fitted_path: Path) -> None:
    document = json.loads(fitted_path.read_text())
    texts = ["neutral 7", "positive 1", "negative 9 " + "x" * 100]
    scorer = load_ensemble(fitted_path, [GOOD, NOISE, FAIR])
    logs = np.log([FAIR.score(texts).probabilities, GOOD.score(texts).probabilities])
    weights = np.array([member["weight"] for member in document["scorers"]])
    scores = scorer.score(texts)
    assert np.allclose(scores.probabilities, combine(logs, weights, np.array(document["constants"])))
    assert scores.truncated.tolist() == [False, False, True]
    assert scorer.score([]).probabilities.shape == (0, 3)
    assert (scorer.name, scorer.weights_digest) == ("ensemble", hashlib.sha256(fitted_path.read_bytes()).hexdigest())


@pytest.mark.parametrize(
    ("other", "sentence"),
    [
        (FakeScorer("good", weights="other"), r"was fitted with good 1 \(weights .* refit it"),
        (FakeScorer("good", version="2"), r"good is now 2 \(weights"),
        (FakeScorer("better"), "the scorer 'good', which is not in use"),
    ],
)
def test_an_ensemble_of_other_scorers_is_refused(fitted_path: Path, other: FakeScorer, sentence: str) -> None:
    with pytest.raises(ScorerError, match=sentence):
        load_ensemble(fitted_path, [FAIR, other])


def drop(key: str) -> Callable[[dict[str, Any]], object]:
    return lambda document: document.pop(key)


@pytest.mark.parametrize(
    "damage",
    [
        drop("scorers"),
        drop("constants"),
        drop("format"),
        lambda document: document.update(format="0"),
        lambda document: document.update(classes=["positive", "neutral", "negative"]),
        lambda document: document.update(constants=[0, 0]),
        lambda document: document["scorers"][0].update(weight=-0.1),
        lambda document: document["scorers"][0].update(weight=float("nan")),
        lambda document: document["scorers"][0].update(weight=None),
        lambda document: document["scorers"].pop(),
    ],
)
def test_a_damaged_file_is_refused(fitted_path: Path, damage: Callable[[dict[str, Any]], object]) -> None:
    document = json.loads(fitted_path.read_text())
    damage(document)
    fitted_path.write_text(json.dumps(document))
    with pytest.raises(ScorerError, match="is not a fitted ensemble"):
        load_ensemble(fitted_path, [FAIR, GOOD])


@pytest.mark.parametrize("content", [b"", b"[]", b"{", b"\xff\xfe", b"null"])
def test_a_file_of_another_format_is_refused(fitted_path: Path, content: bytes) -> None:
    fitted_path.write_bytes(content)
    with pytest.raises(ScorerError, match="is not a fitted ensemble"):
        load_ensemble(fitted_path, [FAIR, GOOD])


def test_a_missing_file_is_reported(path: Path) -> None:
    with pytest.raises(ScorerError, match=r"cannot be read .*; fit it first"):
        load_ensemble(path, [FAIR, GOOD])


def test_a_scorer_that_fails_fails_the_ensemble(fitted_path: Path) -> None:
    with pytest.raises(ScorerError, match="out of order"):
        load_ensemble(fitted_path, [FAIR, FakeScorer("good", fails=True)]).score(["neutral 1"])
