"""The findings of the rules."""

from __future__ import annotations

from datetime import UTC, date, datetime, timedelta

import numpy as np
import polars as pl
import pytest

from btc_assets.alerts import watch
from btc_assets.alerts.rules import Rulebook, read_rules
from btc_assets.champion.tables import MODEL_HISTORY
from btc_assets.monitoring.tables import DRIFT_REPORT
from btc_assets.settings import Settings
from btc_assets_tests.conftest import random_walk_bars

START = datetime(2024, 4, 1, tzinfo=UTC)
HOURS = 24 * 30
NOW = START + timedelta(hours=HOURS, minutes=5)


@pytest.fixture(scope="module")
def book() -> Rulebook:
    return read_rules(Settings.model_fields["alert_rules"].default)


def calm_bars() -> pl.DataFrame:
    """Return 30 days of synthetic bars with a nearly constant close."""
    wave = 10_000 * (1 + 0.002 * np.sin(np.arange(HOURS) / 3 + np.cumsum(np.full(HOURS, 0.001))))
    return random_walk_bars(HOURS, start=START).with_columns(pl.Series("close", wave))


def kinds(findings: list[watch.Finding]) -> set[str]:
    return {finding.rule.kind for finding in findings}


def with_last_closes(factor: np.ndarray) -> pl.DataFrame:
    bars = calm_bars()
    closes = bars["close"].to_numpy().copy()
    closes[-len(factor) :] *= factor
    return bars.with_columns(pl.Series("close", closes))


def test_calm_bars_have_no_finding(book: Rulebook) -> None:
    assert watch.on_prices(book, calm_bars(), NOW) == []


def test_a_fall_of_twelve_percent_is_a_move_a_drawdown_and_volatility(book: Rulebook) -> None:
    findings = watch.on_prices(book, with_last_closes(np.full(3, 0.88)), NOW)
    assert kinds(findings) == {"price_move", "drawdown", "volatility"}
    move = next(finding for finding in findings if finding.rule.kind == "price_move")
    assert move.subject == "down"
    assert "-11.8%" in move.message


def test_a_rise_is_not_a_drawdown(book: Rulebook) -> None:
    assert "drawdown" not in kinds(watch.on_prices(book, with_last_closes(np.full(3, 1.2)), NOW))


@pytest.mark.parametrize(("hours", "stale"), [(1.5, False), (2.5, True)])
def test_old_bars_are_stale(book: Rulebook, hours: float, stale: bool) -> None:
    findings = watch.on_prices(book, calm_bars(), START + timedelta(hours=HOURS + hours))
    assert ("stale_data" in kinds(findings)) is stale


def test_missing_bars_are_stale(book: Rulebook) -> None:
    assert kinds(watch.on_prices(book, calm_bars().clear(), NOW)) == {"stale_data"}


def test_no_move_is_measured_across_a_gap(book: Rulebook) -> None:
    bars = with_last_closes(np.full(3, 0.9))
    gap = bars.filter(pl.col("open_time") != bars["open_time"][-1] - timedelta(days=1))
    assert "price_move" not in kinds(watch.on_prices(book, gap, NOW))


@pytest.mark.parametrize(("q50", "expected"), [(0.02, False), (0.031, True), (-0.04, True)])
def test_a_large_forecast_is_reported(book: Rulebook, q50: float, expected: bool) -> None:
    newest = pl.DataFrame({"horizon_minutes": [1440], "q50": [q50], "p_up": [0.6], "degraded": [False]})
    assert bool(watch.on_forecasts(book, newest)) is expected


def with_missing_inputs(names: str, weight: float, *, fallback: bool = False) -> pl.DataFrame:
    """Return forecasts of two horizons with missing inputs; the shorter horizon misses half the weight."""
    shared = {"q50": 0.0, "p_up": 0.5, "degraded": bool(names), "missing_inputs": names}
    return pl.DataFrame(
        [
            shared | {"horizon_minutes": 60, "missing_weight": weight / 2, "fallback": False},
            shared | {"horizon_minutes": 240, "missing_weight": weight, "fallback": fallback},
        ]
    )


