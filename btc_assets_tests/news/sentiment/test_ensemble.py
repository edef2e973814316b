"""The ensemble: weights that are earned, kept with where they come from, and never used on other scorers."""

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

from btc_assets.news.sentiment.ensemble import HELD_BACK, combined, fit_ensemble, load_ensemble
from btc_assets.news.sentiment.judge import LABELLED
from btc_assets.news.sentiment.protocol import CLASSES, ScorerError
from btc_assets_tests.news.sentiment.builders import KnownScorer, some_shares

DAY = date(2025, 7, 31)


def texts_of(n: int, classes: tuple[str, ...] = CLASSES) -> pl.DataFrame:
    """Return labelled texts that begin with their label."""
    rows = [
        (f"{classes[place % len(classes)]} {place}", classes[place % len(classes)], "made", "train")
        for place in range(n)
    ]
    return pl.DataFrame(rows, schema=LABELLED, orient="row")


def knowing(share_right: float, peak: float) -> Callable[[str], tuple[float, float, float]]:
    """Return the shares of a scorer that puts `peak` on the right class in `share_right` of the texts."""

    def shares(text: str) -> tuple[float, float, float]:
        byte = hashlib.sha256(f"{share_right} {text}".encode()).digest()[0]
        right = CLASSES.index(text.split(maxsplit=1)[0])
        said = right if byte < 256 * share_right else (right + 1 + byte % 2) % 3
        rest = (1 - peak) / 2
        return tuple(peak if place == said else rest for place in range(3))  # type: ignore[return-value]

    return shares


GOOD = KnownScorer("good", shares=knowing(0.8, 0.8))
FAIR = KnownScorer("fair", shares=knowing(0.6, 0.6))
NOISE = KnownScorer("noise", shares=some_shares)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "sentiment" / "ensemble.json"


# --- the combination ---------------------------------------------------------------------------------
LOGS = arrays(np.float64, (2, 4, 3), elements=st.floats(-13.8, 0))


@given(LOGS, arrays(np.float64, 2, elements=st.floats(0, 5)), arrays(np.float64, 3, elements=st.floats(-3, 3)))
def test_whatever_is_combined_is_probabilities(logs: np.ndarray, weights: np.ndarray, constants: np.ndarray) -> None:
    p = combined(logs, weights, constants)
    assert (p >= 0).all()
    assert np.allclose(p.sum(axis=1), 1, atol=1e-12)


def test_all_weight_on_one_scorer_is_that_scorer() -> None:
    p = np.stack([NOISE.score(["a", "b"]).probabilities, GOOD.score(["neutral 1", "positive 1"]).probabilities])
    assert np.allclose(combined(np.log(p), np.array([0.0, 1.0]), np.zeros(3)), p[1])


# --- the fit -----------------------------------------------------------------------------------------
def test_a_better_scorer_weighs_more_and_noise_nothing(path: Path) -> None:
    told = fit_ensemble(texts_of(3_000), [NOISE, FAIR, GOOD], path, DAY)
    noise, fair, good = (one["weight"] for one in told["scorers"])
    assert good > 0.5
    assert fair > 0.3
    assert noise < 0.1


def test_together_they_are_better_on_held_back_texts_than_any_alone(path: Path) -> None:
    told = fit_ensemble(texts_of(3_000), [FAIR, GOOD], path, DAY)["provenance"]["held_back"]
    assert told["balanced_log_loss"] < min(told["balanced_log_loss_alone"].values()) - 0.02


def test_scorers_that_say_how_sure_they_are_are_taken_at_their_word(path: Path) -> None:
    """Where errors are independent, the right posterior is the product of what is said: weights of one."""
    told = fit_ensemble(texts_of(30_000), [FAIR, GOOD], path, DAY)
    fair, good = (one["weight"] for one in told["scorers"])
    assert good == pytest.approx(1, abs=0.05)
    assert fair == pytest.approx(1, abs=0.08)


def test_how_often_a_class_occurs_is_not_learnt(path: Path) -> None:
    mostly = ("neutral",) * 8 + ("negative", "positive")
    told = fit_ensemble(texts_of(3_000, mostly), [FAIR, GOOD], path, DAY)
    assert np.ptp(told["constants"]) < 0.5 < np.log(8)


def test_a_scorer_that_is_always_wrong_is_not_read_backwards(path: Path) -> None:
    wrong = KnownScorer("wrong", shares=knowing(0.0, 0.8))
    told = fit_ensemble(texts_of(600), [GOOD, wrong], path, DAY)
    assert told["scorers"][1]["weight"] == 0


def test_the_order_of_texts_and_their_copies_decide_nothing(path: Path, tmp_path: Path) -> None:
    frame = texts_of(600)
    fit_ensemble(frame, [FAIR, GOOD], path, DAY)
    other = tmp_path / "other.json"
    fit_ensemble(pl.concat([frame.reverse(), frame[:50]]), [FAIR, GOOD], other, DAY)
    assert other.read_bytes() == path.read_bytes()


def test_texts_held_back_move_no_weight(path: Path) -> None:
    frame = texts_of(600)
    told = fit_ensemble(frame, [FAIR, GOOD], path, DAY)
    held = frame["text"].map_elements(
        lambda text: hashlib.sha256(text.encode()).digest()[0] % HELD_BACK == 0, return_dtype=pl.Boolean
    )
    assert held.sum() == told["provenance"]["texts_held_back"]
    wrong = frame.with_columns(label=pl.when(held).then(pl.lit("neutral")).otherwise("label"))
    again = fit_ensemble(wrong, [FAIR, GOOD], path, DAY)
    assert again["scorers"] == told["scorers"]
    assert again["constants"] == told["constants"]
    assert again["provenance"]["held_back"] != told["provenance"]["held_back"]


