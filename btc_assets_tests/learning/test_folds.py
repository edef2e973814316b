"""The hours of training and test rows."""

from __future__ import annotations

from datetime import UTC, date, datetime, timedelta

import numpy as np
import polars as pl
import pytest
from hypothesis import given
from hypothesis import strategies as st

from btc_assets.clock import midnight
from btc_assets.learning.folds import (
    NotEnoughHistoryError,
    Rows,
    features_with_values,
    labelled_rows,
    make_folds,
    split,
)
from btc_assets.learning.tables import CV_FOLDS
from btc_assets.vocabulary import EVERY_HORIZON
from btc_assets_tests.learning.conftest import CUTOFF, signal_rows

HOUR = timedelta(hours=1)


def folds_of(rows: dict[int, Rows], n_folds: int = 3, test_days: int = 14) -> pl.DataFrame:
    return make_folds(rows, cutoff=CUTOFF, window_days=120, n_folds=n_folds, test_days=test_days)


def test_folds_satisfy_their_contract(rows: dict[int, Rows]) -> None:
    assert CV_FOLDS.faults(folds_of(rows)) == []


@given(n_folds=st.integers(1, 4), test_days=st.integers(3, 14), horizon=st.sampled_from(EVERY_HORIZON))
def test_every_training_label_is_known_at_the_start_of_the_test(n_folds: int, test_days: int, horizon: int) -> None:
    layout = folds_of({horizon: signal_rows(horizon=horizon)}, n_folds, test_days)
    for fold in layout.iter_rows(named=True):
        assert fold["train_end"] + timedelta(minutes=horizon + 60) <= fold["test_start"]


def test_tests_are_consecutive_and_end_with_the_last_known_label(rows: dict[int, Rows]) -> None:
    layout = folds_of(rows).filter(pl.col("horizon_minutes") == 1440).sort("fold")
    assert (layout["test_start"].diff().drop_nulls() == timedelta(days=14)).all()
    assert layout["test_end"][-1] == midnight(CUTOFF) - 25 * HOUR


def test_train_and_test_share_no_row(rows: dict[int, Rows]) -> None:
    for fold in folds_of(rows).iter_rows(named=True):
        train, test = split(rows[fold["horizon_minutes"]], fold)
        assert train.open_time.max() < test.open_time.min()  # type: ignore[operator]
        assert (len(train), len(test)) == (fold["n_train"], fold["n_test"])


def test_the_error_of_too_little_history_names_what_to_materialise(rows: dict[int, Rows]) -> None:
    short = {60: rows[60].between(midnight(CUTOFF - timedelta(days=10)), midnight(CUTOFF))}
    with pytest.raises(NotEnoughHistoryError, match="Materialise prices, features and labels from 2018-02-04"):
        folds_of(short)


def frames(hours: int = 72, horizon: int = 240) -> tuple[pl.DataFrame, pl.DataFrame]:
    times = pl.datetime_range(
        midnight(date(2018, 1, 1)), midnight(date(2018, 1, 1)) + (hours - 1) * HOUR, "1h", eager=True, time_unit="us"
    )
    features = pl.DataFrame({"open_time": times, "x": range(hours)}).with_columns(
        available_at=pl.col("open_time").dt.offset_by("1h"), x=pl.col("x").cast(pl.Float64)
    )
    labels = pl.DataFrame({"open_time": times, "log_return": [0.01] * hours}).with_columns(
        horizon_minutes=pl.lit(horizon, dtype=pl.Int64),
        known_at=pl.col("open_time") + pl.duration(minutes=horizon + 60),
    )
    return features, labels


def rows_at(day: date, features: pl.DataFrame, labels: pl.DataFrame) -> Rows:
    return labelled_rows(features, labels, cutoff=day, horizon=240, window_days=30, names=["x"])


def test_labels_unknown_at_the_cutoff_are_not_used() -> None:
    rows = rows_at(date(2018, 1, 3), *frames())
    assert rows.open_time.max() == datetime(2018, 1, 2, 19, tzinfo=rows.open_time[0].tzinfo)


