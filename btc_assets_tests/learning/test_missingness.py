"""What counts as lost and as gone, and what answers in its place."""

from __future__ import annotations

from datetime import date, timedelta

import numpy as np
import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from btc_assets.clock import midnight
from btc_assets.learning import missingness
from btc_assets.learning.folds import Rows
from btc_assets.learning.forecast_model import HorizonForecast
from btc_assets.learning.missingness import LOOK_BACK_DAYS, Profile, gone, hours_lost, missing_runs
from btc_assets.learning.tables import MODEL_EXPLANATION, TRAINING_PROFILE
from btc_assets.learning.training import SCALE_FEATURE
from btc_assets.vocabulary import HORIZONS

FIRST, CUTOFF = date(2018, 1, 1), date(2018, 3, 2)
HOURS = 24 * (CUTOFF - FIRST).days
FLOW, SLOW = "taker_imbalance_1h", "returns_168h"
"""An input that one hour of bars makes, and one that a hole in the bars leaves unknown for a week."""
NAMES = (FLOW, SLOW, SCALE_FEATURE)


def frame(hours: int = HOURS, **unknown: list[tuple[int, int]]) -> pl.DataFrame:
    """Return features of so many hours from FIRST on; each named input is unknown in its [first, last) stretches."""
    opens = pl.datetime_range(
        midnight(FIRST), interval="1h", end=midnight(FIRST) + timedelta(hours=hours - 1), eager=True
    )
    rng = np.random.default_rng(5)
    columns = {"open_time": opens.cast(pl.Datetime("us", "UTC"))}
    made = pl.DataFrame(columns).with_columns((pl.col("open_time") + timedelta(hours=1)).alias("available_at"))
    for name in NAMES:
        values = np.abs(rng.normal(0.01, 0.002, hours))
        for first, last in unknown.get(name, []):
            values[first:last] = np.nan
        made = made.with_columns(pl.Series(name, values).fill_nan(None))
    return made


def without(features: pl.DataFrame, first: int, last: int) -> pl.DataFrame:
    """Return the features with a hole: the hours [first, last) are not stored."""
    return pl.concat([features[:first], features[last:]])


def test_a_run_counts_the_hours_in_a_row_up_to_each_hour() -> None:
    runs = missing_runs(frame(10, **{FLOW: [(2, 3), (5, 8)]}), [FLOW])
    assert runs[:, 0].tolist() == [0, 0, 1, 0, 0, 1, 2, 3, 0, 0]


def test_a_hole_in_the_bars_neither_ends_a_run_nor_counts() -> None:
    runs = missing_runs(without(frame(12, **{FLOW: [(2, 9)]}), 4, 7), [FLOW])
    assert runs[:, 0].tolist() == [0, 0, 1, 2, 3, 4, 0, 0, 0]


@settings(deadline=None, max_examples=30)
@given(st.integers(1, HOURS), st.integers(0, 400), st.integers(1, 400))
def test_a_run_depends_on_the_days_it_looks_back_on_and_on_nothing_else(end: int, start: int, length: int) -> None:
    features = frame(**{FLOW: [(start, start + length)]})
    whole = missing_runs(features, NAMES)
    seen = features[max(0, end - 24 * LOOK_BACK_DAYS) : end]
    assert (missing_runs(seen, NAMES)[-1] == whole[end - 1]).all()


GONE = {
    "known to the end": ({}, ()),
    "unknown for a day": ({FLOW: [(HOURS - 24, HOURS)]}, ()),
    "unknown for longer than a day": ({FLOW: [(HOURS - 25, HOURS)]}, (FLOW,)),
    "back in the last hour": ({FLOW: [(HOURS - 200, HOURS - 1)]}, ()),
    "silent for as long before": ({FLOW: [(100, 150), (HOURS - 50, HOURS)]}, ()),
    "silent for longer than before": ({FLOW: [(100, 150), (HOURS - 51, HOURS)]}, (FLOW,)),
    "not gathered at first": ({FLOW: [(0, 800), (HOURS - 30, HOURS)]}, (FLOW,)),
}


@pytest.mark.parametrize(("unknown", "expected"), GONE.values(), ids=GONE)
def test_gone_is_what_stays_away_to_the_cutoff_for_longer_than_ever(
    unknown: dict[str, list[tuple[int, int]]], expected: tuple[str, ...]
) -> None:
    assert gone(frame(**unknown), NAMES, cutoff=CUTOFF, window_days=60) == expected


