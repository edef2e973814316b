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

from btc_assets.learning.forecast_model import (
    DOCUMENT,
    ForecastModel,
    ModelFileError,
    document_digest,
    graph_inputs,
    save_model,
)
from btc_assets.vocabulary import HORIZONS
from btc_assets_tests.serving.builders import FEATURE_NAMES, document, member, tiny_graphs, volatility, write_model

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
    changed = document(members=[member("flow"), member("plain", weights={str(h): [0.4] for h in HORIZONS})])
    assert save_model(tmp_path / "other", changed, tiny_graphs()) != model.digest


@pytest.mark.parametrize("name", ["flow.p_up_60m.onnx", "intervals.q95_1440m.onnx"])
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
        (copy / "intervals.q50_240m.onnx").unlink()
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
        ({"volatility": volatility([60, 240, 720])}, "of other horizons or features"),
        ({"volatility": {"horizons": list(HORIZONS), "models": [{"coefficients": {}}]}}, "missing or invalid part"),
        ({"features": [{"name": name} for name in (*FEATURE_NAMES[:3], "a", "b", "c")]}, "horizons or features"),
        ({"horizons": [60, 240]}, "disagree about"),
        ({"quantiles": [0.1, 0.9]}, "must forecast the quantiles"),
        ({"members": [member("flow", calibration={"60": {"slope": 1.0, "intercept": 0.0}})]}, "missing or invalid"),
        ({"members": [member("flow", name="../flow")]}, "in lower-case letters and digits"),
        ({"members": [member("flow"), member("flow")]}, "each once"),
        ({"members": []}, "at least one member"),
        ({"members": [member("flow", required=[6])]}, "not among the 6 features"),
        ({"members": [member("flow", weights={str(h): [-0.5] for h in HORIZONS})]}, "a weight below 0"),
        ({"members": [member("flow", weights={str(h): [0.5, 0.5] for h in HORIZONS})]}, "one weight for each"),
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
    save_model(tmp_path / "bad", document(), {**tiny_graphs(), "flow.p_up_60m.onnx": b"not a graph"})
    with pytest.raises(ModelFileError, match=r"flow\.p_up_60m\.onnx is not a graph"):
        ForecastModel.load(tmp_path / "bad")


@settings(max_examples=60, deadline=None)
@given(rows=hnp.arrays(np.float64, st.tuples(st.integers(0, 12), st.just(6)), elements=FINITE_OR_MISSING))
def test_probabilities_are_valid_and_quantiles_never_cross(model: ForecastModel, rows: np.ndarray) -> None:
    forecasts = model.predict(rows)
    for forecast in map(forecasts.__getitem__, model.horizons):
        assert forecast.p_up.shape == (len(rows),)
        assert forecast.quantiles.shape == (len(rows), 5)
        assert ((forecast.p_up >= 0) & (forecast.p_up <= 1)).all()
        assert np.isfinite(forecast.quantiles).all()
        assert (np.diff(forecast.quantiles, axis=1) >= 0).all()


@settings(max_examples=60, deadline=None)
@given(rows=hnp.arrays(np.float64, st.tuples(st.integers(2, 20), st.just(6)), elements=FINITE_OR_MISSING))
def test_the_forecast_of_a_row_does_not_depend_on_other_rows(model: ForecastModel, rows: np.ndarray) -> None:
    together = model.predict(rows)
    for i in range(len(rows)):
        alone = model.predict(rows[i : i + 1])
        for part in ("p_up", "quantiles", "sigma", "abstains", "unfounded"):
            assert getattr(alone, part).tobytes() == getattr(together, part)[i].tobytes()


def saved(folder: Path, **changes: object) -> ForecastModel:
    stated = document(**changes)
    save_model(folder, stated, {name: tiny_graphs()[name] for name in graph_inputs(stated)})
    return ForecastModel.load(folder)


def plain(name: str, /, **changes: object) -> dict[str, object]:
    """Return a member without calibration."""
    return member(name, calibration={str(h): {"slope": 1.0, "intercept": 0.0} for h in HORIZONS}, **changes)


HOURLY = 2 * np.log(0.01)
ROW = np.array([[0.3, np.nan, -1.0, HOURLY, 12.0, 3.0]])


def log_odds(p: np.ndarray) -> np.ndarray:
    return np.log(p / (1 - p))


def test_the_forecast_is_the_weighted_mean_of_the_members_calibrated_log_odds(
    model: ForecastModel, tmp_path: Path
) -> None:
    """With one member, without calibration and offsets, a forecast is the output of the sessions."""
    flow, other = (
        saved(tmp_path / name, members=[plain(name)], conformal={str(h): {} for h in HORIZONS}).predict(ROW)
        for name in ("flow", "plain")
    )
    thrice = saved(
        tmp_path / "thrice", members=[member("flow", weights={str(h): [1.5] for h in HORIZONS}), member("plain")]
    ).predict(ROW)
    for horizon in model.horizons:
        raw = [0.9 * log_odds(one[horizon].p_up) + 0.02 for one in (flow, other)]
        assert log_odds(model.predict(ROW)[horizon].p_up) == pytest.approx((raw[0] + raw[1]) / 2, abs=1e-9)
        assert log_odds(thrice[horizon].p_up) == pytest.approx((3 * raw[0] + raw[1]) / 4, abs=1e-9)
        moved = flow[horizon].quantiles + 0.01 * np.sqrt(horizon / 60) * np.array([-0.1, -0.02, 0, 0.02, 0.1])
        assert model.predict(ROW)[horizon].quantiles == pytest.approx(np.sort(moved, axis=1), abs=1e-12)


