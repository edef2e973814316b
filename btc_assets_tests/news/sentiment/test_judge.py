"""How scorers are judged: the figures are the textbook's, and nothing is judged on what it was fitted on."""

from __future__ import annotations

from collections.abc import Callable
from datetime import date
from pathlib import Path

import numpy as np
import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from btc_assets.news.sentiment import judge as judging
from btc_assets.news.sentiment.judge import (
    LABELLED,
    LabelledTextsError,
    Measure,
    agreed,
    benchmark,
    benchmark_table,
    judge,
    read_labelled,
    to_fit_on,
    to_judge_on,
)
from btc_assets.news.sentiment.protocol import CLASSES
from btc_assets.news.sentiment.vader import VaderScorer
from btc_assets.news.tables import SENTIMENT_BENCHMARK
from btc_assets_tests.news.sentiment.builders import KnownScorer

DAY = date(2025, 7, 31)


def labelled(*rows: tuple[str, str, str, str | None]) -> pl.DataFrame:
    """Return LABELLED rows of (text, label, dataset, split)."""
    return pl.DataFrame(rows, schema=LABELLED, orient="row")


def measures(probabilities: np.ndarray, labels: np.ndarray) -> dict[str, Measure]:
    return {measure.metric: measure for measure in judge(probabilities, labels, seed=7)}


def random_answers(n: int, seed: int, classes: int = 3) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    return rng.dirichlet([1, 1, 1], n), rng.integers(0, classes, n)


# --- the figures -------------------------------------------------------------------------------------
@pytest.mark.parametrize(("n", "seed"), [(10, 1), (57, 2), (300, 3)])
def test_accuracy_f1_and_recall_are_those_of_the_textbook(n: int, seed: int) -> None:
    from sklearn.metrics import accuracy_score, f1_score, recall_score

    p, labels = random_answers(n, seed)
    labels[:3] = [0, 1, 2]
    told, said = measures(p, labels), p.argmax(axis=1)
    recalls = recall_score(labels, said, average=None, labels=[0, 1, 2])
    assert told["accuracy"].value == pytest.approx(accuracy_score(labels, said))
    assert told["macro_f1"].value == pytest.approx(f1_score(labels, said, average="macro", labels=[0, 1, 2]))
    for place, name in enumerate(CLASSES):
        assert told[f"recall_{name}"].value == pytest.approx(recalls[place])
        assert told[f"recall_{name}"].n == (labels == place).sum()


def test_accuracy_and_recall_have_wilsons_interval() -> None:
    from statsmodels.stats.proportion import proportion_confint

    p, labels = random_answers(200, 3)
    told = measures(p, labels)
    hits = int((p.argmax(axis=1) == labels).sum())
    assert (told["accuracy"].lower, told["accuracy"].upper) == pytest.approx(
        proportion_confint(hits, 200, method="wilson")
    )


def test_the_calibration_error_is_the_gap_between_what_is_said_and_what_is_right() -> None:
    p = np.tile([0.1, 0.2, 0.7], (10, 1))
    told = measures(p, np.array([2] * 5 + [0] * 3 + [1] * 2))
    assert told["calibration_error"].value == pytest.approx(0.2)
    sure = np.eye(3)[[0, 1, 2, 0]]
    assert measures(sure, np.array([0, 1, 2, 0]))["calibration_error"].value == pytest.approx(0)


def test_an_interval_of_a_calibrated_scorer_holds_little_and_its_estimate() -> None:
    rng = np.random.default_rng(5)
    p = rng.dirichlet([1, 1, 1], 5_000)
    labels = (rng.random(5_000)[:, None] > p.cumsum(axis=1)).sum(axis=1)
    error = measures(p, labels)["calibration_error"]
    assert 0 <= (error.lower or 0) <= (error.value or 0) <= (error.upper or 1) < 0.04


def test_resampling_adds_to_a_calibration_error_and_the_interval_takes_it_off_again() -> None:
    rng = np.random.default_rng(6)
    p = rng.dirichlet([1, 1, 1], 400)
    labels = (rng.random(400)[:, None] > p.cumsum(axis=1)).sum(axis=1)
    error = measures(p, labels)["calibration_error"]
    lower, value, upper = error.lower or 0.0, error.value or 0.0, error.upper or 0.0
    assert 0.3 < (value - lower) / (upper - lower) < 0.7, "it lies about the estimate"