@pytest.mark.parametrize(("names", "weight", "expected"), [("", 0.0, 0), ("body_1h", 0.009, 0), ("body_1h", 0.01, 1)])
def test_missing_inputs_are_reported_from_their_bound_on(
    book: Rulebook, names: str, weight: float, expected: int
) -> None:
    findings = watch.on_forecasts(book, with_missing_inputs(names, weight))
    assert [finding.rule.kind for finding in findings] == ["missing_inputs"] * expected


def test_a_missing_inputs_message_has_names_weight_and_fallback_horizons(book: Rulebook) -> None:
    [few] = watch.on_forecasts(book, with_missing_inputs("taker_imbalance_1h,taker_imbalance_4h", 0.08))
    [many] = watch.on_forecasts(book, with_missing_inputs("returns_1h,taker_imbalance_1h", 0.6, fallback=True))
    assert few.message == "2 inputs are missing, 8% of the model's weight: taker_imbalance_1h, taker_imbalance_4h"
    assert many.message.endswith("; the base rate answers for 4 h")
    assert (few.subject, few.value) == ("flow", 0.08)
    assert many.subject == "flow, price", "another group of inputs is a new subject"


def drift_report(moved: int, broken: bool) -> pl.DataFrame:
    shared = {"day": date(2024, 5, 1), "n": 168, "model_version": 1, "model_cutoff": date(2024, 4, 1), "bound": 0.2}
    rows = [
        {"kind": "input", "subject": f"x{i}", "measure": "psi", "value": 0.3, "alarm": i < moved, **shared}
        for i in range(10)
    ]
    rows.append(
        {"kind": "concept", "subject": "calibration", "measure": "wealth", "value": 1e5, "alarm": broken, **shared}
    )
    return pl.DataFrame(rows, schema=DRIFT_REPORT.columns)


def test_drifted_inputs_have_severity_info_and_a_broken_promise_high(book: Rulebook) -> None:
    assert watch.on_drift(book, drift_report(1, broken=False)) == []
    assert [finding.rule.severity for finding in watch.on_drift(book, drift_report(3, broken=False))] == ["info"]
    assert [finding.rule.severity for finding in watch.on_drift(book, drift_report(0, broken=True))] == ["high"]
    assert watch.on_drift(book, drift_report(3, broken=True).clear()) == []


def test_promotions_and_rollbacks_are_reported_with_actor_and_reason_and_shadows_are_not(book: Rulebook) -> None:
    at = datetime(2024, 5, 6, tzinfo=UTC)
    row = dict.fromkeys(MODEL_HISTORY.columns) | {"model_cutoff": date(2024, 5, 6), "reason": "because", "actor": "ann"}
    changes = [
        ("champion", "promoted", 7),
        ("challenger", "left_shadow", None),
        ("champion", "rolled_back", 6),
        ("champion", "withdrawn", 5),
    ]
    rows = [
        row
        | {"role": role, "event": event, "model_version": version}
        | {"effective_from": at + timedelta(hours=n), "recorded_at": at}
        for n, (role, event, version) in enumerate(changes)
    ]
    findings = watch.on_history(book, pl.DataFrame(rows, schema=MODEL_HISTORY.columns))
    assert [(finding.rule.kind, finding.rule.severity, finding.subject) for finding in findings] == [
        ("promotion", "info", "version 7 from 2024-05-06 00:00"),
        ("rollback", "high", "version 6 from 2024-05-06 02:00"),
        ("rollback", "high", "version 5 from 2024-05-06 03:00"),
    ]
    assert "rolled_back by ann: because" in findings[1].message


def test_each_silent_source_is_a_separate_subject(book: Rulebook) -> None:
    findings = watch.on_silence(book, [("a", "a is silent"), ("b", "b is silent")])
    assert [finding.subject for finding in findings] == ["a", "b"]
