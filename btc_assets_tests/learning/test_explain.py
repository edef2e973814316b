"""SHAP values sum to the forecast and rank the signal first."""

from __future__ import annotations

import numpy as np
import pytest

from btc_assets.learning.explain import EXPLAINED_ROWS, Explanation, explain
from btc_assets.learning.families.protocol import Fit
from btc_assets.learning.families.xgboost import FAMILY, Booster, XgboostParameters
from btc_assets.learning.folds import Rows
from btc_assets.learning.forecast_model import log_odds
from btc_assets.learning.tables import MODEL_EXPLANATION
from btc_assets.learning.training import up
from btc_assets_tests.learning.conftest import CUTOFF


@pytest.fixture(scope="module")
def model(rows: dict[int, Rows]) -> Booster:
    one = rows[60]
    fitted = FAMILY.fit_direction(one.inputs, up(one), np.ones(len(one)), XgboostParameters(rounds=30), Fit(one.names))
    return FAMILY.read(fitted.native(), len(one.names))


@pytest.fixture(scope="module")
def explanation(model: Booster, rows: dict[int, Rows]) -> Explanation:
    return explain(model, rows[60].inputs, rows[60].names)


def test_the_signal_has_the_first_rank(explanation: Explanation) -> None:
    table = explanation.importance(CUTOFF, 60)
    assert MODEL_EXPLANATION.faults(table) == []
    assert table.sort("rank")["feature"][0] == "signal"


def test_shap_values_sum_to_the_forecast(explanation: Explanation, model: Booster, rows: dict[int, Rows]) -> None:
    expected = log_odds(model.predict(rows[60].inputs[-EXPLAINED_ROWS:]))
    assert model.base + explanation.values.sum(axis=1) == pytest.approx(expected, abs=1e-3)


def test_the_newest_rows_are_explained(explanation: Explanation, rows: dict[int, Rows]) -> None:
    assert explanation.inputs.tobytes() == rows[60].inputs[-EXPLAINED_ROWS:].tobytes()


def test_the_beeswarm_is_a_png(explanation: Explanation) -> None:
    assert explanation.beeswarm("P(up)").startswith(b"\x89PNG")


def test_a_family_without_contributions_is_refused(rows: dict[int, Rows]) -> None:
    class Silent:
        def contributions(self, inputs: np.ndarray) -> None:
            return None

    with pytest.raises(ValueError, match="no contributions"):
        explain(Silent(), rows[60].inputs, rows[60].names)
