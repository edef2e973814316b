"""Members are calibrated and weighed on their own out-of-fold forecasts."""

from __future__ import annotations

from datetime import UTC, date, datetime, timedelta

import numpy as np
import polars as pl
import pytest

from btc_assets.learning.calibration import Calibration, fit_size_slope
from btc_assets.learning.ensemble import (
    WEIGHTS,
    Ensemble,
    FoldRows,
    NoMemberError,
    ensemble_rows,
    ensembles_of,
    fit_ensemble,
    out_of_fold,
)
from btc_assets.learning.members import Member
from btc_assets.learning.tables import ENSEMBLE, FOLD_FORECASTS
from btc_assets.vocabulary import QUANTILE_NAMES

HOURS = 1200
NAMES = ("good", "poor")
RNG = np.random.default_rng(5)
EDGE = RNG.normal(size=HOURS)
UP = (RNG.random(HOURS) < 1 / (1 + np.exp(-EDGE))).astype(np.float64)
SCALE = np.linspace(0.01, 0.04, HOURS)
GOOD = 1 / (1 + np.exp(-EDGE))
POOR = 1 / (1 + np.exp(-RNG.normal(size=HOURS)))
P_UP = np.stack([GOOD, POOR])


def log_odds(p: np.ndarray) -> np.ndarray:
    return np.log(p / (1 - p))


def fit(weights: str, p_up: np.ndarray = P_UP, horizon: int = 60) -> Ensemble:
    return fit_ensemble(NAMES, p_up, UP, SCALE, weights=weights, horizon=horizon)


@pytest.mark.parametrize("weights", WEIGHTS)
def test_weights_are_never_negative_and_sum_to_one_with_the_coin(weights: str) -> None:
    ensemble = fit(weights)
    assert (ensemble.weights >= 0).all()
    assert ensemble.weights.sum(axis=1) + ensemble.coin == pytest.approx(1)


def test_equal_weights_are_the_mean_of_the_calibrated_log_odds() -> None:
    ensemble = fit("equal")
    expected = np.mean([log_odds(one(row)) for one, row in zip(ensemble.calibrations, P_UP, strict=True)], axis=0)
    assert log_odds(ensemble(P_UP, SCALE)) == pytest.approx(expected)
    assert ensemble.calibrations[1].slope < 0.3, "a member without skill is pulled to one half"


@pytest.mark.parametrize("weights", ["learnt", "regime"])
def test_the_better_member_has_the_larger_weight(weights: str) -> None:
    ensemble = fit(weights)
    assert (ensemble.weights[:, 0] > 1.2 * ensemble.weights[:, 1]).all()


def test_the_expert_that_was_right_in_the_last_week_leads() -> None:
    """The first is right until the last week, the second after it."""
    right, late = np.where(UP > 0, 0.7, 0.3), np.arange(HOURS) >= HOURS - 168
    ensemble = fit("experts", np.stack([np.where(late, 0.5, right), np.where(late, right, 0.5)]))
    assert ensemble.weights[0, 1] > 0.9


def test_learnt_weights_stay_equal_where_little_is_known() -> None:
    few = fit_ensemble(NAMES, P_UP[:, :24], UP[:24], SCALE[:24], weights="learnt", horizon=1440)
    assert few.weights == pytest.approx(np.full((1, 2), 0.5), abs=0.05)


def test_each_tercile_of_volatility_has_its_own_weights() -> None:
    """The first member knows the calm hours, the second the wild ones."""
    p_up = np.where(np.median(SCALE) > SCALE, np.stack([GOOD, POOR]), np.stack([POOR, GOOD]))
    ensemble = fit("regime", p_up)
    assert ensemble.weights.shape == (3, 2)
    assert ensemble.weights[0, 0] > 0.6
    assert ensemble.weights[2, 0] < 0.4


def test_experts_without_skill_lose_their_weight_to_the_coin() -> None:
    ensemble = fit_ensemble(NAMES, np.stack([POOR, 1 - GOOD]), UP, SCALE, weights="experts", horizon=60)
    assert ensemble.coin > 0.3


def test_a_member_that_abstains_leaves_its_weight_to_the_others() -> None:
    ensemble = Ensemble(NAMES, (Calibration(),) * 2, np.array([[0.7, 0.3]]))
    p_up = np.array([[0.9, np.nan, np.nan], [0.6, 0.6, np.nan]])
    assert ensemble(p_up, np.ones(3))[1:] == pytest.approx([0.6, 0.5])


@pytest.mark.parametrize("weights", WEIGHTS)
def test_hours_of_abstention_do_not_count(weights: str) -> None:
    silent = P_UP.copy()
    silent[0, ::3] = np.nan
    ensemble = fit(weights, silent)
    assert np.isfinite(ensemble.weights).all()
    assert np.isfinite(ensemble(silent, SCALE)).all()


