"""Inputs in words, and points that add up."""

from __future__ import annotations

import re

import numpy as np
import pytest

from btc_assets.features.catalog import FEATURES
from btc_assets.learning.forecast_model import log_odds, probability
from btc_assets.learning.reasons import NAMED, phrase, reasons_of

DESCRIBED = {one.name: {"name": one.name, "about": one.about, "unit": one.unit} for one in FEATURES}


@pytest.mark.parametrize(
    ("name", "value", "words"),
    [
        ("rsi", 71.04, "relative strength index (14 bars) at 71"),
        ("vwap_24h_distance", 0.0121, "close 1.21 % above the volume-weighted price of 24 bars"),
        ("sma_50_distance", -0.00304, "close 0.304 % below its simple moving average of 50 bars"),
        ("returns_24h", -0.0213, "log return over the last 24 h at -2.13 %"),
        ("sma_20", 65432.1, "simple moving average of close (20 bars) at 65,432 USD"),
        ("quarter_return_15m", -1.5, "log return over the last 15 min over sigma_15 at -1.5 standard deviations"),
        ("is_weekend", 1.0, "whether that day is a Saturday or Sunday (yes)"),
        ("volatility_regime", 0.0, "rank of the 24-bar realised volatility among its last 720 values at 0"),
        ("rsi", float("nan"), "unknown relative strength index (14 bars)"),
    ],
)
def test_a_value_is_named_with_its_unit(name: str, value: float, words: str) -> None:
    assert phrase(DESCRIBED[name], value) == words


def test_every_declared_feature_has_words_without_an_exponent() -> None:
    for name, feature in DESCRIBED.items():
        assert not re.search(r"\de-", phrase(feature, 1.23e-5)), name


def test_points_and_log_odds_add_up() -> None:
    features = [DESCRIBED["rsi"] | {"name": f"f{i}"} for i in range(14)]
    contributions = np.linspace(-0.06, 0.07, 14)
    p_up = float(probability(np.array(0.1 + contributions.sum())))
    found = reasons_of(features, [50.0] * 14, contributions, p_up=p_up, base=0.1, unexplained=0.0, horizon=60)
    listed = (*found.raises, *found.lowers)
    assert (len(found.raises), len(found.lowers)) == (NAMED, NAMED)
    assert found.raises[0].feature == "f13"
    assert found.lowers[0].feature == "f0"
    total = found.base + sum(one.contribution for one in listed) + found.others
    assert total == pytest.approx(float(log_odds(np.array(p_up))), abs=1e-12)
    per_log_odd = found.raises[0].points / found.raises[0].contribution
    points = sum(one.points for one in listed) + found.others * per_log_odd
    assert points == pytest.approx(100 * (p_up - float(probability(np.array(0.1)))))


def test_the_sentence_names_the_strongest_inputs_and_their_points() -> None:
    features = [DESCRIBED["rsi"], DESCRIBED["vwap_24h_distance"], DESCRIBED["taker_imbalance_1h"]]
    found = reasons_of(
        features,
        [71.0, 0.012, 0.3],
        np.array([-0.06, -0.024, 0.02]),
        p_up=float(probability(np.array(-0.064))),
        base=0.0,
        unexplained=0.0,
        horizon=240,
    )
    assert found.sentence == (
        "P(up) over 4 h is 48.4 %, from a base of 50.0 %: relative strength index (14 bars) at 71 and close 1.2 % "
        "above the volume-weighted price of 24 bars lower it by 2.1 points, taker buys less taker sells over volume "
        "(1 bars) at 0.3 raises it by 0.5 points, all other inputs raise it by 0.0 points."
    )
