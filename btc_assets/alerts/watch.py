"""Apply the rules to the tables: pure functions from frames to findings."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import date, datetime, timedelta

import numpy as np
import polars as pl

from btc_assets.alerts.outbox import Finding
from btc_assets.alerts.rules import Rule, Rulebook
from btc_assets.clock import HOUR
from btc_assets.features.catalog import FEATURES
from btc_assets.monitoring.degradation import broken_promises, significant_degradation
from btc_assets.vocabulary import ROLES, display

PRICE_DAYS = 31
"""Days of bars that the price rules need."""
_DAY_HOURS = 24
_GROUPS = {feature.name: feature.group for feature in FEATURES}
MAX_MESSAGE_CHARACTERS = 300
"""Messages are cut to this length: the reason for a change of champion may be long."""


def on_prices(book: Rulebook, bars: pl.DataFrame, now: datetime) -> list[Finding]:
    """Find large price moves, high volatility, drawdowns and stale data.

    Args:
        book: the rules.
        bars: PRICES rows of the last `PRICE_DAYS` days, ordered by time.
        now: UTC.
    """
    if bars.is_empty():
        return [
            Finding(rule, "market/prices", f"no bar of the last {PRICE_DAYS} days is stored")
            for rule in book.of("stale_data")
        ]
    latest, close = bars["open_time"][-1], float(bars["close"][-1])
    findings = []
    age = (now - latest - HOUR) / HOUR
    for rule in _rules_reached(book, "stale_data", age):
        message = f"the latest bar closed {age:.1f} h ago, at {latest + HOUR:%Y-%m-%d %H:%M} UTC"
        findings.append(Finding(rule, "market/prices", message, age))
    day_before = bars.filter(pl.col("open_time") == latest - timedelta(days=1))
    if day_before.height:
        move = float(np.log(close / day_before["close"][0]))
        for rule in _rules_reached(book, "price_move", abs(move)):
            message = f"the price moved {np.expm1(move):+.1%} in 24 h, to {close:,.0f} USD"
            findings.append(Finding(rule, "up" if move > 0 else "down", message, abs(move)))
    highest = float(bars["close"].to_numpy().max())
    drawdown = 1 - close / highest
    for rule in _rules_reached(book, "drawdown", drawdown):
        message = f"the price is {drawdown:.1%} below its highest close of {PRICE_DAYS - 1} days, {highest:,.0f} USD"
        findings.append(Finding(rule, "drawdown", message, drawdown))
    volatility_rank = _volatility_rank(bars)
    for rule in _rules_reached(book, "volatility", volatility_rank):
        message = f"the volatility of the last 24 h exceeds {volatility_rank:.0%} of those of {PRICE_DAYS - 1} days"
        findings.append(Finding(rule, "volatility", message, volatility_rank))
    return findings


def _volatility_rank(bars: pl.DataFrame) -> float | None:
    """Return the share of 24 h volatilities that the latest one exceeds; None for too few bars."""
    is_consecutive = pl.col("open_time").diff() == HOUR
    returns = pl.when(is_consecutive).then((pl.col("close") / pl.col("close").shift(1)).log())
    volatilities = (
        bars.select(returns.rolling_std(_DAY_HOURS, min_samples=_DAY_HOURS - 4)).to_series().drop_nulls().to_numpy()
    )
    return float((volatilities < volatilities[-1]).mean()) if len(volatilities) >= 7 * _DAY_HOURS else None


def on_forecasts(book: Rulebook, latest: pl.DataFrame) -> list[Finding]:
    """Find forecasts of a large move and forecasts with missing inputs.

    Args:
        book: the rules.
        latest: FORECASTS rows of the champion's latest hour.
    """
    findings = [
        Finding(
            rule,
            display(row["horizon_minutes"]),
            f"the median forecast for {display(row['horizon_minutes'])} is {np.expm1(row['q50']):+.1%}, "
            f"P(up) {row['p_up']:.0%}",
            abs(row["q50"]),
        )
        for row in latest.iter_rows(named=True)
        for rule in _rules_reached(book, "forecast_move", abs(row["q50"]))
    ]
    return [*findings, *_on_missing_inputs(book, latest)]


def _on_missing_inputs(book: Rulebook, latest: pl.DataFrame) -> list[Finding]:
    """Find forecasts with more missing inputs than their model saw in training; each set of groups is a subject."""
    degraded = latest.filter("degraded")
    if degraded.is_empty():
        return []
    weight = float(degraded["missing_weight"].to_numpy().max())
    names = degraded["missing_inputs"][0].split(",")
    fallbacks = degraded.filter("fallback")["horizon_minutes"].to_list()
    message = f"{len(names)} inputs are missing, {weight:.0%} of the model's weight: {', '.join(names[:8])}"
    if fallbacks:
        message += f"; the base rate answers for {', '.join(display(horizon) for horizon in fallbacks)}"
    subject = ", ".join(sorted({_GROUPS.get(name, name) for name in names}))
    return [Finding(rule, subject, message, weight) for rule in _rules_reached(book, "missing_inputs", weight)]


def on_drift(book: Rulebook, report: pl.DataFrame) -> list[Finding]:
    """Find a large share of drifted inputs, and broken promises.

    Args:
        book: the rules.
        report: DRIFT_REPORT rows of one day.
    """
    if report.is_empty():
        return []
    day: date = report["day"][0]
    inputs = report.filter((pl.col("kind") == "input") & (pl.col("measure") == "psi"))
    moved = inputs.filter(pl.col("alarm"))["subject"].to_list()
    share = len(moved) / max(inputs.height, 1)
    findings = [
        Finding(rule, "inputs", f"{len(moved)} of {inputs.height} inputs moved by {day}: {', '.join(moved[:8])}", share)
        for rule in _rules_reached(book, "drift", share)
    ]
    for broken in broken_promises(report):
        message = f"{broken.promise} no longer holds by {day}: {broken.proof}"
        findings += [Finding(rule, broken.promise, message, broken.value) for rule in book.of("broken_promise")]
    return findings


def on_report(book: Rulebook, report: pl.DataFrame) -> list[Finding]:
    """Find significant degradation.

    Args:
        book: the rules.
        report: PERFORMANCE_REPORT rows of one day.
    """
    return [
        Finding(rule, sentence.split(" is ")[0].split(" covers ")[0], sentence)
        for sentence in significant_degradation(report)
        for rule in book.of("degradation")
    ]


def on_history(book: Rulebook, history: pl.DataFrame) -> list[Finding]:
    """Find promotions and rollbacks; a withdrawn promotion counts as a rollback.

    Args:
        book: the rules.
        history: MODEL_HISTORY rows of one day.
    """
    kinds = {"promoted": "promotion", "rolled_back": "rollback", "withdrawn": "rollback"}
    changes = history.filter(pl.col("role") == ROLES[0]).sort("effective_from", "recorded_at")
    findings = []
    for row in changes.iter_rows(named=True):
        message = f"version {row['model_version']} of cutoff {row['model_cutoff']} is now {ROLES[0]}"
        message = f"{message} ({row['event']} by {row['actor']}: {row['reason']})"[:MAX_MESSAGE_CHARACTERS]
        since = f"version {row['model_version']} from {row['effective_from']:%Y-%m-%d %H:%M}"
        findings += [Finding(rule, since, message) for rule in book.of(kinds[row["event"]])]
    return findings


def on_silence(book: Rulebook, silent: Sequence[tuple[str, str]]) -> list[Finding]:
    """Find silent sources.

    Args:
        book: the rules.
        silent: name of each silent source and a sentence about it.
    """
    return [Finding(rule, name, sentence) for name, sentence in silent for rule in book.of("silent_source")]


def _rules_reached(book: Rulebook, kind: str, value: float | None) -> list[Rule]:
    """Return the rules of a kind whose bound the value reaches."""
    return [rule for rule in book.of(kind) if value is not None and rule.bound is not None and value >= rule.bound]
