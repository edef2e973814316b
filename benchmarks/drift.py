"""Evaluate the drift report on a real history: its false-alarm rate, and its delay for planted changes.

    python -m benchmarks.drift [--first 2023-01-02] [--last 2025-07-31] [--plants 60] [--out docs/drift.md]

The lake and the registry of the `BTC_*` settings must contain the features, forecasts and outcomes of a walk-forward.
Every report uses the functions of `monitoring/drift_report` on the same rows. A plant changes one feature, or the
forecasts, from a random hour on. The reports of the following days are recomputed, and an alarm counts only if the
report of the same day without the plant has none. Forecasts are not recomputed from planted features. The same lake,
settings and seed give the same document.
"""

from __future__ import annotations

import argparse
import math
import sys
import textwrap
import time
import warnings
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from datetime import date, datetime, timedelta
from functools import partial
from importlib.metadata import version
from pathlib import Path
from typing import TypeVar

import numpy as np
import polars as pl

from btc_assets.clock import HOUR, midnight
from btc_assets.features.tables import HOURLY_FEATURES
from btc_assets.forecasting.forecasts import Models, Predictor
from btc_assets.forecasting.tables import FORECAST_OUTCOMES, FORECASTS
from btc_assets.lake import Lake
from btc_assets.learning.registry import ModelRegistry, RegistryError
from btc_assets.markdown import markdown_rows
from btc_assets.monitoring import drift
from btc_assets.monitoring.watching import Watch, watch_day
from btc_assets.settings import PROJECT_ROOT, Settings, settings
from btc_assets.vocabulary import CHAMPION, PRIMARY, QUANTILE_NAMES

T = TypeVar("T")
R = TypeVar("R")

DAY = timedelta(days=1)
WITHIN_DAYS = (7, 14, 30)
"""Days within which the detection of a plant is counted; later reports are not computed."""
PROMISES = ("calibration", "coverage_90", "log_loss")
EVIDENTLY_SHARE = 0.5
"""Share of drifted columns from which Evidently's default preset reports data set drift."""
_CERTAINTY = 0.95


class DriftHistoryError(RuntimeError):
    """The lake has no usable history for the evaluation."""


@dataclass(frozen=True)
class Plan:
    """The size of the evaluation.

    Attributes:
        plants: number of positions at which each kind of change is planted.
        peer_days: number of days on which Evidently is run too.
        seed: seed of the positions, columns and days.
    """

    plants: int = 60
    peer_days: int = 30
    seed: int = 7


@dataclass
class History:
    """The stored history of the drift reports, see `watch_day`.

    Attributes:
        features: HOURLY_FEATURES rows, in time order.
        forecasts: FORECASTS rows of the champions for 1 h.
        outcomes: FORECAST_OUTCOMES rows of the champions for 1 h.
        models: loads the champions.
        config: settings with windows and bounds.
    """

    features: pl.DataFrame
    forecasts: pl.DataFrame
    outcomes: pl.DataFrame
    models: Models
    config: Settings
    _models: dict[int, Predictor] = field(default_factory=dict)
    _references: dict[tuple[int, str], drift.Reference] = field(default_factory=dict)

    def load(self, version: int) -> Predictor:
        """Load a model, with a cache: each is used on many days."""
        if version not in self._models:
            self._models[version] = self.models.load(version)
        return self._models[version]

    def reference(self, watch: Watch, name: str) -> drift.Reference:
        """Return the reference of a feature in the window of the day's champion, with a cache."""
        key = (watch.version, name)
        if key not in self._references:
            self._references[key] = drift.Reference.of(name, drift.values_of(watch.reference, name))
        return self._references[key]

    @property
    def days(self) -> list[date]:
        """The days with forecasts, in order."""
        return self.forecasts["open_time"].dt.date().unique().sort().to_list()

    def watch(
        self, day: date, *, features: pl.DataFrame | None = None, outcomes: pl.DataFrame | None = None
    ) -> Watch | None:
        """Collect the data of a day's drift report, optionally with other features or outcomes."""
        return watch_day(
            day,
            features=self.features if features is None else features,
            forecasts=self.forecasts,
            outcomes=self.outcomes if outcomes is None else outcomes,
            models=self,
            window_days=self.config.window_days,
            drift_days=self.config.drift_days,
            watch_days=self.config.watch_days,
            mean_days=self.config.mean_days_to_false_alarm,
        )


