"""The group study detects groups with a signal and does not detect noise."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from dataclasses import replace
from datetime import UTC, date, datetime, timedelta
from typing import Any

import numpy as np
import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from btc_assets.evaluation import significance
from btc_assets.evaluation.significance import Floats
from btc_assets.features.catalog import FEATURES
from btc_assets.learning import group_study
from btc_assets.learning.families.xgboost import FAMILY, XgboostParameters
from btc_assets.learning.folds import NotEnoughHistoryError, Rows, make_folds, split
from btc_assets.learning.group_study import (
    BASE_RATE,
    LEVEL,
    DifferentHoursError,
    Groups,
    SetForecasts,
    Study,
    as_markdown,
    compare,
    comparisons,
    feature_groups,
    plot,
    study_groups,
    verdict,
)
from btc_assets.learning.tables import FEATURE_GROUP_STUDY
from btc_assets.learning.training import row_weights, up

pytestmark = pytest.mark.slow

CUTOFF = date(2018, 6, 4)
DAYS, TEST_DAYS, MEMBERS = 60, 14, 3
SMALL = XgboostParameters(rounds=20, max_depth=2, eta=0.08, min_child_weight=10.0)
SEEDS = (1, 2, 3, 4, 5)


def grouped_rows(strengths: Mapping[str, float], *, seed: int) -> Rows:
    """Return hourly rows whose return depends on the first feature of each group with its strength."""
    rng = np.random.default_rng(seed)
    hours = DAYS * 24 - 1
    start = datetime(CUTOFF.year, CUTOFF.month, CUTOFF.day, tzinfo=UTC) - timedelta(days=DAYS)
    times = pl.datetime_range(start, start + timedelta(hours=hours - 1), "1h", eager=True, time_unit="us")
    inputs = rng.normal(size=(hours, MEMBERS * len(strengths)))
    signal = inputs[:, ::MEMBERS] @ np.array(list(strengths.values()))
    names = tuple(f"{group}_{member}" for group in strengths for member in range(MEMBERS))
    return Rows(times, inputs.astype(np.float32), 0.005 * (signal + rng.normal(size=hours)), names)


def groups_of(rows: Rows) -> dict[str, Groups]:
    """Return the features of `grouped_rows` by group."""
    found: dict[str, Groups] = {}
    for name in rows.names:
        group = name.rsplit("_", 1)[0]
        found[group] = (*found.get(group, ()), name)
    return found


def folds_of(rows: Rows, test_days: int = TEST_DAYS) -> pl.DataFrame:
    return make_folds({60: rows}, cutoff=CUTOFF, window_days=DAYS, n_folds=2, test_days=test_days)


def run_study(
    rows: Rows, groups: Mapping[str, Collection[str]] | None = None, *, threads: int = 2, seeds: Sequence[int] = SEEDS
) -> Study:
    return study_groups(FAMILY, rows, folds_of(rows), groups or groups_of(rows), SMALL, seeds=seeds, threads=threads)


def row_of(study: Study, groups: str, against: str) -> dict[str, Any]:
    return study.rows.row(by_predicate=(pl.col("groups") == groups) & (pl.col("against") == against), named=True)


@pytest.fixture(scope="module")
def three_groups() -> Study:
    """Return a study in which price and sentiment carry a signal and social does not."""
    return run_study(grouped_rows({"price": 0.5, "sentiment": 0.5, "social": 0.0}, seed=11))


# --- verdicts --------------------------------------------------------------------------------------
def test_groups_with_a_signal_help_and_noise_does_not(three_groups: Study) -> None:
    found = {(row["groups"], row["against"]): row["verdict"] for row in three_groups.rows.iter_rows(named=True)}
    whole = "price+sentiment+social"
    helps = {pair for pair, outcome in found.items() if outcome == "helps"}
    assert helps == {
        ("price", BASE_RATE),
        ("sentiment", BASE_RATE),
        ("price+sentiment", "price"),
        (whole, "price"),
        (whole, "price+social"),
        (whole, "sentiment+social"),
    }
    assert set(found) - helps == {("social", BASE_RATE), ("price+social", "price"), (whole, "price+sentiment")}


def test_the_false_positive_rate_of_noise_is_at_most_the_level() -> None:
    verdicts: Counter[tuple[str, str]] = Counter()
    repeats = 20
    for seed in range(repeats):
        rows = grouped_rows({"price": 0.2, "sentiment": 0.0}, seed=1_000 + seed)
        for row in run_study(rows).rows.iter_rows(named=True):
            verdicts[(row["groups"], row["verdict"])] += row["groups"] != "price" and row["against"] != "sentiment"
    false_positives = verdicts[("sentiment", "helps")] + verdicts[("price+sentiment", "helps")]
    assert false_positives <= LEVEL * repeats
    assert verdicts[("price+sentiment", "cannot tell")] >= 0.7 * repeats


def test_a_strong_signal_is_detected() -> None:
    repeats = 6
    results = [
        row_of(run_study(grouped_rows({"price": 0.0, "social": 0.6}, seed=2_000 + seed)), "price+social", "price")
        for seed in range(repeats)
    ]
    assert sum(row["verdict"] == "helps" for row in results) == repeats
    assert all(row["difference"] < 0 and row["upper"] < 0 and row["cohens_d"] < 0 for row in results)


@pytest.mark.parametrize(
    ("difference", "p_value", "expected"),
    [(-1e-3, 0.049, "helps"), (1e-3, 0.049, "hurts"), (-1e-3, 0.05, "cannot tell"), (-1e-3, None, "cannot tell")],
)
def test_a_verdict_needs_a_corrected_p_value_below_the_level(
    difference: float, p_value: float | None, expected: str
) -> None:
    assert verdict(difference, p_value) == expected


# --- the same for every set ------------------------------------------------------------------------
def test_every_set_is_evaluated_on_the_same_hours(three_groups: Study) -> None:
    layout = folds_of(grouped_rows({"price": 0.0}, seed=0))
    assert three_groups.rows["n"].unique().to_list() == [layout["n_test"].sum()]
    assert three_groups.rows["folds"].unique().to_list() == [2]
    assert three_groups.rows["seeds"].unique().to_list() == [len(SEEDS)]
    losses: dict[str, set[float]] = {}
    for row in three_groups.rows.iter_rows(named=True):
        losses.setdefault(row["groups"], set()).add(row["log_loss"])
        losses.setdefault(row["against"], set()).add(row["log_loss_against"])
    assert all(len(found) == 1 for found in losses.values())


def forecasts_of(rng: np.random.Generator, groups: Groups, hours: int = 120) -> SetForecasts:
    start = datetime(2018, 1, 1, tzinfo=UTC)
    return SetForecasts(
        groups=groups,
        fold=np.repeat([0, 1], hours // 2),
        open_time=pl.datetime_range(start, start + timedelta(hours=hours - 1), "1h", eager=True, time_unit="us"),
        log_return=np.sin(np.arange(hours, dtype=np.float64)),
        seeds=SEEDS,
        p_up=rng.uniform(0.3, 0.7, (len(SEEDS), hours)),
    )


@pytest.mark.parametrize(
    "bug",
    [
        lambda one: replace(one, open_time=one.open_time.dt.offset_by("1h")),
        lambda one: replace(one, log_return=-one.log_return),
        lambda one: replace(one, fold=1 - one.fold),
        lambda one: replace(one, seeds=(9, 2, 3, 4, 5)),
        lambda one: replace(
            one, fold=one.fold[1:], open_time=one.open_time[1:], log_return=one.log_return[1:], p_up=one.p_up[:, 1:]
        ),
    ],
    ids=["an hour later", "other outcomes", "other folds", "other seeds", "an hour fewer"],
)
def test_sets_evaluated_on_different_hours_are_not_compared(bug: Any) -> None:
    rng = np.random.default_rng(0)
    ours, theirs = forecasts_of(rng, ("price",)), forecasts_of(rng, ())
    compare(ours, theirs, horizon=60)
    with pytest.raises(DifferentHoursError, match="price was evaluated on"):
        compare(bug(ours), theirs, horizon=60)


def test_a_study_that_evaluates_a_set_on_different_hours_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    whole = group_study._set_forecasts

    def planted(chosen: Groups, sample: Any, parts: Sequence[Floats], seeds: Sequence[int]) -> SetForecasts:
        found = whole(chosen, sample, parts, seeds)
        if chosen != ("price", "social"):
            return found
        return replace(found, open_time=found.open_time.shift(1), p_up=np.roll(found.p_up, 1, axis=1))

    monkeypatch.setattr(group_study, "_set_forecasts", planted)
    with pytest.raises(DifferentHoursError, match="same hours"):
        run_study(grouped_rows({"price": 0.3, "social": 0.0}, seed=4))


def test_the_order_of_groups_and_the_number_of_threads_do_not_matter(three_groups: Study) -> None:
    rows = grouped_rows({"price": 0.5, "sentiment": 0.5, "social": 0.0}, seed=11)
    turned = {group: members[::-1] for group, members in reversed(groups_of(rows).items())}
    again = run_study(rows, turned, threads=1)
    assert again.rows.equals(three_groups.rows)
    assert again.notes == three_groups.notes


def test_noise_would_help_if_columns_were_removed_instead_of_null(
    three_groups: Study, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With more columns, each tree samples more of them, so that adding noise increases the share of the signal."""

    def narrow(sample: Any, chosen: Groups) -> Rows:
        columns = sorted(place for group in chosen for place in sample.columns[group])
        names = tuple(sample.rows.names[place] for place in columns)
        return replace(sample.rows, inputs=sample.rows.inputs[:, columns], names=names)

    pair = ("price+sentiment+social", "price+sentiment")
    assert row_of(three_groups, *pair)["verdict"] != "helps"
    monkeypatch.setattr(group_study, "_only", narrow)
    rows = grouped_rows({"price": 0.5, "sentiment": 0.5, "social": 0.0}, seed=11)
    assert row_of(run_study(rows), *pair)["verdict"] == "helps"


