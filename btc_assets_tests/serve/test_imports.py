"""The server starts light: it loads no library that trains, plots or orchestrates."""

from __future__ import annotations

import json
import subprocess
import sys

from btc_assets.settings import PROJECT_ROOT

TRAINING = {
    "dagster",
    "mlflow",
    "xgboost",
    "sklearn",
    "optuna",
    "shap",
    "scipy",
    "statsmodels",
    "arch",
    "torch",
    "transformers",
    "evidently",
    "pandas",
    "polars",
    "pandera",
    "matplotlib",
    "onnx",
    "onnxmltools",
    "pyarrow",
}


def test_no_training_library_is_loaded_by_the_server_even_after_it_has_predicted() -> None:
    code = """
import json, sys, tempfile
from pathlib import Path
from litestar.testing import TestClient
import serve.__main__
from serve.app import create_app
import numpy, onnxruntime, duckdb
with TestClient(create_app(Path(tempfile.mkdtemp()))) as client:
    assert client.get("/v1/forecast").status_code == 503
    assert client.get("/schema").status_code == 200
print(json.dumps(sorted({name.partition(".")[0] for name in sys.modules})))
"""
    answer = subprocess.run([sys.executable, "-c", code], cwd=PROJECT_ROOT, capture_output=True, text=True, check=True)
    loaded = set(json.loads(answer.stdout))
    assert "onnxruntime" in loaded
    assert loaded.isdisjoint(TRAINING), sorted(loaded.intersection(TRAINING))
