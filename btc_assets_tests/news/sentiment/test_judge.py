"""Evaluation of scorers: metrics match reference implementations, and no fitting text is evaluated."""

from __future__ import annotations

from collections.abc import Callable
from datetime import date
from pathlib import Path

import numpy as np
import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from btc_assets.news.sentiment import judge
from btc_assets.news.sentiment.judge import (
    LABELLED,
    LabelledTextsError,
    Measure,
    benchmark,
    benchmark_table,
    evaluate,
    evaluation_texts,
    fitting_texts,
    read_labelled,
    unambiguous_texts,
)
from btc_assets.news.sentiment.protocol import CLASSES
from btc_assets.news.sentiment.vader import VaderScorer
from btc_assets.news.tables import SENTIMENT_BENCHMARK
from btc_assets_tests.news.sentiment.builders import FakeScorer

DAY = date(2025, 7, 31)


def labelled(*rows: tuple[str, str, str, str | None]) -> pl.DataFrame:
    """Return LABELLED rows of (text, label, dataset, split)."""
    return pl.DataFrame(rows, schema=LABELLED, orient="row")


def measures(probabilities: np.ndarray, labels: np.ndarray) -> dict[str, Measure]:
    return {measure.metric: measure for measure in evaluate(probabilities, labels, seed=7)}


def random_answers(n: int, seed: int, classes: int = 3) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    return rng.dirichlet([1, 1, 1], n), rng.integers(0, classes, n)


# --- metrics -----------------------------------------------------------------------------------------
@pytest.mark.parametrize(("n", "seed"), [(10, 1), (57, 2), (300, 3)])
def test_accuracy_f1_and_recall_match_scikit_learn(n: int, seed: int) -> None:
    from sklearn.metrics import accuracy_score, f1_score, recall_score

    p, labels = random_answers(n, seed)
    labels[:3] = [0, 1, 2]
    metrics, predicted = measures(p, labels), p.argmax(axis=1)
    recalls = recall_score(labels, predicted, average=None, labels=[0, 1, 2])
    assert metrics["accuracy"].value == pytest.approx(accuracy_score(labels, predicted))
    assert metrics["macro_f1"].value == pytest.approx(f1_score(labels, predicted, average="macro", labels=[0, 1, 2]))
    for index, name in enumerate(CLASSES):
        assert metrics[f"recall_{name}"].value == pytest.approx(recalls[index])
        assert metrics[f"recall_{name}"].n == (labels == index).sum()


def test_accuracy_has_a_wilson_interval() -> None:
    from statsmodels.stats.proportion import proportion_confint

    p, labels = random_answers(200, 3)
    metrics = measures(p, labels)
    hits = int((p.argmax(axis=1) == labels).sum())
    assert (metrics["accuracy"].lower, metrics["accuracy"].upper) == pytest.approx(
        proportion_confint(hits, 200, method="wilson")
    )


def test_the_calibration_error_is_confidence_minus_accuracy() -> None:
    p = np.tile([0.1, 0.2, 0.7], (10, 1))
    metrics = measures(p, np.array([2] * 5 + [0] * 3 + [1] * 2))
    assert metrics["calibration_error"].value == pytest.approx(0.2)
    certain = np.eye(3)[[0, 1, 2, 0]]
    assert measures(certain, np.array([0, 1, 2, 0]))["calibration_error"].value == pytest.approx(0)


def test_the_interval_of_a_calibrated_scorer_is_small() -> None:
    rng = np.random.default_rng(5)
    p = rng.dirichlet([1, 1, 1], 5_000)
    labels = (rng.random(5_000)[:, None] > p.cumsum(axis=1)).sum(axis=1)
    error = measures(p, labels)["calibration_error"]
    assert 0 <= (error.lower or 0) <= (error.value or 0) <= (error.upper or 1) < 0.04


