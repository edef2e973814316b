"""Lost and gone inputs, and the adjusted forecasts."""

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
from btc_assets.vocabulary import HORIZONS

FIRST, CUTOFF = date(2018, 1, 1), date(2018, 3, 2)
HOURS = 24 * (CUTOFF - FIRST).days
FLOW, SLOW = "taker_imbalance_1h", "returns_168h"
"""An input with a warm-up of an hour, and one that is missing for a week after a gap in the bars."""
SCALE_FEATURE = "realised_volatility_24h"
NAMES = (FLOW, SLOW, SCALE_FEATURE)


def frame(hours: int = HOURS, **unknown: list[tuple[int, int]]) -> pl.DataFrame:
    """Return features of consecutive hours from FIRST on; each named input is missing in its [first, last) ranges."""
    opens = pl.datetime_range(
        midnight(FIRST), interval="1h", end=midnight(FIRST) + timedelta(hours=hours - 1), eager=True
    )
    rng = np.random.default_rng(5)
    columns = {"open_time": opens.cast(pl.Datetime("us", "UTC"))}
    profile_frame = pl.DataFrame(columns).with_columns((pl.col("open_time") + timedelta(hours=1)).alias("available_at"))
    for name in NAMES:
        values = np.abs(rng.normal(0.01, 0.002, hours))
        for first, last in unknown.get(name, []):
            values[first:last] = np.nan
        profile_frame = profile_frame.with_columns(pl.Series(name, values).fill_nan(None))
    return profile_frame


def without(features: pl.DataFrame, first: int, last: int) -> pl.DataFrame:
    """Return the features without the hours [first, last)."""
    return pl.concat([features[:first], features[last:]])


def test_a_run_counts_the_missing_hours_up_to_each_hour() -> None:
    runs = missing_runs(frame(10, **{FLOW: [(2, 3), (5, 8)]}), [FLOW])
    assert runs[:, 0].tolist() == [0, 0, 1, 0, 0, 1, 2, 3, 0, 0]


def test_a_gap_in_the_bars_neither_ends_a_run_nor_counts() -> None:
    runs = missing_runs(without(frame(12, **{FLOW: [(2, 9)]}), 4, 7), [FLOW])
    assert runs[:, 0].tolist() == [0, 0, 1, 2, 3, 4, 0, 0, 0]


@settings(deadline=None, max_examples=30)
@given(st.integers(1, HOURS), st.integers(0, 400), st.integers(1, 400))
def test_a_run_depends_on_the_look_back_days_only(end: int, start: int, length: int) -> None:
    features = frame(**{FLOW: [(start, start + length)]})
    all_runs = missing_runs(features, NAMES)
    recent = features[max(0, end - 24 * LOOK_BACK_DAYS) : end]
    assert (missing_runs(recent, NAMES)[-1] == all_runs[end - 1]).all()


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
def test_an_input_missing_up_to_the_cutoff_for_longer_than_before_is_gone(
    unknown: dict[str, list[tuple[int, int]]], expected: tuple[str, ...]
) -> None:
    assert gone(frame(**unknown), NAMES, cutoff=CUTOFF, window_days=60) == expected


def test_an_input_missing_after_a_gap_in_the_bars_is_not_gone() -> None:
    """A weekly return is missing for a week after a gap; without a gap it is gone."""
    features = frame(**{SLOW: [(HOURS - 100, HOURS)], FLOW: [(HOURS - 100, HOURS)]})
    holed = without(features, HOURS - 104, HOURS - 100)
    assert gone(features, NAMES, cutoff=CUTOFF, window_days=60) == (FLOW, SLOW)
    assert gone(holed, NAMES, cutoff=CUTOFF, window_days=60) == (FLOW,)


