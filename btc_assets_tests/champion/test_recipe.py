"""What counts as another recipe, and what only as newer data."""

from __future__ import annotations

import json
from typing import Any

import pytest

from btc_assets.champion.recipe import recipe_changes


def document(**changes: Any) -> dict[str, Any]:
    """Return what a recipe is read from in `model.json`; a second member reads `flow` alone."""
    known = {
        "cutoff": "2023-01-02",
        "first": "2021-01-02T00:00:00+00:00",
        "features": ["rsi", "atr", "flow"],
        "feature_set": "extended",
        "parameters": {"max_depth": 6, "rounds": 150},
        "other_horizon": {"max_depth": 3, "rounds": 150},
        "window_days": 730,
        "horizons": [60, 240],
        "option": "equal",
        "members": ("trees", "flow"),
        "seed": 7,
    } | changes
    features = known["features"]
    own = {"trees": ("rsi", "atr", "funding"), "flow": ("atr", "flow")}

    def member(name: str) -> dict[str, Any]:
        return {
            "family": "xgboost",
            "inputs": "hourly",
            "window_days": known["window_days"],
            "first": known["first"],
            "features": [features.index(one) for one in own[name] if one in features],
            "parameters": {"60": json.dumps(known["parameters"]), "240": json.dumps(known["other_horizon"])},
        }

    return {
        "cutoff": known["cutoff"],
        "horizons": known["horizons"],
        "quantiles": [0.5],
        "feature_set": known["feature_set"],
        "features": [{"name": name} for name in features],
        "members": [{"name": name} | member(name) for name in known["members"]],
        "weights": {"option": known["option"]},
        **{
            head: member("trees") | {"window_days": 730, "parameters": {"60": "{}", "240": "{}"}}
            for head in ("intervals", "size")
        },
        "training": {"seed": known["seed"]},
    }


NEXT_WEEK = {"cutoff": "2023-01-09", "first": "2021-01-09T00:00:00+00:00"}


@pytest.mark.parametrize(
    "newer",
    [
        NEXT_WEEK,
        {"cutoff": "2023-01-09"},  # a history shorter than the window: both begin with it
        NEXT_WEEK | {"seed": 8},
        NEXT_WEEK | {"other_horizon": {"max_depth": 4, "rounds": 150}},  # a verdict rests on one horizon
        NEXT_WEEK | {"horizons": [30, 60, 240]},
    ],
    ids=[
        "a week later",
        "a window that grows",
        "another seed",
        "parameters of another horizon",
        "bars inside the hour",
    ],
)
def test_newer_data_does_not_change_the_recipe(newer: dict[str, Any]) -> None:
    assert recipe_changes(document(**newer), document(), horizon=60) == []


@pytest.mark.parametrize(
    ("changed", "expected"),
    [
        ({"parameters": {"max_depth": 5, "rounds": 150}}, ["flow: max_depth 6 -> 5", "trees: max_depth 6 -> 5"]),
        (
            {"parameters": {"max_depth": 6, "rounds": 150, "eta": 0.1}},
            ["flow: eta None -> 0.1", "trees: eta None -> 0.1"],
        ),
        ({"features": ["rsi", "atr", "flow", "funding"]}, ["features added: funding"]),
        ({"features": ["atr", "flow"]}, ["features left out: rsi"]),
        ({"feature_set": "streamlined"}, ["feature_set extended -> streamlined"]),
        ({"window_days": 1460}, ["flow: window_days 730 -> 1460", "trees: window_days 730 -> 1460"]),
        ({"members": ("trees",)}, ["member left out: flow"]),
        ({"option": "learnt"}, ["weights equal -> learnt"]),
    ],
)
def test_another_recipe_is_described_by_what_changed(changed: dict[str, Any], expected: list[str]) -> None:
    assert recipe_changes(document(**NEXT_WEEK | changed), document(), horizon=60) == expected


def test_a_lost_input_does_not_change_the_recipe() -> None:
    candidate = document(**NEXT_WEEK, features=["atr", "flow"])
    assert recipe_changes(candidate, document(), horizon=60, lost_inputs=["rsi"]) == []


def test_a_restored_input_does_not_change_the_recipe_and_a_new_one_does() -> None:
    champion = document(features=["atr", "flow"])
    options = {"horizon": 60, "lost_before": ["rsi"]}
    assert recipe_changes(document(**NEXT_WEEK), champion, **options) == []
    assert recipe_changes(document(**NEXT_WEEK, features=["atr", "rsi", "flow", "funding"]), champion, **options) == [
        "features added: funding"
    ]


def test_a_member_whose_own_inputs_are_lost_or_restored_does_not_change_the_recipe() -> None:
    whole, without = document(), document(**NEXT_WEEK, features=["rsi", "atr"], members=("trees",))
    assert recipe_changes(without, whole, horizon=60, lost_inputs=["flow"]) == []
    assert recipe_changes(without, whole, horizon=60) == ["features left out: flow", "member left out: flow"]
    assert recipe_changes(whole, without, horizon=60, lost_before=["flow"]) == []
