"""A refresh is promoted unless it is shown to be worse; of another recipe any doubt keeps the champion."""

from __future__ import annotations

from datetime import UTC, date, datetime, timedelta
from pathlib import Path

import numpy as np
import polars as pl
import pytest

from btc_assets.champion.gate import (
    SEEDS,
    Criterion,
    Evidence,
    Verdict,
    candidate_evidence,
    champion_evidence,
    judge,
    shown_better,
    verdict_rows,
)
from btc_assets.champion.history import ModelChoice
from btc_assets.champion.tables import MODEL_VERDICT
from btc_assets.learning.folds import Rows, make_folds
from btc_assets.learning.forecast_model import ForecastModel, save_model
from btc_assets.learning.missingness import Profile
from btc_assets.learning.training import forecast_folds
from btc_assets.vocabulary import QUANTILE_NAMES
from btc_assets_tests.learning.conftest import CUTOFF, INTERVALS, MEMBERS, SCALE, SIZE
from btc_assets_tests.serving.builders import MEMBERS as MEMBER_INPUTS
from btc_assets_tests.serving.builders import document, member, tiny_graphs, write_model

HOURS = 24 * 28
CANDIDATE = ModelChoice(2, date(2018, 6, 11), "c" * 64)
CHAMPION = ModelChoice(1, date(2018, 6, 4), "a" * 64)


def evidence(
    edge: float, hours: int = HOURS, *, width: float = 1.645, shift: float = 0.0, seeds: tuple[float, ...] | None = None
) -> Evidence:
    """Return forecasts with an edge, in log-odds, over a coin; the newest of the judged hours.

    Every other seed has the same edge, unless `seeds` gives each of them its own.
    """
    rng = np.random.default_rng(1)
    signal = rng.choice([-1.0, 1.0], HOURS)
    up = rng.random(HOURS) < 1 / (1 + np.exp(-0.8 * signal))
    returns = np.where(up, 1, -1) * np.abs(rng.normal(0, 0.01, HOURS))
    quantiles = np.tile(0.01 * width * np.array([-1, -0.41, 0, 0.41, 1.0]), (HOURS, 1))
    start = datetime(2018, 5, 14, tzinfo=UTC)
    times = pl.datetime_range(start, start + timedelta(hours=HOURS - 1), "1h", eager=True, time_unit="us")
    fits = [
        np.clip(1 / (1 + np.exp(-one * signal)) + shift, 0.01, 0.99)[-hours:]
        for one in (edge, *((edge,) * (SEEDS - 1) if seeds is None else seeds))
    ]
    others = np.array(fits[1:]) if fits[1:] else np.empty((0, 0))
    return Evidence(times[-hours:], fits[0], quantiles[-hours:], returns[-hours:], others)


ASKED = {
    "parity_error": 1e-7,
    "causality_failures": [],
    "recipe_changes": ["max_depth 6 -> 5"],
    "margin_nats": 0.0005,
    "tolerance_nats": 0.0005,
    "significance": 0.05,
    "fee_bps": 5.0,
}
"""A changed recipe, unless a test says otherwise."""
REFRESH: dict[str, object] = {"recipe_changes": []}


def verdict_of(candidate: Evidence, champion: Evidence | None, **changed: object) -> Verdict:
    return judge(candidate, champion, **{**ASKED, **changed})  # type: ignore[arg-type]


def decide(candidate: Evidence, champion: Evidence | None, **changed: object) -> str:
    return verdict_of(candidate, champion, **changed).decision


def criteria_of(candidate: Evidence, champion: Evidence | None, **changed: object) -> dict[str, Criterion]:
    return {one.name: one for one in verdict_of(candidate, champion, **changed).criteria}


def test_the_first_valid_model_becomes_champion() -> None:
    assert decide(evidence(0.8), None) == "promoted"


def test_a_better_candidate_is_promoted() -> None:
    assert decide(evidence(0.8), evidence(0.0)) == "promoted"


def test_a_candidate_as_good_as_the_champion_does_not_replace_it() -> None:
    assert decide(evidence(0.8), evidence(0.8)) == "kept"


def test_a_gain_below_the_margin_is_not_enough() -> None:
    assert decide(evidence(0.8), evidence(0.0), margin_nats=0.1) == "kept"


def test_too_few_common_hours_keep_the_champion_however_good_the_candidate() -> None:
    assert decide(evidence(0.8), evidence(-3.0, hours=100)) == "kept"


