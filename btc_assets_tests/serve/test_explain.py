"""A published forecast and a submitted row have reasons that add up; what cannot be explained is refused."""

from __future__ import annotations

import json
import math
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import httpx
import pytest
from litestar.testing import TestClient

from btc_assets.published import BUNDLES, NATIVE
from btc_assets_tests.serve.conftest import Server
from btc_assets_tests.serving.builders import FEATURE_NAMES, MADE_AT, publish_small
from serve.app import create_app
from serve.state import StateError, load_state

ROW: dict[str, float | None] = {name: 0.3 * i for i, name in enumerate(FEATURE_NAMES)}


def explain(client: httpx.Client, body: object, **parameters: str) -> httpx.Response:
    """Post a row."""
    return client.post("/v1/explain", json=body, params=parameters)


def total(horizon: dict[str, Any]) -> float:
    """Return the sum of the parts of an explanation, log-odds."""
    listed = sum(reason["contribution"] for side in ("raises", "lowers") for reason in horizon[side])
    return float(horizon["base"] + listed + horizon["others"] + horizon["unexplained"])


def log_odds(p: float) -> float:
    return math.log(p / (1 - p))


def test_the_newest_forecast_is_explained_by_default(client: httpx.Client) -> None:
    forecast, found = client.get("/v1/forecast").json(), client.get("/v1/explanation").json()
    assert found["made_at"] == forecast["made_at"]
    assert found["model"]["digest"] == forecast["model"]["digest"]
    assert [one["p_up"] for one in found["horizons"]] == [one["p_up"] for one in forecast["horizons"]]
    assert all(total(one) == pytest.approx(log_odds(one["p_up"]), abs=1e-6) for one in found["horizons"])
    assert found["horizons"][0]["sentence"]


def test_an_earlier_hour_is_explained(client: httpx.Client) -> None:
    newest = datetime.fromisoformat(client.get("/v1/explanation").json()["made_at"])
    made_at = (newest - timedelta(hours=3)).isoformat()
    found = client.get("/v1/explanation", params={"made_at": made_at}).json()
    assert datetime.fromisoformat(found["made_at"]) == newest - timedelta(hours=3)


@pytest.mark.parametrize(
    ("parameters", "status", "field"),
    [
        ({"made_at": "2001-01-01T00:00:00Z"}, 404, "made_at"),
        ({"made_at": "0001-01-01T00:00:00+14:00"}, 404, "made_at"),
        ({"made_at": "yesterday"}, 400, "made_at"),
        ({"made_at": "2025-07-01T00:00:00"}, 400, "made_at"),
        ({"hour": "1"}, 400, "hour"),
    ],
)
def test_another_time_is_refused(client: httpx.Client, parameters: dict[str, str], status: int, field: str) -> None:
    response = client.get("/v1/explanation", params=parameters)
    assert response.status_code == status
    assert response.json()["field"] == field
    assert response.json()["error"].endswith(".")


@pytest.mark.parametrize("row", [ROW, ROW | {"volume_ratio": None}], ids=["all known", "a member abstains"])
def test_the_parts_of_a_row_add_up_to_its_forecast(client: httpx.Client, row: dict[str, float | None]) -> None:
    predicted = client.post("/v1/predict", json=row).json()["rows"][0]["horizons"]
    explained = explain(client, row).json()
    assert (explained["method"], explained["approximate"]) == ("shap", [])
    for forecast, horizon in zip(predicted, explained["horizons"], strict=True):
        assert horizon["p_up"] == forecast["p_up"]
        assert total(horizon) == pytest.approx(log_odds(forecast["p_up"]), abs=1e-6)
        assert horizon["raises"] or horizon["lowers"]


def test_a_local_fit_adds_up_with_what_it_misses(client: httpx.Client) -> None:
    explained = explain(client, ROW, method="lime").json()
    assert explained == explain(client, ROW, method="lime").json(), "the same sets of values every time"
    for horizon in explained["horizons"]:
        assert total(horizon) == pytest.approx(log_odds(horizon["p_up"]), abs=1e-9)
        assert 0 < horizon["r_squared"] <= 1


@pytest.mark.parametrize(
    ("body", "parameters", "field"),
    [
        ([ROW, ROW], {}, "body"),
        (ROW | {"rsi": "<script>"}, {}, "rsi"),
        (ROW, {"method": "guess"}, "method"),
        (ROW, {"seed": "1"}, "seed"),
    ],
)
def test_an_invalid_request_is_refused(
    client: httpx.Client, body: object, parameters: dict[str, str], field: str
) -> None:
    response = explain(client, body, **parameters)
    assert response.status_code == 400
    assert response.json()["field"] == field


def test_a_bundle_without_reasons_serves_forecasts_and_says_what_it_lacks(tmp_path: Path) -> None:
    (tmp_path / "serving").mkdir()
    publication = publish_small(tmp_path / "serving", tmp_path, explanations=None)
    manifest = tmp_path / "serving" / BUNDLES / publication.bundle_id / "manifest.json"
    facts = json.loads(manifest.read_bytes())
    manifest.write_text(json.dumps({name: facts[name] for name in facts if name not in ("natives", "medians")}))
    with TestClient(create_app(tmp_path / "serving", clock=lambda: MADE_AT)) as client:
        assert client.get("/v1/forecast").status_code == 200
        assert client.get("/v1/explanation").status_code == 404
        for method in ("shap", "lime"):
            response = explain(client, ROW, method=method)
            assert response.status_code == 503
            assert "publish it again" in response.json()["error"]


def test_a_changed_member_is_refused(server: Server, tmp_path: Path) -> None:
    (tmp_path / "serving").mkdir()
    publication = publish_small(tmp_path / "serving", tmp_path)
    native = next((tmp_path / "serving" / BUNDLES / publication.bundle_id / NATIVE).iterdir())
    native.write_bytes(native.read_bytes() + b" ")
    with pytest.raises(StateError, match="was changed"):
        load_state(tmp_path / "serving", publication.bundle_id)