def test_the_interval_is_corrected_for_bootstrap_bias() -> None:
    rng = np.random.default_rng(6)
    p = rng.dirichlet([1, 1, 1], 400)
    labels = (rng.random(400)[:, None] > p.cumsum(axis=1)).sum(axis=1)
    error = measures(p, labels)["calibration_error"]
    lower, value, upper = error.lower or 0.0, error.value or 0.0, error.upper or 0.0
    assert 0.3 < (value - lower) / (upper - lower) < 0.7, "the interval is centred on the estimate"


def test_intervals_have_their_nominal_coverage(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(judge, "RESAMPLES", 200)
    rng = np.random.default_rng(11)
    p_predicted = np.array([[0.6, 0.3, 0.1], [0.2, 0.6, 0.2], [0.1, 0.3, 0.6]])
    truth = {"accuracy": 0.6, "macro_f1": (1.2 / 1.9 + 1.2 / 2.2 + 1.2 / 1.9) / 3}
    covered = dict.fromkeys(truth, 0)
    for trial in range(200):
        labels = rng.integers(0, 3, 150)
        predicted = (rng.random(150)[:, None] > p_predicted[labels].cumsum(axis=1)).sum(axis=1)
        metrics = {
            measure.metric: measure for measure in evaluate(np.eye(3)[predicted] * 0.8 + 0.1, labels, seed=trial)
        }
        for name, value in truth.items():
            covered[name] += (metrics[name].lower or 0) <= value <= (metrics[name].upper or 0)
    assert all(181 <= count <= 198 for count in covered.values()), covered


def test_two_equal_shares_are_half_a_hit_each() -> None:
    p = np.array([[0.4, 0.2, 0.4]] * 4)
    metrics = measures(p, np.array([0, 0, 2, 1]))
    assert metrics["accuracy"].value == pytest.approx(3 / 8)
    assert metrics["recall_negative"].value == pytest.approx(0.5)


def test_without_texts_metrics_have_no_value() -> None:
    metrics = measures(np.zeros((0, 3)), np.zeros(0, dtype=np.int64))
    assert {measure.value for measure in metrics.values()} == {None}
    assert {measure.n for measure in metrics.values()} == {0}


# --- data sets of two classes ------------------------------------------------------------------------
def test_only_classes_that_occur_can_be_predicted() -> None:
    p = np.array([[0.3, 0.6, 0.1], [0.1, 0.6, 0.3], [0.2, 0.6, 0.2], [0.6, 0.3, 0.1]])
    metrics = measures(p, np.array([0, 2, 2, 0]))
    assert metrics["accuracy"].value == pytest.approx(3.5 / 4), "a tie is half a hit"
    assert metrics["accuracy_of_three"].value == pytest.approx(1 / 4)
    assert metrics["recall_neutral"] == Measure("recall_neutral", None, None, None, 0)


def test_a_missing_class_does_not_lower_the_f1() -> None:
    p = np.array([[0.3, 0.6, 0.1], [0.1, 0.6, 0.3]] * 5)
    assert measures(p, np.array([0, 2] * 5))["macro_f1"].value == 1


def test_zero_shares_for_all_classes_that_occur_are_ties() -> None:
    metrics = measures(np.array([[0.0, 1.0, 0.0]] * 4), np.array([0, 2, 2, 0]))
    assert metrics["accuracy"].value == pytest.approx(0.5)


def test_three_classes_have_no_second_accuracy() -> None:
    assert "accuracy_of_three" not in measures(*random_answers(50, 1))


# --- evaluation and fitting texts --------------------------------------------------------------------
SPLITS = st.sampled_from(["train", "training", "test", "validation", "dev", None])


@settings(max_examples=40, deadline=None)
@given(st.lists(st.tuples(st.sampled_from("abcdef"), st.sampled_from(CLASSES), st.sampled_from("XY"), SPLITS)))
def test_fitting_and_evaluation_texts_are_disjoint(rows: list[tuple[str, str, str, str | None]]) -> None:
    frame = labelled(*rows)
    evaluated, fitted = evaluation_texts(frame), fitting_texts(frame)
    assert set(evaluated["text"]).isdisjoint(fitted["text"])
    assert evaluated.height == sum(split not in ("train", "training") for *_, split in rows)
    assert set(fitted["split"]) <= {"train", "training"}


@settings(max_examples=40, deadline=None)
@given(st.lists(st.tuples(st.sampled_from("abcdef"), st.sampled_from(CLASSES), st.just("X"), st.none())))
def test_a_text_counts_once_and_only_with_a_single_label(rows: list[tuple[str, str, str, str | None]]) -> None:
    unambiguous = dict(unambiguous_texts(labelled(*rows)).iter_rows())
    labels = {text: {label for other, label, *_ in rows if other == text} for text, *_ in rows}
    assert unambiguous == {text: next(iter(names)) for text, names in labels.items() if len(names) == 1}


# --- the benchmark -----------------------------------------------------------------------------------
def labelled_rows(
    dataset: str, split: str | None = None, classes: tuple[str, ...] = CLASSES, n: int = 40
) -> list[tuple]:
    return [(f"{dataset} {split} {index}", classes[index % len(classes)], dataset, split) for index in range(n)]


def test_a_benchmark_matches_its_contract() -> None:
    frame = labelled(
        *labelled_rows("three", "train"),
        *labelled_rows("three", "test"),
        *labelled_rows("two", classes=("negative", "positive")),
        ("two None 0", "positive", "two", None),
    )  # fmt: skip
    rows = benchmark(frame, [FakeScorer("a"), FakeScorer("b")], DAY, seed=7)
    assert SENTIMENT_BENCHMARK.faults(rows) == []
    metrics = {(row["dataset"], row["metric"]): row for row in rows.filter(scorer="a").iter_rows(named=True)}
    assert metrics["three", "accuracy"]["n"] == 40
    assert metrics["three", "classes"]["value"] == 3
    assert metrics["two", "classes"]["value"] == 2
    assert metrics["two", "accuracy"]["n"] == 39
    assert metrics["two", "left_out"]["value"] == pytest.approx(1 / 40)
    assert set(rows["scorer"]) == {"a", "b"}


def test_the_benchmark_depends_on_the_seed_and_not_on_row_order() -> None:
    frame = labelled(*labelled_rows("x"))
    rows = benchmark(frame, [FakeScorer()], DAY, seed=7)
    assert rows.equals(benchmark(frame.reverse(), [FakeScorer()], DAY, seed=7))
    assert not rows.equals(benchmark(frame, [FakeScorer()], DAY, seed=8))


def test_a_fitting_split_is_not_evaluated() -> None:
    rows = benchmark(labelled(*labelled_rows("x", "train")), [FakeScorer()], DAY, seed=7)
    assert rows.is_empty()
    assert SENTIMENT_BENCHMARK.faults(rows) == []


def test_the_table_notes_two_classes_and_escapes_names() -> None:
    frame = labelled(*labelled_rows("a|<b>", classes=("negative", "positive")), *labelled_rows("c"))
    table = benchmark_table(benchmark(frame, [FakeScorer()], DAY, seed=7))
    head, rule, first, second = table.splitlines()
    assert len({line.count("|") for line in (head, rule, first, second)}) == 1
    assert first.startswith("| a&#124;&lt;b&gt; | known | 40 |")
    assert "two classes" in first
    assert "two classes" not in second


# --- reading -----------------------------------------------------------------------------------------
WRITERS: dict[str, Callable[[pl.DataFrame, Path], object]] = {
    "x.parquet": lambda frame, path: frame.write_parquet(path),
    "x.csv": lambda frame, path: frame.write_csv(path),
    "x.jsonl": lambda frame, path: frame.write_ndjson(path),
}


@pytest.mark.parametrize("name", WRITERS)
def test_every_format_gives_the_same_rows(tmp_path: Path, name: str) -> None:
    frame = labelled(('Up, "up"\nand away', "positive", "x", "train"), ("Down", "negative", "y", None))
    WRITERS[name](frame, tmp_path / name)
    assert read_labelled(str(tmp_path / name)).equals(frame)


def test_a_glob_reads_files_in_the_order_of_their_names(tmp_path: Path) -> None:
    for index, name in enumerate(sorted(WRITERS)):
        WRITERS[name](labelled((str(index), "neutral", "x", None)), tmp_path / name)
    assert read_labelled(str(tmp_path / "*"))["text"].to_list() == ["0", "1", "2"]


def test_labels_are_case_insensitive_and_split_is_optional(tmp_path: Path) -> None:
    pl.DataFrame({"extra": [1], "dataset": ["x"], "label": [" Positive "], "text": ["up"]}).write_csv(
        tmp_path / "x.csv"
    )
    assert read_labelled(str(tmp_path / "x.csv")).rows() == [("up", "positive", "x", None)]


@pytest.mark.parametrize(
    ("content", "sentence"),
    [
        ({"text": ["a"], "label": ["neutral"]}, "column 'dataset' is missing from text, label"),
        ({"text": ["a", "b"], "label": ["neutral", "LABEL_2"], "dataset": ["x", "x"]}, "row 2 has the label 'label_2'"),
        ({"text": ["a", None], "label": ["neutral"] * 2, "dataset": ["x"] * 2}, "row 2 has no text"),
        ({"text": ["a", "b"], "label": ["neutral", None], "dataset": ["x"] * 2}, "row 2 has no label"),
        ({"text": ["a"], "label": ["neutral"], "dataset": [" "]}, "row 1 has no dataset"),
        ({"text": ["a"], "label": [2], "dataset": ["x"]}, "expected text in column 'label', got Int64"),
        ({"text": ["a"], "label": ["neutral"], "dataset": ["x"], "split": ["fold 3"]}, "the split 'fold 3'"),
    ],
)
def test_an_invalid_file_is_reported(tmp_path: Path, content: dict[str, list], sentence: str) -> None:
    pl.DataFrame(content).write_parquet(tmp_path / "x.parquet")
    with pytest.raises(LabelledTextsError, match=sentence) as error:
        read_labelled(str(tmp_path / "x.parquet"))
    assert str(error.value).startswith("x.parquet: ")


def test_missing_and_unreadable_files_are_reported(tmp_path: Path) -> None:
    with pytest.raises(LabelledTextsError, match="BTC_LABELLED_SENTIMENT"):
        read_labelled(str(tmp_path / "*.csv"))
    (tmp_path / "x.parquet").write_bytes(b"no table")
    with pytest.raises(LabelledTextsError, match=r"x\.parquet cannot be read"):
        read_labelled(str(tmp_path / "x.parquet"))
    (tmp_path / "x.txt").write_text("a")
    with pytest.raises(LabelledTextsError, match="expected a file ending in"):
        read_labelled(str(tmp_path / "x.txt"))


# --- real data sets ----------------------------------------------------------------------------------
def test_the_finance_lexicon_beats_the_general_one_on_real_headlines(shared_data: Path) -> None:
    frame = read_labelled(str(shared_data / "text" / "labelled_sentiment.parquet"))
    evaluated = evaluation_texts(frame)
    assert (frame.height, evaluated.height) == (27_706, 27_706 - 9_543)
    assert evaluated.filter(dataset="surge_ai_crypto_inferred")["label"].n_unique() == 2
    sets = evaluated.filter(pl.col("dataset").is_in(["sentfin", "twitter_financial_news_sentiment"]))
    for (name,), group in sets.group_by("dataset"):
        texts = unambiguous_texts(group)
        labels = texts["label"].replace_strict(list(CLASSES), [0, 1, 2], return_dtype=pl.Int64).to_numpy()
        accuracy = {
            scorer.name: (scorer.score(texts["text"].to_list()).probabilities.argmax(axis=1) == labels).mean()
            for scorer in (VaderScorer(), VaderScorer("general"))
        }
        assert accuracy["vader"] > accuracy["vader_general"] + 0.1, name
