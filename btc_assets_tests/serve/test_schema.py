"""The OpenAPI document is exact: what it allows is answered, what it forbids is refused, nothing fails."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import httpx

from btc_assets_tests.serve.conftest import Server
from btc_assets_tests.serving.builders import FEATURE_NAMES


def test_the_document_names_the_features_of_the_loaded_model(client: httpx.Client) -> None:
    document = client.get("/schema").json()
    assert document == client.get("/schema/openapi.json").json()
    row = document["components"]["schemas"]["FeatureRow"]
    assert row["required"] == list(FEATURE_NAMES)
    assert row["additionalProperties"] is False
    assert set(document["paths"]) == {
        "/health",
        "/ready",
        "/v1/forecast",
        "/v1/predict",
        "/v1/model",
        "/v1/forecasts",
    }


def test_schemathesis_finds_nothing(server: Server, tmp_path: Path) -> None:
    """Every check, valid and invalid data; run as its users run it."""
    found = subprocess.run(
        [
            Path(sys.executable).with_name("schemathesis"),
            *("run", f"{server.url}/schema", "--checks", "all", "--max-examples", "40", "--no-color"),
        ],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=80,
        check=False,
    )
    assert found.returncode == 0, found.stdout
    assert "6 selected / 6 total" in found.stdout
