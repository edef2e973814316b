"""Regimes are fitted inside their window, named by a rule, and filtered without later hours."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from itertools import permutations

import numpy as np
import polars as pl
import pytest

from btc_assets.features.catalog import FEATURES
from btc_assets.features.engine import compute_features
from btc_assets.features.inputs import inputs_of
from btc_assets.learning.folds import NotEnoughHistoryError
from btc_assets.learning.regimes import (
    COLUMNS,
    FILTER_HOURS,
    INPUTS,
    LEVEL,
    TREND,
    VARIANCE,
    Regimes,
    fit_regimes,
    name_clusters,
    regimes_of_hours,
)
from btc_assets.learning.tables import MARKET_REGIMES
from btc_assets.vocabulary import REGIMES
from btc_assets_tests.conftest import random_walk_bars

START = datetime(2024, 1, 1, tzinfo=UTC)
DAYS = 110
END = START + timedelta(days=100)


@pytest.fixture(scope="module")
def features() -> pl.DataFrame:
    bars = random_walk_bars(24 * DAYS, start=START)
    return compute_features(inputs_of(bars), [feature for feature in FEATURES if feature.name in COLUMNS])


@pytest.fixture(scope="module")
def regimes(features: pl.DataFrame) -> Regimes:
    return fit_regimes(features, end=END)


def test_the_future_changes_no_parameter(features: pl.DataFrame, regimes: Regimes) -> None:
    later = pl.col("open_time") >= END
    poisoned = features.with_columns(
        pl.when(pl.col("open_time") > END - timedelta(hours=1)).then(pl.col(name) * 3 + 1).otherwise(name).alias(name)
        for name in COLUMNS
    )
    day = END.date()
    assert fit_regimes(poisoned, end=END).rows(day).equals(regimes.rows(day))
    assert fit_regimes(features.filter(~later), end=END).rows(day).equals(regimes.rows(day))


def test_parameters_are_numbers_that_give_the_same_regimes(features: pl.DataFrame, regimes: Regimes) -> None:
    rows = regimes.rows(END.date())
    assert MARKET_REGIMES.faults(rows) == []
    assert regimes_of_hours(Regimes.of(rows), features).equals(regimes_of_hours(regimes, features))


def test_every_regime_occurs_and_is_unknown_only_in_the_warm_up(features: pl.DataFrame, regimes: Regimes) -> None:
    hours = regimes_of_hours(regimes, features)
    assert hours["open_time"].equals(features["open_time"])
    assert set(hours["regime"].drop_nulls()) == set(REGIMES)
    assert hours["regime"].is_null().equals(features.select(pl.any_horizontal(pl.col(INPUTS).is_null())).to_series())


def test_the_uptrend_rises_most_and_the_distribution_is_above_the_accumulation(
    features: pl.DataFrame, regimes: Regimes
) -> None:
    inside = regimes_of_hours(regimes, features).join(features, on="open_time").filter(pl.col("open_time") < END)
    trend, level = (
        dict(inside.drop_nulls("regime").group_by("regime").agg(pl.col(name).mean()).iter_rows())
        for name in (TREND, LEVEL)
    )
    assert max(REGIMES, key=lambda name: trend[name]) == "uptrend"
    assert min(REGIMES, key=lambda name: trend[name]) == "downtrend"
    assert level["distribution"] > level["accumulation"]


def test_names_do_not_depend_on_the_order_of_the_clusters() -> None:
    centres = np.zeros((4, len(INPUTS)))
    centres[:, INPUTS.index(TREND)] = [0.0, 0.05, 0.01, -0.04]
    centres[:, INPUTS.index(LEVEL)] = [-0.2, -0.03, -0.05, -0.3]
    for order in permutations(range(4)):
        named = name_clusters(centres[list(order)])
        assert [order[named[name]] for name in REGIMES] == [0, 1, 2, 3]


def test_a_filtered_probability_never_changes_with_later_hours(features: pl.DataFrame, regimes: Regimes) -> None:
    variance = features[VARIANCE].fill_null(float("nan")).to_numpy()
    whole = regimes.turbulence(variance)
    for end in (1, 500, 1000):
        assert np.array_equal(regimes.turbulence(variance[:end]), whole[:end])


def test_a_filtered_probability_needs_one_week(features: pl.DataFrame, regimes: Regimes) -> None:
    variance = features[VARIANCE].to_numpy()
    assert np.array_equal(regimes.turbulence(variance[-FILTER_HOURS:])[-1:], regimes.turbulence(variance)[-1:])


def test_the_filter_is_bayes_rule_hour_by_hour(regimes: Regimes) -> None:
    variance = np.array([-12.0, -9.0, np.nan, -10.0])
    calm, turbulent = regimes.stay
    probability = (1 - calm) / (2 - calm - turbulent)
    expected = []
    for value in variance:
        prior = np.array([1 - probability, probability]) @ np.array([[calm, 1 - calm], [1 - turbulent, turbulent]])
        density = np.exp(-0.5 * ((value - regimes.means) / regimes.deviations) ** 2) / regimes.deviations
        posterior = prior * (density if np.isfinite(value) else 1.0)
        probability = posterior[1] / posterior.sum()
        expected.append(probability)
    assert regimes.turbulence(variance) == pytest.approx(expected)


def test_planted_states_of_volatility_are_found(features: pl.DataFrame) -> None:
    rng = np.random.default_rng(3)
    turbulent = (np.arange(len(features)) // 200) % 2 == 1
    planted = features.with_columns(
        pl.Series(VARIANCE, np.where(turbulent, -9.0, -12.0) + rng.normal(size=len(features)))
    )
    regimes = fit_regimes(planted, end=END)
    assert regimes.means == pytest.approx([-12, -9], abs=0.15)
    assert regimes.deviations == pytest.approx([1, 1], abs=0.1)
    probability = regimes_of_hours(regimes, planted)["turbulence"].to_numpy()
    assert np.mean((probability > 0.5) == turbulent) > 0.97


def test_too_little_history_is_refused(features: pl.DataFrame) -> None:
    with pytest.raises(NotEnoughHistoryError, match="hours with every feature of the regimes"):
        fit_regimes(features, end=START + timedelta(days=35))
