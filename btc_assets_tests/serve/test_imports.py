"""The server loads no library for training, plotting or orchestration."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

from btc_assets.settings import PROJECT_ROOT
from btc_assets_tests.serving.builders import FEATURE_NAMES, publish_small

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
    "onnxmltools",
    "pyarrow",
}


def test_the_server_loads_no_training_library_even_after_a_prediction(tmp_path: Path) -> None:
    (tmp_path / "serving").mkdir()
    publish_small(tmp_path / "serving", tmp_path)
    code = f"""
import json, sys
from pathlib import Path
from litestar.testing import TestClient
import serve.__main__
from serve.app import create_app
with TestClient(create_app(Path({str(tmp_path / "serving")!r}))) as client:
    assert client.get("/v1/forecast").status_code == 200
    assert client.get("/schema").status_code == 200
    assert client.get("/v1/explanation").status_code == 200
    assert client.post("/v1/predict", json=dict.fromkeys({FEATURE_NAMES!r}, 0.1)).status_code == 200
    row = dict.fromkeys({FEATURE_NAMES!r}, 0.1)
    assert client.post("/v1/explain?method=lime", json=row).status_code == 200
print(json.dumps(sorted({{name.partition(".")[0] for name in sys.modules}})))
"""
    process = subprocess.run([sys.executable, "-c", code], cwd=PROJECT_ROOT, capture_output=True, text=True, check=True)
    loaded = set(json.loads(process.stdout))
    assert "onnxruntime" in loaded
    assert loaded.isdisjoint(TRAINING), sorted(loaded.intersection(TRAINING))
