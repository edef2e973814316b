"""The training data of a cutoff day: its window, members, inputs, rows, parameters and seeds."""

from collections.abc import Mapping
from datetime import date, timedelta
from typing import Any

import dagster as dg
import polars as pl

from btc_assets.clock import midnight
from btc_assets.digest import digest
from btc_assets.learning import folds, missingness, training, volatility
from btc_assets.learning.families.protocol import Parameters
from btc_assets.learning.families.registry import family
from btc_assets.learning.members import Member, all_features, known_features, recipe
from btc_assets.learning.training import Trainee
from btc_assets.partitions import days_before
from btc_assets.settings import settings
from btc_assets.vocabulary import EVERY_HORIZON, PRIMARY, SUB_HOUR

ENOUGH = 0.9
"""Share of the newest hours that must have a label of `SUB_HOUR` minutes for a model to have this horizon."""


def window_of(table: str) -> dg.AssetIn:
    """Read a table's partitions of the longest window: the days before the cutoff, without the cutoff day."""
    return dg.AssetIn(key=table.split("/"), partition_mapping=days_before(settings().window_days, and_today=False))


def recent_window_of(table: str) -> dg.AssetIn:
    """Read a table's partitions of the newest `Settings.recent_days` before the cutoff."""
    return dg.AssetIn(key=table.split("/"), partition_mapping=days_before(settings().recent_days, and_today=False))


def same_cutoff(table: str) -> dg.AssetIn:
    """Read a table's partition of the same cutoff."""
    return dg.AssetIn(key=table.split("/"))


def members() -> tuple[Member, ...]:
    """Return the members and heads of this deployment."""
    config = settings()
    return recipe({key: family(key).name for key in config.family_names}, longest_days=config.window_days)


def known_inputs(features: pl.DataFrame, cutoff: date) -> tuple[str, ...]:
    """Return the features of the members and of the volatility model with values before a cutoff."""
    names = dict.fromkeys((*all_features(members(), settings().feature_set), *volatility.COLUMNS))
    stored = [name for name in names if name in features.columns]
    return folds.features_with_values(features, stored, cutoff=cutoff, window_days=settings().window_days)


def training_inputs(features: pl.DataFrame, cutoff: date) -> tuple[str, ...]:
    """Return the features used in training: those with values in the window that are not gone at its end.

    The volatility model does without an input that is gone by itself.
    """
    known = known_inputs(features, cutoff)
    left_out = set(missingness.gone(features, known, cutoff=cutoff, window_days=settings().recent_days))
    return tuple(name for name in known if name not in left_out - set(volatility.COLUMNS))


def trainees(features: pl.DataFrame, cutoff: date, tuned: Mapping[tuple[str, int], Parameters]) -> list[Trainee]:
    """Return the members and heads that have something of their own to read, in one hour, ready to be fitted.

    Args:
        features: HOURLY_FEATURES rows of the longest window.
        cutoff: the cutoff.
        tuned: parameters by name of the family and horizon; others have the defaults of their family.
    """
    names = training_inputs(features, cutoff)
    ready = []
    for member in members():
        of = family(member.family)
        if of.lookback(tuned.get((of.name, PRIMARY), of.parameters())) > 1:
            continue
        known = folds.features_with_values(features, names, cutoff=cutoff, window_days=member.window_days)
        if own := known_features(member, settings().feature_set, known):
            parameters = {h: tuned.get((of.name, h), of.parameters()) for h in EVERY_HORIZON}
            ready.append(Trainee(member, of, own, parameters))
    return ready


def rows_by_horizon(
    features: pl.LazyFrame, labels: pl.LazyFrame, cutoff: date, names: tuple[str, ...], *, days: int
) -> dict[int, folds.Rows]:
    """Return the labelled rows of the `days` before a cutoff with the given inputs, by horizon in minutes.

    `SUB_HOUR` is left out unless the `Settings.recent_days` before the cutoff have enough of its labels.
    """
    wide, known = features.select("open_time", "available_at", *names).collect(), labels.collect()
    rows = {
        horizon: folds.labelled_rows(wide, known, cutoff=cutoff, horizon=horizon, window_days=days, names=names)
        for horizon in EVERY_HORIZON
    }
    recent = midnight(cutoff - timedelta(days=settings().recent_days)), midnight(cutoff)
    half_hours, hours = (len(rows[horizon].between(*recent)) for horizon in (SUB_HOUR, PRIMARY))
    if half_hours <= ENOUGH * hours:
        del rows[SUB_HOUR]
    return rows


def tuned_families(tuned: pl.DataFrame) -> dict[tuple[str, int], Any]:
    """Return the parameters of TUNED_PARAMETERS rows, by name of the family and horizon in minutes."""
    by_name = {of.name: of for of in map(family, settings().family_names)}
    return {
        (row["family"], row["horizon_minutes"]): by_name[row["family"]].parameters.from_json(row["parameters"])
        for row in tuned.iter_rows(named=True)
        if row["family"] in by_name
    }


def other_seeds() -> range:
    """Return the seeds of the additional fits that a verdict compares."""
    return range(settings().seed + 1, settings().seed + training.SEEDS)


def data_versions(**frames: pl.DataFrame) -> dict[str, str]:
    """Return tags with the content digests of the training data."""
    return {f"data_version.{name}": digest(frame) for name, frame in frames.items()}