def test_only_common_hours_are_compared() -> None:
    candidate, champion = evidence(0.8), evidence(0.0, hours=200)
    found = criteria_of(candidate, champion)
    assert found["common_hours"].value == 200
    assert found["log_loss"].value == pytest.approx(candidate.losses()[:, -200:].mean())
    assert found["log_loss"].champion_value == pytest.approx(champion.losses().mean())


def test_an_insignificant_gain_is_not_enough() -> None:
    """The gain exceeds the margin by far, on too few hours to be shown."""
    candidate, champion = evidence(0.6, hours=200), evidence(0.8, hours=200)
    found = criteria_of(candidate, champion)
    assert found["log_loss"].passed
    assert not found["better_p_value"].passed
    assert decide(candidate, champion) == "kept"
    assert decide(candidate, champion, significance=0.5) == "promoted"


def test_the_test_is_one_sided() -> None:
    better, worse = (criteria_of(*pair)["better_p_value"].value for pair in _both_ways(evidence(0.8), evidence(0.0)))
    assert better is not None
    assert worse is not None
    assert better + worse == pytest.approx(1)
    assert better < 0.001


def _both_ways(one: Evidence, other: Evidence) -> tuple[tuple[Evidence, Evidence], tuple[Evidence, Evidence]]:
    return (one, other), (other, one)


def test_a_lucky_seed_does_not_count() -> None:
    """The seed that would be served wins clearly; the others do not, and the average still does."""
    lucky = evidence(0.8, seeds=(0.1, 0.1, 0.0, 0.0))
    found = criteria_of(lucky, evidence(0.24))
    assert found["seed_wins"].value == 1
    assert decide(lucky, evidence(0.24), margin_nats=0.0, significance=0.5) == "kept"


def test_a_candidate_without_the_pairs_is_not_promoted() -> None:
    assert decide(evidence(0.8, seeds=()), evidence(0.0)) == "kept"


def test_a_champion_with_one_fit_is_compared_with_every_seed() -> None:
    found = criteria_of(evidence(0.8), evidence(0.0, seeds=()))
    assert found["seed_wins"].value == SEEDS


def test_other_inputs_need_to_be_allowed() -> None:
    changed = {"inputs_changed": ["sentiment_mean"]}
    assert decide(evidence(0.8), evidence(0.0), **changed) == "kept"
    assert "sentiment_mean" in criteria_of(evidence(0.8), evidence(0.0), **changed)["input_schema"].reason
    assert decide(evidence(0.8), evidence(0.0), **changed, new_inputs_allowed=True) == "promoted"