def test_what_a_hole_in_the_bars_leaves_unknown_is_not_gone() -> None:
    """A return over a week is unknown for the week after a hole; with as much of no hole it is gone."""
    features = frame(**{SLOW: [(HOURS - 100, HOURS)], FLOW: [(HOURS - 100, HOURS)]})
    holed = without(features, HOURS - 104, HOURS - 100)
    assert gone(features, NAMES, cutoff=CUTOFF, window_days=60) == (FLOW, SLOW)
    assert gone(holed, NAMES, cutoff=CUTOFF, window_days=60) == (FLOW,)


def test_hours_after_the_cutoff_and_before_the_window_say_nothing_of_what_is_gone() -> None:
    features = frame(**{FLOW: [(0, 100), (HOURS - 40, HOURS)]})
    asked = {"cutoff": CUTOFF, "window_days": 20}
    assert gone(features, NAMES, **asked) == (FLOW,), "the longer silence lies before the window"
    later = CUTOFF - timedelta(days=2)
    assert gone(features, NAMES, cutoff=later, window_days=20) == ()
    back = pl.concat([features[:-1], features[-1:].with_columns(pl.lit(0.1).alias(FLOW))])
    assert gone(back.reverse(), NAMES, cutoff=later, window_days=20) == ()


def rows(horizon: int) -> Rows:
    """Return labelled rows of the window, three rises in four."""
    features = frame()
    returns = np.where(np.arange(HOURS) % 4 == 0, -1.0, 1.0) * np.linspace(0.001, 0.02, HOURS)
    inputs = features.select(SCALE_FEATURE).to_numpy().astype(np.float32)
    return Rows(features["open_time"], inputs, returns, (SCALE_FEATURE,))


def explanation(**weight: float) -> pl.DataFrame:
    """Return MODEL_EXPLANATION rows with the same weights at every horizon."""
    lines = [
        {"cutoff": CUTOFF, "horizon_hours": h, "feature": name, "mean_abs_shap": value, "rank": i}
        for h in HORIZONS
        for i, (name, value) in enumerate(weight.items(), start=1)
    ]
    return pl.DataFrame(lines, schema=MODEL_EXPLANATION.columns)


def profile(unknown: dict[str, list[tuple[int, int]]] | None = None, **weight: float) -> pl.DataFrame:
    """Return TRAINING_PROFILE rows of the window."""
    weights = weight or {FLOW: 2.0, SLOW: 1.0, SCALE_FEATURE: 1.0}
    by_horizon = {horizon: rows(horizon) for horizon in HORIZONS}
    features = frame(**(unknown or {}))
    return missingness.profile_rows(features, by_horizon, explanation(**weights), NAMES, cutoff=CUTOFF, window_days=60)


def test_a_profile_keeps_its_contract_and_states_what_the_window_held() -> None:
    made = profile({FLOW: [(10, 15), (30, 33)], SLOW: [(0, 300), (400, 402)]})
    assert TRAINING_PROFILE.faults(made) == []
    primary = {row["feature"]: row for row in made.filter(pl.col("horizon_hours") == 1).iter_rows(named=True)}
    assert set(primary) == set(NAMES)
    assert primary[FLOW]["longest_missing_hours"] == 5
    assert primary[FLOW]["missing_share"] == pytest.approx(8 / HOURS)
    assert primary[FLOW]["weight"] == pytest.approx(0.5)
    assert primary[SLOW]["longest_missing_hours"] == 2, "before it was first known it was not missing"
    assert primary[FLOW]["median"] == frame(**{FLOW: [(10, 15), (30, 33)]})[FLOW].median()
    assert primary[FLOW]["base_rate"] == pytest.approx(0.75)


def test_the_quantiles_of_a_profile_are_in_units_of_each_hours_scale() -> None:
    made = profile().filter((pl.col("horizon_hours") == 4) & (pl.col("feature") == FLOW)).row(0, named=True)
    own = rows(4)
    scaled = own.log_return / (own.column(SCALE_FEATURE).astype(np.float64) * 2)
    assert made["q95"] == pytest.approx(np.quantile(scaled, 0.95), rel=1e-6)


