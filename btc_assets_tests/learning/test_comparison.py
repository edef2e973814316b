"""Families are compared on the same hours, and a comparison that was killed resumes with the same result."""

from __future__ import annotations

import math
from dataclasses import replace
from datetime import UTC, date, datetime, timedelta
from pathlib import Path

import numpy as np
import polars as pl
import pytest

from btc_assets.evaluation import significance
from btc_assets.features.catalog import FEATURES
from btc_assets.features.engine import compute_features
from btc_assets.features.inputs import inputs_of
from btc_assets.features.labels import compute_labels
from btc_assets.learning.comparison import (
    COIN,
    ComparisonError,
    Period,
    as_markdown,
    best_beats_coin,
    compare_families,
    costs,
    memory_growth,
    walk,
)
from btc_assets.learning.families import climatology, persistence
from btc_assets.learning.families.protocol import Fit, FittedOutput, Inputs, Parameters, Vector
from btc_assets.learning.families.registry import family
from btc_assets.learning.tables import FAMILY_COMPARISON
from btc_assets.learning.volatility import COLUMNS
from btc_assets.vocabulary import QUANTILE_NAMES
from btc_assets_tests.conftest import random_walk_bars

START = datetime(2018, 1, 1, tzinfo=UTC)
PERIOD = Period(date(2018, 2, 12), date(2018, 2, 24), every_days=5, window_days=40, horizon=60, seed=7)
NAMES = ("returns_1h", "realised_volatility_24h")
PLACE = "btc_assets_tests.learning.test_comparison:OWN"
FAMILIES = {"climatology": climatology.FAMILY, "persistence": persistence.FAMILY}
Tables = tuple[pl.DataFrame, pl.DataFrame, pl.DataFrame]

fits: list[int] = []
killed_at: list[int] = []


def fit_own(inputs: Inputs, up: Vector, weights: Vector, parameters: Parameters, fit: Fit) -> FittedOutput:
    """Fit the base rate, unless the process is to be killed at this fit."""
    fits.append(len(inputs))
    if len(fits) in killed_at:
        raise KeyboardInterrupt
    return climatology.fit_direction(inputs, up, weights, parameters, fit)


OWN = replace(climatology.FAMILY, name="own", fit_direction=fit_own, fit_quantiles=None)


@pytest.fixture(scope="module")
def tables() -> Tables:
    """Return features, labels and closes of eight weeks."""
    bars = random_walk_bars(24 * 56, start=START)
    features = compute_features(
        inputs_of(bars), [f for f in FEATURES if f.name in {*COLUMNS, *NAMES} and not f.streams]
    )
    labels = compute_labels(bars, START, START + timedelta(days=57))
    return features, labels, bars.select("open_time", "close")


def forecasts_by_hand(**skills: float) -> pl.DataFrame:
    """Return forecasts of 40 days by family; a skill is the weight of the coming return."""
    hours = 24 * 40
    rng = np.random.default_rng(3)
    log_return = rng.normal(0, 0.005, hours)
    times = pl.datetime_range(START, START + timedelta(hours=hours - 1), "1h", eager=True, time_unit="us")
    return pl.concat(
        pl.DataFrame(
            {
                "cutoff": [PERIOD.first] * hours,
                "horizon_minutes": 60,
                "family": name,
                "fold": 0,
                "open_time": times,
                "log_return": log_return,
                "scale": 0.005,
                "p_up": 1 / (1 + np.exp(-skill * np.sign(log_return) - rng.normal(0, 0.1, hours))),
                **dict.fromkeys(QUANTILE_NAMES, None if place else 0.0),
                "cpu_s": 1.0 + place,
                "memory_mb": None,
            },
            schema_overrides=dict.fromkeys((*QUANTILE_NAMES, "memory_mb"), pl.Float64),
        )
        for place, (name, skill) in enumerate(skills.items())
    )


@pytest.fixture(scope="module")
def by_hand() -> pl.DataFrame:
    return forecasts_by_hand(good=0.4, fair=0.2, none=0.0)


@pytest.fixture(scope="module")
def closes() -> pl.DataFrame:
    return random_walk_bars(24 * 41, start=START).select("open_time", "close")


