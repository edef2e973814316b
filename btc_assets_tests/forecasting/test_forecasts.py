"""Who forecasts an hour, and what the forecast then is."""

from __future__ import annotations

from dataclasses import replace
from datetime import date, timedelta

import numpy as np
import polars as pl
import pytest

from btc_assets.clock import midnight
from btc_assets.forecasting.forecasts import ForecastError, choose_models, forecast_hours
from btc_assets.forecasting.tables import FORECASTS
from btc_assets.learning.forecast_model import Forecasts
from btc_assets.learning.missingness import LOOK_BACK_DAYS
from btc_assets.vocabulary import CHALLENGER, CHAMPION, HORIZONS, NEWEST
from btc_assets_tests.monitoring.conftest import (
    DAYS,
    FEATURE,
    NO_PROFILES,
    SCALE_FEATURE,
    LinearModel,
    Shelf,
    bars_of_the_history,
    features_of,
    history_rows,
    profile_rows,
    shelf,
    trained_rows,
)

WINDOW = 365
BARS = bars_of_the_history()
FEATURES = features_of(BARS)
HOURS = FEATURES["open_time"]
SHADOW = [history_rows(DAYS[7], 2, CHALLENGER), history_rows(DAYS[10], None, CHALLENGER)]
HISTORY = pl.concat([history_rows(DAYS[3], 1), *SHADOW])
TRAINED = pl.concat([trained_rows(DAYS[3], 1), trained_rows(DAYS[7], 2)])
CHOSEN = choose_models(HISTORY, TRAINED, HOURS, window_days=WINDOW)
IN_SHADOW = 3
"""Days the challenger is in shadow."""


def versions_of(chosen: pl.DataFrame) -> dict[tuple[str, date], list[int]]:
    """Return the versions chosen, by role and day."""
    found = chosen.group_by("role", pl.col("open_time").dt.date().alias("day")).agg(pl.col("model_version").unique())
    return {(row["role"], row["day"]): row["model_version"] for row in found.iter_rows(named=True)}


def test_there_is_no_champion_before_the_first_promotion() -> None:
    assert CHOSEN["open_time"].min() == midnight(DAYS[3])


def test_a_model_counts_from_its_own_first_hour_while_others_stay() -> None:
    by_day = versions_of(CHOSEN)
    assert by_day[CHAMPION, DAYS[3]] == by_day[NEWEST, DAYS[3]] == [1]
    assert (by_day[CHAMPION, DAYS[9]], by_day[NEWEST, DAYS[9]], by_day[CHALLENGER, DAYS[9]]) == ([1], [2], [2])
    assert (CHALLENGER, DAYS[6]) not in by_day
    assert (CHALLENGER, DAYS[10]) not in by_day


def test_a_champion_may_change_within_a_day() -> None:
    """A rollback at noon leaves the morning to the one who forecast it."""
    back = pl.concat([history_rows(DAYS[7], 2), history_rows(DAYS[8], 1, hour=12)])
    chosen = choose_models(pl.concat([HISTORY, back]), TRAINED, HOURS, window_days=WINDOW)
    noon = midnight(DAYS[8]) + timedelta(hours=12)
    own = chosen.filter(pl.col("role") == CHAMPION)
    assert set(own.filter(pl.col("open_time").is_between(midnight(DAYS[7]), noon, "left"))["model_version"]) == {2}
    assert set(own.filter(pl.col("open_time") >= noon)["model_version"]) == {1}


def test_later_changes_do_not_touch_earlier_hours() -> None:
    later = pl.concat([HISTORY, history_rows(DAYS[10], 2)])
    past = HOURS.filter(midnight(DAYS[10]) > HOURS)
    found = [choose_models(history, TRAINED, past, window_days=WINDOW) for history in (HISTORY, later)]
    assert found[0].equals(found[1])


def test_an_hour_forecast_separately_equals_the_hour_of_a_long_run() -> None:
    """A run over many days scans more trained models than one day's mapping shows; the window makes up for it."""
    short = choose_models(HISTORY, TRAINED, HOURS, window_days=1)
    assert (NEWEST, DAYS[5]) not in versions_of(short)
    assert versions_of(short)[NEWEST, DAYS[8]] == [2]
    assert versions_of(short)[CHAMPION, DAYS[11]] == [1], "a champion keeps its role at any age"


def test_forecasts_fulfil_their_contract_and_miss_no_hour() -> None:
    found = forecast_hours(FEATURES, BARS, CHOSEN, shelf(), NO_PROFILES)
    assert FORECASTS.faults(found) == []
    assert found.height == (9 + 9 + IN_SHADOW) * 24 * len(HORIZONS)
    assert found["open_time"].dt.date().min() == DAYS[3]


def test_each_role_gets_its_own_model() -> None:
    found = forecast_hours(FEATURES, BARS, CHOSEN, shelf(), NO_PROFILES)
    assert versions_of(found.unique(["open_time", "role"])) == versions_of(CHOSEN)