def test_only_hours_of_the_window_determine_gone_inputs() -> None:
    features = frame(**{FLOW: [(0, 100), (HOURS - 40, HOURS)]})
    options = {"cutoff": CUTOFF, "window_days": 20}
    assert gone(features, NAMES, **options) == (FLOW,), "the longer run is before the window"
    later = CUTOFF - timedelta(days=2)
    assert gone(features, NAMES, cutoff=later, window_days=20) == ()
    back = pl.concat([features[:-1], features[-1:].with_columns(pl.lit(0.1).alias(FLOW))])
    assert gone(back.reverse(), NAMES, cutoff=later, window_days=20) == ()


def rows(horizon: int) -> Rows:
    """Return labelled rows of the window with three rises in four."""
    features = frame()
    returns = np.where(np.arange(HOURS) % 4 == 0, -1.0, 1.0) * np.linspace(0.001, 0.02, HOURS)
    inputs = features.select(SCALE_FEATURE).to_numpy().astype(np.float32)
    return Rows(features["open_time"], inputs, returns, (SCALE_FEATURE,))


def scale(some: Rows, horizon: int) -> np.ndarray:
    """Return the volatility of the last day over the horizon."""
    return some.column(SCALE_FEATURE).astype(np.float64) * np.sqrt(horizon / 60)


def explanation(**weight: float) -> pl.DataFrame:
    """Return MODEL_EXPLANATION rows with the same weights at every horizon."""
    lines = [
        {"cutoff": CUTOFF, "horizon_minutes": h, "feature": name, "mean_abs_shap": value, "rank": i}
        for h in HORIZONS
        for i, (name, value) in enumerate(weight.items(), start=1)
    ]
    return pl.DataFrame(lines, schema=MODEL_EXPLANATION.columns)


def profile(unknown: dict[str, list[tuple[int, int]]] | None = None, **weight: float) -> pl.DataFrame:
    """Return TRAINING_PROFILE rows of the window."""
    weights = weight or {FLOW: 2.0, SLOW: 1.0, SCALE_FEATURE: 1.0}
    by_horizon = {horizon: rows(horizon) for horizon in HORIZONS}
    features = frame(**(unknown or {}))
    return missingness.profile_rows(
        features, by_horizon, explanation(**weights), NAMES, scale, cutoff=CUTOFF, window_days=60
    )


def test_a_profile_satisfies_its_contract_and_describes_the_window() -> None:
    profile_frame = profile({FLOW: [(10, 15), (30, 33)], SLOW: [(0, 300), (400, 402)]})
    assert TRAINING_PROFILE.faults(profile_frame) == []
    primary = {
        row["feature"]: row for row in profile_frame.filter(pl.col("horizon_minutes") == 60).iter_rows(named=True)
    }
    assert set(primary) == set(NAMES)
    assert primary[FLOW]["longest_missing_hours"] == 5
    assert primary[FLOW]["missing_share"] == pytest.approx(8 / HOURS)
    assert primary[FLOW]["weight"] == pytest.approx(0.5)
    assert primary[SLOW]["longest_missing_hours"] == 2, "hours before the first known value do not count"
    assert primary[FLOW]["median"] == frame(**{FLOW: [(10, 15), (30, 33)]})[FLOW].median()
    assert primary[FLOW]["base_rate"] == pytest.approx(0.75)


def test_the_quantiles_of_a_profile_are_in_units_of_each_hours_scale() -> None:
    profile_frame = (
        profile().filter((pl.col("horizon_minutes") == 240) & (pl.col("feature") == FLOW)).row(0, named=True)
    )
    horizon_rows = rows(240)
    scaled = horizon_rows.log_return / (horizon_rows.column(SCALE_FEATURE).astype(np.float64) * 2)
    assert profile_frame["q95"] == pytest.approx(np.quantile(scaled, 0.95), rel=1e-6)


def test_an_input_not_used_in_training_has_no_weight_and_is_gone() -> None:
    profile_frame = profile({FLOW: [(HOURS - 30, HOURS)]}, **{SLOW: 1.0, SCALE_FEATURE: 1.0})
    assert missingness.gone_inputs(profile_frame) == {FLOW}
    assert profile_frame.filter(pl.col("feature") == FLOW)["weight"].to_list() == [None] * len(HORIZONS)