@pytest.fixture(scope="module")
def compared(by_hand: pl.DataFrame, closes: pl.DataFrame) -> pl.DataFrame:
    return compare_families(by_hand, closes, cutoff=PERIOD.end, seed=7)


# --- the walk --------------------------------------------------------------------------------------
def test_a_killed_walk_resumes_with_the_same_result_and_repeats_no_fit(tables: Tables, tmp_path: Path) -> None:
    features, labels, closes = tables
    families = {**FAMILIES, PLACE: family(PLACE)}
    fits.clear()
    whole, _ = walk(families, features, labels, PERIOD, tmp_path / "whole", feature_set=NAMES)
    assert len(fits) == 3, "one fit at each cutoff"

    fits.clear()
    killed_at[:] = [2]
    with pytest.raises(KeyboardInterrupt):
        walk(families, features, labels, PERIOD, tmp_path / "killed", feature_set=NAMES)
    killed_at.clear()
    resumed, folder = walk(families, features, labels, PERIOD, tmp_path / "killed", feature_set=NAMES)
    assert len(fits) == 4, "the killed fit is repeated, the one before it is not"
    assert not [path for path in folder.iterdir() if path.suffix != ".parquet"]

    measured = ("cpu_s", "memory_mb")
    assert resumed.drop(measured).equals(whole.drop(measured))
    rows = [compare_families(one, closes, cutoff=PERIOD.end, seed=7) for one in (whole, resumed)]
    assert rows[0].equals(rows[1])
    assert FAMILY_COMPARISON.faults(rows[0]) == []
    assert PLACE in set(rows[0]["family"])


def test_every_family_forecasts_every_labelled_hour_of_the_period_after_its_training(
    tables: Tables, tmp_path: Path
) -> None:
    features, labels, _ = tables
    forecasts, _ = walk(FAMILIES, features, labels, PERIOD, tmp_path, feature_set=NAMES)
    last = datetime(2018, 2, 24, 22, tzinfo=UTC)  # the label of the next hour is known after the period
    expected = pl.datetime_range(datetime(2018, 2, 12, tzinfo=UTC), last, "1h", eager=True, time_unit="us")
    for part in forecasts.partition_by("family"):
        assert part["open_time"].to_list() == expected.to_list()
    assert (forecasts["trained_from"].dt.date() == forecasts["cutoff"] - timedelta(days=40)).all()


def test_data_after_the_period_changes_nothing(tables: Tables, tmp_path: Path) -> None:
    features, labels, _ = tables
    end = datetime(2018, 2, 25, tzinfo=UTC)
    later = pl.when(pl.col("available_at") > end).then(9.0).otherwise(pl.col("returns_1h"))
    poisoned = features.with_columns(later.alias("returns_1h"))
    flipped = labels.with_columns(log_return=pl.when(pl.col("known_at") > end).then(0.5).otherwise("log_return"))
    one, folder = walk(FAMILIES, features, labels, PERIOD, tmp_path, feature_set=NAMES)
    other, same = walk(FAMILIES, poisoned, flipped, PERIOD, tmp_path, feature_set=NAMES, again=True)
    assert folder == same
    assert one.drop("cpu_s", "memory_mb").equals(other.drop("cpu_s", "memory_mb"))


@pytest.mark.parametrize("change", [{"first": date(2018, 1, 20)}, {"last": date(2018, 3, 9)}])
def test_a_period_beyond_the_data_is_refused(tables: Tables, tmp_path: Path, change: dict[str, date]) -> None:
    features, labels, _ = tables
    with pytest.raises(ComparisonError, match="with 40 days before the first cutoff; the data has those from 2018"):
        walk(FAMILIES, features, labels, replace(PERIOD, **change), tmp_path, feature_set=NAMES)


def test_a_family_that_cannot_be_fitted_is_named(tables: Tables, tmp_path: Path) -> None:
    def fail(*_: object) -> FittedOutput:
        raise ArithmeticError("singular")

    features, labels, _ = tables
    broken = {"broken": replace(OWN, fit_direction=fail)}
    with pytest.raises(ComparisonError, match="the family broken cannot be fitted at the cutoff 2018-02-12: Arithm"):
        walk(broken, features, labels, PERIOD, tmp_path, feature_set=NAMES)