def test_forecasts_equal_the_models_and_the_close_equals_the_bars() -> None:
    found = forecast_hours(FEATURES, BARS, CHOSEN, shelf(), NO_PROFILES).filter(
        (pl.col("role") == NEWEST) & (pl.col("horizon_minutes") == 240) & (pl.col("model_version") == 2)
    )
    hours = FEATURES.join(found, on="open_time", how="semi")
    wanted = LinearModel(2, DAYS[7]).predict(hours.select(FEATURE, SCALE_FEATURE).to_numpy())[240]
    assert np.array_equal(found["p_up"].to_numpy(), wanted.p_up)
    assert np.array_equal(found.select("q05", "q25", "q50", "q75", "q95").to_numpy(), wanted.quantiles)
    assert found["close"].equals(BARS.join(found, on="open_time", how="semi")["close"])
    assert (found["target_time"] - found["made_at"]).unique().to_list() == [timedelta(hours=4)]


def test_replaying_a_day_gives_the_same_bits() -> None:
    whole = forecast_hours(FEATURES, BARS, CHOSEN, shelf(), NO_PROFILES)
    for day in DAYS[3:]:
        one = pl.col("open_time").dt.date() == day
        chosen = choose_models(HISTORY, TRAINED, FEATURES.filter(one)["open_time"], window_days=WINDOW)
        alone = forecast_hours(FEATURES.filter(one), BARS.filter(one), chosen, shelf(), NO_PROFILES)
        assert alone.equals(whole.filter(one))


def test_poisoning_later_hours_changes_no_forecast() -> None:
    late = pl.col("open_time") >= BARS["open_time"][200]
    poisoned = FEATURES.with_columns(pl.when(late).then(pl.lit(1e6)).otherwise(pl.col(FEATURE)).alias(FEATURE))
    before, after = (forecast_hours(rows, BARS, CHOSEN, shelf(), NO_PROFILES) for rows in (FEATURES, poisoned))
    assert before.filter(~late).equals(after.filter(~late))
    assert not before.equals(after)


def test_an_unknown_feature_is_missing_to_the_model_and_not_a_missing_forecast() -> None:
    blank = FEATURES.with_columns(pl.lit(None, pl.Float64).alias(FEATURE))
    found = forecast_hours(blank, BARS, CHOSEN, shelf(), NO_PROFILES)
    assert found.height == (9 + 9 + IN_SHADOW) * 24 * len(HORIZONS)
    assert found["p_up"].unique().to_list() == [0.5]


PROFILES = pl.concat([profile_rows(DAYS[3], median=0.01), profile_rows(DAYS[7], longest=3, median=0.02)])
OUTAGE = HOURS[9 * 24 + 5]
DURING = FEATURES.with_columns(pl.when(pl.col("open_time") < OUTAGE).then(pl.col(FEATURE)).alias(FEATURE))


def test_an_outage_is_marked_once_it_is_longer_than_a_model_saw() -> None:
    found = forecast_hours(DURING, BARS, CHOSEN, shelf(), PROFILES)
    assert FORECASTS.faults(found) == []
    first = found.filter("degraded").group_by("model_version").agg(pl.col("open_time").min()).sort("model_version")
    assert first["open_time"].to_list() == [OUTAGE, OUTAGE + timedelta(hours=3)]
    after = found.filter(pl.col("open_time") >= OUTAGE + timedelta(hours=3))
    assert after["degraded"].all()
    assert set(after["missing_inputs"]) == {FEATURE}
    assert set(after["missing_weight"]) == {0.2}
    assert not after["fallback"].any()


def test_a_lost_input_is_replaced_by_its_median_and_a_missing_one_is_not() -> None:
    found = forecast_hours(DURING, BARS, CHOSEN, shelf(), PROFILES).filter(pl.col("horizon_minutes") == 60)
    usual = {v: LinearModel(v, DAYS[3]).predict(np.array([[m, np.nan]]))[60].p_up[0] for v, m in ((1, 0.01), (2, 0.02))}
    lost = found.filter("degraded")
    assert lost["p_up"].to_list() == [usual[version] for version in lost["model_version"]]
    silent = found.filter((pl.col("open_time") >= OUTAGE) & ~pl.col("degraded"))
    assert silent["open_time"].n_unique() == 3
    assert set(silent["p_up"]) == {0.5}


def test_too_many_lost_inputs_fall_back_to_base_rate_and_volatility() -> None:
    heavy = pl.concat([profile_rows(day, weight=0.8) for day in (DAYS[3], DAYS[7])])
    wild = DURING.with_columns(pl.when(pl.col("open_time") == OUTAGE).then(0.04).alias(SCALE_FEATURE))
    found = forecast_hours(wild, BARS, CHOSEN, shelf(), heavy)
    during = found.filter(pl.col("open_time") >= OUTAGE)
    assert during["fallback"].all()
    assert set(during["p_up"]) == {0.6}
    row = during.filter((pl.col("open_time") == OUTAGE) & (pl.col("horizon_minutes") == 240)).row(0, named=True)
    assert [row[q] for q in ("q05", "q50", "q95")] == pytest.approx([-0.08, 0.0, 0.08])
    assert not found.filter(pl.col("open_time") < OUTAGE)["fallback"].any()


