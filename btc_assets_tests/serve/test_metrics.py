"""What Prometheus is told: requests by bounded labels, and the figures of the bundle that is served."""

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
    """Serve a folder with the clock standing at `now`."""
    with TestClient(create_app(folder, clock=lambda: now), raise_server_exceptions=False) as client:
        yield client


def scrape(client: TestClient[Litestar] | httpx.Client) -> Samples:
    """Return every sample: its value by name and label values, these in the order of the label names."""
    answer = client.get("/metrics")
    assert answer.status_code == 200
    return {
        (sample.name, tuple(value for _, value in sorted(sample.labels.items()))): sample.value
        for family in text_string_to_metric_families(answer.text)
        for sample in family.samples
    }


def named(samples: Samples, name: str) -> dict[tuple[str, ...], float]:
    """Return the samples of one name by their label values."""
    return {labels: value for (found, labels), value in samples.items() if found == name}


def test_requests_are_counted_by_the_routes_there_are(tmp_path: Path, models: Path) -> None:
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
    answered = named(samples, "btc_http_request_duration_seconds_count")
    assert answered == {("/v1/forecast",): 3, ("/v1/forecasts",): 2, ("/v1/predict",): 1, ("unmatched",): 81}
    seconds = named(samples, "btc_http_request_duration_seconds_sum")
    assert all(0 < seconds[route] / n < 1 for route, n in answered.items())


def test_a_failure_of_our_own_is_counted_as_one(tmp_path: Path, models: Path) -> None:
    publish_small(tmp_path, models)
    with served(tmp_path) as client:
        client.app.state["watcher"].state.store._connection.close()
        assert client.get("/v1/forecasts").status_code == 500
        assert named(scrape(client), "btc_http_requests_total") == {("GET", "/v1/forecasts", "500"): 1}


def test_two_apps_do_not_share_what_they_count(tmp_path: Path) -> None:
    with served(tmp_path) as one, served(tmp_path) as other:
        one.get("/health")
        assert named(scrape(one), "btc_http_requests_total") == {("GET", "/health", "200"): 1}
        assert named(scrape(other), "btc_http_requests_total") == {}


def test_without_a_bundle_the_page_says_so_and_after_a_swap_tells_the_new_one(tmp_path: Path, models: Path) -> None:
    with served(tmp_path) as client:
        samples = scrape(client)
        assert (samples["btc_bundle_loaded", ()], samples["btc_bundle_fault", ()]) == (0, 1)
        assert not named(samples, "btc_model_version")
        for seed in (7, 8):
            publish_small(tmp_path, models, seed=seed, made_at=MADE_AT + timedelta(hours=seed))
            client.app.state["watcher"].look()
            samples = scrape(client)
            assert (samples["btc_bundle_loaded", ()], samples["btc_bundle_fault", ()]) == (1, 0)
            assert samples["btc_model_version", ()] == seed
        bundle_id = publish_small(tmp_path, models, made_at=MADE_AT + timedelta(hours=9)).bundle_id
        (tmp_path / "bundles" / bundle_id / "serving.duckdb").unlink()
        client.app.state["watcher"].look()
        samples = scrape(client)
        assert (samples["btc_bundle_loaded", ()], samples["btc_bundle_fault", ()]) == (1, 1)
        assert samples["btc_model_version", ()] == 8


def test_ages_are_those_at_the_time_of_the_scrape(tmp_path: Path, models: Path) -> None:
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
    facts = json.loads(manifest.read_text())
    noted = (MADE_AT + timedelta(seconds=21.5)).isoformat()
    for published_at, delay in ((noted, {(): 21.5}), (None, {})):  # None as an older version of the project left it
        told = facts | {"published_at": published_at}
        manifest.write_text(json.dumps({name: value for name, value in told.items() if value is not None}))
        with served(tmp_path) as client:
            assert named(scrape(client), "btc_publication_delay_seconds") == delay
            answer = client.get("/v1/forecast").json()["published_at"]
            assert (answer and datetime.fromisoformat(answer)) == (
                published_at and datetime.fromisoformat(published_at)
            )


def outcomes_of_three_roles() -> pl.DataFrame:
    """Return outcomes of 40 days whose quality differs by role, horizon and time, sure and wrong ones among them."""
    rng = np.random.default_rng(3)
    base = published_frames("0" * 64)["forecast_outcomes"].head(1)
    hours = 40 * 24
    parts = []
    for role in ("champion", "newest", "one of later"):
        for horizon in (1, 4, 24):
            p_up = np.where(rng.random(hours) < 0.05, rng.integers(0, 2, hours), rng.uniform(0.3, 0.7, hours))
            p_up[:20] = 0.5
            known_at = [MADE_AT - timedelta(hours=back) for back in reversed(range(hours))]
            parts.append(
                pl.concat([base] * hours).with_columns(
                    role=pl.lit(role),
                    horizon_hours=pl.lit(horizon, pl.Int64),
                    p_up=pl.Series(p_up),
                    log_return=pl.Series(rng.normal(0, 0.01, hours).round(2)),
                    known_at=pl.Series(known_at).dt.cast_time_unit("us"),
                    open_time=pl.Series(known_at).dt.cast_time_unit("us") - pl.duration(hours=horizon + 1),
                )
            )
    return pl.concat(parts).select(list(FORECAST_OUTCOMES.columns))


