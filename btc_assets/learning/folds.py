"""Training windows and walk-forward folds of a cutoff.

A row may be used in training once its label is *known*. A model that starts to forecast at time T trains on rows with
`known_at <= T`, that is `open_time <= T - 1 h - horizon`. The same rule applies to a cutoff and to the start of
every fold's test, so the purge between training and test is always the horizon plus one hour.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from datetime import date, datetime, timedelta

import numpy as np
import numpy.typing as npt
import polars as pl

from btc_assets.clock import HOUR, midnight
from btc_assets.learning.tables import CV_FOLDS
from btc_assets.vocabulary import display, hours_spanned


class NotEnoughHistoryError(ValueError):
    """A cutoff has too little labelled history for training."""


@dataclass(frozen=True)
class History:
    """Every hour that a sequence can read, oldest first, whether it has a label or not.

    Attributes:
        hours: (m,) int64, hours since 1970 of `open_time`, each once.
        inputs: (m, f) float32; NaN where a feature is unknown.
        names: the f feature names, in column order.
    """

    hours: npt.NDArray[np.int64]
    inputs: npt.NDArray[np.float32]
    names: tuple[str, ...]


@dataclass(frozen=True)
class Rows:
    """Labelled rows of one horizon, oldest first.

    Attributes:
        open_time: (n,) polars Datetime series, UTC.
        inputs: (n, f) float32; NaN where a feature is unknown.
        log_return: (n,) float64, fraction.
        names: the f feature names, in column order.
        history: the hours that `sequences` reads; without it, those of the rows.
    """

    open_time: pl.Series
    inputs: npt.NDArray[np.float32]
    log_return: npt.NDArray[np.float64]
    names: tuple[str, ...]
    history: History | None = None

    def between(self, first: datetime, last: datetime) -> Rows:
        """Return the rows with first <= open_time <= last."""
        selected = ((self.open_time >= first) & (self.open_time <= last)).to_numpy()
        return replace(
            self,
            open_time=self.open_time.filter(pl.Series(selected)),
            inputs=self.inputs[selected],
            log_return=self.log_return[selected],
        )

    def select(self, names: Sequence[str]) -> Rows:
        """Return the rows with some of the features, in the given order."""
        columns = [self.names.index(name) for name in names]
        return replace(self, inputs=np.ascontiguousarray(self.inputs[:, columns]), names=tuple(names))

    def sequences(self, lookback: int) -> npt.NDArray[np.float32]:
        """Return the features of the `lookback` hours up to each row's own, (n, lookback * f), oldest first.

        A missing hour is NaN in all features; no other hour takes its place.
        """
        if lookback == 1:
            return self.inputs
        own = hours_of(self.open_time)
        history = self.history or History(own, self.inputs, self.names)
        columns = [history.names.index(name) for name in self.names]
        blocks = []
        for back in range(lookback - 1, 0, -1):
            places = np.minimum(np.searchsorted(history.hours, own - back), len(history.hours) - 1)
            block = history.inputs[places[:, None], columns]
            block[history.hours[places] != own - back] = np.nan
            blocks.append(block)
        return np.hstack([*blocks, self.inputs])

    def column(self, name: str) -> npt.NDArray[np.float32]:
        """Return one feature, (n,)."""
        return self.inputs[:, self.names.index(name)]

    def __len__(self) -> int:
        """Return the number of rows."""
        return len(self.log_return)


def hours_of(open_time: pl.Series) -> npt.NDArray[np.int64]:
    """Return the hours since 1970 of times on the hour, (n,)."""
    return open_time.dt.epoch("s").to_numpy() // 3600


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
        cutoff: only labels known at its 00:00 UTC are used.
        horizon: minutes ahead.
        window_days: length of the window in days.
        names: the features to use.
    """
    end, start = midnight(cutoff), midnight(cutoff - timedelta(days=window_days))
    known = labels.lazy().filter(
        (pl.col("horizon_minutes") == horizon)
        & (pl.col("known_at") <= end)
        & (pl.col("open_time") >= start)
        & pl.col("log_return").is_not_null()
    )
    available = features.lazy().filter((pl.col("available_at") <= end) & (pl.col("open_time") >= start))
    joined = (
        available.join(known.select("open_time", "log_return"), on="open_time", how="left").sort("open_time").collect()
    )
    inputs, labelled = matrix(joined, names), joined["log_return"].is_not_null()
    return Rows(
        joined["open_time"].filter(labelled),
        inputs[labelled.to_numpy()],
        joined["log_return"].drop_nulls().to_numpy(),
        tuple(names),
        History(hours_of(joined["open_time"]), inputs, tuple(names)),
    )


def features_with_values(
    features: pl.DataFrame, names: Sequence[str], *, cutoff: date, window_days: int
) -> tuple[str, ...]:
    """Return the features with at least one value in a cutoff's window, in the given order.

    A source that was never gathered leaves its features null in every hour. A tree cannot split on them, but they would
    displace other features when it samples columns.

    Args:
        features: HOURLY_FEATURES rows.
        names: the candidate features.
        cutoff: end of the window.
        window_days: length of the window in days.
    """
    inside = features.lazy().filter(
        (pl.col("available_at") <= midnight(cutoff))
        & (pl.col("open_time") >= midnight(cutoff - timedelta(days=window_days)))
    )
    counts = inside.select(pl.col(list(names)).count()).collect().row(0, named=True)
    return tuple(name for name in names if counts[name])


def last_train_open_time(test_start: datetime, horizon: int) -> datetime:
    """Return the newest open_time whose label is known at the start of a test, or at a cutoff."""
    hours = hours_spanned(horizon) + 1  # bars open on the hour
    return test_start - hours * HOUR


def make_folds(rows: dict[int, Rows], *, cutoff: date, window_days: int, n_folds: int, test_days: int) -> pl.DataFrame:
    """Create expanding walk-forward folds over the last `n_folds * test_days` days before a cutoff.

    Args:
        rows: labelled rows by horizon.
        cutoff: end of the window.
        window_days: length of the window in days.
        n_folds: number of folds.
        test_days: length of each test in days.

    Returns:
        CV_FOLDS rows ordered by horizon and fold, oldest fold first.

    Raises:
        NotEnoughHistoryError: a fold has too few rows for training or none for its test.
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
                    f"cutoff {cutoff}, {display(horizon)}, fold {fold}: {len(train)} labelled hours to train on and "
                    f"{len(test)} to test on; at least {MIN_TRAIN_ROWS} and 1 are needed. Materialise prices, "
                    f"features and labels from {train_start:%Y-%m-%d} to {cutoff} first"
                )
            records.append(
                {
                    "cutoff": cutoff,
                    "horizon_minutes": horizon,
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
"""Minimum number of labelled training hours of a fold: 30 days."""


def split(rows: Rows, fold: dict[str, datetime]) -> tuple[Rows, Rows]:
    """Return the (train, test) rows of one CV_FOLDS record."""
    return (
        rows.between(fold["train_start"], fold["train_end"]),
        rows.between(fold["test_start"], fold["test_end"]),
    )
