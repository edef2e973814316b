"""The evaluation of missing inputs uses the project's rules for marks, delays and forecasts."""

from __future__ import annotations

from datetime import date, timedelta

import numpy as np
import polars as pl
import pytest

from benchmarks import missing_inputs as trial
from btc_assets.clock import midnight
from btc_assets_tests.conftest import random_walk_bars

PLAN = trial.Plan(first=date(2018, 5, 7), stretches=1, days=21, chosen_first=date(2018, 4, 2), window_days=60)
START = midnight(PLAN.first) + timedelta(hours=30)
HISTORY = trial.History(random_walk_bars(150 * 24, start=midnight(date(2018, 1, 1))), PLAN)


@pytest.fixture(scope="module")
def outage() -> trial.Outage:
    """Run one outage of the columns that Coinbase does not publish, with retrained models."""
    return trial.outages(HISTORY, trial.KINDS[trial.RETRAINED], retrained=True)


def test_only_the_removed_columns_change_from_their_hour_on() -> None:
    dead = HISTORY.without(trial.KINDS[trial.RETRAINED], START)
    before = pl.col("open_time") < START
    assert dead.filter(before).equals(HISTORY.features.filter(before))
    late = dead.filter(~before)
    gone = {name for name in trial.NAMES if late[name].null_count() == late.height}
    there = {name for name in trial.NAMES if HISTORY.features[name].count()}
    assert len(gone & there) == 8
    assert late["returns_1h"].equals(HISTORY.features.filter(~before)["returns_1h"])


def test_an_outage_is_marked_immediately_and_requests_a_training_within_two_days(outage: trial.Outage) -> None:
    assert outage.marked_after == [0]
    assert 24 < outage.requested_after[0] <= 48
    assert outage.lost[0][0] == 8
    assert 0 < outage.left_out_after[0] <= 24 * 8


def test_every_forecaster_covers_the_same_hours(outage: trial.Outage) -> None:
    assert {len(np.concatenate(tally.losses)) for tally in outage.tallies.values()} == {len(outage.base[0])}
    assert np.array_equal(outage.tallies[trial.USUAL].losses[0], outage.base[0])
    nulls, served = (outage.tallies[way].losses[0] for way in (trial.AS_IT_WAS, trial.AS_SERVED))
    assert not np.array_equal(nulls, served)


def test_the_text_has_n_intervals_and_every_forecaster(outage: trial.Outage) -> None:
    text = "\n".join(trial._outage_text("a kind", outage, PLAN, PLAN.first))
    assert f"{len(outage.base[0]):,} hours" in text
    assert all(f"| {way} |" in text for way in outage.tallies)
    assert "nan" not in text