def test_a_candidate_that_trades_worse_beyond_doubt_is_not_promoted() -> None:
    """Better probabilities, but it turns its position every hour while the champion holds: costs eat it."""
    rng = np.random.default_rng(3)
    up = np.tile([True, False], HOURS // 2)
    returns = np.where(up, 1, -1) * np.abs(rng.normal(0, 1e-4, HOURS))
    steady = evidence(0.0)
    quantiles = np.tile(1e-4 * 1.645 * np.array([-1, -0.41, 0, 0.41, 1.0]), (HOURS, 1))
    times = steady.open_time
    busy = Evidence(times, np.where(up, 0.6, 0.4), quantiles, returns, np.tile(np.where(up, 0.6, 0.4), (SEEDS - 1, 1)))
    idle = Evidence(times, np.full(HOURS, 0.501), quantiles, returns)
    found = criteria_of(busy, idle, fee_bps=20.0)
    assert found["log_loss"].passed
    assert found["better_p_value"].passed
    assert not found["net_sharpe"].passed
    assert decide(busy, idle, fee_bps=20.0) == "kept"
    assert decide(busy, idle, fee_bps=0.0) == "promoted"


def test_a_single_seed_leaves_the_criterion_of_seeds_out() -> None:
    found = shown_better(
        evidence(0.8, seeds=()),
        evidence(0.0, seeds=()),
        seeds=1,
        min_hours=120,
        margin_nats=0.0,
        significance=0.05,
        fee_bps=5.0,
    )
    assert "seed_wins" not in {one.name for one in found}
    assert all(one.passed for one in found)


# --- a refresh -----------------------------------------------------------------------------------
def test_a_refresh_as_good_as_the_champion_replaces_it() -> None:
    verdict = verdict_of(evidence(0.8), evidence(0.8), **REFRESH)
    assert (verdict.decision, verdict.kind) == ("promoted", "refresh")


def test_a_refresh_that_is_shown_to_be_worse_does_not() -> None:
    found = criteria_of(evidence(0.0), evidence(0.8), **REFRESH)
    assert found["worse_p_value"].value is not None
    assert found["worse_p_value"].value < 0.001
    assert decide(evidence(0.0), evidence(0.8), **REFRESH) == "kept"


def test_a_refresh_may_be_worse_by_the_tolerance() -> None:
    assert decide(evidence(0.0), evidence(0.8), **REFRESH, tolerance_nats=0.1) == "promoted"


def test_a_refresh_that_is_not_significantly_worse_is_promoted() -> None:
    candidate, champion = evidence(0.8, hours=200), evidence(0.6, hours=200)
    assert candidate.losses().mean() > champion.losses().mean() + 0.0005
    assert decide(candidate, champion, **REFRESH) == "promoted"


def test_too_few_common_hours_show_nothing_against_a_refresh() -> None:
    assert decide(evidence(0.0), evidence(3.0, hours=100), **REFRESH) == "promoted"


def test_seeds_and_trading_do_not_decide_on_a_refresh() -> None:
    found = criteria_of(evidence(0.8, seeds=()), evidence(0.8), **REFRESH)
    assert "seed_wins" not in found
    assert found["net_sharpe"].passed


# --- bounds that the champion breaks too -----------------------------------------------------------
@pytest.mark.parametrize("changed", [{}, REFRESH], ids=["changed recipe", "refresh"])
@pytest.mark.parametrize(
    ("broken", "more", "criterion"),
    [
        ({"width": 1.1}, {"width": 0.9}, "coverage_90"),
        ({"width": 9.0}, {"width": 9.0}, "coverage_90"),
        ({"shift": 0.1}, {"shift": 0.15}, "calibration"),
    ],
    ids=["too narrow", "too wide", "bias"],
)
def test_a_bound_that_the_champion_breaks_as_much_keeps_no_better_model_out(
    broken: dict[str, float], more: dict[str, float], criterion: str, changed: dict[str, object]
) -> None:
    candidate, champion = evidence(0.8, **broken), evidence(0.0, **more)  # type: ignore[arg-type]
    row = criteria_of(candidate, champion, **changed)[criterion]
    assert row.passed
    assert "common hours" in row.reason
    assert row.champion_value is not None
    assert decide(candidate, champion, **changed) == "promoted"
    assert decide(candidate, evidence(0.0), **changed) == "refused", "a champion within its bounds shields nothing"


def test_a_bound_that_the_candidate_breaks_more_than_the_champion_still_counts() -> None:
    assert decide(evidence(0.8, width=0.9), evidence(0.0, width=1.1)) == "refused"


def test_too_few_hours_of_the_champion_excuse_no_broken_bound() -> None:
    assert decide(evidence(0.8, width=0.9), evidence(0.0, width=0.5, hours=100), **REFRESH) == "refused"


def test_a_broken_bound_is_excused_on_the_same_hours_only() -> None:
    """The champion misses by less on the common hours than the candidate does there."""
    champion, candidate = evidence(0.0, width=1.1, hours=200), evidence(0.8, width=1.1)
    assert criteria_of(candidate, champion)["coverage_90"].passed
    candidate.quantiles[-200:] *= 0.5
    assert not criteria_of(candidate, champion)["coverage_90"].passed


@pytest.mark.parametrize("champion", [None, evidence(0.0)], ids=["no champion", "a champion"])
@pytest.mark.parametrize(
    ("candidate", "changed"),
    [
        (evidence(0.8), {"parity_error": 1e-3}),
        (evidence(0.8), {"causality_failures": ["prefix invariance"]}),
        (evidence(0.8, hours=50), {}),
        (evidence(0.8, width=0.3), {}),
        (evidence(0.8, width=9.0), {}),
        (evidence(0.8, shift=0.2), {}),
    ],
    ids=["parity", "causality", "hours", "too narrow", "too wide", "bias"],
)
def test_a_candidate_that_is_not_valid_is_refused(
    candidate: Evidence, changed: dict[str, object], champion: Evidence | None
) -> None:
    assert decide(candidate, champion, **changed) == "refused"


def test_a_verdict_keeps_its_contract_and_names_the_champion() -> None:
    for served, changed, rival in ((evidence(0.0), {}, CHAMPION), (evidence(0.0), REFRESH, CHAMPION), (None, {}, None)):
        verdict = verdict_of(evidence(0.8), served, **changed)
        rows = verdict_rows(verdict, cutoff=CANDIDATE.cutoff, candidate=CANDIDATE, rival=rival)
        assert MODEL_VERDICT.faults(rows) == []
        assert set(rows["champion_version"]) == {rival.version if rival else None}
        assert set(rows["candidate_version"]) == {CANDIDATE.version}


def test_the_champion_is_judged_as_it_serves_with_lost_inputs_at_their_medians(tmp_path: Path) -> None:
    write_model(tmp_path / "model")
    model = ForecastModel.load(tmp_path / "model")
    rng = np.random.default_rng(2)
    start = datetime(2019, 6, 3, tzinfo=UTC)
    times = pl.datetime_range(start, start + timedelta(hours=199), "1h", eager=True, time_unit="us")
    whole = pl.DataFrame({"open_time": times, **{name: rng.normal(size=200) for name in model.features}})
    lost = whole.with_columns(returns_1h=pl.lit(None, pl.Float64))
    judged = Evidence(times[100:], np.full(100, 0.5), np.zeros((100, 5)), rng.normal(size=100))
    horizons = [60, 240, 1440]
    rows = pl.DataFrame(
        [
            {"horizon_minutes": h, "feature": name, "longest_missing_hours": 0, "median": 0.25, "weight": 0.2}
            | {"base_rate": 0.4}
            | dict.fromkeys(QUANTILE_NAMES, 0.0)
            for h in horizons
            for name in model.features
        ]
    )
    profile = Profile.of(rows, model.features)
    at_median = champion_evidence(model, whole.with_columns(returns_1h=0.25), judged)
    served = champion_evidence(model, lost, judged, profile=profile)
    assert served.p_up == pytest.approx(at_median.p_up)
    assert served.p_up != pytest.approx(champion_evidence(model, lost, judged).p_up)
    heavy = Profile.of(rows.with_columns(weight=pl.lit(0.6)), model.features)
    assert champion_evidence(model, lost, judged, profile=heavy).p_up == pytest.approx(served.p_up)
    save_model(
        tmp_path / "needy", document(members=[member(name, required=[0]) for name in MEMBER_INPUTS]), tiny_graphs()
    )
    needy = ForecastModel.load(tmp_path / "needy")
    assert champion_evidence(needy, lost, judged, profile=heavy).p_up == pytest.approx(0.4)


@pytest.fixture(scope="module")
def forecasts(rows: dict[int, Rows]) -> pl.DataFrame:
    """Return out-of-fold forecasts of two folds by two members."""
    layout = make_folds({60: rows[60]}, cutoff=CUTOFF, window_days=120, n_folds=2, test_days=14)
    scales = dict.fromkeys(layout["test_start"], SCALE)
    return forecast_folds(
        [*MEMBERS[:2], INTERVALS, SIZE], {60: rows[60]}, layout, scales, cutoff=CUTOFF, seed=1, threads=1
    )


def evidence_of(forecasts: pl.DataFrame) -> Evidence:
    return candidate_evidence(forecasts, ["long", "short"], weights="learnt")


def test_the_candidates_evidence_is_its_newest_fold_corrected_by_older_ones_only(forecasts: pl.DataFrame) -> None:
    clean = evidence_of(forecasts)
    assert clean.open_time.min() == forecasts.filter(fold=1)["open_time"].min()
    spoilt = forecasts.with_columns(
        log_return=pl.when(pl.col("fold") == 1).then(-pl.col("log_return")).otherwise("log_return")
    )
    other = evidence_of(spoilt)
    assert other.p_up.tobytes() == clean.p_up.tobytes()
    assert other.quantiles.tobytes() == clean.quantiles.tobytes()


def test_calibration_uses_only_labels_known_when_the_judged_fold_began(forecasts: pl.DataFrame) -> None:
    began = forecasts.filter(fold=1)["open_time"].min()
    spoilt = forecasts.with_columns(
        log_return=pl.when((pl.col("open_time") < began) & (pl.col("open_time") > began - timedelta(hours=2)))
        .then(-pl.col("log_return"))
        .otherwise("log_return")
    )
    assert not spoilt.equals(forecasts)
    assert evidence_of(forecasts).p_up.tobytes() == evidence_of(spoilt).p_up.tobytes()


def test_another_seed_changes_the_members_whose_fit_depends_on_it(forecasts: pl.DataFrame) -> None:
    served, judged = evidence_of(forecasts), forecasts.filter(fold=1, member="long")["p_up"].to_numpy()
    pair = candidate_evidence(
        forecasts, ["long", "short"], weights="learnt", other_seeds={"long": np.stack([judged, judged + 0.01])}, seeds=2
    )
    assert pair.other_seeds[0].tobytes() == served.p_up.tobytes()
    assert (pair.other_seeds[1] > served.p_up).all()
