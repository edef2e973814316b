"""Prometheus metrics: requests with bounded labels, and the metrics of the served bundle."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path

import httpx
import numpy as np
import polars as pl
import pytest
from litestar import Litestar
from litestar.testing import TestClient
from prometheus_client.core import GaugeMetricFamily, Metric
from prometheus_client.parser import text_string_to_metric_families
from prometheus_client.registry import Collector

from btc_assets.alerts import outbox, rules
from btc_assets.evaluation import metrics
from btc_assets.forecasting.tables import FORECAST_OUTCOMES
from btc_assets_tests.serving.builders import (
    FEATURE_NAMES,
    MADE_AT,
    drift_frame,
    publish_small,
    published_frames,
    write_model,
)
from serve.app import create_app
from serve.figures import SEVERITIES, STATES, WINDOWS
from serve.store import Store

Samples = dict[tuple[str, tuple[str, ...]], float]
ROW = dict.fromkeys(FEATURE_NAMES, 0.1)


@contextmanager
def served(folder: Path, *, now: datetime = MADE_AT) -> Iterator[TestClient[Litestar]]:
    """Serve a folder with the clock fixed at `now`."""
    with TestClient(create_app(folder, clock=lambda: now), raise_server_exceptions=False) as client:
        yield client


def scrape(client: TestClient[Litestar] | httpx.Client) -> Samples:
    """Return the value of every sample by name and label values, in the order of the label names."""
    response = client.get("/metrics")
    assert response.status_code == 200
    return {
        (sample.name, tuple(value for _, value in sorted(sample.labels.items()))): sample.value
        for family in text_string_to_metric_families(response.text)
        for sample in family.samples
    }


def named(samples: Samples, name: str) -> dict[tuple[str, ...], float]:
    """Return the samples of one metric by label values."""
    return {labels: value for (sample, labels), value in samples.items() if sample == name}


def test_requests_are_counted_by_existing_routes(tmp_path: Path, models: Path) -> None:
    publish_small(tmp_path, models)
    with served(tmp_path) as client:
        for _ in range(3):
            client.get("/v1/forecast")
        client.get("/v1/forecasts", params={"limit": 1})
        client.get("/v1/forecasts", params={"limit": "many"})
        client.post("/v1/predict", json=ROW)
        for n in range(40):
            client.get(f"/there/is/nothing/{n}")
            client.request(f"BREW{n}", "/v1/forecast")
        client.delete("/v1/forecast")
        samples = scrape(client)
    assert named(samples, "btc_http_requests_total") == {
        ("GET", "/v1/forecast", "200"): 3,
        ("GET", "/v1/forecasts", "200"): 1,
        ("GET", "/v1/forecasts", "400"): 1,
        ("POST", "/v1/predict", "200"): 1,
        ("GET", "unmatched", "404"): 40,
        ("other", "unmatched", "405"): 40,
        ("DELETE", "unmatched", "405"): 1,
    }
    counts = named(samples, "btc_http_request_duration_seconds_count")
    assert counts == {("/v1/forecast",): 3, ("/v1/forecasts",): 2, ("/v1/predict",): 1, ("unmatched",): 81}
    seconds = named(samples, "btc_http_request_duration_seconds_sum")
    assert all(0 < seconds[route] / n < 1 for route, n in counts.items())


def test_an_internal_error_is_counted_with_status_500(tmp_path: Path, models: Path) -> None:
    publish_small(tmp_path, models)
    with served(tmp_path) as client:
        client.app.state["watcher"].state.store._connection.close()
        assert client.get("/v1/forecasts").status_code == 500
        assert named(scrape(client), "btc_http_requests_total") == {("GET", "/v1/forecasts", "500"): 1}


def test_two_apps_have_separate_counts(tmp_path: Path) -> None:
    with served(tmp_path) as first, served(tmp_path) as second:
        first.get("/health")
        assert named(scrape(first), "btc_http_requests_total") == {("GET", "/health", "200"): 1}
        assert named(scrape(second), "btc_http_requests_total") == {}


def test_the_page_shows_a_missing_bundle_a_swap_and_a_fault(tmp_path: Path, models: Path) -> None:
    with served(tmp_path) as client:
        samples = scrape(client)
        assert (samples["btc_bundle_loaded", ()], samples["btc_bundle_fault", ()]) == (0, 1)
        assert not named(samples, "btc_model_version")
        for seed in (7, 8):
            publish_small(tmp_path, models, seed=seed, made_at=MADE_AT + timedelta(hours=seed))
            client.app.state["watcher"].check()
            samples = scrape(client)
            assert (samples["btc_bundle_loaded", ()], samples["btc_bundle_fault", ()]) == (1, 0)
            assert samples["btc_model_version", ()] == seed
        bundle_id = publish_small(tmp_path, models, made_at=MADE_AT + timedelta(hours=9)).bundle_id
        (tmp_path / "bundles" / bundle_id / "serving.duckdb").unlink()
        client.app.state["watcher"].check()
        samples = scrape(client)
        assert (samples["btc_bundle_loaded", ()], samples["btc_bundle_fault", ()]) == (1, 1)
        assert samples["btc_model_version", ()] == 8


def test_ages_are_computed_at_the_scrape(tmp_path: Path, models: Path) -> None:
    publish_small(tmp_path, models)
    now = MADE_AT + timedelta(minutes=5)
    with TestClient(create_app(tmp_path, clock=lambda: now)) as client:
        for minutes in (5, 95):
            now = MADE_AT + timedelta(minutes=minutes)
            samples = scrape(client)
            assert samples["btc_data_age_seconds", ()] == 60 * minutes
            cutoff = datetime(2019, 6, 3, tzinfo=UTC)
            assert samples["btc_model_age_seconds", ()] == (now - cutoff).total_seconds()


def test_the_publication_delay_of_a_forecast_is_a_metric(tmp_path: Path, models: Path) -> None:
    publication = publish_small(tmp_path, models)
    assert publication.published_at is not None
    manifest = tmp_path / "bundles" / publication.bundle_id / "manifest.json"
    document = json.loads(manifest.read_text())
    published = (MADE_AT + timedelta(seconds=21.5)).isoformat()
    for published_at, delay in ((published, {(): 21.5}), (None, {})):  # None as in a bundle of an older version
        changed = document | {"published_at": published_at}
        manifest.write_text(json.dumps({name: value for name, value in changed.items() if value is not None}))
        with served(tmp_path) as client:
            assert named(scrape(client), "btc_publication_delay_seconds") == delay
            response = client.get("/v1/forecast").json()["published_at"]
            assert (response and datetime.fromisoformat(response)) == (
                published_at and datetime.fromisoformat(published_at)
            )


def outcomes_of_three_roles() -> pl.DataFrame:
    """Return 40 days of outcomes of three roles, including certain forecasts that are wrong."""
    rng = np.random.default_rng(3)
    base = published_frames("0" * 64)["forecast_outcomes"].head(1)
    hours = 40 * 24
    parts = []
    for role in ("champion", "newest", "another role"):
        for horizon in (60, 240, 1440):
            p_up = np.where(rng.random(hours) < 0.05, rng.integers(0, 2, hours), rng.uniform(0.3, 0.7, hours))
            p_up[:20] = 0.5
            known_at = [MADE_AT - timedelta(hours=back) for back in reversed(range(hours))]
            parts.append(
                pl.concat([base] * hours).with_columns(
                    role=pl.lit(role),
                    horizon_minutes=pl.lit(horizon, pl.Int64),
                    p_up=pl.Series(p_up),
                    log_return=pl.Series(rng.normal(0, 0.01, hours).round(2)),
                    known_at=pl.Series(known_at).dt.cast_time_unit("us"),
                    open_time=pl.Series(known_at).dt.cast_time_unit("us") - pl.duration(minutes=horizon + 60),
                )
            )
    return pl.concat(parts).select(list(FORECAST_OUTCOMES.columns))


def test_realised_metrics_equal_those_of_the_performance_report(tmp_path: Path, models: Path) -> None:
    outcomes = outcomes_of_three_roles()
    publish_small(tmp_path, models, forecast_outcomes=outcomes)
    with served(tmp_path) as client:
        samples = scrape(client)
    for window, span in WINDOWS.items():
        recent = outcomes.filter(pl.col("known_at") > MADE_AT - span)
        assert recent.height == (7 if window == "7d" else 40) * 24 * 9
        for (role, horizon), rows in recent.group_by("role", "horizon_minutes"):
            labels = (str(horizon), role, window)
            p_up, log_return = rows["p_up"].to_numpy(), rows["log_return"].to_numpy()
            assert samples["btc_realised_outcomes", labels] == rows.height
            assert samples["btc_realised_accuracy_ratio", labels] == pytest.approx(
                metrics.accuracy(p_up, log_return).value, rel=1e-12
            )
            assert samples["btc_realised_log_loss_nats", labels] == pytest.approx(
                metrics.log_loss(p_up, log_return).value, rel=1e-12
            )
    assert len(named(samples, "btc_realised_outcomes")) == 2 * 9


def test_forecast_drift_and_alerts_have_metrics(tmp_path: Path, models: Path) -> None:
    publish_small(tmp_path, models)
    with served(tmp_path) as client:
        samples = scrape(client)
        forecast = client.get("/v1/forecast").json()
    p_up = {(str(horizon["horizon_minutes"]),): horizon["p_up"] for horizon in forecast["horizons"]}
    assert named(samples, "btc_forecast_up_probability") == p_up
    assert samples["btc_drift_inputs_ratio", ()] == 1 / len(FEATURE_NAMES)
    assert named(samples, "btc_drift_promise_broken") == {("calibration",): 1, ("coverage_90",): 0}
    end_of_day = datetime(2019, 6, 4, tzinfo=UTC)
    assert samples["btc_drift_report_timestamp_seconds", ()] == end_of_day.timestamp()
    assert named(samples, "btc_alerts_raised") == {("info",): 1, ("medium",): 0, ("high",): 1}
    deliveries = named(samples, "btc_alert_deliveries")
    assert len(deliveries) == 9
    assert {labels: n for labels, n in deliveries.items() if n} == {
        ("high", "delivered"): 1,
        ("high", "pending"): 1,
        ("info", "delivered"): 1,
    }


def test_the_missing_inputs_of_the_newest_forecast_have_metrics(tmp_path: Path, models: Path) -> None:
    frames = published_frames(write_model(models / "model-7"), version=7)["forecasts"]
    newest = pl.col("made_at") == MADE_AT
    degraded = frames.with_columns(
        pl.lit(value=True).alias("degraded"),
        pl.when(newest).then(pl.lit("rsi,volume_ratio")).otherwise(pl.lit("rsi")).alias("missing_inputs"),
        (pl.col("horizon_minutes") / 2400).alias("missing_weight"),
        (pl.col("horizon_minutes") == 1440).alias("fallback"),
    )
    for forecasts, inputs, weights in ((degraded, 2, (0.025, 0.1, 0.6)), (frames, 0, (0, 0, 0))):
        publish_small(tmp_path, models, forecasts=forecasts)
        with served(tmp_path) as client:
            samples = scrape(client)
        assert samples["btc_forecast_missing_inputs", ()] == inputs
        horizons = [("60",), ("240",), ("1440",)]
        assert named(samples, "btc_forecast_missing_weight_ratio") == pytest.approx(
            dict(zip(horizons, weights, strict=True))
        )
        fallback = named(samples, "btc_forecast_fallback")
        assert fallback == {("60",): 0, ("240",): 0, ("1440",): float(inputs > 0)}


def test_severities_and_states_equal_those_of_the_alerts() -> None:
    assert SEVERITIES == rules.SEVERITIES
    assert set(STATES) == {outbox.PENDING, outbox.DELIVERED, outbox.UNDELIVERABLE}


def test_a_bundle_without_newer_tables_is_served_without_their_metrics(tmp_path: Path, models: Path) -> None:
    publish_small(tmp_path, models, drift_report=None, alerts=None)
    with served(tmp_path) as client:
        assert client.get("/v1/forecast").status_code == 200
        samples = scrape(client)
    names = {name for name, _ in samples}
    assert {"btc_forecast_up_probability", "btc_realised_accuracy_ratio"} <= names
    assert not {name for name in names if name.startswith(("btc_drift", "btc_alert"))}


def test_an_unreadable_table_omits_only_its_own_metrics(
    tmp_path: Path, models: Path, caplog: pytest.LogCaptureFixture
) -> None:
    odd = drift_frame(MADE_AT.date()).drop("alarm")
    publish_small(tmp_path, models, drift_report=odd, alerts=published_frames("0" * 64)["alerts"].clear())
    with served(tmp_path) as client:
        assert client.get("/v1/forecast").status_code == 200
        samples = scrape(client)
    assert not named(samples, "btc_drift_inputs_ratio")
    assert set(named(samples, "btc_alerts_raised").values()) == {0}
    assert "There are no metrics of drift_report" in caplog.text


def test_a_scrape_reads_no_database(tmp_path: Path, models: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    publish_small(tmp_path, models)
    with served(tmp_path) as client:
        monkeypatch.setattr(Store, "_query", lambda *_: pytest.fail("a scrape queried the database"))
        assert named(scrape(client), "btc_realised_outcomes")


def test_a_slow_scrape_does_not_block_other_requests(tmp_path: Path) -> None:
    started, release = threading.Event(), threading.Event()

    class Slow(Collector):
        def collect(self) -> Iterator[Metric]:
            started.set()
            yield GaugeMetricFamily("slow", "Waits.", release.wait(20))

    with served(tmp_path) as client:
        registry = client.app.state["metrics"]._registry
        registry._collector_to_names[Slow()] = ["slow"]  # registering would collect
        pages: list[Samples] = []
        scraper = threading.Thread(target=lambda: pages.append(scrape(client)))
        scraper.start()
        try:
            assert started.wait(10)
            assert client.get("/health").status_code == 200
            assert pages == []
        finally:
            release.set()
            scraper.join()
    assert pages[0]["slow", ()] == 1


def test_the_accept_header_selects_the_format(client: httpx.Client) -> None:
    assert client.get("/metrics").headers["content-type"].startswith("text/plain; version=0.0.4")
    response = client.get("/metrics", headers={"accept": "application/openmetrics-text; version=1.0.0"})
    assert response.headers["content-type"].startswith("application/openmetrics-text; version=1.0.0")
    assert response.text.endswith("# EOF\n")


def test_no_series_is_duplicated_and_none_has_a_creation_time(client: httpx.Client) -> None:
    client.get("/health")
    lines = [line.split(" ")[0] for line in client.get("/metrics").text.splitlines() if not line.startswith("#")]
    assert len(lines) == len(set(lines))
    assert not [line for line in lines if "_created" in line]
