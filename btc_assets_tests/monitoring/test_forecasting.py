"""Who forecasts an hour, and what the forecast then is."""

from __future__ import annotations

from datetime import timedelta

import numpy as np
import polars as pl
import pytest

from btc_assets.contracts import FORECASTS, HORIZONS, ROLES
from btc_assets.learning.gate import champion_as_of
from btc_assets.monitoring.forecasting import (
    CHAMPION,
    NEWEST,
    ForecastError,
    choose_models,
    forecast_hours,
    newest_as_of,
)
from btc_assets_tests.monitoring.conftest import (
    DAYS,
    FEATURE,
    LinearModel,
    Shelf,
    bars_of_the_history,
    choice,
    features_of,
    shelf,
    trained_rows,
    verdict_rows,
)

WINDOW = 365
BARS = bars_of_the_history()
FEATURES = features_of(BARS)
VERDICTS = pl.concat(
    [
        verdict_rows(DAYS[1], 9, None, champion_cutoff=None),
        verdict_rows(DAYS[3], 1, 1, champion_cutoff=DAYS[3]),
        verdict_rows(DAYS[7], 2, 1, champion_cutoff=DAYS[3]),
    ]
)
TRAINED = pl.concat([trained_rows(DAYS[3], 1), trained_rows(DAYS[7], 2)])
CHOSEN = choose_models(VERDICTS, TRAINED, DAYS, window_days=WINDOW)


def test_before_the_first_champion_nobody_stands() -> None:
    assert champion_as_of(VERDICTS, DAYS[0], window_days=WINDOW) is None
    assert champion_as_of(VERDICTS, DAYS[2], window_days=WINDOW) is None
    assert newest_as_of(TRAINED, DAYS[2], window_days=WINDOW) is None


def test_a_verdict_counts_from_its_own_cutoff_day() -> None:
    assert champion_as_of(VERDICTS, DAYS[3], window_days=WINDOW) == choice(1, DAYS[3])
    assert newest_as_of(TRAINED, DAYS[7], window_days=WINDOW) == choice(2, DAYS[7])


def test_a_kept_champion_goes_on_while_the_newest_moves() -> None:
    assert champion_as_of(VERDICTS, DAYS[9], window_days=WINDOW) == choice(1, DAYS[3])
    assert newest_as_of(TRAINED, DAYS[9], window_days=WINDOW) == choice(2, DAYS[7])


def test_later_verdicts_do_not_change_who_stood_on_an_earlier_day() -> None:
    later = pl.concat([VERDICTS, verdict_rows(DAYS[10], 2, 2, champion_cutoff=DAYS[7])])
    for day in DAYS[:10]:
        found = [champion_as_of(history, day, window_days=WINDOW) for history in (VERDICTS, later)]
        assert found[0] == found[1]


def test_a_day_is_the_same_alone_and_in_a_long_run() -> None:
    """A run over many days scans more history than one day's mapping shows; the window makes up for it."""
    assert champion_as_of(VERDICTS, DAYS[9], window_days=1) is None
    assert champion_as_of(VERDICTS, DAYS[8], window_days=1) == choice(1, DAYS[3])


def test_forecasts_fulfil_their_contract_and_miss_no_hour() -> None:
    found = forecast_hours(FEATURES, BARS, CHOSEN, shelf())
    assert FORECASTS.faults(found) == []
    assert found.height == 9 * 24 * len(HORIZONS) * len(ROLES)
    assert found["open_time"].dt.date().min() == DAYS[3]


def test_each_role_gets_its_own_model() -> None:
    found = forecast_hours(FEATURES, BARS, CHOSEN, shelf())
    versions = found.group_by("role", pl.col("open_time").dt.date().alias("day")).agg(pl.col("model_version").unique())
    by_day = {(row["role"], row["day"]): row["model_version"] for row in versions.iter_rows(named=True)}
    assert by_day[(CHAMPION, DAYS[6])] == by_day[(NEWEST, DAYS[6])] == [1]
    assert (by_day[(CHAMPION, DAYS[7])], by_day[(NEWEST, DAYS[7])]) == ([1], [2])