def test_every_seed_has_the_same_weight() -> None:
    rows = grouped_rows({"price": 0.3}, seed=5)
    some, others, both = (
        row_of(run_study(rows, seeds=seeds), "price", BASE_RATE)["log_loss"]
        for seeds in (range(5), range(5, 10), range(10))
    )
    assert some != others
    assert both == pytest.approx((some + others) / 2, abs=1e-12)


def test_a_study_satisfies_its_contract(three_groups: Study) -> None:
    assert FEATURE_GROUP_STUDY.faults(three_groups.rows) == []
    assert three_groups.rows["holm_p_value"].to_list() == significance.holm(three_groups.rows["dm_p_value"].to_list())
    assert [
        verdict(row["difference"], row["holm_p_value"]) for row in three_groups.rows.iter_rows(named=True)
    ] == three_groups.rows["verdict"].to_list()


def test_every_comparison_is_nested() -> None:
    pairs = comparisons(("social", "price", "sentiment"))
    assert all(set(theirs) < set(ours) for ours, theirs in pairs)
    assert len(set(pairs)) == len(pairs) == 9
    whole = ("price", "sentiment", "social")
    assert {theirs for ours, theirs in pairs if ours == whole} == {
        ("price",),
        ("price", "sentiment"),
        ("price", "social"),
        ("sentiment", "social"),
    }
    assert comparisons(("price",)) == [(("price",), ())]