def known_profile(unknown: dict[str, list[tuple[int, int]]] | None = None, **weight: float) -> Profile:
    """Return the profile of a model with every input."""
    result = Profile.of(profile(unknown, **weight), NAMES)
    assert result is not None
    return result


def test_an_input_is_lost_after_a_longer_run_than_in_training() -> None:
    of = known_profile({SLOW: [(100, 105)]})
    lost = of.lost(frame(30, **{FLOW: [(20, 30)], SLOW: [(20, 30)]}))
    assert lost[:, 0].tolist() == [False] * 20 + [True] * 10
    assert lost[:, 1].tolist() == [False] * 25 + [True] * 5


def test_an_input_without_a_profile_is_never_lost() -> None:
    strange = Profile.of(profile().filter(pl.col("feature") != FLOW), NAMES)
    assert strange is not None
    assert not strange.lost(frame(30, **{FLOW: [(0, 30)]})).any()
    assert Profile.of(TRAINING_PROFILE.empty(), NAMES) is None


def test_only_lost_inputs_are_replaced_by_their_median() -> None:
    of = known_profile()
    inputs = np.array([[np.nan, 0.3, 0.01], [np.nan, np.nan, 0.01]])
    filled = of.fill(inputs, np.array([[True, False, False], [False, True, False]]))
    assert filled[0].tolist() == [of.median[0], 0.3, 0.01]
    assert np.isnan(filled[1, 0]), "a value missing as in training stays missing"
    assert filled[1, 1] == of.median[1]


@pytest.mark.parametrize(
    ("weight", "unfounded", "falls_back"), [(0.49, True, False), (0.5, True, True), (0.9, False, False)]
)
def test_the_base_rate_replaces_the_model_once_half_of_its_weight_is_lost_to_every_member(
    weight: float, unfounded: bool, falls_back: bool
) -> None:
    of = known_profile(**{FLOW: weight, SLOW: 1 - weight, SCALE_FEATURE: 0.0})
    model = HorizonForecast(
        np.array([0.9, 0.9]), np.array([[-0.2, -0.1, 0.0, 0.1, 0.2]] * 2), np.array([0.02, 0.04]), np.array([3.0, 3.0])
    )
    lost = np.array([[True, False, False], [False, False, False]])
    answer = of.adjust(240, model, lost, np.array([unfounded, False]))
    assert answer.missing_weight.tolist() == pytest.approx([weight, 0.0])
    assert answer.fallback.tolist() == [falls_back, False]
    assert answer.forecast.p_up[1] == 0.9
    assert answer.forecast.expected_return_bps.tolist() == [0.0 if falls_back else 3.0, 3.0]
    assert answer.forecast.quantiles[1].tolist() == model.quantiles[1].tolist()
    if falls_back:
        assert answer.forecast.p_up[0] == of.base_rate[240] == pytest.approx(0.75)
        assert answer.forecast.quantiles[0] == pytest.approx(of.quantiles[240] * 0.02)
    else:
        assert answer.forecast.p_up[0] == 0.9


def marked(hours: range, names: str) -> pl.DataFrame:
    """Return forecasts with missing inputs in the given hours."""
    opens = frame(400)["open_time"]
    lacking = pl.Series([i in hours for i in range(400)])
    return pl.DataFrame({"open_time": opens, "degraded": lacking}).with_columns(
        pl.when("degraded").then(pl.lit(names)).otherwise(pl.lit("")).alias("missing_inputs")
    )


def test_lost_hours_are_counted_per_input() -> None:
    assert hours_lost(marked(range(300, 330), f"{FLOW},{SLOW}"), frame(400)) == {SLOW: 30, FLOW: 30}
    assert hours_lost(marked(range(0), ""), frame(400)) == {}


def test_hours_explained_by_a_gap_in_the_bars_are_not_counted_as_lost() -> None:
    features = without(frame(400), 290, 295)
    counted = hours_lost(marked(range(295, 330), f"{FLOW},{SLOW}"), features)
    assert SLOW not in counted
    assert counted[FLOW] == 33
