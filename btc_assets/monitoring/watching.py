"""One day's champion, watched: what it was trained on, what it sees now, and what became of its forecasts."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import date, timedelta
from functools import cached_property

import polars as pl

from btc_assets.clock import midnight
from btc_assets.forecasting.forecasts import Models
from btc_assets.learning.missingness import LOOK_BACK_DAYS, hours_lost
from btc_assets.monitoring import degradation, drift
from btc_assets.monitoring.tables import DRIFT_REPORT

ALARM_HOURS = 24
"""Newest hours within which a broken promise is an alarm of the day."""


@dataclass(frozen=True)
class Watch:
    """Everything a drift report of one day looks at.

    Attributes:
        day: the day reported on; nothing after it is seen.
        version: registry version of the champion of its newest hour.
        cutoff: of that champion.
        features: of that champion.
        reference: its training window, a column a feature, in time order.
        current: the last days up to the day, likewise.
        p_up_before: its P(up) of 1 h before those days, one column.
        p_up_now: its P(up) of 1 h in those days.
        made: FORECASTS rows of its own 1 h forecasts in those days.
        recent: HOURLY_FEATURES rows of those days and of `missingness.LOOK_BACK_DAYS` before them.
        outcomes: FORECAST_OUTCOMES rows of the champions' 1 h forecasts, known by the end of the day.
        mean_days: least mean time to a false alarm of a sequential test, days.
    """

    day: date
    version: int
    cutoff: date
    features: tuple[str, ...]
    reference: pl.DataFrame
    current: pl.DataFrame
    p_up_before: pl.DataFrame
    p_up_now: pl.DataFrame
    made: pl.DataFrame
    recent: pl.DataFrame
    outcomes: pl.DataFrame
    mean_days: int

    @cached_property
    def inputs(self) -> list[drift.FeatureDrift]:
        """How each feature, and P(up), moved."""
        return [
            *drift.input_drift(self.reference, self.current, self.features),
            *drift.input_drift(self.p_up_before, self.p_up_now, ["p_up"]),
        ]

    @cached_property
    def promises(self) -> list[degradation.Evidence]:
        """Whether calibration, coverage and log-loss still hold."""
        return degradation.watch(self.outcomes, alarm_hours=ALARM_HOURS, mean_hours=24.0 * self.mean_days)

    @cached_property
    def lost(self) -> dict[str, int]:
        """In how many of the last hours each input was missing beyond what the champion saw in training."""
        return hours_lost(self.made, self.recent)

    @property
    def rows(self) -> pl.DataFrame:
        """DRIFT_REPORT rows of the day."""
        moved = drift.drift_rows(self.inputs, day=self.day, version=self.version, cutoff=self.cutoff)
        broken = degradation.concept_rows(self.promises, day=self.day, version=self.version, cutoff=self.cutoff)
        lost = drift.lost_rows(self.lost, n=self.made.height, day=self.day, version=self.version, cutoff=self.cutoff)
        return pl.concat([moved, broken, lost]).sort(DRIFT_REPORT.key)


def watch_day(
    day: date,
    *,
    features: pl.DataFrame,
    forecasts: pl.DataFrame,
    outcomes: pl.DataFrame,
    models: Models,
    window_days: int,
    drift_days: int,
    watch_days: int,
    mean_days: int,
) -> Watch | None:
    """Gather what the drift report of a day looks at; None where no champion forecast the day.

    Args:
        day: the day.
        features: HOURLY_FEATURES rows, reaching back to the champion's training window.
        forecasts: FORECASTS rows of the champions for 1 h.
        outcomes: FORECAST_OUTCOMES rows of the champions for 1 h.
        models: where the champion's feature names come from.
        window_days: length of a training window, days.
        drift_days: trailing days that are compared with it.
        watch_days: trailing days of outcomes that are watched.
        mean_days: least mean time to a false alarm of a sequential test, days.
    """
    start, end = midnight(day - timedelta(days=drift_days - 1)), midnight(day + timedelta(days=1))
    at = pl.col("open_time")
    made = forecasts.filter(at.is_between(end - timedelta(days=watch_days), end, "left")).sort("open_time")
    own = made.filter(at >= midnight(day))
    if own.is_empty():
        return None
    version, cutoff = own["model_version"][-1], own["model_cutoff"][-1]
    trained = midnight(cutoff)
    known = outcomes.filter((pl.col("known_at") <= end) & (pl.col("known_at") > end - timedelta(days=watch_days)))
    return Watch(
        day=day,
        version=version,
        cutoff=cutoff,
        features=models.load(version).features,
        reference=features.filter(at.is_between(trained - timedelta(days=window_days), trained, "left")),
        current=features.filter(at.is_between(start, end, "left")),
        p_up_before=made.filter(at < start).select("p_up"),
        p_up_now=made.filter(at >= start).select("p_up"),
        made=made.filter((at >= start) & (pl.col("model_version") == version)),
        recent=features.filter(at.is_between(start - timedelta(days=LOOK_BACK_DAYS), end, "left")),
        outcomes=known,
        mean_days=mean_days,
    )