@pytest.mark.parametrize(("true", "hours", "expected"), [(0.4, 20_000, 0.4), (0.4, 4, 1.0), (-0.4, 20_000, 0.0)])
def test_the_slope_of_the_size_is_fitted_shrunk_to_one_and_never_negative(
    true: float, hours: int, expected: float
) -> None:
    size = np.random.default_rng(1).normal(size=hours) * 0.1
    assert fit_size_slope(size, true * size) == pytest.approx(expected, abs=0.05)


# --- tables -----------------------------------------------------------------------------------------
CUTOFF = date(2020, 3, 1)
START = datetime(2020, 1, 5, tzinfo=UTC)


def forecasts(*, failed: tuple[str, ...] = (), absent: tuple[str, ...] = (), late_days: int = 0) -> pl.DataFrame:
    """Return FOLD_FORECASTS rows of two folds, by the members of NAMES and the head."""
    times = pl.datetime_range(START, START + timedelta(hours=HOURS - 1), "1h", eager=True, time_unit="us")
    window = datetime(2020, 3, 1, tzinfo=UTC) - timedelta(days=365)
    parts = []
    for name, p_up in (("good", GOOD), ("poor", POOR), ("intervals", None), ("size", None)):
        if name in absent:
            continue
        quantiles = dict.fromkeys(QUANTILE_NAMES)
        if name == "intervals":
            quantiles = {q: SCALE * (i - 2) for i, q in enumerate(QUANTILE_NAMES)}
        parts.append(
            pl.DataFrame(
                {
                    "cutoff": [CUTOFF] * HOURS,
                    "horizon_minutes": 60,
                    "member": name,
                    "fold": (np.arange(HOURS) >= HOURS // 2).astype(int),
                    "open_time": times,
                    "log_return": np.where(UP > 0, SCALE, -SCALE),
                    "scale": SCALE,
                    "p_up": None if name in failed else p_up,
                    **quantiles,
                    "size": EDGE if name == "size" else None,
                    "trained_from": window + timedelta(days=late_days),
                    "n_train": 5000,
                    "failure": "its library fails" if name in failed else None,
                }
            ).cast(FOLD_FORECASTS.columns)
        )
    return pl.concat(parts)


MEMBERS = [Member(name, "xgboost", "hourly", 365) for name in NAMES]


def rows_of(**changes: object) -> dict[str, dict[str, object]]:
    table = ensemble_rows(forecasts(**changes), MEMBERS, cutoff=CUTOFF, weights="learnt")  # type: ignore[arg-type]
    assert ENSEMBLE.faults(table) == []
    return {row["member"]: row for row in table.iter_rows(named=True)}


def test_the_states_of_members_say_what_became_of_them() -> None:
    assert {name: row["state"] for name, row in rows_of().items()} == {"good": "trained", "poor": "trained"}
    failed = rows_of(failed=("poor",))["poor"]
    assert (failed["state"], failed["reason"], failed["weight"]) == ("failed", "its library fails", 0.0)
    absent = rows_of(absent=("poor",))
    assert absent["poor"]["state"] == "absent"
    assert absent["good"]["weight"] == 1.0
    short = rows_of(late_days=100)["good"]
    assert (short["state"], short["reason"]) == (
        "short_window",
        "trained on 265 days: the history starts later than its window",
    )


def test_a_cutoff_without_a_member_fails_with_the_reasons() -> None:
    with pytest.raises(NoMemberError, match="its library fails"):
        rows_of(failed=NAMES)


@pytest.mark.parametrize("weights", WEIGHTS)
def test_the_stored_ensemble_is_the_fitted_one_to_the_bit(weights: str) -> None:
    made = forecasts()
    stored = ensembles_of(ensemble_rows(made, MEMBERS, cutoff=CUTOFF, weights=weights))[60]
    fitted = FoldRows.of(made, 60, NAMES).ensemble(weights, 60)
    assert stored(P_UP, SCALE).tobytes() == fitted(P_UP, SCALE).tobytes()


def test_no_fold_is_corrected_by_its_own_hours() -> None:
    made = forecasts()
    combined = out_of_fold(made, NAMES, weights="learnt")
    raw = Ensemble(NAMES, (Calibration(),) * 2, np.full((1, 2), 0.5))(P_UP, SCALE)
    oldest = combined["fold"].to_numpy() == 0
    assert combined["p_up"].to_numpy()[oldest] == pytest.approx(raw[oldest])
    newest = FoldRows.of(made, 60, NAMES).before(combined.filter(fold=1)["open_time"][0], 60)
    lesson = newest.ensemble("learnt", 60)
    assert newest.frame.height == HOURS // 2 - 1, "the last label of the older fold is not known yet"
    assert combined["p_up"].to_numpy()[~oldest] == pytest.approx(lesson(P_UP, SCALE)[~oldest])