@dataclass(frozen=True)
class Report:
    """The report of a day without plants.

    Attributes:
        names: features of the day's champion.
        inputs: drift of the features and of P(up).
        broken: broken promises.
    """

    names: tuple[str, ...]
    inputs: list[drift.FeatureDrift]
    broken: frozenset[str]

    @property
    def share(self) -> float:
        """Share of drifted inputs."""
        return sum(column.drifted for column in self.inputs) / len(self.inputs)


Reports = Mapping[date, Report]


@dataclass(frozen=True)
class PlantResult:
    """The detection of the plants of one kind.

    Attributes:
        delays: days from the first planted hour to the first report that detects it; infinite if none does.
        detected_by: broken promises in that first report, over all plants.
        visible: whether the changed feature of each plant is `visible`.
    """

    delays: list[float]
    detected_by: Counter[str] = field(default_factory=Counter)
    visible: list[bool] = field(default_factory=list)


@dataclass(frozen=True)
class Column:
    """A feature to change.

    Attributes:
        x: expression of the feature.
        mean: mean over the length of a training window before the change.
        sd: standard deviation over the same hours.
        last: last value before the change.
    """

    x: pl.Expr
    mean: float
    sd: float
    last: float


INPUT_CHANGES: Mapping[str, Callable[[Column], pl.Expr]] = {
    "mean shifted by 1 standard deviation": lambda of: of.x + of.sd,
    "mean shifted by 3 standard deviations": lambda of: of.x + 3 * of.sd,
    "standard deviation doubled": lambda of: of.mean + 2 * (of.x - of.mean),
    "standard deviation times four": lambda of: of.mean + 4 * (of.x - of.mean),
    "constant at its last value": lambda of: pl.lit(of.last, pl.Float64),
    "missing (null)": lambda _: pl.lit(None, pl.Float64),
    "sign flipped": lambda of: -of.x,
}
"""Changes of a feature by their name in the document."""

_LOG_ODDS = (pl.col("p_up").clip(1e-6, 1 - 1e-6) / (1 - pl.col("p_up").clip(1e-6, 1 - 1e-6))).log()


def _sharper(factor: float) -> list[pl.Expr]:
    return [(1 / (1 + (-factor * _LOG_ODDS).exp())).alias("p_up")]


def _narrower(factor: float) -> list[pl.Expr]:
    return [pl.col(name) * factor for name in QUANTILE_NAMES]


OUTCOME_CHANGES: Mapping[str, list[pl.Expr]] = {
    "P(up) flipped": [(1 - pl.col("p_up")).alias("p_up")],
    "P(up) of another hour (no information)": [pl.col("p_up").shuffle(seed=7)],
    "P(up) with doubled log-odds": _sharper(2),
    "P(up) with log-odds times four": _sharper(4),
    "P(up) ten points too high": [(pl.col("p_up") + 0.1).clip(0.01, 0.99)],
    "intervals a quarter too narrow": _narrower(0.75),
    "intervals half as wide": _narrower(0.5),
}
"""Changes of the forecasts by their name in the document."""


def read(config: Settings, first: date | None, last: date | None) -> History:
    """Read the history named by the settings.

    Args:
        config: settings with the location of the history.
        first: first forecast day; None for all.
        last: last forecast day; None for all.

    Raises:
        DriftHistoryError: a table is empty.
    """
    lake = Lake(root=config.lake_root)
    primary = (pl.col("role") == CHAMPION) & (pl.col("horizon_minutes") == PRIMARY)
    day = pl.col("open_time").dt.date()
    options = primary & (day >= (first or date.min)) & (day <= (last or date.max))
    forecasts, outcomes = (
        lake.scan(contract).filter(options).collect().sort(contract.key) for contract in (FORECASTS, FORECAST_OUTCOMES)
    )
    features = lake.scan(HOURLY_FEATURES).collect().sort("open_time")
    for contract, frame in ((FORECASTS, forecasts), (FORECAST_OUTCOMES, outcomes), (HOURLY_FEATURES, features)):
        if frame.is_empty():
            raise DriftHistoryError(f"no {contract.table} of a champion is stored; run the walk-forward first")
    registry = ModelRegistry(tracking_uri=config.tracking_uri, artifacts=str(config.mlflow_artifacts))
    return History(features, forecasts, outcomes, registry, config)


