"""Quantiles of the volatility benchmark use the outcomes that were known at the start of their day."""

from __future__ import annotations

from dataclasses import replace
from datetime import date, timedelta

import numpy as np
import polars as pl
import pytest

from benchmarks.volatility import SETS, VOLATILITIES, Hours, conformal, pinball
from btc_assets.clock import midnight
from btc_assets.evaluation import metrics
from btc_assets.vocabulary import HORIZONS, QUANTILES

FIRST = date(2024, 1, 1)
DAYS = 30
DAY = FIRST + timedelta(days=20)


@pytest.fixture(scope="module")
def hours() -> Hours:
    start = midnight(FIRST)
    times = pl.datetime_range(start, start + timedelta(days=DAYS), "1h", closed="left", time_unit="us", eager=True)
    returns = np.random.default_rng(1).normal(0, 0.01, (len(times), len(HORIZONS)))
    inputs = np.zeros((len(times), 1), dtype=np.float32)
    return Hours(pl.DataFrame({"open_time": times}), inputs, returns, pl.DataFrame())


def quantiles(hours: Hours, last: date) -> np.ndarray:
    n = len(hours.log_return)
    sigmas = np.full((n, len(HORIZONS), len(VOLATILITIES)), 0.01)
    boosted = np.broadcast_to(np.array([-2.0, -1, 0, 1, 2]), (n, len(HORIZONS), 2, len(QUANTILES)))
    return conformal(hours, sigmas, boosted, DAY, last)


def test_quantiles_of_a_day_use_outcomes_known_at_its_start(hours: Hours) -> None:
    before = quantiles(hours, DAY)
    for place, horizon in enumerate(HORIZONS):
        returns = hours.log_return.copy()
        returns[~hours.known_by(midnight(DAY), horizon), place] = 1.0
        assert np.array_equal(quantiles(replace(hours, log_return=returns), DAY), before, equal_nan=True)
        returns[hours.known_by(midnight(DAY), horizon), place] = 1.0
        changed = quantiles(replace(hours, log_return=returns), DAY)[20 * 24, place]
        assert (changed != before[20 * 24, place]).any(axis=1).all()


def test_every_set_is_made_conformal(hours: Hours) -> None:
    known = quantiles(hours, FIRST + timedelta(days=DAYS - 1))[20 * 24 :, 0]
    assert known.shape[1] == len(SETS)
    outcomes = hours.log_return[20 * 24 :, 0, None]
    covered = (known[:, :, 0] <= outcomes) & (outcomes <= known[:, :, -1])
    assert covered.mean(axis=0) == pytest.approx(np.full(len(SETS), 0.9), abs=0.07)


def test_the_pinball_loss_is_that_of_the_metrics(hours: Hours) -> None:
    outcome, forecast = hours.log_return[:, 0], np.tile([-0.02, -0.01, 0, 0.01, 0.02], (len(hours.log_return), 1))
    expected = metrics.pinball_loss(outcome, dict(zip(QUANTILES, forecast.T, strict=True))).value
    assert pinball(outcome, forecast).mean() == pytest.approx(expected)