# --- which hours and groups ------------------------------------------------------------------------
def test_a_group_without_data_is_left_out_with_a_note() -> None:
    rows = grouped_rows({"price": 0.3, "sentiment": 0.0}, seed=6)
    empty = np.full((len(rows), MEMBERS), np.nan, dtype=np.float32)
    social = tuple(f"social_{member}" for member in range(MEMBERS))
    wider = Rows(rows.open_time, np.hstack([rows.inputs, empty]), rows.log_return, (*rows.names, *social))
    study = run_study(wider)
    assert study.rows.equals(run_study(rows).rows)
    assert "social is left out: it has no values in the window." in study.notes


def test_hours_without_values_of_a_group_are_not_used_by_any_set() -> None:
    rows = grouped_rows({"price": 0.3, "sentiment": 0.0}, seed=7)
    unknown = np.zeros(len(rows), dtype=bool)
    unknown[:40] = True  # training hours
    unknown[-100:-40] = True  # test hours
    inputs = rows.inputs.copy()
    inputs[unknown, MEMBERS:] = np.nan
    holed = replace(rows, inputs=inputs)
    poisoned = replace(holed, log_return=np.where(unknown, -100 * rows.log_return, rows.log_return))
    ours, theirs = run_study(holed), run_study(poisoned)
    assert ours.rows.equals(theirs.rows)
    layout = folds_of(rows)
    assert ours.rows["n"].unique().to_list() == [layout["n_test"].sum() - 60]
    used = layout["n_train"].to_list()[-1] + layout["n_test"].to_list()[-1]
    # the two hours before each test are purged; the second fold is still trained on those of the first
    assert f"the same {used + 1 - 100:,} of {used + 1:,} labelled hours" in ours.notes[0]
    assert "price and sentiment all have values" in ours.notes[0]


