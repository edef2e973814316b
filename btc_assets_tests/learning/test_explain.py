"""SHAP values sum to the forecast and rank the signal first."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from btc_assets.learning.explain import EXPLAINED_ROWS, Explanation, explain
from btc_assets.learning.families.gradient_boosting import BoostingParameters, GradientBoosting
from btc_assets.learning.folds import Rows
from btc_assets.learning.forecast_model import log_odds
from btc_assets.learning.tables import MODEL_EXPLANATION
from btc_assets.learning.training import up
from btc_assets_tests.learning.conftest import CUTOFF


@pytest.fixture(scope="module")
def model(rows: dict[int, Rows]) -> GradientBoosting:
    return GradientBoosting(BoostingParameters(rounds=30), seed=1, threads=1).fit_direction(
        rows[1].inputs, up(rows[1]), np.ones(len(rows[1]))
    )


@pytest.fixture(scope="module")
def explanation(
    model: GradientBoosting, rows: dict[int, Rows], tmp_path_factory: pytest.TempPathFactory
) -> Explanation:
    native: Path = tmp_path_factory.mktemp("native") / "p_up_1h.ubj"
    native.write_bytes(model.outputs()["p_up"].native())
    return explain(native, rows[1].inputs, rows[1].names)


def test_the_signal_has_the_first_rank(explanation: Explanation) -> None:
    table = explanation.importance(CUTOFF, 1)
    assert MODEL_EXPLANATION.faults(table) == []
    assert table.sort("rank")["feature"][0] == "signal"


def test_shap_values_sum_to_the_forecast(
    explanation: Explanation, model: GradientBoosting, rows: dict[int, Rows]
) -> None:
    expected = log_odds(model.p_up(rows[1].inputs[-EXPLAINED_ROWS:]))
    gap = expected - explanation.values.sum(axis=1)
    assert gap == pytest.approx(np.full(len(gap), gap[0]), abs=1e-3)


def test_the_newest_rows_are_explained(explanation: Explanation, rows: dict[int, Rows]) -> None:
    assert explanation.inputs.tobytes() == rows[1].inputs[-EXPLAINED_ROWS:].tobytes()


def test_the_beeswarm_is_a_png(explanation: Explanation) -> None:
    assert explanation.beeswarm("P(up)").startswith(b"\x89PNG")
