"""What the rules find in the tables: pure functions from frames to findings."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import date, datetime, timedelta

import numpy as np
import polars as pl

from btc_assets.alerts.outbox import Finding
from btc_assets.alerts.rules import Rule, Rulebook
from btc_assets.clock import HOUR
from btc_assets.features.catalog import FEATURES
from btc_assets.monitoring.degradation import broken_promises, degraded
from btc_assets.vocabulary import ROLES

PRICE_DAYS = 31
"""Days of bars the rules on prices look back on."""
_DAY_HOURS = 24
_GROUPS = {feature.name: feature.group for feature in FEATURES}
LONGEST = 300
"""Characters of a message; a person's reason may be longer."""


def on_prices(book: Rulebook, bars: pl.DataFrame, now: datetime) -> list[Finding]:
    """Find large moves, wild hours, deep falls and old data.

    Args:
        book: the rules.
        bars: PRICES rows of the last `PRICE_DAYS` days, in time order.
        now: UTC.
    """
    if bars.is_empty():
        return [
            Finding(rule, "market/prices", f"no bar of the last {PRICE_DAYS} days is stored")
            for rule in book.of("stale_data")
        ]
    newest, close = bars["open_time"][-1], float(bars["close"][-1])
    found = []
    age = (now - newest - HOUR) / HOUR
    for rule in _beyond(book, "stale_data", age):
        message = f"the newest bar closed {age:.1f} h ago, at {newest + HOUR:%Y-%m-%d %H:%M} UTC"
        found.append(Finding(rule, "market/prices", message, age))
    before = bars.filter(pl.col("open_time") == newest - timedelta(days=1))
    if before.height:
        move = float(np.log(close / before["close"][0]))
        for rule in _beyond(book, "price_move", abs(move)):
            message = f"the price moved {np.expm1(move):+.1%} in 24 h, to {close:,.0f} USD"
            found.append(Finding(rule, "up" if move > 0 else "down", message, abs(move)))
    top = float(bars["close"].to_numpy().max())
    fall = 1 - close / top
    for rule in _beyond(book, "drawdown", fall):
        message = f"the price is {fall:.1%} below its highest close of {PRICE_DAYS - 1} days, {top:,.0f} USD"
        found.append(Finding(rule, "drawdown", message, fall))
    wild = _volatility_rank(bars)
    for rule in _beyond(book, "volatility", wild):
        message = f"the volatility of the last 24 h exceeds {wild:.0%} of those of {PRICE_DAYS - 1} days"
        found.append(Finding(rule, "volatility", message, wild))
    return found


def _volatility_rank(bars: pl.DataFrame) -> float | None:
    """Return the share of 24 h volatilities in the bars that the newest exceeds; None with too few bars."""
    apart = pl.col("open_time").diff() == HOUR
    returns = pl.when(apart).then((pl.col("close") / pl.col("close").shift(1)).log())
    known = bars.select(returns.rolling_std(_DAY_HOURS, min_samples=_DAY_HOURS - 4)).to_series().drop_nulls().to_numpy()
    return float((known < known[-1]).mean()) if len(known) >= 7 * _DAY_HOURS else None


def on_forecasts(book: Rulebook, newest: pl.DataFrame) -> list[Finding]:
    """Find forecasts of a large move, and forecasts whose inputs are missing.

    Args:
        book: the rules.
        newest: FORECASTS rows of the champion's newest hour.
    """
    found = [
        Finding(
            rule,
            f"{row['horizon_hours']} h",
            f"the median forecast for {row['horizon_hours']} h is {np.expm1(row['q50']):+.1%}, P(up) {row['p_up']:.0%}",
            abs(row["q50"]),
        )
        for row in newest.iter_rows(named=True)
        for rule in _beyond(book, "forecast_move", abs(row["q50"]))
    ]
    return [*found, *_on_missing_inputs(book, newest)]


def _on_missing_inputs(book: Rulebook, newest: pl.DataFrame) -> list[Finding]:
    """Find forecasts whose inputs are missing beyond what their model saw; another group of inputs is a new subject."""
    degraded = newest.filter("degraded")
    if degraded.is_empty():
        return []
    weight = float(degraded["missing_weight"].to_numpy().max())
    names = degraded["missing_inputs"][0].split(",")
    behind = degraded.filter("fallback")["horizon_hours"].to_list()
    message = f"{len(names)} inputs are missing, {weight:.0%} of the model's weight: {', '.join(names[:8])}"
    if behind:
        message += f"; the base rate answers for {', '.join(f'{horizon} h' for horizon in behind)}"
    subject = ", ".join(sorted({_GROUPS.get(name, name) for name in names}))
    return [Finding(rule, subject, message, weight) for rule in _beyond(book, "missing_inputs", weight)]


def on_drift(book: Rulebook, report: pl.DataFrame) -> list[Finding]:
    """Find many moved inputs, and broken promises.

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
    found = [
        Finding(rule, "inputs", f"{len(moved)} of {inputs.height} inputs moved by {day}: {', '.join(moved[:8])}", share)
        for rule in _beyond(book, "drift", share)
    ]
    for broken in broken_promises(report):
        message = f"{broken.promise} no longer holds by {day}: {broken.proof}"
        found += [Finding(rule, broken.promise, message, broken.value) for rule in book.of("broken_promise")]
    return found


def on_report(book: Rulebook, report: pl.DataFrame) -> list[Finding]:
    """Find proven degradation.

    Args:
        book: the rules.
        report: PERFORMANCE_REPORT rows of one day.
    """
    return [
        Finding(rule, sentence.split(" is ")[0].split(" holds ")[0], sentence)
        for sentence in degraded(report)
        for rule in book.of("degradation")
    ]


def on_history(book: Rulebook, history: pl.DataFrame) -> list[Finding]:
    """Find promotions and rollbacks; a promotion that is withdrawn counts as a rollback.

    Args:
        book: the rules.
        history: MODEL_HISTORY rows of one day.
    """
    kinds = {"promoted": "promotion", "rolled_back": "rollback", "withdrawn": "rollback"}
    changes = history.filter(pl.col("role") == ROLES[0]).sort("effective_from", "recorded_at")
    found = []
    for row in changes.iter_rows(named=True):
        message = f"version {row['model_version']} of cutoff {row['model_cutoff']} is {ROLES[0]} now"
        message = f"{message} ({row['event']} by {row['actor']}: {row['reason']})"[:LONGEST]
        since = f"version {row['model_version']} from {row['effective_from']:%Y-%m-%d %H:%M}"
        found += [Finding(rule, since, message) for rule in book.of(kinds[row["event"]])]
    return found


def on_silence(book: Rulebook, silent: Sequence[tuple[str, str]]) -> list[Finding]:
    """Find silent sources.

    Args:
        book: the rules.
        silent: name of each silent source, and a sentence about it.
    """
    return [Finding(rule, name, sentence) for name, sentence in silent for rule in book.of("silent_source")]


def _beyond(book: Rulebook, kind: str, value: float | None) -> list[Rule]:
    """Return the rules of a kind whose bound a value reaches."""
    return [rule for rule in book.of(kind) if value is not None and rule.bound is not None and value >= rule.bound]
