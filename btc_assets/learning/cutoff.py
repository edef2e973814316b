"""The training data of a cutoff day: its window, inputs, rows, parameters and seeds."""

from datetime import date

import dagster as dg
import polars as pl

from btc_assets.digest import digest
from btc_assets.features.catalog import FEATURE_SETS
from btc_assets.learning import folds, missingness, training
from btc_assets.learning.families.protocol import Parameters
from btc_assets.learning.families.registry import family
from btc_assets.partitions import days_before
from btc_assets.settings import settings
from btc_assets.vocabulary import HORIZONS

FAMILY = family("xgboost")
"""The family of the models."""


def window_of(table: str) -> dg.AssetIn:
    """Read a table's partitions of the training window: the days before the cutoff, without the cutoff day."""
    return dg.AssetIn(key=table.split("/"), partition_mapping=days_before(settings().window_days, and_today=False))


def same_cutoff(table: str) -> dg.AssetIn:
    """Read a table's partition of the same cutoff."""
    return dg.AssetIn(key=table.split("/"))


def known_inputs(features: pl.DataFrame, cutoff: date) -> tuple[str, ...]:
    """Return the features of the configured set with values in the window of a cutoff, and the scale feature."""
    chosen = FEATURE_SETS[settings().feature_set]
    names = chosen if training.SCALE_FEATURE in chosen else (*chosen, training.SCALE_FEATURE)
    return folds.features_with_values(
        features, names, cutoff=cutoff, window_days=settings().window_days, needed=training.SCALE_FEATURE
    )


def training_inputs(features: pl.DataFrame, cutoff: date) -> tuple[str, ...]:
    """Return the features used in training: those with values in the window that are not gone at its end."""
    known = known_inputs(features, cutoff)
    left_out = set(missingness.gone(features, known, cutoff=cutoff, window_days=settings().window_days))
    return tuple(name for name in known if name not in left_out - {training.SCALE_FEATURE})


def rows_by_horizon(
    features: pl.LazyFrame, labels: pl.LazyFrame, cutoff: date, names: tuple[str, ...]
) -> dict[int, folds.Rows]:
    """Return the labelled rows of a cutoff's window with the given inputs, by horizon in minutes."""
    wide, known = features.select("open_time", "available_at", *names).collect(), labels.collect()
    return {
        horizon: folds.labelled_rows(
            wide, known, cutoff=cutoff, horizon=horizon, window_days=settings().window_days, names=names
        )
        for horizon in HORIZONS
    }


def parameters_by_horizon(tuned: pl.DataFrame) -> dict[int, Parameters]:
    """Return the parameters of TUNED_PARAMETERS rows, by horizon in minutes."""
    return {
        row["horizon_minutes"]: FAMILY.parameters.from_json(row["parameters"]) for row in tuned.iter_rows(named=True)
    }


def other_seeds() -> range:
    """Return the seeds of the additional fits that a verdict compares."""
    return range(settings().seed + 1, settings().seed + training.SEEDS)


def data_versions(**frames: pl.DataFrame) -> dict[str, str]:
    """Return tags with the content digests of the training data."""
    return {f"data_version.{name}": digest(frame) for name, frame in frames.items()}
