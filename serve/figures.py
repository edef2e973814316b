"""Prometheus metrics of a bundle, computed once when the bundle is loaded and not per scrape."""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from datetime import UTC, datetime, time, timedelta
from typing import Any

from prometheus_client.core import GaugeMetricFamily, Metric

from serve.store import Store, StoreError

logger = logging.getLogger("serve")

WINDOWS = {"7d": timedelta(days=7), "90d": timedelta(days=90)}
"""Windows of the realised metrics by label; the longest covers all published outcomes."""
SEVERITIES = ("info", "medium", "high")
"""Severities of alerts; each has a series even without alerts, and so has each state of a delivery."""
STATES = ("pending", "delivered", "undeliverable")


def figures(store: Store, newest: Sequence[Mapping[str, Any]]) -> tuple[Metric, ...]:
    """Return the metric families of a bundle; a missing or unreadable table omits only its own families.

    Args:
        store: database of the bundle.
        newest: newest forecast of the bundle, one row per horizon.

    Raises:
        StoreError: the tables of the database cannot be listed.
    """
    families = [*_forecast(newest)]
    made_at, tables = newest[0]["made_at"], store.tables()
    readers: dict[str, Callable[[], Iterator[Metric]]] = {
        "forecast_outcomes": lambda: _realised(store, made_at),
        "drift_report": lambda: _drift(store),
        "alerts": lambda: _alerts(store),
    }
    for table, read in readers.items():
        if table not in tables:  # published by an older version of the project
            continue
        try:
            families += read()
        except StoreError as error:
            logger.warning("There are no metrics of %s: %s.", table, error)
    return tuple(families)


def _forecast(newest: Sequence[Mapping[str, Any]]) -> Iterator[Metric]:
    p_up = GaugeMetricFamily(
        "btc_forecast_up_probability",
        "P(up) of the newest published forecast, by horizon in minutes.",
        labels=["horizon_minutes"],
    )
    for row in newest:
        p_up.add_metric([str(row["horizon_minutes"])], row["p_up"])
    yield p_up
    missing = [name for name in newest[0]["missing_inputs"].split(",") if name]
    yield GaugeMetricFamily(
        "btc_forecast_missing_inputs",
        "Inputs missing in the newest published forecast beyond what its model saw in training; 0 if not degraded.",
        len(missing),
    )
    weight = GaugeMetricFamily(
        "btc_forecast_missing_weight_ratio",
        "Weight of these inputs in the model, as share of the mean |SHAP value|, by horizon in minutes.",
        labels=["horizon_minutes"],
    )
    fallback = GaugeMetricFamily(
        "btc_forecast_fallback",
        "1 if base rate and volatility of the training window replace the model, else 0, by horizon in minutes.",
        labels=["horizon_minutes"],
    )
    for row in newest:
        weight.add_metric([str(row["horizon_minutes"])], row["missing_weight"])
        fallback.add_metric([str(row["horizon_minutes"])], row["fallback"])
    yield from (weight, fallback)


def _realised(store: Store, made_at: datetime) -> Iterator[Metric]:
    """Yield the realised metrics by the definitions of the performance report."""
    over = (
        "by role and horizon in minutes, over the outcomes known in the 7 or 90 days before the newest published "
        "forecast (all published outcomes for 90)."
    )
    labels = ["role", "horizon_minutes", "window"]
    accuracy = GaugeMetricFamily("btc_realised_accuracy_ratio", f"Share of correct directions, {over}", None, labels)
    log_loss = GaugeMetricFamily(
        "btc_realised_log_loss_nats", f"Mean log-loss, nats; a coin has 0.6931, {over}", None, labels
    )
    n = GaugeMetricFamily("btc_realised_outcomes", f"Number of outcomes of the realised metrics, {over}", None, labels)
    for window, span in WINDOWS.items():
        for row in store.realised(made_at - span):
            values = [row["role"], str(row["horizon_minutes"]), window]
            accuracy.add_metric(values, row["accuracy"])
            log_loss.add_metric(values, row["log_loss"])
            n.add_metric(values, row["outcomes"])
    yield from (accuracy, log_loss, n)


def _drift(store: Store) -> Iterator[Metric]:
    rows = store.drift()
    if not rows:
        return
    day = GaugeMetricFamily(
        "btc_drift_report_timestamp_seconds", "End of the day of the newest published drift report, Unix time."
    )
    day.add_metric([], datetime.combine(rows[0]["day"] + timedelta(days=1), time(), UTC).timestamp())
    yield day
    inputs = [row["alarm"] for row in rows if row["kind"] == "input"]
    if inputs:
        drifted = GaugeMetricFamily(
            "btc_drift_inputs_ratio",
            "Share of the champion's inputs, including P(up), that drifted from its training window.",
        )
        drifted.add_metric([], sum(inputs) / len(inputs))
        yield drifted
    broken = GaugeMetricFamily(
        "btc_drift_promise_broken",
        "1 if a promise of the champion's 60 min forecasts is broken on the day of the report, else 0.",
        labels=["promise"],
    )
    for row in rows:
        if row["kind"] == "concept":
            broken.add_metric([row["subject"]], row["alarm"])
    yield broken


def _alerts(store: Store) -> Iterator[Metric]:
    rows, as_of = store.alerts(), "in the last 7 days, as of the publication of the bundle."
    raised = GaugeMetricFamily("btc_alerts_raised", f"Alerts raised {as_of}", labels=["severity"])
    by_severity = Counter(severity for severity, _ in {(row["severity"], row["alert_id"]) for row in rows})
    for severity in SEVERITIES:
        raised.add_metric([severity], by_severity[severity])
    deliveries = GaugeMetricFamily(
        "btc_alert_deliveries",
        f"Deliveries of the alerts raised {as_of} An alert has one delivery per channel.",
        labels=["severity", "state"],
    )
    by_state = Counter((row["severity"], row["state"]) for row in rows)
    for severity in SEVERITIES:
        for state in STATES:
            deliveries.add_metric([severity, state], by_state[severity, state])
    yield from (raised, deliveries)
