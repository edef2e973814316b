"""Incomplete or changed model folders are refused; forecasts have valid probabilities and quantiles."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from btc_assets.learning.forecast_model import DOCUMENT, ForecastModel, ModelFileError, document_digest, save_model
from btc_assets_tests.serving.builders import FEATURE_NAMES, document, tiny_graphs, write_model

FINITE_OR_MISSING = st.one_of(st.just(np.nan), st.floats(-1e30, 1e30))


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a written model folder; copy it before changing it."""
    path = tmp_path_factory.mktemp("models") / "one"
    write_model(path)
    return path


@pytest.fixture(scope="module")
def model(folder: Path) -> ForecastModel:
    """Return the loaded model."""
    return ForecastModel.load(folder)


@pytest.fixture
def copy(folder: Path, tmp_path: Path) -> Path:
    """Return a copy of the folder that a test may damage."""
    return Path(shutil.copytree(folder, tmp_path / "copy"))


def test_the_saved_digest_equals_the_loaded_digest(folder: Path, model: ForecastModel) -> None:
    assert model.digest == json.loads((folder / DOCUMENT).read_text())["digest"]
    assert model.digest == document_digest(model.document)
    assert model.features == FEATURE_NAMES
    assert model.horizons == (60, 240, 1440)


def test_the_digest_depends_on_the_contents_only(tmp_path: Path, model: ForecastModel) -> None:
    assert write_model(tmp_path / "again") == model.digest
    changed = document(calibration={str(h): {"slope": 0.91, "intercept": 0.02} for h in (60, 240, 1440)})
    assert save_model(tmp_path / "other", changed, tiny_graphs()) != model.digest


@pytest.mark.parametrize("name", ["p_up_60m.onnx", "q95_1440m.onnx"])
@pytest.mark.parametrize("position", [0, 100, -1])
def test_one_flipped_byte_of_a_graph_is_refused(copy: Path, name: str, position: int) -> None:
    content = bytearray((copy / name).read_bytes())
    content[position] ^= 1
    (copy / name).write_bytes(content)
    with pytest.raises(ModelFileError, match=rf"{name} was changed"):
        ForecastModel.load(copy)


def test_any_change_of_the_document_is_refused(copy: Path) -> None:
    text = (copy / DOCUMENT).read_text()
    for before, after in (
        ('"slope": 0.9', '"slope": 0.8'),
        ("2019-06-03", "2019-06-04"),
        ('"auc": 0.55', '"auc": 0.99'),
    ):
        assert before in text
        (copy / DOCUMENT).write_text(text.replace(before, after, 1))
        with pytest.raises(ModelFileError, match="was changed"):
            ForecastModel.load(copy)


def test_every_flipped_byte_of_the_document_is_refused_or_has_no_effect(copy: Path, model: ForecastModel) -> None:
    content = (copy / DOCUMENT).read_bytes()
    for position in range(0, len(content), 37):
        damaged = bytearray(content)
        damaged[position] ^= 4
        (copy / DOCUMENT).write_bytes(damaged)
        try:
            loaded = ForecastModel.load(copy)
        except ModelFileError:
            continue
        assert loaded.document == model.document


@pytest.mark.parametrize("damage", ["graph", "document", "truncated", "not an object", "everything"])
def test_an_incomplete_folder_is_refused_with_a_reason(copy: Path, damage: str) -> None:
    if damage == "graph":
        (copy / "q50_240m.onnx").unlink()
    elif damage == "document":
        (copy / DOCUMENT).unlink()
    elif damage == "truncated":
        (copy / DOCUMENT).write_bytes((copy / DOCUMENT).read_bytes()[:500])
    elif damage == "not an object":
        (copy / DOCUMENT).write_text("[]")
    else:
        shutil.rmtree(copy)
    with pytest.raises(ModelFileError, match=r"cannot be read|is not JSON|must hold a JSON object"):
        ForecastModel.load(copy)


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        ({"scale": {"feature": "absent", "floor": 0.1, "null": 0.1}}, "not one of the model's features"),
        ({"horizons": [60, 240]}, "disagree about"),
        ({"quantiles": [0.1, 0.9]}, "must forecast the quantiles"),
        ({"calibration": {"60": {"slope": 1.0, "intercept": 0.0}}}, "missing or invalid part"),
        ({"cutoff": "soon"}, "missing or invalid part"),
        ({"conformal": {str(h): {"q5": 0.1} for h in (60, 240, 1440)}}, "not a finite number"),
    ],
)
def test_an_incomplete_document_is_not_saved(tmp_path: Path, change: dict[str, object], sentence: str) -> None:
    with pytest.raises(ModelFileError, match=sentence):
        save_model(tmp_path / "bad", document(**change), tiny_graphs())
    assert list(tmp_path.iterdir()) == []


