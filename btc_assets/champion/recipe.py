"""The recipe of a model: everything but its window. Two models of one recipe differ only by their data."""

from __future__ import annotations

import json
from collections.abc import Collection, Mapping
from datetime import date, datetime
from typing import Any

_SETTINGS = ("horizons", "quantiles", "feature_set", "scale")
"""Entries of `model.json` that belong to the recipe and are compared by equality."""


def recipe_changes(
    candidate: Mapping[str, Any],
    champion: Mapping[str, Any],
    *,
    horizon: int,
    lost_inputs: Collection[str] = (),
    lost_before: Collection[str] = (),
) -> list[str]:
    """Return the differences between the recipes of two models, one phrase each; empty for a refresh.

    Args:
        candidate: `model.json` of the candidate.
        champion: `model.json` of the champion.
        horizon: horizon of the output whose parameters are compared, minutes.
        lost_inputs: features that were gone at the candidate's cutoff; leaving them out does not change the recipe.
        lost_before: features that were gone at the champion's cutoff; using them again does not change the recipe.
    """
    changes = [
        f"{name} {_short(champion[name])} -> {_short(candidate[name])}"
        for name in _SETTINGS
        if candidate[name] != champion[name]
    ]
    candidate_names, champion_names = (
        [feature["name"] for feature in document["features"]] for document in (candidate, champion)
    )
    added = [name for name in candidate_names if name not in champion_names and name not in lost_before]
    dropped = [name for name in champion_names if name not in candidate_names and name not in lost_inputs]
    if added:
        changes.append(f"features added: {', '.join(added)}")
    if dropped:
        changes.append(f"features left out: {', '.join(dropped)}")
    champion_parameters, candidate_parameters = (
        json.loads(document["training"]["parameters"][str(horizon)]) for document in (champion, candidate)
    )
    changes += [
        f"{name} {champion_parameters.get(name)} -> {candidate_parameters.get(name)}"
        for name in sorted(champion_parameters | candidate_parameters)
        if champion_parameters.get(name) != candidate_parameters.get(name)
    ]
    if _window(candidate) != _window(champion) and _first(candidate) != _first(champion):
        changes.append(f"window {_window(champion)} -> {_window(candidate)} days")
    return changes


def _first(document: Mapping[str, Any]) -> date:
    return datetime.fromisoformat(document["training"]["first"]).date()


def _window(document: Mapping[str, Any]) -> int:
    """Return the days from a model's first row to its cutoff."""
    return (date.fromisoformat(document["cutoff"]) - _first(document)).days


def _short(value: Any) -> str:
    return value if isinstance(value, str) else json.dumps(value)
