"""Evaluate scorers on hand-labelled texts: accuracy, macro-F1, recall of each class and calibration.

Only texts that nothing was fitted on are used: of a data set with splits, `test` and `validation`, never `train`. A
repeated text counts once. A text with several labels in one data set (a headline about two companies) has no single
answer and is left out; the metric `left_out` is the share of such texts.

In a data set without one of the classes, the labellers could not choose that class. There the scorer chooses among the
classes that occur; two equal shares count as half a hit each. The metric `accuracy_of_three` is the accuracy of the
scorer's choice among all three classes.
"""

from __future__ import annotations

import html
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import date
from pathlib import Path
from statistics import NormalDist

import numpy as np
import numpy.typing as npt
import polars as pl

from btc_assets.archives import UnreadableError
from btc_assets.markdown import markdown_rows
from btc_assets.news.sentiment.protocol import CLASSES, Scorer
from btc_assets.news.tables import SENTIMENT_BENCHMARK
from btc_assets.paths import matching
from btc_assets.table_files import ENDINGS, FILE, LINE, read_tables

BINS = 10
"""Number of equal-width bins of the predicted class's share for the calibration error."""
CONFIDENCE = 0.95
RESAMPLES = 1_000
"""Bootstrap resamples of the texts, for metrics without a closed-form interval."""
EVALUATION_SPLITS = ("test", "validation", "valid", "dev")
FITTING_SPLITS = ("train", "training")
LABELLED = pl.Schema({"text": pl.String, "label": pl.String, "dataset": pl.String, "split": pl.String})
"""Columns of labelled texts; `split` is null if a data set has no splits."""

_REQUIRED = ("text", "label", "dataset")
_REMEDY = "Labelled texts have the columns text, label (negative, neutral or positive) and dataset, and may have split."

Floats = npt.NDArray[np.float64]
Integers = npt.NDArray[np.int64]


class LabelledTextsError(ValueError):
    """Labelled texts cannot be read; the message states what was expected and where."""


@dataclass(frozen=True)
class Measure:
    """A metric with its 95 % interval and number of texts; value and interval are None if it cannot be computed."""

    metric: str
    value: float | None
    lower: float | None
    upper: float | None
    n: int


# --- labelled texts ----------------------------------------------------------------------------------
def read_labelled(pattern: str) -> pl.DataFrame:
    """Read labelled texts from Parquet, CSV or JSON Lines files.

    Args:
        pattern: path or glob.

    Returns:
        LABELLED rows, in the order of the file names; labels and splits in lower case.

    Raises:
        LabelledTextsError: no file matches, or a file cannot be read or is invalid.
    """
    paths = matching(pattern)
    if not paths:
        raise LabelledTextsError(f"no file of labelled texts matches BTC_LABELLED_SENTIMENT={pattern!r}.")
    return pl.concat([_labelled(path) for path in paths])


def _labelled(path: Path) -> pl.DataFrame:
    if not path.name.lower().endswith(ENDINGS):
        raise LabelledTextsError(f"{path.name}: expected a file ending in {', '.join(ENDINGS)}. {_REMEDY}")
    try:
        files = read_tables(path, lambda names: names if {*_REQUIRED} <= {*names} else None)
        table = pl.concat([file.complete() for file in files]).drop(FILE, LINE)
    except (UnreadableError, pl.exceptions.PolarsError, OSError) as error:
        raise LabelledTextsError(f"{path.name} cannot be read: {error}. {_REMEDY}") from error
    if notes := [note for file in files for note in file.notes]:
        raise LabelledTextsError(f"{path.name}: {notes[0]}. {_REMEDY}")
    if missing := [name for name in _REQUIRED if name not in table.columns]:
        raise LabelledTextsError(
            f"{path.name}: column {missing[0]!r} is missing from {', '.join(table.columns) or 'none'}. {_REMEDY}"
        )
    if "split" not in table.columns:
        table = table.with_columns(split=pl.lit(None, pl.String))
    for name in LABELLED:
        if table.schema[name] not in (pl.String, pl.Categorical, pl.Null) and not isinstance(
            table.schema[name], pl.Enum
        ):
            raise LabelledTextsError(
                f"{path.name}: expected text in column {name!r}, got {table.schema[name]}. {_REMEDY}"
            )
    normalised = [pl.col(name).str.strip_chars().str.to_lowercase().alias(name) for name in ("label", "split")]
    table = table.select(pl.col(name).cast(pl.String) for name in LABELLED).with_columns(normalised)
    for name in _REQUIRED:
        empty = table.get_column(name).is_null() | (table.get_column(name).str.strip_chars() == "")
        if empty.any():
            raise LabelledTextsError(f"{path.name}: row {(empty.arg_max() or 0) + 1} has no {name}. {_REMEDY}")
    unknown = ~table.get_column("label").is_in(CLASSES)
    if unknown.any():
        row = unknown.arg_max() or 0
        raise LabelledTextsError(f"{path.name}: row {row + 1} has the label {table['label'][row]!r}. {_REMEDY}")
    splits = table.get_column("split").replace("", None)
    unknown_split = ~splits.is_in([*EVALUATION_SPLITS, *FITTING_SPLITS], nulls_equal=False)
    if unknown_split.any():
        row = unknown_split.arg_max() or 0
        raise LabelledTextsError(
            f"{path.name}: row {row + 1} has the split {splits[row]!r}; expected one of "
            f"{', '.join([*FITTING_SPLITS, *EVALUATION_SPLITS])}, or no value."
        )
    return table.with_columns(split=splits)


