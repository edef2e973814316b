"""What is declared: named, explained, grouped, and in the contract."""

from __future__ import annotations

import pytest

from btc_assets.features.catalog import (
    FEATURE_SETS,
    FEATURES,
    GAP_SLACK_HOURS,
    GROUPS,
    JOINED_GROUPS,
    WARMUP_DAYS,
)
from btc_assets.features.tables import HOURLY_FEATURES
from btc_assets.streams import Feature

NAMES = [feature.name for feature in FEATURES]
STREAMLINED = (
    "sma_20",
    "rsi",
    "atr",
    "returns_1h",
    "returns_4h",
    "returns_24h",
    "volume_ratio",
    "volatility_regime",
    "sentiment_mean",
    "sentiment_count",
    "sentiment_change_1h",
    "sentiment_extreme",
    "social_volume",
    "social_sentiment",
    "hour_of_day",
)


def test_names_are_unique_and_bars_alone_give_87_of_the_176() -> None:
    assert len(set(NAMES)) == len(NAMES) == 176
    assert sum(feature.group not in JOINED_GROUPS for feature in FEATURES) == 87


def test_features_of_other_streams_come_after_those_of_bars() -> None:
    groups = [feature.group for feature in FEATURES]
    assert groups == sorted(groups, key=GROUPS.index)
    assert GROUPS[-4:] == JOINED_GROUPS


def test_texts_need_no_more_days_than_bars_do() -> None:
    assert WARMUP_DAYS == 38
    of_texts = max(feature.warmup_hours for feature in FEATURES if feature.group in JOINED_GROUPS)
    assert of_texts <= max(feature.warmup_hours for feature in FEATURES if feature.group not in JOINED_GROUPS)


@pytest.mark.parametrize("feature", FEATURES, ids=NAMES)
def test_a_feature_has_a_description(feature: Feature) -> None:
    assert feature.group in GROUPS
    assert feature.unit
    assert len(feature.about) > 8
    assert feature.name == feature.name.lower()
    assert 0 <= feature.warmup_hours <= WARMUP_DAYS * 24 - GAP_SLACK_HOURS - 24


def test_every_group_is_used() -> None:
    assert {feature.group for feature in FEATURES} == set(GROUPS)


@pytest.mark.parametrize("name", FEATURE_SETS)
def test_a_set_names_declared_features_once(name: str) -> None:
    members = FEATURE_SETS[name]
    assert len(set(members)) == len(members)
    assert set(members) <= set(NAMES)


def test_sets_grow_from_streamlined_to_complete() -> None:
    streamlined, comprehensive, extended, intrahour, complete = map(set, FEATURE_SETS.values())
    assert streamlined == set(STREAMLINED)
    assert streamlined < comprehensive < extended < intrahour < complete == set(NAMES)
    assert len(streamlined) == 15
    assert len(comprehensive) == 30


@pytest.mark.parametrize("name", FEATURE_SETS)
def test_a_set_has_features_of_bars_articles_and_posts(name: str) -> None:
    groups = {feature.group for feature in FEATURES if feature.name in FEATURE_SETS[name]}
    assert {"price", "sentiment", "social"} <= groups


def test_the_contract_holds_each_feature_with_its_unit() -> None:
    assert list(HOURLY_FEATURES.columns) == ["open_time", "available_at", *NAMES]
    for feature in FEATURES:
        assert f"[{feature.unit}]" in str(HOURLY_FEATURES.schema.columns[feature.name].description)