def reports(history: History) -> dict[date, Report]:
    """Compute the report of every day without plants.

    Raises:
        DriftHistoryError: the history is too short.
    """
    made = {
        day: one
        for day, one in zip(history.days, _each(history, partial(_report, history), history.days), strict=True)
        if one
    }
    least = history.config.drift_days + 2 * WITHIN_DAYS[-1]
    if len(made) < least:
        raise DriftHistoryError(
            f"{len(made)} days have forecasts of a champion and features of its training window; {least} are needed"
        )
    return made


def _report(history: History, day: date) -> Report | None:
    watch = history.watch(day)
    if watch is None or watch.reference.is_empty() or watch.current.is_empty():
        return None
    compared = [history.reference(watch, name).compare(drift.values_of(watch.current, name)) for name in watch.features]
    # As in `Watch.inputs`, with cached references.
    inputs = [*drift.flag_drifted(compared), *drift.input_drift(watch.p_up_before, watch.p_up_now, ["p_up"])]
    return Report(watch.features, inputs, frozenset(one.name for one in watch.promises if one.alarm))


def _each(history: History, function: Callable[[T], R], items: Iterable[T]) -> list[R]:
    """Apply a function to many items in threads: most of the work is numpy, which releases the interpreter lock."""
    with ThreadPoolExecutor(history.config.train_threads) as threads:
        return list(threads.map(function, items))


def starts(quiet: Reports, plan: Plan) -> list[datetime]:
    """Return random start hours of plants with enough following days."""
    days = sorted(quiet)
    rng = np.random.default_rng(plan.seed)
    last = days[-1] - WITHIN_DAYS[-1] * DAY
    eligible = [day for day in days[WITHIN_DAYS[-1] :] if day <= last]
    return [
        midnight(eligible[int(rng.integers(len(eligible)))]) + int(rng.integers(24)) * HOUR for _ in range(plan.plants)
    ]


def plant_in_inputs(history: History, quiet: Reports, plan: Plan) -> dict[str, PlantResult]:
    """Plant every change in a random feature at each position; measure the delays of detection."""
    rng = np.random.default_rng(plan.seed + 1)
    positions: list[tuple[datetime, str]] = []
    seen = []
    for start in starts(quiet, plan):
        known = _varying(_before(history.features, start, history.config.window_days), quiet[start.date()].names)
        positions.append((start, known[int(rng.integers(len(known)))]))
        watch = history.watch(start.date())
        assert watch is not None
        seen.append(visible(history.reference(watch, positions[-1][1]), history.config.drift_days))
    results = {}
    for name, change in INPUT_CHANGES.items():
        delays = _each(history, partial(_input_delay, history, quiet, change), positions)
        results[name] = PlantResult(delays, visible=seen)
    return results


def visible(reference: drift.Reference, days: int) -> bool:
    """Return whether any change of a feature is detectable in a number of days, by an extreme change."""
    beyond = np.full(24 * days, reference.known[-1] + 1)
    p_value = reference.compare(beyond).p_value
    return p_value is not None and p_value <= drift.FALSE_DISCOVERIES


def _before(features: pl.DataFrame, start: datetime, days: int) -> pl.DataFrame:
    """Return the rows of a number of days before an hour."""
    return features.filter(pl.col("open_time").is_between(start - days * DAY, start, "left"))


def _varying(window: pl.DataFrame, names: Sequence[str]) -> list[str]:
    """Return the features that have values and are not constant in a window."""
    spread = window.select(pl.col(names).std()).row(0, named=True)
    return [name for name in names if spread[name]]


def _input_delay(
    history: History, quiet: Reports, change: Callable[[Column], pl.Expr], position: tuple[datetime, str]
) -> float:
    """Return the days until a report flags a changed feature as drifted."""
    start, name = position
    at, x = pl.col("open_time"), pl.col(name)
    series = history.features.select("open_time", x.cast(pl.Float64))
    before = drift.values_of(_before(series, start, history.config.window_days), name)
    before = before[np.isfinite(before)]
    changed = change(Column(x, float(before.mean()), float(before.std()), float(before[-1])))
    planted = series.with_columns(pl.when(at >= start).then(changed).otherwise(x).alias(name))
    planted_history = replace(
        history, _references={}
    )  # a champion trained after the start has planted hours in its window
    for day, delay in _following(start):
        report = quiet.get(day)
        watch = history.watch(day, features=planted) if report else None
        if report is None or watch is None or name not in report.names:
            continue
        index = report.names.index(name)
        features = report.inputs[: len(report.names)]
        features[index] = planted_history.reference(watch, name).compare(drift.values_of(watch.current, name))
        if drift.flag_drifted(features)[index].drifted and not report.inputs[index].drifted:
            return delay
    return math.inf


