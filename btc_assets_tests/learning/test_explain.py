"""SHAP values of an ensemble add up to its forecast and rank the signal first."""

from __future__ import annotations

from dataclasses import dataclass
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from btc_assets.learning.attribution import attribute
from btc_assets.learning.explain import EXPLAINED_ROWS, Explanation, explain
from btc_assets.learning.families.protocol import Fit, FittedOutput
from btc_assets.learning.families.xgboost import FAMILY
from btc_assets.learning.folds import Rows
from btc_assets.learning.forecast_model import log_odds
from btc_assets.learning.natives import library_p_up
from btc_assets.learning.tables import MODEL_EXPLANATION
from btc_assets.learning.training import up
from btc_assets.vocabulary import PRIMARY
from btc_assets_tests.learning.conftest import CUTOFF, NAMES, QUICK

COLUMNS = {"signal": [0, 2], "noise": [1]}
MODEL: Any = SimpleNamespace(
    features=NAMES,
    document={
        "features": [{"name": name} for name in NAMES],
        "members": [
            {
                "name": name,
                "features": columns,
                "required": [],
                "calibration": {"60": {"slope": 0.8, "intercept": 0.1}},
                "weights": {"60": [0.5]},
            }
            for name, columns in COLUMNS.items()
        ],
        "weights": {"coin": {"60": 0.0}, "edges": {"60": []}},
    },
)
"""What an explanation reads of a model: two members with inputs of their own."""


@pytest.fixture(scope="module")
def members(rows: dict[int, Rows]) -> dict[str, FittedOutput]:
    one = rows[PRIMARY]
    return {
        name: FAMILY.fit_direction(
            np.ascontiguousarray(one.inputs[:, columns]),
            up(one),
            np.ones(len(one)),
            QUICK,
            Fit(tuple(NAMES[i] for i in columns)),
        )
        for name, columns in COLUMNS.items()
    }


@pytest.fixture(scope="module")
def explanation(members: dict[str, FittedOutput], rows: dict[int, Rows]) -> Explanation:
    return explain(MODEL, members, rows[PRIMARY].inputs, PRIMARY)


def test_the_signal_has_the_first_rank(explanation: Explanation) -> None:
    table = explanation.importance(CUTOFF, PRIMARY)
    assert MODEL_EXPLANATION.faults(table) == []
    assert table.sort("rank")["feature"][0] == "signal"


def test_the_parts_add_up_to_the_forecast_of_the_ensemble(
    members: dict[str, FittedOutput], rows: dict[int, Rows]
) -> None:
    newest = rows[PRIMARY].inputs[-50:]
    p_up = library_p_up(MODEL.document, members, newest, np.ones(len(newest)), PRIMARY)
    parts = attribute(MODEL.document, members, newest, np.full((2, len(newest)), 0.5), PRIMARY)
    assert parts.score == pytest.approx(log_odds(p_up), abs=1e-6)
    assert not parts.unexplained.any()


def test_a_member_that_abstains_contributes_nothing(members: dict[str, FittedOutput], rows: dict[int, Rows]) -> None:
    newest = rows[PRIMARY].inputs[-2:]
    parts = attribute(MODEL.document, members, newest, np.array([[0.5, 0.5], [0.5, 0.0]]), PRIMARY)
    assert parts.values[:, 1].astype(bool).tolist() == [True, False]
    alone = members["signal"].predict(np.ascontiguousarray(newest[1:, COLUMNS["signal"]]))
    assert parts.score[1] == pytest.approx(0.8 * log_odds(alone)[0] + 0.1, abs=1e-6)


def test_the_newest_rows_are_explained(explanation: Explanation, rows: dict[int, Rows]) -> None:
    assert explanation.inputs.tobytes() == rows[PRIMARY].inputs[-EXPLAINED_ROWS:].tobytes()


def test_the_beeswarm_is_a_png(explanation: Explanation) -> None:
    assert explanation.beeswarm("P(up)").startswith(b"\x89PNG")


def test_the_log_odds_of_a_member_without_contributions_are_unexplained(
    members: dict[str, FittedOutput], rows: dict[int, Rows]
) -> None:
    @dataclass(frozen=True)
    class Silent:
        def contributions(self, _: np.ndarray) -> None:
            return None

        def predict(self, inputs: np.ndarray) -> np.ndarray:
            return members["noise"].predict(inputs)

    newest = rows[PRIMARY].inputs[-5:]
    equal = np.full((2, 5), 0.5)
    silent: Any = members | {"noise": Silent()}
    parts, all_parts = (attribute(MODEL.document, some, newest, equal, PRIMARY) for some in (silent, members))
    assert not parts.values[:, 1].any()
    assert parts.unexplained.all()
    assert parts.score == pytest.approx(all_parts.score, abs=1e-6)
