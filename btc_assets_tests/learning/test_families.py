"""The contract of every model family."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest

from btc_assets.evaluation.metrics import auc
from btc_assets.learning.export import PARITY_TOLERANCE, ParityError, parity_error, parity_rows
from btc_assets.learning.families.gradient_boosting import BoostingParameters, GradientBoosting
from btc_assets.learning.families.protocol import Forecaster
from btc_assets.learning.folds import Rows
from btc_assets.learning.training import scales, up
from btc_assets.vocabulary import QUANTILE_NAMES

FAMILIES: dict[str, Callable[[], Forecaster]] = {
    "gradient_boosting": lambda: GradientBoosting(BoostingParameters(rounds=40, quantile_rounds=30), seed=1, threads=1),
}


@pytest.fixture(scope="module", params=FAMILIES)
def fitted(request: pytest.FixtureRequest, rows: dict[int, Rows]) -> Forecaster:
    model = FAMILIES[request.param]()
    horizon_rows = rows[1]
    return model.fit_direction(horizon_rows.inputs, up(horizon_rows), np.ones(len(horizon_rows))).fit_quantiles(
        horizon_rows.inputs, horizon_rows.log_return / scales(horizon_rows, 1), np.ones(len(horizon_rows))
    )


def test_a_signal_is_learned(fitted: Forecaster, rows: dict[int, Rows]) -> None:
    assert (auc(fitted.p_up(rows[1].inputs), rows[1].log_return).value or 0) > 0.6


def test_probabilities_are_between_zero_and_one(fitted: Forecaster, rows: dict[int, Rows]) -> None:
    p_up = fitted.p_up(rows[1].inputs)
    assert p_up.shape == (len(rows[1]),)
    assert ((p_up > 0) & (p_up < 1)).all()


def test_quantiles_have_their_nominal_coverage(fitted: Forecaster, rows: dict[int, Rows]) -> None:
    scaled = rows[1].log_return / scales(rows[1], 1)
    below = (scaled[:, None] <= fitted.quantiles(rows[1].inputs)).mean(axis=0)
    assert below == pytest.approx([0.05, 0.25, 0.5, 0.75, 0.95], abs=0.06)


def test_missing_features_still_get_a_forecast(fitted: Forecaster) -> None:
    nothing = np.full((3, 3), np.nan, dtype=np.float32)
    assert np.isfinite(fitted.p_up(nothing)).all()
    assert np.isfinite(fitted.quantiles(nothing)).all()


def test_every_output_is_exported_to_onnx_with_the_same_values(fitted: Forecaster, rows: dict[int, Rows]) -> None:
    assert set(fitted.outputs()) == {"p_up", *QUANTILE_NAMES}
    check = parity_rows(rows[1].inputs, seed=1)
    assert np.isnan(check).any()
    for output in fitted.outputs().values():
        assert parity_error(output, output.onnx(), check) <= PARITY_TOLERANCE


def test_a_graph_of_another_booster_fails_the_parity_check(fitted: Forecaster, rows: dict[int, Rows]) -> None:
    outputs = fitted.outputs()
    with pytest.raises(ParityError, match="not registered"):
        parity_error(outputs["q05"], outputs["q95"].onnx(), parity_rows(rows[1].inputs, seed=1))


@pytest.mark.parametrize("family", FAMILIES)
def test_a_model_without_splits_is_exported_to_onnx(family: str, rows: dict[int, Rows]) -> None:
    few = slice(0, 40)
    model = FAMILIES[family]().fit_direction(rows[1].inputs[few], up(rows[1])[few], np.full(40, 0.01))
    output = model.outputs()["p_up"]
    assert parity_error(output, output.onnx(), rows[1].inputs) <= PARITY_TOLERANCE


@pytest.mark.parametrize("family", FAMILIES)
def test_the_same_rows_and_seed_give_the_same_graphs(family: str, rows: dict[int, Rows]) -> None:
    graphs = [
        FAMILIES[family]().fit_direction(rows[1].inputs, up(rows[1]), np.ones(len(rows[1]))).outputs()["p_up"].onnx()
        for _ in range(2)
    ]
    assert graphs[0] == graphs[1]


def test_parameters_round_trip_through_json_and_unknown_names_are_refused() -> None:
    parameters = BoostingParameters(rounds=77, eta=0.011)
    assert BoostingParameters.from_json(parameters.to_json()) == parameters
    with pytest.raises(ValueError, match="leaves_of_grass"):
        BoostingParameters.from_json('{"leaves_of_grass": 1}')