def test_an_input_that_was_not_learnt_from_has_no_weight_and_is_named_as_gone() -> None:
    made = profile({FLOW: [(HOURS - 30, HOURS)]}, **{SLOW: 1.0, SCALE_FEATURE: 1.0})
    assert missingness.gone_inputs(made) == {FLOW}
    assert made.filter(pl.col("feature") == FLOW)["weight"].to_list() == [None] * len(HORIZONS)


def known_profile(unknown: dict[str, list[tuple[int, int]]] | None = None, **weight: float) -> Profile:
    """Return the profile of a model with every input."""
    found = Profile.of(profile(unknown, **weight), NAMES)
    assert found is not None
    return found


def test_what_was_always_known_is_lost_at_once_and_what_was_silent_only_after_longer() -> None:
    of = known_profile({SLOW: [(100, 105)]})
    lost = of.lost(frame(30, **{FLOW: [(20, 30)], SLOW: [(20, 30)]}))
    assert lost[:, 0].tolist() == [False] * 20 + [True] * 10
    assert lost[:, 1].tolist() == [False] * 25 + [True] * 5


def test_an_input_the_profile_does_not_know_is_never_lost() -> None:
    strange = Profile.of(profile().filter(pl.col("feature") != FLOW), NAMES)
    assert strange is not None
    assert not strange.lost(frame(30, **{FLOW: [(0, 30)]})).any()
    assert Profile.of(TRAINING_PROFILE.empty(), NAMES) is None


def test_a_lost_input_is_replaced_by_its_median_and_the_others_stay() -> None:
    of = known_profile()
    inputs = np.array([[np.nan, 0.3, 0.01], [np.nan, np.nan, 0.01]])
    filled = of.filled(inputs, np.array([[True, False, False], [False, True, False]]))
    assert filled[0].tolist() == [of.median[0], 0.3, 0.01]
    assert np.isnan(filled[1, 0]), "a value that is missing as in training stays missing to the model"
    assert filled[1, 1] == of.median[1]


@pytest.mark.parametrize(("weight", "falls_back"), [(0.49, False), (0.5, True)])
def test_the_base_rate_answers_once_half_of_the_model_is_lost(weight: float, falls_back: bool) -> None:
    of = known_profile(**{FLOW: weight, SLOW: 1 - weight, SCALE_FEATURE: 0.0})
    model = HorizonForecast(np.array([0.9, 0.9]), np.array([[-0.2, -0.1, 0.0, 0.1, 0.2]] * 2))
    inputs = np.array([[0.1, 0.1, 0.01], [0.1, 0.1, 0.02]])
    lost = np.array([[True, False, False], [False, False, False]])
    answer = of.answer(4, model, inputs, lost)
    assert answer.missing_weight.tolist() == pytest.approx([weight, 0.0])
    assert answer.fallback.tolist() == [falls_back, False]
    assert answer.forecast.p_up[1] == 0.9
    assert answer.forecast.quantiles[1].tolist() == model.quantiles[1].tolist()
    if falls_back:
        assert answer.forecast.p_up[0] == of.base_rate[4] == pytest.approx(0.75)
        assert answer.forecast.quantiles[0] == pytest.approx(of.quantiles[4] * 0.01 * 2)
    else:
        assert answer.forecast.p_up[0] == 0.9


def marked(hours: range, names: str) -> pl.DataFrame:
    """Return forecasts of which those of so many hours lack inputs."""
    opens = frame(400)["open_time"]
    lacking = pl.Series([i in hours for i in range(400)])
    return pl.DataFrame({"open_time": opens, "degraded": lacking}).with_columns(
        pl.when("degraded").then(pl.lit(names)).otherwise(pl.lit("")).alias("missing_inputs")
    )


def test_lost_hours_are_counted_input_by_input() -> None:
    assert hours_lost(marked(range(300, 330), f"{FLOW},{SLOW}"), frame(400)) == {SLOW: 30, FLOW: 30}
    assert hours_lost(marked(range(0), ""), frame(400)) == {}


def test_hours_that_a_hole_in_the_bars_explains_are_not_counted_as_lost() -> None:
    features = without(frame(400), 290, 295)
    counted = hours_lost(marked(range(295, 330), f"{FLOW},{SLOW}"), features)
    assert SLOW not in counted
    assert counted[FLOW] == 33