def plant_in_outcomes(history: History, quiet: Reports, plan: Plan) -> dict[str, PlantResult]:
    """Plant every change in the forecasts at each position; measure the delay until a promise is broken."""
    results = {}
    for name, change in OUTCOME_CHANGES.items():
        detections = _each(history, partial(_outcome_delay, history, quiet, change), starts(quiet, plan))
        results[name] = PlantResult(
            [delay for delay, _ in detections], Counter(promise for _, by in detections for promise in by)
        )
    return results


def _outcome_delay(
    history: History, quiet: Reports, change: list[pl.Expr], start: datetime
) -> tuple[float, frozenset[str]]:
    """Return the days until a report has an additional broken promise, and the broken promises."""
    at = pl.col("open_time")
    near = history.outcomes.filter(
        at.is_between(start - (history.config.watch_days + 2) * DAY, start + (WITHIN_DAYS[-1] + 2) * DAY)
    )
    planted = pl.concat([near.filter(at < start), near.filter(at >= start).with_columns(change)])
    nothing = history.features.select("open_time").clear()  # promises do not use features
    for day, delay in _following(start):
        watch = history.watch(day, features=nothing, outcomes=planted) if day in quiet else None
        if watch is not None:
            broken = frozenset(promise.name for promise in watch.promises if promise.alarm) - quiet[day].broken
            if broken:
                return delay, broken
    return math.inf, frozenset()


def _following(start: datetime) -> list[tuple[date, float]]:
    """Return the days whose reports are within the counted time, with their delay after the start in days."""
    days = [start.date() + n * DAY for n in range(WITHIN_DAYS[-1] + 1)]
    delays = [(midnight(day + DAY) - start) / DAY for day in days]
    return [(day, delay) for day, delay in zip(days, delays, strict=True) if delay <= WITHIN_DAYS[-1]]


def evidently_shares(history: History, days: Sequence[date]) -> list[float]:
    """Return the daily share of the champion's features flagged as drifted by Evidently's default tests."""
    from evidently import DataDefinition, Dataset
    from evidently import Report as Page
    from evidently.metrics import DriftedColumnsCount

    shares = []
    for day in days:
        watch = history.watch(day)
        assert watch is not None
        known = [name for name in watch.features if watch.reference[name].count() and watch.current[name].count()]
        definition = DataDefinition(numerical_columns=known)
        before, now = (
            Dataset.from_pandas(frame.select(pl.col(known).cast(pl.Float64)).to_pandas(), data_definition=definition)
            for frame in (watch.reference, watch.current)
        )
        with warnings.catch_warnings(action="ignore"):  # Evidently correlates constant columns
            (counted,) = Page([DriftedColumnsCount()]).run(now, before).dict()["metrics"]
        shares.append(float(counted["value"]["count"]) / len(known))
    return shares


def share_with_interval(happened: Sequence[bool], *, max_independent: float = math.inf) -> str:
    """Return a share of days with its 95 % Wilson interval for the effective number of independent days.

    Args:
        happened: whether the event happened, per day.
        max_independent: maximum number of independent days.
    """
    from statsmodels.stats.proportion import proportion_confint

    series = np.asarray(happened, dtype=np.float64)
    independent = min(drift.effective_size(len(series), drift.rank_autocorrelation(series)), max_independent)
    low, high = proportion_confint(series.mean() * independent, independent, 1 - _CERTAINTY, method="wilson")
    return f"{series.mean():.1%} ({max(low, 0):.1%} to {min(high, 1):.1%})"


def median_with_interval(delays: Sequence[float]) -> str:
    """Return the median delay in days with its 95 % interval (order statistics); undetected plants count as later."""
    from scipy.stats import binom

    ranked, n = sorted(delays), len(delays)
    low, high = (int(binom.ppf(q, n, 0.5)) for q in ((1 - _CERTAINTY) / 2, (1 + _CERTAINTY) / 2))
    shown = [
        f"over {WITHIN_DAYS[-1]}" if math.isinf(value) else f"{value:.1f}"
        for value in (float(np.median(ranked)), ranked[max(low - 1, 0)], ranked[min(high, n - 1)])
    ]
    return f"{shown[0]} ({shown[1]} to {shown[2]})"


