"""The volatility model recovers a planted process, uses nothing that was not known, and is on the scale of returns."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any

import numpy as np
import polars as pl
import pytest

from btc_assets.features.catalog import FEATURES
from btc_assets.features.engine import compute_features
from btc_assets.features.inputs import inputs_of
from btc_assets.learning.folds import NotEnoughHistoryError, matrix
from btc_assets.learning.sigma import Sigma
from btc_assets.learning.tables import VOLATILITY_MODEL
from btc_assets.learning.volatility import (
    COLUMNS,
    document_of,
    fit_garch,
    fit_volatility,
    score_volatility,
    volatility_rows,
)

START = datetime(2024, 1, 1, tzinfo=UTC)
HOURS, TRAIN_HOURS = 5000, 4000
END = START + timedelta(hours=TRAIN_HOURS)
PERSISTENCE, MEAN = 0.8, -11.0
HORIZONS = (60, 240)
Tables = tuple[pl.DataFrame, pl.DataFrame]


def _bars() -> pl.DataFrame:
    """Return bars whose range gives twice the variance of their returns, an autoregression in logs."""
    rng = np.random.default_rng(5)
    log_variance = np.full(HOURS, MEAN)
    for hour in range(1, HOURS):
        log_variance[hour] = MEAN + PERSISTENCE * (log_variance[hour - 1] - MEAN) + rng.normal(0, 0.5)
    variance = np.exp(log_variance)
    close = 30_000 * np.exp((np.sqrt(variance) * rng.normal(size=HOURS)).cumsum())
    times = pl.datetime_range(START, START + timedelta(hours=HOURS - 1), "1h", time_unit="us", eager=True)
    return pl.DataFrame(
        {
            "open_time": times,
            "high": close * np.exp(np.sqrt(4 * np.log(2) * 2 * variance)),
            "low": close,
            "close": close,
        }
    )


@pytest.fixture(scope="module")
def tables() -> Tables:
    """Return features and labels of the planted process."""
    bars = _bars()
    names = [feature for feature in FEATURES if feature.name in COLUMNS and not feature.streams]
    closes = bars["close"].log()
    labels = [
        bars.select("open_time", horizon_minutes=pl.lit(60 * hours), log_return=closes.shift(-hours) - closes)
        for hours in (1, 4)
    ]
    return compute_features(inputs_of(bars), names), pl.concat(labels).drop_nulls()


@pytest.fixture(scope="module")
def document(tables: Tables) -> dict[str, Any]:
    return fit_volatility(*tables, end=END, horizons=HORIZONS)


def _volatility(document: dict[str, Any], features: pl.DataFrame) -> np.ndarray:
    sigma = Sigma(document)
    return sigma(matrix(features, sigma.inputs))


def test_a_planted_persistence_is_recovered(document: dict[str, Any]) -> None:
    coefficients = document["models"][0]["coefficients"]
    assert coefficients["log_variance_1h"][0] == pytest.approx(PERSISTENCE, abs=0.08)
    others = [abs(values[0]) for name, values in coefficients.items() if name.endswith("d_ago")]
    assert max(others) < 0.06


def test_returns_have_the_forecast_volatility_in_hours_not_trained_on(tables: Tables, document: dict[str, Any]) -> None:
    features, labels = tables
    later = features.filter(pl.col("open_time") >= END)
    for place, horizon in enumerate(HORIZONS):
        rows = later.join(labels.filter(pl.col("horizon_minutes") == horizon), on="open_time")
        scaled = rows["log_return"].to_numpy() / _volatility(document, rows)[:, place]
        assert np.mean(scaled**2) == pytest.approx(1, abs=0.2)


def test_the_future_changes_nothing(tables: Tables, document: dict[str, Any]) -> None:
    features, labels = tables
    closes_later = pl.col("open_time") > END - timedelta(hours=1)
    poisoned = features.with_columns(
        pl.when(closes_later).then(pl.col(name) * 3).otherwise(pl.col(name)).alias(name)
        for name in features.columns
        if "variance" in name
    )
    known_later = pl.col("open_time") + pl.duration(minutes=pl.col("horizon_minutes") + 60) > END
    other = labels.with_columns(pl.when(known_later).then(1.0).otherwise("log_return").alias("log_return"))
    assert fit_volatility(poisoned, other, end=END, horizons=HORIZONS) == document
    known = features.filter(~closes_later), labels.filter(~known_later)
    assert fit_volatility(*known, end=END, horizons=HORIZONS) == document


def test_a_model_whose_features_are_unknown_is_left_out(tables: Tables, document: dict[str, Any]) -> None:
    assert [model["name"] for model in document["models"]] == ["bars", "recent", "constant"]
    features, labels = tables
    with_quarters = features.with_columns(
        pl.col(name).alias(f"quarter_{name}") for name in features.columns if "log_variance" in name
    )
    models = fit_volatility(with_quarters, labels, end=END, horizons=HORIZONS)["models"]
    assert [model["name"] for model in models] == ["quarters", "bars", "recent", "constant"]
    same = models[0]["coefficients"]["quarter_log_variance_1h"]
    assert same == pytest.approx(document["models"][0]["coefficients"]["log_variance_1h"])


def test_too_few_labels_are_refused(tables: Tables) -> None:
    with pytest.raises(NotEnoughHistoryError, match="60 min horizon"):
        fit_volatility(*tables, end=START + timedelta(days=20), horizons=HORIZONS)


def test_garch_recovers_a_planted_process_and_never_looks_ahead() -> None:
    rng = np.random.default_rng(2)
    omega, alpha, beta = 1e-6, 0.1, 0.85
    returns, variance = np.empty(4000), 2e-5
    for hour in range(len(returns)):
        returns[hour] = np.sqrt(variance) * rng.normal()
        variance = omega + alpha * returns[hour] ** 2 + beta * variance
    garch = fit_garch(returns)
    assert garch.alpha == pytest.approx(alpha, abs=0.04)
    assert garch.alpha + garch.beta == pytest.approx(alpha + beta, abs=0.03)
    sigma = garch.sigma(returns, (30, 60, 120))
    assert np.array_equal(garch.sigma(returns[:500], (30, 60, 120)), sigma[:500])
    assert sigma[-1, 1] ** 2 == pytest.approx(variance, rel=0.2)
    two_hours = sigma[:, 1] ** 2 * (1 + garch.alpha + garch.beta) + garch.omega
    assert sigma[:, 2] ** 2 == pytest.approx(two_hours)
    assert sigma[:, 0] ** 2 == pytest.approx(sigma[:, 1] ** 2 / 2)


@pytest.fixture(scope="module")
def folds() -> pl.DataFrame:
    starts = [END, END + timedelta(hours=400)]
    return pl.DataFrame(
        [
            {"horizon_minutes": horizon, "test_start": start, "test_end": start + timedelta(hours=399)}
            for horizon in HORIZONS
            for start in starts
        ]
    )


@pytest.fixture(scope="module")
def scores(tables: Tables, folds: pl.DataFrame) -> pl.DataFrame:
    return score_volatility(*tables, folds)


def test_on_the_planted_process_the_model_is_better_than_its_baselines(scores: pl.DataFrame) -> None:
    assert scores["n"].to_list() == [800] * 6
    for _, part in scores.group_by("horizon_minutes"):
        by_forecaster = {row["forecaster"]: row for row in part.iter_rows(named=True)}
        for baseline in ("garch", "rolling"):
            assert by_forecaster["har"]["qlike"] < by_forecaster[baseline]["qlike"]
            assert by_forecaster["har"]["pinball"] < by_forecaster[baseline]["pinball"]
        assert by_forecaster["har"]["coverage_90"] == pytest.approx(0.9, abs=0.04)


def test_scores_use_nothing_after_the_last_test(tables: Tables, folds: pl.DataFrame, scores: pl.DataFrame) -> None:
    features, labels = tables
    last = folds["test_end"].max()
    earlier = features.filter(pl.col("open_time") <= last), labels.filter(pl.col("open_time") <= last)
    assert score_volatility(*earlier, folds).equals(scores)


def test_the_table_holds_the_model(tables: Tables, document: dict[str, Any], scores: pl.DataFrame) -> None:
    rows = volatility_rows(document, scores, END.date())
    assert VOLATILITY_MODEL.faults(rows) == []
    features = tables[0].tail(50)
    assert np.array_equal(_volatility(document_of(rows), features), _volatility(document, features))
