"""The OpenAPI document is exact: valid requests succeed, invalid ones are refused and none fails."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import httpx
import pytest

from btc_assets_tests.conftest import WATCHDOG_S
from btc_assets_tests.serve.conftest import Server
from btc_assets_tests.serving.builders import FEATURE_NAMES

EXAMPLES = os.environ.get("SCHEMATHESIS_EXAMPLES", "10")
"""Examples per operation and phase; use 100 or more for a long run."""


@pytest.mark.slow
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
        "/v1/explanation",
        "/v1/predict",
        "/v1/explain",
        "/v1/model",
        "/v1/forecasts",
    }


@pytest.mark.slow
def test_schemathesis_finds_no_failure(server: Server, tmp_path: Path) -> None:
    """Run every check with valid and invalid data through the command line."""
    process = subprocess.run(
        [
            Path(sys.executable).with_name("schemathesis"),
            *(
                "run",
                f"{server.url}/schema",
                "--checks",
                "all",
                "--max-examples",
                EXAMPLES,
                *("--request-timeout", str(WATCHDOG_S), "--max-response-time", str(WATCHDOG_S)),
                "--no-color",
            ),
        ],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=False,
    )
    assert process.returncode == 0, process.stdout
    assert "8 selected / 8 total" in process.stdout