def test_a_group_with_too_little_history_is_left_out_without_loss_of_hours() -> None:
    rows = grouped_rows({"price": 0.3, "social": 0.0}, seed=8)
    inputs = rows.inputs.copy()
    inputs[: 24 * 20, MEMBERS:] = np.nan
    study = run_study(replace(rows, inputs=inputs))
    assert study.rows["groups"].to_list() == ["price"]
    assert study.rows["n"].to_list() == [folds_of(rows)["n_test"].sum()]
    assert any(note.startswith("social is left out: fold 0 needs 720 training hours") for note in study.notes)


def test_a_feature_without_values_has_no_effect() -> None:
    rows = grouped_rows({"price": 0.3, "social": 0.0}, seed=9)
    inputs = np.hstack([rows.inputs, np.full((len(rows), 40), np.nan, dtype=np.float32)])
    more = tuple(f"price_{member}" for member in range(MEMBERS, MEMBERS + 40))
    assert run_study(Rows(rows.open_time, inputs, rows.log_return, (*rows.names, *more))).rows.equals(
        run_study(rows).rows
    )


def test_rows_after_a_test_are_not_used_in_training() -> None:
    rows = grouped_rows({"price": 0.3, "social": 0.0}, seed=10)
    first = folds_of(rows).head(1)
    later = (rows.open_time > first["test_end"][0]).to_numpy()
    poisoned = replace(
        rows,
        inputs=np.where(later[:, None], 1e6, rows.inputs).astype(np.float32),
        log_return=np.where(later, -rows.log_return, rows.log_return),
    )
    ours, theirs = (
        study_groups(FAMILY, one, first, groups_of(rows), SMALL, seeds=SEEDS, threads=2) for one in (rows, poisoned)
    )
    assert ours.rows.equals(theirs.rows)


def test_the_base_rate_is_the_weighted_share_of_rises_before(three_groups: Study) -> None:
    rows = grouped_rows({"price": 0.5, "sentiment": 0.5, "social": 0.0}, seed=11)
    losses: list[float] = []
    for fold in folds_of(rows).iter_rows(named=True):
        train, test = split(rows, fold)
        rate = float(np.average(up(train), weights=row_weights(train, 60, SMALL.half_life_days)))
        losses += [-math.log(rate if rose else 1 - rate) for rose in test.log_return > 0]
    stated = row_of(three_groups, "price", BASE_RATE)["log_loss_against"]
    assert stated == pytest.approx(sum(losses) / len(losses), abs=1e-12)


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        ({"seeds": (1, 2, 3, 4)}, "at least 5 different seeds"),
        ({"seeds": (1, 2, 3, 4, 4)}, "at least 5 different seeds"),
        ({"groups": {"price": ("price_0", "price_9")}}, "no feature price_9"),
        ({"groups": {"price": ("price_0",), "social": ("price_0",)}}, "price_0 is in two"),
    ],
)
def test_invalid_arguments_are_refused(change: dict[str, Any], sentence: str) -> None:
    with pytest.raises(ValueError, match=sentence):
        run_study(grouped_rows({"price": 0.0}, seed=0), **change)


