"""The evaluation of the drift report detects planted changes only and counts delays correctly."""

from __future__ import annotations

import math
from dataclasses import replace
from datetime import timedelta
from pathlib import Path

import numpy as np
import polars as pl
import pytest

from benchmarks import drift as trial
from btc_assets.clock import midnight
from btc_assets.features.tables import HOURLY_FEATURES
from btc_assets.forecasting.forecasts import forecast_hours
from btc_assets.forecasting.outcomes import judge_forecasts
from btc_assets.forecasting.tables import FORECAST_OUTCOMES, FORECASTS
from btc_assets.lake import Lake, by_day
from btc_assets.learning.forecast_model import Forecasts
from btc_assets.monitoring.drift import Reference
from btc_assets.settings import Settings
from btc_assets.vocabulary import HORIZONS
from btc_assets_tests.conftest import random_walk_bars
from btc_assets_tests.monitoring.conftest import FIRST, NO_PROFILES, LinearModel, champion_from, features_of, labels_of

pytestmark = pytest.mark.slow

WINDOW, DAYS = 60, 130
CALENDAR = [FIRST + timedelta(days=n) for n in range(DAYS)]
CUTOFF = CALENDAR[WINDOW]
NAMES = tuple(list(HOURLY_FEATURES.columns)[2:5])
PLAN = trial.Plan(plants=6, peer_days=2)


class Oracle(LinearModel):
    """A synthetic calibrated model whose first feature predicts the next hour's sign with 65 % accuracy."""

    def predict(self, rows: np.ndarray, missing: np.ndarray | None = None) -> Forecasts:
        """Forecast P(up) = 0.65 if the first feature is positive, else 0.35."""
        p_up = np.where(np.nan_to_num(rows[:, 0]) > 0, 0.65, 0.35)
        half = np.array([-1.645, -0.674, 0.0, 0.674, 1.645]) * 0.006
        quantiles = np.stack([np.tile(half * np.sqrt(h / 60), (len(rows), 1)) for h in HORIZONS], axis=1)
        return replace(
            super().predict(rows, missing), p_up=np.column_stack([p_up] * len(HORIZONS)), quantiles=quantiles
        )


class Shelf:
    """A registry with a single model."""

    def __init__(self, **_: object) -> None:
        """Accept the arguments of a registry."""

    def load(self, version: int) -> Oracle:
        """Return the model."""
        return Oracle(version, CUTOFF, NAMES)


def config(folder: Path) -> Settings:
    return Settings(data_dir=folder, train_days=WINDOW, cv_folds=2, cv_test_days=7, watch_days=60)


@pytest.fixture(scope="module")
def history() -> trial.History:
    """Return a synthetic history of seventy days of a calibrated champion."""
    bars = random_walk_bars(DAYS * 24, start=midnight(FIRST))
    rng = np.random.default_rng(1)
    up = bars["close"].shift(-1).fill_null(1.0).to_numpy() > bars["close"].to_numpy()
    signal_sign = np.where(rng.random(len(up)) < 0.65, up, ~up)
    columns = [np.where(signal_sign, 1, -1) * np.abs(rng.normal(size=len(up))), *rng.normal(size=(2, len(up)))]
    features = features_of(bars).with_columns(
        pl.Series(name, values) for name, values in zip(NAMES, columns, strict=True)
    )
    champion = champion_from(CALENDAR[WINDOW], features["open_time"], version=1, cutoff=CUTOFF)
    made = forecast_hours(features, bars, champion, Shelf(), NO_PROFILES)
    made = made.filter(pl.col("horizon_minutes") == 60)
    outcomes = judge_forecasts(made, labels_of(bars), too_small_to_call=0.001, fee_bps=5.0)
    return trial.History(features, made, outcomes, Shelf(), config(Path("unused")))


@pytest.fixture(scope="module")
def quiet(history: trial.History) -> dict:
    return trial.reports(history)


def test_a_report_equals_that_of_the_asset(history: trial.History, quiet: dict) -> None:
    assert sorted(quiet) == CALENDAR[WINDOW:]
    for day in (CALENDAR[70], CALENDAR[-1]):
        watch = history.watch(day)
        assert watch is not None
        assert quiet[day].inputs == watch.inputs
        assert quiet[day].broken == {promise.name for promise in watch.promises if promise.alarm}


def test_plants_start_with_enough_days_before_and_after(quiet: dict) -> None:
    plant_starts = trial.starts(quiet, replace(PLAN, plants=200))
    assert plant_starts == trial.starts(quiet, replace(PLAN, plants=200))
    assert min(plant_starts) >= midnight(CALENDAR[WINDOW + 30])
    assert max(plant_starts) <= midnight(CALENDAR[-1] - timedelta(days=29))
    assert len({start.hour for start in plant_starts}) > 12


def test_a_delay_ends_with_the_day_of_the_report() -> None:
    start = midnight(FIRST) + timedelta(hours=18)
    following = trial._following(start)
    assert following[0] == (FIRST, 0.25)
    assert following[-1] == (FIRST + timedelta(days=29), 29.25)
    assert trial._following(midnight(FIRST))[-1] == (FIRST + timedelta(days=29), 30.0)


