"""The recipe of a model: the members of its ensemble and the heads beside them, one line each.

Members differ in family, window and inputs, because the best single member of one period was not the best of the next.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cache
from typing import Literal

from btc_assets.features.catalog import FEATURE_SETS, FEATURES

Inputs = Literal["hourly", "price_and_volume", "quarters"]
"""Which features a member reads: the configured set, its features of price and volume alone, or the configured set and
the 15-minute set."""

QUARTER_SET = tuple(name for name in FEATURE_SETS["intrahour"] if name not in FEATURE_SETS["extended"])
"""The 15-minute set: features of quarter bars."""

_PRICE_AND_VOLUME = {"open_time", "open", "high", "low", "close", "volume"}
"""Columns of bars that every venue publishes; a feature without any other column needs no order flow."""


@dataclass(frozen=True)
class Member:
    """One fitted forecaster of a model.

    Attributes:
        name: name in tables, file names and messages: lower-case letters, digits, underscores.
        family: name of its model family.
        inputs: which features it reads.
        window_days: days of its training window.
        target: what it forecasts: the direction as a member of the ensemble, or as a head beside it the quantiles or
            the size.
    """

    name: str
    family: str
    inputs: Inputs
    window_days: int
    target: Literal["direction", "quantiles", "size"] = "direction"


DEFAULT_DAYS = 730
"""Window of a member of a family outside the default recipe, days."""

MEMBERS = (
    Member("xgboost_2y", "xgboost", "hourly", 730),
    Member("xgboost_4y", "xgboost", "price_and_volume", 1461),
    Member("ridge_6y", "ridge_logistic", "price_and_volume", 2191),
    Member("ridge_quarters_6y", "ridge_logistic", "quarters", 2191),
)
"""The default members; they have equal weights."""
INTERVALS = Member("intervals", "xgboost", "hourly", 1461, "quantiles")
"""The head that forecasts the quantiles."""
SIZE = Member("size", "ridge_logistic", "quarters", 2191, "size")
"""The head that forecasts the size of the move; it needs no 15-minute set."""


def recipe(families: Mapping[str, str], *, longest_days: int) -> tuple[Member, ...]:
    """Return the members and heads of a deployment.

    A family of the default members has those; any other family has one member, on the hourly features.

    Args:
        families: names of the chosen families, by the name or path with which they were chosen.
        longest_days: a longer window is cut to this length.
    """
    chosen = [member for member in MEMBERS if member.family in families]
    known = {member.family for member in MEMBERS}
    chosen += [Member(name, key, "hourly", DEFAULT_DAYS) for key, name in families.items() if key not in known]
    return tuple(
        replace(member, window_days=min(member.window_days, longest_days)) for member in (*chosen, INTERVALS, SIZE)
    )


def directions(members: Sequence[Member]) -> tuple[Member, ...]:
    """Return the members of the ensemble, without the heads."""
    return tuple(member for member in members if member.target == "direction")


@cache
def feature_names(inputs: Inputs, feature_set: str) -> tuple[str, ...]:
    """Return the features that a member reads, in the order of the catalogue.

    Args:
        inputs: see `Member.inputs`.
        feature_set: the configured feature set.
    """
    hourly = FEATURE_SETS[feature_set]
    if inputs == "quarters":
        return tuple(dict.fromkeys((*hourly, *QUARTER_SET)))
    if inputs == "price_and_volume":
        return tuple(name for name in hourly if name in _price_and_volume())
    return hourly


@cache
def _price_and_volume() -> frozenset[str]:
    return frozenset(
        feature.name
        for feature in FEATURES
        if not feature.streams and set(feature.expression.meta.root_names()) <= _PRICE_AND_VOLUME
    )


def all_features(members: Sequence[Member], feature_set: str) -> tuple[str, ...]:
    """Return every feature that one of the members reads, in a fixed order."""
    return tuple(dict.fromkeys(name for member in members for name in feature_names(member.inputs, feature_set)))


def known_features(member: Member, feature_set: str, known: Collection[str]) -> tuple[str, ...]:
    """Return the features that a member is trained on; none if it has nothing to read of its own.

    Args:
        member: the member.
        feature_set: the configured feature set.
        known: features with values in the training window.
    """
    names = tuple(name for name in feature_names(member.inputs, feature_set) if name in known)
    if member.target == "direction" and member.inputs == "quarters" and not set(names) - set(FEATURE_SETS[feature_set]):
        return ()
    return names
