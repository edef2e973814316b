"""The contract of every model family."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import fields

import numpy as np
import pytest

from btc_assets.evaluation.metrics import auc
from btc_assets.learning.export import ParityError, parity_error, parity_rows
from btc_assets.learning.families.protocol import Fit, FittedOutput, Parameters
from btc_assets.learning.families.registry import FAMILIES, family
from btc_assets.learning.families.xgboost import XgboostParameters
from btc_assets.learning.folds import Rows
from btc_assets.learning.training import scales, up
from btc_assets.vocabulary import QUANTILE_NAMES

QUICK: dict[str, Parameters] = {"xgboost": XgboostParameters(rounds=40, quantile_rounds=30)}
"""Parameters of small models."""


def direction(name: str, rows: Rows) -> FittedOutput:
    return family(name).fit_direction(rows.inputs, up(rows), np.ones(len(rows)), QUICK[name], Fit(rows.names, seed=1))


@pytest.fixture(scope="module", params=FAMILIES)
def name(request: pytest.FixtureRequest) -> str:
    return request.param


@pytest.fixture(scope="module")
def outputs(name: str, rows: dict[int, Rows]) -> Mapping[str, FittedOutput]:
    one, fit = rows[60], family(name).fit_quantiles
    assert fit is not None
    scaled = one.log_return / scales(one, 60)
    quantiles = fit(one.inputs, scaled, np.ones(len(one)), QUICK[name], Fit(one.names, seed=1))
    return {"p_up": direction(name, one), **quantiles}


def test_a_signal_is_learned(outputs: Mapping[str, FittedOutput], rows: dict[int, Rows]) -> None:
    assert (auc(outputs["p_up"].predict(rows[60].inputs), rows[60].log_return).value or 0) > 0.6


def test_probabilities_are_between_zero_and_one(outputs: Mapping[str, FittedOutput], rows: dict[int, Rows]) -> None:
    p_up = outputs["p_up"].predict(rows[60].inputs)
    assert p_up.shape == (len(rows[60]),)
    assert ((p_up > 0) & (p_up < 1)).all()


def test_quantiles_have_their_nominal_coverage(outputs: Mapping[str, FittedOutput], rows: dict[int, Rows]) -> None:
    scaled = rows[60].log_return / scales(rows[60], 60)
    below = [(scaled <= outputs[level].predict(rows[60].inputs)).mean() for level in QUANTILE_NAMES]
    assert below == pytest.approx([0.05, 0.25, 0.5, 0.75, 0.95], abs=0.06)


def test_missing_features_still_get_a_forecast(outputs: Mapping[str, FittedOutput]) -> None:
    nothing = np.full((3, 3), np.nan, dtype=np.float32)
    assert all(np.isfinite(output.predict(nothing)).all() for output in outputs.values())


def test_every_output_is_exported_to_onnx_with_the_same_values(
    name: str, outputs: Mapping[str, FittedOutput], rows: dict[int, Rows]
) -> None:
    check, bound = parity_rows(rows[60].inputs, seed=1), family(name).parity_tolerance
    assert np.isnan(check).any()
    for output in outputs.values():
        assert parity_error(output, output.onnx(), check, bound) <= bound


def test_a_graph_of_another_output_fails_the_parity_check(
    outputs: Mapping[str, FittedOutput], rows: dict[int, Rows]
) -> None:
    with pytest.raises(ParityError, match="not registered"):
        parity_error(outputs["q05"], outputs["q95"].onnx(), parity_rows(rows[60].inputs, seed=1), 1e-5)


def test_a_model_without_splits_is_exported_to_onnx(name: str, rows: dict[int, Rows]) -> None:
    few, bound = slice(0, 40), family(name).parity_tolerance
    inputs = rows[60].inputs[few]
    output = family(name).fit_direction(inputs, up(rows[60])[few], np.full(40, 0.01), QUICK[name], Fit(rows[60].names))
    assert parity_error(output, output.onnx(), rows[60].inputs, bound) <= bound


def test_the_same_rows_and_seed_give_the_same_graphs(name: str, rows: dict[int, Rows]) -> None:
    assert direction(name, rows[60]).onnx() == direction(name, rows[60]).onnx()


def test_a_stored_output_predicts_the_same(
    name: str, outputs: Mapping[str, FittedOutput], rows: dict[int, Rows]
) -> None:
    for output in outputs.values():
        loaded = family(name).read(output.native(), len(rows[60].names))
        assert loaded.predict(rows[60].inputs).tobytes() == output.predict(rows[60].inputs).tobytes()


def test_parameters_round_trip_through_json_and_unknown_names_are_refused(name: str) -> None:
    kind = family(name).parameters
    parameters = kind(half_life_days=77.5)
    assert kind.from_json(parameters.to_json()) == parameters
    assert "half_life_days" in {entry.name for entry in fields(kind)}
    with pytest.raises(ValueError, match="leaves_of_grass"):
        kind.from_json('{"leaves_of_grass": 1}')