def document(history: History, plan: Plan) -> str:
    """Return the document.

    Raises:
        DriftHistoryError: the history is too short.
        RegistryError: a champion is not in the registry.
    """
    quiet = _timed("reports without plants", lambda: reports(history))
    days = sorted(quiet)
    rng = np.random.default_rng(plan.seed + 2)
    options = sorted(rng.choice(len(days), size=min(plan.peer_days, len(days)), replace=False).tolist())
    peer_days = [days[n] for n in options]
    peer = _timed("Evidently", lambda: evidently_shares(history, peer_days))
    inputs = _timed("plants in inputs", lambda: plant_in_inputs(history, quiet, plan))
    outcomes = _timed("plants in outcomes", lambda: plant_in_outcomes(history, quiet, plan))
    return "\n".join(
        [
            "# Evaluation of the drift report",
            "",
            *_setup(history, quiet, plan),
            *_quiet_table(quiet, history.config),
            *_peer_table(quiet, peer_days, peer, history.config),
            *_input_table(inputs, _visible_count(history, quiet), history.config),
            *_outcome_table(outcomes),
        ]
    )


def _setup(history: History, quiet: Reports, plan: Plan) -> list[str]:
    config = history.config
    return [
        _prose(
            """Written by `python -m benchmarks.drift`; do not edit. Daily reports of a walk-forward by the functions of
            `monitoring/drift_report` ([method](method.md#drift-and-degradation)): first without changes, then with
            planted changes."""
        ),
        "",
        f"- {len(quiet):,} days, {min(quiet)} to {max(quiet)}; {history.outcomes.height:,} outcomes of 1 h.",
        f"- Training windows of {config.window_days} days, the last {config.drift_days} compared with them;",
        f"  {config.watch_days} days of outcomes tested.",
        f"- {plan.plants} random hours for each kind of change, the same for all kinds (seed {plan.seed}).",
        "- In brackets: 95 % intervals. Shares of days use effective sample sizes; plants count as",
        "  independent, although some share days.",
        "",
    ]


def _quiet_table(quiet: Reports, config: Settings) -> list[str]:
    made = [quiet[day] for day in sorted(quiet)]
    apart = len(made) / config.drift_days
    lines = [
        "## Alarms without a plant",
        "",
        "An alarm here may be true, as real inputs drift. Share of days with an alarm:",
        "",
    ]
    rows = []
    for what, happened in (
        (f"{config.drift_share:.0%} of the inputs or more drifted", [one.share >= config.drift_share for one in made]),
        ("any input drifted", [one.share > 0 for one in made]),
    ):
        share = share_with_interval(happened, max_independent=apart)
        rows.append((what, f"{len(made):,}", sum(happened), share))
    for promise in PROMISES:
        broken = [promise in one.broken for one in made]
        rows.append((f"{promise} broken", f"{len(made):,}", sum(broken), share_with_interval(broken)))
    moved, days = np.array([one.share for one in made]), config.mean_days_to_false_alarm
    prose = f"""A report has {np.mean([len(one.inputs) for one in made]):.0f} inputs, of which {moved.mean():.1%} are
        flagged as drifted on average, {np.median(moved):.1%} in the median and {moved.max():.1%} at most. A promise
        that holds may be reported as broken on one day of {days:,}, {1 / days:.2%} of days."""
    return [*lines, markdown_rows(("alarm", "days", "alarmed", "share of days"), rows), "", _prose(prose), ""]


def _peer_table(quiet: Reports, days: Sequence[date], peer: Sequence[float], config: Settings) -> list[str]:
    ours = [
        sum(one.drifted for one in quiet[day].inputs[: len(quiet[day].names)]) / len(quiet[day].names) for day in days
    ]
    prose = f"""The same features, windows and {len(days)} random days, by the default tests of Evidently
        {version("evidently")} (for columns as long as these a normed Wasserstein distance of 0.1). Share of days on
        which"""
    rows = []
    for what, bound in (
        ("any feature is flagged as drifted", 1e-9),
        (f"{config.drift_share:.0%} of the features or more are", config.drift_share),
        (f"{EVIDENTLY_SHARE:.0%} or more are (Evidently's data set drift)", EVIDENTLY_SHARE),
    ):
        rows.append((what, *(share_with_interval([share >= bound for share in shares]) for shares in (ours, peer))))
    rows.append(("mean share of features flagged as drifted", f"{np.mean(ours):.1%}", f"{np.mean(peer):.1%}"))
    table = markdown_rows(("", "drift report", "Evidently, defaults"), rows)
    return ["## Comparison with Evidently", "", _prose(prose), "", table, ""]


