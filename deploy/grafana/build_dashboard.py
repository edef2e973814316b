"""Build the dashboard: `python deploy/grafana/build_dashboard.py` writes `dashboards/btc_assets.json`.

A panel is declared by title, unit and queries; its position and Grafana's other fields are derived.
"""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

TARGET = Path(__file__).resolve().parent / "dashboards" / "btc_assets.json"
DATASOURCE = {"type": "prometheus", "uid": "btc-assets-prometheus"}
COLUMNS = 24
"""Width of a dashboard in columns of Grafana's grid."""
HEIGHT = {"stat": 4, "timeseries": 8}
SELECTION = 'role=~"$role",window="$window"'


@dataclass(frozen=True)
class Panel:
    """One panel.

    Attributes:
        title: title of the panel.
        queries: PromQL queries with the legends of their series.
        unit: a unit of Grafana.
        width: width in columns.
        kind: `timeseries`, or `stat` for the newest value only.
        about: description shown in the panel's tooltip.
        steps: thresholds of the colours orange and red.
        names: labels of values.
    """

    title: str
    queries: tuple[tuple[str, str], ...]
    unit: str = "short"
    width: int = 8
    kind: str = "timeseries"
    about: str = ""
    steps: tuple[float, ...] = ()
    names: dict[str, str] = field(default_factory=dict)


def stat(title: str, query: str, **more: Any) -> Panel:
    """Return a panel with the newest value of a query."""
    return Panel(title, ((query, ""),), width=4, kind="stat", **more)


ROWS: dict[str, tuple[Panel, ...]] = {
    "Forecast": (
        stat("Serves a forecast", "btc_bundle_loaded", names={"0": "no", "1": "yes"}),
        stat("Newest bundle", "btc_bundle_fault", steps=(1,), names={"0": "served", "1": "refused"}),
        stat("Age of the forecast", "btc_data_age_seconds", unit="s", steps=(5_400, 10_800)),
        stat("Model version", "btc_model_version", unit="none"),
        stat("Age of the model", "btc_model_age_seconds", unit="s", steps=(15_724_800,)),
        stat("Age of the drift report", "time() - btc_drift_report_timestamp_seconds", unit="s", steps=(180_000,)),
        Panel("P(up)", (("btc_forecast_up_probability", "{{horizon_minutes}} min"),), unit="percentunit", width=6),
        Panel("Ages", (("btc_data_age_seconds", "forecast"), ("btc_model_age_seconds", "model")), unit="s", width=6),
        Panel(
            "From close to publication",
            (("btc_publication_delay_seconds", "newest forecast"),),
            unit="s",
            width=6,
            about="About 30 s is normal. A forecast that changes because of late texts is published again later.",
        ),
        Panel(
            "Missing inputs",
            (
                ("btc_forecast_missing_inputs", "inputs"),
                ("100 * btc_forecast_missing_weight_ratio", "% of the model, {{horizon_minutes}} min"),
                ("btc_forecast_fallback", "fallback, {{horizon_minutes}} min"),
            ),
            width=6,
            about="Inputs of the newest forecast that are missing beyond what its model saw in training.",
        ),
    ),
    "Realised outcomes": (
        Panel(
            "Accuracy",
            ((f"btc_realised_accuracy_ratio{{{SELECTION}}}", "{{role}} {{horizon_minutes}} min"),),
            unit="percentunit",
            about="Share of correct directions over the selected window.",
        ),
        Panel(
            "Log-loss, nats",
            (
                (f"btc_realised_log_loss_nats{{{SELECTION}}}", "{{role}} {{horizon_minutes}} min"),
                ("ln(vector(2))", "a coin"),
            ),
            about="Lower is better. Differences from a coin are small: check the number of outcomes too.",
        ),
        Panel("Outcomes", ((f"btc_realised_outcomes{{{SELECTION}}}", "{{role}} {{horizon_minutes}} min"),)),
    ),
    "Drift and alerts": (
        Panel("Share of drifted inputs", (("btc_drift_inputs_ratio", "drifted"),), unit="percentunit", width=6),
        Panel("Broken promises", (("btc_drift_promise_broken", "{{promise}}"),), width=6),
        Panel("Alerts raised in 7 days", (("btc_alerts_raised", "{{severity}}"),), width=6),
        Panel(
            "Deliveries of these alerts",
            (("sum by (state) (btc_alert_deliveries)", "{{state}}"),),
            width=6,
        ),
    ),
    "Server": (
        Panel("Requests", (("route_status:btc_http_requests:rate5m", "{{route}} {{status}}"),), unit="reqps"),
        Panel("Share of failed requests", (("job:btc_http_errors:ratio_rate5m", "5xx"),), unit="percentunit"),
        Panel(
            "Latency",
            (
                ("route:btc_http_request_duration_seconds:p99_5m", "{{route}} p99"),
                (
                    "histogram_quantile(0.5, sum by (route, le) (rate(btc_http_request_duration_seconds_bucket[5m])))",
                    "{{route}} p50",
                ),
            ),
            unit="s",
        ),
        Panel("Memory", (("process_resident_memory_bytes", "resident"),), unit="bytes", width=6),
        Panel("CPU", (("rate(process_cpu_seconds_total[5m])", "cores"),), width=6),
        Panel("Open files", (("process_open_fds", "open"), ("process_max_fds", "limit")), width=6),
        Panel("Up", (('up{job="btc_assets"}', "{{instance}}"),), width=6),
    ),
}