def test_a_member_without_an_input_that_it_requires_abstains_and_the_others_share_its_weight(
    model: ForecastModel, tmp_path: Path
) -> None:
    rows = np.array([[0.3, 0.1, np.nan, HOURLY, 12.0, 3.0], [np.nan, 0.1, -1.0, HOURLY, 12.0, 3.0]])
    forecasts, alone = model.predict(rows), saved(tmp_path / "alone", members=[member("plain")]).predict(rows)
    assert forecasts.abstains.tolist() == [[True, False], [False, False]]
    assert forecasts.p_up[0].tobytes() == alone.p_up[0].tobytes()
    assert (forecasts.p_up[1] != alone.p_up[1]).all()


def test_a_value_that_is_only_a_substitute_is_missing_too(model: ForecastModel) -> None:
    filled = np.array([[0.3, 0.1, 0.7, HOURLY, 12.0, 3.0]])
    missing = np.array([[False, False, True, False, False, False]])
    assert model.predict(filled, missing).abstains.tolist() == [[True, False]]
    assert model.predict(filled).abstains.tolist() == [[False, False]]


def test_nobody_abstains_where_everybody_would(tmp_path: Path) -> None:
    both = saved(tmp_path / "both", members=[member("flow"), member("plain", required=[0])])
    rows = np.array([[np.nan, 0.1, np.nan, HOURLY, 12.0, 3.0], [np.nan, 0.1, 0.5, HOURLY, 12.0, 3.0]])
    forecasts = both.predict(rows)
    undemanding = saved(tmp_path / "undemanding", members=[member("flow", required=[]), member("plain")])
    assert forecasts.unfounded.tolist() == [True, False]
    assert forecasts.abstains.tolist() == [[False, False], [False, True]]
    assert forecasts.p_up[0].tobytes() == undemanding.predict(rows).p_up[0].tobytes()


def test_a_coin_pulls_the_forecast_towards_one_half(model: ForecastModel, tmp_path: Path) -> None:
    weighing = {"option": "experts", "coin": {str(h): 1.0 for h in HORIZONS}, "edges": {str(h): [] for h in HORIZONS}}
    pulled = saved(tmp_path / "pulled", weights=weighing).predict(ROW)
    assert log_odds(pulled.p_up) == pytest.approx(log_odds(model.predict(ROW).p_up) / 2, abs=1e-9)


def test_the_tercile_of_volatility_chooses_the_weights(tmp_path: Path) -> None:
    edges = {str(h): [0.002 * (h / 60) ** 0.5, 0.02 * (h / 60) ** 0.5] for h in HORIZONS}
    weighing = {"option": "regime", "coin": {str(h): 0.0 for h in HORIZONS}, "edges": edges}
    flow, other = ({str(h): list(w) for h in HORIZONS} for w in ((1.0, 0.5, 0.0), (0.0, 0.5, 1.0)))
    regime = saved(
        tmp_path / "regime", weights=weighing, members=[plain("flow", weights=flow), plain("plain", weights=other)]
    )
    singles = [saved(tmp_path / name, members=[plain(name)]) for name in ("flow", "plain")]
    calm, wild = (np.array([[0.3, 0.1, -1.0, 2 * np.log(volatility), 12.0, 3.0]]) for volatility in (0.001, 0.03))
    assert regime.predict(calm).p_up.tobytes() == singles[0].predict(calm).p_up.tobytes()
    assert regime.predict(wild).p_up.tobytes() == singles[1].predict(wild).p_up.tobytes()


def test_sigma_is_that_of_the_volatility_model_without_substitutes(model: ForecastModel) -> None:
    """A lost input is replaced for the members, but the volatility model does without it."""
    hours = np.array(model.horizons) / 60
    assert model.predict(ROW).sigma[0] == pytest.approx(0.01 * np.sqrt(hours))
    lost = np.array([[False, False, False, True, False, False]])
    assert model.predict(ROW, lost).sigma[0] == pytest.approx(0.005 * np.sqrt(hours))


@pytest.mark.parametrize("rows", [np.zeros((2, 3)), np.zeros(6), np.array([[0.0, np.inf, 0.0, 0.0, 0.0, 0.0]])])
def test_rows_of_another_shape_or_with_infinities_are_refused(model: ForecastModel, rows: np.ndarray) -> None:
    with pytest.raises(ValueError, match="rows"):
        model.predict(rows)