def test_realised_figures_are_those_of_the_performance_report(tmp_path: Path, models: Path) -> None:
    outcomes = outcomes_of_three_roles()
    publish_small(tmp_path, models, forecast_outcomes=outcomes)
    with served(tmp_path) as client:
        samples = scrape(client)
    for window, span in WINDOWS.items():
        recent = outcomes.filter(pl.col("known_at") > MADE_AT - span)
        assert recent.height == (7 if window == "7d" else 40) * 24 * 9
        for (role, horizon), rows in recent.group_by("role", "horizon_hours"):
            labels = (str(horizon), role, window)
            made, happened = rows["p_up"].to_numpy(), rows["log_return"].to_numpy()
            assert samples["btc_realised_outcomes", labels] == rows.height
            assert samples["btc_realised_accuracy_ratio", labels] == pytest.approx(
                metrics.accuracy(made, happened).value, rel=1e-12
            )
            assert samples["btc_realised_log_loss_nats", labels] == pytest.approx(
                metrics.log_loss(made, happened).value, rel=1e-12
            )
    assert len(named(samples, "btc_realised_outcomes")) == 2 * 9


def test_the_forecast_drift_and_alerts_are_told(tmp_path: Path, models: Path) -> None:
    publish_small(tmp_path, models)
    with served(tmp_path) as client:
        samples = scrape(client)
        forecast = client.get("/v1/forecast").json()
    p_up = {(str(horizon["horizon_hours"]),): horizon["p_up"] for horizon in forecast["horizons"]}
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


def test_the_missing_inputs_of_the_newest_forecast_are_a_metric(tmp_path: Path, models: Path) -> None:
    frames = published_frames(write_model(models / "model-7"), version=7)["forecasts"]
    newest = pl.col("made_at") == MADE_AT
    told = frames.with_columns(
        pl.lit(value=True).alias("degraded"),
        pl.when(newest).then(pl.lit("rsi,volume_ratio")).otherwise(pl.lit("rsi")).alias("missing_inputs"),
        (pl.col("horizon_hours") / 40).alias("missing_weight"),
        (pl.col("horizon_hours") == 24).alias("fallback"),
    )
    for forecasts, inputs, weights in ((told, 2, (0.025, 0.1, 0.6)), (frames, 0, (0, 0, 0))):
        publish_small(tmp_path, models, forecasts=forecasts)
        with served(tmp_path) as client:
            samples = scrape(client)
        assert samples["btc_forecast_missing_inputs", ()] == inputs
        horizons = [("1",), ("4",), ("24",)]
        assert named(samples, "btc_forecast_missing_weight_ratio") == pytest.approx(
            dict(zip(horizons, weights, strict=True))
        )
        fallback = named(samples, "btc_forecast_fallback")
        assert fallback == {("1",): 0, ("4",): 0, ("24",): float(inputs > 0)}


def test_severities_and_states_are_those_of_the_alerts() -> None:
    assert SEVERITIES == rules.SEVERITIES
    assert set(STATES) == {outbox.PENDING, outbox.DELIVERED, outbox.UNDELIVERABLE}


def test_a_bundle_of_an_older_version_is_served_without_what_it_lacks(tmp_path: Path, models: Path) -> None:
    publish_small(tmp_path, models, drift_report=None, alerts=None)
    with served(tmp_path) as client:
        assert client.get("/v1/forecast").status_code == 200
        samples = scrape(client)
    told = {name for name, _ in samples}
    assert {"btc_forecast_up_probability", "btc_realised_accuracy_ratio"} <= told
    assert not {name for name in told if name.startswith(("btc_drift", "btc_alert"))}


def test_a_table_that_cannot_be_read_costs_its_own_figures_only(
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
        monkeypatch.setattr(Store, "_query", lambda *_: pytest.fail("a scrape asked the database"))
        assert named(scrape(client), "btc_realised_outcomes")


def test_a_slow_scrape_holds_nobody_up(tmp_path: Path) -> None:
    begun, go_on = threading.Event(), threading.Event()

    class Slow(Collector):
        def collect(self) -> Iterator[Metric]:
            begun.set()
            yield GaugeMetricFamily("slow", "Waits.", go_on.wait(20))

    with served(tmp_path) as client:
        registry = client.app.state["metrics"]._registry
        registry._collector_to_names[Slow()] = ["slow"]  # registering would collect
        pages: list[Samples] = []
        scraper = threading.Thread(target=lambda: pages.append(scrape(client)))
        scraper.start()
        try:
            assert begun.wait(10)
            assert client.get("/health").status_code == 200
            assert pages == []
        finally:
            go_on.set()
            scraper.join()
    assert pages[0]["slow", ()] == 1


def test_the_format_is_the_one_asked_for(client: httpx.Client) -> None:
    assert client.get("/metrics").headers["content-type"].startswith("text/plain; version=0.0.4")
    answer = client.get("/metrics", headers={"accept": "application/openmetrics-text; version=1.0.0"})
    assert answer.headers["content-type"].startswith("application/openmetrics-text; version=1.0.0")
    assert answer.text.endswith("# EOF\n")


def test_no_series_is_told_twice_and_none_that_nobody_asked_for(client: httpx.Client) -> None:
    client.get("/health")
    lines = [line.split(" ")[0] for line in client.get("/metrics").text.splitlines() if not line.startswith("#")]
    assert len(lines) == len(set(lines))
    assert not [line for line in lines if "_created" in line]
