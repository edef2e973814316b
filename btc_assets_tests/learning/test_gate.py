"""Any doubt keeps the champion."""

from __future__ import annotations

from datetime import UTC, date, datetime, timedelta

import numpy as np
import polars as pl
import pytest

from btc_assets.contracts import MODEL_VERDICT
from btc_assets.learning.families.gradient_boosting import BoostingParameters
from btc_assets.learning.folds import Rows, make_folds
from btc_assets.learning.gate import (
    Evidence,
    ModelChoice,
    Standing,
    candidate_evidence,
    champion_as_of,
    judge,
    standing,
    verdict_rows,
)
from btc_assets.learning.training import forecast_folds
from btc_assets_tests.learning.conftest import CUTOFF

HOURS = 24 * 28
CANDIDATE = ModelChoice(2, date(2018, 6, 11), "c" * 64)
CHAMPION = ModelChoice(1, date(2018, 6, 4), "a" * 64)


def evidence(
    edge: float, hours: int = HOURS, *, width: float = 1.645, shift: float = 0.0, newest: int = HOURS
) -> Evidence:
    """Return forecasts with an edge, in log-odds, over a coin; the newest of the judged hours."""
    rng = np.random.default_rng(1)
    signal = rng.choice([-1.0, 1.0], HOURS)
    up = rng.random(HOURS) < 1 / (1 + np.exp(-0.4 * signal))
    returns = np.where(up, 1, -1) * np.abs(rng.normal(0, 0.01, HOURS))
    quantiles = np.tile(0.01 * width * np.array([-1, -0.41, 0, 0.41, 1.0]), (HOURS, 1))
    start = datetime(2018, 5, 14, tzinfo=UTC)
    times = pl.datetime_range(start, start + timedelta(hours=HOURS - 1), "1h", eager=True, time_unit="us")
    p_up = np.clip(1 / (1 + np.exp(-edge * signal)) + shift, 0.01, 0.99)
    return Evidence(times[-hours:], p_up[-hours:], quantiles[-hours:], returns[-hours:])


def decide(candidate: Evidence, champion: Evidence | None, **changed: object) -> str:
    asked = {"parity_error": 1e-7, "causality_failures": [], "margin_nats": 0.0005, **changed}
    return judge(candidate, champion, **asked)[0]  # type: ignore[arg-type]


def test_the_first_valid_model_becomes_champion() -> None:
    assert decide(evidence(0.4), None) == "promoted"


def test_a_better_candidate_is_promoted() -> None:
    assert decide(evidence(0.4), evidence(0.0)) == "promoted"


def test_a_candidate_as_good_as_the_champion_does_not_replace_it() -> None:
    assert decide(evidence(0.4), evidence(0.4)) == "kept"


def test_a_gain_below_the_margin_is_not_enough() -> None:
    assert decide(evidence(0.4), evidence(0.0), margin_nats=0.1) == "kept"


def test_too_few_common_hours_keep_the_champion_however_good_the_candidate() -> None:
    assert decide(evidence(0.4), evidence(-3.0, hours=100)) == "kept"


def test_only_common_hours_are_compared() -> None:
    candidate, champion = evidence(0.4), evidence(0.0, hours=200)
    _, criteria = judge(candidate, champion, parity_error=0, causality_failures=[], margin_nats=0)
    gain = next(c.value for c in criteria if c.name == "log_loss_gain")
    assert gain == pytest.approx(champion.losses().mean() - candidate.losses()[-200:].mean())


@pytest.mark.parametrize("champion", [None, evidence(0.0)], ids=["no champion", "a champion"])
@pytest.mark.parametrize(
    ("candidate", "changed"),
    [
        (evidence(0.4), {"parity_error": 1e-3}),
        (evidence(0.4), {"causality_failures": ["prefix invariance"]}),
        (evidence(0.4, hours=50), {}),
        (evidence(0.4, width=0.3), {}),
        (evidence(0.4, width=9.0), {}),
        (evidence(0.4, shift=0.2), {}),
    ],
    ids=["parity", "causality", "hours", "too narrow", "too wide", "bias"],
)
def test_a_candidate_that_is_not_valid_is_refused(
    candidate: Evidence, changed: dict[str, object], champion: Evidence | None
) -> None:
    assert decide(candidate, champion, **changed) == "refused"


