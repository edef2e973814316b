"""How good a scorer is: accuracy, macro-F1, recall of each class and calibration on texts that people labelled.

Only texts that nothing was fitted on are judged: of a set with splits, `test` and `validation`, never `train`. A text
that a set holds several times counts once; one that a set gives different labels (a headline about two companies) has
no single answer and is left out, and how many were is a row of the table.

A set without one of the classes cannot show how a scorer tells that class, and no one who labelled it could choose it.
There the scorer is asked to choose between the two classes that occur; shares that are equal count as half a hit of
each. `accuracy_of_three` tells beside it how often the scorer's own choice among all three was right.
"""

from __future__ import annotations

import html
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import date
from pathlib import Path
from statistics import NormalDist

import numpy as np
import numpy.typing as npt
import polars as pl

from btc_assets.markdown import markdown_rows
from btc_assets.news.sentiment.protocol import CLASSES, Scorer
from btc_assets.news.tables import SENTIMENT_BENCHMARK
from btc_assets.paths import matching

BINS = 10
"""Bins of equal width, by the share of the class chosen, that the calibration error is taken over."""
CONFIDENCE = 0.95
RESAMPLES = 1_000
"""Bootstrap resamples of the texts, for what has no closed interval."""
JUDGED_SPLITS = ("test", "validation", "valid", "dev")
FITTING_SPLITS = ("train", "training")
LABELLED = pl.Schema({"text": pl.String, "label": pl.String, "dataset": pl.String, "split": pl.String})
"""What labelled texts look like; `split` is null where a set has none."""

_NEEDED = ("text", "label", "dataset")
_READERS: dict[str, Callable[[Path], pl.DataFrame]] = {
    ".parquet": lambda path: pl.read_parquet(path, hive_partitioning=False, glob=False),
    ".csv": lambda path: pl.read_csv(path, infer_schema=False, glob=False),
    ".jsonl": lambda path: pl.read_ndjson(path.read_bytes(), infer_schema_length=None),
    ".ndjson": lambda path: pl.read_ndjson(path.read_bytes(), infer_schema_length=None),
}
_REMEDY = "Labelled texts have the columns text, label (negative, neutral or positive) and dataset, and may have split."

Floats = npt.NDArray[np.float64]
Integers = npt.NDArray[np.int64]


class LabelledTextsError(ValueError):
    """Labelled texts cannot be read; the message says what was expected and where."""