def dashboard() -> dict[str, Any]:
    """Return the dashboard in Grafana's JSON format."""
    panels: list[dict[str, Any]] = []
    y = 0
    for title, row in ROWS.items():
        panels.append(
            {
                "id": len(panels) + 1,
                "type": "row",
                "title": title,
                "collapsed": False,
                "gridPos": {"x": 0, "y": y, "w": COLUMNS, "h": 1},
                "panels": [],
            }
        )
        y += 1
        x = height = 0
        for panel in row:
            if x + panel.width > COLUMNS:
                x, y = 0, y + height
            height = HEIGHT[panel.kind]
            panels.append(_panel(panel, len(panels) + 1, {"x": x, "y": y, "w": panel.width, "h": height}))
            x += panel.width
        y += height
    return {
        "uid": "btc-assets",
        "title": "btc_assets",
        "tags": ["btc_assets"],
        "schemaVersion": 38,
        "version": 1,
        "timezone": "utc",
        "editable": True,
        "refresh": "1m",
        "time": {"from": "now-24h", "to": "now"},
        "templating": {"list": [_window(), _role()]},
        "annotations": {"list": []},
        "panels": panels,
    }


def _panel(panel: Panel, number: int, place: dict[str, int]) -> dict[str, Any]:
    colours = ("green", "orange", "red") if len(panel.steps) > 1 else ("green", "red")
    steps = [{"color": colour, "value": value} for colour, value in zip(colours, (None, *panel.steps), strict=False)]
    mappings = [{"type": "value", "options": {value: {"text": text} for value, text in panel.names.items()}}]
    return {
        "id": number,
        "type": panel.kind,
        "title": panel.title,
        "description": panel.about,
        "datasource": DATASOURCE,
        "gridPos": place,
        "fieldConfig": {
            "defaults": {
                "unit": panel.unit,
                "thresholds": {"mode": "absolute", "steps": steps},
                "mappings": mappings if panel.names else [],
            },
            "overrides": [],
        },
        "options": {"reduceOptions": {"calcs": ["lastNotNull"]}} if panel.kind == "stat" else {},
        "targets": [
            {"refId": chr(ord("A") + i), "datasource": DATASOURCE, "expr": query, "legendFormat": legend}
            for i, (query, legend) in enumerate(panel.queries)
        ],
    }


def _window() -> dict[str, Any]:
    options = [{"text": name, "value": name, "selected": name == "90d"} for name in ("7d", "90d")]
    return {"name": "window", "type": "custom", "query": "7d,90d", "options": options, "current": options[1]}


def _role() -> dict[str, Any]:
    query = "label_values(btc_realised_outcomes, role)"
    return {
        "name": "role",
        "type": "query",
        "datasource": DATASOURCE,
        "definition": query,
        "query": {"query": query, "refId": "role"},
        "refresh": 2,
        "multi": True,
        "includeAll": True,
        "current": {"text": ["champion"], "value": ["champion"]},
    }


def main() -> None:
    """Write the dashboard file."""
    TARGET.write_text(json.dumps(dashboard(), indent=2) + "\n")


if __name__ == "__main__":
    main()
