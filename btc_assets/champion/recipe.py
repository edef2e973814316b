"""The recipe of a model: all that its window does not decide. Two models of one recipe differ by their data alone."""

from __future__ import annotations

import json
from collections.abc import Collection, Mapping
from datetime import date, datetime
from typing import Any

_SETTINGS = ("horizons", "quantiles", "feature_set", "scale")
"""Entries of `model.json` that belong to the recipe and are compared as they are."""


def recipe_changes(
    candidate: Mapping[str, Any],
    champion: Mapping[str, Any],
    *,
    horizon: int,
    lost_inputs: Collection[str] = (),
    lost_before: Collection[str] = (),
) -> list[str]:
    """Return what differs between the recipes of two models, a phrase each; nothing when one refreshes the other.

    Args:
        candidate: `model.json` of the candidate.
        champion: `model.json` of the champion.
        horizon: hours ahead of the output whose parameters count.
        lost_inputs: features that were gone at the candidate's cutoff; leaving them out is no change of recipe.
        lost_before: features that were gone at the champion's cutoff; taking them up again is none either.
    """
    changes = [
        f"{name} {_short(champion[name])} -> {_short(candidate[name])}"
        for name in _SETTINGS
        if candidate[name] != champion[name]
    ]
    ours, theirs = ([feature["name"] for feature in document["features"]] for document in (candidate, champion))
    added = [name for name in ours if name not in theirs and name not in lost_before]
    dropped = [name for name in theirs if name not in ours and name not in lost_inputs]
    if added:
        changes.append(f"features added: {', '.join(added)}")
    if dropped:
        changes.append(f"features left out: {', '.join(dropped)}")
    before, after = (json.loads(document["training"]["parameters"][str(horizon)]) for document in (champion, candidate))
    changes += [
        f"{name} {before.get(name)} -> {after.get(name)}"
        for name in sorted(before | after)
        if before.get(name) != after.get(name)
    ]
    if _window(candidate) != _window(champion) and _first(candidate) != _first(champion):
        changes.append(f"window {_window(champion)} -> {_window(candidate)} days")
    return changes


def _first(document: Mapping[str, Any]) -> date:
    return datetime.fromisoformat(document["training"]["first"]).date()


def _window(document: Mapping[str, Any]) -> int:
    """Return the days from a model's first row to its cutoff; a window may also grow from a common first day."""
    return (date.fromisoformat(document["cutoff"]) - _first(document)).days


def _short(value: Any) -> str:
    return value if isinstance(value, str) else json.dumps(value)