@dataclass(frozen=True)
class Measure:
    """One figure with its 95 % interval, and the texts it rests on; all null where it cannot be computed."""

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
        LABELLED rows, in the order of the files' names; labels and splits in lower case.

    Raises:
        LabelledTextsError: there is no such file, one cannot be read, or one holds something else.
    """
    paths = matching(pattern)
    if not paths:
        raise LabelledTextsError(f"no file is at {pattern!r}, where BTC_LABELLED_SENTIMENT looks for labelled texts.")
    return pl.concat([_labelled(path) for path in paths])


def _labelled(path: Path) -> pl.DataFrame:
    reader = _READERS.get(path.suffix.lower())
    if reader is None:
        raise LabelledTextsError(f"{path.name}: expected a file ending in {', '.join(_READERS)}. {_REMEDY}")
    try:
        table = reader(path)
    except (pl.exceptions.PolarsError, OSError, UnicodeDecodeError) as error:
        raise LabelledTextsError(f"{path.name} cannot be read: {error}. {_REMEDY}") from error
    if missing := [name for name in _NEEDED if name not in table.columns]:
        raise LabelledTextsError(
            f"{path.name}: found no column {missing[0]!r} among {', '.join(table.columns) or 'none'}. {_REMEDY}"
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
    word = [pl.col(name).str.strip_chars().str.to_lowercase().alias(name) for name in ("label", "split")]
    table = table.select(pl.col(name).cast(pl.String) for name in LABELLED).with_columns(word)
    for name in _NEEDED:
        empty = table.get_column(name).is_null() | (table.get_column(name).str.strip_chars() == "")
        if empty.any():
            raise LabelledTextsError(f"{path.name}: row {(empty.arg_max() or 0) + 1} has no {name}. {_REMEDY}")
    unknown = ~table.get_column("label").is_in(CLASSES)
    if unknown.any():
        row = unknown.arg_max() or 0
        raise LabelledTextsError(f"{path.name}: row {row + 1} has the label {table['label'][row]!r}. {_REMEDY}")
    splits = table.get_column("split").replace("", None)
    strange = ~splits.is_in([*JUDGED_SPLITS, *FITTING_SPLITS], nulls_equal=False)
    if strange.any():
        row = strange.arg_max() or 0
        raise LabelledTextsError(
            f"{path.name}: row {row + 1} has the split {splits[row]!r}; expected one of "
            f"{', '.join([*FITTING_SPLITS, *JUDGED_SPLITS])}, or nothing."
        )
    return table.with_columns(split=splits)


def to_judge_on(labelled: pl.DataFrame) -> pl.DataFrame:
    """Return the rows scorers are judged on: all but the splits that things are fitted on."""
    return labelled.filter(~pl.col("split").is_in(FITTING_SPLITS).fill_null(value=False))


def to_fit_on(labelled: pl.DataFrame) -> pl.DataFrame:
    """Return the rows something may be fitted on: the splits for it, without any text that is also judged on."""
    return labelled.filter(pl.col("split").is_in(FITTING_SPLITS).fill_null(value=False)).join(
        to_judge_on(labelled), on="text", how="anti"
    )


def agreed(labelled: pl.DataFrame) -> pl.DataFrame:
    """Return text and label of the texts that have one label only, each once, in the order of the texts."""
    return (
        labelled.group_by("text")
        .agg(pl.col("label").first(), labels=pl.col("label").n_unique())
        .filter(labels=1)
        .drop("labels")
        .sort("text")
    )


# --- the benchmark -----------------------------------------------------------------------------------
def benchmark(labelled: pl.DataFrame, scorers: Sequence[Scorer], day: date, seed: int) -> pl.DataFrame:
    """Judge scorers on every labelled set.

    Args:
        labelled: LABELLED rows; those to fit on are passed over.
        scorers: of different names.
        day: the rows are said to be of this day.
        seed: of the bootstrap.

    Returns:
        SENTIMENT_BENCHMARK rows. Metrics: accuracy, macro_f1, recall_negative, recall_neutral, recall_positive,
        calibration_error, accuracy_of_three (sets of two classes only), classes (how many occur in the set) and
        left_out (share of the set's texts with different labels).

    Raises:
        ScorerError: a scorer cannot score.
    """
    rows: list[dict[str, object]] = []
    for (dataset,), group in sorted(to_judge_on(labelled).group_by("dataset"), key=lambda pair: str(pair[0])):
        texts = agreed(group)
        met = group.get_column("text").n_unique()
        truth = texts.get_column("label").replace_strict(list(CLASSES), range(len(CLASSES)), return_dtype=pl.Int64)
        labels = truth.to_numpy()
        about = [
            Measure("classes", float(len(set(labels.tolist()))), None, None, len(labels)),
            Measure("left_out", (met - len(labels)) / met, None, None, met),
        ]
        for scorer in scorers:
            measures = judge(scorer.score(texts.get_column("text").to_list()).probabilities, labels, seed)
            rows += [
                {"day": day, "dataset": dataset, "scorer": scorer.name, "weights_digest": scorer.weights_digest}
                | vars(measure)
                for measure in [*measures, *about]
            ]
    return pl.DataFrame(rows, schema=SENTIMENT_BENCHMARK.columns).sort(SENTIMENT_BENCHMARK.key)


def judge(probabilities: Floats, labels: Integers, seed: int) -> list[Measure]:
    """Compare shares of the classes with labels.

    Args:
        probabilities: (n, 3).
        labels: (n,), places in `CLASSES`.
        seed: of the bootstrap.

    Returns:
        The measures that `benchmark` names, but for what it tells about the set. Accuracy and recall have Wilson's
        interval; macro-F1 and the calibration error that of a bootstrap over texts. The latter is shifted by the
        bootstrap's own bias: resampling adds to a calibration error.
    """
    n, present = len(labels), np.unique(labels)
    if n == 0:
        metrics = ["accuracy", "macro_f1", *(f"recall_{name}" for name in CLASSES), "calibration_error"]
        return [Measure(metric, None, None, None, 0) for metric in metrics]
    asked = _between(probabilities, present)
    chosen = _choice(asked)
    right = chosen[np.arange(n), labels]
    measures = [_share("accuracy", right)]
    measures += [_share(f"recall_{name}", right[labels == place]) for place, name in enumerate(CLASSES)]
    if len(present) < len(CLASSES):
        measures.append(_share("accuracy_of_three", _choice(probabilities)[np.arange(n), labels]))

    sure = asked.max(axis=1)
    confusion = (np.eye(len(CLASSES))[labels][:, :, None] * chosen[:, None, :]).reshape(n, -1)
    bins = np.eye(BINS)[np.minimum((sure * BINS).astype(int), BINS - 1)] * (sure - right)[:, None]
    counted = np.hstack([confusion, bins])
    rng = np.random.default_rng(seed)
    draws = (np.bincount(rng.integers(0, n, n), minlength=n).astype(np.float64) for _ in range(RESAMPLES))
    sums = np.stack([counted.sum(axis=0), *(drawn @ counted for drawn in draws)])
    f1 = _macro_f1(sums[:, : confusion.shape[1]], present)
    error = np.abs(sums[:, confusion.shape[1] :]).sum(axis=1) / n
    measures.append(_resampled("macro_f1", f1[0], f1[1:], n))
    measures.append(_resampled("calibration_error", error[0], error[1:] - (error[1:].mean() - error[0]), n))
    return measures


def _between(probabilities: Floats, present: Integers) -> Floats:
    """Return shares among the classes that occur, adding up to one; equal ones where none of these has any."""
    kept = np.zeros_like(probabilities)
    kept[:, present] = probabilities[:, present]
    total = kept.sum(axis=1, keepdims=True)
    equal = np.zeros(probabilities.shape[1])
    equal[present] = 1 / len(present)
    return np.where(total > 0, kept / np.where(total > 0, total, 1), equal)


def _choice(probabilities: Floats) -> Floats:
    """Return (n, 3): 1 for the class of the largest share; classes with equal shares divide it."""
    largest = probabilities >= probabilities.max(axis=1, keepdims=True) - 1e-12
    return largest / largest.sum(axis=1, keepdims=True)


def _macro_f1(confusion: Floats, present: Integers) -> Floats:
    """Return the mean F1 of the classes that occur, of (m, 9) confusions: label by choice."""
    table = confusion.reshape(-1, len(CLASSES), len(CLASSES))
    hits = np.diagonal(table, axis1=1, axis2=2)
    said = table.sum(axis=1) + table.sum(axis=2)
    f1 = np.divide(2 * hits, said, out=np.zeros_like(hits), where=said > 0)
    return f1[:, present].mean(axis=1)


def _share(metric: str, hits: Floats) -> Measure:
    """Return the mean of hits (0 to 1) with Wilson's interval."""
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


# --- for people --------------------------------------------------------------------------------------
def benchmark_table(rows: pl.DataFrame) -> str:
    """Return SENTIMENT_BENCHMARK rows as a Markdown table, a line for each set and scorer."""
    shown = ["accuracy", "macro_f1", *(f"recall_{name}" for name in CLASSES), "calibration_error"]
    heads = ["accuracy", "macro-F1", "recall negative", "neutral", "positive", "calibration error"]
    lines = []
    for (dataset, scorer), group in rows.group_by("dataset", "scorer", maintain_order=True):
        found = {row["metric"]: row for row in group.iter_rows(named=True)}
        note = []
        if "accuracy_of_three" in found:
            three = found["accuracy_of_three"]["value"]
            note.append(f"two classes; its own choice of three is right in {three:.3f}")
        if found["left_out"]["value"]:
            note.append(f"{found['left_out']['value']:.1%} of the texts have different labels and are left out")
        cells = [_cell(found[metric]) for metric in shown]
        name = html.escape(str(dataset)).replace("|", "&#124;").replace("\n", " ")
        lines.append((name, scorer, f"{found['accuracy']['n']:,}", *cells, "; ".join(note)))
    return markdown_rows(("set", "scorer", "texts", *heads, "note"), lines)


def _cell(row: dict[str, object]) -> str:
    if row["value"] is None:
        return "–"
    return f"{row['value']:.3f} ({row['lower']:.3f}–{row['upper']:.3f})"