def test_the_numbers_are_the_models_and_the_close_is_the_bars() -> None:
    found = forecast_hours(FEATURES, BARS, CHOSEN, shelf()).filter(
        (pl.col("role") == NEWEST) & (pl.col("horizon_hours") == 4) & (pl.col("model_version") == 2)
    )
    hours = FEATURES.join(found, on="open_time", how="semi")
    wanted = LinearModel(2, DAYS[7]).predict(hours.select(FEATURE).to_numpy())[4]
    assert np.array_equal(found["p_up"].to_numpy(), wanted.p_up)
    assert np.array_equal(found.select("q05", "q25", "q50", "q75", "q95").to_numpy(), wanted.quantiles)
    assert found["close"].equals(BARS.join(found, on="open_time", how="semi")["close"])
    assert (found["target_time"] - found["made_at"]).unique().to_list() == [timedelta(hours=4)]


def test_replaying_a_day_gives_the_same_bits() -> None:
    whole = forecast_hours(FEATURES, BARS, CHOSEN, shelf())
    for day in DAYS[3:]:
        one = pl.col("open_time").dt.date() == day
        chosen = choose_models(VERDICTS, TRAINED, [day], window_days=WINDOW)
        alone = forecast_hours(FEATURES.filter(one), BARS.filter(one), chosen, shelf())
        assert alone.equals(whole.filter(one))


def test_poisoning_later_hours_changes_no_forecast() -> None:
    late = pl.col("open_time") >= BARS["open_time"][200]
    poisoned = FEATURES.with_columns(pl.when(late).then(pl.lit(1e6)).otherwise(pl.col(FEATURE)).alias(FEATURE))
    before, after = (forecast_hours(rows, BARS, CHOSEN, shelf()) for rows in (FEATURES, poisoned))
    assert before.filter(~late).equals(after.filter(~late))
    assert not before.equals(after)


def test_an_unknown_feature_is_missing_to_the_model_and_not_a_missing_forecast() -> None:
    blank = FEATURES.with_columns(pl.lit(None, pl.Float64).alias(FEATURE))
    found = forecast_hours(blank, BARS, CHOSEN, shelf())
    assert found.height == 9 * 24 * len(HORIZONS) * len(ROLES)
    assert found["p_up"].unique().to_list() == [0.5]


def test_an_hour_without_a_bar_has_no_forecast() -> None:
    gap = BARS["open_time"][150]
    found = forecast_hours(FEATURES, BARS.filter(pl.col("open_time") != gap), CHOSEN, shelf())
    assert gap not in found["open_time"]


def test_a_day_without_a_model_and_a_day_without_hours_are_empty() -> None:
    assert forecast_hours(FEATURES, BARS, {role: {} for role in ROLES}, shelf()).equals(FORECASTS.empty())
    assert forecast_hours(FEATURES.clear(), BARS, CHOSEN, shelf()).equals(FORECASTS.empty())


def test_each_model_is_loaded_once() -> None:
    models = shelf()
    forecast_hours(FEATURES, BARS, CHOSEN, models)
    assert sorted(models.loaded) == [1, 2]


def test_a_model_that_is_not_the_one_judged_is_refused() -> None:
    swapped = Shelf({1: LinearModel(1, DAYS[3], digest="f" * 64), 2: LinearModel(2, DAYS[7])})
    with pytest.raises(ForecastError, match="registry version 1 holds the model ffffffffffff"):
        forecast_hours(FEATURES, BARS, CHOSEN, swapped)


def test_a_model_from_the_future_is_refused() -> None:
    with pytest.raises(ForecastError, match="would have seen the hours"):
        forecast_hours(FEATURES, BARS, {CHAMPION: {DAYS[2]: choice(1, DAYS[3])}}, shelf())


def test_a_feature_that_is_not_computed_is_named() -> None:
    strange = Shelf({1: LinearModel(1, DAYS[3], features=("moon_phase",)), 2: LinearModel(2, DAYS[7])})
    with pytest.raises(ForecastError, match="moon_phase"):
        forecast_hours(FEATURES, BARS, CHOSEN, strange)
