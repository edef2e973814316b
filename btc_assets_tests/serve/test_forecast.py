"""The published forecast is served completely, with its age and its degradation."""

from __future__ import annotations

import math
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import httpx
import polars as pl
import pytest
from litestar import Litestar
from litestar.testing import TestClient

from btc_assets_tests.serve.conftest import Server, running_server, this_hour
from btc_assets_tests.serving.builders import FEATURE_NAMES, MADE_AT, publish_small, published_frames, write_model
from serve.app import create_app


@contextmanager
def served_at(now: datetime, folder: Path) -> Iterator[TestClient[Litestar]]:
    """Serve a folder with the clock fixed at `now`."""
    with TestClient(create_app(folder, clock=lambda: now)) as client:
        yield client


def test_the_forecast_of_this_hour_is_served_for_every_horizon(client: httpx.Client) -> None:
    response = client.get("/v1/forecast").json()
    made_at = datetime.fromisoformat(response["made_at"])
    assert this_hour() - made_at <= timedelta(hours=1)
    assert datetime.fromisoformat(response["valid_until"]) == made_at + timedelta(hours=1)
    assert response["age_seconds"] >= 0
    assert response["model"].keys() == {"version", "cutoff", "digest"}
    assert [horizon["horizon_minutes"] for horizon in response["horizons"]] == [60, 240, 1440]
    for horizon in response["horizons"]:
        assert datetime.fromisoformat(horizon["target_time"]) == made_at + timedelta(minutes=horizon["horizon_minutes"])
        assert 0 <= horizon["p_up"] <= 1
        price = horizon["price"]
        assert price["median"] == pytest.approx(response["close"] * math.exp(horizon["median_return"]))
        for name in ("interval_50", "interval_90"):
            for end in ("lower", "upper"):
                assert price[name][end] == pytest.approx(response["close"] * math.exp(horizon[name][end]))
        ends = [horizon["interval_90"]["lower"], horizon["interval_50"]["lower"], horizon["median_return"]]
        ends += [horizon["interval_50"]["upper"], horizon["interval_90"]["upper"]]
        assert ends == sorted(ends)


@pytest.mark.parametrize(
    ("age", "stale", "sentence"),
    [
        (timedelta(minutes=5), False, None),
        (timedelta(minutes=75), False, None),
        (timedelta(minutes=76), True, "1 h 16 min ago"),
        (timedelta(days=2560), True, "2560 days ago"),
        (-timedelta(minutes=1), False, None),
    ],
)
def test_a_stale_forecast_is_marked_with_its_age(
    tmp_path: Path, models: Path, age: timedelta, stale: bool, sentence: str | None
) -> None:
    publish_small(tmp_path, models)
    with served_at(MADE_AT + age, tmp_path) as client:
        response = client.get("/v1/forecast").json()
    assert response["stale"] is stale
    assert response["age_seconds"] == max(age.total_seconds(), 0)
    assert (sentence in response["note"]) if sentence else (response["note"] is None)


def degraded_forecasts(models: Path) -> pl.DataFrame:
    """Return published forecasts whose newest hour has two missing inputs and a fallback for 24 h."""
    complete = published_frames(write_model(models / "model-7"), version=7)["forecasts"]
    newest = pl.col("made_at") == MADE_AT
    return complete.with_columns(
        newest.alias("degraded"),
        pl.when(newest).then(pl.lit("rsi,volume_ratio")).otherwise(pl.lit("")).alias("missing_inputs"),
        pl.when(newest).then(pl.col("horizon_minutes") / 2400).otherwise(0.0).alias("missing_weight"),
        (newest & (pl.col("horizon_minutes") == 1440)).alias("fallback"),
    )


def forecasts_of(folder: Path) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    """Return the newest forecast of a served folder and its past forecasts."""
    with served_at(MADE_AT, folder) as client:
        past = client.get("/v1/forecasts", params={"to": (MADE_AT + timedelta(hours=1)).isoformat()}).json()
        return client.get("/v1/forecast").json(), past["forecasts"]


def test_a_degraded_forecast_is_marked_and_names_its_missing_inputs(tmp_path: Path, models: Path) -> None:
    publish_small(tmp_path, models, forecasts=degraded_forecasts(models))
    response, past = forecasts_of(tmp_path)
    assert (response["degraded"], response["missing_inputs"]) == (True, ["rsi", "volume_ratio"])
    assert [horizon["fallback"] for horizon in response["horizons"]] == [False, False, True]
    assert "more inputs are missing than the model saw in training" in response["note"]
    assert "rsi, volume_ratio" in response["note"]
    assert "forecast for 24 h is the base rate" in response["note"]
    degraded_rows = [row for row in past if row["degraded"]]
    assert [row["horizon_minutes"] for row in degraded_rows] == [60, 240, 1440]
    assert all(row["missing_inputs"] == ["rsi", "volume_ratio"] for row in degraded_rows)
    assert [row["fallback"] for row in degraded_rows] == [False, False, True]
    assert all(row["missing_inputs"] == [] for row in past if not row["degraded"])


def test_a_forecast_without_missing_inputs_is_not_degraded(client: httpx.Client) -> None:
    response = client.get("/v1/forecast").json()
    assert (response["degraded"], response["missing_inputs"]) == (False, [])
    assert not any(horizon["fallback"] for horizon in response["horizons"])


def test_only_health_returns_200_before_the_first_forecast(tmp_path: Path, models: Path) -> None:
    (tmp_path / "serving").mkdir()
    with running_server(tmp_path, models) as server:
        assert httpx.get(f"{server.url}/health").json() == {"status": "ok"}
        for path in ("/ready", "/v1/forecast", "/v1/model", "/v1/forecasts"):
            response = httpx.get(server.url + path)
            assert response.status_code == 503
            assert "No forecast has been published yet" in response.json()["error"]
        assert httpx.post(f"{server.url}/v1/predict", json={}).status_code == 503
        assert httpx.get(f"{server.url}/schema").status_code == 200
        server.wait_for(publish_small(server.serving_dir, models).bundle_id)
        for path in ("/v1/forecast", "/v1/model", "/v1/forecasts"):
            assert httpx.get(server.url + path).status_code == 200


def test_the_model_endpoint_has_descriptions_and_a_valid_row(client: httpx.Client) -> None:
    response = client.get("/v1/model").json()
    assert [feature["name"] for feature in response["features"]] == list(FEATURE_NAMES)
    assert all(feature["unit"] for feature in response["features"])
    assert response["metrics"]["60"]["log_loss"] == 0.69
    assert client.post("/v1/predict", json=response["newest_features"]).status_code == 200


def test_unknown_paths_and_methods_have_json_errors(client: httpx.Client) -> None:
    missing = client.get("/v2/forecast")
    assert (missing.status_code, "/v2/forecast does not exist" in missing.json()["error"]) == (404, True)
    wrong = client.delete("/v1/forecast")
    assert (wrong.status_code, "does not support DELETE" in wrong.json()["error"]) == (405, True)
    assert "GET" in wrong.headers["allow"]


def test_the_server_is_ready_within_four_seconds_of_cpu(server: Server) -> None:
    print(f"\nready after {server.cpu_s_to_ready:.2f} s of CPU")
    assert server.cpu_s_to_ready < 4, "2 s on an idle machine; the bound allows for a slow or busy one"