_HEADINGS = ("planted", "n", *(f"within {days} days" for days in WITHIN_DAYS), "median delay, days")


def _visible_count(history: History, quiet: Reports) -> str:
    """Return the number of `visible` features of the newest champion."""
    watch = history.watch(max(quiet))
    assert watch is not None
    seen = [visible(history.reference(watch, name), history.config.drift_days) for name in watch.features]
    return f"{sum(seen)} of the {len(seen)} features of the newest champion"


def _input_table(inputs: Mapping[str, PlantResult], seen: str, config: Settings) -> list[str]:
    prose = f"""A random feature of the champion is changed from a random hour on; it is detected when a report flags
        the feature as drifted. The delay ends with the day of the report. A report compares the last
        {config.drift_days} days, so a change has its full effect after as many days. A highly autocorrelated feature
        has only a few independent values in that time, and no change of it can be significant; {config.drift_days} days
        can show a change of {seen}, and the last column counts only plants in such features. A flipped sign does not
        change the distribution of a symmetric feature. Undetected changes must show in the outcomes."""
    rows = []
    for name, result in inputs.items():
        shown = [delay for delay, seen_here in zip(result.delays, result.visible, strict=True) if seen_here]
        rows.append((name, *_cells(result), f"{_share(shown, WITHIN_DAYS[-1])} of {len(shown)}"))
    table = markdown_rows((*_HEADINGS, f"within {WITHIN_DAYS[-1]} days, detectable features"), rows)
    return ["## Planted in one input", "", _prose(prose), "", table, ""]


def _outcome_table(outcomes: Mapping[str, PlantResult]) -> list[str]:
    prose = """The forecasts are changed from a random hour on; the change is detected when a promise is broken, which
        requests a training. The last column counts the broken promises in the first report that detects the change."""
    rows = []
    for name, result in outcomes.items():
        detections = ", ".join(
            f"{promise} {result.detected_by[promise]}" for promise in PROMISES if result.detected_by[promise]
        )
        rows.append((name, *_cells(result), detections or "-"))
    return ["## Planted in the forecasts", "", _prose(prose), "", markdown_rows((*_HEADINGS, "detected by"), rows), ""]


def _prose(text: str) -> str:
    return textwrap.fill(" ".join(text.split()), 120)


def _cells(result: PlantResult) -> tuple[object, ...]:
    shares = (_share(result.delays, days) for days in WITHIN_DAYS)
    return len(result.delays), *shares, median_with_interval(result.delays)


def _share(delays: Sequence[float], days: int) -> str:
    from statsmodels.stats.proportion import proportion_confint

    if not delays:
        return "-"
    count, n = sum(delay <= days for delay in delays), len(delays)
    low, high = proportion_confint(count, n, 1 - _CERTAINTY, method="wilson")
    return f"{count / n:.0%} ({max(low, 0):.0%} to {min(high, 1):.0%})"


def _timed(what: str, make: Callable[[], R]) -> R:
    start_time = time.perf_counter()
    made = make()
    print(f"{what}: {time.perf_counter() - start_time:.0f} s", file=sys.stderr, flush=True)
    return made


def main(arguments: Sequence[str] | None = None) -> int:
    """Write and print the document; return 1 without a usable history."""
    description, _, notes = (__doc__ or "").partition("\n\n")
    parser = argparse.ArgumentParser(prog="python -m benchmarks.drift", description=description, epilog=notes)
    parser.add_argument("--first", type=date.fromisoformat, default=None, help="first forecast day, YYYY-MM-DD")
    parser.add_argument("--last", type=date.fromisoformat, default=None, help="last forecast day, YYYY-MM-DD")
    parser.add_argument("--plants", type=int, default=Plan.plants, help="positions of each kind of change")
    parser.add_argument("--peer-days", type=int, default=Plan.peer_days, help="days on which Evidently is run")
    parser.add_argument("--out", type=Path, default=PROJECT_ROOT / "docs" / "drift.md")
    options = parser.parse_args(arguments)
    config = settings()
    plan = replace(Plan(), plants=options.plants, peer_days=options.peer_days)
    try:
        text = document(read(config, options.first, options.last), plan)
    except (DriftHistoryError, RegistryError) as error:
        print(f"{config.lake_root}: {error}", file=sys.stderr)
        return 1
    options.out.parent.mkdir(parents=True, exist_ok=True)
    options.out.write_text(text)
    print(text)
    return 0


if __name__ == "__main__":
    sys.exit(main())
