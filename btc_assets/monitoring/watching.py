"""Collect the data of a day's drift report: the champion's training window, current inputs and outcomes."""

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
"""Newest hours in which a broken promise is an alarm of the day."""


@dataclass(frozen=True)
class Watch:
    """The data of one day's drift report.

    Attributes:
        day: day of the report; no later data is used.
        version: registry version of the champion of its newest hour.
        cutoff: of that champion.
        features: of that champion.
        reference: HOURLY_FEATURES rows of its training window, in time order.
        current: HOURLY_FEATURES rows of the last `drift_days` days, in time order.
        p_up_before: P(up) of the 60 min forecasts before those days, one column.
        p_up_now: P(up) of the 60 min forecasts in those days, one column.
        made: FORECASTS rows of its own 60 min forecasts in those days.
        recent: HOURLY_FEATURES rows of those days and of the `missingness.LOOK_BACK_DAYS` days before them.
        outcomes: FORECAST_OUTCOMES rows of the champions' 60 min forecasts, known by the end of the day.
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
        """The drift of each feature and of P(up)."""
        return [
            *drift.input_drift(self.reference, self.current, self.features),
            *drift.input_drift(self.p_up_before, self.p_up_now, ["p_up"]),
        ]

    @cached_property
    def promises(self) -> list[degradation.Evidence]:
        """The test results of calibration, coverage and log-loss."""
        return degradation.watch(self.outcomes, alarm_hours=ALARM_HOURS, mean_hours=24.0 * self.mean_days)

    @cached_property
    def lost(self) -> dict[str, int]:
        """The number of recent hours in which each input was missing more than in the champion's training."""
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
    """Collect the data of a day's drift report; None if no champion forecast that day.

    Args:
        day: the day.
        features: HOURLY_FEATURES rows from the start of the champion's training window on.
        forecasts: FORECASTS rows of the champions for 1 h.
        outcomes: FORECAST_OUTCOMES rows of the champions for 1 h.
        models: loads the champion for its feature names.
        window_days: length of a training window, days.
        drift_days: trailing days that are compared with the training window.
        watch_days: trailing days of outcomes that are tested.
        mean_days: least mean time to a false alarm of a sequential test, days.
    """
    start, end = midnight(day - timedelta(days=drift_days - 1)), midnight(day + timedelta(days=1))
    open_time = pl.col("open_time")
    made = forecasts.filter(open_time.is_between(end - timedelta(days=watch_days), end, "left")).sort("open_time")
    champion_rows = made.filter(open_time >= midnight(day))
    if champion_rows.is_empty():
        return None
    version, cutoff = champion_rows["model_version"][-1], champion_rows["model_cutoff"][-1]
    trained = midnight(cutoff)
    known = outcomes.filter((pl.col("known_at") <= end) & (pl.col("known_at") > end - timedelta(days=watch_days)))
    return Watch(
        day=day,
        version=version,
        cutoff=cutoff,
        features=models.load(version).features,
        reference=features.filter(open_time.is_between(trained - timedelta(days=window_days), trained, "left")),
        current=features.filter(open_time.is_between(start, end, "left")),
        p_up_before=made.filter(open_time < start).select("p_up"),
        p_up_now=made.filter(open_time >= start).select("p_up"),
        made=made.filter((open_time >= start) & (pl.col("model_version") == version)),
        recent=features.filter(open_time.is_between(start - timedelta(days=LOOK_BACK_DAYS), end, "left")),
        outcomes=known,
        mean_days=mean_days,
    )