# --- the comparison --------------------------------------------------------------------------------
def test_every_family_is_compared_with_the_coin_and_with_every_other(compared: pl.DataFrame) -> None:
    pairs = set(compared.select("family", "against").rows())
    assert pairs == {
        *((name, COIN) for name in ("good", "fair", "none")),
        *(("good", "fair"), ("good", "none"), ("fair", "none")),
    }
    assert compared["families"].unique().to_list() == [3]
    assert FAMILY_COMPARISON.faults(compared) == []


def test_differences_are_tested_and_corrected_over_all_rows(compared: pl.DataFrame, by_hand: pl.DataFrame) -> None:
    assert compared["holm_p_value"].to_list() == pytest.approx(significance.holm(compared["dm_p_value"].to_list()))
    row = compared.row(by_predicate=(pl.col("family") == "good") & (pl.col("against") == "none"), named=True)
    assert row["difference"] < row["upper"] < 0
    assert row["holm_p_value"] < 0.001
    assert best_beats_coin(by_hand, seed=7) == pytest.approx(0, abs=0.01)


def test_the_confidence_set_holds_the_best_only(compared: pl.DataFrame) -> None:
    best = dict(compared.filter(pl.col("against") == COIN).select("family", "mcs_p_value").iter_rows())
    assert best["good"] == 1
    assert max(best["fair"], best["none"]) < 0.1


def test_skill_is_against_a_coin_and_within_its_interval(compared: pl.DataFrame) -> None:
    assert compared["skill"].to_list() == pytest.approx((1 - compared["log_loss"] / math.log(2)).to_list())
    assert (compared["skill_lower"] < compared["skill"]).all()
    assert (compared["skill"] < compared["skill_upper"]).all()
    assert compared.filter(pl.col("family") == "good")["skill_lower"].min() > 0.2


def test_pinball_is_null_without_quantiles_and_prices_have_an_unchanged_rival(compared: pl.DataFrame) -> None:
    pinball = dict(compared.select("family", "pinball").iter_rows())
    assert pinball["good"] > 0
    assert pinball["none"] is None
    good = compared.filter(pl.col("family") == "good").row(0, named=True)
    assert good["rmse_usd"] < good["rmse_usd_unchanged"]
    assert good["r2"] > good["r2_unchanged"]


def test_families_on_different_hours_are_refused(by_hand: pl.DataFrame, closes: pl.DataFrame) -> None:
    shorter = by_hand.filter((pl.col("family") != "good") | (pl.col("open_time") != START))
    with pytest.raises(ComparisonError, match="different hours"):
        compare_families(shorter, closes, cutoff=PERIOD.end, seed=7)


def test_an_hour_in_which_one_family_abstains_counts_for_none(by_hand: pl.DataFrame, closes: pl.DataFrame) -> None:
    abstains = (pl.col("family") == "good") & (pl.col("open_time") == START)
    some = by_hand.with_columns(pl.when(~abstains).then(pl.col("p_up")))
    assert compare_families(some, closes, cutoff=PERIOD.end, seed=7)["n"].unique().to_list() == [24 * 40 - 1]


def test_the_table_says_how_many_were_tried_and_why_r2_is_high(compared: pl.DataFrame, by_hand: pl.DataFrame) -> None:
    text = as_markdown(compared, costs(by_hand), 0.0)
    assert "3 families were compared, and each counts as a trial" in text
    assert "(SPA test), is < 0.001" in text
    assert "near one for anybody" in text
    assert [line.split(" | ")[0] for line in text.splitlines() if line.startswith("| ")][:5] == [
        *("| family", "| good", "| fair", "| none", "| unchanged price")
    ]


def test_memory_growth_is_what_the_block_adds() -> None:
    with memory_growth() as growth:
        held = np.ones(8_000_000)
    measured = growth()
    assert measured is None or 0.5 * held.nbytes < 1e6 * measured < 5 * held.nbytes