def test_intervals_hold_the_truth_as_often_as_they_say(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(judging, "RESAMPLES", 200)
    rng = np.random.default_rng(11)
    said_of = np.array([[0.6, 0.3, 0.1], [0.2, 0.6, 0.2], [0.1, 0.3, 0.6]])
    truth = {"accuracy": 0.6, "macro_f1": (1.2 / 1.9 + 1.2 / 2.2 + 1.2 / 1.9) / 3}
    held = dict.fromkeys(truth, 0)
    for trial in range(200):
        labels = rng.integers(0, 3, 150)
        said = (rng.random(150)[:, None] > said_of[labels].cumsum(axis=1)).sum(axis=1)
        told = {measure.metric: measure for measure in judge(np.eye(3)[said] * 0.8 + 0.1, labels, seed=trial)}
        for name, value in truth.items():
            held[name] += (told[name].lower or 0) <= value <= (told[name].upper or 0)
    assert all(181 <= count <= 198 for count in held.values()), held


def test_equal_shares_are_half_a_hit_of_each() -> None:
    p = np.array([[0.4, 0.2, 0.4]] * 4)
    told = measures(p, np.array([0, 0, 2, 1]))
    assert told["accuracy"].value == pytest.approx(3 / 8)
    assert told["recall_negative"].value == pytest.approx(0.5)


def test_no_texts_give_measures_without_a_value() -> None:
    told = measures(np.zeros((0, 3)), np.zeros(0, dtype=np.int64))
    assert {measure.value for measure in told.values()} == {None}
    assert {measure.n for measure in told.values()} == {0}


# --- sets of two classes -----------------------------------------------------------------------------
def test_on_a_set_without_neutral_the_scorer_chooses_between_the_two_that_occur() -> None:
    p = np.array([[0.3, 0.6, 0.1], [0.1, 0.6, 0.3], [0.2, 0.6, 0.2], [0.6, 0.3, 0.1]])
    told = measures(p, np.array([0, 2, 2, 0]))
    assert told["accuracy"].value == pytest.approx(3.5 / 4), "the tie is half a hit"
    assert told["accuracy_of_three"].value == pytest.approx(1 / 4)
    assert told["recall_neutral"] == Measure("recall_neutral", None, None, None, 0)


def test_a_class_that_does_not_occur_lowers_no_f1() -> None:
    p = np.array([[0.3, 0.6, 0.1], [0.1, 0.6, 0.3]] * 5)
    assert measures(p, np.array([0, 2] * 5))["macro_f1"].value == 1


def test_a_scorer_without_any_share_for_what_occurs_is_a_coin() -> None:
    told = measures(np.array([[0.0, 1.0, 0.0]] * 4), np.array([0, 2, 2, 0]))
    assert told["accuracy"].value == pytest.approx(0.5)


def test_a_set_of_three_classes_has_no_second_accuracy() -> None:
    assert "accuracy_of_three" not in measures(*random_answers(50, 1))


# --- what is judged, and what may be fitted on -------------------------------------------------------
SPLITS = st.sampled_from(["train", "training", "test", "validation", "dev", None])


@settings(max_examples=40, deadline=None)
@given(st.lists(st.tuples(st.sampled_from("abcdef"), st.sampled_from(CLASSES), st.sampled_from("XY"), SPLITS)))
def test_no_text_is_both_fitted_and_judged_on(rows: list[tuple[str, str, str, str | None]]) -> None:
    frame = labelled(*rows)
    judged, fitted = to_judge_on(frame), to_fit_on(frame)
    assert set(judged["text"]).isdisjoint(fitted["text"])
    assert judged.height == sum(split not in ("train", "training") for *_, split in rows)
    assert set(fitted["split"]) <= {"train", "training"}


@settings(max_examples=40, deadline=None)
@given(st.lists(st.tuples(st.sampled_from("abcdef"), st.sampled_from(CLASSES), st.just("X"), st.none())))
def test_a_text_counts_once_and_only_where_its_label_is_one(rows: list[tuple[str, str, str, str | None]]) -> None:
    told = dict(agreed(labelled(*rows)).iter_rows())
    labels = {text: {label for other, label, *_ in rows if other == text} for text, *_ in rows}
    assert told == {text: next(iter(found)) for text, found in labels.items() if len(found) == 1}


# --- the benchmark -----------------------------------------------------------------------------------
def many(dataset: str, split: str | None = None, classes: tuple[str, ...] = CLASSES, n: int = 40) -> list[tuple]:
    return [(f"{dataset} {split} {place}", classes[place % len(classes)], dataset, split) for place in range(n)]


def test_a_benchmark_keeps_its_contract_and_says_what_it_rests_on() -> None:
    frame = labelled(
        *many("three", "train"), *many("three", "test"), *many("two", classes=("negative", "positive")),
        ("two None 0", "positive", "two", None),
    )  # fmt: skip
    rows = benchmark(frame, [KnownScorer("a"), KnownScorer("b")], DAY, seed=7)
    assert SENTIMENT_BENCHMARK.faults(rows) == []
    told = {(r["dataset"], r["metric"]): r for r in rows.filter(scorer="a").iter_rows(named=True)}
    assert told["three", "accuracy"]["n"] == 40
    assert told["three", "classes"]["value"] == 3
    assert told["two", "classes"]["value"] == 2
    assert told["two", "accuracy"]["n"] == 39
    assert told["two", "left_out"]["value"] == pytest.approx(1 / 40)
    assert set(rows["scorer"]) == {"a", "b"}


def test_the_order_of_the_rows_decides_nothing_and_the_seed_everything_left() -> None:
    frame = labelled(*many("x"))
    rows = benchmark(frame, [KnownScorer()], DAY, seed=7)
    assert rows.equals(benchmark(frame.reverse(), [KnownScorer()], DAY, seed=7))
    assert not rows.equals(benchmark(frame, [KnownScorer()], DAY, seed=8))


def test_a_set_only_fitted_on_is_not_judged() -> None:
    rows = benchmark(labelled(*many("x", "train")), [KnownScorer()], DAY, seed=7)
    assert rows.is_empty()
    assert SENTIMENT_BENCHMARK.faults(rows) == []


def test_the_table_for_people_says_two_classes_and_escapes_names() -> None:
    frame = labelled(*many("a|<b>", classes=("negative", "positive")), *many("c"))
    table = benchmark_table(benchmark(frame, [KnownScorer()], DAY, seed=7))
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
def test_every_format_is_read_alike(tmp_path: Path, name: str) -> None:
    frame = labelled(('Up, "up"\nand away', "positive", "x", "train"), ("Down", "negative", "y", None))
    WRITERS[name](frame, tmp_path / name)
    assert read_labelled(str(tmp_path / name)).equals(frame)


def test_a_glob_reads_every_file_in_the_order_of_names(tmp_path: Path) -> None:
    for place, name in enumerate(sorted(WRITERS)):
        WRITERS[name](labelled((str(place), "neutral", "x", None)), tmp_path / name)
    assert read_labelled(str(tmp_path / "*"))["text"].to_list() == ["0", "1", "2"]


def test_labels_may_be_in_capitals_and_split_may_be_absent(tmp_path: Path) -> None:
    pl.DataFrame({"extra": [1], "dataset": ["x"], "label": [" Positive "], "text": ["up"]}).write_csv(
        tmp_path / "x.csv"
    )
    assert read_labelled(str(tmp_path / "x.csv")).rows() == [("up", "positive", "x", None)]


@pytest.mark.parametrize(
    ("content", "sentence"),
    [
        ({"text": ["a"], "label": ["neutral"]}, "no column 'dataset' among text, label"),
        ({"text": ["a", "b"], "label": ["neutral", "LABEL_2"], "dataset": ["x", "x"]}, "row 2 has the label 'label_2'"),
        ({"text": ["a", None], "label": ["neutral"] * 2, "dataset": ["x"] * 2}, "row 2 has no text"),
        ({"text": ["a", "b"], "label": ["neutral", None], "dataset": ["x"] * 2}, "row 2 has no label"),
        ({"text": ["a"], "label": ["neutral"], "dataset": [" "]}, "row 1 has no dataset"),
        ({"text": ["a"], "label": [2], "dataset": ["x"]}, "expected text in column 'label', got Int64"),
        ({"text": ["a"], "label": ["neutral"], "dataset": ["x"], "split": ["fold 3"]}, "the split 'fold 3'"),
    ],
)
def test_what_is_wrong_with_a_file_is_a_sentence(tmp_path: Path, content: dict[str, list], sentence: str) -> None:
    pl.DataFrame(content).write_parquet(tmp_path / "x.parquet")
    with pytest.raises(LabelledTextsError, match=sentence) as error:
        read_labelled(str(tmp_path / "x.parquet"))
    assert str(error.value).startswith("x.parquet: ")


def test_no_file_and_no_table_are_sentences(tmp_path: Path) -> None:
    with pytest.raises(LabelledTextsError, match="BTC_LABELLED_SENTIMENT"):
        read_labelled(str(tmp_path / "*.csv"))
    (tmp_path / "x.parquet").write_bytes(b"no table")
    with pytest.raises(LabelledTextsError, match=r"x\.parquet cannot be read"):
        read_labelled(str(tmp_path / "x.parquet"))
    (tmp_path / "x.txt").write_text("a")
    with pytest.raises(LabelledTextsError, match="expected a file ending in"):
        read_labelled(str(tmp_path / "x.txt"))


# --- the real sets -----------------------------------------------------------------------------------
def test_the_words_of_ours_beat_general_ones_on_real_headlines(shared_data: Path) -> None:
    frame = read_labelled(str(shared_data / "text" / "labelled_sentiment.parquet"))
    judged = to_judge_on(frame)
    assert (frame.height, judged.height) == (27_706, 27_706 - 9_543)
    assert judged.filter(dataset="surge_ai_crypto_inferred")["label"].n_unique() == 2
    sets = judged.filter(pl.col("dataset").is_in(["sentfin", "twitter_financial_news_sentiment"]))
    for (name,), group in sets.group_by("dataset"):
        texts = agreed(group)
        labels = texts["label"].replace_strict(list(CLASSES), [0, 1, 2], return_dtype=pl.Int64).to_numpy()
        right = {
            scorer.name: (scorer.score(texts["text"].to_list()).probabilities.argmax(axis=1) == labels).mean()
            for scorer in (VaderScorer(), VaderScorer("general"))
        }
        assert right["vader"] > right["vader_general"] + 0.1, name
