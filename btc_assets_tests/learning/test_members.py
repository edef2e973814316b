"""The recipe: which members a deployment has, and what they read."""

from __future__ import annotations

from btc_assets.features.catalog import FEATURE_SETS, FEATURES
from btc_assets.learning.members import (
    INTERVALS,
    MEMBERS,
    QUARTER_SET,
    SIZE,
    Member,
    directions,
    feature_names,
    known_features,
    recipe,
)

DEFAULT = {"xgboost": "xgboost", "ridge_logistic": "ridge_logistic"}
NEEDS_FLOW = {"taker_imbalance_1h", "vwap_24h_distance", "trade_size_ratio", "trades_ratio", "flow_hours_24h"}


def test_the_default_recipe_has_four_members_and_two_heads() -> None:
    assert recipe(DEFAULT, longest_days=2191) == (*MEMBERS, INTERVALS, SIZE)
    assert directions(recipe(DEFAULT, longest_days=2191)) == MEMBERS


def test_a_family_outside_the_default_recipe_has_one_member() -> None:
    members = directions(recipe({"xgboost": "xgboost", "mine.place:FAMILY": "mine"}, longest_days=2191))
    assert [member.name for member in members] == ["xgboost_2y", "xgboost_4y", "mine"]
    assert members[-1] == Member("mine", "mine.place:FAMILY", "hourly", 730)


def test_a_shorter_longest_window_cuts_every_window() -> None:
    assert {member.window_days for member in recipe(DEFAULT, longest_days=365)} == {365}


def test_two_members_stand_without_order_flow() -> None:
    assert [member.name for member in MEMBERS if member.inputs == "price_and_volume"] == ["xgboost_4y", "ridge_6y"]


def test_a_member_reads_price_and_volume_alone() -> None:
    names = set(feature_names("price_and_volume", "extended"))
    assert not names & NEEDS_FLOW
    assert {"returns_1h", "volume_ratio", "realised_volatility_24h", "hour_of_day"} <= names
    assert not any(feature.streams for feature in FEATURES if feature.name in names)


def test_a_member_of_quarter_bars_is_absent_without_them() -> None:
    quarters = MEMBERS[-1]
    assert known_features(quarters, "extended", FEATURE_SETS["extended"]) == ()
    assert known_features(SIZE, "extended", FEATURE_SETS["extended"]) == FEATURE_SETS["extended"]
    assert known_features(quarters, "streamlined", ["returns_1h", QUARTER_SET[0]]) == ("returns_1h", QUARTER_SET[0])