def test_a_model_folder_is_never_overwritten(copy: Path) -> None:
    with pytest.raises(ModelFileError, match="already contains another model"):
        save_model(copy, document(cutoff="2019-06-10"), tiny_graphs())
    ForecastModel.load(copy)


def test_an_invalid_graph_is_refused(tmp_path: Path) -> None:
    save_model(tmp_path / "bad", document(), {**tiny_graphs(), "p_up_60m.onnx": b"not a graph"})
    with pytest.raises(ModelFileError, match=r"p_up_60m\.onnx is not a graph"):
        ForecastModel.load(tmp_path / "bad")


@settings(max_examples=60, deadline=None)
@given(rows=hnp.arrays(np.float64, st.tuples(st.integers(0, 12), st.just(4)), elements=FINITE_OR_MISSING))
def test_probabilities_are_valid_and_quantiles_never_cross(model: ForecastModel, rows: np.ndarray) -> None:
    for forecast in model.predict(rows).values():
        assert forecast.p_up.shape == (len(rows),)
        assert forecast.quantiles.shape == (len(rows), 5)
        assert ((forecast.p_up >= 0) & (forecast.p_up <= 1)).all()
        assert np.isfinite(forecast.quantiles).all()
        assert (np.diff(forecast.quantiles, axis=1) >= 0).all()


@settings(max_examples=60, deadline=None)
@given(rows=hnp.arrays(np.float64, st.tuples(st.integers(2, 20), st.just(4)), elements=FINITE_OR_MISSING))
def test_the_forecast_of_a_row_does_not_depend_on_other_rows(model: ForecastModel, rows: np.ndarray) -> None:
    together = model.predict_arrays(rows)
    for i in range(len(rows)):
        for alone, among in zip(model.predict_arrays(rows[i : i + 1]), together, strict=True):
            assert alone.tobytes() == among[i].tobytes()


def test_the_graphs_give_the_outputs_of_onnx_runtime(model: ForecastModel, tmp_path: Path) -> None:
    """Without calibration, offsets and scale, a forecast is the output of the sessions."""
    plain = document(
        calibration={str(h): {"slope": 1.0, "intercept": 0.0} for h in (60, 240, 1440)},
        conformal={str(h): {} for h in (60, 240, 1440)},
    )
    save_model(tmp_path / "plain", plain, tiny_graphs())
    uncorrected = ForecastModel.load(tmp_path / "plain")
    row = np.array([[0.3, np.nan, -1.0, 0.01]])
    for horizon in model.horizons:
        raw, corrected = uncorrected.predict(row)[horizon], model.predict(row)[horizon]
        log_odds = 0.9 * np.log(raw.p_up / (1 - raw.p_up)) + 0.02
        assert corrected.p_up == pytest.approx(1 / (1 + np.exp(-log_odds)), abs=1e-12)
        moved = raw.quantiles + 0.01 * np.sqrt(horizon / 60) * np.array([-0.1, -0.02, 0, 0.02, 0.1])
        assert corrected.quantiles == pytest.approx(np.sort(moved, axis=1), abs=1e-12)


def test_the_scale_has_a_floor_and_a_default_for_unknown_values(model: ForecastModel) -> None:
    width = {}
    for name, volatility in {"calm": 0.0, "floor": 0.0005, "unknown": np.nan, "stated": 0.005}.items():
        forecast = model.predict(np.array([[0.3, 0.1, -1.0, volatility]]))[240]
        width[name] = float(forecast.quantiles[0, -1] - forecast.quantiles[0, 0])
    assert width["calm"] == pytest.approx(width["floor"], rel=1e-9)
    assert width["unknown"] > width["calm"]


@pytest.mark.parametrize("rows", [np.zeros((2, 3)), np.zeros(4), np.array([[0.0, np.inf, 0.0, 0.0]])])
def test_rows_of_another_shape_or_with_infinities_are_refused(model: ForecastModel, rows: np.ndarray) -> None:
    with pytest.raises(ValueError, match="rows"):
        model.predict(rows)