def verdict(cutoff: date, decision: str, candidate: ModelChoice, before: ModelChoice | None) -> pl.DataFrame:
    _, criteria = judge(evidence(0.4), None, parity_error=0, causality_failures=[], margin_nats=0)
    return verdict_rows(decision, criteria, cutoff=cutoff, candidate=candidate, before=before)


def test_a_verdict_keeps_its_contract_and_names_who_stands_after_it() -> None:
    for decision, before, stands in (
        ("promoted", CHAMPION, CANDIDATE),
        ("kept", CHAMPION, CHAMPION),
        ("refused", CHAMPION, CHAMPION),
        ("refused", None, None),
    ):
        rows = verdict(CANDIDATE.cutoff, decision, CANDIDATE, before)
        assert MODEL_VERDICT.faults(rows) == []
        assert set(rows["champion_version"]) == {stands.version if stands else None}


def test_a_replay_of_a_past_day_sees_the_champion_of_that_day() -> None:
    history = pl.concat(
        [
            verdict(CHAMPION.cutoff, "promoted", CHAMPION, None),
            verdict(CANDIDATE.cutoff, "promoted", CANDIDATE, CHAMPION),
        ]
    )
    assert champion_as_of(history, date(2018, 6, 3), window_days=30) is None
    assert champion_as_of(history, date(2018, 6, 10), window_days=30) == CHAMPION
    assert champion_as_of(history, CANDIDATE.cutoff, window_days=30) == CANDIDATE
    assert champion_as_of(history, date(2018, 8, 1), window_days=30) is None


def test_the_candidates_evidence_is_its_newest_fold_corrected_by_older_ones_only(rows: dict[int, Rows]) -> None:
    layout = make_folds({1: rows[1]}, cutoff=CUTOFF, window_days=120, n_folds=2, test_days=14)
    quick = {1: BoostingParameters(rounds=20, quantile_rounds=15)}
    forecasts = forecast_folds({1: rows[1]}, layout, quick, seed=1, threads=1)
    clean = candidate_evidence(forecasts, rows[1])
    assert clean.open_time.min() == layout["test_start"][-1]
    spoilt = forecasts.with_columns(
        log_return=pl.when(pl.col("fold") == 1).then(-pl.col("log_return")).otherwise("log_return")
    )
    other = candidate_evidence(spoilt, rows[1])
    assert other.p_up.tobytes() == clean.p_up.tobytes()
    assert other.quantiles.tobytes() == clean.quantiles.tobytes()


def test_aliases_follow_the_newest_verdict_and_nothing_else() -> None:
    later = ModelChoice(3, date(2018, 6, 18), "d" * 64)
    first = verdict(CHAMPION.cutoff, "promoted", CHAMPION, None)
    second = verdict(CANDIDATE.cutoff, "promoted", CANDIDATE, CHAMPION)
    kept = verdict(later.cutoff, "kept", later, CANDIDATE)
    refused = verdict(later.cutoff, "refused", later, CANDIDATE)
    assert standing(MODEL_VERDICT.empty()) == Standing(None, None, None)
    assert standing(first) == Standing(1, None, None)
    assert standing(pl.concat([second, first])) == Standing(2, 1, None)
    assert standing(pl.concat([kept, first, second])) == Standing(2, 1, 3)
    assert standing(pl.concat([first, second, refused])) == Standing(2, 1, None)


def test_the_older_folds_teach_only_what_was_known_when_the_judged_fold_began(rows: dict[int, Rows]) -> None:
    layout = make_folds({1: rows[1]}, cutoff=CUTOFF, window_days=120, n_folds=2, test_days=14)
    quick = {1: BoostingParameters(rounds=20, quantile_rounds=15)}
    forecasts = forecast_folds({1: rows[1]}, layout, quick, seed=1, threads=1)
    began = layout["test_start"][-1]
    spoilt = forecasts.with_columns(
        log_return=pl.when((pl.col("open_time") < began) & (pl.col("open_time") > began - timedelta(hours=2)))
        .then(-pl.col("log_return"))
        .otherwise("log_return")
    )
    assert not spoilt.equals(forecasts)
    clean, other = candidate_evidence(forecasts, rows[1]), candidate_evidence(spoilt, rows[1])
    assert clean.p_up.tobytes() == other.p_up.tobytes()