def test_folds_of_two_cutoffs_or_none_are_refused() -> None:
    rows = grouped_rows({"price": 0.0}, seed=0)
    one = folds_of(rows)
    two = pl.concat([one, one.with_columns(pl.col("cutoff").dt.offset_by("7d"))])
    for folds in (two, one.clear()):
        with pytest.raises(ValueError, match="folds of one cutoff"):
            study_groups(FAMILY, rows, folds, groups_of(rows), SMALL, seeds=SEEDS, threads=1)


def test_the_error_of_a_study_without_usable_groups_has_a_remedy() -> None:
    rows = grouped_rows({"price": 0.0}, seed=0)
    unknown = replace(rows, inputs=np.full_like(rows.inputs, np.nan))
    with pytest.raises(NotEnoughHistoryError, match="it has no values in the window"):
        run_study(unknown)


# --- the tests against their oracles ---------------------------------------------------------------
@given(st.integers(0, 10_000), st.floats(-0.2, 0.2))
@settings(max_examples=30, deadline=None)
def test_the_interval_leaves_out_zero_where_diebold_mariano_rejects(seed: int, lean: float) -> None:
    rng = np.random.default_rng(seed)
    ours, theirs = forecasts_of(rng, ("price",)), forecasts_of(rng, ())
    tilted = np.clip(ours.p_up + lean * np.sign(ours.log_return), 0.01, 0.99)
    found = compare(replace(ours, p_up=tilted), theirs, horizon=60)
    assert (found["lower"] > 0 or found["upper"] < 0) == (found["dm_p_value"] < LEVEL)
    assert found["lower"] <= found["difference"] <= found["upper"]
    assert found["difference"] == pytest.approx(found["log_loss"] - found["log_loss_against"], abs=1e-12)


def test_the_paired_t_and_cohens_d_use_folds_and_seeds() -> None:
    from scipy.stats import ttest_1samp

    rng = np.random.default_rng(3)
    ours, theirs = forecasts_of(rng, ("price",)), forecasts_of(rng, ())
    means = [
        float((ours.losses - theirs.losses)[seed, ours.fold == fold].mean()) for fold in (0, 1) for seed in range(5)
    ]
    found = compare(ours, theirs, horizon=60)
    assert found["t_p_value"] == pytest.approx(ttest_1samp(means, 0).pvalue)
    assert found["cohens_d"] == pytest.approx(np.mean(means) / np.std(means, ddof=1))


# --- telling ---------------------------------------------------------------------------------------
def test_every_feature_built_from_bars_is_in_price() -> None:
    found = feature_groups([feature.name for feature in FEATURES])
    assert [name for members in found.values() for name in sorted(members)]
    assert {"returns_1h", "taker_imbalance_1h", "volatility_regime", "hour_of_day"} <= set(found["price"])
    assert set(found) == {"price", *({feature.group for feature in FEATURES} - set(group_study.GROUPS_OF_BARS))}
    assert sum(len(members) for members in found.values()) == len(FEATURES)


def test_an_unknown_feature_is_refused() -> None:
    with pytest.raises(ValueError, match="no feature 'returns_9h'"):
        feature_groups(["returns_9h"])


def test_the_table_has_every_comparison_and_its_verdict(three_groups: Study) -> None:
    lines = as_markdown(three_groups.rows).splitlines()
    assert len(lines) == 2 + three_groups.rows.height
    assert len({line.count("|") for line in lines}) == 1
    added = next(line for line in lines if "| price+sentiment | price |" in line)
    assert added.startswith("| sentiment |")
    assert added.endswith("| helps |")


def test_the_notes_give_the_verdict_of_each_group(three_groups: Study) -> None:
    text = "\n".join(three_groups.notes)
    assert "price, sentiment and social all have values" in text
    assert "seeds 1, 2, 3, 4 and 5 on 2 folds" in text
    assert "\nsentiment: helps (sentiment against base rate:" in text
    assert "\nsocial: cannot tell (" in text or "\nsocial: hurts (" in text


def test_the_plot_is_a_small_png(three_groups: Study) -> None:
    png = plot(three_groups.rows)
    assert png.startswith(b"\x89PNG")
    assert len(png) < 60_000