def evaluation_texts(labelled: pl.DataFrame) -> pl.DataFrame:
    """Return the rows that scorers are evaluated on: all except the fitting splits."""
    return labelled.filter(~pl.col("split").is_in(FITTING_SPLITS).fill_null(value=False))


def fitting_texts(labelled: pl.DataFrame) -> pl.DataFrame:
    """Return the rows that a model may be fitted on: the fitting splits without the texts used for evaluation."""
    return labelled.filter(pl.col("split").is_in(FITTING_SPLITS).fill_null(value=False)).join(
        evaluation_texts(labelled), on="text", how="anti"
    )


def unambiguous_texts(labelled: pl.DataFrame) -> pl.DataFrame:
    """Return text and label of each distinct text with exactly one label, sorted by text."""
    return (
        labelled.group_by("text")
        .agg(pl.col("label").first(), labels=pl.col("label").n_unique())
        .filter(labels=1)
        .drop("labels")
        .sort("text")
    )


# --- the benchmark -----------------------------------------------------------------------------------
def benchmark(labelled: pl.DataFrame, scorers: Sequence[Scorer], day: date, seed: int) -> pl.DataFrame:
    """Evaluate scorers on every labelled data set.

    Args:
        labelled: LABELLED rows; fitting splits are ignored.
        scorers: scorers of different names.
        day: day of the rows.
        seed: seed of the bootstrap.

    Returns:
        SENTIMENT_BENCHMARK rows. Metrics: accuracy, macro_f1, recall_negative, recall_neutral, recall_positive,
        calibration_error, accuracy_of_three (only data sets without all three classes), classes (number of classes in
        the data set) and left_out (share of its texts with several labels).

    Raises:
        ScorerError: a scorer cannot score.
    """
    rows: list[dict[str, object]] = []
    for (dataset,), group in sorted(evaluation_texts(labelled).group_by("dataset"), key=lambda pair: str(pair[0])):
        texts = unambiguous_texts(group)
        distinct = group.get_column("text").n_unique()
        truth = texts.get_column("label").replace_strict(list(CLASSES), range(len(CLASSES)), return_dtype=pl.Int64)
        labels = truth.to_numpy()
        of_dataset = [
            Measure("classes", float(len(set(labels.tolist()))), None, None, len(labels)),
            Measure("left_out", (distinct - len(labels)) / distinct, None, None, distinct),
        ]
        for scorer in scorers:
            measures = evaluate(scorer.score(texts.get_column("text").to_list()).probabilities, labels, seed)
            rows += [
                {"day": day, "dataset": dataset, "scorer": scorer.name, "weights_digest": scorer.weights_digest}
                | vars(measure)
                for measure in [*measures, *of_dataset]
            ]
    return pl.DataFrame(rows, schema=SENTIMENT_BENCHMARK.columns).sort(SENTIMENT_BENCHMARK.key)


def evaluate(probabilities: Floats, labels: Integers, seed: int) -> list[Measure]:
    """Compare class shares with labels.

    Args:
        probabilities: (n, 3).
        labels: (n,), indices into `CLASSES`.
        seed: seed of the bootstrap.

    Returns:
        The metrics of `benchmark` except `classes` and `left_out`. Accuracy and recall have Wilson intervals; macro-F1
        and calibration error have bootstrap intervals over texts. The interval of the calibration error is corrected
        for the bootstrap's bias, because resampling increases a calibration error.
    """
    n, present = len(labels), np.unique(labels)
    if n == 0:
        metrics = ["accuracy", "macro_f1", *(f"recall_{name}" for name in CLASSES), "calibration_error"]
        return [Measure(metric, None, None, None, 0) for metric in metrics]
    shares = _renormalise(probabilities, present)
    predicted = _predicted_class(shares)
    hits = predicted[np.arange(n), labels]
    measures = [_share("accuracy", hits)]
    measures += [_share(f"recall_{name}", hits[labels == index]) for index, name in enumerate(CLASSES)]
    if len(present) < len(CLASSES):
        measures.append(_share("accuracy_of_three", _predicted_class(probabilities)[np.arange(n), labels]))

    confidence = shares.max(axis=1)
    confusion = (np.eye(len(CLASSES))[labels][:, :, None] * predicted[:, None, :]).reshape(n, -1)
    bins = np.eye(BINS)[np.minimum((confidence * BINS).astype(int), BINS - 1)] * (confidence - hits)[:, None]
    terms = np.hstack([confusion, bins])
    rng = np.random.default_rng(seed)
    resamples = (np.bincount(rng.integers(0, n, n), minlength=n).astype(np.float64) for _ in range(RESAMPLES))
    sums = np.stack([terms.sum(axis=0), *(counts @ terms for counts in resamples)])
    f1 = _macro_f1(sums[:, : confusion.shape[1]], present)
    error = np.abs(sums[:, confusion.shape[1] :]).sum(axis=1) / n
    measures.append(_resampled("macro_f1", f1[0], f1[1:], n))
    measures.append(_resampled("calibration_error", error[0], error[1:] - (error[1:].mean() - error[0]), n))
    return measures