def test_data_after_the_cutoff_changes_no_training_row() -> None:
    features, labels = frames()
    clean = rows_at(date(2018, 1, 3), features, labels)
    late = pl.col("available_at") > midnight(date(2018, 1, 3))
    poisoned = features.with_columns(x=pl.when(late).then(1e9).otherwise("x"))
    spoilt = labels.with_columns(
        log_return=pl.when(pl.col("known_at") > midnight(date(2018, 1, 3))).then(-1e9).otherwise("log_return")
    )
    other = rows_at(date(2018, 1, 3), poisoned, spoilt)
    assert clean.inputs.tobytes() == other.inputs.tobytes()
    assert clean.log_return.tobytes() == other.log_return.tobytes()


def test_a_label_across_a_gap_is_not_used() -> None:
    features, labels = frames()
    holed = labels.with_columns(
        log_return=pl.when(pl.col("open_time").dt.hour() == 3).then(None).otherwise("log_return")
    )
    assert 3 not in rows_at(date(2018, 1, 3), features, holed).open_time.dt.hour().to_list()


def test_a_feature_without_values_is_not_used() -> None:
    cutoff = date(2018, 3, 1)
    hours = pl.datetime_range(
        datetime(2018, 2, 1, tzinfo=UTC), datetime(2018, 3, 1, 5, tzinfo=UTC), "1h", eager=True, time_unit="us"
    )
    frame = pl.DataFrame({"open_time": hours}).with_columns(
        (pl.col("open_time") + timedelta(hours=1)).alias("available_at"),
        pl.lit(1.0).alias("known"),
        pl.lit(None, dtype=pl.Float64).alias("never"),
        pl.when(pl.col("open_time") >= datetime(2018, 3, 1, tzinfo=UTC)).then(2.0).alias("after_the_cutoff"),
        pl.when(pl.col("open_time") < datetime(2018, 2, 2, tzinfo=UTC)).then(3.0).alias("before_the_window"),
        pl.lit(None, dtype=pl.Float64).alias("scale"),
    )
    names = ("never", "known", "after_the_cutoff", "before_the_window", "scale")
    assert features_with_values(frame, names, cutoff=cutoff, window_days=14) == ("known",)
    assert "before_the_window" in features_with_values(frame, names, cutoff=cutoff, window_days=60)


def hourly(hours: list[int]) -> tuple[pl.DataFrame, pl.DataFrame]:
    """Return features with the number of the hour, and labels of 60 min, for some hours before CUTOFF."""
    features = pl.DataFrame({"open_time": [midnight(CUTOFF) + (hour - 10) * HOUR for hour in hours], "hour": hours})
    labels = features.select(
        "open_time",
        horizon_minutes=60,
        known_at=pl.col("open_time") + 2 * HOUR,
        log_return=pl.when(pl.col("hour") != 3).then(0.01),
    )
    return features.with_columns(available_at=pl.col("open_time") + HOUR), labels


def read(hours: list[int]) -> Rows:
    return labelled_rows(*hourly(hours), cutoff=CUTOFF, horizon=60, window_days=1, names=("hour",))


def test_a_sequence_has_the_hours_before_oldest_first_and_a_gap_where_one_is_missing() -> None:
    """Hour 5 is missing, and hour 3 has no label, which says nothing about its features."""
    rows = read([2, 3, 4, 6, 7])
    missing = float("nan")
    expected = [[missing, missing, 2], [2, 3, 4], [4, missing, 6], [missing, 6, 7]]
    assert np.array_equal(rows.sequences(3), np.array(expected, dtype=np.float32), equal_nan=True)
    assert np.array_equal(rows.sequences(1), rows.inputs)


def test_a_sequence_reaches_back_over_the_start_of_the_rows_and_never_forward() -> None:
    rows, test_start = read([2, 3, 4, 6, 7]), midnight(CUTOFF) - 4 * HOUR
    test = rows.between(test_start, midnight(CUTOFF)).select(("hour",))
    assert np.array_equal(test.sequences(3), rows.sequences(3)[2:], equal_nan=True)
    assert np.array_equal(read([2, 3, 4]).sequences(3), rows.sequences(3)[:2], equal_nan=True)
