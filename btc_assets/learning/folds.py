"""Training windows and walk-forward folds on a cutoff: who may learn from which hours.

The rule of the house is one line: a row may be learned from once its label is *known*. A model that
starts to forecast at time T therefore trains on rows with `known_at <= T`, that is
`open_time <= T - (horizon + 1) hours`. The same rule serves a cutoff and the start of every fold's test,
so the purge between train and test is always `horizon + 1` hours.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import date, datetime, timedelta

import numpy as np
import numpy.typing as npt
import polars as pl

from btc_assets.clock import HOUR, midnight
from btc_assets.learning.tables import CV_FOLDS


class NotEnoughHistoryError(ValueError):
    """A cutoff has too little labelled history behind it to learn from."""


@dataclass(frozen=True)
class Rows:
    """Labelled rows of one horizon, oldest first.

    Attributes:
        open_time: (n,) polars Datetime series, UTC.
        inputs: (n, f) float32; NaN where a feature is not known.
        log_return: (n,) float64, fraction.
        names: the f feature names, in column order.
    """

    open_time: pl.Series
    inputs: npt.NDArray[np.float32]
    log_return: npt.NDArray[np.float64]
    names: tuple[str, ...]

    def between(self, first: datetime, last: datetime) -> Rows:
        """Return the rows with first <= open_time <= last."""
        kept = ((self.open_time >= first) & (self.open_time <= last)).to_numpy()
        return Rows(self.open_time.filter(pl.Series(kept)), self.inputs[kept], self.log_return[kept], self.names)

    def column(self, name: str) -> npt.NDArray[np.float32]:
        """Return one feature, (n,)."""
        return self.inputs[:, self.names.index(name)]

    def __len__(self) -> int:
        """Return the number of rows."""
        return len(self.log_return)


def matrix(features: pl.DataFrame, names: Sequence[str]) -> npt.NDArray[np.float32]:
    """Return features as (n, f) float32 in the order of `names`, null as NaN."""
    values = features.select(pl.col(list(names)).cast(pl.Float32)).fill_null(float("nan")).to_numpy()
    return values.astype(np.float32).reshape(features.height, len(names))


def labelled_rows(
    features: pl.DataFrame,
    labels: pl.DataFrame,
    *,
    cutoff: date,
    horizon: int,
    window_days: int,
    names: Sequence[str],
) -> Rows:
    """Join features and labels of one horizon inside a cutoff's window.

    Args:
        features: HOURLY_FEATURES rows.
        labels: HOURLY_LABELS rows.
        cutoff: only labels known by its 00:00 UTC are used.
        horizon: hours ahead.
        window_days: days before the cutoff at which the window opens.
        names: the features to learn from.
    """
    end, start = midnight(cutoff), midnight(cutoff - timedelta(days=window_days))
    known = labels.lazy().filter(
        (pl.col("horizon_hours") == horizon)
        & (pl.col("known_at") <= end)
        & (pl.col("open_time") >= start)
        & pl.col("log_return").is_not_null()
    )
    joined = (
        known.select("open_time", "log_return")
        .join(features.lazy().filter(pl.col("available_at") <= end), on="open_time", how="inner")
        .sort("open_time")
        .collect()
    )
    return Rows(joined["open_time"], matrix(joined, names), joined["log_return"].to_numpy(), tuple(names))


def learnable(
    features: pl.DataFrame, names: Sequence[str], *, cutoff: date, window_days: int, needed: str
) -> tuple[str, ...]:
    """Return the features that hold a known value in a cutoff's window, in the order given.

    A source that was never gathered leaves its features unknown in every hour. A tree cannot learn from them, but
    they would take the place of others when it samples its columns.

    Args:
        features: HOURLY_FEATURES rows.
        names: the features asked for.
        cutoff: end of the window.
        window_days: length of the window in days.
        needed: a feature that is kept, known or not.
    """
    inside = features.lazy().filter(
        (pl.col("available_at") <= midnight(cutoff))
        & (pl.col("open_time") >= midnight(cutoff - timedelta(days=window_days)))
    )
    counts = inside.select(pl.col(list(names)).count()).collect().row(0, named=True)
    return tuple(name for name in names if counts[name] or name == needed)


def last_train_open_time(test_start: datetime, horizon: int) -> datetime:
    """Return the newest open_time whose label is known when a test, or a cutoff, starts."""
    return test_start - (horizon + 1) * HOUR


def make_folds(rows: dict[int, Rows], *, cutoff: date, window_days: int, n_folds: int, test_days: int) -> pl.DataFrame:
    """Lay out expanding walk-forward folds over the newest `n_folds * test_days` days before a cutoff.

    Args:
        rows: labelled rows by horizon.
        cutoff: end of the window.
        window_days: length of the window in days.
        n_folds: number of folds.
        test_days: days each fold is tested on.

    Returns:
        CV_FOLDS rows, by horizon and fold, the oldest fold first.

    Raises:
        NotEnoughHistoryError: a fold would be left without rows to train or to test on.
    """
    records = []
    for horizon, known in sorted(rows.items()):
        for fold in range(n_folds):
            test_start = midnight(cutoff - timedelta(days=(n_folds - fold) * test_days))
            test_end = min(
                test_start + timedelta(days=test_days) - HOUR, last_train_open_time(midnight(cutoff), horizon)
            )
            train_start = midnight(cutoff - timedelta(days=window_days))
            train_end = last_train_open_time(test_start, horizon)
            train, test = known.between(train_start, train_end), known.between(test_start, test_end)
            if len(train) < MIN_TRAIN_ROWS or not len(test):
                raise NotEnoughHistoryError(
                    f"cutoff {cutoff}, {horizon} h, fold {fold}: {len(train)} labelled hours to train on and "
                    f"{len(test)} to test on; at least {MIN_TRAIN_ROWS} and 1 are needed. Materialise prices, "
                    f"features and labels from {train_start:%Y-%m-%d} to {cutoff} first"
                )
            records.append(
                {
                    "cutoff": cutoff,
                    "horizon_hours": horizon,
                    "fold": fold,
                    "train_start": train.open_time[0],
                    "train_end": train.open_time[-1],
                    "test_start": test.open_time[0],
                    "test_end": test.open_time[-1],
                    "purge_hours": int((test.open_time[0] - train.open_time[-1]) / HOUR),
                    "n_train": len(train),
                    "n_test": len(test),
                }
            )
    return pl.DataFrame(records, schema=CV_FOLDS.columns)


MIN_TRAIN_ROWS = 24 * 30
"""Fewest labelled hours a fold may train on: a month."""


def split(rows: Rows, fold: dict[str, datetime]) -> tuple[Rows, Rows]:
    """Return the (train, test) rows of one CV_FOLDS record."""
    return (
        rows.between(fold["train_start"], fold["train_end"]),
        rows.between(fold["test_start"], fold["test_end"]),
    )