def test_complete_inputs_give_the_same_bits_as_without_a_profile() -> None:
    of_models = ["degraded", "missing_inputs", "missing_weight", "fallback"]
    bare, known = (forecast_hours(FEATURES[1:], BARS, CHOSEN, shelf(), made) for made in (NO_PROFILES, PROFILES))
    assert known.equals(bare)
    assert set(known.select(of_models).rows()) == {(False, "", 0.0, False)}


def test_later_hours_do_not_change_the_mark_of_an_hour() -> None:
    whole = forecast_hours(DURING, BARS, CHOSEN, shelf(), PROFILES)
    for hour in (OUTAGE - timedelta(hours=1), OUTAGE + timedelta(hours=2), OUTAGE + timedelta(hours=3)):
        known = pl.col("open_time") <= hour
        for later in (DURING.filter(known), pl.concat([DURING.filter(known), FEATURES.filter(~known)])):
            made = forecast_hours(later, BARS, CHOSEN, shelf(), PROFILES)
            assert made.filter(known).equals(whole.filter(known))


def test_the_days_before_a_day_suffice_for_its_marks() -> None:
    whole = forecast_hours(DURING, BARS, CHOSEN, shelf(), PROFILES)
    for day in DAYS[9:]:
        one = pl.col("open_time").dt.date() == day
        back = (pl.col("open_time").dt.date() <= day) & (
            pl.col("open_time").dt.date() >= day - timedelta(days=LOOK_BACK_DAYS)
        )
        alone = forecast_hours(DURING.filter(back).reverse(), BARS.filter(one), CHOSEN.filter(one), shelf(), PROFILES)
        assert alone.equals(whole.filter(one))


def test_an_hour_without_a_bar_has_no_forecast() -> None:
    gap = BARS["open_time"][150]
    found = forecast_hours(FEATURES, BARS.filter(pl.col("open_time") != gap), CHOSEN, shelf(), NO_PROFILES)
    assert gap not in found["open_time"]


def test_a_day_without_a_model_and_a_day_without_hours_are_empty() -> None:
    assert forecast_hours(FEATURES, BARS, CHOSEN.clear(), shelf(), NO_PROFILES).equals(FORECASTS.empty())
    assert forecast_hours(FEATURES.clear(), BARS, CHOSEN, shelf(), NO_PROFILES).equals(FORECASTS.empty())


def test_each_model_is_loaded_once() -> None:
    models = shelf()
    forecast_hours(FEATURES, BARS, CHOSEN, models, NO_PROFILES)
    assert sorted(models.loaded) == [1, 2]


def test_a_model_other_than_the_judged_one_is_refused() -> None:
    swapped = Shelf({1: LinearModel(1, DAYS[3], digest="f" * 64), 2: LinearModel(2, DAYS[7])})
    with pytest.raises(ForecastError, match="registry version 1 holds the model ffffffffffff"):
        forecast_hours(FEATURES, BARS, CHOSEN, swapped, NO_PROFILES)


def test_a_model_from_the_future_is_refused() -> None:
    early = CHOSEN.with_columns(pl.col("open_time").dt.offset_by("-1d"))
    with pytest.raises(ForecastError, match="would have seen the hours"):
        forecast_hours(FEATURES, BARS, early, shelf(), NO_PROFILES)


def test_a_feature_that_is_not_computed_is_named() -> None:
    strange = Shelf({1: LinearModel(1, DAYS[3], features=("moon_phase",)), 2: LinearModel(2, DAYS[7])})
    with pytest.raises(ForecastError, match="moon_phase"):
        forecast_hours(FEATURES, BARS, CHOSEN, strange, NO_PROFILES)


class Pair(LinearModel):
    """A model of two members: one requires the feature, the other nothing."""

    def predict(self, rows: np.ndarray, missing: np.ndarray | None = None) -> Forecasts:
        forecasts = super().predict(rows, missing)
        lacks = forecasts.unfounded
        return replace(
            forecasts, abstains=np.column_stack([lacks, np.zeros_like(lacks)]), unfounded=np.zeros_like(lacks)
        )


def test_members_that_abstained_are_named_and_one_that_stands_prevents_a_fallback() -> None:
    heavy = pl.concat([profile_rows(day, weight=0.8) for day in (DAYS[3], DAYS[7])])
    members = ("needy", "frugal")
    pairs = Shelf({1: Pair(1, DAYS[3], members=members), 2: Pair(2, DAYS[7], members=members)})
    found = forecast_hours(DURING, BARS, CHOSEN, pairs, heavy)
    during = found.filter(pl.col("open_time") >= OUTAGE)
    assert during["degraded"].all()
    assert set(during["abstained"]) == {"needy"}
    assert not during["fallback"].any()
    assert set(found.filter(pl.col("open_time").is_between(HOURS[3 * 24], OUTAGE, "left"))["abstained"]) == {""}