def _renormalise(probabilities: Floats, present: Integers) -> Floats:
    """Renormalise shares to the classes that occur; equal shares if all of these are zero."""
    kept = np.zeros_like(probabilities)
    kept[:, present] = probabilities[:, present]
    total = kept.sum(axis=1, keepdims=True)
    equal = np.zeros(probabilities.shape[1])
    equal[present] = 1 / len(present)
    return np.where(total > 0, kept / np.where(total > 0, total, 1), equal)


def _predicted_class(probabilities: Floats) -> Floats:
    """Return (n, 3): 1 for the class with the largest share, divided equally among ties."""
    largest = probabilities >= probabilities.max(axis=1, keepdims=True) - 1e-12
    return largest / largest.sum(axis=1, keepdims=True)


def _macro_f1(confusion: Floats, present: Integers) -> Floats:
    """Return the mean F1 of the classes that occur, from m flattened confusion matrices (m, 9): label by prediction."""
    table = confusion.reshape(-1, len(CLASSES), len(CLASSES))
    hits = np.diagonal(table, axis1=1, axis2=2)
    marginals = table.sum(axis=1) + table.sum(axis=2)
    f1 = np.divide(2 * hits, marginals, out=np.zeros_like(hits), where=marginals > 0)
    return f1[:, present].mean(axis=1)


def _share(metric: str, hits: Floats) -> Measure:
    """Return the mean of hits (0 to 1) with its Wilson interval."""
    n = len(hits)
    if n == 0:
        return Measure(metric, None, None, None, 0)
    p, z = float(hits.mean()), NormalDist().inv_cdf((1 + CONFIDENCE) / 2)
    middle = (p + z**2 / (2 * n)) / (1 + z**2 / n)
    half = z / (1 + z**2 / n) * np.sqrt(p * (1 - p) / n + z**2 / (4 * n**2))
    return Measure(metric, p, float(max(middle - half, 0)), float(min(middle + half, 1)), n)


def _resampled(metric: str, value: float, resampled: Floats, n: int) -> Measure:
    lower, upper = np.quantile(resampled, [(1 - CONFIDENCE) / 2, (1 + CONFIDENCE) / 2])
    return Measure(metric, float(value), float(max(lower, 0)), float(upper), n)


# --- reporting ---------------------------------------------------------------------------------------
def benchmark_table(rows: pl.DataFrame) -> str:
    """Return SENTIMENT_BENCHMARK rows as a Markdown table, one line per data set and scorer."""
    columns = ["accuracy", "macro_f1", *(f"recall_{name}" for name in CLASSES), "calibration_error"]
    headings = ["accuracy", "macro-F1", "recall negative", "neutral", "positive", "calibration error"]
    lines = []
    for (dataset, scorer), group in rows.group_by("dataset", "scorer", maintain_order=True):
        metrics = {row["metric"]: row for row in group.iter_rows(named=True)}
        note = []
        if "accuracy_of_three" in metrics:
            note.append(f"two classes; accuracy among all three {metrics['accuracy_of_three']['value']:.3f}")
        if metrics["left_out"]["value"]:
            note.append(f"{metrics['left_out']['value']:.1%} of the texts have several labels and are left out")
        cells = [_format_cell(metrics[metric]) for metric in columns]
        name = html.escape(str(dataset)).replace("|", "&#124;").replace("\n", " ")
        lines.append((name, scorer, f"{metrics['accuracy']['n']:,}", *cells, "; ".join(note)))
    return markdown_rows(("set", "scorer", "texts", *headings, "note"), lines)


def _format_cell(row: dict[str, object]) -> str:
    if row["value"] is None:
        return "–"
    return f"{row['value']:.3f} ({row['lower']:.3f}–{row['upper']:.3f})"