def test_changes_of_an_input_are_detected_and_no_change_is_not(
    history: trial.History, quiet: dict, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(trial, "INPUT_CHANGES", {**trial.INPUT_CHANGES, "nothing": lambda of: of.x})
    results = trial.plant_in_inputs(history, quiet, PLAN)
    assert all(len(result.delays) == PLAN.plants for result in results.values())
    for change in ("mean shifted by 3 standard deviations", "standard deviation times four", "missing (null)"):
        assert max(results[change].delays) <= 7, change
    assert max(results["mean shifted by 3 standard deviations"].delays) <= max(
        results["mean shifted by 1 standard deviation"].delays
    )
    assert set(results["nothing"].delays) == {math.inf}


def test_a_change_of_a_highly_autocorrelated_feature_is_not_detectable_in_a_week() -> None:
    rng = np.random.default_rng(3)
    autocorrelated = np.cumsum(rng.normal(size=2000))
    assert not trial.visible(Reference.of("slow", autocorrelated), days=7)
    assert trial.visible(Reference.of("quick", rng.normal(size=2000)), days=7)


def test_changed_forecasts_are_detected_by_the_broken_promise(
    history: trial.History, quiet: dict, monkeypatch: pytest.MonkeyPatch
) -> None:
    changes = {name: trial.OUTCOME_CHANGES[name] for name in ("P(up) flipped", "intervals half as wide")}
    monkeypatch.setattr(trial, "OUTCOME_CHANGES", {**changes, "nothing": []})
    results = trial.plant_in_outcomes(history, quiet, PLAN)
    assert max(results["P(up) flipped"].delays) <= 14
    assert results["P(up) flipped"].detected_by["coverage_90"] == 0
    assert max(results["intervals half as wide"].delays) <= 14
    assert set(results["intervals half as wide"].detected_by) == {"coverage_90"}
    assert set(results["nothing"].delays) == {math.inf}
    assert not results["nothing"].detected_by


def test_an_alarm_without_the_plant_is_not_counted(history: trial.History, quiet: dict) -> None:
    noisy = {day: replace(report, broken=frozenset(trial.PROMISES)) for day, report in quiet.items()}
    change = trial.OUTCOME_CHANGES["intervals half as wide"]
    start = trial.starts(quiet, PLAN)[0]
    assert trial._outcome_delay(history, quiet, change, start)[0] <= 14
    assert trial._outcome_delay(history, noisy, change, start) == (math.inf, frozenset())


def test_shares_and_medians_have_intervals() -> None:
    assert trial.share_with_interval([False] * 1000) == "0.0% (0.0% to 0.4%)"
    assert trial.share_with_interval([False] * 1000, max_independent=100) == "0.0% (0.0% to 3.7%)"
    held = [False] * 500 + [True] * 500  # one long alarm has less information than 500 independent ones
    low, high = (float(end.strip("()%")) for end in trial.share_with_interval(held).split(" ", 1)[1].split(" to "))
    assert high - low > 50
    assert trial.median_with_interval([float(n) for n in range(1, 61)]) == "30.5 (22.0 to 39.0)"
    assert trial.median_with_interval([1.0] * 20 + [math.inf] * 40) == "over 30 (over 30 to over 30)"


def test_the_command_writes_a_document_or_names_the_missing_table(
    history: trial.History, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    settings = config(tmp_path)
    monkeypatch.setattr(trial, "settings", lambda: settings)
    monkeypatch.setattr(trial, "ModelRegistry", Shelf)
    out = tmp_path / "drift.md"
    arguments = ["--out", str(out), "--plants", "1", "--peer-days", "1"]
    assert trial.main(arguments) == 1
    assert "no forecasting/forecasts of a champion is stored" in capsys.readouterr().err
    lake = Lake(root=settings.lake_root)
    tables = ((HOURLY_FEATURES, history.features), (FORECASTS, history.forecasts))
    for contract, frame in (*tables, (FORECAST_OUTCOMES, history.outcomes)):
        for day, part in by_day(contract, frame, CALENDAR):
            lake.write(contract, day, part)
    assert trial.main([*arguments, "--last", CALENDAR[90].isoformat()]) == 1
    assert "31 days have forecasts" in capsys.readouterr().err
    assert not out.exists()
    assert trial.main(arguments) == 0
    text = out.read_text()
    assert capsys.readouterr().out.strip() == text.strip()
    for name in (*trial.INPUT_CHANGES, *trial.OUTCOME_CHANGES):
        assert f"| {name} | 1 |" in text
    assert "| calibration broken | 70 | 0 | 0.0%" in text
    assert "70 days, 2018-03-02 to 2018-05-10" in text
    widths = [line.count("|") for line in text.splitlines() if line.startswith("|")]
    assert set(widths) == {4, 5, 8}
    assert "nan" not in text.lower().split()
