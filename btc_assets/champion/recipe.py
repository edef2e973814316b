"""The recipe of a model: everything but its data. Two models of one recipe differ only by their cutoff."""

from __future__ import annotations

import json
from collections.abc import Collection, Mapping
from typing import Any

from btc_assets.vocabulary import SUB_HOUR

_SETTINGS = ("horizons", "quantiles", "feature_set")
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
        f"{name} {_short(before)} -> {_short(now)}"
        for name in _SETTINGS
        if (before := _setting(champion, name)) != (now := _setting(candidate, name))
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
    option, champions_option = candidate["weights"]["option"], champion["weights"]["option"]
    if option != champions_option:
        changes.append(f"weights {champions_option} -> {option}")
    ours, theirs = _members(candidate), _members(champion)
    changes += [
        f"member added: {name}" for name in ours.keys() - theirs.keys() if not _reads(candidate, name, lost_before)
    ]
    changes += [
        f"member left out: {name}" for name in theirs.keys() - ours.keys() if not _reads(champion, name, lost_inputs)
    ]
    for name in theirs.keys() & ours.keys():
        changes += [f"{name}: {change}" for change in _member_changes(ours[name], theirs[name], horizon)]
    return sorted(changes)


def _setting(document: Mapping[str, Any], name: str) -> Any:
    """Return an entry of the recipe; whether a model has the horizon below an hour depends on its data only."""
    value = document[name]
    return [horizon for horizon in value if horizon != SUB_HOUR] if name == "horizons" else value


def _members(document: Mapping[str, Any]) -> dict[str, Mapping[str, Any]]:
    """Return the members and heads of a model by name."""
    return {member["name"]: member for member in document["members"]} | {
        head: document[head] for head in ("intervals", "size")
    }


def _reads(document: Mapping[str, Any], name: str, lost: Collection[str]) -> bool:
    """Return whether a member has inputs of its own, all of which are lost: without them it is absent."""
    members = _members(document)
    others = {column for other, member in members.items() if other != name for column in member["features"]}
    own = {document["features"][column]["name"] for column in members[name]["features"] if column not in others}
    return bool(own) and own <= set(lost)


def _member_changes(candidate: Mapping[str, Any], champion: Mapping[str, Any], horizon: int) -> list[str]:
    """Return the differences between two members of one name, one phrase each."""
    changes = [
        f"{part} {champion[part]} -> {candidate[part]}"
        for part in ("family", "inputs", "window_days")
        if candidate[part] != champion[part]
    ]
    theirs, ours = (json.loads(member["parameters"][str(horizon)]) for member in (champion, candidate))
    return changes + [
        f"{name} {theirs.get(name)} -> {ours.get(name)}"
        for name in sorted(theirs | ours)
        if theirs.get(name) != ours.get(name)
    ]


def _short(value: Any) -> str:
    return value if isinstance(value, str) else json.dumps(value)