def test_texts_with_two_labels_are_left_out(path: Path) -> None:
    frame = texts_of(600)
    twice = frame[:30].with_columns(label=pl.lit("neutral"))
    told = fit_ensemble(pl.concat([frame, twice]), [FAIR, GOOD], path, DAY)["provenance"]
    assert told["texts_fitted"] + told["texts_held_back"] == 580


def test_it_is_written_where_it_comes_from(path: Path) -> None:
    told = fit_ensemble(texts_of(600), [FAIR, GOOD], path, DAY)
    assert json.loads(path.read_text()) == told
    assert [one["weights_digest"] for one in told["scorers"]] == [FAIR.weights_digest, GOOD.weights_digest]
    origin = told["provenance"]
    assert (origin["day"], origin["datasets"]) == ("2025-07-31", ["made"])
    assert origin["texts_fitted"] + origin["texts_held_back"] == 600
    assert origin["class_counts"] == {"negative": 200, "neutral": 200, "positive": 200}
    changed = fit_ensemble(texts_of(601), [FAIR, GOOD], path, DAY)["provenance"]
    assert changed["data_digest"] != origin["data_digest"]
    assert list(path.parent.iterdir()) == [path], "nothing is left beside it"


def test_too_little_to_fit_on_is_said(path: Path) -> None:
    with pytest.raises(ScorerError, match="30 labelled texts of each class, and of neutral there are 0"):
        fit_ensemble(texts_of(600, ("negative", "positive")), [FAIR, GOOD], path, DAY)
    with pytest.raises(ScorerError, match="at least two scorers of different names"):
        fit_ensemble(texts_of(600), [GOOD, GOOD], path, DAY)
    assert not path.exists()


# --- loading -----------------------------------------------------------------------------------------
@pytest.fixture
def fitted(path: Path) -> Path:
    fit_ensemble(texts_of(600), [FAIR, GOOD], path, DAY)
    return path


def test_what_is_loaded_scores_as_the_weights_say(fitted: Path) -> None:
    told = json.loads(fitted.read_text())
    texts = ["neutral 7", "positive 1", "negative 9 " + "x" * 100]
    scorer = load_ensemble(fitted, [GOOD, NOISE, FAIR])
    logs = np.log([FAIR.score(texts).probabilities, GOOD.score(texts).probabilities])
    weights = np.array([one["weight"] for one in told["scorers"]])
    scores = scorer.score(texts)
    assert np.allclose(scores.probabilities, combined(logs, weights, np.array(told["constants"])))
    assert scores.truncated.tolist() == [False, False, True]
    assert scorer.score([]).probabilities.shape == (0, 3)
    assert (scorer.name, scorer.weights_digest) == ("ensemble", hashlib.sha256(fitted.read_bytes()).hexdigest())


@pytest.mark.parametrize(
    ("other", "sentence"),
    [
        (KnownScorer("good", weights="other"), "was fitted with good 1 of weights .* fit it again"),
        (KnownScorer("good", version="2"), "good is now 2 of weights"),
        (KnownScorer("better"), "the scorer 'good', which is not in use"),
    ],
)
def test_it_is_not_used_on_other_scorers_than_it_was_fitted_on(fitted: Path, other: KnownScorer, sentence: str) -> None:
    with pytest.raises(ScorerError, match=sentence):
        load_ensemble(fitted, [FAIR, other])


def drop(key: str) -> Callable[[dict[str, Any]], object]:
    return lambda told: told.pop(key)


@pytest.mark.parametrize(
    "spoil",
    [
        drop("scorers"),
        drop("constants"),
        drop("format"),
        lambda told: told.update(format="0"),
        lambda told: told.update(classes=["positive", "neutral", "negative"]),
        lambda told: told.update(constants=[0, 0]),
        lambda told: told["scorers"][0].update(weight=-0.1),
        lambda told: told["scorers"][0].update(weight=float("nan")),
        lambda told: told["scorers"][0].update(weight=None),
        lambda told: told["scorers"].pop(),
    ],
)
def test_a_spoilt_file_is_refused(fitted: Path, spoil: Callable[[dict[str, Any]], object]) -> None:
    told = json.loads(fitted.read_text())
    spoil(told)
    fitted.write_text(json.dumps(told))
    with pytest.raises(ScorerError, match="is no fitted ensemble"):
        load_ensemble(fitted, [FAIR, GOOD])


@pytest.mark.parametrize("content", [b"", b"[]", b"{", b"\xff\xfe", b"null"])
def test_a_file_that_is_something_else_is_refused(fitted: Path, content: bytes) -> None:
    fitted.write_bytes(content)
    with pytest.raises(ScorerError, match="is no fitted ensemble"):
        load_ensemble(fitted, [FAIR, GOOD])


def test_no_file_is_said(path: Path) -> None:
    with pytest.raises(ScorerError, match="no fitted ensemble can be read"):
        load_ensemble(path, [FAIR, GOOD])


def test_a_scorer_that_fails_fails_the_ensemble(fitted: Path) -> None:
    with pytest.raises(ScorerError, match="out of order"):
        load_ensemble(fitted, [FAIR, KnownScorer("good", fails=True)]).score(["neutral 1"])
